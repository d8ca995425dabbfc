//! Tests the commands of Centrifuge clients.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::client::received;
use crate::gateway::gateway;

#[tokio::test]
async fn a_publication_reaches_every_subscriber_and_nobody_else() {
    let gateway = gateway().start().await;
    let (mut ann, mut bob, mut eve) =
        (gateway.connect_as("ann").await, gateway.connect_as("bob").await, gateway.connect_as("eve").await);
    ann.subscribe("news").await;
    bob.subscribe("news").await;
    eve.subscribe("other").await;
    ann.publish("news", json!({ "headline": "it works" })).await;
    for client in [&mut ann, &mut bob] {
        let publication = client.publication().await;
        assert_eq!((&*publication.channel, &publication.data["headline"]), ("news", &json!("it works")));
    }
    gateway.publish("other", json!("for eve")).await;
    assert_eq!(eve.publication().await.data, json!("for eve"), "it was not sent what others were");
}

#[tokio::test]
async fn history_is_read_from_where_the_client_says() {
    let gateway = gateway().start().await;
    for number in 1..=5 {
        assert_eq!(gateway.publish("stream:numbers", json!(number)).await, number);
    }
    let mut client = gateway.connect().await;
    client.subscribe("stream:numbers").await;
    let newest =
        client.command("history", json!({ "channel": "stream:numbers", "limit": 2, "reverse": true })).await;
    let data = |page: &serde_json::Value| -> Vec<u64> {
        let publications = page["publications"].as_array().cloned().unwrap_or_default();
        publications.iter().filter_map(|one| one["data"].as_u64()).collect()
    };
    assert_eq!(data(&newest), [5, 4]);
    assert_eq!(newest["offset"], 5);
    let since = json!({ "channel": "stream:numbers", "limit": 10, "since": { "offset": 2, "epoch": newest["epoch"] } });
    assert_eq!(data(&client.command("history", since).await), [3, 4, 5]);
    let top = client.command("history", json!({ "channel": "stream:numbers" })).await;
    assert_eq!((data(&top), top["offset"].as_u64()), (vec![], Some(5)));
}

#[tokio::test]
async fn presence_shows_who_is_there_until_they_leave() {
    let gateway = gateway().start().await;
    let (mut ann, mut bob) = (gateway.connect_as("ann").await, gateway.connect_as("bob").await);
    ann.subscribe("stream:room").await;
    bob.subscribe("stream:room").await;
    let there = ann.command("presence", json!({ "channel": "stream:room" })).await;
    assert_eq!(there["presence"][&ann.id]["user"], "ann");
    assert_eq!(there["presence"][&bob.id]["user"], "bob");
    let stats = ann.command("presence_stats", json!({ "channel": "stream:room" })).await;
    assert_eq!((stats["num_clients"].as_u64(), stats["num_users"].as_u64()), (Some(2), Some(2)));
    bob.command("unsubscribe", json!({ "channel": "stream:room" })).await;
    let stats = ann.command("presence_stats", json!({ "channel": "stream:room" })).await;
    assert_eq!(stats["num_clients"], 1);
}

#[tokio::test]
async fn commands_of_one_frame_are_answered_in_their_order() {
    let gateway = gateway().start().await;
    let mut client = gateway.stranger().await;
    // Clients may send subscribe commands before the connect command is answered.
    let frame = [
        json!({ "id": 1, "connect": {} }),
        json!({ "id": 2, "subscribe": { "channel": "stream:a" } }),
        json!({ "id": 3, "subscribe": { "channel": "b" } }),
        json!({ "id": 4, "publish": { "channel": "b", "data": 1 } }),
        json!({ "id": 5, "history": { "channel": "stream:a" } }),
        json!({ "id": 6, "unsubscribe": { "channel": "b" } }),
        json!({ "id": 7, "subscribe": { "channel": "nowhere:b" } }),
    ];
    client.socket.send(frame.map(|command| command.to_string()).join("\n")).await;
    let mut ids = Vec::new();
    while ids.len() < 7 {
        let message = client.push().await;
        match message["id"].as_u64() {
            Some(id) => ids.push((id, message["error"]["code"].as_u64())),
            None => assert_eq!(received(&message).expect("a publication").data, 1),
        }
    }
    // Two subscribes may complete in either order.
    ids[1..3].sort_unstable();
    let expected = [(1, None), (2, None), (3, None), (4, None), (5, None), (6, None), (7, Some(102))];
    assert_eq!(ids, expected);
    client.socket.send("{\"id\":8,\"connect\":{}}").await;
    let (code, reason) = client.closed().await;
    assert_eq!((code, &*reason), (3501, "bad request"), "one connects once");
}

#[tokio::test]
async fn a_client_that_returns_gets_what_it_missed_and_nothing_twice() {
    let gateway = gateway().start().await;
    let mut client = gateway.connect().await;
    let subscribed = client.subscribe("stream:s").await;
    let epoch = subscribed["epoch"].clone();
    gateway.publish("stream:s", json!(1)).await;
    assert_eq!(client.publication().await.offset, 1);
    client.socket.close().await;
    for number in 2..=4 {
        gateway.publish("stream:s", json!(number)).await;
    }
    let mut client = gateway.connect().await;
    let recover = json!({ "channel": "stream:s", "recover": true, "offset": 1, "epoch": epoch });
    let subscribed = client.command("subscribe", recover).await;
    assert_eq!(subscribed["recovered"], true);
    let missed: Vec<u64> = subscribed["publications"]
        .as_array()
        .expect("publications")
        .iter()
        .map(|one| one["data"].as_u64().expect("a number"))
        .collect();
    assert_eq!(missed, [2, 3, 4]);
    gateway.publish("stream:s", json!(5)).await;
    assert_eq!(client.publication().await.offset, 5);

    let stale = json!({ "channel": "stream:s", "recover": true, "offset": 1, "epoch": "another" });
    let mut stranger = gateway.connect().await;
    let subscribed = stranger.command("subscribe", stale).await;
    assert!(subscribed["recovered"].is_null() || subscribed["recovered"] == false, "{subscribed}");
}

#[tokio::test]
async fn the_server_pings_and_a_client_that_does_not_answer_is_closed() {
    let gateway =
        gateway().with("session.ping_interval_ms", 1000).with("session.pong_timeout_ms", 200).start().await;
    let mut client = gateway.connect().await;
    assert_eq!(client.socket.text().await, "{}");
    client.socket.send("{}").await;
    assert_eq!(client.socket.text().await, "{}", "an answered ping is followed by another");
    let (code, reason) = client.closed().await;
    assert_eq!((code, &*reason), (3012, "no pong"));
    gateway.metric_becomes("tidegate_closes_total{reason=\"no pong\"}", 1.0).await;
}

#[tokio::test]
async fn pings_of_the_transport_are_answered_with_what_they_held_in_their_order() {
    let gateway = gateway().start().await;
    let mut client = gateway.connect().await;
    for number in 0..20u8 {
        client.socket.send(Message::Ping(vec![number; 100].into())).await;
    }
    for number in 0..20u8 {
        assert_eq!(client.socket.next().await.expect("a pong"), Message::Pong(vec![number; 100].into()));
    }
}

#[tokio::test]
async fn a_token_says_who_a_client_is_and_a_bad_one_closes() {
    let gateway = gateway().start().await;
    let mut client = gateway.connect_as("ann").await;
    client.subscribe("stream:room").await;
    let there = client.command("presence", json!({ "channel": "stream:room" })).await;
    assert_eq!(there["presence"][&client.id]["user"], "ann");

    let mut stranger = gateway.stranger().await;
    stranger.ask("connect", json!({ "token": "not.a.token" })).await;
    assert_eq!(stranger.closed().await.0, 3500);

    let closed = gateway_without_strangers().await;
    let mut stranger = closed.stranger().await;
    stranger.ask("connect", json!({})).await;
    assert!(matches!(stranger.closed().await.0, 3500 | 3501 | 3503 | 3507));
}

async fn gateway_without_strangers() -> crate::gateway::Gateway {
    gateway().with("auth.allow_anonymous", false).start().await
}

#[tokio::test]
async fn a_long_row_of_subscribes_is_served() {
    let gateway = gateway().start().await;
    let mut client = gateway.connect().await;
    let ids: Vec<u64> = {
        let mut ids = Vec::new();
        for number in 0..128 {
            ids.push(client.ask("subscribe", json!({ "channel": format!("stream:{number}") })).await);
        }
        ids
    };
    for id in ids {
        let reply = client.reply(id).await;
        assert!(reply["error"].is_null(), "{reply}");
    }
    gateway.metric_becomes("tidegate_subscriptions", 128.0).await;
    assert_eq!(client.refused("subscribe", json!({ "channel": "one-too-many" })).await, 106);
}

#[tokio::test]
async fn who_comes_in_the_place_of_another_is_not_taken_for_them() {
    let gateway = gateway().with("workers.count", 1).start().await;
    let mut anns = Vec::new();
    for _ in 0..3 {
        anns.push(gateway.connect_as("ann").await);
    }
    let left = anns.remove(1);
    let id = left.id.clone();
    left.socket.close().await;
    gateway.metric_becomes("tidegate_connections", 2.0).await;
    // Bob takes the slot that is free now.
    let bob = gateway.connect_as("bob").await;
    let all = json!({ "user": "ann", "disconnect": { "code": 4100, "reason": "moved" } });
    gateway.api("disconnect", all.clone()).await;
    for mut ann in anns {
        assert_eq!(ann.closed().await.0, 4100, "each of them is found");
    }
    bob.socket.close().await;
    gateway.metric_becomes("tidegate_connections", 0.0).await;
    // All three slots are taken, one of which belonged to the client that left first.
    let mut again = Vec::new();
    for _ in 0..3 {
        again.push(gateway.connect_as("ann").await);
    }
    gateway.api("disconnect", json!({ "user": "ann", "client": id })).await;
    gateway.api("disconnect", all).await;
    for mut ann in again {
        assert_eq!(ann.closed().await.0, 4100, "the first command meant somebody else");
    }
}
