//! Tests channels with so many subscribers that a worker serves them in pieces, and closes in the middle of it.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::json;

use crate::client::Client;
use crate::gateway::{Gateway, gateway};

/// Three pieces of 512 subscribers for one worker.
const MANY: usize = 1_100;
const AT_ONCE: usize = 50;

/// Values of `workers.io_uring`: sends in batches, and one by one.
const WAYS: [&str; 2] = ["auto", "off"];

async fn subscribers(gateway: &Gateway, channel: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    while clients.len() < MANY {
        let some = join_all((0..AT_ONCE).map(async |_| {
            let mut client = gateway.connect_as("ann").await;
            client.subscribe(channel).await;
            client
        }));
        clients.extend(some.await);
    }
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_gets_everything_in_order_and_before_it_is_closed() {
    for way in WAYS {
        each_of_many_gets_everything(way).await;
    }
}

async fn each_of_many_gets_everything(way: &str) {
    // The test reads the clients one after the other, and those that wait answer no pings.
    let gateway = gateway()
        .with("workers.count", 1)
        .with("workers.io_uring", way)
        .with("session.ping_interval_ms", 120_000)
        .start()
        .await;
    let mut clients = subscribers(&gateway, "stream:many").await;
    for number in 1..=10 {
        gateway.publish("stream:many", json!(number)).await;
    }
    for client in &mut clients {
        for number in 1..=10 {
            assert_eq!(client.publication().await.data, json!(number));
        }
    }
    // In one batch: the close must not overtake the publication.
    let goodbye = json!({ "publish": { "channel": "stream:many", "data": "goodbye" } });
    let close = json!({ "disconnect": { "user": "ann" } });
    gateway.api("batch", json!({ "commands": [goodbye, close] })).await;
    for client in &mut clients {
        assert_eq!(client.publication().await.data, json!("goodbye"));
        assert_eq!(client.closed().await.0, 3503);
    }
    gateway.metric_becomes("tidegate_connections", 0.0).await;
}

#[tokio::test]
async fn what_waits_for_its_flush_interval_does_not_come_too_late_for_who_is_closed() {
    let gateway = gateway().with("namespaces.stream.flush_interval_ms", 5_000).start().await;
    let mut client = gateway.connect_as("ann").await;
    client.subscribe("stream:paced").await;
    for number in 1..=3 {
        gateway.publish("stream:paced", json!(number)).await;
    }
    gateway.api("disconnect", json!({ "user": "ann" })).await;
    for number in 1..=3 {
        assert_eq!(client.publication().await.data, json!(number));
    }
    assert_eq!(client.closed().await.0, 3503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_several_channels_of_many_gets_each_in_order() {
    for way in WAYS {
        each_of_several_channels_comes_in_order(way).await;
    }
}

async fn each_of_several_channels_comes_in_order(way: &str) {
    let gateway = gateway()
        .with("workers.count", 1)
        .with("workers.io_uring", way)
        .with("session.ping_interval_ms", 120_000)
        .start()
        .await;
    let mut clients = subscribers(&gateway, "stream:one").await;
    for client in &mut clients {
        client.subscribe("stream:two").await;
    }
    let publish = |number: u32, channel: &str| json!({ "publish": { "channel": channel, "data": number } });
    for number in [1, 2, 3] {
        let commands = [publish(number, "stream:one"), publish(number, "stream:two")];
        gateway.api("batch", json!({ "commands": commands })).await;
    }
    for client in &mut clients {
        let mut last = BTreeMap::new();
        for _ in 0..6 {
            let push = client.push().await;
            let number = push["push"]["pub"]["data"].as_u64().expect("a publication");
            let channel = push["push"]["channel"].as_str().expect("its channel").to_owned();
            assert_eq!(last.insert(channel, number).unwrap_or(0) + 1, number);
        }
    }
}

#[tokio::test]
async fn workers_send_by_io_uring_where_it_is_allowed_and_not_switched_off() {
    let is_allowed = io_uring::IoUring::new(8).is_ok();
    for (way, expected) in [("auto", f64::from(u8::from(is_allowed))), ("off", 0.0)] {
        let gateway = gateway().with("workers.count", 2).with("workers.io_uring", way).start().await;
        for worker in 0..2 {
            let name = format!("tidegate_worker_io_uring{{worker=\"{worker}\"}}");
            gateway.metric_becomes(&name, expected).await;
        }
    }
}
