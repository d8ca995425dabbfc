//! Tests every limit on an open connection, with its close code and its metric.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::client::Ending;
use crate::gateway::{Description, Gateway, eventually, gateway};

async fn counted(gateway: &Gateway, reason: &str, times: f64) {
    gateway.metric_becomes(&format!("tidegate_closes_total{{reason=\"{reason}\"}}"), times).await;
}

/// Describes a gateway without rate limits.
fn without_rates() -> Description {
    gateway().with("session.messages_per_second", 0).with("session.bytes_per_second", 0)
}

#[tokio::test]
async fn a_client_that_does_not_connect_in_time_is_closed() {
    let gateway = gateway().with("session.connect_timeout_ms", 100).start().await;
    let mut silent = gateway.stranger().await;
    assert_eq!(silent.closed().await, (3502, "stale".to_owned()));
    counted(&gateway, "stale", 1.0).await;
}

#[tokio::test]
async fn a_message_longer_than_allowed_closes_with_1009_however_it_comes() {
    let gateway = gateway().with("websocket.message_bytes_max", 1000).start().await;
    let mut whole = gateway.connect().await;
    // The message is longer than the socket buffers: most of it is on its way when the node refuses it.
    let _ = whole.socket.try_send("x".repeat(8 << 20)).await;
    let (code, reason) = whole.closed().await;
    assert_eq!((code, &*reason), (1009, "message too big"));

    let mut parts = gateway.raw("chat").await;
    parts.send("x".repeat(1000)).await;
    assert_eq!(parts.text().await.len(), 1000);
    let _ = parts.try_send("x".repeat(1001)).await;
    assert_eq!(parts.closed().await.0, 1009);
    counted(&gateway, "message too big", 2.0).await;
}

#[tokio::test]
async fn what_a_client_was_still_sending_does_not_cost_it_the_close_frame() {
    let gateway = gateway()
        .with("websocket.message_bytes_max", 1000)
        .with("websocket.close_timeout_ms", 30_000)
        .start()
        .await;
    let mut stream = gateway.raw("chat").await.into_inner();
    // A frame of 8 MiB is refused by its header, and the client sends all of it nevertheless.
    let mut frame = vec![0x82, 0xff, 0, 0, 0, 0, 0, 0x80, 0, 0, 1, 2, 3, 4];
    frame.resize(frame.len() + (8 << 20), 0);
    tokio::io::AsyncWriteExt::write_all(&mut stream, &frame).await.expect("the node reads on");
    let answer = read_to_end(stream).await;
    assert_eq!(answer[2..4], 1009_u16.to_be_bytes());
}

#[tokio::test]
async fn broken_frames_close_with_1002_and_broken_text_with_1007() {
    let gateway = gateway().start().await;
    for (bytes, code, reason) in [
        (&b"\x83\x80\x00\x00\x00\x00"[..], 1002, "protocol error"),
        (b"\x81\x01x", 1002, "protocol error"),
        (b"\xc1\x80\x00\x00\x00\x00", 1002, "protocol error"),
        (b"\x81\x81\x00\x00\x00\x00\xff", 1007, "invalid data"),
    ] {
        let client = gateway.raw("chat").await;
        let mut stream = client.into_inner();
        tokio::io::AsyncWriteExt::write_all(&mut stream, bytes).await.expect("sent");
        let answer = read_to_end(stream).await;
        let mut expected = vec![0x88, 2 + reason.len() as u8];
        expected.extend_from_slice(&u16::to_be_bytes(code));
        expected.extend_from_slice(reason.as_bytes());
        assert_eq!(answer, expected, "{bytes:?}");
    }
    counted(&gateway, "protocol error", 3.0).await;
}

async fn read_to_end(mut stream: tokio::net::TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut bytes);
    tokio::time::timeout(crate::gateway::PATIENCE, read).await.expect("an end in time").expect("a clean end");
    bytes
}

#[tokio::test]
async fn channels_are_limited_in_number_and_in_length() {
    let gateway =
        gateway().with("session.channels_max", 2).with("session.channel_bytes_max", 10).start().await;
    let mut client = gateway.connect().await;
    client.subscribe("one").await;
    client.subscribe("two").await;
    assert_eq!(client.refused("subscribe", json!({ "channel": "three" })).await, 106);
    client.command("unsubscribe", json!({ "channel": "one" })).await;
    client.subscribe("three").await;
    assert_eq!(client.refused("subscribe", json!({ "channel": "elevenchars" })).await, 107);
    assert_eq!(client.refused("publish", json!({ "channel": "elevenchars", "data": 1 })).await, 107);
}

#[tokio::test]
async fn too_many_messages_close_with_3013() {
    let gateway = gateway()
        .with("session.messages_per_second", 10)
        .with("session.messages_burst", 20)
        .with("session.channels_max", 10)
        .start()
        .await;
    let mut client = gateway.connect().await;
    let mut keeps_to_it = gateway.connect().await;
    for _ in 0..40 {
        let _ = client.socket.try_send("{\"id\":9,\"publish\":{\"channel\":\"news\",\"data\":1}}").await;
    }
    assert_eq!(client.closed().await, (3013, "too many requests".to_owned()));
    counted(&gateway, "too many requests", 1.0).await;
    keeps_to_it.publish("news", json!(1)).await;
}

#[tokio::test]
async fn too_many_bytes_close_with_3013() {
    let gateway = gateway()
        .with("session.bytes_per_second", 1000)
        .with("session.bytes_burst", 20_000)
        .with("websocket.message_bytes_max", 20_000)
        .start()
        .await;
    let mut client = gateway.raw("chat").await;
    client.send("x".repeat(15_000)).await;
    let _ = client.try_send("x".repeat(15_000)).await;
    assert_eq!(client.closed().await.0, 3013);
}

#[tokio::test]
async fn a_client_that_stops_reading_is_closed_and_hurts_nobody_else() {
    for way in ["auto", "off"] {
        one_that_stops_reading_hurts_nobody_else(way).await;
    }
}

async fn one_that_stops_reading_hurts_nobody_else(way: &str) {
    let gateway = gateway()
        .with("websocket.outbox_bytes_max", 65_536)
        .with("session.bytes_per_second", 0)
        .with("workers.count", 1)
        .with("workers.io_uring", way)
        .start()
        .await;
    // This many clients share one system call, where io_uring is allowed.
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut reader = gateway.connect().await;
        reader.subscribe("stream:firehose").await;
        readers.push(reader);
    }
    let mut sleeper = gateway.connect().await;
    sleeper.subscribe("stream:firehose").await;
    let mut publisher = gateway.connect().await;
    let payload = "x".repeat(60_000);
    let mut sent = 0;
    let start = Instant::now();
    while gateway.metric("tidegate_slow_consumers_total").await == 0.0 {
        assert!(start.elapsed() < Duration::from_secs(30), "{sent} large publications and nobody is slow");
        for _ in 0..10 {
            publisher.publish("stream:firehose", json!(payload)).await;
            sent += 1;
            for reader in &mut readers {
                assert_eq!(reader.publication().await.offset, sent, "a reader gets all, in order");
            }
        }
    }
    assert_eq!(sleeper_end(&mut sleeper, sent).await, 3008);
    counted(&gateway, "slow", 1.0).await;
    assert!(gateway.metric("tidegate_drops_total{reason=\"outbox_full\"}").await >= 1.0);
    publisher.publish("stream:firehose", json!("after")).await;
    for reader in &mut readers {
        assert_eq!(reader.publication().await.data, "after");
    }
}

/// Reads what the slow client was sent: complete publications in order from the first, then the close code.
async fn sleeper_end(sleeper: &mut crate::client::Client, sent: u64) -> u16 {
    let mut last = 0;
    loop {
        match sleeper.try_push().await {
            Ok(push) => {
                let publication = crate::client::received(&push).expect("a publication");
                assert_eq!(publication.offset, last + 1);
                last = publication.offset;
            }
            Err(Ending::Reported(code, _)) => {
                assert!(last < sent);
                return code;
            }
            // The client was too slow even for the close frame.
            Err(Ending::Broken(_) | Ending::Silent) => return 3008,
        }
    }
}

#[tokio::test]
async fn a_socket_that_takes_nothing_is_closed_after_the_write_timeout() {
    let gateway = gateway()
        .with("websocket.outbox_bytes_max", 64 << 20)
        .with("session.bytes_per_second", 0)
        .with("websocket.write_timeout_ms", 300)
        .with("websocket.close_timeout_ms", 200)
        .start()
        .await;
    let mut sleeper = gateway.raw("firehose").await;
    gateway.metric_becomes("tidegate_subscriptions", 1.0).await;
    let mut publisher = gateway.connect().await;
    let payload = "x".repeat(60_000);
    eventually("it is closed", async || {
        publisher.publish("firehose", json!(payload)).await;
        gateway.metric("tidegate_slow_consumers_total").await == 1.0
    })
    .await;
    gateway.metric_becomes("tidegate_connections", 1.0).await;
    crate::client::drain_for(&mut sleeper, Duration::from_millis(10)).await;
}

#[tokio::test]
async fn pings_without_end_from_a_client_that_does_not_read_close_it() {
    let gateway = without_rates()
        .with("websocket.outbox_bytes_max", 4096)
        // The write timeout must not be what closes the client.
        .with("websocket.write_timeout_ms", 600_000)
        .start()
        .await;
    let mut client = gateway.raw("chat").await;
    let start = Instant::now();
    // The client's own socket fills up in the end, when the node stops reading.
    while gateway.metric("tidegate_slow_consumers_total").await == 0.0 {
        assert!(start.elapsed() < Duration::from_secs(30));
        for _ in 0..5_000 {
            let ping = client.try_send(Message::Ping(vec![0; 125].into()));
            if !matches!(tokio::time::timeout(Duration::from_millis(100), ping).await, Ok(Ok(()))) {
                break;
            }
        }
    }
    gateway.metric_becomes("tidegate_connections", 0.0).await;
}

#[tokio::test]
async fn pings_and_pongs_count_against_the_rate_of_messages() {
    let gateway = gateway()
        .with("session.messages_per_second", 10)
        .with("session.messages_burst", 20)
        .with("session.channels_max", 10)
        .start()
        .await;
    for message in [Message::Ping("x".into()), Message::Pong("x".into())] {
        let mut client = gateway.raw("chat").await;
        for _ in 0..40 {
            let _ = client.try_send(message.clone()).await;
        }
        assert_eq!(client.closed().await.0, 3013, "{message:?}");
    }
}

#[tokio::test]
async fn who_stopped_reading_for_a_while_and_went_on_is_nobody_to_blame() {
    let gateway = without_rates()
        .with("websocket.outbox_bytes_max", 64 << 20)
        .with("websocket.write_timeout_ms", 4_000)
        .start()
        .await;
    let mut reader = gateway.connect().await;
    reader.subscribe("stream:much").await;
    let publish = json!({ "publish": { "channel": "stream:much", "data": "x".repeat(60_000) } });
    // More than the sockets hold, before the client reads anything.
    for _ in 0..15 {
        gateway.api("batch", json!({ "commands": vec![&publish; 10] })).await;
    }
    for offset in 1..=150 {
        assert_eq!(reader.publication().await.offset, offset);
    }
    // For longer than the write timeout.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        gateway.publish("stream:much", json!("still here")).await;
        assert_eq!(reader.publication().await.data, "still here");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_far_ahead_of_its_answers_is_read_no_further_and_loses_nothing() {
    let gateway = without_rates()
        .with("session.queued_commands_max", 40)
        .with("session.channels_max", 10)
        .start()
        .await;
    let client = gateway.connect().await;
    let (mut commands, mut answers) = client.socket.split();
    let asking = tokio::spawn(async move {
        for number in 0..5000u64 {
            let command =
                json!({ "id": number + 2, "publish": { "channel": "stream:much", "data": number } });
            commands.send(Message::text(command.to_string())).await.expect("it stays open");
        }
        commands
    });
    let mut last = 1;
    while last < 5001 {
        let text = match answers.next().await {
            Some(Ok(Message::Text(text))) => text,
            other => panic!("after {last}: {other:?}"),
        };
        for answer in text.lines() {
            let answer: serde_json::Value = serde_json::from_str(answer).expect("JSON");
            assert_eq!((answer["id"].as_u64(), answer.get("error")), (Some(last + 1), None));
            last += 1;
        }
    }
    let _open = asking.await.expect("all are sent");
    let top = gateway.api("history", json!({ "channel": "stream:much", "limit": 1, "reverse": true })).await;
    assert_eq!((&top["offset"], &top["publications"][0]["data"]), (&json!(5000), &json!(4999)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shortest_messages_may_come_all_at_once() {
    let gateway = without_rates().with("websocket.outbox_bytes_max", 64 << 20).start().await;
    let client = gateway.raw("chat").await;
    gateway.metric_becomes("tidegate_subscriptions", 1.0).await;
    let (mut messages, mut echoes) = client.split();
    let sending = tokio::spawn(async move {
        for _ in 0..20_000 {
            messages.feed(Message::text("1")).await.expect("it stays open");
        }
        messages.flush().await.expect("it stays open");
        messages
    });
    let mut count = 0;
    while count < 20_000 {
        match echoes.next().await {
            Some(Ok(Message::Text(text))) => count += text.lines().count(),
            other => panic!("after {count}: {other:?}"),
        }
    }
    let _open = sending.await.expect("all are sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_messages_may_follow_each_other() {
    let gateway = without_rates()
        .with("session.queued_bytes_max", 2 << 20)
        .with("websocket.outbox_bytes_max", 64 << 20)
        .with("websocket.message_bytes_max", 1 << 20)
        .start()
        .await;
    let client = gateway.raw("chat").await;
    gateway.metric_becomes("tidegate_subscriptions", 1.0).await;
    let (mut messages, mut echoes) = client.split();
    let sending = tokio::spawn(async move {
        for number in 0..20u8 {
            messages.send(Message::binary(vec![number; 1 << 20])).await.expect("it stays open");
        }
        messages
    });
    for number in 0..20u8 {
        let echo = echoes.next().await.expect("an echo").expect("it stays open");
        assert!(echo == Message::binary(vec![number; 1 << 20]));
    }
    let _open = sending.await.expect("all are sent");
}
