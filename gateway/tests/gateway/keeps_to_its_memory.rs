//! Tests the memory budget for data that waits for slow clients; the clients with the largest backlog are closed first.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::client::{Client, Ending, Socket};
use crate::gateway::{Description, Gateway, KEY, eventually, gateway};
use crate::http;
use crate::polling::ENDPOINT;
use crate::pusher;

/// The smallest budget that the configuration allows.
const BUDGET: u32 = 16 << 20;
/// The clients' share, seven sixteenths, plus what one turn of a worker may add: the budget is checked when the turn ends.
const FOR_CLIENTS: f64 = (BUDGET / 16 * 7 + (4 << 20)) as f64;

/// Connects a client with small socket buffers, so that unread data waits in the node.
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

/// Starts a node that reaches its memory budget before its clients reach their outbox limits.
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
    // This channel receives each payload twice.
    channels.push("own0".to_owned());
    let mut rounds = 0;
    while gateway.metric("tidegate_memory_closes_total").await == 0.0 {
        gateway.api("broadcast", json!({ "channels": channels, "data": payload() })).await;
        for _ in 0..2 {
            reads.publication().await;
        }
        rounds += 1;
        assert!(gateway.metric("tidegate_client_buffer_bytes").await <= FOR_CLIENTS);
        assert!(rounds < 100, "nobody is closed");
    }
    let shed = gateway.metric("tidegate_memory_closes_total").await;
    assert!(shed < 15.0, "{shed} clients, where a few would have done");
    // This client had the largest backlog. Whether a close frame could be sent depends on whether a frame was half written.
    let told = loop {
        if let Err(ending) = slow[0].socket.next().await {
            break ending;
        }
    };
    assert!(!matches!(told, Ending::Reported(code, _) if code != 3008), "{told:?}");
    for _ in 0..rounds {
        gateway.api("broadcast", json!({ "channels": channels, "data": payload() })).await;
        for _ in 0..2 {
            reads.publication().await;
        }
        assert!(gateway.metric("tidegate_client_buffer_bytes").await <= FOR_CLIENTS);
    }
    drop(slow);
    eventually("nothing is kept for clients that are gone", async || {
        gateway.metric("tidegate_client_buffer_bytes").await == 0.0
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
    // The clients' backlogs add up to thirty times 40 frames, but each worker keeps a shared frame once.
    let kept = gateway.metric("tidegate_client_buffer_bytes").await;
    assert!(kept > 0.0 && kept <= 2.0 * 40.0 * f64::from(33 << 10), "{kept}");
    assert_eq!(gateway.metric("tidegate_memory_closes_total").await, 0.0);
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
        assert!(gateway.metric("tidegate_client_buffer_bytes").await <= FOR_CLIENTS);
    }
    eventually("some are closed", async || gateway.metric("tidegate_memory_closes_total").await > 0.0).await;
    assert!(gateway.metric("tidegate_client_buffer_bytes").await <= FOR_CLIENTS);
    assert!(gateway.metric("tidegate_connections").await > 0.0, "and some are not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_never_end_cost_as_many_clients_as_must_go_and_no_more() {
    const CLIENTS: u32 = 180;
    let gateway = gateway().with("limits.memory_bytes_max", BUDGET).start().await;
    // A text message in one masked frame of 60,000 bytes, of which the last is held back.
    let mut message = vec![0x81, 0xfe, 0xea, 0x60, 0, 0, 0, 0];
    message.extend([b'x'; 59_999]);
    let mut unfinished = Vec::new();
    for _ in 0..CLIENTS {
        let mut socket = gateway.raw("chat").await.into_inner();
        socket.write_all(&message).await.expect("it is read");
        unfinished.push(socket);
    }
    eventually("some are closed", async || gateway.metric("tidegate_memory_closes_total").await > 0.0).await;
    assert!(gateway.metric("tidegate_client_buffer_bytes").await <= FOR_CLIENTS);
    // Shedding begins at seven eighths of the clients' share and ends at three quarters.
    let left = f64::from(CLIENTS) - gateway.metric("tidegate_memory_closes_total").await;
    let fitting = f64::from(BUDGET / 16 * 7 / 4 * 3 / 66_000);
    assert!(left >= fitting / 2.0, "{left} clients are left, and {fitting} would fit");
}

/// Sends a request with this many bytes of its body, of which one more byte is missing.
async fn unfinished(gateway: &Gateway, head: &str, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address).await.expect("it listens");
    let head = format!("{head} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: {}\r\n", bytes + 1);
    let form = "Accept: text/event-stream\r\nContent-Type: application/x-www-form-urlencoded\r\nAuthorization: Bearer x\r\n\r\n";
    stream.write_all(format!("{head}{form}").as_bytes()).await.expect("it is read");
    // The request may be refused before all of it has arrived.
    let _ = stream.write_all(&vec![b'x'; bytes]).await;
    stream
}

fn with_all_that_reads_bodies() -> Description {
    gateway()
        .with("limits.memory_bytes_max", BUDGET)
        .with("socketio.payload_bytes_max", 400_000)
        .with("websocket.message_bytes_max", 400_000)
        .with("session.queued_bytes_max", 800_000)
        .with("mercure.enabled", true)
        .with("graphql.enabled", true)
        .and("[graphql.subscriptions.chat]\nchannel = \"chat\"\n")
        .and(ENDPOINT)
        .and(pusher::APP)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_requests_have_a_part_of_the_budget_together_and_the_next_is_told_to_come_again() {
    let gateway = with_all_that_reads_bodies().start().await;
    let poller = gateway.poller().await;
    let mut filling = Vec::new();
    for number in 1..=3 {
        filling.push(unfinished(&gateway, "POST /emulation", 340_000).await);
        gateway.metric_becomes("tidegate_bodies_bytes", 340_000.0 * f64::from(number)).await;
    }
    let posts = [
        "POST /api/publish",
        "POST /api/batch",
        "POST /connection/publish",
        "POST /emulation",
        "POST /connection/http_stream",
        "POST /.well-known/mercure",
        "POST /graphql",
        pusher::POST,
        &poller.post(),
    ];
    for (number, post) in posts.into_iter().enumerate() {
        let mut next = unfinished(&gateway, post, 60_000).await;
        let answer = http::answer(&mut next).await.unwrap_or_else(|| panic!("{post}: no answer"));
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{post}: {answer:?}");
        assert_eq!(gateway.metric("tidegate_bodies_refused_total").await, number as f64 + 1.0, "{post}");
        assert_eq!(gateway.metric("tidegate_bodies_bytes").await, 3.0 * 340_000.0, "{post}");
    }
    gateway.publish("chat", json!("what is small has room")).await;
    drop(filling);
    gateway.metric_becomes("tidegate_bodies_bytes", 0.0).await;
    gateway.publish("chat", json!("x".repeat(50_000))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beginnings_of_publications_on_workers_count_too() {
    let gateway = gateway().with("limits.memory_bytes_max", BUDGET).start().await;
    let mut callers = Vec::new();
    for _ in 0..17 {
        callers.push(unfinished(&gateway, "POST /api/publish", 60_000).await);
    }
    eventually("they count", async || gateway.metric("tidegate_bodies_bytes").await >= 17.0 * 60_000.0).await;
    let mut next = unfinished(&gateway, "POST /api/publish", 60_000).await;
    let answer = http::answer(&mut next).await.expect("an answer");
    assert_eq!(answer.status, 503);
    assert_eq!(gateway.metric("tidegate_bodies_refused_total").await, 1.0);
    drop(callers);
    gateway.metric_becomes("tidegate_bodies_bytes", 0.0).await;
}
