//! Tests Engine.IO at a bare endpoint: packets in WebSocket messages, pings, and closes.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Ending, Socket};
use crate::gateway::{Description, Gateway, gateway};
use crate::http;

const PATH: &str = "[raw.paths.\"/engine.io/\"]\nchannel = \"chat\"\ntransport = \"engine_io\"\n";
const OVER_WEBSOCKET: &str = "/engine.io/?EIO=4&transport=websocket";

fn over_engine_io() -> Description {
    gateway().and(PATH)
}

/// Describes a node that pings at least every 150 ms and waits 100 ms for the pong.
fn impatient() -> Description {
    over_engine_io().with("socketio.ping_interval_ms", 150).with("socketio.ping_timeout_ms", 100)
}

/// Opens a WebSocket, and returns it with the contents of the open packet.
async fn opened(gateway: &Gateway) -> (Socket, Value) {
    let mut socket = gateway.open(OVER_WEBSOCKET, &[]).await;
    let open = socket.text().await;
    assert!(open.starts_with('0'), "{open}");
    (socket, serde_json::from_str(&open[1..]).expect("JSON"))
}

#[tokio::test]
async fn a_session_over_a_websocket_begins_with_what_its_client_goes_by() {
    let gateway = over_engine_io().with("socketio.payload_bytes_max", 70_000).start().await;
    let (_one, mut told) = opened(&gateway).await;
    let (_other, again) = opened(&gateway).await;
    assert_ne!(told["sid"], again["sid"]);
    let sid = told["sid"].take();
    assert!(sid.as_str().is_some_and(|sid| sid.len() > 22), "{sid}");
    let expected = json!({
        "sid": null, "upgrades": [], "pingInterval": 25_000, "pingTimeout": 20_000, "maxPayload": 70_000,
    });
    assert_eq!(told, expected);
}

#[tokio::test]
async fn messages_are_packets_both_ways_and_others_hear_them_bare() {
    let gateway = over_engine_io().start().await;
    let (mut one, _) = opened(&gateway).await;
    let mut bare = gateway.raw("chat").await;
    gateway.metric_becomes("tidegate_subscriptions", 2.0).await;
    one.send("4hello").await;
    assert_eq!((one.text().await, bare.text().await), ("4hello".to_owned(), "hello".to_owned()));
    one.send("4").await;
    assert_eq!((one.text().await, bare.text().await), ("4".to_owned(), String::new()));
    let data = Message::binary(vec![0, 52, 255]);
    one.send(data.clone()).await;
    assert_eq!((one.data().await, bare.data().await), (data.clone(), data));
    gateway.publish("chat", json!({ "a": 1 })).await;
    assert_eq!(one.text().await, "4{\"a\":1}");
}

#[tokio::test]
async fn pings_come_from_the_server_and_are_to_be_answered() {
    let gateway = impatient().start().await;
    let (mut socket, _) = opened(&gateway).await;
    for _ in 0..3 {
        assert_eq!(socket.text().await, "2");
        socket.send("3").await;
    }
    assert_eq!(socket.text().await, "2");
    assert!(socket.is_cut_off().await);
    gateway.metric_becomes("tidegate_closes_total{reason=\"no pong\"}", 1.0).await;
}

#[tokio::test]
async fn who_says_goodbye_or_what_nobody_understands_is_closed() {
    let gateway = over_engine_io().start().await;
    for (said, reason) in [("1", "peer"), ("abc", "bad request"), ("2", "bad request"), ("", "bad request")] {
        let closes = format!("tidegate_closes_total{{reason=\"{reason}\"}}");
        let before = gateway.metric(&closes).await;
        let (mut socket, _) = opened(&gateway).await;
        socket.send(said).await;
        match reason {
            "peer" => assert_eq!(socket.next().await, Err(Ending::Silent)),
            _ => assert!(socket.is_cut_off().await, "{said}"),
        }
        gateway.metric_becomes(&closes, before + 1.0).await;
    }
}

#[tokio::test]
async fn a_message_may_be_as_long_as_clients_are_told_and_no_longer() {
    let gateway = over_engine_io().with("socketio.payload_bytes_max", 100_000).start().await;
    let (mut socket, _) = opened(&gateway).await;
    let longest = format!("4{}", "x".repeat(99_999));
    socket.send(longest.clone()).await;
    assert_eq!(socket.text().await, longest);
    socket.send(longest + "x").await;
    assert!(socket.is_cut_off().await);
}

#[tokio::test]
async fn what_is_no_request_of_engine_io_4_is_refused_in_its_words() {
    let gateway = over_engine_io().start().await;
    for (query, code) in [
        ("transport=websocket", 5),
        ("EIO=3&transport=websocket", 5),
        ("EIO=abc&transport=websocket", 5),
        ("EIO=4", 0),
        ("EIO=4&transport=webtransport", 0),
        ("EIO=4&transport=polling", 3),
    ] {
        let answer = http::refused_upgrade(gateway.address, &format!("/engine.io/?{query}"), "").await;
        let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!((answer.status, &told["code"]), (400, &json!(code)), "{query}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn a_node_that_stops_ends_streams_without_a_close_frame_which_not_all_clients_go_by() {
    let gateway = over_engine_io().start().await;
    let (mut socket, _) = opened(&gateway).await;
    gateway.drain().await;
    assert!(socket.is_cut_off().await);
}
