//! A real Sentinel fails over and back; the ways of the nodes follow what it says.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::audience::{Audience, all_ready};
use crate::gateway::PATIENCE;
use crate::ledger::Ledger;
use crate::play::CHANNELS;
use crate::redis_server::RedisServer;
use crate::stage::{Make, Stage};

/// Publishing goes on for this long after each change of master.
const AFTER: Duration = Duration::from_secs(1);

pub async fn play(make: Make, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let stage = Stage::set(make, true).await;
    // Sentinel tells replicas where their master is, by its port.
    stage.servers[1].ask::<String>(&["REPLICAOF", "127.0.0.1", &stage.servers[0].port().to_string()]);
    crate::stage::is_in_sync(&stage.servers[1]).await;
    let sentinel = RedisServer::start_sentinel(&stage.servers[0], IMPATIENT);
    all_ready(&stage.nodes).await;
    let ledger = Arc::new(Ledger::new(false));
    let mut audience = Audience::gather(&stage.nodes, &CHANNELS, &ledger, &mut rng).await;
    for _ in 0..2 {
        let old = master(&sentinel);
        // Until it knows the replica there is nobody to fail over to.
        let start = Instant::now();
        let new = ledger
            .losing(async {
                let mut last = None;
                loop {
                    assert!(start.elapsed() < PATIENCE, "no other master: {last:?}");
                    if master(&sentinel) != old {
                        break master(&sentinel);
                    }
                    last = Some(sentinel.try_ask::<String>(&["SENTINEL", "FAILOVER", "watched"]));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
            .await;
        ledger
            .losing(async {
                // As a balancer does that asks Sentinel: new connections go to the new master, old ones stay.
                stage.doors.iter().for_each(|door| door.point(new));
                tokio::time::sleep(AFTER).await;
                let replica = stage.servers.iter().find(|server| server.port() == old).expect("a server");
                crate::stage::is_in_sync(replica).await;
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

/// Soon sure that a master is gone, and that a failover has failed.
const IMPATIENT: &str =
    "sentinel down-after-milliseconds watched 1000\nsentinel failover-timeout watched 3000";

/// The port of the master that it would send clients to.
fn master(sentinel: &RedisServer) -> u16 {
    let address: (String, String) = sentinel.ask(&["SENTINEL", "get-master-addr-by-name", "watched"]);
    address.1.parse().expect("a port")
}
