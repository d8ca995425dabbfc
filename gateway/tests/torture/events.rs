//! The events for the servers and for the network to them.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::audience::Audience;
use crate::ledger::Ledger;
use crate::redis_server::RedisServer;
use crate::stage::{Stage, is_in_sync, server_options};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The replica takes over without the master's last writes. Connections to the old master are cut, or stay open.
    FailOver {
        cut: bool,
    },
    /// The master becomes a replica and then master again, without its last writes, and without losing a connection.
    /// Publishers may pause meanwhile.
    ThereAndBack {
        quiet: bool,
    },
    /// An older copy of the data gets into the master by replication, over the open connections.
    BackupPutBack {
        quiet: bool,
    },
    /// The master is killed and comes back with an older snapshot.
    OldSnapshot,
    /// Redis evicts a part of a channel, for want of memory.
    Evict(&'static str),
    FlushAll,
    ForgetScripts,
    KillConnections(&'static str),
    CutDoors,
    HoldDoor,
    Freeze,
}

/// Events that lose no accepted publication.
pub const HARMLESS: &[Event] = &[
    Event::ForgetScripts,
    Event::KillConnections("normal"),
    Event::KillConnections("pubsub"),
    Event::CutDoors,
    Event::HoldDoor,
    Event::Freeze,
];

/// Events that lose data, and every connection with it.
pub const SEVERE: &[Event] = &[
    Event::FailOver { cut: true },
    Event::OldSnapshot,
    Event::Evict("stream"),
    Event::Evict("position"),
    Event::Evict("both"),
    Event::FlushAll,
];

/// Events that lose data while connections stay open.
pub const SLY: &[Event] = &[
    Event::FailOver { cut: false },
    Event::ThereAndBack { quiet: false },
    Event::ThereAndBack { quiet: true },
    Event::BackupPutBack { quiet: false },
    Event::BackupPutBack { quiet: true },
];

/// Draws an event from these sets.
pub fn draw(sets: &[&[Event]], rng: &mut StdRng) -> Event {
    let set = sets.choose(rng).expect("a set");
    *set.choose(rng).expect("an event")
}

pub async fn happen(
    event: Event,
    stage: &mut Stage,
    audience: &Audience,
    channels: &[&str],
    ledger: &Ledger,
    rng: &mut StdRng,
) {
    let pause = Duration::from_millis(rng.random_range(20..150));
    let coin = rng.random::<bool>();
    match event {
        Event::FailOver { cut } => ledger.losing(fail_over(stage, cut, coin, pause)).await,
        Event::ThereAndBack { quiet } => ledger.losing(there_and_back(stage, audience, quiet, pause)).await,
        Event::BackupPutBack { quiet } => ledger.losing(put_backup_back(stage, audience, quiet, pause)).await,
        Event::OldSnapshot => {
            ledger
                .losing(async {
                    let master = stage.master;
                    stage.servers[master].ask::<String>(&["SAVE"]);
                    tokio::time::sleep(pause).await;
                    stage.servers[master].restart();
                    is_in_sync(&stage.servers[stage.replica()]).await;
                })
                .await;
        }
        Event::Evict(what) => {
            let channel = channels.choose(rng).expect("a channel");
            let key = |what: &str| format!("tidegate:{what}:{{{channel}}}");
            let keys = match what {
                "both" => vec![key("stream"), key("position")],
                what => vec![key(what)],
            };
            let mut words = vec!["UNLINK"];
            words.extend(keys.iter().map(String::as_str));
            ledger.losing(async { stage.servers[stage.master].ask::<u64>(&words) }).await;
        }
        Event::FlushAll => {
            ledger.losing(async { stage.servers[stage.master].ask::<String>(&["FLUSHALL"]) }).await;
        }
        Event::ForgetScripts => {
            stage.servers[stage.master].ask::<String>(&["SCRIPT", "FLUSH"]);
        }
        Event::KillConnections(kind) => {
            stage.servers[stage.master].ask::<u64>(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
        }
        Event::CutDoors => stage.doors.iter().for_each(crate::relay::Relay::cut),
        Event::HoldDoor => {
            let door = &stage.doors[usize::from(coin)];
            door.hold();
            tokio::time::sleep(pause * 10).await;
            door.release();
        }
        Event::Freeze => {
            let server = &stage.servers[stage.master];
            server.freeze();
            tokio::time::sleep(pause * 8).await;
            server.thaw();
        }
    }
}

/// The nodes find the new master one after the other, so that for a while they use different servers.
async fn fail_over(stage: &mut Stage, cut: bool, other_first: bool, pause: Duration) {
    let (old, new) = (stage.master, stage.replica());
    stage.hold_replication();
    tokio::time::sleep(pause).await;
    stage.promote(new);
    let order = if other_first { [1, 0] } else { [0, 1] };
    for node in order {
        stage.doors[node].point(stage.servers[new].port());
        if cut {
            stage.doors[node].cut();
        }
        tokio::time::sleep(pause).await;
    }
    stage.release_replication();
    stage.follow_master(old).await;
}

async fn there_and_back(stage: &mut Stage, audience: &Audience, quiet: bool, pause: Duration) {
    let (this, other) = (stage.master, stage.replica());
    stage.hold_replication();
    tokio::time::sleep(pause).await;
    audience.publish(!quiet);
    stage.promote(other);
    stage.release_replication();
    stage.follow_master(this).await;
    stage.promote(this);
    stage.follow_master(other).await;
    audience.publish(true);
}

async fn put_backup_back(stage: &mut Stage, audience: &Audience, quiet: bool, pause: Duration) {
    let master = stage.master;
    stage.servers[master].ask::<String>(&["SAVE"]);
    let dump = stage.servers[master].directory().join("dump.rdb");
    let backup = RedisServer::start_from(&dump, &stage.make.program(), &server_options());
    tokio::time::sleep(pause).await;
    audience.publish(!quiet);
    stage.servers[master].ask::<String>(&["REPLICAOF", "127.0.0.1", &backup.port().to_string()]);
    is_in_sync(&stage.servers[master]).await;
    stage.promote(master);
    audience.publish(true);
    is_in_sync(&stage.servers[stage.replica()]).await;
}
