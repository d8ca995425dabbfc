//! Tests failovers by Redis Sentinel: all nodes move to the new master at once, no gap goes unreported, and errors name what is
//! missing.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::gateway::{Description, Gateway, PATIENCE, eventually, gateway};
use crate::receives_emitters::{EMITTERS, emit};
use crate::redis_server::RedisServer;
use crate::survives_redis::{Load, accounts, followers};

/// Settings with which a Sentinel soon considers a master down, and a failover failed.
const IMPATIENT: &str =
    "sentinel down-after-milliseconds watched 1000\nsentinel failover-timeout watched 3000";

/// Options with which replication starts quickly.
const REPLICATES: [&str; 6] =
    ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];

/// A master, a replica, and Sentinels that watch both.
struct World {
    servers: [RedisServer; 2],
    sentinels: Vec<RedisServer>,
}

impl World {
    /// Starts the servers and three Sentinels, of which two must agree.
    async fn new() -> Self {
        Self::with(&[], "", 3).await
    }

    /// Starts the servers with these options, and this many Sentinels with these lines of settings.
    async fn with(options: &[&str], settings: &str, sentinels: usize) -> Self {
        let options = [&REPLICATES[..], options].concat();
        let servers = [(); 2].map(|()| RedisServer::start_with(&options));
        let port = servers[0].port();
        servers[1].ask::<()>(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
        // A Sentinel that finds the replica in the master's first INFO need not wait for the next one.
        in_sync(&servers[1]).await;
        let quorum = sentinels / 2 + 1;
        let settings = format!("sentinel monitor watched 127.0.0.1 {port} {quorum}\n{IMPATIENT}\n{settings}");
        let sentinels: Vec<RedisServer> = (0..sentinels)
            .map(|_| RedisServer::start_sentinel_with(Path::new("redis-server"), &settings))
            .collect();
        let world = Self { servers, sentinels };
        eventually("each Sentinel knows the replica and all others", async || {
            let others = (world.sentinels.len() - 1).to_string();
            world.sentinels.iter().all(|sentinel| {
                let state = state(sentinel);
                state["num-slaves"] == "1" && state["num-other-sentinels"] == others
            })
        })
        .await;
        world
    }

    fn ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(RedisServer::port).collect()
    }

    fn node(&self) -> Description {
        gateway().over_sentinels(self.ports())
    }

    /// Starts two nodes with short timeouts towards Redis.
    async fn nodes(&self) -> [Arc<Gateway>; 2] {
        let node = async |name: &str| {
            let node = self.node().with("node.name", name);
            let node = node.with("redis.timeout_ms", 800).with("redis.ping_ms", 200);
            Arc::new(node.start().await)
        };
        [node("here").await, node("there").await]
    }

    fn at(&mut self, port: u16) -> &mut RedisServer {
        self.servers.iter_mut().find(|server| server.port() == port).expect("one of the two")
    }

    /// Makes the other server the master, and returns its port.
    async fn fail_over(&self) -> u16 {
        let (last, start) = (self.sentinels.last().expect("there are some"), Instant::now());
        let old = master(last);
        while master(last) == old {
            // The Sentinel refuses until it has seen that the replica is healthy.
            let said = last.try_ask::<String>(&["SENTINEL", "FAILOVER", "watched"]);
            assert!(start.elapsed() < PATIENCE, "no other master: {said:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        master(last)
    }

    /// Waits until this many nodes have moved from the one server to the other.
    async fn is_left(&self, old: u16, new: u16, nodes: usize) {
        let at = |port: u16| {
            let server = self.servers.iter().find(|server| server.port() == port).expect("one of the two");
            connections(server)
        };
        eventually("the nodes have moved", async || at(old) == 0 && at(new) >= 3 * nodes).await;
    }

    /// Waits until the last Sentinel names another master than this, and returns its port.
    async fn replaces(&self, old: u16) -> u16 {
        let last = self.sentinels.last().expect("there are some");
        eventually("another is master", async || master(last) != old).await;
        master(last)
    }
}

async fn in_sync(replica: &RedisServer) {
    eventually("the replica has all data", async || {
        replica
            .try_ask::<String>(&["INFO", "replication"])
            .unwrap_or_default()
            .contains("master_link_status:up")
    })
    .await;
}

/// Returns the port of the master that a Sentinel names.
fn master(sentinel: &RedisServer) -> u16 {
    let (_, port) = sentinel.ask::<(String, u16)>(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "watched"]);
    port
}

fn state(sentinel: &RedisServer) -> std::collections::HashMap<String, String> {
    sentinel.ask(&["SENTINEL", "MASTER", "watched"])
}

/// Returns the number of nodes' connections at a server.
fn connections(server: &RedisServer) -> usize {
    let list: String = server.ask(&["CLIENT", "LIST"]);
    list.lines().filter(|line| line.contains("name=tidegate:")).count()
}

async fn reasons(node: &Gateway) -> String {
    let answer = node.internal("/readyz").await;
    let verdict: Value = serde_json::from_slice(&answer.body).expect("JSON");
    verdict["reasons"].to_string()
}

async fn is_told(node: &Gateway, why: &str) {
    let start = Instant::now();
    loop {
        let told = reasons(node).await;
        if told.contains(why) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{why} is not told: {told}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Checks that a node is ready and that a publication there reaches a client. Retries after temporary errors.
async fn serves(node: &Gateway) {
    eventually("ready", async || node.is_ready().await).await;
    let (mut client, start) = (node.connect().await, Instant::now());
    loop {
        let id = client.ask("subscribe", json!({ "channel": "stream:proof" })).await;
        let reply = client.reply(id).await;
        match reply["error"]["code"].as_u64() {
            None => break,
            Some(code) => assert!(code == 100 && start.elapsed() < PATIENCE, "{reply}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eventually("it is published", async || {
        let message = json!({ "channel": "stream:proof", "data": "served" });
        let body = node.try_api("publish", &message).await.body;
        serde_json::from_slice::<Value>(&body).unwrap_or_default().get("result").is_some()
    })
    .await;
    assert_eq!(client.publication().await.data, "served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_under_load_and_the_way_back_lose_nothing_unnoticed() {
    let mut world = World::new().await;
    let [here, there] = world.nodes().await;
    let followers = followers(&[&here, &there]).await;
    let load = Load::on(&here);
    load.goes_on(50).await;
    for changes in 1..=2 {
        let old = master(&world.sentinels[0]);
        let new = world.fail_over().await;
        for node in [&here, &there] {
            node.metric_becomes("tidegate_broker_master_changes_total", f64::from(changes)).await;
        }
        load.goes_on(100).await;
        world.is_left(old, new, 2).await;
        in_sync(world.at(old)).await;
    }
    load.goes_on(50).await;
    let accepted = load.accepted();
    load.end().await;
    for account in accounts(&there, followers).await {
        assert!(account.told >= 1, "each promotion begins new epochs: {account:?}");
        assert!(account.received > 100, "{account:?} of {accepted}");
    }
    eventually("both are ready", async || here.is_ready().await && there.is_ready().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_is_left_for_the_one_that_takes_its_place() {
    let mut world = World::new().await;
    let [here, there] = world.nodes().await;
    let followers = followers(&[&here, &there]).await;
    let load = Load::on(&here);
    load.goes_on(50).await;
    let old = master(&world.sentinels[0]);
    world.at(old).kill();
    let new = world.replaces(old).await;
    load.goes_on(100).await;
    load.end().await;
    // The old master comes back as a master, until Sentinel makes it a replica.
    world.at(old).restart();
    in_sync(world.at(old)).await;
    world.is_left(old, new, 2).await;
    for account in accounts(&there, followers).await {
        assert!(account.told >= 1 && account.received > 100, "{account:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_hangs_is_left_and_not_returned_to_when_it_wakes_up() {
    let mut world = World::new().await;
    let [here, there] = world.nodes().await;
    let followers = followers(&[&here, &there]).await;
    let load = Load::on(&here);
    load.goes_on(50).await;
    let old = master(&world.sentinels[0]);
    world.at(old).freeze();
    let new = world.replaces(old).await;
    load.goes_on(50).await;
    world.at(old).thaw();
    // The old master still takes itself for the master at first.
    load.goes_on(50).await;
    world.is_left(old, new, 2).await;
    in_sync(world.at(old)).await;
    load.goes_on(50).await;
    load.end().await;
    for node in [&here, &there] {
        assert_eq!(node.metric("tidegate_broker_master_changes_total").await, 1.0);
    }
    for account in accounts(&there, followers).await {
        assert!(account.told >= 1 && account.received > 100, "{account:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sentinel_that_dies_and_one_that_hangs_are_not_missed() {
    let mut world = World::new().await;
    let [here, there] = world.nodes().await;
    for node in [&here, &there] {
        node.metric_becomes("tidegate_broker_sentinels_up", 3.0).await;
    }
    world.sentinels[0].kill();
    for node in [&here, &there] {
        node.metric_becomes("tidegate_broker_sentinels_up", 2.0).await;
    }
    serves(&here).await;
    let gone = world.sentinels.remove(0);
    let old = master(&world.sentinels[0]);
    let new = world.fail_over().await;
    world.is_left(old, new, 2).await;
    for node in [&here, &there] {
        node.metric_becomes("tidegate_broker_master_changes_total", 1.0).await;
        serves(node).await;
    }
    // A node that starts now finds one Sentinel that is gone, one that hangs, and one that answers.
    world.sentinels[0].freeze();
    let ports = [gone.port(), world.sentinels[0].port(), world.sentinels[1].port()];
    let late = gateway().over_sentinels(ports).with("redis.timeout_ms", 800).start().await;
    serves(&late).await;
    late.metric_becomes("tidegate_broker_sentinels_up", 1.0).await;
    world.sentinels[0].thaw();
    late.metric_becomes("tidegate_broker_sentinels_up", 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_on_without_any_sentinel_while_its_master_does() {
    let mut world = World::with(&[], "", 1).await;
    let node = world.node().with("redis.timeout_ms", 800).with("redis.ping_ms", 200).start().await;
    serves(&node).await;
    world.sentinels[0].kill();
    node.metric_becomes("tidegate_broker_sentinels_up", 0.0).await;
    assert!(node.is_ready().await);
    let port = world.servers[0].port();
    world.servers[0].ask::<u64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    serves(&node).await;
    world.servers[0].kill();
    is_told(&node, &format!("127.0.0.1:{port}, which Sentinel names as the master")).await;
    is_told(&node, "no Sentinel answers").await;
    world.servers[0].restart();
    serves(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_and_servers_with_passwords_of_their_own_are_logged_in_to() {
    let servers = ["--requirepass", "of-the-servers", "--masterauth", "of-the-servers"];
    let settings = "sentinel auth-pass watched of-the-servers\nrequirepass of-the-sentinels\n\
                    user watcher on >of-the-watcher resetchannels &+switch-master &+promoted-slave \
                    &+failover-state-wait-promotion -@all +auth +hello +subscribe +client|setname +sentinel|get-master-addr-by-name +sentinel|master";
    let world = World::with(&servers, settings, 1).await;
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "of-the-servers\n").expect("a secret");
    let node = world
        .node()
        .with("redis.password_file", secret.path().display())
        .with("redis.sentinel_user", "watcher")
        .with("redis.sentinel_password", "of-the-watcher")
        .with("redis.database", 3)
        .start()
        .await;
    serves(&node).await;
    assert!(world.servers[0].ask::<String>(&["INFO", "keyspace"]).contains("db3:"));
    let old = master(&world.sentinels[0]);
    let new = world.fail_over().await;
    node.metric_becomes("tidegate_broker_master_changes_total", 1.0).await;
    world.is_left(old, new, 1).await;
    serves(&node).await;

    let stranger = world.node().with("redis.password", "of-the-servers").start().await;
    is_told(&stranger, "no Sentinel answers").await;
    is_told(&stranger, "NOAUTH").await;
    let wrong = world.node().with("redis.sentinel_password", "guessed").start().await;
    is_told(&wrong, "WRONGPASS").await;
    assert!(!reasons(&wrong).await.contains("guessed"));
    let half = world.node().with("redis.sentinel_password", "of-the-sentinels").start().await;
    is_told(&half, "which Sentinel names as the master").await;
    is_told(&half, "NOAUTH").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_told_in_words() {
    let world = World::with(&[], "", 1).await;
    let mut ports = world.ports();
    let other_name = world.node().with("redis.sentinel_master", "another").start().await;
    is_told(&other_name, "no Sentinel that answers knows a master \\\"another\\\"").await;

    let nobody = gateway().over_sentinels([crate::redis_server::free_port()]).start().await;
    is_told(&nobody, "no Sentinel answers").await;
    is_told(&nobody, "refused").await;

    let no_sentinel = gateway().over_sentinels([world.servers[0].port()]).start().await;
    is_told(&no_sentinel, "this server is not a Sentinel").await;

    let replica = world.servers[1].port();
    let settings = format!("sentinel monitor watched 127.0.0.1 {replica} 1");
    let misled = RedisServer::start_sentinel_with(Path::new("redis-server"), &settings);
    let led_astray = gateway().over_sentinels([misled.port()]).start().await;
    is_told(&led_astray, &format!("127.0.0.1:{replica}, which Sentinel names as the master")).await;
    is_told(&led_astray, "read-only replica").await;
    assert_eq!(led_astray.internal("/livez").await.status, 200);

    // One correct address among unusable ones is enough.
    ports.push(crate::redis_server::free_port());
    ports.push(world.servers[0].port());
    serves(&gateway().over_sentinels(ports).start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_was_left_behind_is_not_believed_also_when_it_is_the_only_one_left() {
    let mut world = World::with(&[], "", 1).await;
    world.fail_over().await;
    // This Sentinel knows of no election, and its master accepts writes.
    let forlorn = RedisServer::start();
    let settings = format!("sentinel monitor watched 127.0.0.1 {} 1", forlorn.port());
    let behind = RedisServer::start_sentinel_with(Path::new("redis-server"), &settings);
    let ports = [behind.port(), world.sentinels[0].port()];
    let node = gateway().over_sentinels(ports).start().await;
    serves(&node).await;
    world.sentinels[0].kill();
    node.metric_becomes("tidegate_broker_sentinels_up", 1.0).await;
    serves(&node).await;
    assert_eq!(connections(&forlorn), 0);
    assert_eq!(node.metric("tidegate_broker_master_changes_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emitters_are_heard_at_the_new_master_too() {
    let world = World::with(&[], "", 1).await;
    let node = world.node().and(EMITTERS).start().await;
    let heard = |port: u16| {
        let server = world.servers.iter().find(|server| server.port() == port).expect("one of the two");
        emit(server, "event", &[], &[], &[])
    };
    let old = master(&world.sentinels[0]);
    eventually("they are heard", async || heard(old) == 1).await;
    let new = world.fail_over().await;
    eventually("they are heard there", async || heard(new) == 1).await;
    eventually("they are heard nowhere else", async || heard(old) == 0).await;
    node.metric_becomes("tidegate_socketio_emitters_link_up", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_of_the_nodes_own_redis_goes_where_the_master_is_though_the_old_one_still_answers() {
    // Two servers that do not know of each other, each with a Sentinel: the second Sentinel has the higher config epoch.
    let servers = [(); 2].map(|()| RedisServer::start());
    let [early, mut late] = [(&servers[0], 1), (&servers[1], 2)].map(|(server, epoch)| {
        let watched = format!("sentinel monitor watched 127.0.0.1 {} 1", server.port());
        let settings = format!("{watched}\nsentinel config-epoch watched {epoch}");
        RedisServer::start_sentinel_with(Path::new("redis-server"), &settings)
    });
    late.kill();
    let node = gateway()
        .over_sentinels([early.port(), late.port()])
        .with("feeds.orders.kind", "redis_stream")
        .with("feeds.orders.redis_stream.stream", "orders")
        .start()
        .await;
    let add = |server: &RedisServer| {
        server.ask::<String>(&["XADD", "orders", "*", "channel", "stream:a", "data", "1"]);
    };
    let published = "tidegate_feed_records_total{feed=\"orders\",result=\"published\"}";
    add(&servers[0]);
    node.metric_becomes(published, 1.0).await;
    late.restart();
    node.metric_becomes("tidegate_broker_master_changes_total", 1.0).await;
    add(&servers[1]);
    node.metric_becomes(published, 2.0).await;
    eventually("the old one is left", async || connections(&servers[0]) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_may_be_told_by_its_name_or_by_an_ipv6_address() {
    let named = "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes";
    let server = RedisServer::start();
    let settings = format!("{named}\nsentinel monitor watched localhost {} 1", server.port());
    let sentinel = RedisServer::start_sentinel_with(Path::new("redis-server"), &settings);
    let (host, _) = sentinel.ask::<(String, u16)>(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "watched"]);
    assert_eq!(host, "localhost");
    serves(&gateway().over_sentinels([sentinel.port()]).start().await).await;

    let settings = format!("sentinel monitor watched ::1 {} 1", server.port());
    let sentinel = RedisServer::start_sentinel_with(Path::new("redis-server"), &settings);
    server.ask::<()>(&["CONFIG", "SET", "bind", "127.0.0.1 -::1"]);
    if std::net::TcpStream::connect(("::1", server.port())).is_ok() {
        serves(&gateway().over_sentinels([sentinel.port()]).start().await).await;
    } else {
        // On a machine without IPv6, the error shows the address in the usual notation.
        let node = gateway().over_sentinels([sentinel.port()]).start().await;
        is_told(&node, &format!("[::1]:{}, which Sentinel names", server.port())).await;
    }
}
