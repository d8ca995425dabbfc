//! Tests faults of Redis, of its connections and of slow workers: gaps are reported, and nodes recover by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Client, received};
use crate::gateway::{Gateway, PATIENCE, eventually};
use crate::redis_server::RedisServer;
use crate::spans_nodes::nodes;

pub const CHANNEL: &str = "stream:load";

/// A publisher of numbers through a node, which runs until stopped. Failed publications are not repeated.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    pub fn on(gateway: &Arc<Gateway>) -> Self {
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let task = {
            let (gateway, stop, accepted) = (gateway.clone(), stop.clone(), accepted.clone());
            tokio::spawn(async move {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let answer =
                        gateway.try_api("publish", &json!({ "channel": CHANNEL, "data": number })).await;
                    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                    if body.get("result").is_some() {
                        accepted.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        };
        Self { stop, accepted, task }
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until this many more publications have been accepted.
    pub async fn goes_on(&self, more: u64) {
        let until = self.accepted() + more;
        eventually("publications are accepted", async || self.accepted() >= until).await;
    }

    pub async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the publisher");
    }
}

/// What a subscriber received, and how often it was told of a gap.
#[derive(Debug, Default)]
pub struct Account {
    epoch: Value,
    offset: u64,
    pub received: u64,
    /// How often the subscriber was told of a possible gap.
    pub told: u64,
    /// Whether a publication has said that it is the last.
    ended: bool,
}

impl Account {
    /// Subscribes, and retries after temporary errors.
    async fn subscribe(&mut self, client: &mut Client) {
        let start = Instant::now();
        let mut parameters = json!({ "channel": CHANNEL });
        if !self.epoch.is_null() {
            parameters =
                json!({ "channel": CHANNEL, "recover": true, "offset": self.offset, "epoch": self.epoch });
        }
        let subscribed = loop {
            let id = client.ask("subscribe", parameters.clone()).await;
            let reply = client.reply(id).await;
            match reply["error"]["code"].as_u64() {
                None => break reply["subscribe"].clone(),
                Some(code) => assert!(code == 100 && start.elapsed() < PATIENCE, "{reply}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        if subscribed["recovered"] == true {
            for publication in subscribed["publications"].as_array().into_iter().flatten() {
                self.take(publication["offset"].as_u64().unwrap_or(0), &publication["data"]);
            }
        } else {
            self.told += u64::from(!self.epoch.is_null());
            self.offset = subscribed["offset"].as_u64().unwrap_or(0);
        }
        self.epoch = subscribed["epoch"].clone();
    }

    fn take(&mut self, offset: u64, data: &Value) {
        assert_eq!(offset, self.offset + 1, "the next one of this epoch, or the client is told: {self:?}");
        self.offset = offset;
        self.received += 1;
        self.ended |= data == "the last";
    }

    /// Follows the channel until a publication says that it is the last.
    async fn follow_to_the_end(mut self, mut client: Client) -> Self {
        while !self.ended {
            let push = client.push().await;
            if push["push"]["unsubscribe"]["code"] == 2500 {
                self.subscribe(&mut client).await;
                continue;
            }
            let publication = received(&push).unwrap_or_else(|| panic!("no publication: {push}"));
            self.take(publication.offset, &publication.data);
        }
        self
    }
}

/// Publishes the last message until every follower has received it: a follower with a gap at the end may miss the first ones.
pub async fn accounts(node: &Gateway, mut followers: tokio::task::JoinSet<Account>) -> Vec<Account> {
    let mut accounts = Vec::new();
    while !followers.is_empty() {
        node.publish(CHANNEL, json!("the last")).await;
        let soon = tokio::time::timeout(Duration::from_millis(500), followers.join_next());
        if let Ok(Some(account)) = soon.await {
            accounts.push(account.expect("nothing missed in silence, nothing twice"));
        }
    }
    accounts
}

pub async fn followers(nodes: &[&Gateway]) -> tokio::task::JoinSet<Account> {
    let mut followers = tokio::task::JoinSet::new();
    for node in nodes {
        for _ in 0..3 {
            let mut client = node.connect().await;
            let mut account = Account::default();
            account.subscribe(&mut client).await;
            followers.spawn(account.follow_to_the_end(client));
        }
    }
    followers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_subscriber_link_costs_positioned_channels_nothing() {
    let redis = RedisServer::start();
    let [here, there] = nodes::<2>(&redis).await;
    let here = Arc::new(here);
    let followers = followers(&[&here, &there]).await;
    let load = Load::on(&here);
    load.goes_on(50).await;
    for _ in 0..4 {
        assert!(redis.ask::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]) >= 1);
        load.goes_on(40).await;
        let listening = async || redis.ask::<String>(&["CLIENT", "LIST", "TYPE", "pubsub"]).lines().count();
        eventually("both nodes listen again", async || listening().await == 2).await;
    }
    load.goes_on(50).await;
    let accepted = load.accepted();
    load.end().await;
    for account in accounts(&there, followers).await {
        assert_eq!(account.told, 0, "history had all of it");
        assert!(account.received > accepted, "{account:?} of {accepted}");
    }
    assert!(
        there.metric("tidegate_repairs_total").await + here.metric("tidegate_repairs_total").await >= 1.0
    );
    assert_eq!(there.metric("tidegate_insufficient_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_leaves_clients_connected_and_tells_them_what_is_gone() {
    let mut redis = RedisServer::start();
    let [here, there] = nodes::<2>(&redis).await;
    let here = Arc::new(here);
    let followers = followers(&[&here, &there]).await;
    let mut unpositioned = there.raw("chat").await;
    there.metric_becomes("tidegate_subscriptions", 4.0).await;
    let load = Load::on(&here);
    load.goes_on(50).await;
    eventually("both are ready", async || here.is_ready().await && there.is_ready().await).await;

    redis.kill();
    eventually("unready while no canary comes back", async || {
        !here.is_ready().await && !there.is_ready().await
    })
    .await;
    assert_eq!(here.internal("/livez").await.status, 200, "a restart of the node would help nobody");
    assert_eq!(there.metric("tidegate_connections").await, 4.0, "everyone stays connected");
    let mut newcomer = there.connect().await;
    assert_eq!(newcomer.refused("subscribe", json!({ "channel": "stream:new" })).await, 100, "for now");

    redis.restart();
    eventually("ready again", async || here.is_ready().await && there.is_ready().await).await;
    load.goes_on(100).await;
    load.end().await;
    newcomer.subscribe("stream:new").await;
    here.publish("stream:new", json!("served")).await;
    assert_eq!(newcomer.publication().await.data, "served");
    here.publish("chat", json!("also without a stream")).await;
    assert_eq!(unpositioned.text().await, "\"also without a stream\"");
    for account in accounts(&here, followers).await {
        // Redis came back empty: its history is gone, and each subscriber was told so.
        assert!(account.told >= 1 && account.received > 100, "{account:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_before_its_redis_is_ready_when_both_are() {
    let mut redis = RedisServer::start();
    redis.kill();
    let gateway = crate::gateway::gateway().over(&redis.url()).start().await;
    let early = gateway.internal("/readyz").await;
    assert_eq!(early.status, 503, "{}", String::from_utf8_lossy(&early.body));
    assert_eq!(gateway.internal("/livez").await.status, 200);
    redis.restart();
    eventually("ready", async || gateway.is_ready().await).await;
    let mut client = gateway.connect().await;
    client.subscribe("stream:s").await;
    gateway.publish("stream:s", json!("served")).await;
    assert_eq!(client.publication().await.data, "served");
}
