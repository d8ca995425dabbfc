//! Tests clients over TLS: large transfers in both directions, readers that pause, and readers that do not return.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::{Client, Socket};
use crate::gateway::{Gateway, gateway};
use crate::tls::Certificate;

type TlsClient = Client<TlsStream<TcpStream>>;

async fn connect(certificate: &Certificate, gateway: &Gateway) -> TlsClient {
    let stream = certificate.connect(gateway).await;
    let mut client =
        Client::new(Socket::upgrade(stream, "/connection/websocket", &[]).await.expect("upgraded"));
    client.command("connect", json!({})).await;
    client
}

/// Publishes through a client, so that the test needs no HTTP over TLS.
async fn publish(publisher: &mut TlsClient, count: u64, bytes: usize) {
    let data = "x".repeat(bytes);
    for _ in 0..count {
        publisher.publish("stream:much", json!(data)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_pauses_gets_everything_when_it_reads_again() {
    let certificate = Certificate::new();
    let gateway = certificate
        .on(gateway())
        .with("websocket.outbox_bytes_max", 256 << 20)
        .with("session.bytes_per_second", 0)
        // The reader pauses while the test publishes, which takes long on a busy machine.
        .with("websocket.write_timeout_ms", 60_000)
        .start()
        .await;
    let mut reader = connect(&certificate, &gateway).await;
    reader.command("subscribe", json!({ "channel": "stream:much" })).await;
    let mut publisher = connect(&certificate, &gateway).await;
    let mut next = 1;
    for _ in 0..3 {
        // More than all buffers between the node and the reader hold.
        publish(&mut publisher, 250, 50_000).await;
        for _ in 0..250 {
            assert_eq!(reader.publication().await.offset, next);
            next += 1;
        }
    }
    assert_eq!(gateway.metric("tidegate_slow_consumers_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_reads_slowly_but_reads_is_not_closed() {
    let certificate = Certificate::new();
    let gateway = certificate
        .on(gateway())
        .with("websocket.outbox_bytes_max", 256 << 20)
        .with("session.bytes_per_second", 0)
        .with("websocket.write_timeout_ms", 1500)
        .start()
        .await;
    let mut reader = connect(&certificate, &gateway).await;
    reader.command("subscribe", json!({ "channel": "stream:much" })).await;
    let mut publisher = connect(&certificate, &gateway).await;
    let reading = tokio::spawn(async move {
        let start = Instant::now();
        for number in 1..=300u64 {
            assert_eq!(reader.publication().await.offset, number);
            if start.elapsed() < Duration::from_secs(6) {
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
        }
    });
    publish(&mut publisher, 300, 50_000).await;
    reading.await.expect("all is read, in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_returns_is_closed_as_slow() {
    let certificate = Certificate::new();
    let gateway = certificate
        .on(gateway())
        .with("websocket.outbox_bytes_max", 256 << 20)
        .with("session.bytes_per_second", 0)
        .with("websocket.write_timeout_ms", 300)
        .with("websocket.close_timeout_ms", 200)
        .start()
        .await;
    let mut sleeper = connect(&certificate, &gateway).await;
    sleeper.command("subscribe", json!({ "channel": "stream:much" })).await;
    let mut publisher = connect(&certificate, &gateway).await;
    publish(&mut publisher, 300, 50_000).await;
    gateway.metric_becomes("tidegate_slow_consumers_total", 1.0).await;
    gateway.metric_becomes("tidegate_connections", 1.0).await;
}
