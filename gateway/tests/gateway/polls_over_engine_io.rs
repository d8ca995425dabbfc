//! Tests Engine.IO over HTTP requests: the session between them, and its upgrade to a WebSocket.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::client::Socket;
use crate::gateway::{Description, Gateway, eventually, gateway};
use crate::http;
use crate::polling::{ENDPOINT, Poller};

fn over_engine_io() -> Description {
    gateway().and(ENDPOINT)
}

async fn subscribed(gateway: &Gateway, count: u32) {
    gateway.metric_becomes("tidegate_subscriptions", f64::from(count)).await;
}

async fn closed_for(gateway: &Gateway, reason: &str) {
    gateway.metric_becomes(&format!("tidegate_closes_total{{reason=\"{reason}\"}}"), 1.0).await;
    gateway.metric_becomes("tidegate_connections", 0.0).await;
}

/// Opens the client's WebSocket and probes it.
async fn probed(gateway: &Gateway, poller: &Poller) -> Socket {
    let mut socket = gateway.open(&poller.websocket(), &[]).await;
    socket.send("2probe").await;
    assert_eq!(socket.text().await, "3probe");
    socket
}

#[tokio::test]
async fn a_session_has_a_name_of_its_own_and_may_change_over() {
    let gateway = over_engine_io().start().await;
    let (one, other) = (gateway.poller().await, gateway.poller().await);
    assert_ne!(one.sid, other.sid);
    let mut told = one.handshake.clone();
    told["sid"].take();
    let expected = json!({
        "sid": null, "upgrades": ["websocket"], "pingInterval": 25_000, "pingTimeout": 20_000,
        "maxPayload": 1_000_000,
    });
    assert_eq!(told, expected);
    gateway.metric_becomes("tidegate_connections{protocol=\"raw\"}", 2.0).await;
}

#[tokio::test]
async fn requests_bring_messages_and_fetch_them() {
    let gateway = over_engine_io().start().await;
    let poller = gateway.poller().await;
    let mut bare = gateway.raw("chat").await;
    subscribed(&gateway, 2).await;
    poller.bring("4hello\u{1e}bAQIDBA==\u{1e}4").await;
    assert_eq!(bare.text().await, "hello");
    assert_eq!(bare.data().await, Message::binary(vec![1, 2, 3, 4]));
    assert_eq!(bare.text().await, "");
    assert_eq!(poller.fetch_all(18).await, "4hello\u{1e}bAQIDBA==\u{1e}4");
    let waiting = poller.fetching();
    gateway.metric_becomes("tidegate_engine_io_waiting", 1.0).await;
    gateway.publish("chat", json!({ "a": 1 })).await;
    assert_eq!(waiting.await.unwrap(), "4{\"a\":1}");
    bare.send("a\u{1e}b").await;
    assert_eq!(poller.fetch().await, "bYR5i", "what would look like two packets goes as data");
}

#[tokio::test]
async fn pings_are_fetched_and_answered_or_the_session_is_over() {
    let gateway = over_engine_io()
        .with("socketio.ping_interval_ms", 150)
        .with("socketio.ping_timeout_ms", 100)
        .start()
        .await;
    let poller = gateway.poller().await;
    for _ in 0..3 {
        assert_eq!(poller.fetch().await, "2");
        poller.bring("3").await;
    }
    closed_for(&gateway, "no pong").await;
    assert_eq!(poller.status().await, 400, "nothing of it is left");
}

#[tokio::test]
async fn two_requests_of_a_kind_at_once_end_the_session() {
    let gateway = over_engine_io().start().await;
    let poller = gateway.poller().await;
    let (one, other) = tokio::join!(poller.request("GET", "", ""), poller.request("GET", "", ""));
    let (waited, refused) = if one.status == 200 { (one, other) } else { (other, one) };
    assert_eq!((&waited.body[..], refused.status), (&b"1"[..], 400));
    assert_eq!(poller.status().await, 400);
    closed_for(&gateway, "lost").await;
}

#[tokio::test]
async fn a_request_that_is_given_up_ends_the_session() {
    let gateway = over_engine_io().start().await;
    let poller = gateway.poller().await;
    let request =
        format!("GET /engine.io/?EIO=4&transport=polling&sid={} HTTP/1.1\r\nHost: x\r\n\r\n", poller.sid);
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    gateway.metric_becomes("tidegate_engine_io_waiting", 1.0).await;
    drop(stream);
    closed_for(&gateway, "lost").await;
    assert_eq!(poller.status().await, 400);
}

#[tokio::test]
async fn a_goodbye_ends_the_request_that_waits() {
    let gateway = over_engine_io().start().await;
    let poller = gateway.poller().await;
    let waiting = poller.fetching();
    gateway.metric_becomes("tidegate_engine_io_waiting", 1.0).await;
    poller.bring("1").await;
    assert_eq!(waiting.await.unwrap(), "6");
    closed_for(&gateway, "peer").await;
    assert_eq!(poller.status().await, 400);
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_and_ends_the_session() {
    let gateway = over_engine_io().with("socketio.payload_bytes_max", 2_000).start().await;
    let long = format!("4{}", "x".repeat(2_000));
    let octets = "Content-Type: application/octet-stream\r\n";
    for (headers, body, status) in
        [("", "abc", 400), ("", "", 400), (octets, "4hello", 400), ("", &long, 413)]
    {
        let poller = gateway.poller().await;
        assert_eq!(poller.request("POST", headers, body).await.status, status, "{body:.9}");
        assert_eq!(poller.status().await, 400, "{body:.9}");
    }
    let poller = gateway.poller().await;
    poller.bring(&long[..2_000]).await;
    assert_eq!(poller.fetch_all(2_000).await, long[..2_000]);
    gateway.metric_becomes("tidegate_connections", 1.0).await;
}

#[tokio::test]
async fn other_requests_are_refused_in_the_words_of_engine_io() {
    let gateway = over_engine_io().start().await;
    let poller = gateway.poller().await;
    let unknown = format!("EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAAAQ{}", &poller.sid[22..]);
    let own = format!("sid={}", poller.sid);
    for (method, query, code) in [
        ("GET", "transport=polling".to_owned(), 5),
        ("GET", "EIO=3&transport=polling".to_owned(), 5),
        ("GET", "EIO=4".to_owned(), 0),
        ("GET", "EIO=4&transport=abc".to_owned(), 0),
        ("POST", "EIO=4&transport=polling".to_owned(), 2),
        ("PUT", "EIO=4&transport=polling".to_owned(), 2),
        ("GET", unknown, 1),
        ("GET", "EIO=4&transport=polling&sid=abc".to_owned(), 1),
        ("PUT", format!("EIO=4&transport=polling&{own}"), 3),
        ("GET", format!("EIO=4&transport=websocket&{own}"), 3),
        ("GET", "EIO=4&transport=polling&j=0".to_owned(), 3),
    ] {
        let path = format!("/engine.io/?{query}");
        let answer = http::request(gateway.address, method, &path, "", "").await;
        let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!((answer.status, &told["code"]), (400, &json!(code)), "{method} {query}");
    }
    assert_eq!(poller.request("POST", "", "4still there").await.status, 200);
}

#[tokio::test]
async fn pages_that_may_connect_may_ask_first_and_read_the_answers() {
    let gateway = over_engine_io().with("http.allowed_origins", "https://good.example").start().await;
    let poller = gateway.poller().await;
    let good = "Origin: https://good.example\r\n";
    let asked = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n";
    let preflight = poller.request("OPTIONS", &format!("{good}{asked}"), "").await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, POST, OPTIONS"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization"));
    for answer in [poller.request("POST", good, "4a").await, poller.request("POST", good, "abc").await] {
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://good.example"), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    }
    let bad = "Origin: https://evil.example\r\n";
    for method in ["OPTIONS", "GET", "POST"] {
        assert_eq!(gateway.poller().await.request(method, bad, "4a").await.status, 403);
    }
}

#[tokio::test]
async fn who_does_not_fetch_is_closed_as_slow() {
    let gateway = over_engine_io().with("websocket.outbox_bytes_max", 4_096).start().await;
    let poller = gateway.poller().await;
    subscribed(&gateway, 1).await;
    let mut sent = 0;
    while gateway.metric("tidegate_subscriptions").await > 0.0 {
        gateway.publish("chat", json!("x".repeat(1_000))).await;
        sent += 1;
        assert!(sent < 1_000, "it is never closed");
    }
    assert!(sent > 16, "so much waits before that: {sent} kB");
    closed_for(&gateway, "slow").await;
    assert_eq!(poller.status().await, 400);
}

#[tokio::test]
async fn sessions_count_as_connections_of_their_address() {
    let gateway = over_engine_io().with("limits.connections_per_address_max", 2).start().await;
    let (poller, _other) = (gateway.poller().await, gateway.poller().await);
    let path = "/engine.io/?EIO=4&transport=polling";
    assert_eq!(http::request(gateway.address, "GET", path, "", "").await.status, 429);
    poller.bring("1").await;
    eventually("its place is free again", async || {
        http::request(gateway.address, "GET", path, "", "").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn polling_and_changing_over_can_be_switched_off() {
    let gateway = over_engine_io().with("socketio.upgrades", false).start().await;
    let poller = gateway.poller().await;
    assert_eq!(poller.handshake["upgrades"], json!([]));
    assert_eq!(http::refused_upgrade(gateway.address, &poller.websocket(), "").await.status, 400);
    let gateway = over_engine_io().with("socketio.polling", false).start().await;
    let path = "/engine.io/?EIO=4&transport=polling";
    let answer = http::request(gateway.address, "GET", path, "", "").await;
    assert_eq!((answer.status, answer.body.starts_with(b"{\"code\":0,")), (400, true));
}

#[tokio::test]
async fn a_client_that_changes_over_misses_nothing_and_hears_nothing_twice() {
    let gateway = over_engine_io().start().await;
    let poller = gateway.poller().await;
    subscribed(&gateway, 1).await;
    // More than the pipe holds, so that some messages wait behind it.
    let long = "x".repeat(5_000);
    let mut expected = Vec::new();
    for number in 0..8 {
        gateway.publish("chat", json!(format!("{number}{long}"))).await;
        expected.push(format!("4\"{number}{long}\""));
    }
    let mut socket = probed(&gateway, &poller).await;
    gateway.publish("chat", json!("while it tries")).await;
    socket.send("5").await;
    socket.send("4behind it").await;
    expected.extend(["4\"while it tries\"".to_owned(), "4behind it".to_owned()]);
    for packet in expected {
        assert_eq!(socket.text().await, packet);
    }
    gateway.publish("chat", json!("live")).await;
    assert_eq!(socket.text().await, "4\"live\"");
    socket.send(Message::binary(vec![7])).await;
    assert_eq!(socket.data().await, Message::binary(vec![7]));
    gateway.metric_becomes("tidegate_engine_io_upgrades_total{result=\"changed\"}", 1.0).await;
    assert_eq!(gateway.metric("tidegate_connections").await, 1.0, "it is still the same client");

    assert_eq!(poller.status().await, 400);
    assert_eq!(poller.request("POST", "", "4late").await.status, 400);
    let mut second = gateway.open(&poller.websocket(), &[]).await;
    assert!(second.is_cut_off().await);
    socket.close().await;
    closed_for(&gateway, "peer").await;
}

#[tokio::test]
async fn a_request_that_waits_is_answered_when_a_websocket_is_found_to_work() {
    let gateway = over_engine_io().start().await;
    let poller = gateway.poller().await;
    let waiting = poller.fetching();
    gateway.metric_becomes("tidegate_engine_io_waiting", 1.0).await;
    let mut socket = probed(&gateway, &poller).await;
    assert_eq!(waiting.await.unwrap(), "6");
    assert_eq!(poller.fetch().await, "6", "none waits for long meanwhile");
    poller.bring("4by request").await;
    socket.send("5").await;
    assert_eq!(socket.text().await, "4by request");
}

#[tokio::test]
async fn a_websocket_that_comes_to_nothing_leaves_the_client_with_its_requests() {
    let gateway = over_engine_io().start().await;
    let poller = gateway.poller().await;
    for said in ["4hello", "5", "abc"] {
        let mut socket = gateway.open(&poller.websocket(), &[]).await;
        socket.send(said).await;
        assert!(socket.is_cut_off().await, "{said}");
    }
    drop(probed(&gateway, &poller).await);
    gateway.metric_becomes("tidegate_engine_io_upgrades_total{result=\"lost\"}", 1.0).await;
    poller.bring("4hello").await;
    assert_eq!(poller.fetch().await, "4hello");
    let _first = probed(&gateway, &poller).await;
    let mut second = gateway.open(&poller.websocket(), &[]).await;
    second.send("2probe").await;
    assert!(second.is_cut_off().await, "one is tried at a time");
}

#[tokio::test]
async fn a_node_that_stops_tells_those_who_wait() {
    let gateway = over_engine_io().start().await;
    let poller = gateway.poller().await;
    let waiting = tokio::spawn(async move { poller.request("GET", "", "").await });
    gateway.metric_becomes("tidegate_engine_io_waiting", 1.0).await;
    gateway.drain().await;
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status, answer.body.starts_with(b"{\"code\":1,")), (400, true), "it may come back");
}

#[tokio::test]
async fn whoever_is_told_to_leave_fetches_that_last() {
    let gateway = over_engine_io().start().await;
    let authorization = format!("Authorization: Bearer {}\r\n", gateway.token("ann"));
    let poller = gateway.poller_with(&authorization).await;
    subscribed(&gateway, 1).await;
    gateway.publish("chat", json!(1)).await;
    gateway.api("disconnect", json!({ "user": "ann" })).await;
    assert_eq!(poller.fetch().await, "41\u{1e}1");
    closed_for(&gateway, "force disconnect").await;
    assert_eq!(poller.status().await, 400);
}
