//! Kills NATS servers while several nodes change keys, accounts for each change by position and content, and checks that all
//! nodes end with the same state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway_core::history::{KeysBeside, Retention};
use gateway_core::map::MapRetention;
use shared::channel::Channel;
use shared::position::StreamPosition;
use tidegate::broker::{ChangeRequest, Idempotency};
use tokio::task::JoinSet;

use crate::harness::{ALL, Backend, Nats, NatsCluster, Node, OUTAGE_MAX, channel, eventually};
use crate::keys::{STAYING, all, set, told};

/// A retention that keeps all changes of these tests.
const LONG: MapRetention = MapRetention {
    stream: Retention { beside: KeysBeside::Staying, ..Retention::new(10_000, Duration::from_secs(600)) },
    ..STAYING
};

/// A change: its channel, its position, and the key and value as text.
type Made = (Channel, StreamPosition, String);

/// Changes a key again and again until the broker confirms it.
async fn change_for_sure(node: &Node, channel: &Channel, key: &str, text: &str) -> StreamPosition {
    let start = Instant::now();
    loop {
        // The idempotency key prevents a second change: an earlier attempt may have succeeded without an answer.
        let idempotency = Some(Idempotency { key: text.into(), ttl: Duration::from_secs(600) });
        let change = set(key, &format!("\"{text}\""));
        let request = ChangeRequest { channel: channel.clone(), change, keeping: LONG, idempotency };
        match node.broker.change_key(request).await {
            Ok(changed) => return changed.position.expect("a position"),
            Err(error) => assert!(start.elapsed() < OUTAGE_MAX, "{text}: not within {OUTAGE_MAX:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Lets every node change `each` keys, three at a time, over all channels: one key that all nodes change, and some of its own.
fn change_from_all(nodes: &Arc<Vec<Node>>, channels: &[Channel], each: usize) -> JoinSet<Vec<Made>> {
    let mut changing = JoinSet::new();
    for writer in 0..nodes.len() {
        let (nodes, channels) = (nodes.clone(), channels.to_vec());
        changing.spawn(async move {
            let mut made = Vec::new();
            for number in (0..each).step_by(3) {
                let channel = &channels[number / 3 % channels.len()];
                let three = (number..number + 3).map(|number| {
                    let key = if number % 3 == 0 {
                        "shared".to_owned()
                    } else {
                        format!("{writer}-{}", number % 9)
                    };
                    let text = format!("{writer}-{number}");
                    let nodes = &nodes;
                    async move {
                        let position = change_for_sure(&nodes[writer], channel, &key, &text).await;
                        (channel.clone(), position, format!("{key}=\"{text}\"@{}", position.offset))
                    }
                });
                made.extend(futures_util::future::join_all(three).await);
            }
            made
        });
    }
    changing
}

/// Checks that no position names two changes, whether in answers, at subscribers or in history, that each was made once, in one
/// epoch, without a gap, and that the state of every node follows from the last change of each key.
async fn account(nodes: &[Node], channels: &[Channel], made: &[Made]) {
    for channel in channels {
        let answered: BTreeMap<u64, &str> = made
            .iter()
            .filter(|(of, ..)| of == channel)
            .map(|(_, position, text)| (position.offset, &**text))
            .collect();
        let epochs: BTreeSet<String> = made
            .iter()
            .filter(|(of, ..)| of == channel)
            .map(|(_, position, _)| position.epoch.as_str().to_owned())
            .collect();
        assert_eq!(epochs.len(), 1, "{epochs:?}");
        let count = made.iter().filter(|(of, ..)| of == channel).count();
        assert!(answered.keys().copied().eq(1..=count as u64), "each has a place: {answered:?}");
        for node in nodes {
            for heard in node.heard.in_channel(channel) {
                assert_eq!(answered.get(&heard.offset()).copied(), Some(&*told(&heard)));
            }
            let mut history = None;
            eventually("the history is read", async || {
                history = node.broker.history(channel.clone(), ALL, LONG.stream).await.ok();
                history.is_some()
            })
            .await;
            let history: Vec<String> = history.expect("one").publications.iter().map(told).collect();
            assert!(history.iter().map(|one| &**one).eq(answered.values().copied()));
            let mut last: BTreeMap<&str, &str> = BTreeMap::new();
            for text in answered.values() {
                last.insert(text.split('=').next().expect("a key"), text);
            }
            let page = node.broker.read_state(channel.clone(), all(1_000), LONG).await.expect("read");
            let state: Vec<String> = page.entries.iter().map(told).collect();
            assert!(state.iter().map(|one| &**one).eq(last.values().copied()), "{state:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_server_that_is_killed_under_load_no_position_names_two_changes_and_no_key_is_lost() {
    const EACH: usize = 450;
    let mut nats = Nats::new();
    let nodes: Vec<Node> = (0..3).map(|_| nats.node()).collect();
    let channels: Vec<Channel> = (0..4).map(|number| channel(&format!("c{number}"))).collect();
    for node in &nodes {
        node.listens().await;
        node.broker.subscribe(channels.clone()).await.expect("subscribed");
    }
    let nodes = Arc::new(nodes);
    let changing = change_from_all(&nodes, &channels, EACH);
    for kills in 1..=3 {
        let goes_on = || nodes[0].metrics.published.get() >= kills * 60;
        eventually("it is in flight", async || goes_on()).await;
        nats.server.restart();
    }
    let made: Vec<Made> = changing.join_all().await.concat();
    assert_eq!(made.len(), 3 * EACH);
    account(&nodes, &channels, &made).await;
    let fresh = nats.node();
    fresh.listens().await;
    account(&[fresh], &channels, &made).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_cluster_whose_servers_are_killed_one_after_the_other_no_change_is_lost() {
    const EACH: usize = 120;
    let channels: Vec<Channel> = (0..2).map(|number| channel(&format!("c{number}"))).collect();
    let mut cluster = NatsCluster::start(2, &channels).await;
    let changing = change_from_all(&cluster.nodes, &channels, EACH);
    cluster.kill_in_turn(EACH).await;
    let made: Vec<Made> = changing.join_all().await.concat();
    assert_eq!(made.len(), 2 * EACH);
    account(&cluster.nodes, &channels, &made).await;
}
