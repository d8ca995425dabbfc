//! Tests the drain: when the program is told to stop, its clients leave in an orderly way.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Ending;
use crate::gateway::{KEY, PATIENCE, eventually, gateway};
use crate::redis_server::RedisServer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_closes_clients_one_after_the_other_and_takes_their_presence_back() {
    let redis = RedisServer::start();
    let stays = gateway().over(&redis.url()).start().await;
    let (notice, grace) = (Duration::from_millis(600), Duration::from_millis(1500));
    let leaves = gateway()
        .over(&redis.url())
        .with("workers.count", 1)
        .with("drain.notice_ms", notice.as_millis())
        .with("drain.grace_ms", grace.as_millis())
        .run()
        .await;
    let mut closings = tokio::task::JoinSet::new();
    for number in 0..30 {
        let mut client = leaves.connect_as(&format!("user-{number}")).await;
        client.subscribe("stream:room").await;
        closings.spawn(async move {
            let (code, reason) = client.closed().await;
            assert_eq!((code, &*reason), (3001, "shutdown"));
            Instant::now()
        });
    }
    let signalled = Instant::now();
    leaves.signal(Signal::TERM);
    let mut closed = vec![closings.join_next().await.expect("one").expect("closed with 3001")];
    assert!(TcpStream::connect(leaves.address).await.is_err(), "no more are let in");
    while let Some(at) = closings.join_next().await {
        closed.push(at.expect("closed with 3001"));
    }
    closed.sort();
    let moments = closed.windows(2).filter(|pair| pair[1] - pair[0] > Duration::from_millis(10)).count();
    assert!(moments >= 3, "one after the other, not all at the end: {closed:?}");
    for (number, at) in (0..).zip(closed) {
        // The test may notice a close late, but no client is closed before its turn. A worker closes those of one turn together.
        let (after, turn) = (at - signalled, notice + grace * number / 30);
        assert!(after + Duration::from_millis(200) >= turn, "{after:?} is before {turn:?}");
    }
    let (status, _) = leaves.ended().await;
    assert_eq!(status.code(), Some(0));
    let room = stays.api("presence_stats", json!({ "channel": "stream:room" })).await;
    assert_eq!(room["num_clients"], 0, "no lease had to end for that");
}

#[tokio::test]
async fn the_load_balancer_is_told_before_anyone_is_closed() {
    let gateway = gateway().with("drain.notice_ms", 300_000).run().await;
    let _clients = (gateway.connect().await, gateway.connect().await);
    eventually("it is ready", async || gateway.is_ready().await).await;
    gateway.signal(Signal::TERM);
    eventually("unready first", async || !gateway.is_ready().await).await;
    assert_eq!(gateway.metric("tidegate_connections").await, 2.0);
    gateway.connect().await.subscribe("news").await;
    gateway.signal(Signal::INT);
    gateway.ended().await;
}

#[tokio::test]
async fn a_second_signal_ends_the_program_at_once() {
    let gateway = gateway().with("drain.notice_ms", 0).with("drain.grace_ms", 600_000).run().await;
    let (mut one, mut other) = (gateway.connect().await, gateway.connect().await);
    gateway.signal(Signal::TERM);
    // One client is closed at the beginning of the grace period, the other would be closed five minutes later.
    tokio::select! {
        _ = one.closed() => {}
        _ = other.closed() => {}
    }
    let second = Instant::now();
    gateway.signal(Signal::INT);
    gateway.ended().await;
    assert!(second.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_client_that_gets_in_while_others_are_drained_does_not_stay() {
    let gateway = gateway()
        .with("workers.count", 1)
        .with("drain.notice_ms", 0)
        .with("drain.grace_ms", 600_000)
        .run()
        .await;
    let mut first = gateway.connect().await;
    let mut late = TcpStream::connect(gateway.address).await.expect("it listens");
    let head = "GET /raw/late HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    late.write_all(head.as_bytes()).await.expect("sent");
    // The node has read the head once it has answered a later request on another connection.
    gateway.publish("news", json!(1)).await;
    gateway.signal(Signal::TERM);
    first.closed().await;
    late.write_all(b"\r\n").await.expect("sent");
    let mut said = Vec::new();
    let told = async {
        while !said.ends_with(b"shutdown") {
            assert!(late.read_buf(&mut said).await.expect("read") > 0, "{}", said.escape_ascii());
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it is told in time");
    assert!(said.starts_with(b"HTTP/1.1 101 "), "{}", said.escape_ascii());
    drop(late);
    assert_eq!(gateway.ended().await.0.code(), Some(0));
}

#[tokio::test]
async fn a_node_without_clients_stops_at_once() {
    let gateway = gateway().with("drain.notice_ms", 0).with("drain.grace_ms", 600_000).run().await;
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().await.0.code(), Some(0));
}

/// Returns a publish request, head and body in one string.
fn publish(channel: &str, number: u32) -> String {
    let body = json!({ "channel": channel, "data": number }).to_string();
    format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_drain_answers_the_requests_that_are_under_way() {
    let redis = RedisServer::start();
    let gateway = gateway().over(&redis.url()).run().await;
    gateway.publish("stream:news", json!(0)).await;
    redis.freeze();
    let mut asked = Vec::new();
    for number in 1..=20 {
        let mut stream = TcpStream::connect(gateway.address).await.expect("it listens");
        stream.write_all(publish("stream:news", number).as_bytes()).await.expect("sent");
        asked.push(stream);
    }
    let mut idle = TcpStream::connect(gateway.address).await.expect("it listens");
    gateway.metric_becomes("tidegate_connections", 0.0).await;
    gateway.signal(Signal::TERM);
    eventually("the door is shut", async || TcpStream::connect(gateway.address).await.is_err()).await;
    let mut nothing = Vec::new();
    idle.read_to_end(&mut nothing).await.expect("whoever has asked for nothing is let go at once");
    redis.thaw();
    for mut stream in asked {
        let answer = crate::http::answer(&mut stream).await.expect("an answer");
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(body.contains("\"offset\":"), "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    assert_eq!(gateway.ended().await.0.code(), Some(0));
}

#[tokio::test]
async fn from_the_first_word_of_a_drain_on_each_answer_is_the_last_on_its_connection() {
    let gateway = gateway().with("drain.notice_ms", 300_000).run().await;
    let is_last = async || {
        let mut stream = TcpStream::connect(gateway.address).await.expect("it listens");
        stream.write_all(publish("news", 1).as_bytes()).await.expect("sent");
        let answer = crate::http::answer(&mut stream).await.expect("an answer");
        answer.header("connection") == Some("close")
    };
    assert!(!is_last().await);
    gateway.signal(Signal::TERM);
    eventually("no more is asked on it", is_last).await;
    gateway.signal(Signal::INT);
    gateway.ended().await;
}

#[tokio::test]
async fn a_request_that_comes_too_late_for_a_drain_is_told_that_nothing_was_done() {
    let gateway = gateway().with("drain.grace_ms", 50).with("drain.linger_ms", 50).run().await;
    let request = publish("news", 1);
    let mut stream = TcpStream::connect(gateway.address).await.expect("it listens");
    // Sends all but the last byte of the body.
    stream.write_all(&request.as_bytes()[..request.len() - 1]).await.expect("sent");
    // The node has read this much once it has answered a later request on another connection.
    gateway.publish("news", json!(2)).await;
    gateway.signal(Signal::TERM);
    let answer = crate::http::answer(&mut stream).await.expect("an answer");
    assert_eq!(answer.status, 503);
    assert!(
        String::from_utf8_lossy(&answer.body).contains("nothing of this request was carried out"),
        "{answer:?}"
    );
    assert_eq!(gateway.ended().await.0.code(), Some(0));
}

#[tokio::test]
async fn a_client_that_does_not_answer_the_goodbye_does_not_hold_the_program() {
    let gateway = gateway()
        .with("drain.grace_ms", 100)
        .with("drain.linger_ms", 300)
        .with("websocket.close_timeout_ms", 60_000)
        .run()
        .await;
    let client = gateway.connect().await;
    // The socket stays open, but is not read any more.
    let stream = client.socket.into_inner();
    gateway.signal(Signal::TERM);
    let (status, _) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
    drop(stream);
}

#[tokio::test]
async fn a_killed_program_breaks_connections_without_a_word() {
    let gateway = gateway().run().await;
    let mut client = gateway.connect().await;
    gateway.signal(Signal::KILL);
    gateway.ended().await;
    assert!(matches!(client.socket.next().await, Err(Ending::Broken(_) | Ending::Silent)));
}
