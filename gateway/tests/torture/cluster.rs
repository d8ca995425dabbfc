//! A Redis Cluster whose slots move both ways, and whose masters die, hang, hand over, come and go. What happens to a
//! master may be noticed only in its own channels, and a move in none.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::task::block_in_place;

use crate::audience::{Audience, all_ready, recovering_gateway};
use crate::gateway::{Gateway, PATIENCE};
use crate::ledger::Ledger;
use crate::redis_cluster::RedisCluster;
use crate::stage::{Make, node};

const MASTERS: usize = 3;

/// Slots that move together with a channel's slot, so that several slots are moved as a whole.
const SLOTS_TOGETHER: u16 = 3;

/// An event for the master that owns a channel's slot at that moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    /// The channel's slot moves to another master, key by key.
    Move,
    /// The slot moves as a whole, as Valkey can.
    Migrate,
    /// A further master joins, owns the slot for a while, gives it back and leaves.
    ComeAndGo,
    /// The master dies, its replica is promoted, and it comes back as a replica.
    Kill,
    /// The master hangs until its replica is promoted, and wakes up then.
    Hang,
    /// The master hangs for too short a time for a failover.
    Freeze,
    /// The master hands over to its replica.
    HandOver,
    FlushAll,
    ForgetScripts,
    KillConnections(&'static str),
}

/// Events that lose nothing.
const HARMLESS: [Event; 6] = [
    Event::Move,
    Event::Move,
    Event::ForgetScripts,
    Event::KillConnections("normal"),
    Event::KillConnections("pubsub"),
    Event::Freeze,
];

const SEVERE: [Event; 4] = [Event::Kill, Event::Hang, Event::HandOver, Event::FlushAll];

/// A channel of each master, with its publishers and subscribers.
struct Part {
    channel: String,
    slot: u16,
    /// Losses at the master that owned the slot, and at no other.
    ledger: Arc<Ledger>,
    audience: Audience,
}

/// The events of a play.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Everything,
    /// Only events that lose nothing: then no subscriber may be told of a loss.
    Harmless,
}

pub async fn play(make: Make, kind: Kind, seed: u64, time: Duration) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = block_in_place(|| RedisCluster::start_program(&make.program(), MASTERS, 1));
    let describe = || recovering_gateway().over_cluster(&cluster.addresses());
    let nodes = [node(describe(), "here").await, node(describe(), "there").await];
    all_ready(&nodes).await;
    let mut parts = Vec::with_capacity(MASTERS);
    for master in 0..MASTERS {
        let mut names = (0..).map(|number| format!("stream:{number}"));
        let (channel, slot) = names
            .find_map(|name| {
                let slot = slot_of(&cluster, &name);
                (block_in_place(|| cluster.owner(slot)) == master).then_some((name, slot))
            })
            .expect("names are endless");
        let ledger = Arc::new(Ledger::new(false));
        let audience = Audience::gather(&nodes, &[&channel], &ledger, &mut rng).await;
        parts.push(Part { channel, slot, ledger, audience });
    }
    let mut events: Vec<Event> = HARMLESS.into();
    if make == Make::Valkey {
        events.extend([Event::Migrate; 3]);
    }
    events.push(Event::ComeAndGo);
    if kind == Kind::Everything {
        events.extend(SEVERE);
    }
    // A short play has each of the slow events once at least; a long one draws from all of them.
    let mut first: Vec<Event> = match kind {
        Kind::Everything => vec![Event::Kill, Event::Hang, Event::Move],
        Kind::Harmless => vec![Event::ComeAndGo, Event::Move],
    };
    let start = Instant::now();
    while start.elapsed() < time || !first.is_empty() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..900))).await;
        let event = first.pop().unwrap_or_else(|| *events.choose(&mut rng).expect("an event"));
        let at = rng.random_range(0..parts.len());
        println!("{:>6} ms {event:?} of {}", start.elapsed().as_millis(), parts[at].channel);
        happen(event, at, &mut cluster, &parts, &nodes, &mut rng).await;
        parts.iter_mut().for_each(|part| part.audience.check());
    }
    all_ready(&nodes).await;
    for part in parts {
        let accepted = part.audience.accepted.load(Ordering::Relaxed);
        let accounts = part.audience.end().await;
        let received: u64 = accounts.iter().map(|account| account.received).sum();
        let told: u64 = accounts.iter().map(|account| account.told).sum();
        println!("{}: {accepted} accepted, {received} received, told {told} times", part.channel);
        assert!(accepted > 50 && received > accepted, "too little to tell");
        assert!(kind == Kind::Everything || told == 0, "nothing was lost");
    }
}

async fn happen(
    event: Event,
    at: usize,
    cluster: &mut RedisCluster,
    parts: &[Part],
    nodes: &[Arc<Gateway>],
    rng: &mut StdRng,
) {
    let (pause, coin) = (Duration::from_millis(rng.random_range(20..150)), rng.random::<bool>());
    let slot = parts[at].slot;
    let slots: Vec<u16> = (slot..slot + SLOTS_TOGETHER).collect();
    let master = block_in_place(|| cluster.owner(slot));
    // The channels that lose what this master loses.
    let here: Vec<&Part> =
        parts.iter().filter(|part| block_in_place(|| cluster.owner(part.slot)) == master).collect();
    let ledgers: Vec<Arc<Ledger>> = here.iter().map(|part| part.ledger.clone()).collect();
    match event {
        Event::Move | Event::Migrate => {
            let others: Vec<usize> = masters(cluster).into_iter().filter(|other| *other != master).collect();
            let to = *others.choose(rng).expect("another master");
            block_in_place(|| {
                if event == Event::Move {
                    cluster.move_slots(slots.iter().copied(), to);
                } else {
                    cluster.migrate_slots(slots.iter().copied(), to);
                }
                cluster.agree_on(&slots, to);
            });
        }
        Event::ComeAndGo => {
            let newcomer = block_in_place(|| {
                let newcomer = cluster.add_server();
                cluster.meet_all();
                cluster.move_slots(slots.iter().copied(), newcomer);
                cluster.agree_on(&slots, newcomer);
                newcomer
            });
            goes_on(&parts[at]).await;
            block_in_place(|| {
                cluster.move_slots(slots.iter().copied(), master);
                cluster.agree_on(&slots, master);
            });
            // Only after publications have gone on, because moved positions are recognized only while the old master
            // still lives.
            goes_on(&parts[at]).await;
            block_in_place(|| cluster.remove_server(newcomer));
        }
        Event::Kill | Event::Hang => {
            losing(&ledgers, async {
                if event == Event::Kill {
                    cluster.servers[master].kill();
                } else {
                    cluster.servers[master].freeze();
                }
                let start = Instant::now();
                while block_in_place(|| owner_by(cluster, slot, master)) == master {
                    assert!(start.elapsed() < PATIENCE * 2, "no replica is promoted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                tokio::time::sleep(pause).await;
                if event == Event::Kill {
                    cluster.servers[master].restart();
                } else {
                    cluster.servers[master].thaw();
                }
                block_in_place(|| cluster.is_replica(master));
            })
            .await;
            all_ready(nodes).await;
        }
        Event::HandOver => {
            losing(&ledgers, async {
                let replica = block_in_place(|| replica_of(cluster, master));
                block_in_place(|| cluster.servers[replica].ask::<()>(&["CLUSTER", "FAILOVER"]));
                block_in_place(|| cluster.is_replica(master));
            })
            .await;
        }
        Event::Freeze => {
            cluster.servers[master].freeze();
            // Much shorter than the timeout for a failover.
            tokio::time::sleep(pause * 3).await;
            cluster.servers[master].thaw();
        }
        Event::FlushAll => {
            losing(&ledgers, async { cluster.servers[master].ask::<()>(&["FLUSHALL"]) }).await;
        }
        Event::ForgetScripts => cluster.servers[master].ask::<()>(&["SCRIPT", "FLUSH"]),
        Event::KillConnections(kind) => {
            let server = if coin { master } else { masters(cluster)[0] };
            cluster.servers[server].ask::<u64>(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
        }
    }
}

/// Runs `act` while these channels may lose data.
async fn losing<T>(ledgers: &[Arc<Ledger>], act: impl Future<Output = T>) -> T {
    ledgers.iter().for_each(|ledger| ledger.begin_losing());
    let result = act.await;
    ledgers.iter().for_each(|ledger| ledger.end_losing());
    result
}

/// Waits until further publications were made in the channel.
async fn goes_on(part: &Part) {
    let (start, before) = (Instant::now(), part.audience.accepted.load(Ordering::Relaxed));
    while part.audience.accepted.load(Ordering::Relaxed) < before + 5 {
        assert!(start.elapsed() < PATIENCE, "{} stands still", part.channel);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns the slot of a channel, for the default number of partitions.
fn slot_of(cluster: &RedisCluster, channel: &str) -> u16 {
    let slot: u16 = cluster.servers[0].ask(&["CLUSTER", "KEYSLOT", channel]);
    slot / 16 * 16
}

/// Returns the servers that own slots.
fn masters(cluster: &RedisCluster) -> Vec<usize> {
    let all = 0..cluster.servers.len();
    all.filter(|server| cluster.servers[*server].is_running() && !cluster.slots(*server).is_empty()).collect()
}

/// Returns the server that owns a slot, according to another server than `but`.
fn owner_by(cluster: &RedisCluster, slot: u16, but: usize) -> usize {
    let all = 0..cluster.servers.len();
    let other = all.into_iter().find(|other| *other != but && cluster.servers[*other].is_running());
    cluster.owner_by(other.expect("others run"), slot).unwrap_or(but)
}

fn replica_of(cluster: &RedisCluster, master: usize) -> usize {
    let port = format!("master_port:{}\r", cluster.servers[master].port());
    let all = 0..cluster.servers.len();
    let is_its = |server: &usize| {
        cluster.servers[*server].is_running() && cluster.info(*server, "replication").contains(&port)
    };
    all.into_iter().find(is_its).expect("it has a replica")
}
