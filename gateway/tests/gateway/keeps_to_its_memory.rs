//! What waits for slow clients has a budget; those who owe the node most go first.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::client::{Client, Ending, Socket};
use crate::gateway::{Gateway, eventually, gateway};

/// The least a node can be given.
const BUDGET: u32 = 16 << 20;
/// Half of it is for clients, and what comes in one turn of a worker is looked at when the turn ends.
const FOR_CLIENTS: f64 = (BUDGET / 2 + (4 << 20)) as f64;

/// A client whose socket holds little, so that what it does not read waits in the node.
pub async fn narrow(gateway: &Gateway, channel: &str) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket2::SockRef::from(&socket).set_tcp_mss(536).expect("small segments, so small buffers");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let stream: TcpStream = socket.connect(gateway.address).await.expect("it listens");
    let mut client =
        Client::new(Socket::upgrade(stream, "/connection/websocket", &[]).await.expect("upgraded"));
    client.command("connect", json!({})).await;
    client.subscribe(channel).await;
    client
}

/// A node that runs out of memory before the clients it serves run out of their outboxes.
async fn with_budget() -> Gateway {
    let described = gateway().with("limits.memory_bytes_max", BUDGET);
    described.with("websocket.outbox_bytes_max", 4 << 20).with("websocket.compression", false).start().await
}

fn payload() -> Value {
    json!("x".repeat(32 << 10))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_are_closed_before_the_budget_is_used_up_the_largest_debtor_first() {
    let gateway = with_budget().await;
    let mut reads = gateway.connect().await;
    reads.subscribe("own0").await;
    let mut slow = Vec::new();
    for number in 0..30 {
        slow.push(narrow(&gateway, &format!("own{number}")).await);
    }
    let mut channels: Vec<String> = (0..30).map(|number| format!("own{number}")).collect();
    // Twice for this one.
    channels.push("own0".to_owned());
    let mut rounds = 0;
    while gateway.metric("tidegate_shed_total").await == 0.0 {
        gateway.api("broadcast", json!({ "channels": channels, "data": payload() })).await;
        for _ in 0..2 {
            reads.publication().await;
        }
        rounds += 1;
        assert!(gateway.metric("tidegate_kept_bytes").await <= FOR_CLIENTS);
        assert!(rounds < 100, "nobody is closed");
    }
    let shed = gateway.metric("tidegate_shed_total").await;
    assert!(shed < 15.0, "{shed} clients, where a few would have done");
    // It owed the most. Whether it could be told depends on what had begun to be written to it.
    let told = loop {
        if let Err(ending) = slow[0].socket.next().await {
            break ending;
        }
    };
    assert!(!matches!(told, Ending::Said(code, _) if code != 3008), "{told:?}");
    for _ in 0..rounds {
        gateway.api("broadcast", json!({ "channels": channels, "data": payload() })).await;
        for _ in 0..2 {
            reads.publication().await;
        }
        assert!(gateway.metric("tidegate_kept_bytes").await <= FOR_CLIENTS);
    }
    drop(slow);
    eventually("nothing is kept for clients that are gone", async || {
        gateway.metric("tidegate_kept_bytes").await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_many_counts_once() {
    let gateway = with_budget().await;
    let mut slow = Vec::new();
    for _ in 0..30 {
        slow.push(narrow(&gateway, "news").await);
    }
    for _ in 0..40 {
        gateway.publish("news", payload()).await;
    }
    gateway.metric_becomes("tidegate_deliveries_out_total", 30.0 * 40.0).await;
    // Together they owe thirty times as much as two workers keep.
    let kept = gateway.metric("tidegate_kept_bytes").await;
    assert!(kept > 0.0 && kept <= 2.0 * 40.0 * f64::from(33 << 10), "{kept}");
    assert_eq!(gateway.metric("tidegate_shed_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_that_nobody_reads_do_not_take_a_node_beyond_its_budget() {
    let gateway = gateway()
        .with("limits.memory_bytes_max", BUDGET)
        .with("session.reply_bytes_max", 512 << 10)
        .with("websocket.compression", false)
        .start()
        .await;
    for _ in 0..16 {
        gateway.publish("stream:long", payload()).await;
    }
    let mut slow = Vec::new();
    for _ in 0..60 {
        let mut client = narrow(&gateway, "stream:long").await;
        client.ask("history", json!({ "channel": "stream:long", "limit": 500 })).await;
        slow.push(client);
        assert!(gateway.metric("tidegate_kept_bytes").await <= FOR_CLIENTS);
    }
    eventually("some are closed", async || gateway.metric("tidegate_shed_total").await > 0.0).await;
    assert!(gateway.metric("tidegate_kept_bytes").await <= FOR_CLIENTS);
    assert!(gateway.metric("tidegate_connections").await > 0.0, "and some are not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_never_end_cost_as_many_clients_as_must_go_and_no_more() {
    const CLIENTS: u32 = 180;
    let gateway = gateway().with("limits.memory_bytes_max", BUDGET).start().await;
    // Text in one masked frame of 60,000 bytes, of which the last is kept back.
    let mut message = vec![0x81, 0xfe, 0xea, 0x60, 0, 0, 0, 0];
    message.extend([b'x'; 59_999]);
    let mut unfinished = Vec::new();
    for _ in 0..CLIENTS {
        let mut socket = gateway.raw("chat").await.into_inner();
        socket.write_all(&message).await.expect("it is read");
        unfinished.push(socket);
    }
    eventually("some are closed", async || gateway.metric("tidegate_shed_total").await > 0.0).await;
    assert!(gateway.metric("tidegate_kept_bytes").await <= FOR_CLIENTS);
    // Each look ends at three quarters of what there is for clients, and begins at seven eighths.
    let left = f64::from(CLIENTS) - gateway.metric("tidegate_shed_total").await;
    let fitting = f64::from(BUDGET / 2 / 4 * 3 / 66_000);
    assert!(left >= fitting / 2.0, "{left} clients are left, and {fitting} would fit");
}
