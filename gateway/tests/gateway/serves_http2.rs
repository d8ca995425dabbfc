//! Tests HTTP/2: requests, event streams and WebSockets over one connection (RFC 8441).

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::gateway::{Description, Gateway, KEY, PATIENCE, eventually, gateway};
use crate::polling::ENDPOINT;
use crate::redis_server::RedisServer;
use crate::tls::Certificate;

type Sender = SendRequest<Full<Bytes>>;
type Socket = WebSocketStream<TokioIo<Upgraded>>;

async fn start(description: Description) -> (Gateway, Certificate) {
    let certificate = Certificate::new();
    (certificate.on(description).start().await, certificate)
}

/// Opens a connection on which the node has announced that it accepts WebSockets.
async fn connect(gateway: &Gateway, certificate: &Certificate) -> Sender {
    let stream = certificate.connect_offering(gateway, &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let answer = request(&mut sender, "GET", "/connection/init", "").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "{}");
    sender
}

async fn request(sender: &mut Sender, method: &str, path: &str, body: &str) -> Response<Incoming> {
    let request = Request::builder().method(method).uri(format!("https://localhost{path}"));
    let request = request.body(Full::from(body.to_owned())).expect("a request");
    tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("in time").expect("an answer")
}

/// Publishes through the server API, over the same connection.
async fn publish(sender: &mut Sender, channel: &str, data: Value) {
    let request =
        Request::builder().method("POST").uri("https://localhost/api/publish").header("x-api-key", KEY);
    let body = json!({ "channel": channel, "data": data }).to_string();
    let request = request.body(Full::from(body)).expect("a request");
    assert_eq!(sender.send_request(request).await.expect("an answer").status(), StatusCode::OK);
}

async fn ask_for_socket(sender: &mut Sender, path: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
    let mut request = Request::builder()
        .method("CONNECT")
        .uri(format!("https://localhost{path}"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::default()).expect("a request");
    tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("in time").expect("an answer")
}

async fn open(sender: &mut Sender, path: &str) -> Socket {
    let response = ask_for_socket(sender, path, &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    let upgraded = hyper::upgrade::on(response).await.expect("a stream");
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
}

async fn next_message(socket: &mut Socket) -> Message {
    let next = tokio::time::timeout(PATIENCE, socket.next()).await.expect("a message in time");
    next.expect("a message").expect("a sound one")
}

async fn close_code(socket: &mut Socket) -> Option<u16> {
    loop {
        if let Message::Close(close) = next_message(socket).await {
            return close.map(|close| close.code.into());
        }
    }
}

async fn lines(socket: &mut Socket) -> Vec<Value> {
    let text = next_message(socket).await.into_text().expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

async fn subscribed(sender: &mut Sender, channel: &str) -> Socket {
    let mut socket = open(sender, "/connection/websocket").await;
    let commands =
        format!("{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}");
    socket.send(Message::text(commands)).await.expect("sent");
    let mut answers = Vec::new();
    while answers.len() < 2 {
        answers.extend(lines(&mut socket).await);
    }
    assert!(answers[0]["connect"].is_object() && answers[1]["subscribe"].is_object(), "{answers:?}");
    socket
}

#[tokio::test]
async fn many_websockets_share_a_connection() {
    let (gateway, certificate) = start(gateway()).await;
    let mut sender = connect(&gateway, &certificate).await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(subscribed(&mut sender, "stream:news").await);
    }
    gateway.metric_becomes("tidegate_connections", 20.0).await;
    // More than the pipe to a client's task holds, and less than the client's flow-control window for the connection.
    let large = "x".repeat(20_000);
    for number in 0..10 {
        publish(&mut sender, "stream:news", json!({ "number": number, "large": large })).await;
    }
    for socket in &mut sockets {
        let mut seen = Vec::new();
        while seen.len() < 10 {
            seen.extend(lines(socket).await);
        }
        let numbers: Vec<_> = seen.iter().map(|push| push["push"]["pub"]["data"]["number"].clone()).collect();
        assert_eq!(numbers, (0..10).map(Value::from).collect::<Vec<_>>());
    }
    // A client's messages arrive too, in whatever pieces.
    let publish = json!({ "id": 3, "publish": { "channel": "stream:news", "data": "y".repeat(50_000) } });
    sockets[0].send(Message::text(publish.to_string())).await.expect("sent");
    let push = lines(&mut sockets[1]).await.remove(0);
    assert_eq!(push["push"]["pub"]["data"].as_str().map(str::len), Some(50_000));
    sockets.truncate(5);
    gateway.metric_becomes("tidegate_connections", 5.0).await;
}

#[tokio::test]
async fn the_closing_handshake_goes_both_ways() {
    let (gateway, certificate) = start(gateway()).await;
    let mut sender = connect(&gateway, &certificate).await;
    let mut leaving = subscribed(&mut sender, "stream:news").await;
    leaving.close(None).await.expect("a goodbye");
    assert!(matches!(next_message(&mut leaving).await, Message::Close(_)));
    gateway.metric_becomes("tidegate_connections", 0.0).await;

    let mut wrong = open(&mut sender, "/connection/websocket").await;
    wrong.send(Message::text("nonsense")).await.expect("sent");
    let Message::Close(Some(close)) = next_message(&mut wrong).await else { panic!("not closed") };
    assert_eq!(u16::from(close.code), 3501);
    gateway.metric_becomes("tidegate_connections", 0.0).await;
}

/// Reads a response up to and including `end`.
async fn until(response: &mut Response<Incoming>, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let frame = tokio::time::timeout(PATIENCE, response.frame()).await.expect("in time");
        let bytes = frame.expect("more of it").expect("a sound one").into_data().expect("data");
        text.push_str(std::str::from_utf8(&bytes).expect("text"));
    }
    text
}

#[tokio::test]
async fn streams_that_wait_for_their_session_share_a_connection_and_are_refused_by_a_status() {
    let description =
        gateway().with("sse.enabled", true).with("mercure.enabled", true).and("[namespaces.shut]\n");
    let (gateway, certificate) = start(description).await;
    let mut sender = connect(&gateway, &certificate).await;
    for (path, status) in [("/sse?channel=shut:a", 403), ("/sse?channel=a&token=x", 401)] {
        assert_eq!(request(&mut sender, "GET", path, "").await.status().as_u16(), status, "{path}");
    }
    let mut one = request(&mut sender, "GET", "/sse?channel=stream:a", "").await;
    let mut two = request(&mut sender, "GET", "/sse?channel=stream:a&channel=stream:b", "").await;
    let hub = "/.well-known/mercure?topic=a&lastEventID=never-there";
    let mut updates = request(&mut sender, "GET", hub, "").await;
    assert_eq!(updates.headers()["last-event-id"], "earliest");
    for stream in [&mut one, &mut two] {
        assert_eq!(stream.status(), StatusCode::OK);
        assert!(until(stream, "\n\n").await.starts_with("event: subscribed\n"));
    }
    publish(&mut sender, "stream:a", json!(1)).await;
    publish(&mut sender, "mercure:a", json!(2)).await;
    assert!(until(&mut one, "\n\n").await.starts_with("data: 1\nid: stream:a="));
    let event = until(&mut two, "\n\n").await;
    assert!(
        event.starts_with("event: stream:a\ndata: 1\nid: stream:a=") && event.contains("&stream:b="),
        "{event}"
    );
    assert!(until(&mut updates, "\n\n").await.contains("data: 2\n"));
}

#[tokio::test]
async fn an_event_stream_and_its_commands_come_over_one_connection() {
    let (gateway, certificate) = start(gateway()).await;
    let mut sender = connect(&gateway, &certificate).await;
    let response = request(&mut sender, "POST", "/connection/sse", "{\"id\":1,\"connect\":{}}").await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut events = response.into_body();
    let mut text = String::new();
    let mut until = async |wanted: &str| {
        while !text.contains(wanted) {
            let frame = tokio::time::timeout(PATIENCE, events.frame()).await.expect("in time");
            let data = frame.expect("more").expect("sound").into_data().expect("data");
            text.push_str(std::str::from_utf8(&data).expect("text"));
        }
        std::mem::take(&mut text)
    };
    let first = until("\"session\"").await;
    let connected: Value = first
        .lines()
        .find_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .expect("a connect reply");
    let body = json!({
        "session": connected["connect"]["session"],
        "node": connected["connect"]["node"],
        "data": "{\"id\":2,\"subscribe\":{\"channel\":\"stream:news\"}}",
    });
    let answer = request(&mut sender, "POST", "/emulation", &body.to_string()).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    until("\"subscribe\"").await;
    publish(&mut sender, "stream:news", json!({ "a": 1 })).await;
    until("{\"a\":1}").await;
}

#[tokio::test]
async fn a_subprotocol_is_chosen_and_a_bad_request_is_told_why() {
    let (gateway, certificate) = start(gateway().with("http.allowed_origins", "https://app.example")).await;
    let mut sender = connect(&gateway, &certificate).await;
    let offer = [("sec-websocket-protocol", "centrifuge-protobuf")];
    let response = ask_for_socket(&mut sender, "/connection/websocket", &offer).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["sec-websocket-protocol"], "centrifuge-protobuf");
    assert!(response.headers().get("sec-websocket-accept").is_none());
    for (path, headers, status) in [
        ("/nowhere", [("x-a", "b")], StatusCode::NOT_FOUND),
        ("/connection/websocket", [("origin", "https://other.example")], StatusCode::FORBIDDEN),
        ("/connection/websocket", [("host", "other.example")], StatusCode::BAD_REQUEST),
        ("/connection/websocket", [("sec-websocket-version", "8")], StatusCode::UPGRADE_REQUIRED),
    ] {
        assert_eq!(ask_for_socket(&mut sender, path, &headers).await.status(), status, "{headers:?}");
    }
    let get = request(&mut sender, "GET", "/connection/websocket", "").await;
    assert_eq!(get.status(), StatusCode::BAD_REQUEST, "a WebSocket is asked for by CONNECT");
}

#[tokio::test]
async fn each_client_takes_a_place_and_so_does_their_connection() {
    let limited = gateway().with("limits.connections_max", 3);
    let (gateway, certificate) = start(limited).await;
    let mut sender = connect(&gateway, &certificate).await;
    let _first = open(&mut sender, "/connection/websocket").await;
    let second = open(&mut sender, "/connection/websocket").await;
    let refused = ask_for_socket(&mut sender, "/connection/websocket", &[]).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(second);
    gateway.metric_becomes("tidegate_connections", 1.0).await;
    let _third = open(&mut sender, "/connection/websocket").await;
}

#[tokio::test]
async fn a_drain_closes_clients_and_then_their_connection() {
    let (gateway, certificate) = start(gateway()).await;
    let mut sender = connect(&gateway, &certificate).await;
    let mut socket = subscribed(&mut sender, "stream:news").await;
    let drained = tokio::spawn(gateway.drain());
    assert_eq!(close_code(&mut socket).await, Some(3001));
    drop(socket);
    tokio::time::timeout(PATIENCE, drained).await.expect("in time").expect("drained");
}

/// Several clients treat GOAWAY as the end of everything on the connection.
#[tokio::test]
async fn a_connection_is_told_of_a_drain_when_its_first_client_is_closed_and_not_before() {
    let (gateway, certificate) =
        start(gateway().with("workers.count", 1).with("drain.grace_ms", 60_000)).await;
    let (mut one, mut other) = (connect(&gateway, &certificate).await, connect(&gateway, &certificate).await);
    let mut sockets =
        [subscribed(&mut one, "stream:news").await, subscribed(&mut other, "stream:news").await];
    let drained = tokio::spawn(gateway.drain());
    let [first, second] = &mut sockets;
    let is_first = tokio::select! { _ = close_code(first) => true, _ = close_code(second) => false };
    let [first, second] = sockets;
    let (told, closed, mut untold, staying) = match is_first {
        true => (one, first, other, second),
        false => (other, second, one, first),
    };
    drop(closed);
    eventually("the connection of the one that was closed is told", async || told.is_closed()).await;
    let answer = request(&mut untold, "GET", "/connection/init", "").await;
    assert_eq!(answer.status(), StatusCode::OK, "the other one's connection is as it was");
    drop((answer, staying));
    tokio::time::timeout(PATIENCE, drained).await.expect("in time").expect("drained");
}

#[tokio::test]
async fn http2_is_not_offered_where_it_is_off() {
    let (gateway, certificate) = start(gateway().with("tls.http2", false)).await;
    let stream = certificate.connect_offering(&gateway, &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

async fn packets(response: Response<Incoming>) -> String {
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_poll_over_http2_and_change_over_at_the_node_of_their_session_and_at_another() {
    let redis = RedisServer::start();
    let certificate = Certificate::new();
    let described = || gateway().and(ENDPOINT).with("cluster.listen", "127.0.0.1:0").over(&redis.url());
    let [here, there] =
        [certificate.on(described()).start().await, certificate.on(described()).start().await];
    for node in [&here, &there] {
        eventually("it is ready", async || node.is_ready().await).await;
    }
    for node in [&here, &there] {
        let mut sender = connect(&here, &certificate).await;
        let greeting =
            packets(request(&mut sender, "GET", "/engine.io/?EIO=4&transport=polling", "").await).await;
        let sid = greeting.split('"').nth(3).expect("a name").to_owned();
        let at = |transport: &str| format!("/engine.io/?EIO=4&transport={transport}&sid={sid}");
        let mut elsewhere = connect(node, &certificate).await;
        assert_eq!(packets(request(&mut elsewhere, "POST", &at("polling"), "4by request").await).await, "ok");
        assert_eq!(packets(request(&mut sender, "GET", &at("polling"), "").await).await, "4by request");
        let mut socket = open(&mut elsewhere, &at("websocket")).await;
        socket.send(Message::text("2probe")).await.expect("sent");
        assert_eq!(next_message(&mut socket).await, Message::text("3probe"));
        let long = format!("4{}", "x".repeat(200_000));
        for packet in ["5", "4changed over", &long] {
            socket.send(Message::text(packet)).await.expect("sent");
        }
        assert_eq!(next_message(&mut socket).await, Message::text("4changed over"));
        assert_eq!(next_message(&mut socket).await, Message::text(&long));
        socket.close(None).await.expect("a goodbye");
        here.metric_becomes("tidegate_connections", 0.0).await;
    }
    here.metric_becomes("tidegate_engine_io_upgrades_total{result=\"changed\"}", 2.0).await;
    there.metric_becomes("tidegate_engine_io_upgrades_total{result=\"carried\"}", 1.0).await;
}
