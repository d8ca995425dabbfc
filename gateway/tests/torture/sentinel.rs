//! A real Sentinel fails over and back. The nodes follow it through relays, or ask it themselves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::audience::{Audience, all_ready};
use crate::gateway::PATIENCE;
use crate::ledger::Ledger;
use crate::play::CHANNELS;
use crate::redis_server::RedisServer;
use crate::stage::{Make, Stage, is_in_sync};

/// How long publishing goes on after each failover.
const AFTER: Duration = Duration::from_secs(1);

/// How nodes find the new master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Through relays, as behind a balancer that asks Sentinel: new connections go to the new master, old ones stay.
    Doors,
    /// By `redis.mode = "sentinel"`.
    Asked,
}

/// The cause of a failover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    Planned,
    Killed,
    Hung,
}

pub async fn play(make: Make, seed: u64, way: Way) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut stage, sentinel) = Stage::with_sentinel(make, IMPATIENT, way == Way::Asked).await;
    all_ready(&stage.nodes).await;
    let ledger = Arc::new(Ledger::new(false));
    let mut audience = Audience::gather(&stage.nodes, &CHANNELS, &ledger, &mut rng).await;
    for _ in 0..2 {
        let old = master(&sentinel);
        let reason = match (way, rng.random_range(0..3)) {
            (Way::Doors, _) | (_, 0) => Reason::Planned,
            (_, 1) => Reason::Killed,
            _ => Reason::Hung,
        };
        println!("{reason:?}");
        let failed = stage.servers.iter().position(|server| server.port() == old).expect("a server");
        let new = ledger.losing(another(&sentinel, &mut stage.servers[failed], reason)).await;
        ledger
            .losing(async {
                if way == Way::Doors {
                    stage.doors.iter().for_each(|door| door.point(new));
                }
                tokio::time::sleep(AFTER).await;
                let failed = &mut stage.servers[failed];
                match reason {
                    Reason::Planned => {}
                    Reason::Killed => failed.restart(),
                    Reason::Hung => failed.thaw(),
                }
                is_in_sync(failed).await;
            })
            .await;
        audience.check();
    }
    all_ready(&stage.nodes).await;
    let accepted = audience.accepted.load(Ordering::Relaxed);
    let accounts = audience.end().await;
    let told: u64 = accounts.iter().map(|account| account.told).sum();
    println!("{accepted} accepted, told {told} times");
    assert!(accepted > 100 && told > 0, "each promotion begins new epochs");
}

/// Causes a failover from this server for the given reason, and waits for it.
async fn another(sentinel: &RedisServer, failed: &mut RedisServer, reason: Reason) -> u16 {
    let (old, start) = (failed.port(), Instant::now());
    if reason != Reason::Planned {
        // Sentinel cannot fail over until it knows the replica.
        while !replica_is_known(sentinel) {
            assert!(start.elapsed() < PATIENCE, "no replica");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    match reason {
        Reason::Planned => {}
        Reason::Killed => failed.kill(),
        Reason::Hung => failed.freeze(),
    }
    let (mut last, start) = (None, Instant::now());
    loop {
        assert!(start.elapsed() < PATIENCE, "no other master: {last:?}");
        if master(sentinel) != old {
            return master(sentinel);
        }
        if reason == Reason::Planned {
            last = Some(sentinel.try_ask::<String>(&["SENTINEL", "FAILOVER", "watched"]));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether Sentinel knows a healthy replica.
fn replica_is_known(sentinel: &RedisServer) -> bool {
    let replicas: Vec<std::collections::HashMap<String, String>> =
        sentinel.ask(&["SENTINEL", "REPLICAS", "watched"]);
    replicas.iter().any(|replica| {
        let is = |field: &str, value: &str| replica.get(field).is_some_and(|known| known == value);
        is("flags", "slave") && is("master-link-status", "ok")
    })
}

/// Short timeouts for a dead master, and for a failover that has failed.
const IMPATIENT: &str =
    "sentinel down-after-milliseconds watched 1000\nsentinel failover-timeout watched 3000";

/// Returns the port of the master that Sentinel names.
fn master(sentinel: &RedisServer) -> u16 {
    let address: (String, String) = sentinel.ask(&["SENTINEL", "get-master-addr-by-name", "watched"]);
    address.1.parse().expect("a port")
}
