//! A real Sentinel fails over and back. The ways of the nodes follow what it says, or nodes ask it themselves.

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

/// Publishing goes on for this long after each change of master.
const AFTER: Duration = Duration::from_secs(1);

/// How nodes get to the new master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// As behind a balancer that asks Sentinel: new connections go to the new master, old ones stay.
    Doors,
    /// With `redis.mode = "sentinel"`.
    Asked,
}

/// Why there is a new master.
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

/// Waits for another master than this server, and gives the reason for it.
async fn another(sentinel: &RedisServer, failed: &mut RedisServer, reason: Reason) -> u16 {
    let (old, start) = (failed.port(), Instant::now());
    if reason != Reason::Planned {
        // Until it knows the replica there is nobody to fail over to.
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

/// Whether Sentinel knows a replica that is well.
fn replica_is_known(sentinel: &RedisServer) -> bool {
    let replicas: Vec<std::collections::HashMap<String, String>> =
        sentinel.ask(&["SENTINEL", "REPLICAS", "watched"]);
    replicas.iter().any(|replica| {
        let is = |field: &str, value: &str| replica.get(field).is_some_and(|known| known == value);
        is("flags", "slave") && is("master-link-status", "ok")
    })
}

/// Soon sure that a master is gone, and that a failover has failed.
const IMPATIENT: &str =
    "sentinel down-after-milliseconds watched 1000\nsentinel failover-timeout watched 3000";

/// The port of the master that it would send clients to.
fn master(sentinel: &RedisServer) -> u16 {
    let address: (String, String) = sentinel.ask(&["SENTINEL", "get-master-addr-by-name", "watched"]);
    address.1.parse().expect("a port")
}
