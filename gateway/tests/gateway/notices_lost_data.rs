//! Tests a Redis whose data go back to an earlier state while its connections stay open: subscribers are told, and no offset
//! that a client has seen stands for another publication.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::gateway::{Gateway, PATIENCE, eventually, gateway};
use crate::redis_server::RedisServer;

const CHANNEL: &str = "stream:a";

/// A node with a client that has followed the channel up to offset 10, of which Redis then loses the last five.
struct Scene {
    redis: RedisServer,
    backup: RedisServer,
    node: Gateway,
    client: Client,
    epoch: Value,
}

/// Publishes numbers and retries refused ones, which were not published: a node gives up the connection to a replica.
async fn publish(node: &Gateway, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        eventually("it is published", async || {
            let answer = node.try_api("publish", &json!({ "channel": CHANNEL, "data": number })).await;
            let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert!(!answer.to_string().contains("unknown"), "{answer}");
            answer.get("result").is_some()
        })
        .await;
    }
}

/// Subscribes, and retries after temporary errors, as clients do. With a short ping interval, a node on a busy machine may
/// lose its Redis for a moment.
async fn subscribe(client: &mut Client, request: Value) -> Value {
    let start = Instant::now();
    loop {
        let id = client.ask("subscribe", request.clone()).await;
        let reply = client.reply(id).await;
        if reply["error"]["temporary"] != true {
            assert!(reply["subscribe"].is_object(), "{reply}");
            return reply["subscribe"].clone();
        }
        assert!(start.elapsed() < PATIENCE, "the channel cannot be subscribed to: {reply}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Scene {
    /// Starts the servers, the node and the client. Every `ping_ms` the node checks the identity of its Redis.
    async fn start(ping_ms: u64) -> Self {
        let redis = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
        let backup = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
        // The replica follows from the beginning, because the first replica begins a new epoch.
        follow(&backup, &redis).await;
        let node = gateway().over(&redis.url()).with("redis.ping_ms", ping_ms).start().await;
        let mut client = node.connect().await;
        let epoch = subscribe(&mut client, json!({ "channel": CHANNEL })).await["epoch"].clone();
        publish(&node, 1..=5).await;
        Self { redis, backup, node, client, epoch }
    }

    async fn put_back(&mut self) {
        has_everything_of(&self.backup, &self.redis).await;
        promote(&self.backup);
        self.go_on().await;
        follow(&self.redis, &self.backup).await;
        promote(&self.redis);
    }

    async fn go_on(&mut self) {
        publish(&self.node, 6..=10).await;
        for number in 1..=10 {
            assert_eq!(self.client.publication().await.offset, number);
        }
    }

    /// Checks that the client is told of a possible gap, and cannot recover from its position.
    async fn is_told(&mut self, holds: u64) {
        assert_eq!(self.client.unsubscribed().await, (CHANNEL.to_owned(), 2500));
        let recover = json!({ "channel": CHANNEL, "recover": true, "offset": 10, "epoch": self.epoch });
        let subscribed = subscribe(&mut self.client, recover).await;
        assert_ne!(subscribed["recovered"], true, "{subscribed}");
        assert_eq!((&subscribed["offset"], subscribed["epoch"] == self.epoch), (&json!(holds), false));
        publish(&self.node, holds + 1..=holds + 2).await;
        for offset in [holds + 1, holds + 2] {
            assert_eq!(self.client.publication().await.offset, offset);
        }
    }
}

async fn follow(server: &RedisServer, other: &RedisServer) {
    server.ask::<()>(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    has_everything_of(server, other).await;
}

async fn has_everything_of(server: &RedisServer, other: &RedisServer) {
    eventually("it has everything", async || {
        let replication = |server: &RedisServer| server.ask::<String>(&["INFO", "replication"]);
        let offset = |info: &str| {
            info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")).map(str::to_owned)
        };
        let (follower, leader) = (replication(server), replication(other));
        follower.contains("master_link_status:up") && offset(&follower) == offset(&leader)
    })
    .await;
}

fn promote(server: &RedisServer) {
    server.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_put_back_is_told_with_the_first_publication_however_many_follow() {
    for follow in [1, 8] {
        let mut scene = Scene::start(60_000).await;
        scene.put_back().await;
        publish(&scene.node, 6..=5 + follow).await;
        scene.is_told(5 + follow).await;
        assert_eq!(scene.node.metric("tidegate_connections").await, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_put_back_is_told_though_nobody_publishes() {
    let mut scene = Scene::start(50).await;
    scene.put_back().await;
    scene.is_told(5).await;
}

/// Copies the channel's keys to another prefix.
fn copy(redis: &RedisServer, from: &str, to: &str) {
    for key in ["position", "stream"] {
        let (from, to) = (format!("{from}:{key}:{{{CHANNEL}}}"), format!("{to}:{key}:{{{CHANNEL}}}"));
        redis.ask::<i64>(&["COPY", &from, &to, "REPLACE"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_put_back_without_a_word_are_found_out_by_what_comes_twice() {
    for follow in [1, 8] {
        let mut scene = Scene::start(60_000).await;
        copy(&scene.redis, "tidegate", "older");
        scene.go_on().await;
        copy(&scene.redis, "older", "tidegate");
        publish(&scene.node, 6..=5 + follow).await;
        let told = scene.client.push().await;
        let mut told = told;
        while told["push"]["unsubscribe"].is_null() {
            // Publications may have been delivered before the node noticed; then they are revoked at once.
            assert!(told["push"]["pub"]["offset"].as_u64().is_some_and(|offset| offset > 10), "{told}");
            told = scene.client.push().await;
        }
        assert_eq!(told["push"]["unsubscribe"]["code"], 2500);
        let recover = json!({ "channel": CHANNEL, "recover": true, "offset": 10, "epoch": scene.epoch });
        let subscribed = subscribe(&mut scene.client, recover).await;
        assert_ne!(subscribed["recovered"], true, "{subscribed}");
        assert_ne!(subscribed["epoch"], scene.epoch);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_put_back_without_a_word_are_found_out_by_a_look() {
    let mut scene = Scene::start(60_000).await;
    copy(&scene.redis, "tidegate", "older");
    scene.go_on().await;
    copy(&scene.redis, "older", "tidegate");
    // After a reconnect, the node compares every position.
    scene.redis.ask::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    scene.is_told(5).await;
}
