//! Tests publishers on kept connections: workers serve them, with the same responses as hyper.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::gateway::{Gateway, KEY, eventually, gateway};
use crate::http::{Answer, answer};

const CONNECTIONS: &str = "tidegate_api_connections_on_workers";

/// Returns a publish request as clients with a connection pool send it.
fn publish(channel: &str, data: &Value) -> String {
    post("publish", KEY, &json!({ "channel": channel, "data": data }).to_string())
}

fn post(method: &str, key: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /api/{method} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

async fn connect(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(gateway.address).await.expect("the node listens")
}

async fn ask(stream: &mut TcpStream, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.expect("it is taken");
    answer(stream).await.expect("an answer")
}

fn result(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200);
    serde_json::from_slice::<Value>(&answer.body).expect("JSON")["result"].clone()
}

#[tokio::test]
async fn a_kept_connection_publishes_in_order_and_in_whatever_pieces_it_sends() {
    let gateway = gateway().start().await;
    let mut client = gateway.connect().await;
    client.subscribe("stream:room").await;
    let mut stream = connect(&gateway).await;
    for offset in 1..=50 {
        let answer = ask(&mut stream, &publish("stream:room", &json!(offset))).await;
        assert_eq!(result(&answer)["offset"], offset);
        assert!(answer.header("date").is_some_and(|date| date.ends_with("GMT")));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    assert_eq!(gateway.metric(CONNECTIONS).await, 1.0);
    // Sends head and body separately, then a request byte by byte.
    let request = publish("stream:room", &json!(51));
    let body = request.find("\r\n\r\n").expect("a head") + 4;
    stream.set_nodelay(true).expect("a socket");
    stream.write_all(&request.as_bytes()[..body]).await.expect("it is taken");
    assert_eq!(result(&ask(&mut stream, &request[body..]).await)["offset"], 51);
    for byte in publish("stream:room", &json!(52)).as_bytes() {
        stream.write_all(&[*byte]).await.expect("it is taken");
    }
    assert_eq!(result(&answer(&mut stream).await.expect("an answer"))["offset"], 52);
    for offset in 1..=52 {
        let received = client.publication().await;
        assert_eq!((received.offset, received.data), (offset, json!(offset)));
    }
    assert_eq!(gateway.metric(CONNECTIONS).await, 1.0);
}

#[tokio::test]
async fn requests_that_come_together_are_answered_one_after_the_other() {
    let gateway = gateway().start().await;
    let mut stream = connect(&gateway).await;
    let requests: String = (1..=200).map(|number| publish("stream:room", &json!(number))).collect();
    stream.write_all(requests.as_bytes()).await.expect("it is taken");
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while bytes.windows(8).filter(|window| window == b"\"offset\"").count() < 200 {
        let count = stream.read(&mut buffer).await.expect("answers");
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..count]);
    }
    let text = String::from_utf8(bytes).expect("text");
    let offsets: Vec<u64> = text
        .split("\"offset\":")
        .skip(1)
        .filter_map(|rest| rest.split(|char: char| !char.is_ascii_digit()).next()?.parse().ok())
        .collect();
    assert_eq!(offsets, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn whatever_else_is_asked_on_the_connection_is_answered_too() {
    let gateway = gateway().start().await;
    let mut stream = connect(&gateway).await;
    assert_eq!(ask(&mut stream, &post("publish", "wrong", "{}")).await.status, 401);
    assert_eq!(ask(&mut stream, &post("publish", KEY, "[]")).await.status, 400);
    assert_eq!(ask(&mut stream, &publish("stream:room", &json!("first"))).await.status, 200);
    assert_eq!(gateway.metric(CONNECTIONS).await, 1.0);
    let history = ask(&mut stream, &post("history", KEY, r#"{"channel":"stream:room","limit":9}"#)).await;
    assert_eq!(result(&history)["publications"][0]["data"], "first");
    eventually("it is served elsewhere", async || gateway.metric(CONNECTIONS).await == 0.0).await;
    assert_eq!(result(&ask(&mut stream, &publish("stream:room", &json!("second"))).await)["offset"], 2);
}

#[tokio::test]
async fn who_takes_long_over_a_request_has_the_deadlines_of_all_others() {
    let gateway = gateway().start().await;
    let mut stream = connect(&gateway).await;
    stream.set_nodelay(true).expect("a socket");
    assert_eq!(ask(&mut stream, &publish("stream:room", &json!("first"))).await.status, 200);
    let request = publish("stream:room", &json!("x".repeat(400)));
    let mut rest = request.as_bytes();
    while gateway.metric(CONNECTIONS).await == 1.0 {
        let (now, later) = rest.split_at_checked(1).expect("it is not whole yet");
        stream.write_all(now).await.expect("it is taken");
        rest = later;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stream.write_all(rest).await.expect("it is taken");
    assert_eq!(result(&answer(&mut stream).await.expect("an answer"))["offset"], 2);
}

#[tokio::test]
async fn who_has_said_all_gets_the_answer_and_the_connection_ends() {
    let gateway = gateway().start().await;
    let mut stream = connect(&gateway).await;
    stream.write_all(publish("stream:room", &json!(1)).as_bytes()).await.expect("it is taken");
    stream.shutdown().await.expect("a socket");
    assert_eq!(result(&answer(&mut stream).await.expect("an answer"))["offset"], 1);
    assert_eq!(stream.read(&mut [0; 16]).await.expect("an end"), 0);
    eventually("it is gone", async || gateway.metric(CONNECTIONS).await == 0.0).await;
}

#[tokio::test]
async fn a_node_that_leaves_answers_and_says_that_it_was_the_last() {
    let gateway = gateway().with("drain.notice_ms", 400).with("drain.grace_ms", 100).run().await;
    let (mut busy, mut idle) = (connect(&gateway).await, connect(&gateway).await);
    for stream in [&mut busy, &mut idle] {
        assert_eq!(ask(stream, &publish("stream:room", &json!(0))).await.status, 200);
    }
    eventually("it is ready", async || gateway.is_ready().await).await;
    gateway.signal(Signal::TERM);
    eventually("unready first", async || !gateway.is_ready().await).await;
    let last = ask(&mut busy, &publish("stream:room", &json!(1))).await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    for mut stream in [busy, idle] {
        assert_eq!(stream.read(&mut [0; 16]).await.expect("an end"), 0);
    }
    let (status, _) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
}
