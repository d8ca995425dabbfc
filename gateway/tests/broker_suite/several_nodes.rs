//! Tests that nodes over one Redis behave as one.

use std::time::Duration;

use bytes::Bytes;
use tidegate::broker::redis::RedisUrl;
use tidegate::broker::{Idempotency, PublishRequest};

use crate::harness::{ALL, Backend, Node, Redis, channel, eventually, request};
use crate::presence::info;

async fn listening(redis: &impl Backend, count: usize) -> Vec<Node> {
    let nodes: Vec<Node> = (0..count).map(|_| redis.node()).collect();
    for node in &nodes {
        node.listens().await;
    }
    nodes
}

pub async fn what_one_node_publishes_all_hear_in_the_same_order<B: Backend>() {
    let redis = B::new();
    let nodes = listening(&redis, 3).await;
    let a = channel("a");
    for node in &nodes {
        node.subscribe(&a).await;
    }
    let publishing = nodes.iter().map(|node| async {
        for number in 0..100 {
            node.publish(&a, number).await;
        }
    });
    futures_util::future::join_all(publishing).await;
    let history = redis.node().history(&a, ALL).await;
    for node in &nodes {
        eventually("all are heard", async || node.heard.in_channel(&a).len() == 300).await;
        let heard = node.heard.in_channel(&a);
        assert!(heard.iter().map(|publication| publication.offset()).eq(1..=300));
        assert_eq!(node.heard.texts(&a)[200..], history);
    }
}

pub async fn streams_and_keys_are_the_same_from_every_node<B: Backend>() {
    let redis = B::new();
    let nodes = listening(&redis, 2).await;
    let a = channel("a");
    let publish = async |node: &Node, text| {
        let idempotency = Some(Idempotency { key: "k".into(), ttl: Duration::from_secs(60) });
        node.broker.publish(PublishRequest { idempotency, ..request(&a, text) }).await.expect("published")
    };
    let first = publish(&nodes[0], "first").await;
    let second = publish(&nodes[1], "second").await;
    assert!(second.duplicate);
    assert_eq!(first.position, second.position);
    let third = nodes[1].publish(&a, "third").await.position.expect("a position");
    assert_eq!(third.offset, 2);
    for node in &nodes {
        assert_eq!(node.history(&a, ALL).await, ["first", "third"]);
        let positions = node.broker.positions(vec![(a.clone(), crate::harness::KEPT)]).await;
        assert_eq!(positions.expect("positions"), [third]);
    }
}

pub async fn control_messages_reach_every_node_and_announcements_are_seen_by_all<B: Backend>() {
    let redis = B::new();
    let nodes = listening(&redis, 3).await;
    let message = Bytes::from_static(b"drain");
    assert_eq!(nodes[1].broker.send_control(message.clone()).await.expect("sent"), 3);
    for node in &nodes {
        eventually("it is heard", async || node.heard.control() == [&message]).await;
    }
    let lease = Duration::from_secs(60);
    for (node, name) in nodes.iter().zip(["one", "two", "three"]) {
        node.broker.announce(name, Bytes::from(name), lease).await.expect("announced");
    }
    for node in &nodes {
        assert_eq!(node.broker.nodes().await.expect("nodes").len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_is_told_no_other_hears_also_after_its_link_was_lost() {
    let redis = Redis::new();
    let nodes = listening(&redis, 3).await;
    let tell = async |node: &str, text: &'static str| {
        nodes[0].broker.tell_node(node, Bytes::from_static(text.as_bytes())).await.expect("told")
    };
    assert_eq!(tell("node-1", "first").await, 1);
    assert_eq!(tell("node-0", "to itself").await, 1);
    assert_eq!(tell("nobody", "lost").await, 0);
    eventually("it is heard", async || nodes[1].heard.node_messages() == ["first"]).await;
    eventually("it is heard", async || nodes[0].heard.node_messages() == ["to itself"]).await;

    let before = nodes[1].heard.resumed();
    let killed: i64 = redis.server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert!(killed > 0);
    eventually("it is back", async || nodes[1].heard.resumed() > before).await;
    assert_eq!(tell("node-1", "second").await, 1);
    eventually("it is heard", async || nodes[1].heard.node_messages() == ["first", "second"]).await;
    assert!(nodes[2].heard.node_messages().is_empty());
}

pub async fn presence_is_the_sum_of_all_nodes<B: Backend>() {
    let redis = B::new();
    let nodes = listening(&redis, 3).await;
    let a = channel("a");
    nodes[0].enter(&a, &info(1, "ann")).await;
    nodes[1].enter(&a, &info(2, "ann")).await;
    nodes[1].enter(&a, &info(3, "bob")).await;
    for node in &nodes {
        assert_eq!(node.counts(&a).await, (3, 2));
        assert_eq!(node.present(&a).await.len(), 3);
    }
    nodes[0].leave(&a, &info(1, "ann")).await;
    nodes[1].leave(&a, &info(3, "bob")).await;
    for node in &nodes {
        eventually("ann is left", async || node.present(&a).await == [info(2, "ann")]).await;
        assert_eq!(node.counts(&a).await, (1, 1));
    }
    nodes[1].presence.retire().await.expect("retired");
    eventually("nobody is left", async || nodes[2].counts(&a).await == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn installations_in_two_databases_of_one_redis_do_not_hear_each_other() {
    let mut redis = Redis::new();
    let port = redis.server.port();
    let mut nodes = Vec::new();
    for database in [0, 1, 7] {
        redis.config.url = RedisUrl::new(format!("redis://127.0.0.1:{port}/{database}"));
        nodes.push(redis.node());
    }
    let a = channel("a");
    for node in &nodes {
        node.listens().await;
        node.subscribe(&a).await;
    }
    for (index, node) in nodes.iter().enumerate() {
        node.publish(&a, index).await;
        let control = format!("to {index}");
        let reached = node.broker.send_control(control.clone().into()).await.expect("sent");
        assert_eq!(reached, 1, "itself alone");
        eventually("it hears itself", async || !node.heard.control().is_empty()).await;
        node.listens().await;
    }
    for (index, node) in nodes.iter().enumerate() {
        assert_eq!(node.heard.texts(&a), [index.to_string()]);
        assert_eq!(node.heard.control(), [format!("to {index}")]);
    }
}
