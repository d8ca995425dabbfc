//! Tests which servers a node accepts, and what it does when the server is another one or has changed.

use std::net::{Ipv4Addr, SocketAddr};

use tidegate::broker::redis::RedisUrl;

use crate::harness::{Backend, Node, Redis, channel, eventually, request};
use crate::redis_server::RedisServer;
use crate::relay::Relay;

fn quick() -> Redis {
    quick_with(&[])
}

fn quick_with(options: &[&str]) -> Redis {
    let mut redis = Redis::with(options);
    redis.config.ping_ms = 50;
    redis.config.reconnect_max_ms = 100;
    redis
}

/// Returns the error of the canary.
async fn refusal(redis: &Redis) -> String {
    let node = redis.node();
    node.broker.canary().await.expect_err("it cannot be used").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_not_used_until_it_is_promoted() {
    let mut redis = quick();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &redis.server.port().to_string()]);
    redis.config.url = RedisUrl::new(replica.url());
    assert!(refusal(&redis).await.contains("read-only replica"));
    let node = redis.node();
    assert!(node.broker.publish(request(&channel("a"), "x")).await.is_err());
    replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    eventually("it is used", async || node.broker.canary().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_master_is_given_up_though_its_connections_stay_open() {
    let redis = quick();
    let master = RedisServer::start();
    let node = redis.node();
    node.listens().await;
    redis.server.ask::<()>(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    eventually("both links are given up", async || {
        node.metrics.command_link.up.get() + node.metrics.subscriber_link.up.get() == 0
    })
    .await;
    redis.server.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    eventually("it is used again", async || node.broker.canary().await.is_ok()).await;
    eventually("the node is told for both links", async || node.heard.resumed() >= 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_set_that_begins_a_new_history_is_told_though_no_connection_was_lost() {
    let redis = quick_with(&["--enable-debug-command", "local"]);
    let node = redis.node();
    node.listens().await;
    assert_eq!(node.heard.resumed(), 0);
    redis.server.ask::<()>(&["DEBUG", "CHANGE-REPL-ID"]);
    eventually("the node is told for both links", async || node.heard.resumed() == 2).await;
    assert_eq!(node.metrics.command_link.reconnects.get() + node.metrics.subscriber_link.reconnects.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_and_a_sentinel_are_refused_in_words() {
    let mut redis = quick();
    let cluster = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    redis.config.url = RedisUrl::new(cluster.url());
    let said = refusal(&redis).await;
    assert!(said.contains("Redis Cluster") && said.contains("redis.mode"), "{said}");
    let sentinel = RedisServer::start_sentinel(&redis.server, "");
    redis.config.url = RedisUrl::new(sentinel.url());
    let said = refusal(&redis).await;
    assert!(said.contains("Sentinel") && said.contains("redis.mode"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_info_can_still_tell_a_replica() {
    let mut redis = quick();
    redis.server.ask::<()>(&["ACL", "SETUSER", "gate", "on", ">secret", "~*", "&*", "+@all", "-info"]);
    redis.config.url = RedisUrl::new(format!("redis://gate:secret@127.0.0.1:{}", redis.server.port()));
    let node = redis.node();
    node.listens().await;
    redis.server.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    eventually("it is not used", async || {
        node.broker.canary().await.is_err_and(|error| error.to_string().contains("read-only replica"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_managed_server_that_has_no_config_client_and_info_is_enough() {
    let forbidden = ["CONFIG", "CLIENT", "INFO"].map(|command| ["--rename-command", command, ""]).concat();
    let mut redis = quick_with(&forbidden);
    assert!(redis.server.try_ask::<String>(&["INFO"]).is_err(), "it has none");
    let (node, other) = (redis.node(), redis.node());
    node.listens().await;
    other.listens().await;
    assert!(crate::faults::works(&node).await);
    node.presence.probe().await.expect("presence");
    let a = channel("a");
    other.subscribe(&a).await;
    let before = node.publish(&a, "x").await.position.expect("a position");
    eventually("it is heard", async || other.heard.texts(&a) == ["x"]).await;
    node.enter(&a, &crate::presence::info(1, "ann")).await;
    assert_eq!(other.counts(&a).await, (1, 1));
    // The server does not tell its identity, so every new connection begins a new epoch, even if the server has lost everything.
    redis.server.restart();
    let after = node.heard.resumed();
    eventually("it goes on", async || node.broker.publish(request(&a, "y")).await.is_ok()).await;
    let again = node.publish(&a, "z").await.position.expect("a position");
    assert!(again.epoch != before.epoch && node.heard.resumed() >= after);
    eventually("ann is there again", async || {
        other.presence.stats(a.clone()).await.is_ok_and(|stats| stats.clients == 1)
    })
    .await;
}

/// Returns a node whose present connections end at the one server, and whose later ones end at the other.
async fn led_elsewhere() -> (Redis, RedisServer, Node, Relay) {
    let mut redis = quick();
    let other = RedisServer::start();
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let relay = Relay::start(at(redis.server.port()), b"SUBSCRIBE").await;
    redis.config.url = RedisUrl::new(format!("redis://127.0.0.1:{}", relay.port()));
    let node = redis.node();
    node.listens().await;
    relay.lead_to(&[at(other.port())]);
    (redis, other, node, relay)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_end_at_different_servers_are_seen_and_made_again() {
    let (redis, other, node, _relay) = led_elsewhere().await;
    redis.server.ask::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    eventually("one link is made again", async || node.heard.resumed() == 1).await;
    let error = node.broker.canary().await.expect_err("commands go elsewhere");
    assert!(error.to_string().contains("different servers"), "{error}");
    eventually("they end together", async || node.broker.canary().await.is_ok()).await;
    let a = channel("a");
    node.subscribe(&a).await;
    node.publish(&a, "x").await;
    eventually("it is heard", async || node.heard.texts(&a) == ["x"]).await;
    assert_eq!(other.ask::<i64>(&["EXISTS", "tidegate:stream:{a}"]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_for_reads_that_ends_at_another_server_is_seen_too() {
    let (redis, _other, node, _relay) = led_elsewhere().await;
    let clients: String = redis.server.ask(&["CLIENT", "LIST"]);
    let reads = clients.lines().find(|line| line.contains(":reads ")).expect("it has a name");
    let id = reads.split(' ').find_map(|word| word.strip_prefix("id=")).expect("and a number");
    redis.server.ask::<i64>(&["CLIENT", "KILL", "ID", id]);
    eventually("it is made again", async || node.metrics.read_link.reconnects.get() == 1).await;
    let error = node.broker.canary().await.expect_err("history is read elsewhere");
    assert!(error.to_string().contains("different servers"), "{error}");
    eventually("they end together", async || node.broker.canary().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_do_not_say_who_they_are_are_told_apart_by_who_is_listened_to() {
    let mut redis = quick();
    let other = RedisServer::start();
    let user = ["ACL", "SETUSER", "gate", "on", ">secret", "~*", "&*", "+@all", "-info"];
    redis.server.ask::<()>(&user);
    other.ask::<()>(&user);
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let relay = Relay::start(at(redis.server.port()), b"SUBSCRIBE").await;
    redis.config.url = RedisUrl::new(format!("redis://gate:secret@127.0.0.1:{}", relay.port()));
    let node = redis.node();
    node.listens().await;
    relay.lead_to(&[at(other.port())]);
    redis.server.ask::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    eventually("one link is made again", async || node.metrics.subscriber_link.reconnects.get() == 1).await;
    let error = node.broker.canary().await.expect_err("commands go elsewhere");
    assert!(error.to_string().contains("different servers"), "{error}");
    relay.lead_to(&[at(redis.server.port())]);
    eventually("they end together", async || node.broker.canary().await.is_ok()).await;
}

/// Returns the words of the `ACL SETUSER` line in the page on deployment.
fn documented_rights() -> Vec<&'static str> {
    let page = include_str!("../../../docs/deployment.md");
    let line = page.lines().find(|line| line.trim().starts_with("ACL SETUSER tidegate ")).expect("the line");
    line.split_whitespace().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rights_are_enough_and_each_that_lacks_is_named() {
    let mut redis = quick();
    let rights = documented_rights();
    redis.server.ask::<()>(&rights);
    redis.config.url = RedisUrl::new(format!("redis://tidegate:password@127.0.0.1:{}", redis.server.port()));
    let node = redis.node();
    node.listens().await;
    assert!(crate::faults::works(&node).await);
    node.presence.probe().await.expect("presence");
    let refused: Vec<redis::Value> = redis.server.ask(&["ACL", "LOG"]);
    assert_eq!(refused, [], "nothing was refused on the way");
    // A node works without these rights, or needs them only when it opens a connection.
    let optional = ["+hello", "+select", "+client|setname", "+info", "+pubsub|numsub"];
    for right in rights.iter().filter(|word| word.starts_with('+') && !optional.contains(word)) {
        let command = &right[1..];
        redis.server.ask::<()>(&["ACL", "SETUSER", "tidegate", &format!("-{command}")]);
        if right.contains("script") {
            redis.server.ask::<()>(&["SCRIPT", "FLUSH"]);
        }
        let fresh = redis.node();
        let error = tokio::join!(fresh.broker.canary(), fresh.presence.probe());
        let error = error.0.map(drop).and(error.1).expect_err(command).to_string();
        let named = error.contains(command) || (command == "script|load" && error.contains("script"));
        assert!(named, "without {command}: {error}");
        redis.server.ask::<()>(&["ACL", "SETUSER", "tidegate", right]);
    }
    eventually("all is well again", async || node.broker.canary().await.is_ok()).await;
}
