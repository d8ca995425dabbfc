//! Moves slots of a cluster to another master while the nodes publish and subscribe.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use gateway_core::history::Retention;
use shared::channel::Channel;
use shared::position::StreamPosition;
use tidegate::broker::{Broker, Idempotency, redis};

use crate::harness::{ALL, Backend, Cluster, KEPT, NOT_KEPT, Node, channel, eventually, request};
use crate::presence::info;
use crate::redis_cluster::RedisCluster;
use crate::redis_server::RedisServer;

/// A retention that keeps every publication of a test.
const LONG: Retention = Retention::new(1_000_000, Duration::from_secs(600));
/// Publications of a channel that are in flight at once.
const TOGETHER: usize = 16;

/// Returns the first slot of the channel's partition, with the default number of partitions.
pub fn slot_of(server: &RedisServer, channel: &Channel) -> u16 {
    let slot: u16 = server.ask(&["CLUSTER", "KEYSLOT", channel.as_str()]);
    slot / 16 * 16
}

pub fn slots_of(cluster: &Cluster, channels: &[Channel]) -> Vec<u16> {
    let slots: BTreeSet<u16> =
        channels.iter().map(|channel| slot_of(&cluster.servers.servers[0], channel)).collect();
    slots.into_iter().collect()
}

/// Returns `each` channels of each of the first `masters` masters.
pub fn channels_at(node: &Node, masters: usize, each: usize, prefix: &str) -> Vec<Channel> {
    let parts: Vec<usize> = (0..node.broker.parts()).filter(|part| node.broker.has_part(*part)).collect();
    let named = |part: usize| {
        let names = (0..).map(|number| channel(&format!("{prefix}{number}")));
        let here = names.filter(move |channel| node.broker.part_of(channel) == part);
        here.take(each).collect::<Vec<_>>()
    };
    parts.into_iter().take(masters).flat_map(named).collect()
}

/// Publishes numbers, `TOGETHER` in flight, until `stop` is set, and returns the positions in the order of the calls.
fn publish_on(
    broker: Arc<dyn Broker>,
    channel: Channel,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<Vec<StreamPosition>> {
    tokio::spawn(async move {
        let (mut number, mut in_flight, mut positions) = (0, FuturesOrdered::new(), Vec::new());
        while !stop.load(Ordering::Relaxed) || !in_flight.is_empty() {
            while in_flight.len() < TOGETHER && !stop.load(Ordering::Relaxed) {
                number += 1;
                let mut made = request(&channel, number);
                made.retention = LONG;
                // Publications with an idempotency key are sent alone.
                if number % 7 == 0 {
                    let key = number.to_string().into();
                    made.idempotency = Some(Idempotency { key, ttl: Duration::from_secs(60) });
                }
                in_flight.push_back(broker.publish(made));
            }
            if let Some(published) = in_flight.next().await {
                positions.push(published.expect("published").position.expect("a position"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        positions
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_keep_their_order_and_their_epoch_while_their_slots_move_both_ways() {
    let cluster = Cluster::of(RedisCluster::start(2, 0));
    // A move can take long on a loaded machine, and no publication may time out meanwhile.
    let config = redis::RedisConfig { timeout_ms: 20_000, ..cluster.config.clone() };
    let (node, other) = (cluster.node_with(&config), cluster.node_with(&config));
    node.listens().await;
    other.listens().await;
    let channels = channels_at(&node, 2, 6, "moves");
    let slots = slots_of(&cluster, &channels);
    for channel in &channels {
        other.subscribe(channel).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let publishing: Vec<_> = channels
        .iter()
        .map(|channel| publish_on(node.broker.clone(), channel.clone(), stop.clone()))
        .collect();
    for to in [1, 0, 1, 0, 1] {
        let (servers, slots) = (cluster.servers.clone(), slots.clone());
        tokio::task::spawn_blocking(move || servers.move_slots(slots, to)).await.expect("moved");
        eventually("everything is there", async || {
            channels.iter().all(|channel| {
                node.broker.part_of(channel) == node.broker.part_of(&channels[0])
                    && other.broker.part_of(channel) == other.broker.part_of(&channels[0])
            })
        })
        .await;
        // Leaves time to publish between the moves.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for (channel, publishing) in channels.iter().zip(publishing) {
        let positions = publishing.await.expect("all of them are published");
        assert!(positions.len() > 2 * TOGETHER, "only {} in {channel}", positions.len());
        let offsets: Vec<u64> = positions.iter().map(|position| position.offset).collect();
        let expected: Vec<u64> = (1..=positions.len() as u64).collect();
        assert_eq!(offsets, expected, "in the order of the calls, each once");
        assert!(positions.iter().all(|position| position.epoch == positions[0].epoch), "one epoch");
        let kept = node.history(channel, LONG_READ).await;
        let said: Vec<String> = expected.iter().map(u64::to_string).collect();
        assert_eq!(kept, said, "what was answered is what is kept");
        // The subscriber received a part of the history, in its order, each publication at most once; offsets show the gaps.
        let heard: Vec<(u64, String)> = other
            .heard
            .in_channel(channel)
            .iter()
            .map(|publication| {
                let offset = publication.position.expect("a position").offset;
                (offset, String::from_utf8_lossy(&publication.data.bytes).into_owned())
            })
            .collect();
        assert!(heard.iter().all(|(offset, text)| offset.to_string() == *text), "{channel}");
    }
    let moved: BTreeSet<Channel> = other.heard.moved().into_iter().collect();
    for channel in &channels {
        assert!(moved.contains(channel), "it is told that {channel} may lack something");
    }
    // Publications arrive from the masters that now have the slots.
    for channel in &channels {
        let last = node.publish(channel, "last").await.position.expect("a position");
        eventually("it is heard", async || {
            let heard = other.heard.in_channel(channel);
            heard.last().and_then(|publication| publication.position) == Some(last)
        })
        .await;
    }
}

const LONG_READ: gateway_core::history::HistoryFilter = gateway_core::history::HistoryFilter {
    since: None,
    limit: 1_000_000,
    reverse: false,
    enough_bytes: None,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_channel_keeps_its_epoch_where_its_slot_goes_and_so_does_all_that_it_has() {
    let cluster = Cluster::of(RedisCluster::start(2, 0));
    let node = cluster.node();
    node.listens().await;
    let channels = channels_at(&node, 1, 3, "quiet");
    let mut before = Vec::new();
    for (number, channel) in channels.iter().enumerate() {
        before.push(node.publish(channel, number).await.position.expect("a position"));
        node.enter(channel, &info(number as u128 + 1, "ann")).await;
    }
    let slots = slots_of(&cluster, &channels);
    let from = cluster.servers.owner(slots[0]);
    let (servers, moving) = (cluster.servers.clone(), slots.clone());
    tokio::task::spawn_blocking(move || servers.move_slots(moving, 1 - from)).await.expect("moved");
    // Half of the channels are read by a node that has seen nothing of them, half by one that has.
    let newcomer = cluster.node();
    newcomer.listens().await;
    for (number, channel) in channels.iter().enumerate() {
        let by = if number % 2 == 0 { &newcomer } else { &node };
        let asked = vec![(channel.clone(), KEPT)];
        assert_eq!(by.broker.positions(asked).await.expect("positions"), [before[number]]);
        assert_eq!(by.history(channel, ALL).await, [number.to_string()]);
        let next = by.publish(channel, "next").await.position.expect("a position");
        assert_eq!(next, StreamPosition { offset: 2, ..before[number] });
        assert_eq!(by.counts(channel).await, (1, 1));
        assert_eq!(node.present(channel).await, [info(number as u128 + 1, "ann")]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_slot_is_on_its_way_what_has_arrived_is_used_there_and_heard_all_the_same() {
    let cluster = Cluster::of(RedisCluster::start(2, 0));
    let (node, other) = (cluster.node(), cluster.node());
    node.listens().await;
    other.listens().await;
    let news = channels_at(&node, 1, 1, "half").remove(0);
    other.subscribe(&news).await;
    let first = node.publish(&news, "first").await.position.expect("a position");
    let slot = slot_of(&cluster.servers.servers[0], &news);
    let from = cluster.servers.owner(slot);
    let (source, target) = (&cluster.servers.servers[from], &cluster.servers.servers[1 - from]);
    let number = slot.to_string();
    target.ask::<()>(&["CLUSTER", "SETSLOT", &number, "IMPORTING", &cluster.servers.id(from)]);
    source.ask::<()>(&["CLUSTER", "SETSLOT", &number, "MIGRATING", &cluster.servers.id(1 - from)]);
    // No key has moved yet.
    node.publish(&news, "second").await;
    let keys: Vec<String> = source.ask(&["CLUSTER", "GETKEYSINSLOT", &number, "100"]);
    let port = target.port().to_string();
    for key in &keys {
        source.ask::<()>(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
    }
    // All keys have moved, and the subscribers are still at the source.
    let third = node.publish(&news, "third").await.position.expect("a position");
    assert_eq!(third, StreamPosition { offset: 3, ..first });
    eventually("it is heard", async || other.heard.texts(&news) == ["first", "second", "third"]).await;
    assert_eq!(node.history(&news, ALL).await, ["first", "second", "third"]);
    // New keys can be created only once the slot has moved; until then the publication waits.
    let mut once = request(&news, "fourth");
    once.idempotency = Some(Idempotency { key: "k".into(), ttl: Duration::from_secs(60) });
    let waiting = tokio::spawn({
        let broker = node.broker.clone();
        async move { broker.publish(once).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    let target_id = cluster.servers.id(1 - from);
    target.ask::<()>(&["CLUSTER", "SETSLOT", &number, "NODE", &target_id]);
    source.ask::<()>(&["CLUSTER", "SETSLOT", &number, "NODE", &target_id]);
    let fourth = waiting.await.expect("answered").expect("published");
    assert_eq!(fourth.position, Some(StreamPosition { offset: 4, ..first }));
    eventually("that it moved is told", async || other.heard.moved().contains(&news)).await;
    node.publish(&news, "fifth").await;
    eventually("it is heard", async || other.heard.texts(&news).last().is_some_and(|last| last == "fifth"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_nobody_lets_arrive_is_told_in_time_and_others_go_on() {
    let cluster = Cluster::of(RedisCluster::start(2, 0));
    let mut config = cluster.config.clone();
    config.timeout_ms = 400;
    let node = cluster.node_with(&config);
    node.listens().await;
    let all = channels_at(&node, 1, 2, "stuck");
    let (stuck, fine) = (&all[0], &all[1]);
    node.publish(stuck, "first").await;
    let slot = slot_of(&cluster.servers.servers[0], stuck);
    assert_ne!(slot, slot_of(&cluster.servers.servers[0], fine));
    let from = cluster.servers.owner(slot);
    let (source, target) = (&cluster.servers.servers[from], &cluster.servers.servers[1 - from]);
    let number = slot.to_string();
    target.ask::<()>(&["CLUSTER", "SETSLOT", &number, "IMPORTING", &cluster.servers.id(from)]);
    source.ask::<()>(&["CLUSTER", "SETSLOT", &number, "MIGRATING", &cluster.servers.id(1 - from)]);
    // Moves one of the slot's two keys.
    let keys: Vec<String> = source.ask(&["CLUSTER", "GETKEYSINSLOT", &number, "1"]);
    source.ask::<()>(&["MIGRATE", "127.0.0.1", &target.port().to_string(), &keys[0], "0", "5000"]);
    let error = node.broker.publish(request(stuck, "second")).await.expect_err("it is in two halves");
    assert!(error.to_string().contains("TRYAGAIN") && !error.is_outcome_unknown(), "{error}");
    node.broker.history(stuck.clone(), ALL, KEPT).await.expect_err("it is in two halves");
    node.publish(fine, "fine").await;
    assert_eq!(node.history(fine, ALL).await, ["fine"]);
    let servers = cluster.servers.clone();
    tokio::task::spawn_blocking(move || servers.move_slots([slot], 1 - from)).await.expect("moved");
    node.publish(stuck, "second").await;
    assert_eq!(node.history(stuck, ALL).await, ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_is_brought_what_its_subscribers_need_and_nothing_else() {
    const CHANNELS: usize = 10_000;
    let cluster = Cluster::new();
    let nodes = [cluster.node(), cluster.node()];
    for node in &nodes {
        node.listens().await;
    }
    let all: Vec<Channel> = (0..CHANNELS).map(|number| channel(&format!("needed:{number}"))).collect();
    let (theirs, ours) = all.split_at(CHANNELS / 2);
    for (node, channels) in nodes.iter().zip([theirs, ours]) {
        for part in channels.chunks(1_000) {
            node.broker.subscribe(part.to_vec()).await.expect("subscribed");
        }
    }
    for part in all.chunks(500) {
        let published = part.iter().map(|channel| {
            let mut made = request(channel, channel.as_str());
            made.retention = if channel.as_str().ends_with('7') { NOT_KEPT } else { KEPT };
            nodes[0].broker.publish(made)
        });
        for published in futures_util::future::join_all(published).await {
            published.expect("published");
        }
    }
    let received = |node: &Node| node.counted().received.get() as usize;
    for (node, channels) in nodes.iter().zip([theirs, ours]) {
        eventually("all are heard", async || received(node) >= CHANNELS / 2).await;
        // The canary follows the publications on the same connections, so no copies can arrive after it.
        node.listens().await;
        assert_eq!(received(node), CHANNELS / 2);
        assert!(channels.iter().all(|channel| node.heard.texts(channel) == [channel.as_str()]));
    }
    let spread: Vec<usize> = (0..nodes[0].broker.parts())
        .map(|part| all.iter().filter(|channel| nodes[0].broker.part_of(channel) == part).count())
        .filter(|count| *count > 0)
        .collect();
    assert_eq!(spread.len(), 3);
    assert!(spread.iter().all(|count| (3_100..3_600).contains(count)), "{spread:?}");
    let message = Bytes::from_static(b"to all");
    assert_eq!(nodes[0].broker.send_control(message.clone()).await.expect("sent"), 2);
    for node in &nodes {
        eventually("it is heard", async || node.heard.control() == [message.clone()]).await;
    }
}
