//! Tests that the loss of one of several servers affects its channels and nothing else.

use std::time::Duration;

use bytes::Bytes;
use shared::channel::Channel;
use tidegate::broker::redis::RedisConfig;
use tidegate::broker::{BrokerError, LeaseRequest};
use tidegate::secret::Secret;

use crate::harness::{ALL, Backend, KEPT, Node, Shards, channel, eventually, request};
use crate::presence::info;

const LEASE: Duration = Duration::from_secs(60);

/// Returns one channel for each server.
fn channels(node: &Node, prefix: &str) -> Vec<Channel> {
    let named = |part: usize| {
        let mut names = (0..).map(|number| channel(&format!("{prefix}{number}")));
        names.find(|channel| node.broker.part_of(channel) == part).expect("names are endless")
    };
    (0..node.broker.parts()).map(named).collect()
}

async fn two_nodes(shards: &Shards) -> [Node; 2] {
    let nodes = [shards.node(), shards.node()];
    for (number, node) in nodes.iter().enumerate() {
        node.listens().await;
        let name = format!("node-{number}");
        node.broker.announce(&name, Bytes::from(name.clone()), LEASE).await.expect("announced");
    }
    nodes
}

/// Checks everything that does not depend on the channels of the lost server.
async fn the_rest_goes_on(nodes: &[Node; 2], lost: usize, round: &str) {
    let [one, other] = nodes;
    for (part, channel) in channels(one, &format!("{round}-")).into_iter().enumerate() {
        if part == lost {
            continue;
        }
        other.broker.subscribe(vec![channel.clone()]).await.expect("subscribed");
        one.broker.publish(request(&channel, round)).await.expect("published");
        eventually("it is heard", async || other.heard.texts(&channel) == [round]).await;
        assert_eq!(one.history(&channel, ALL).await, [round]);
        one.broker.positions(vec![(channel.clone(), KEPT)]).await.expect("positions");
        one.presence.add(channel.clone(), info(1, "ann")).wait().await.expect("added");
        assert_eq!(other.presence.stats(channel.clone()).await.expect("counted").clients, 1);
        one.broker.canary_of(part).await.expect("it comes back");
    }
    let message = Bytes::from(format!("control in {round}"));
    assert_eq!(one.broker.send_control(message.clone()).await.expect("sent"), 2);
    for (number, node) in nodes.iter().enumerate() {
        eventually("a command is heard", async || node.heard.control().contains(&message)).await;
        let told = Bytes::from(format!("told in {round}"));
        assert_eq!(one.broker.tell_node(&format!("node-{number}"), told.clone()).await.expect("told"), 1);
        eventually("it is told", async || node.heard.node_messages().contains(&told)).await;
    }
    let mut named = one.broker.nodes().await.expect("nodes");
    named.sort();
    assert_eq!(named, ["node-0", "node-1"]);
    for what in ["a", "b", "c", "d"] {
        let what = format!("{round}-{what}");
        let taking =
            |node| LeaseRequest { what: &what, node, lease: LEASE, patience: Duration::ZERO, done: "" };
        // While a server hangs, it is unknown at first whether it has granted the turn.
        let asked = async |node: &Node, name| node.broker.acquire_lease(taking(name)).await;
        eventually("one has the turn", async || asked(one, "node-0").await.is_ok_and(|turn| turn.held)).await;
        eventually("the other has not", async || asked(other, "node-1").await.is_ok_and(|turn| !turn.held))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_is_missed_by_its_channels_alone_and_heals() {
    let mut shards = Shards::new();
    let nodes = two_nodes(&shards).await;
    let all = channels(&nodes[0], "first");
    for channel in &all {
        nodes[1].subscribe(channel).await;
    }
    let lost = 1;
    shards.servers[lost].kill();
    eventually("it is missed", async || nodes[0].broker.canary_of(lost).await.is_err()).await;
    eventually("it is missed", async || nodes[1].broker.canary_of(lost).await.is_err()).await;
    nodes[0].broker.publish(request(&all[lost], "nothing")).await.expect_err("its server is gone");
    let error = nodes[0].broker.subscribe(all.clone()).await.expect_err("one of them cannot be subscribed");
    assert!(matches!(error, BrokerError::Unreachable(_)), "{error}");
    the_rest_goes_on(&nodes, lost, "gone").await;
    for (part, channel) in all.iter().enumerate().filter(|(part, _)| *part != lost) {
        nodes[0].publish(channel, part).await;
        eventually("it is heard", async || nodes[1].heard.texts(channel) == [part.to_string()]).await;
    }
    assert_eq!(nodes[1].heard.resumed_parts(), [0; 0], "nothing of the others was missed");

    shards.servers[lost].restart();
    for node in &nodes {
        eventually("it is back", async || node.broker.canary_of(lost).await.is_ok()).await;
    }
    eventually("that is told", async || !nodes[1].heard.resumed_parts().is_empty()).await;
    assert!(nodes[1].heard.resumed_parts().iter().all(|part| *part == lost), "and of it alone");
    nodes[0].publish(&all[lost], "again").await;
    eventually("it is heard", async || nodes[1].heard.texts(&all[lost]) == ["again"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_nobody_up_who_wants_another_and_what_it_brings_late_is_heard_once() {
    let shards = Shards::new();
    let nodes = two_nodes(&shards).await;
    let hanging = 2;
    shards.servers[hanging].freeze();
    // Immediately, before a node has noticed that the server hangs.
    the_rest_goes_on(&nodes, hanging, "frozen").await;
    shards.servers[hanging].thaw();
    for node in &nodes {
        eventually("it is back", async || node.broker.canary_of(hanging).await.is_ok()).await;
    }
    the_rest_goes_on(&nodes, shards.servers.len(), "thawed").await;
    for node in &nodes {
        let told: Vec<Bytes> = ["frozen", "thawed"].map(|round| format!("told in {round}").into()).into();
        assert_eq!(node.heard.node_messages(), told);
        let commands: Vec<Bytes> =
            ["frozen", "thawed"].map(|round| format!("control in {round}").into()).into();
        assert_eq!(node.heard.control(), commands);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_heard_once_and_in_their_order_though_they_come_over_every_server() {
    let shards = Shards::new();
    let nodes = two_nodes(&shards).await;
    let sent: Vec<Bytes> = (0..300).map(|number: u32| number.to_string().into()).collect();
    for message in &sent {
        nodes[0].broker.send_control(message.clone()).await.expect("sent");
        nodes[0].broker.tell_node("node-1", message.clone()).await.expect("told");
    }
    for node in &nodes {
        eventually("all are heard", async || node.heard.control().len() >= sent.len()).await;
        assert_eq!(node.heard.control(), sent);
    }
    eventually("all are told", async || nodes[1].heard.node_messages().len() >= sent.len()).await;
    assert_eq!(nodes[1].heard.node_messages(), sent);
    // Copies of the last message may still come; the canaries follow them over the same servers.
    nodes[0].listens().await;
    nodes[1].listens().await;
    assert_eq!((nodes[0].heard.control().len(), nodes[1].heard.control().len()), (sent.len(), sent.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_list_the_servers_in_another_order_place_channels_alike() {
    let shards = Shards::new();
    let reversed = shards.config.addresses.iter().rev().cloned().collect();
    let (one, other) =
        (shards.node(), shards.node_with(&RedisConfig { addresses: reversed, ..shards.config.clone() }));
    one.listens().await;
    other.listens().await;
    assert_eq!(one.broker.layout(), other.broker.layout());
    for number in 0..30 {
        let channel = channel(&format!("ordered-{number}"));
        other.subscribe(&channel).await;
        one.publish(&channel, number).await;
        eventually("it is heard", async || other.heard.texts(&channel) == [number.to_string()]).await;
    }
    let fewer = shards.config.addresses[1..].to_vec();
    let apart = shards.node_with(&RedisConfig { addresses: fewer, ..shards.config.clone() });
    assert_ne!(apart.broker.layout(), one.broker.layout());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_channel_is_at_one_server_with_all_that_belongs_to_it() {
    let shards = Shards::new();
    for server in &shards.servers {
        server.ask::<()>(&["CONFIG", "SET", "requirepass", "secret"]);
    }
    let config = RedisConfig { database: 3, password: Secret::new("secret"), ..shards.config.clone() };
    let node = shards.node_with(&config);
    node.listens().await;
    for (part, channel) in channels(&node, "whole").into_iter().enumerate() {
        node.subscribe(&channel).await;
        node.publish(&channel, "x").await;
        node.enter(&channel, &info(1, "ann")).await;
        let name = format!("*{{{}}}*", channel.as_str());
        for (number, server) in shards.servers.iter().enumerate() {
            let ask = |words: &[&str]| -> Vec<String> {
                let url = format!("redis://:secret@127.0.0.1:{}/3", server.port());
                let mut connection =
                    redis::Client::open(url).expect("a URL").get_connection().expect("Redis");
                let mut command = redis::cmd(words[0]);
                command.arg(&words[1..]).query(&mut connection).expect("an answer")
            };
            let found = ask(&["KEYS", &name]).len() + ask(&["PUBSUB", "CHANNELS", &name]).len();
            assert_eq!(found > 0, number == part, "{channel} at server {number}");
        }
    }
}
