//! Several Redis servers that do not know of each other: what happens to one is noticed in its own channels alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gateway_core::placement::Placement;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::audience::{Audience, all_ready, recovering_gateway};
use crate::gateway::{Gateway, PATIENCE};
use crate::ledger::Ledger;
use crate::redis_server::RedisServer;
use crate::stage::{Make, node};

const SHARDS: usize = 3;

/// An event for one of the servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    /// The server is killed, and comes back later without data.
    Kill,
    FlushAll,
    /// The server evicts the stream of its channel, or the record of its position.
    Evict(&'static str),
    ForgetScripts,
    KillConnections(&'static str),
    Freeze,
}

const EVENTS: [Event; 8] = [
    Event::Kill,
    Event::FlushAll,
    Event::Evict("stream"),
    Event::Evict("position"),
    Event::ForgetScripts,
    Event::KillConnections("normal"),
    Event::KillConnections("pubsub"),
    Event::Freeze,
];

/// One of the servers, its channel, and the channel's publishers and subscribers.
struct Shard {
    server: RedisServer,
    channel: String,
    /// Losses on this server, and on no other.
    ledger: Arc<Ledger>,
    audience: Audience,
}

pub async fn play(make: Make, seed: u64, time: Duration) {
    let mut rng = StdRng::seed_from_u64(seed);
    let servers = [(); SHARDS].map(|()| RedisServer::start_program(&make.program(), &[]));
    let ports = || servers.iter().map(RedisServer::port);
    let describe = || recovering_gateway().over_shards(ports());
    let nodes = [node(describe(), "here").await, node(describe(), "there").await];
    all_ready(&nodes).await;
    let addresses: Vec<String> = ports().map(|port| format!("127.0.0.1:{port}")).collect();
    let placement = Placement::new(addresses.iter().map(String::as_str));
    let mut shards = Vec::with_capacity(SHARDS);
    for (at, server) in servers.into_iter().enumerate() {
        let mut names = (0..).map(|number| format!("stream:{number}"));
        let channel = names.find(|name| placement.of(name) == at).expect("names are endless");
        let ledger = Arc::new(Ledger::new(false));
        let audience = Audience::gather(&nodes, &[&channel], &ledger, &mut rng).await;
        shards.push(Shard { server, channel, ledger, audience });
    }
    let start = Instant::now();
    while start.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..900))).await;
        let (at, event) = (rng.random_range(0..SHARDS), *EVENTS.choose(&mut rng).expect("an event"));
        println!("{:>6} ms {event:?} at {at}", start.elapsed().as_millis());
        happen(event, &mut shards[at], &nodes, Duration::from_millis(rng.random_range(20..150))).await;
        shards.iter_mut().for_each(|shard| shard.audience.check());
    }
    all_ready(&nodes).await;
    for shard in shards {
        let accepted = shard.audience.accepted.load(Ordering::Relaxed);
        let accounts = shard.audience.end().await;
        let received: u64 = accounts.iter().map(|account| account.received).sum();
        let told: u64 = accounts.iter().map(|account| account.told).sum();
        println!("{}: {accepted} accepted, {received} received, told {told} times", shard.channel);
        assert!(accepted > 50 && received > accepted, "too little to tell");
    }
}

async fn happen(event: Event, shard: &mut Shard, nodes: &[Arc<Gateway>], pause: Duration) {
    let Shard { server, channel, ledger, .. } = shard;
    match event {
        Event::Kill => {
            ledger
                .losing(async {
                    server.kill();
                    tokio::time::sleep(pause * 5).await;
                    server.restart();
                    is_used(server, nodes).await;
                })
                .await;
        }
        Event::FlushAll => ledger.losing(async { drop(server.ask::<String>(&["FLUSHALL"])) }).await,
        Event::Evict(what) => {
            let key = format!("tidegate:{what}:{{{channel}}}");
            ledger.losing(async { server.ask::<u64>(&["UNLINK", &key]) }).await;
        }
        Event::ForgetScripts => drop(server.ask::<String>(&["SCRIPT", "FLUSH"])),
        Event::KillConnections(kind) => {
            server.ask::<u64>(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
        }
        Event::Freeze => {
            server.freeze();
            tokio::time::sleep(pause * 8).await;
            server.thaw();
        }
    }
}

/// Waits until all nodes use a server: they are ready without it, too.
async fn is_used(server: &RedisServer, nodes: &[Arc<Gateway>]) {
    let metric = format!("tidegate_broker_shard_up{{shard=\"127.0.0.1:{}\"}}", server.port());
    let start = Instant::now();
    for node in nodes {
        while node.metric(&metric).await != 1.0 {
            assert!(start.elapsed() < PATIENCE, "{metric} stays down");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
