//! Tests the death of one of several Redis servers: its channels fare as with a single Redis, and other channels are unaffected.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gateway_core::placement::Placement;
use serde_json::{Value, json};

use crate::client::{Client, received};
use crate::gateway::{Description, Gateway, eventually, gateway};
use crate::redis_server::RedisServer;

/// Several Redis servers, over which nodes are started.
struct World {
    servers: Vec<RedisServer>,
    placement: Placement,
}

impl World {
    fn new() -> Self {
        let servers: Vec<_> = (0..3).map(|_| RedisServer::start()).collect();
        let addresses: Vec<String> = servers.iter().map(address).collect();
        Self { servers, placement: Placement::new(addresses.iter().map(String::as_str)) }
    }

    fn describe(&self, name: &str) -> Description {
        gateway().over_shards(self.servers.iter().map(RedisServer::port)).with("node.name", name)
    }

    async fn nodes(&self) -> [Gateway; 2] {
        let nodes = [self.describe("one").start().await, self.describe("two").start().await];
        for node in &nodes {
            eventually("it is ready", async || node.is_ready().await).await;
        }
        nodes
    }

    /// Returns one channel for each server.
    fn channels(&self, prefix: &str) -> [String; 3] {
        [0, 1, 2].map(|server| {
            let mut names = (0..).map(|number| format!("{prefix}{number}"));
            names.find(|name| self.placement.of(name) == server).expect("names are endless")
        })
    }

    /// Waits until the nodes report that they can, or cannot, use a server.
    async fn is_used(&self, server: usize, used: bool, nodes: [&Gateway; 2]) {
        let metric = format!("tidegate_broker_shard_up{{shard=\"{}\"}}", address(&self.servers[server]));
        for node in nodes {
            node.metric_becomes(&metric, f64::from(used)).await;
        }
    }

    async fn kill(&mut self, server: usize, nodes: [&Gateway; 2]) {
        self.servers[server].kill();
        self.is_used(server, false, nodes).await;
    }

    async fn restart(&mut self, server: usize, nodes: [&Gateway; 2]) {
        self.servers[server].restart();
        self.is_used(server, true, nodes).await;
    }
}

fn address(server: &RedisServer) -> String {
    format!("127.0.0.1:{}", server.port())
}

pub async fn verdict(node: &Gateway) -> (bool, String) {
    let answer = node.internal("/readyz").await;
    let verdict: Value = serde_json::from_slice(&answer.body).expect("JSON");
    (answer.status == 200, format!("{} {}", verdict["reasons"], verdict["notes"]))
}

/// A publisher of numbers, which runs until stopped and returns those that were accepted. Failed publications are not repeated.
pub struct Load {
    stop: Arc<AtomicBool>,
    publishing: tokio::task::JoinHandle<Vec<u64>>,
}

impl Load {
    pub fn on(node: &Arc<Gateway>, channel: &str) -> Self {
        let (stop, node) = (Arc::new(AtomicBool::new(false)), node.clone());
        let (stopped, channel) = (stop.clone(), channel.to_owned());
        let publishing = tokio::spawn(async move {
            let (mut number, mut accepted) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                number += 1;
                let answer = node.try_api("publish", &json!({ "channel": channel, "data": number })).await;
                let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                if body.get("result").is_some() {
                    accepted.push(number);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            accepted
        });
        Self { stop, publishing }
    }

    pub async fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.publishing.await.expect("the publisher")
    }
}

/// Follows a channel until a publication says that it is the last. Returns the numbers and how often a gap was reported.
pub async fn follow_to_the_end(mut client: Client) -> (Vec<u64>, u64) {
    let (mut numbers, mut told) = (Vec::new(), 0);
    loop {
        let push = client.push().await;
        if let Some(publication) = received(&push) {
            match publication.data.as_u64() {
                Some(number) => numbers.push(number),
                None => return (numbers, told),
            }
        } else {
            told += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_harms_its_channels_alone_and_comes_back() {
    let mut world = World::new();
    let nodes = world.nodes().await.map(Arc::new);
    let channels = world.channels("stream:load");
    let lost = 1;
    let (mut followers, mut loads) = (Vec::new(), Vec::new());
    for (at, channel) in channels.iter().enumerate() {
        for node in &nodes {
            let mut client = node.connect().await;
            client.subscribe(channel).await;
            if at == lost {
                // A subscriber of the lost server's channel is examined below.
                client.socket.close().await;
            } else {
                followers.push((at, tokio::spawn(follow_to_the_end(client))));
            }
        }
        if at != lost {
            loads.push((at, Load::on(&nodes[0], channel), Load::on(&nodes[1], channel)));
        }
    }
    let mut victim = nodes[0].connect().await;
    victim.subscribe(&channels[lost]).await;
    nodes[1].publish(&channels[lost], json!("before")).await;
    assert_eq!(victim.publication().await.data, "before");

    let both = [&*nodes[0], &*nodes[1]];
    world.kill(lost, both).await;
    for node in both {
        let refused = node.try_api("publish", &json!({ "channel": channels[lost], "data": 1 })).await;
        let refused: Value = serde_json::from_slice(&refused.body).expect("JSON");
        assert!(refused.get("error").is_some(), "{refused}");
        let names_it = async || {
            let (is_ready, words) = verdict(node).await;
            is_ready && words.contains(&address(&world.servers[lost]))
        };
        eventually("it is ready all the same, and says what is wrong", names_it).await;
        // New subscriptions succeed at once on the other servers, and fail with a temporary error on the lost one.
        let mut newcomer = node.connect().await;
        newcomer.subscribe(&channels[0]).await;
        let code = newcomer.refused("subscribe", json!({ "channel": channels[lost] })).await;
        assert_eq!(code, 100, "a temporary error");
    }
    world.restart(lost, both).await;
    // The server lost its data: as with a single Redis, the subscriber is unsubscribed with 2500 and can subscribe again.
    assert_eq!(victim.unsubscribed().await, (channels[lost].clone(), 2500));
    eventually("it can be subscribed again", async || {
        let id = victim.ask("subscribe", json!({ "channel": channels[lost] })).await;
        victim.reply(id).await.get("error").is_none()
    })
    .await;
    nodes[1].publish(&channels[lost], json!("after")).await;
    assert_eq!(victim.publication().await.data, "after");

    // On the other servers every accepted publication arrived once, in each publisher's order, and no gap was reported.
    let mut accepted = vec![Vec::new(); channels.len()];
    for (at, one, other) in loads {
        let (mut one, other) = (one.end().await, other.end().await);
        assert!(
            one.len() > 20 && one.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "none was refused: {one:?}"
        );
        assert!(other.len() > 20 && other.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{other:?}");
        one.extend(other);
        one.sort_unstable();
        accepted[at] = one;
        nodes[0].publish(&channels[at], json!("the last")).await;
    }
    for (at, follower) in followers {
        let (mut numbers, told) = follower.await.expect("a follower");
        numbers.sort_unstable();
        assert_eq!((&numbers, told), (&accepted[at], 0), "{}", channels[at]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_info_and_commands_go_on_without_any_one_server() {
    let mut world = World::new();
    let nodes = world.nodes().await;
    let channels = world.channels("stream:room");
    for lost in 0..3 {
        let user = format!("user-{lost}");
        let mut far = nodes[1].connect_as(&user).await;
        world.kill(lost, nodes.each_ref()).await;
        for (at, channel) in channels.iter().enumerate() {
            let present = json!({ "channel": channel });
            if at == lost {
                let answer = nodes[0].try_api("presence", &present).await;
                let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
                assert!(answer.get("error").is_some(), "{answer}");
                continue;
            }
            far.subscribe(channel).await;
            // Earlier members are removed in the background.
            eventually("it alone is there", async || {
                nodes[0].api("presence_stats", present.clone()).await["num_clients"] == 1
            })
            .await;
            let there = nodes[0].api("presence", present).await;
            let users: Vec<&str> = there["presence"]
                .as_object()
                .expect("clients")
                .values()
                .filter_map(|info| info["user"].as_str())
                .collect();
            assert_eq!(users, [&user]);
        }
        let info = nodes[0].api("info", json!({})).await;
        let names: Vec<&str> = info["nodes"]
            .as_array()
            .expect("nodes")
            .iter()
            .filter_map(|node| node["name"].as_str())
            .collect();
        assert_eq!(names, ["one", "two"], "without server {lost}");
        // The other node carries the commands out, in the order in which they were given.
        let (kept, left) =
            if lost == 0 { (&channels[1], &channels[2]) } else { (&channels[0], &channels[3 - lost]) };
        nodes[0].api("unsubscribe", json!({ "user": user, "channel": left })).await;
        assert_eq!(far.unsubscribed().await.0, *left);
        nodes[0].publish(kept, json!("still there")).await;
        assert_eq!(far.publication().await.data, "still there");
        nodes[0].api("disconnect", json!({ "user": user })).await;
        let (code, _) = far.closed().await;
        assert_eq!(code, 3503, "it was put out");
        world.restart(lost, nodes.each_ref()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_whose_copy_could_not_be_made_is_among_all_topics_once_that_server_is_back() {
    let mut world = World::new();
    let start = async |name| {
        let hub = "[namespaces.mercure]\nhistory_size = 300\nhistory_ttl_s = 3600\n";
        world.describe(name).with("mercure.enabled", true).and(hub).start().await
    };
    let nodes = [start("one").await, start("two").await];
    for node in &nodes {
        eventually("it is ready", async || node.is_ready().await).await;
    }
    let all = "mercure:*";
    let lost = world.placement.of(all);
    let mut topics = (0..).map(|number| format!("mercure:topic-{number}"));
    let topic = topics.find(|topic| world.placement.of(topic) != lost).expect("names are endless");
    world.kill(lost, nodes.each_ref()).await;
    let update = json!({ "channel": topic, "data": 1, "version": 7 });
    let refused = nodes[0].try_api("publish", &update).await;
    let refused: Value = serde_json::from_slice(&refused.body).expect("JSON");
    assert!(refused.get("error").is_some(), "it is published in part: {refused}");
    // A retry finds the publication and succeeds.
    nodes[1].api("publish", update).await;
    world.restart(lost, nodes.each_ref()).await;
    let count = async |channel: &str| {
        let page = nodes[1].api("history", json!({ "channel": channel, "limit": 10 })).await;
        page["publications"].as_array().map_or(0, Vec::len)
    };
    eventually("it is among all topics", async || count(all).await == 1).await;
    assert_eq!(count(&topic).await, 1);
    nodes[0].api("publish", json!({ "channel": topic, "data": 2, "version": 8 })).await;
    assert_eq!(count(all).await, 2, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_list_of_servers_does_not_serve_and_says_whose_differs() {
    let world = World::new();
    let [one, two] = world.nodes().await;
    let ports = world.servers[..2].iter().map(RedisServer::port);
    let stranger = gateway().over_shards(ports).with("node.name", "stranger").start().await;
    let words = async |node: &Gateway| verdict(node).await;
    eventually("it says so", async || {
        let (is_ready, words) = words(&stranger).await;
        !is_ready && words.contains("one, two distribute channels differently")
    })
    .await;
    for node in [&one, &two] {
        node.metric_becomes("tidegate_nodes_apart", 1.0).await;
        eventually("it is told, and goes on", async || {
            let (is_ready, words) = words(node).await;
            is_ready && words.contains("node stranger distributes channels differently")
        })
        .await;
    }
    stranger.drain().await;
    one.metric_becomes("tidegate_nodes_apart", 0.0).await;
    // A node with the same list of servers, in any order, is one of the cluster.
    let ports = world.servers.iter().rev().map(RedisServer::port);
    let friend = gateway().over_shards(ports).with("node.name", "friend").start().await;
    eventually("it serves", async || friend.is_ready().await).await;
    let mut client = friend.connect().await;
    client.subscribe("stream:news").await;
    one.publish("stream:news", json!("hello")).await;
    assert_eq!(client.publication().await.data, "hello");
}

const EMITTERS: &str = r#"
[socketio]
enabled = true
[socketio.namespaces."/"]
[socketio.emitters]
enabled = true
[namespaces.socketio]
history_size = 5000
history_ttl_s = 600
allow_subscribe = true
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emitters_are_carried_out_once_though_the_server_that_says_whose_turn_it_is_dies() {
    let (turn, channel) = ("socketio-emitters", "socketio:*");
    let mut world = World::new();
    while world.placement.of(turn) == world.placement.of(channel) {
        world = World::new();
    }
    let emitting = RedisServer::start();
    let start = async |name| {
        let node = world.describe(name).with("socketio.emitters.url", emitting.url()).and(EMITTERS);
        node.start().await
    };
    let nodes = [start("one").await, start("two").await];
    let mut clients = Vec::new();
    for node in &nodes {
        node.metric_becomes("tidegate_socketio_emitters_link_up", 1.0).await;
        clients.push(node.in_main().await.0);
    }
    let emit = |event: &str| {
        let message = json!(["e", { "type": 2, "data": [event], "nsp": "/" }, { "rooms": [], "flags": {}, "except": [] }]);
        emitting.ask::<u64>(&["PUBLISH", "socket.io#/#", &message.to_string()])
    };
    assert_eq!(emit("before"), 2, "both nodes hear it");
    for client in &mut clients {
        assert_eq!(client.next_packet().await, r#"2["before"]"#);
    }
    let keeper = world.placement.of(turn);
    world.kill(keeper, nodes.each_ref()).await;
    for number in 0..20 {
        emit(&format!("without-{number}"));
    }
    for client in &mut clients {
        for number in 0..20 {
            assert_eq!(client.next_packet().await, format!(r#"2["without-{number}"]"#));
        }
    }
    world.restart(keeper, nodes.each_ref()).await;
    for number in 0..20 {
        emit(&format!("after-{number}"));
    }
    for client in &mut clients {
        for number in 0..20 {
            assert_eq!(client.next_packet().await, format!(r#"2["after-{number}"]"#));
        }
    }
    let page = nodes[0].api("history", json!({ "channel": channel, "limit": 1000 })).await;
    assert_eq!(page["publications"].as_array().map(Vec::len), Some(41), "each once");
}
