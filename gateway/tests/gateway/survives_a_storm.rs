//! Tests a storm of reconnects: history is read once for all clients, and no client misses a publication or fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway_core::catch_up::FRESH;
use serde_json::json;

use crate::client::Client;
use crate::gateway::{Description, Gateway, gateway};
use crate::redis_server::RedisServer;

const CLIENTS: usize = 200;
/// Catch-ups that needed a read. Unlike the broker's metrics, it does not count the reads of a node's readiness probe.
const READ: &str = "tidegate_catch_ups_total{from=\"read\"}";

/// Turns presence on or off: with presence, subscribers wait until they have been added.
fn present(description: Description, presence: &str) -> Description {
    description
        .with("namespaces.stream.presence", presence)
        .with("namespaces.stream.allow_presence", presence)
}

async fn connected(gateway: &Gateway, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(gateway.connect().await);
    }
    clients
}

/// Recovers from an offset, then follows up to another. Returns every offset received.
async fn recover(mut client: Client, channel: String, epoch: String, since: u64, until: u64) -> Vec<u64> {
    let from = json!({ "channel": channel, "recover": true, "offset": since, "epoch": epoch });
    let subscribed = client.command("subscribe", from).await;
    assert_eq!(subscribed["recovered"], true, "{subscribed}");
    let missed = subscribed["publications"].as_array().cloned().unwrap_or_default();
    let mut offsets: Vec<u64> = missed.iter().filter_map(|missed| missed["offset"].as_u64()).collect();
    while offsets.last().copied().unwrap_or(since) < until {
        offsets.push(client.publication().await.offset);
    }
    offsets
}

/// Lets many clients recover in one channel while it receives publications.
async fn storm(gateway: &Arc<Gateway>, channel: &str, publish_during: u64) {
    let epoch = {
        let mut first = gateway.connect().await;
        first.subscribe(channel).await["epoch"].as_str().expect("an epoch").to_owned()
    };
    for number in 1..=5 {
        gateway.publish(channel, json!(number)).await;
    }
    let clients = connected(gateway, CLIENTS).await;
    let last = 5 + publish_during;
    let publisher = {
        let (gateway, channel) = (gateway.clone(), channel.to_owned());
        tokio::spawn(async move {
            for number in 6..=last {
                gateway.publish(&channel, json!(number)).await;
            }
        })
    };
    let storm: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::spawn(recover(client, channel.to_owned(), epoch.clone(), 2, last)))
        .collect();
    for client in storm {
        assert_eq!(client.await.expect("no client fails"), (3..=last).collect::<Vec<_>>());
    }
    publisher.await.expect("all is published");
}

/// Returns how many reads a storm of this duration may take: one, and another whenever the last one is too old.
fn reads_allowed(took: Duration) -> f64 {
    1.0 + (took.as_secs_f64() / FRESH.as_secs_f64()).floor()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_recoveries_reads_the_history_of_a_channel_once() {
    let redis = RedisServer::start();
    // Subscribing takes another code path with presence than without.
    for presence in ["true", "false"] {
        let gateway = present(gateway().over(&redis.url()), presence);
        let gateway = Arc::new(gateway.start().await);
        let channel = format!("stream:presence-{presence}");
        let mut position = gateway.connect().await;
        position.subscribe(&channel).await;
        let before = gateway.metric(READ).await;
        let start = Instant::now();
        storm(&gateway, &channel, 0).await;
        // The subscriber that fetched the position caused one read itself.
        let reads = gateway.metric(READ).await - before - 1.0;
        assert!(reads <= reads_allowed(start.elapsed()), "{reads} reads for {CLIENTS} clients");
        assert!(gateway.metric("tidegate_catch_ups_total{from=\"earlier_read\"}").await >= 100.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_during_a_storm_reach_everyone_once_and_in_order() {
    let redis = RedisServer::start();
    let over_redis = Arc::new(gateway().over(&redis.url()).start().await);
    storm(&over_redis, "stream:busy", 60).await;
    let alone = Arc::new(present(gateway(), "false").start().await);
    storm(&alone, "stream:busy", 60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_read_fails_all_who_wait_for_it_may_try_again() {
    let redis = RedisServer::start();
    let description = gateway().over(&redis.url()).with("redis.timeout_ms", 300);
    let gateway = Arc::new(present(description, "false").start().await);
    let mut here = gateway.connect().await;
    let epoch = here.subscribe("stream:frozen").await["epoch"].clone();
    let from = json!({ "channel": "stream:frozen", "recover": true, "offset": 1, "epoch": epoch });
    let mut clients = connected(&gateway, 20).await;
    redis.freeze();
    // The offset is ahead of the node's, so that history has to be read.
    let mut asked = Vec::new();
    for client in &mut clients {
        asked.push(client.ask("subscribe", from.clone()).await);
    }
    for (client, id) in clients.iter_mut().zip(asked) {
        assert_eq!(client.reply(id).await["error"]["code"], 100);
    }
    redis.thaw();
    gateway.publish("stream:frozen", json!(1)).await;
    for client in &mut clients {
        let subscribed = client.command("subscribe", from.clone()).await;
        assert_eq!(subscribed["recovered"], true, "{subscribed}");
    }
}
