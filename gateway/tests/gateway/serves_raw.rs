//! Tests bare clients: each message is published, and each publication is sent as a message.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::client::Socket;
use crate::gateway::{Gateway, eventually, gateway};
use crate::redis_server::RedisServer;

/// Bare clients are not told when they are subscribed.
async fn subscribed(gateway: &Gateway, count: u32) {
    gateway.metric_becomes("tidegate_subscriptions", f64::from(count)).await;
}

#[tokio::test]
async fn text_and_bytes_pass_as_they_are() {
    let gateway = gateway().start().await;
    let (mut one, mut other) = (gateway.raw("chat").await, gateway.raw("chat").await);
    subscribed(&gateway, 2).await;
    let messages = [
        Message::text("plain text, \"quoted\"\nand broken"),
        Message::text("{\"json\":  true}"),
        Message::text(""),
        Message::binary(vec![0, 159, 146, 150, 255]),
        Message::binary(Vec::new()),
    ];
    for message in &messages {
        one.send(message.clone()).await;
    }
    for client in [&mut one, &mut other] {
        for message in &messages {
            assert_eq!(&client.data().await, message);
        }
    }
}

#[tokio::test]
async fn both_protocols_hear_each_other() {
    let gateway = gateway().start().await;
    let mut bare = gateway.raw("stream:chat").await;
    let mut client = gateway.connect().await;
    client.subscribe("stream:chat").await;
    subscribed(&gateway, 2).await;
    bare.send("{\"from\":\"bare\"}").await;
    assert_eq!(client.publication().await.data, json!({ "from": "bare" }));
    assert_eq!(bare.text().await, "{\"from\":\"bare\"}");
    client.publish("stream:chat", json!({ "from": "client" })).await;
    assert_eq!(bare.text().await, "{\"from\":\"client\"}");
}

#[tokio::test]
async fn a_token_comes_in_a_header_or_as_a_subprotocol() {
    let gateway = gateway().with("auth.allow_anonymous", false).start().await;
    let token = gateway.token("ann");
    let path = "/raw/stream:room";
    let _by_header = gateway.open(path, &[("authorization", &format!("Bearer {token}"))]).await;
    let offer = format!("tidegate.raw, tidegate.token.{token}");
    let _by_subprotocol = gateway.open(path, &[("sec-websocket-protocol", &offer)]).await;
    eventually("ann is there twice", async || {
        let stats = gateway.api("presence_stats", json!({ "channel": "stream:room" })).await;
        stats["num_clients"] == 2 && stats["num_users"] == 1
    })
    .await;
    let mut stranger = gateway.raw("stream:room").await;
    assert!(stranger.closed().await.0 >= 3500, "it is told not to come back");
}

#[tokio::test]
async fn a_position_in_the_address_brings_what_was_missed() {
    let gateway = gateway().start().await;
    for number in 1..=4 {
        gateway.publish("stream:s", json!(number)).await;
    }
    let epoch = gateway.api("history", json!({ "channel": "stream:s", "limit": 0 })).await["epoch"].clone();
    let epoch = epoch.as_str().expect("an epoch");
    let mut client = gateway.raw(&format!("stream:s?offset=2&epoch={epoch}")).await;
    assert_eq!((client.text().await, client.text().await), ("3".to_owned(), "4".to_owned()));
    gateway.publish("stream:s", json!(5)).await;
    assert_eq!(client.text().await, "5");

    let mut late = gateway.raw("stream:s?offset=2&epoch=another").await;
    assert_eq!(late.closed().await.0, 3010, "a gap is told");
    let refused = gateway.try_open("/raw/stream:s?offset=two", &[]).await;
    assert!(refused.expect_err("no number").to_string().contains("400"));
}

#[tokio::test]
async fn fragments_with_pings_between_them_are_one_message() {
    let gateway = gateway().start().await;
    let mut client = gateway.raw("chat").await;
    subscribed(&gateway, 1).await;
    send_in_parts(&mut client, &["one ", "two ", "three"]).await;
    let mut pongs = 0;
    loop {
        match client.next().await.expect("a message") {
            Message::Pong(_) => pongs += 1,
            message => break assert_eq!(message, Message::text("one two three")),
        }
    }
    assert_eq!(pongs, 2);
}

async fn send_in_parts(client: &mut Socket, parts: &[&str]) {
    for (at, part) in parts.iter().enumerate() {
        let opcode = if at == 0 { Data::Text } else { Data::Continue };
        let last = at + 1 == parts.len();
        client.send(Message::Frame(Frame::message((*part).to_owned(), OpCode::Data(opcode), last))).await;
        if !last {
            client.send(Message::Ping("between".into())).await;
        }
    }
}

#[tokio::test]
async fn messages_up_to_the_limit_pass_whole() {
    let gateway = gateway().start().await;
    let mut client = gateway.raw("chat").await;
    subscribed(&gateway, 1).await;
    for length in [1, 125, 126, 127, 65_534, 65_535, 65_536] {
        client.send("x".repeat(length)).await;
        assert_eq!(client.text().await.len(), length);
    }
}

#[tokio::test]
async fn a_channel_in_the_path_is_percent_decoded_and_checked() {
    let gateway = gateway().start().await;
    let mut client = gateway.raw("stream%3Achat").await;
    subscribed(&gateway, 1).await;
    gateway.publish("stream:chat", json!("decoded")).await;
    assert_eq!(client.text().await, "\"decoded\"");
    let mut nameless = gateway.raw("").await;
    assert_eq!(nameless.closed().await.0, 3501);
    let mut unknown = gateway.raw("nowhere:chat").await;
    assert!(unknown.closed().await.0 >= 3500);
}

#[tokio::test]
async fn a_client_that_reads_recovers_more_than_its_outbox_holds() {
    let gateway = gateway().with("websocket.outbox_bytes_max", 4096).start().await;
    gateway.publish("stream:s", json!(0)).await;
    let top = gateway.api("history", json!({ "channel": "stream:s", "limit": 0 })).await;
    let epoch = top["epoch"].as_str().expect("an epoch");
    let payload = |number: usize| format!("{number}:{}", "x".repeat(1000));
    for number in 1..=40 {
        gateway.publish("stream:s", json!(payload(number))).await;
    }
    let mut client = gateway.raw(&format!("stream:s?offset=1&epoch={epoch}")).await;
    for number in 1..=40 {
        assert_eq!(client.text().await, json!(payload(number)).to_string());
    }
}

#[tokio::test]
async fn names_of_any_letters_pass_where_that_is_set() {
    let redis = RedisServer::start();
    let gateway = gateway().over(&redis.url()).with("session.channel_unicode", true).start().await;
    let name = "stream:новости 日本 🙂";
    let mut client = gateway.connect().await;
    client.subscribe(name).await;
    let mut bare = gateway
        .raw("stream%3A%D0%BD%D0%BE%D0%B2%D0%BE%D1%81%D1%82%D0%B8%20%E6%97%A5%E6%9C%AC%20%F0%9F%99%82")
        .await;
    subscribed(&gateway, 2).await;
    gateway.publish(name, json!("heard")).await;
    assert_eq!(client.publication().await.channel, name);
    assert_eq!(bare.text().await, "\"heard\"");
    let there = gateway.api("presence_stats", json!({ "channel": name })).await;
    assert_eq!(there["num_clients"], 2);
    let page = gateway.api("history", json!({ "channel": name, "limit": 10 })).await;
    assert_eq!(page["publications"][0]["data"], "heard");
    for broken in ["a\nb", "a\u{0}"] {
        assert_eq!(client.refused("subscribe", json!({ "channel": broken })).await, 107);
    }
}
