//! Tests that after clients have left, in whatever way, nothing of theirs is counted, held or open.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Client, Socket};
use crate::gateway::{Gateway, PATIENCE, eventually, gateway};
use crate::http;
use crate::tls::Certificate;

/// Returns the number of files and sockets that the process has open.
fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.process())).expect("the process lives").count()
}

async fn nobody_is_left(gateway: &Gateway, descriptors_before: usize) {
    for gauge in ["tidegate_connections", "tidegate_subscriptions", "tidegate_handshakes_pending"] {
        gateway.metric_becomes(gauge, 0.0).await;
    }
    eventually("sockets are closed", async || descriptors(gateway) <= descriptors_before).await;
}

async fn info(gateway: &Gateway) -> serde_json::Value {
    gateway.api("info", json!({})).await["nodes"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_clients_leave_in_every_way_there_is() {
    let gateway = gateway().with("websocket.close_timeout_ms", 300).run().await;
    // Files that are opened on first use and stay open must not count.
    gateway.connect_as("first").await.socket.close().await;
    gateway.metric_becomes("tidegate_connections", 0.0).await;
    let before = descriptors(&gateway);
    let address = gateway.address;
    for round in 0..10 {
        let mut clients: Vec<Client> = Vec::new();
        for number in 0..50 {
            let mut client = gateway.connect_as(&format!("user-{}", number % 7)).await;
            client.subscribe(&format!("stream:{}", number % 5)).await;
            clients.push(client);
        }
        for (number, mut client) in clients.into_iter().enumerate() {
            match (round + number) % 7 {
                0 => client.socket.close().await,
                // The stream ends without a close frame.
                1 => drop(client),
                // A reset: unread bytes are discarded.
                2 => {
                    let stream = client.socket.into_inner().into_std().expect("a socket");
                    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).expect("set");
                }
                // Half closed: the client could still read.
                3 => client.socket.into_inner().shutdown().await.expect("shut down"),
                // A close frame and the end of the stream at once, with a command in flight.
                4 => {
                    client.ask("history", json!({ "channel": "stream:1", "limit": 10 })).await;
                    let mut stream = client.socket.into_inner();
                    stream.write_all(b"\x88\x82\x00\x00\x00\x00\x03\xe8").await.expect("sent");
                    stream.shutdown().await.expect("shut down");
                    let mut said = Vec::new();
                    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
                    read.expect("an end").expect("a clean one");
                    assert!(said.ends_with(b"\x88\x02\x03\xe8"), "it is answered: {said:?}");
                }
                // Disconnected by the server.
                5 => {
                    gateway.api("disconnect", json!({ "user": "user-1", "client": client.id })).await;
                    drop(client);
                }
                // Breaks the framing.
                _ => {
                    let mut stream = client.socket.into_inner();
                    stream.write_all(b"\xff\xff\xff\xff").await.expect("sent");
                    drop(stream);
                }
            }
        }
        // Handshakes that are not completed.
        for _ in 0..10 {
            drop(TcpStream::connect(address).await.expect("connected"));
            drop(http::open_upgrade(address, "/raw/chat", "").await);
        }
    }
    nobody_is_left(&gateway, before).await;
    let info = info(&gateway).await;
    assert_eq!(
        (&info["num_clients"], &info["num_users"], &info["num_subs"]),
        (&json!(0), &json!(0), &json!(0))
    );
    eventually("channels are let go", async || {
        gateway.api("info", json!({})).await["nodes"][0]["num_channels"] == 0
    })
    .await;
    for number in 0..5 {
        let channel = format!("stream:{number}");
        let stats = gateway.api("presence_stats", json!({ "channel": channel })).await;
        assert_eq!(stats["num_clients"], 0, "{channel}");
    }
    let closes = gateway.metric("tidegate_closes_total").await;
    assert_eq!(gateway.metric("tidegate_connections_total").await, closes, "each is counted once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_behind_tls_leave_nothing_either() {
    let certificate = Certificate::new();
    let gateway = certificate.on(gateway()).with("tls.handshake_timeout_ms", 300).run().await;
    let open = async || {
        let stream = certificate.connect(&gateway).await;
        Socket::upgrade(stream, "/raw/stream:chat", &[]).await.expect("upgraded")
    };
    open().await.close().await;
    gateway.metric_becomes("tidegate_connections", 0.0).await;
    let before = descriptors(&gateway);
    for number in 0..40 {
        let client = open().await;
        match number % 4 {
            0 => client.close().await,
            1 => drop(client),
            2 => drop(client.into_inner().into_inner()),
            // Bytes that are not TLS, in the middle of a TLS stream.
            _ => {
                let (mut stream, _) = client.into_inner().into_inner();
                stream.write_all(b"this is no record of TLS at all").await.expect("sent");
                let mut said = Vec::new();
                let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("an end");
            }
        }
    }
    let mut silent = TcpStream::connect(gateway.address).await.expect("connected");
    let mut said = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut said)).await.expect("an end");
    drop(silent);
    nobody_is_left(&gateway, before).await;
}

/// Bytes that look random and are the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let length = 1 + self.next() % most;
        (0..length).map(|_| self.next() as u8).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_breaks_nothing_but_its_own_connection() {
    let gateway = gateway()
        .with("http.head_timeout_ms", 300)
        .with("session.connect_timeout_ms", 300)
        .with("websocket.close_timeout_ms", 100)
        .run()
        .await;
    let mut witness = gateway.connect().await;
    witness.subscribe("news").await;
    let before = descriptors(&gateway);
    let mut noise = Noise(1);
    for number in 0..300 {
        let mut stream = match number % 3 {
            0 => TcpStream::connect(gateway.address).await.expect("connected"),
            1 => http::open_upgrade(gateway.address, "/connection/websocket", "").await,
            _ => {
                let extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
                http::open_upgrade(gateway.address, "/raw/chat", extension).await
            }
        };
        let mut bytes = noise.bytes(3000);
        if number % 2 == 0 {
            // The header of a valid frame with a garbage payload: compressed or not, masked with zeros.
            let length = 100.min(bytes.len()) as u8;
            let opcodes = [0x81, 0x82, 0xc1, 0xc2, 0x01, 0x80, 0x88, 0x89];
            let mut frame = vec![opcodes[noise.next() as usize % 8], 0x80 | length, 0, 0, 0, 0];
            frame.extend_from_slice(&bytes[..usize::from(length)]);
            frame.append(&mut bytes);
            bytes = frame;
        }
        // The node may close the connection before it has read everything.
        let _ = stream.write_all(&bytes).await;
        if number % 5 == 0 {
            let mut said = Vec::new();
            let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("an end");
        }
    }
    witness.publish("news", json!("unharmed")).await;
    assert_eq!(witness.publication().await.data, "unharmed");
    gateway.metric_becomes("tidegate_connections", 1.0).await;
    eventually("sockets are closed", async || descriptors(&gateway) <= before).await;
    gateway.signal(rustix::process::Signal::TERM);
    let (status, log) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(!log.iter().any(|line| line.contains("panicked")), "{log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_descriptor_that_is_used_again_gets_only_its_own_clients_bytes() {
    let gateway = gateway().with("workers.count", 2).start().await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut publisher = gateway.connect().await;
    let publishing = {
        let stop = stop.clone();
        tokio::spawn(async move {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for channel in ["red", "blue"] {
                    publisher.publish(channel, json!(channel)).await;
                }
            }
        })
    };
    let mut clients: Vec<(&str, Socket)> = Vec::new();
    for round in 0..300 {
        let channel = ["red", "blue"][round % 2];
        let mut client = gateway.raw(channel).await;
        if round % 3 == 0 {
            assert_eq!(client.text().await, format!("\"{channel}\""));
        }
        clients.push((channel, client));
        if clients.len() > 8 {
            // The next client gets this client's descriptor, the lowest free one.
            let (channel, mut client) = clients.swap_remove(round * 7 % 8);
            for _ in 0..3 {
                assert_eq!(client.text().await, format!("\"{channel}\""));
            }
        }
    }
    for (channel, mut client) in clients {
        for _ in 0..3 {
            assert_eq!(client.text().await, format!("\"{channel}\""));
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    publishing.await.expect("the publisher");
}
