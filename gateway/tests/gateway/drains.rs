//! The program is told to stop: who is there leaves in good order.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpStream;

use crate::client::Ending;
use crate::gateway::{eventually, gateway};
use crate::redis_server::RedisServer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_closes_clients_one_after_the_other_and_takes_their_presence_back() {
    let redis = RedisServer::start();
    let stays = gateway().over(&redis.url()).start().await;
    let leaves =
        gateway().over(&redis.url()).with("drain.notice_ms", 600).with("drain.grace_ms", 1500).run().await;
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
    eventually("it is ready", async || leaves.is_ready().await).await;
    leaves.signal(Signal::TERM);
    eventually("unready first", async || !leaves.is_ready().await).await;
    let unready = Instant::now();
    assert_eq!(
        leaves.metric("tidegate_connections").await,
        30.0,
        "the load balancer is told before anyone is closed"
    );
    assert!(TcpStream::connect(leaves.address).await.is_ok(), "who was sent here already is still let in");
    let mut closed = Vec::new();
    while let Some(at) = closings.join_next().await {
        closed.push(at.expect("closed with 3001"));
        assert!(TcpStream::connect(leaves.address).await.is_err(), "no more are let in");
    }
    closed.sort();
    assert!(closed[0] >= unready, "nobody before the notice");
    let spread = closed[29] - closed[0];
    assert!(spread > Duration::from_millis(750), "30 clients within {spread:?}");
    let longest_pause = closed.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    assert!(longest_pause < Duration::from_millis(600), "a pause of {longest_pause:?}");
    let (status, _) = leaves.ended().await;
    assert_eq!(status.code(), Some(0));
    let room = stays.api("presence_stats", json!({ "channel": "stream:room" })).await;
    assert_eq!(room["num_clients"], 0, "no lease had to end for that");
}

#[tokio::test]
async fn a_second_signal_ends_the_program_at_once() {
    let gateway = gateway().with("drain.notice_ms", 0).with("drain.grace_ms", 600_000).run().await;
    let (mut one, mut other) = (gateway.connect().await, gateway.connect().await);
    gateway.signal(Signal::TERM);
    // The first is closed at the beginning of the grace period, the other would be five minutes later.
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
async fn a_node_without_clients_stops_at_once() {
    let gateway = gateway().with("drain.notice_ms", 0).with("drain.grace_ms", 600_000).run().await;
    gateway.signal(Signal::TERM);
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
    // Nobody reads this socket any more, and it stays open.
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
