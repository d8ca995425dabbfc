//! The publishers and subscribers of a play, each a task that runs until it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::account::Account;
use crate::client::Client;
use crate::gateway::{Description, Gateway, PATIENCE, gateway};
use crate::ledger::Ledger;

/// Returns a gateway whose clients recover everything that history has, however long they could not subscribe: each
/// refusal beyond that is a fault.
pub fn recovering_gateway() -> Description {
    gateway().with("session.recovery_limit_max", 5_000)
}

/// The interval at which a subscriber stops waiting for a push to look around, so that a quiet channel does not time out.
const LOOK_UP: Duration = Duration::from_secs(5);

/// How long it may take until every subscriber has the last publication.
const END_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Audience {
    nodes: Vec<Arc<Gateway>>,
    channels: Vec<String>,
    ledger: Arc<Ledger>,
    publishers: JoinSet<()>,
    subscribers: JoinSet<Account>,
    publish: watch::Sender<bool>,
    /// Once set, nobody leaves any more, and every subscriber stops at the last publication.
    last: watch::Sender<bool>,
    pub accepted: Arc<AtomicU64>,
}

impl Audience {
    /// Starts, for each channel, a publisher and a permanent subscriber on each node, and a subscriber that comes and goes.
    pub async fn gather(
        nodes: &[Arc<Gateway>],
        channels: &[&str],
        ledger: &Arc<Ledger>,
        rng: &mut StdRng,
    ) -> Self {
        let mut audience = Self {
            nodes: nodes.to_vec(),
            channels: channels.iter().map(|&channel| channel.to_owned()).collect(),
            ledger: ledger.clone(),
            publishers: JoinSet::new(),
            subscribers: JoinSet::new(),
            publish: watch::Sender::new(true),
            last: watch::Sender::new(false),
            accepted: Arc::default(),
        };
        for channel in audience.channels.clone() {
            for (number, node) in nodes.iter().enumerate() {
                let account = Account::new(ledger, &channel, format!("{channel} at {number}"));
                audience.subscribers.spawn(stay(node.clone(), account, audience.last.subscribe()));
                let publisher = Publisher {
                    node: node.clone(),
                    channel: channel.clone(),
                    name: format!("p{number}"),
                    ledger: ledger.clone(),
                    publish: audience.publish.subscribe(),
                    accepted: audience.accepted.clone(),
                };
                audience.publishers.spawn(publisher.run());
            }
            let account = Account::new(ledger, &channel, format!("{channel}, coming and going"));
            let chance = rng.random();
            audience.subscribers.spawn(come_and_go(
                nodes.to_vec(),
                account,
                audience.last.subscribe(),
                chance,
            ));
        }
        audience
    }

    /// Pauses or resumes the publishers.
    pub fn publish(&self, go_on: bool) {
        self.publish.send_replace(go_on);
    }

    /// Publishes a last publication until every subscriber has it. Returns all accounts.
    pub async fn end(mut self) -> Vec<Account> {
        self.check();
        self.publishers.shutdown().await;
        self.last.send_replace(true);
        let (start, mut accounts) = (Instant::now(), Vec::new());
        while !self.subscribers.is_empty() {
            assert!(start.elapsed() < END_DEADLINE, "{} never heard the last", self.subscribers.len());
            for channel in &self.channels {
                publish(&self.nodes[0], channel, json!("the last"), &self.ledger).await;
            }
            let soon = Instant::now() + Duration::from_millis(500);
            while let Ok(Some(ended)) =
                tokio::time::timeout_at(soon.into(), self.subscribers.join_next()).await
            {
                accounts.push(ended.expect("nothing lost or wrong suppressed, nobody told for nothing"));
            }
        }
        accounts
    }

    /// Panics as soon as a publisher or a subscriber has failed.
    pub fn check(&mut self) {
        if let Some(ended) = self.publishers.try_join_next() {
            ended.expect("no position names two publications");
        }
        if let Some(ended) = self.subscribers.try_join_next() {
            let account = ended.expect("nothing lost or wrong suppressed, nobody told for nothing");
            panic!("{} has ended too early", account.name);
        }
    }
}

struct Publisher {
    node: Arc<Gateway>,
    channel: String,
    name: String,
    ledger: Arc<Ledger>,
    publish: watch::Receiver<bool>,
    accepted: Arc<AtomicU64>,
}

impl Publisher {
    /// Failed publications are not repeated: they may have been made.
    async fn run(mut self) {
        for number in 0_u64.. {
            if self.publish.wait_for(|go_on| *go_on).await.is_err() {
                return;
            }
            let data = json!(format!("{} {number}", self.name));
            if publish(&self.node, &self.channel, data, &self.ledger).await {
                self.accepted.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Publishes, and records the position in the answer. Returns whether the publication was accepted.
async fn publish(node: &Gateway, channel: &str, data: Value, ledger: &Ledger) -> bool {
    let answer = node.try_api("publish", &json!({ "channel": channel, "data": data })).await;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let (Some(epoch), Some(offset)) = (body["result"]["epoch"].as_str(), body["result"]["offset"].as_u64())
    else {
        return false;
    };
    ledger.note(channel, epoch, offset, &data);
    true
}

async fn follow(client: &mut Client, account: &mut Account, mut last: watch::Receiver<bool>) {
    while !(account.heard_the_last && *last.borrow_and_update()) {
        if let Ok(push) = tokio::time::timeout(LOOK_UP, client.push()).await {
            account.hear(client, &push).await;
        }
    }
}

async fn stay(node: Arc<Gateway>, mut account: Account, last: watch::Receiver<bool>) -> Account {
    let mut client = node.connect().await;
    account.subscribe(&mut client).await;
    follow(&mut client, &mut account, last).await;
    account
}

async fn come_and_go(
    nodes: Vec<Arc<Gateway>>,
    mut account: Account,
    mut last: watch::Receiver<bool>,
    mut chance: u64,
) -> Account {
    loop {
        let mut next = |below: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) % below
        };
        let (at, stays, away) = (next(nodes.len() as u64), next(300), next(300));
        let mut client = nodes[at as usize].connect().await;
        account.subscribe(&mut client).await;
        if *last.borrow_and_update() {
            follow(&mut client, &mut account, last).await;
            return account;
        }
        let until = tokio::time::Instant::now() + Duration::from_millis(stays);
        while let Ok(push) = tokio::time::timeout_at(until, client.push()).await {
            account.hear(&mut client, &push).await;
        }
        drop(client);
        // Until the pause is over, or the play ends.
        let _ = tokio::time::timeout(Duration::from_millis(away), last.wait_for(|last| *last)).await;
    }
}

/// Waits until all nodes are ready.
pub async fn all_ready(nodes: &[Arc<Gateway>]) {
    let start = Instant::now();
    for (number, node) in nodes.iter().enumerate() {
        while !node.is_ready().await {
            assert!(start.elapsed() < PATIENCE, "node {number} does not heal");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
