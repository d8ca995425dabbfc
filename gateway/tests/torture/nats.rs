//! NATS alone and as a cluster of three: servers die, hang and are cut off; streams are emptied, deleted and restored
//! from older copies.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::task::block_in_place;

use crate::audience::{Audience, all_ready, recovering_gateway};
use crate::gateway::{Description, Gateway};
use crate::ledger::Ledger;
use crate::nats_server::NatsServer;
use crate::play::CHANNELS;
use crate::relay::Relay;

/// The stream of these channels, named after the size of their history.
const STREAM: &str = "tidegate_history_16384";

/// The longest that a cluster on a busy machine takes to elect a leader, or to catch a server up.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(90);

/// An event for the single server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    /// The server is killed, and comes back with the data in its files.
    Kill,
    Freeze,
    CutDoors,
    HoldDoor,
    /// The stream loses all of its messages, or those of one channel.
    Purge,
    PurgeChannel,
    DeleteStream,
    /// The server comes back with an older copy of everything.
    OlderCopy,
}

/// An event for one of three servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ClusterEvent {
    /// The leader of the stream is killed; another is elected, and the old one comes back.
    KillLeader,
    /// The leader hangs until another is elected, and wakes up.
    HangLeader,
    /// The leader hands over.
    StepDown,
    /// A server that does not lead the stream is killed.
    KillFollower,
}

const HARMLESS: [Event; 4] = [Event::Kill, Event::Freeze, Event::CutDoors, Event::HoldDoor];
const SEVERE: [Event; 4] = [Event::Purge, Event::PurgeChannel, Event::DeleteStream, Event::OlderCopy];

/// The events of a play.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Everything,
    /// Only events that lose nothing: then no subscriber may be told of a loss.
    Harmless,
}

async fn node(description: Description, name: &str) -> Arc<Gateway> {
    let node = description.with("node.name", name).with("workers.count", 1);
    Arc::new(node.with("nats.ping_ms", 200).with("nats.reconnect_max_ms", 200).start().await)
}

pub async fn play(kind: Kind, seed: u64, time: Duration) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut server = block_in_place(NatsServer::start);
    let doors = [Relay::to(server.port()).await, Relay::to(server.port()).await];
    let [here, there] = [0, 1].map(|door: usize| {
        recovering_gateway().over_nats(&format!("nats://127.0.0.1:{}", doors[door].port()))
    });
    let nodes = [
        node(here.with("nats.timeout_ms", 800), "here").await,
        node(there.with("nats.timeout_ms", 800), "there").await,
    ];
    all_ready(&nodes).await;
    let ledger = Arc::new(Ledger::new(false));
    let mut audience = Audience::gather(&nodes, &CHANNELS, &ledger, &mut rng).await;
    let events: Vec<Event> = match kind {
        Kind::Everything => [HARMLESS, SEVERE].concat(),
        Kind::Harmless => HARMLESS.into(),
    };
    let start = Instant::now();
    while start.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..900))).await;
        let event = *events.choose(&mut rng).expect("an event");
        println!("{:>6} ms {event:?}", start.elapsed().as_millis());
        let pause = Duration::from_millis(rng.random_range(20..150));
        if SEVERE.contains(&event) {
            ledger.losing(happen(event, &mut server, &doors, pause, &mut rng)).await;
        } else {
            happen(event, &mut server, &doors, pause, &mut rng).await;
        }
        audience.check();
    }
    end(kind, &nodes, audience).await;
}

async fn happen(event: Event, server: &mut NatsServer, doors: &[Relay], pause: Duration, rng: &mut StdRng) {
    match event {
        Event::Kill => {
            server.kill();
            tokio::time::sleep(pause * 3).await;
            block_in_place(|| server.restart());
        }
        Event::Freeze => {
            server.freeze();
            tokio::time::sleep(pause * 8).await;
            server.thaw();
        }
        Event::CutDoors => doors.iter().for_each(Relay::cut),
        Event::HoldDoor => {
            let door = doors.choose(rng).expect("a door");
            door.hold();
            tokio::time::sleep(pause * 10).await;
            door.release();
        }
        Event::Purge => block_in_place(|| succeeds(server, &format!("STREAM.PURGE.{STREAM}"), "")),
        Event::PurgeChannel => {
            let channel = CHANNELS.choose(rng).expect("a channel");
            let filter = format!("{{\"filter\":\"tidegate.h16384.{channel}.*\"}}");
            block_in_place(|| succeeds(server, &format!("STREAM.PURGE.{STREAM}"), &filter));
        }
        Event::DeleteStream => block_in_place(|| succeeds(server, &format!("STREAM.DELETE.{STREAM}"), "")),
        Event::OlderCopy => {
            let copy = tempfile::tempdir().expect("a directory");
            block_in_place(|| server.copy_while_down(copy.path()));
            tokio::time::sleep(pause * 5).await;
            block_in_place(|| server.restart_from(copy.path()));
        }
    }
}

/// Calls the API of JetStream.
fn request_api(server: &NatsServer, what: &str, request: &str) -> Value {
    serde_json::from_str(&server.ask(&format!("$JS.API.{what}"), request)).unwrap_or_default()
}

/// Calls the API, which must succeed. A stream that was just deleted may be missing until a node has recreated it,
/// which has the same effect.
fn succeeds(server: &NatsServer, what: &str, request: &str) {
    let answer = request_api(server, what, request);
    assert!(answer["success"] == true || answer["error"]["err_code"] == 10_059, "{what}: {answer}");
}

async fn end(kind: Kind, nodes: &[Arc<Gateway>], audience: Audience) {
    all_ready(nodes).await;
    let accepted = audience.accepted.load(Ordering::Relaxed);
    let accounts = audience.end().await;
    let received: u64 = accounts.iter().map(|account| account.received).sum();
    let told: u64 = accounts.iter().map(|account| account.told).sum();
    println!("{accepted} accepted, {received} received, told {told} times");
    assert!(accepted > 50 && received > accepted, "too little to tell");
    assert!(kind == Kind::Everything || told == 0, "nothing was lost");
}

/// Plays with three servers and three replicas of everything: an event for one of them loses nothing.
pub async fn play_cluster(seed: u64, time: Duration) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut servers = block_in_place(|| NatsServer::start_cluster(3));
    let urls: Vec<String> = servers.iter().map(NatsServer::url).collect();
    let describe = || recovering_gateway().over_nats(&urls.join(",")).with("nats.replicas", 3);
    let nodes = [node(describe(), "here").await, node(describe(), "there").await];
    all_ready(&nodes).await;
    let ledger = Arc::new(Ledger::new(false));
    let mut audience = Audience::gather(&nodes, &CHANNELS, &ledger, &mut rng).await;
    let events = [
        ClusterEvent::KillLeader,
        ClusterEvent::HangLeader,
        ClusterEvent::StepDown,
        ClusterEvent::KillFollower,
    ];
    // A server takes time to come back, so a short play has these two, and then whatever is drawn.
    let mut first = vec![ClusterEvent::KillLeader, ClusterEvent::HangLeader];
    let start = Instant::now();
    while start.elapsed() < time || !first.is_empty() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..900))).await;
        let leader = in_sync(&servers, None).await;
        let drawn = rng.random_range(0..events.len());
        let event = if first.is_empty() { events[drawn] } else { first.remove(drawn % first.len()) };
        println!("{:>6} ms {event:?}, led by {leader}", start.elapsed().as_millis());
        let pause = Duration::from_millis(rng.random_range(20..150));
        match event {
            ClusterEvent::KillLeader | ClusterEvent::KillFollower => {
                let killed =
                    if event == ClusterEvent::KillLeader { leader } else { (leader + 1) % servers.len() };
                servers[killed].kill();
                another_leads(&servers, killed).await;
                tokio::time::sleep(pause).await;
                block_in_place(|| servers[killed].restart());
            }
            ClusterEvent::HangLeader => {
                servers[leader].freeze();
                another_leads(&servers, leader).await;
                tokio::time::sleep(pause).await;
                servers[leader].thaw();
            }
            ClusterEvent::StepDown => {
                let answer = block_in_place(|| {
                    request_api(&servers[leader], &format!("STREAM.LEADER.STEPDOWN.{STREAM}"), "")
                });
                assert_eq!(answer["success"], true, "{answer}");
            }
        }
        audience.check();
    }
    in_sync(&servers, None).await;
    end(Kind::Harmless, &nodes, audience).await;
}

/// Waits until another server than this one leads the stream.
async fn another_leads(servers: &[NatsServer], gone: usize) {
    let start = Instant::now();
    while leader_by(&servers[(gone + 1) % servers.len()]).is_none_or(|(leader, _)| leader == gone) {
        assert!(start.elapsed() < CLUSTER_PATIENCE, "no other leader is chosen");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until all servers have all of the stream. Returns its leader.
async fn in_sync(servers: &[NatsServer], mut last: Option<(usize, bool)>) -> usize {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < CLUSTER_PATIENCE, "the servers are not in sync: {last:?}");
        last = leader_by(&servers[0]);
        if let Some((leader, true)) = last {
            return leader;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Returns the leader of the stream, according to this server, and whether the others are in sync.
fn leader_by(server: &NatsServer) -> Option<(usize, bool)> {
    let info = block_in_place(|| server.try_ask(&format!("$JS.API.STREAM.INFO.{STREAM}"), "")).ok()?;
    let info: Value = serde_json::from_str(&info).ok()?;
    let leader = info["cluster"]["leader"].as_str()?.strip_prefix('s')?.parse().ok()?;
    let replicas = info["cluster"]["replicas"].as_array()?;
    Some((leader, replicas.len() == 2 && replicas.iter().all(|replica| replica["current"] == true)))
}
