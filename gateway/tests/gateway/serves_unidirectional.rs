//! Tests unidirectional clients, which send one connect command and only receive from then on.

use bytes::Bytes;
use serde_json::{Value, json};
use shared::protocol::centrifuge::protobuf::client::decode_pushes;
use tokio_tungstenite::tungstenite::Message;

use crate::client::Socket;
use crate::gateway::{Gateway, gateway};
use crate::response::ask;

const WEBSOCKET: &str = "/connection/uni_websocket";
/// `{}` in a query.
const NOBODY: &str = "?cf_connect=%7B%7D";

async fn next_push(socket: &mut Socket) -> Value {
    serde_json::from_str(&socket.text().await).expect("JSON, one push a message")
}

/// Subscribes the client through the server API, since it cannot send commands.
async fn subscribe(gateway: &Gateway, connected: &Value, channel: &str) {
    let client = connected["connect"]["client"].as_str().expect("an id");
    gateway.api("subscribe", json!({ "user": "", "client": client, "channel": channel })).await;
}

#[tokio::test]
async fn a_websocket_is_told_pushes_without_replies_around_them() {
    let gateway = gateway().start().await;
    let mut by_message = gateway.open(WEBSOCKET, &[]).await;
    by_message.send("{\"name\":\"listener\"}").await;
    let mut by_address = gateway.open(&format!("{WEBSOCKET}{NOBODY}"), &[]).await;
    for socket in [&mut by_message, &mut by_address] {
        let connected = next_push(socket).await;
        assert_eq!(connected["connect"]["ping"], 25);
        assert_eq!(connected["connect"]["pong"], Value::Null);
        assert!(connected["connect"]["session"].is_string() && connected["id"].is_null(), "{connected}");
        subscribe(&gateway, &connected, "stream:news").await;
        let subscribed = next_push(socket).await;
        assert!(subscribed["channel"] == "stream:news" && subscribed["subscribe"].is_object());
    }
    gateway.publish("stream:news", json!({ "a": 1 })).await;
    for socket in [&mut by_message, &mut by_address] {
        let push = next_push(socket).await;
        assert_eq!((&push["channel"], &push["pub"]["data"]), (&json!("stream:news"), &json!({ "a": 1 })));
    }
    gateway.metric_becomes("tidegate_connections{protocol=\"centrifuge_uni_json\"}", 2.0).await;
}

#[tokio::test]
async fn what_it_says_later_is_passed_over() {
    let gateway = gateway().start().await;
    let mut socket = gateway.open(WEBSOCKET, &[]).await;
    socket.send("{}").await;
    let connected = next_push(&mut socket).await;
    for message in [Message::text("{}"), Message::text("nonsense"), Message::binary(vec![1, 2])] {
        socket.send(message).await;
    }
    subscribe(&gateway, &connected, "stream:news").await;
    assert!(next_push(&mut socket).await["subscribe"].is_object());
}

#[tokio::test]
async fn who_is_not_let_in_is_told_so_before_the_close() {
    let gateway = gateway().start().await;
    for (first, code) in [("{\"token\":\"none\"}", 3500), ("nonsense", 3501)] {
        let mut socket = gateway.open(WEBSOCKET, &[]).await;
        socket.send(first).await;
        assert_eq!(next_push(&mut socket).await["disconnect"]["code"], code);
        assert_eq!(socket.closed().await.0, code);
        for path in ["/connection/uni_sse", "/connection/uni_http_stream"] {
            let mut response = ask(&gateway, "POST", path, "", first).await;
            let said = if path.ends_with("sse") { response.event().await } else { response.line().await };
            assert_eq!(said.expect("a push")["disconnect"]["code"], code, "{path}");
            assert!(response.is_over().await);
        }
    }
}

#[tokio::test]
async fn pings_are_messages_and_nobody_answers() {
    let gateway =
        gateway().with("session.ping_interval_ms", 1_000).with("session.pong_timeout_ms", 500).start().await;
    let mut socket = gateway.open(&format!("{WEBSOCKET}{NOBODY}"), &[]).await;
    let mut events = ask(&gateway, "GET", &format!("/connection/uni_sse{NOBODY}"), "", "").await;
    assert_eq!(next_push(&mut socket).await["connect"]["ping"], 1);
    assert!(events.event().await.expect("a push")["connect"].is_object());
    for _ in 0..3 {
        assert_eq!(next_push(&mut socket).await, json!({}));
        assert_eq!(events.event().await, Some(json!({})));
    }
}

#[tokio::test]
async fn events_and_lines_say_the_same() {
    let gateway = gateway().start().await;
    let mut events = ask(&gateway, "GET", "/connection/uni_sse", "", "").await;
    assert_eq!(events.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let mut lines = ask(&gateway, "POST", "/connection/uni_http_stream", "", "{}").await;
    assert_eq!(lines.header("content-type"), Some("text/plain; charset=utf-8"));
    for connected in [events.event().await, lines.line().await] {
        subscribe(&gateway, &connected.expect("a push"), "stream:news").await;
    }
    assert!(events.event().await.expect("a push")["subscribe"].is_object());
    assert!(lines.line().await.expect("a push")["subscribe"].is_object());
    for number in 0..100 {
        gateway.publish("stream:news", json!(number)).await;
    }
    for number in 0..100 {
        let event = events.until("\n\n").await.expect("an event");
        assert_eq!(event.lines().count(), 1, "each push is an event of its own: {event}");
        let push: Value = serde_json::from_str(event.strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(push["pub"]["data"], number);
        assert_eq!(lines.line().await.expect("a push")["pub"]["data"], number);
    }
    for (method, path, status) in [
        ("GET", "/connection/uni_http_stream", 405),
        ("PUT", "/connection/uni_sse", 405),
        ("OPTIONS", "/connection/uni_sse", 204),
    ] {
        assert_eq!(
            crate::http::request(gateway.address, method, path, "", "").await.status,
            status,
            "{path}"
        );
    }
}

#[tokio::test]
async fn in_protobuf_each_push_stands_behind_its_length() {
    let gateway = gateway().start().await;
    let mut socket = gateway.open(&format!("{WEBSOCKET}?cf_protocol=protobuf"), &[]).await;
    socket.send(Bytes::new()).await;
    let Message::Binary(frame) = socket.data().await else { panic!("not binary") };
    let connected = decode_pushes(&frame).expect("it reads").remove(0).connect.expect("a connect push");
    assert!(connected.ping == 25 && !connected.pong && !connected.session.is_empty());
    let connected = json!({ "connect": { "client": connected.client } });
    subscribe(&gateway, &connected, "stream:news").await;
    let Message::Binary(frame) = socket.data().await else { panic!("not binary") };
    assert!(decode_pushes(&frame).expect("it reads")[0].subscribe.is_some());
    gateway.publish("stream:news", json!([1])).await;
    let Message::Binary(frame) = socket.data().await else { panic!("not binary") };
    let push = decode_pushes(&frame).expect("it reads").remove(0);
    assert_eq!(push.publication.clone().map(|one| one.data), Some(Bytes::from_static(b"[1]")), "{push:?}");
    let path = format!("{WEBSOCKET}{NOBODY}&cf_protocol=protobuf");
    assert!(gateway.try_open(&path, &[]).await.is_err(), "an address holds JSON alone");
}

#[tokio::test]
async fn pushes_share_a_message_where_that_is_set() {
    let gateway = gateway()
        .with("websocket.uni_join_pushes", true)
        .with("namespaces.stream.flush_interval_ms", 300)
        .start()
        .await;
    let mut socket = gateway.open(&format!("{WEBSOCKET}{NOBODY}"), &[]).await;
    let connected = next_push(&mut socket).await;
    subscribe(&gateway, &connected, "stream:a").await;
    next_push(&mut socket).await;
    for number in 0..10 {
        gateway.publish("stream:a", json!(number)).await;
    }
    let (mut seen, mut messages) = (Vec::new(), 0);
    while seen.len() < 10 {
        let text = socket.text().await;
        messages += 1;
        seen.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a push")));
    }
    let data: Vec<i64> = seen.iter().filter_map(|push| push["pub"]["data"].as_i64()).collect();
    assert_eq!(data, (0..10).collect::<Vec<_>>());
    assert!(messages < 10, "{messages} messages");
}

#[tokio::test]
async fn a_drain_tells_them_when_to_come_back() {
    let gateway = gateway().start().await;
    let mut socket = gateway.open(&format!("{WEBSOCKET}{NOBODY}"), &[]).await;
    next_push(&mut socket).await;
    let drained = tokio::spawn(gateway.drain());
    assert_eq!(next_push(&mut socket).await["disconnect"]["code"], 3001);
    assert_eq!(socket.closed().await.0, 3001);
    drop(socket);
    drained.await.expect("drained");
}
