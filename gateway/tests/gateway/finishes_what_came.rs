//! Tests clients that leave with commands on their way: the commands are carried out before the close frame is answered.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::gateway::{Description, Gateway, PATIENCE, eventually, gateway};
use crate::redis_server::RedisServer;

/// Encodes a client's frame, masked with zeros.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(length).expect("a short message").to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

fn text(text: &str) -> Vec<u8> {
    frame(1, text.as_bytes())
}

fn goodbye() -> Vec<u8> {
    frame(8, &1000_u16.to_be_bytes())
}

/// The server's close frame in response to `goodbye`.
const GOODBYE: [u8; 4] = [0x88, 2, 0x03, 0xe8];

async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("sent");
}

async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    tokio::time::timeout(PATIENCE, read).await.expect("an end in time").expect("a clean end");
    bytes
}

/// Checks that the next publications are these numbers.
async fn hears(listener: &mut Client, numbers: std::ops::Range<u32>) {
    for number in numbers {
        assert_eq!(listener.publication().await.data, json!(number));
    }
}

async fn listener(gateway: &Gateway) -> Client {
    let mut listener = gateway.connect().await;
    listener.subscribe("chat").await;
    listener
}

async fn frames_and_a_goodbye(description: Description) {
    let gateway = description.start().await;
    let mut listener = listener(&gateway).await;
    for number in 0..20 {
        let mut stream = gateway.raw("chat").await.into_inner();
        send(&mut stream, &[text(&number.to_string()), goodbye()].concat()).await;
        let said = read_to_end(&mut stream).await;
        assert!(said.ends_with(&GOODBYE), "{said:?}");
        hears(&mut listener, number..number + 1).await;
    }
    gateway.metric_becomes("tidegate_closes_total{reason=\"peer\"}", 20.0).await;
    assert_eq!(gateway.metric("tidegate_commands_given_up_total").await, 0.0);
}

#[tokio::test]
async fn a_message_and_a_goodbye_in_one_segment_are_a_publication_and_an_answer() {
    frames_and_a_goodbye(gateway()).await;
    let redis = RedisServer::start();
    frames_and_a_goodbye(gateway().over(&redis.url())).await;
}

#[tokio::test]
async fn what_came_before_the_end_of_the_stream_is_published() {
    let redis = RedisServer::start();
    let gateway = gateway().over(&redis.url()).start().await;
    let mut listener = listener(&gateway).await;
    let mut stream = gateway.raw("chat").await.into_inner();
    let frames: Vec<u8> = (0..50).flat_map(|number| text(&number.to_string())).collect();
    send(&mut stream, &frames).await;
    stream.shutdown().await.expect("its own side is ended");
    hears(&mut listener, 0..50).await;
    read_to_end(&mut stream).await;
    gateway.metric_becomes("tidegate_connections", 1.0).await;
}

/// Encodes `count` publish commands, each with its id.
fn publications(count: u32) -> Vec<u8> {
    let command = |number: u32| {
        json!({ "id": number + 10, "publish": { "channel": "chat", "data": number } }).to_string()
    };
    (0..count).flat_map(|number| text(&command(number))).collect()
}

/// Returns the ids of the replies in the bytes that a server has sent.
fn replies(said: &[u8]) -> Vec<u64> {
    let mut ids = Vec::new();
    let mut rest = said;
    while let [head, length, after @ ..] = rest {
        let (length, after) = match *length {
            126 => (usize::from(u16::from_be_bytes([after[0], after[1]])), &after[2..]),
            length => (usize::from(length), after),
        };
        if head & 0xf == 1 {
            let lines = after[..length].split(|byte| *byte == b'\n');
            let id = |line| serde_json::from_slice::<serde_json::Value>(line).expect("JSON")["id"].as_u64();
            ids.extend(lines.filter_map(id));
        }
        rest = &after[length..];
    }
    ids
}

#[tokio::test]
async fn every_command_before_a_goodbye_has_its_reply_before_the_answer_to_it() {
    let redis = RedisServer::start();
    let gateway = gateway().over(&redis.url()).start().await;
    let mut listener = listener(&gateway).await;
    for ends_its_stream in [false, true] {
        let mut stream = gateway.connect().await.socket.into_inner();
        let end = if ends_its_stream { Vec::new() } else { goodbye() };
        send(&mut stream, &[publications(50), end].concat()).await;
        if ends_its_stream {
            stream.shutdown().await.expect("its own side is ended");
        }
        hears(&mut listener, 0..50).await;
        let said = read_to_end(&mut stream).await;
        assert_eq!(replies(&said), (10..60).collect::<Vec<u64>>());
        assert_eq!(said.ends_with(&GOODBYE), !ends_its_stream);
    }
}

/// Starts a node that stops reading from a client while 16 of its commands wait.
async fn with_a_short_backlog(redis: &RedisServer) -> Gateway {
    let described = gateway().over(&redis.url()).with("session.queued_commands_max", 16);
    described.with("session.channels_max", 4).start().await
}

#[tokio::test]
async fn a_goodbye_that_lies_unread_behind_a_backlog_is_found_and_all_before_it_is_done() {
    let redis = RedisServer::start();
    let gateway = with_a_short_backlog(&redis).await;
    let mut listener = listener(&gateway).await;
    let mut stream = gateway.raw("chat").await.into_inner();
    let frames: Vec<u8> = (0..300).flat_map(|number| text(&number.to_string())).collect();
    send(&mut stream, &[frames, goodbye()].concat()).await;
    hears(&mut listener, 0..300).await;
    assert!(read_to_end(&mut stream).await.ends_with(&GOODBYE));
}

#[tokio::test]
async fn a_client_that_is_gone_is_still_obeyed_in_what_it_had_sent() {
    let redis = RedisServer::start();
    let gateway = with_a_short_backlog(&redis).await;
    let mut listener = listener(&gateway).await;
    let mut stream = gateway.connect().await.socket.into_inner();
    redis.freeze();
    send(&mut stream, &publications(50)).await;
    // All commands are in the node's socket now, and the node has read some of them.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a reset is what it says");
    drop(stream);
    redis.thaw();
    hears(&mut listener, 0..50).await;
    gateway.metric_becomes("tidegate_connections", 1.0).await;
}

#[tokio::test]
async fn what_is_not_done_in_time_is_given_up_and_counted() {
    let redis = RedisServer::start();
    let gateway = gateway().over(&redis.url()).with("websocket.finish_timeout_ms", 300).start().await;
    let mut stream = gateway.connect().await.socket.into_inner();
    redis.freeze();
    send(&mut stream, &[publications(20), goodbye()].concat()).await;
    assert_eq!(read_to_end(&mut stream).await, GOODBYE);
    redis.thaw();
    gateway.metric_becomes("tidegate_commands_given_up_total", 20.0).await;
}

#[tokio::test]
async fn what_stands_behind_a_publication_that_failed_is_counted() {
    let redis = RedisServer::start();
    let gateway = gateway().over(&redis.url()).with("redis.timeout_ms", 300).start().await;
    let _listener = listener(&gateway).await;
    let mut stream = gateway.raw("chat").await.into_inner();
    redis.freeze();
    let texts: Vec<u8> = (0..20).flat_map(|number| text(&number.to_string())).collect();
    send(&mut stream, &[texts, goodbye()].concat()).await;
    let said = read_to_end(&mut stream).await;
    assert_eq!(said[2..4], 3004_u16.to_be_bytes(), "{said:?}");
    redis.thaw();
    gateway.metric_becomes("tidegate_commands_given_up_total", 19.0).await;
}

#[tokio::test]
async fn a_goodbye_is_answered_with_its_own_code() {
    let gateway = gateway().start().await;
    for code in [1001_u16, 4321] {
        for before in [Vec::new(), text("1")] {
            let mut stream = gateway.raw("chat").await.into_inner();
            send(&mut stream, &[before, frame(8, &code.to_be_bytes())].concat()).await;
            let said = read_to_end(&mut stream).await;
            assert!(said.ends_with(&[&[0x88, 2], &code.to_be_bytes()[..]].concat()), "{code}: {said:?}");
        }
    }
}

#[tokio::test]
async fn who_leaves_before_its_channel_was_joined_is_obeyed_all_the_same() {
    let gateway = gateway().start().await;
    for number in 1..=20 {
        let channel = format!("stream:{number}");
        let mut stream = gateway.raw(&channel).await.into_inner();
        send(&mut stream, &[text("1"), goodbye()].concat()).await;
        assert!(read_to_end(&mut stream).await.ends_with(&GOODBYE));
        let history = gateway.api("history", json!({ "channel": channel, "limit": 1 })).await;
        assert_eq!(history["offset"], 1, "{channel}");
    }
}

#[tokio::test]
async fn what_who_is_gone_had_asked_is_not_answered_to_who_comes_in_its_place() {
    let redis = RedisServer::start();
    let gateway = gateway()
        .over(&redis.url())
        .with("workers.count", 1)
        .with("websocket.finish_timeout_ms", 50)
        .start()
        .await;
    let mut gone = gateway.connect().await.socket.into_inner();
    redis.freeze();
    send(&mut gone, &[publications(1), goodbye()].concat()).await;
    assert_eq!(read_to_end(&mut gone).await, GOODBYE);
    gateway.metric_becomes("tidegate_connections", 0.0).await;
    // The next client is on the same worker, in the same slot, with as many pending requests.
    let mut next = gateway.connect().await;
    let id = next.ask("subscribe", json!({ "channel": "stream:own" })).await;
    redis.thaw();
    let reply = next.reply(id).await;
    assert!(reply.get("subscribe").is_some(), "{reply}");
}

#[tokio::test]
async fn who_said_goodbye_hears_nothing_that_is_published_after_it() {
    let redis = RedisServer::start();
    let gateway = gateway().over(&redis.url()).start().await;
    let mut stream = {
        let mut client = gateway.connect().await;
        client.subscribe("stream:own").await;
        client.socket.into_inner()
    };
    redis.freeze();
    send(&mut stream, &[publications(1), goodbye()].concat()).await;
    // The client has left its channel before its close frame is answered.
    gateway.metric_becomes("tidegate_subscriptions", 0.0).await;
    redis.thaw();
    let said = read_to_end(&mut stream).await;
    assert_eq!(replies(&said), [10]);
}

/// Lets a client leave without reading the long answers that it has asked for, with one more command on its way.
async fn leaves_unread(at_once: bool) -> Vec<u8> {
    let gateway = gateway()
        .with("websocket.compression", false)
        .with("websocket.outbox_bytes_max", 512 << 10)
        .with("websocket.finish_timeout_ms", 60_000)
        .start()
        .await;
    let mut listener = listener(&gateway).await;
    gateway.publish("stream:long", json!("x".repeat(32 << 10))).await;
    let mut stream = crate::keeps_to_its_memory::narrow(&gateway, "stream:long").await.socket.into_inner();
    let ask = |id: u32| {
        let history = json!({ "channel": "stream:long", "limit": 1 });
        text(&json!({ "id": id, "history": history }).to_string())
    };
    let publish = json!({ "id": 999, "publish": { "channel": "chat", "data": 0 } }).to_string();
    let commands = [(100..400).flat_map(ask).collect(), text(&publish)].concat();
    if at_once {
        send(&mut stream, &[commands, goodbye()].concat()).await;
    } else {
        send(&mut stream, &commands).await;
        eventually("answers wait", async || gateway.metric("tidegate_client_buffer_bytes").await > 0.0).await;
        send(&mut stream, &goodbye()).await;
    }
    hears(&mut listener, 0..1).await;
    read_to_end(&mut stream).await
}

#[tokio::test]
async fn who_leaves_without_reading_is_obeyed_and_reads_no_answer_behind_a_hole() {
    for at_once in [true, false] {
        let said = leaves_unread(at_once).await;
        let ids = replies(&said);
        assert!(ids.len() < 300, "some were given up");
        assert_eq!(ids, (100..100 + ids.len() as u64).collect::<Vec<u64>>());
        assert!(said.ends_with(&[&3008_u16.to_be_bytes(), &b"slow"[..]].concat()), "it is told so");
    }
}
