//! Kills NATS servers under load, alone and in a cluster, and accounts for every publication by position and content.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::channel::Channel;
use shared::position::StreamPosition;
use shared::publication::Publication;
use tidegate::broker::nats::NatsConfig;
use tidegate::broker::{BrokerError, Idempotency, PublishRequest};
use tokio::task::JoinSet;

use crate::harness::{
    ALL, Backend, KEPT, Nats, NatsCluster, Node, OUTAGE_MAX, channel, eventually, request, texts,
};

/// A publication: its channel, its position and its text.
type Made = (Channel, StreamPosition, String);

/// Publishes again and again until the broker confirms it.
pub async fn publish_for_sure(node: &Node, channel: &Channel, text: &str) -> StreamPosition {
    let start = Instant::now();
    loop {
        // The idempotency key prevents a duplicate: an earlier attempt may have succeeded without an answer.
        let idempotency = Some(Idempotency { key: text.into(), ttl: Duration::from_secs(600) });
        let request = PublishRequest { idempotency, ..request(channel, text) };
        match node.broker.publish(request).await {
            Ok(published) => return published.position.expect("a position"),
            Err(error) => assert!(start.elapsed() < OUTAGE_MAX, "{text}: not within {OUTAGE_MAX:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Lets every node publish `each` publications, one after the other, over all channels.
fn publish_from_all(nodes: &Arc<Vec<Node>>, channels: &[Channel], each: usize) -> JoinSet<Vec<Made>> {
    let mut publishing = JoinSet::new();
    for publisher in 0..nodes.len() {
        let (nodes, channels) = (nodes.clone(), channels.to_vec());
        publishing.spawn(async move {
            let mut made = Vec::new();
            for number in 0..each {
                let channel = &channels[number % channels.len()];
                let text = format!("{publisher}-{number}");
                let position = publish_for_sure(&nodes[publisher], channel, &text).await;
                made.push((channel.clone(), position, text));
            }
            made
        });
    }
    publishing
}

/// Checks that no position names two publications, whether in answers, at subscribers or in history, and that each was published
/// once, in one epoch, without a gap.
async fn account(nodes: &[Node], channels: &[Channel], made: &[Made]) {
    let mut named: BTreeMap<(Channel, String, u64), String> = BTreeMap::new();
    let mut name = |channel: &Channel, position: StreamPosition, text: &str| {
        let key = (channel.clone(), position.epoch.as_str().to_owned(), position.offset);
        let known = named.entry(key.clone()).or_insert_with(|| text.to_owned());
        assert_eq!(known, text, "{key:?} names two publications");
    };
    for (channel, position, text) in made {
        name(channel, *position, text);
    }
    let text = |publication: &Publication| texts(std::slice::from_ref(publication)).remove(0);
    for channel in channels {
        for node in nodes {
            for publication in node.heard.in_channel(channel) {
                name(channel, publication.position.expect("a position"), &text(&publication));
            }
        }
        let mut page = Err(tidegate::broker::BrokerError::Abandoned);
        eventually("the history is read", async || {
            page = nodes[0].broker.history(channel.clone(), ALL, KEPT).await;
            page.is_ok()
        })
        .await;
        for publication in &page.expect("history").publications {
            name(channel, publication.position.expect("a position"), &text(publication));
        }
    }
    for channel in channels {
        let published: BTreeSet<&str> =
            made.iter().filter(|(of, ..)| of == channel).map(|(_, _, text)| &**text).collect();
        let of_channel = named.iter().filter(|((of, ..), _)| of == channel);
        let stands: Vec<_> = of_channel.map(|((_, epoch, offset), text)| (epoch, *offset, &**text)).collect();
        assert!(stands.iter().all(|(epoch, ..)| *epoch == stands[0].0), "one epoch in {channel}: {stands:?}");
        assert!(stands.iter().map(|(_, offset, _)| *offset).eq(1..=published.len() as u64), "{stands:?}");
        assert_eq!(stands.iter().map(|(.., text)| *text).collect::<BTreeSet<&str>>(), published);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_server_that_is_killed_under_load_no_position_names_two_publications_and_nothing_is_lost() {
    const EACH: usize = 400;
    let mut nats = Nats::new();
    let nodes: Vec<Node> = (0..3).map(|_| nats.node()).collect();
    let channels: Vec<Channel> = (0..4).map(|number| channel(&format!("c{number}"))).collect();
    for node in &nodes {
        node.listens().await;
        node.broker.subscribe(channels.clone()).await.expect("subscribed");
    }
    let nodes = Arc::new(nodes);
    let publishing = publish_from_all(&nodes, &channels, EACH);
    for kills in 1..=3 {
        let goes_on = || nodes[0].metrics.published.get() >= kills * 60;
        eventually("it is in flight", async || goes_on()).await;
        nats.server.restart();
    }
    let made: Vec<Made> = publishing.join_all().await.concat();
    assert_eq!(made.len(), 3 * EACH);
    account(&nodes, &channels, &made).await;
    assert!(nodes[0].heard.resumed() > 0, "whoever was cut off is told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_begin_at_once_beside_an_empty_server_have_one_epoch_in_each_channel() {
    const NODES: usize = 4;
    const INSTALLATIONS: usize = 40;
    const ATTEMPTS: usize = 3;
    let nats = Nats::new();
    for installation in 0..INSTALLATIONS {
        let prefix = format!("t{installation}");
        let config = NatsConfig { prefix, timeout_ms: 5_000, ..nats.config.clone() };
        let nodes: Arc<Vec<Node>> = Arc::new((0..NODES).map(|_| nats.node_with(&config)).collect());
        let listening = nodes.iter().map(|node| node.broker.send_control(bytes::Bytes::new()));
        // Every node is connected, and has not created anything yet.
        assert!(futures_util::future::join_all(listening).await.iter().all(Result::is_ok));
        let all_at_once = Arc::new(tokio::sync::Barrier::new(NODES));
        let mut publishing = JoinSet::new();
        for number in 0..NODES {
            let (nodes, all_at_once) = (nodes.clone(), all_at_once.clone());
            publishing.spawn(async move {
                all_at_once.wait().await;
                // When several nodes create the same stream at once, a 2.9 server sometimes leaves one of them without an answer.
                for _ in 0..ATTEMPTS {
                    match nodes[number].broker.publish(request(&channel("a"), number)).await {
                        Ok(published) => return published.position.expect("a position"),
                        Err(error) => assert!(matches!(error, BrokerError::Unanswered(_)), "{error:?}"),
                    }
                }
                panic!("nothing was answered {ATTEMPTS} times");
            });
        }
        let mut made = publishing.join_all().await;
        made.sort_by_key(|position| position.offset);
        assert!(made.windows(2).all(|pair| pair[0].offset < pair[1].offset), "{made:?}");
        assert!(made.iter().all(|position| position.epoch == made[0].epoch), "{made:?}");
        let page = nodes[0].broker.history(channel("a"), ALL, KEPT).await.expect("history");
        assert!(
            page.top.epoch == made[0].epoch && page.top.offset >= made[NODES - 1].offset,
            "{page:?} {made:?}"
        );
        assert_eq!(page.publications.len() as u64, page.top.offset, "{page:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_cluster_whose_servers_are_killed_one_after_the_other_nothing_is_lost() {
    const EACH: usize = 120;
    let channels: Vec<Channel> = (0..3).map(|number| channel(&format!("c{number}"))).collect();
    let mut cluster = NatsCluster::start(2, &channels).await;
    let publishing = publish_from_all(&cluster.nodes, &channels, EACH);
    cluster.kill_in_turn(EACH).await;
    let made: Vec<Made> = publishing.join_all().await.concat();
    assert_eq!(made.len(), 2 * EACH);
    account(&cluster.nodes, &channels, &made).await;
}
