//! Tests clients without a WebSocket: they receive everything in one response, and send commands in other requests.

use bytes::BytesMut;
use serde_json::{Value, json};
use shared::command::{Command, Request, Subscribe};
use shared::protocol::centrifuge::protobuf::client::{ReplyMessage, decode_frame, encode_command};

use crate::gateway::{Gateway, eventually, gateway};
use crate::http;
use crate::redis_server::RedisServer;
use crate::response::{Response, ask, ask_on, emulate};
use crate::spans_nodes::nodes;
use crate::tls::Certificate;

const CONNECT: &str = r#"{"id":1,"connect":{}}"#;
/// The same command in a query.
const CONNECT_IN_QUERY: &str = "/connection/sse?cf_connect=%7B%22id%22%3A1%2C%22connect%22%3A%7B%7D%7D";

fn subscribe(id: u32, channel: &str) -> Value {
    json!({ "id": id, "subscribe": { "channel": channel } })
}

async fn http_stream(gateway: &Gateway) -> Response<tokio::net::TcpStream> {
    ask(gateway, "POST", "/connection/http_stream", "", CONNECT).await
}

#[tokio::test]
async fn an_event_source_is_told_everything_and_speaks_by_other_requests() {
    let gateway = gateway().start().await;
    let mut source = ask(&gateway, "GET", CONNECT_IN_QUERY, "", "").await;
    assert_eq!(source.status, 200);
    for (name, value) in [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "private, no-cache, no-store, must-revalidate, max-age=0"),
        ("pragma", "no-cache"),
        ("expires", "0"),
        ("x-accel-buffering", "no"),
        ("transfer-encoding", "chunked"),
    ] {
        assert_eq!(source.header(name), Some(value), "{name}");
    }
    assert_eq!(source.until("\r\n").await.as_deref(), Some(""), "a line comes before all");
    let connected = source.event().await.unwrap();
    assert_eq!(connected["id"], 1);
    assert_eq!(emulate(&gateway, &connected, &[subscribe(2, "stream:news")]).await.status, 204);
    assert_eq!(source.event().await.unwrap()["id"], 2);
    gateway.publish("stream:news", json!({ "n": 1 })).await;
    assert_eq!(source.event().await.unwrap()["push"]["pub"]["data"], json!({ "n": 1 }));
    let listed = gateway.api("connections", json!({})).await.to_string();
    assert!(listed.contains("\"transport\":\"sse\""), "{listed}");
    drop(source);
    gateway.metric_becomes("tidegate_connections", 0.0).await;
}

#[tokio::test]
async fn lines_and_events_carry_the_same_as_a_websocket() {
    let gateway = gateway().start().await;
    let mut lines = http_stream(&gateway).await;
    assert_eq!(lines.header("content-type"), Some("text/plain; charset=utf-8"));
    let mut events = ask(&gateway, "POST", "/connection/sse", "", CONNECT).await;
    let mut socket = gateway.connect().await;
    socket.subscribe("stream:news").await;
    let connected = [lines.line().await.unwrap(), events.event().await.unwrap()];
    for connected in &connected {
        emulate(&gateway, connected, &[subscribe(2, "stream:news")]).await;
    }
    assert_eq!(lines.line().await.unwrap()["id"], 2);
    assert_eq!(events.event().await.unwrap()["id"], 2);
    for number in 0..200 {
        gateway.publish("stream:news", json!({ "number": number, "text": "a\nb" })).await;
    }
    for number in 0..200 {
        let expected = json!({ "number": number, "text": "a\nb" });
        assert_eq!(socket.publication().await.data, expected);
        assert_eq!(lines.line().await.unwrap()["push"]["pub"]["data"], expected);
        assert_eq!(events.event().await.unwrap()["push"]["pub"]["data"], expected);
    }
}

#[tokio::test]
async fn the_commands_of_one_request_are_carried_out_in_their_order() {
    let gateway = gateway().start().await;
    let mut lines = http_stream(&gateway).await;
    let connected = lines.line().await.unwrap();
    for round in 0..20 {
        let commands: Vec<Value> = (0..5)
            .map(|n| {
                let publish = json!({ "channel": "stream:own", "data": round * 5 + n });
                json!({ "id": 10 + round * 5 + n, "publish": publish })
            })
            .collect();
        assert_eq!(emulate(&gateway, &connected, &commands).await.status, 204);
    }
    for id in 10..110 {
        assert_eq!(lines.line().await.unwrap()["id"], id);
    }
    let history = json!({ "channel": "stream:own", "limit": 100 });
    let history = gateway.api("history", history).await;
    let data: Vec<i64> =
        history["publications"].as_array().unwrap().iter().map(|one| one["data"].as_i64().unwrap()).collect();
    assert_eq!(data, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_end_is_told_and_the_response_is_whole() {
    let gateway = gateway().start().await;
    let mut lines = http_stream(&gateway).await;
    let connected = lines.line().await.unwrap();
    gateway.api("disconnect", json!({ "user": "", "client": connected["connect"]["client"] })).await;
    let end = lines.line().await.unwrap();
    assert_eq!(end["push"]["disconnect"]["code"], 3503);
    assert!(lines.is_over().await);
    // The session is gone, and the response does not reveal that it existed.
    assert_eq!(emulate(&gateway, &connected, &[subscribe(2, "stream:news")]).await.status, 204);
    gateway.metric_becomes("tidegate_connections", 0.0).await;
    let mut refused = ask(&gateway, "POST", "/connection/http_stream", "", "no command").await;
    assert_eq!(
        (refused.status, &refused.line().await.unwrap()["push"]["disconnect"]["code"]),
        (200, &json!(3501))
    );
    assert!(refused.is_over().await);
}

#[tokio::test]
async fn a_drain_ends_responses_as_it_ends_websockets() {
    let gateway = gateway().start().await;
    let mut source = ask(&gateway, "GET", CONNECT_IN_QUERY, "", "").await;
    source.event().await.unwrap();
    let draining = tokio::spawn(gateway.drain());
    assert_eq!(source.event().await.unwrap()["push"]["disconnect"]["code"], 3001);
    assert!(source.is_over().await);
    draining.await.unwrap();
}

#[tokio::test]
async fn an_old_proxy_gets_a_response_that_ends_with_its_connection() {
    let gateway = gateway().start().await;
    let stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let mut lines = ask_on(stream, "HTTP/1.0", "POST", "/connection/http_stream", "", CONNECT).await;
    assert_eq!(lines.header("transfer-encoding"), None);
    let connected = lines.line().await.unwrap();
    gateway.api("disconnect", json!({ "user": "", "client": connected["connect"]["client"] })).await;
    assert_eq!(lines.line().await.unwrap()["push"]["disconnect"]["code"], 3503);
    assert!(lines.is_over().await);
}

#[tokio::test]
async fn a_response_under_tls_is_written_by_the_worker_too() {
    let certificate = Certificate::new();
    let gateway = certificate.on(gateway()).start().await;
    let stream = certificate.connect(&gateway).await;
    let mut source = ask_on(stream, "HTTP/1.1", "GET", CONNECT_IN_QUERY, "", "").await;
    assert_eq!(source.event().await.unwrap()["id"], 1);
    drop(source);
    gateway.metric_becomes("tidegate_connections", 0.0).await;
}

#[tokio::test]
async fn a_connection_that_answered_before_can_become_a_response() {
    let gateway = gateway().start().await;
    let mut stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    for _ in 0..3 {
        let warm = ask_on(&mut stream, "HTTP/1.1", "GET", "/connection/init", "", "").await;
        assert_eq!((warm.status, warm.header("content-length")), (200, Some("2")));
        let mut warm = warm;
        assert_eq!(warm.until("}").await.as_deref(), Some("{"));
    }
    let mut lines = ask_on(&mut stream, "HTTP/1.1", "POST", "/connection/http_stream", "", CONNECT).await;
    assert_eq!(lines.line().await.unwrap()["id"], 1);
}

#[tokio::test]
async fn requests_that_cannot_be_served_are_answered_as_clients_expect() {
    let gateway = gateway().start().await;
    let answer = async |method: &str, path: &str, body: &str| {
        http::request(gateway.address, method, path, "", body).await.status
    };
    assert_eq!(answer("GET", "/connection/sse", "").await, 400);
    assert_eq!(answer("PUT", "/connection/sse", CONNECT).await, 405);
    assert_eq!(answer("GET", "/connection/http_stream", "").await, 405);
    assert_eq!(answer("POST", "/connection/http_stream", &"x".repeat(70_000)).await, 413);
    assert_eq!(answer("GET", "/emulation", "").await, 405);
    assert_eq!(answer("POST", "/emulation", "{").await, 400);
    let to =
        |node: &str, session: &str| json!({ "session": session, "node": node, "data": "{}" }).to_string();
    assert_eq!(answer("POST", "/emulation", &to("nobody", "x")).await, 404);
    assert_eq!(
        answer("POST", "/emulation", &json!({ "session": "", "node": "", "data": {} }).to_string()).await,
        400
    );
    assert_eq!(answer("POST", "/emulation", &"x".repeat(70_000)).await, 413);
    let mut lines = http_stream(&gateway).await;
    let connected = lines.line().await.unwrap();
    let node = connected["connect"]["node"].as_str().unwrap();
    assert_eq!(answer("POST", "/emulation", &to(node, "")).await, 204);
    assert_eq!(answer("POST", "/emulation", &to(node, "AAAAAAAAAAAAAAAAAAAAAA")).await, 204);
}

#[tokio::test]
async fn pages_that_may_connect_may_read_and_others_are_refused() {
    let gateway = gateway().with("http.allowed_origins", "https://page.example").start().await;
    let mine = "Origin: https://page.example\r\n";
    let asked = format!("{mine}Access-Control-Request-Headers: content-type\r\n");
    for path in ["/emulation", "/connection/http_stream", "/connection/sse", "/connection/init"] {
        let answer = http::request(gateway.address, "OPTIONS", path, &asked, "").await;
        assert_eq!(answer.status, 204, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://page.example"));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(answer.header("access-control-allow-headers"), Some("content-type"));
        assert_eq!(answer.header("access-control-max-age"), Some("300"));
        let strange =
            http::request(gateway.address, "OPTIONS", path, "Origin: https://evil.example\r\n", "").await;
        assert_eq!((strange.status, strange.header("access-control-allow-origin")), (403, None), "{path}");
    }
    let lines = ask(&gateway, "POST", "/connection/http_stream", mine, CONNECT).await;
    assert_eq!(
        (lines.status, lines.header("access-control-allow-origin")),
        (200, Some("https://page.example"))
    );
    let strange =
        ask(&gateway, "POST", "/connection/http_stream", "Origin: https://evil.example\r\n", CONNECT).await;
    assert_eq!(strange.status, 403);
    let unread = http::request(gateway.address, "POST", "/emulation", mine, "{").await;
    assert_eq!(
        (unread.status, unread.header("access-control-allow-origin")),
        (400, Some("https://page.example"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_reaches_another_node_is_passed_on() {
    let redis = RedisServer::start();
    let [here, there] = nodes::<2>(&redis).await;
    let mut lines = http_stream(&here).await;
    let connected = lines.line().await.unwrap();
    let nobody = json!({ "connect": { "session": "", "node": connected["connect"]["node"] } });
    eventually("the other node knows of this one", async || {
        emulate(&there, &nobody, &[]).await.status == 204
    })
    .await;
    assert_eq!(emulate(&there, &connected, &[subscribe(2, "stream:news")]).await.status, 204);
    assert_eq!(lines.line().await.unwrap()["id"], 2);
    there.publish("stream:news", json!("from there")).await;
    assert_eq!(lines.line().await.unwrap()["push"]["pub"]["data"], "from there");
}

#[tokio::test]
async fn a_stream_in_protobuf_carries_messages_behind_their_lengths() {
    let gateway = gateway().start().await;
    let kind = "Content-Type: application/octet-stream\r\n";
    let command = |id: u32, request: Request| {
        let mut bytes = BytesMut::new();
        encode_command(&Command { id, request }, &mut bytes);
        String::from_utf8(bytes.to_vec()).expect("small numbers and names")
    };
    let connect = command(1, Request::Connect(Box::default()));
    let mut stream = ask(&gateway, "POST", "/connection/http_stream", kind, &connect).await;
    assert_eq!(stream.header("content-type"), Some("application/octet-stream"));
    let connected = reply(&mut stream).await.connect.unwrap();
    let subscribe = Subscribe { channel: "stream:news".into(), ..Subscribe::default() };
    let subscribe = command(2, Request::Subscribe(subscribe));
    let fields = [(1_u8, &connected.node), (2, &connected.session), (3, &subscribe)];
    let body: String = fields
        .map(|(tag, text)| {
            format!("{}{}{text}", char::from(tag << 3 | 2), char::from(u8::try_from(text.len()).unwrap()))
        })
        .concat();
    assert_eq!(http::request(gateway.address, "POST", "/emulation", kind, &body).await.status, 204);
    assert_eq!(reply(&mut stream).await.id, 2);
    gateway.publish("stream:news", json!({ "n": 1 })).await;
    let publication = reply(&mut stream).await.push.unwrap().publication.unwrap();
    assert_eq!(&publication.data[..], b"{\"n\":1}");
}

async fn reply(stream: &mut Response<tokio::net::TcpStream>) -> ReplyMessage {
    let message = stream.delimited().await.expect("a message");
    decode_frame(&message).expect("it reads").remove(0)
}
