//! Tests a cluster whose masters die, are replaced, are added and are removed, and servers that cannot be used as a cluster.

use std::time::{Duration, Instant};

use bytes::Bytes;
use shared::channel::Channel;
use tidegate::broker::redis::{RedisConfig, RedisMode, RedisUrl};
use tidegate::broker::{BrokerError, LeaseRequest};

use crate::cluster_moves::channels_at;
use crate::harness::{ALL, Backend, Cluster, Node, Redis, channel, eventually, request};
use crate::presence::info;
use crate::redis_cluster::RedisCluster;

/// Returns the index of the server that has the channel's slot.
fn server_of(cluster: &Cluster, node: &Node, channel: &Channel) -> usize {
    let name = node.broker.part_name(node.broker.part_of(channel));
    let named = |port: u16| *name == *format!("127.0.0.1:{port}");
    cluster.servers.servers.iter().position(|server| named(server.port())).expect("it is one of ours")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_is_missed_by_its_channels_alone_until_its_replica_is_promoted() {
    let mut cluster = Cluster::of(RedisCluster::start(3, 1));
    let nodes = [cluster.node(), cluster.node()];
    for node in &nodes {
        node.listens().await;
    }
    let all = channels_at(&nodes[0], 3, 1, "failover");
    for (number, channel) in all.iter().enumerate() {
        nodes[1].subscribe(channel).await;
        nodes[0].publish(channel, "before").await;
        nodes[0].enter(channel, &info(number as u128 + 1, "ann")).await;
    }
    for channel in &all {
        eventually("it is heard", async || nodes[1].heard.texts(channel) == ["before"]).await;
    }
    let (lost, rest) = all.split_first().expect("three of them");
    let lost_part = nodes[0].broker.part_of(lost);
    let killed = server_of(&cluster, &nodes[0], lost);
    let servers = std::sync::Arc::get_mut(&mut cluster.servers).expect("it is the test's own");
    servers.servers[killed].kill();
    let at = Instant::now();
    let mut rounds = 0;
    // Until the replica is promoted, the other masters work as before.
    let healed = loop {
        rounds += 1;
        for channel in rest {
            nodes[0].publish(channel, rounds).await;
            nodes[0].broker.canary_of(nodes[0].broker.part_of(channel)).await.expect("it comes back");
            assert_eq!(nodes[1].counts(channel).await, (1, 1));
        }
        if nodes[0].broker.publish(request(lost, "after")).await.is_ok() {
            break at.elapsed();
        }
        assert!(at.elapsed() < Duration::from_secs(60), "it does not heal");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    println!("publishing again {} ms after the kill", healed.as_millis());
    for channel in rest {
        let all: Vec<String> =
            std::iter::once("before".to_owned()).chain((1..=rounds).map(|round| round.to_string())).collect();
        eventually("all are heard", async || nodes[1].heard.texts(channel) == all).await;
    }
    for part in nodes[1].heard.resumed_parts() {
        assert!(rest.iter().all(|channel| nodes[1].broker.part_of(channel) != part), "they missed nothing");
    }
    eventually("its channels are heard where they are now", async || {
        nodes[0]
            .broker
            .publish(request(lost, "again"))
            .await
            .is_ok_and(|published| published.position.is_some())
            && nodes[1].heard.texts(lost).last().is_some_and(|last| last == "again")
    })
    .await;
    assert!(nodes[1].heard.moved().contains(lost), "what may have been missed is looked for");
    eventually("who is there is known again", async || nodes[1].counts(lost).await == (1, 1)).await;
    for node in &nodes {
        node.listens().await;
        assert!(!node.broker.has_part(lost_part) || node.broker.part_name(lost_part).len() > 1);
        assert_eq!((0..node.broker.parts()).filter(|part| node.broker.has_part(*part)).count(), 3);
    }
    let message = Bytes::from_static(b"to all");
    assert_eq!(nodes[0].broker.send_control(message.clone()).await.expect("sent"), 2);
    eventually("it is heard", async || nodes[1].heard.control().contains(&message)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_is_added_and_another_removed_while_everything_goes_on() {
    // The second master has few slots, so that they are moved quickly.
    let mut servers = RedisCluster::start_with(&[0, 16_000], 0);
    let added = servers.add_server();
    servers.meet_all();
    let cluster = Cluster::of(servers);
    let mut config = cluster.config.clone();
    // The node learns of the added server from the others.
    config.addresses.truncate(1);
    let nodes = [cluster.node_with(&config), cluster.node_with(&config)];
    for node in &nodes {
        node.listens().await;
        assert_eq!((0..node.broker.parts()).filter(|part| node.broker.has_part(*part)).count(), 2);
    }
    let all = channels_at(&nodes[0], 2, 3, "grows");
    for (number, channel) in all.iter().enumerate() {
        nodes[1].subscribe(channel).await;
        nodes[0].publish(channel, "before").await;
        nodes[0].enter(channel, &info(number as u128 + 1, "ann")).await;
    }
    let move_to = async |slots: Vec<u16>, to: usize| {
        let servers = cluster.servers.clone();
        let moving = slots.clone();
        tokio::task::spawn_blocking(move || servers.move_slots(moving, to)).await.expect("moved");
        cluster.servers.agree_on(&slots, to);
    };
    // All slots of the second master, which is then removed.
    let removed = server_of(&cluster, &nodes[0], &all[3]);
    move_to(cluster.servers.slots(removed), added).await;
    assert!(cluster.servers.slots(removed).is_empty());
    for (number, channel) in all.iter().enumerate() {
        let published = nodes[0].publish(channel, "moved").await.position.expect("a position");
        assert_eq!(published.offset, 2, "of its epoch");
        eventually("it is heard", async || {
            nodes[1].heard.texts(channel).last().is_some_and(|last| last == "moved")
        })
        .await;
        assert_eq!(nodes[1].present(channel).await, [info(number as u128 + 1, "ann")]);
        let expected = if number < 3 { server_of(&cluster, &nodes[0], &all[0]) } else { added };
        assert_eq!(server_of(&cluster, &nodes[0], channel), expected);
    }
    eventually("it is not there any more", async || {
        nodes.iter().all(|node| {
            let parts = (0..node.broker.parts()).filter(|part| node.broker.has_part(*part));
            let names: Vec<_> = parts.map(|part| node.broker.part_name(part)).collect();
            let gone = format!("127.0.0.1:{}", cluster.servers.servers[removed].port());
            names.len() == 2 && !names.iter().any(|name| **name == *gone)
        })
    })
    .await;
    for channel in &all {
        nodes[0].publish(channel, "last").await;
        eventually("it is heard", async || {
            nodes[1].heard.texts(channel).last().is_some_and(|last| last == "last")
        })
        .await;
    }
    for node in &nodes {
        node.listens().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_without_slots_is_left_though_nobody_publishes_any_more_where_it_had_them() {
    // The second master has few slots, so that they are moved quickly.
    let cluster = Cluster::of(RedisCluster::start_with(&[0, 16_000], 0));
    let node = cluster.node();
    node.listens().await;
    let mut channels = channels_at(&node, 2, 1, "quiet").into_iter();
    let channel = channels.find(|channel| server_of(&cluster, &node, channel) == 1).expect("one of each");
    node.publish(&channel, 1).await;
    let connected = || {
        let clients: String = cluster.servers.servers[1].ask(&["CLIENT", "LIST"]);
        clients.lines().filter(|line| line.contains(":reads ")).count()
    };
    assert_eq!(connected(), 1);
    let servers = cluster.servers.clone();
    let slots: Vec<u16> = servers.slots(1);
    tokio::task::spawn_blocking(move || servers.move_slots(slots, 0)).await.expect("moved");
    // The node keeps the connection for half a minute, for operations that may still be on their way to the master.
    let start = Instant::now();
    while connected() > 0 {
        assert!(start.elapsed() < Duration::from_secs(90), "the node stays connected");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Returns the error of a node that cannot work with this configuration.
async fn trouble(config: &RedisConfig, cluster: &Cluster) -> String {
    let node = cluster.node_with(config);
    node.broker.canary().await.expect_err("it cannot work").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_cluster_and_who_may_not_use_one_is_told() {
    let cluster = Cluster::new();
    let redis = Redis::new();
    let mut config = cluster.config.clone();
    config.addresses = vec![format!("127.0.0.1:{}", redis.server.port())];
    let told = trouble(&config, &cluster).await;
    assert!(told.contains("cluster support disabled") && told.contains(&config.addresses[0]), "{told}");

    let error = {
        let mut other = Redis::new();
        other.config.url = RedisUrl::new(cluster.servers.servers[0].url());
        let node = other.node();
        node.broker.canary().await.expect_err("it is of a cluster").to_string()
    };
    assert!(error.contains("redis.mode = \"cluster\""), "{error}");

    let empty = RedisCluster::start(1, 0);
    let lonely = crate::redis_server::RedisServer::start_with(&["--cluster-enabled", "yes"]);
    config.addresses = vec![format!("127.0.0.1:{}", lonely.port())];
    let told = trouble(&config, &cluster).await;
    assert!(told.contains("has to be created first"), "{told}");
    for server in &empty.servers {
        let user = ["ACL", "SETUSER", "gate", "on", ">secret", "~*", "&*", "+@all", "-info"];
        server.ask::<()>(&user);
    }
    config.addresses = empty.addresses();
    (config.user, config.password) = ("gate".to_owned(), tidegate::secret::Secret::new("secret"));
    let node = cluster.node_with(&config);
    eventually("it says what lacks", async || {
        node.broker.canary().await.is_err_and(|error| error.to_string().contains("+info"))
    })
    .await;
    empty.servers[0].ask::<()>(&["ACL", "SETUSER", "gate", "+info", "-spublish"]);
    eventually("it says what lacks", async || {
        node.broker.canary().await.is_err_and(|error| error.to_string().contains("spublish"))
    })
    .await;
    empty.servers[0].ask::<()>(&["ACL", "SETUSER", "gate", "+spublish"]);
    node.listens().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_not_there_is_told_by_each_call_and_heals_when_it_comes() {
    let ports = [crate::redis_server::free_port(), crate::redis_server::free_port()];
    let addresses = ports.map(|port| format!("127.0.0.1:{port}")).into();
    let config =
        RedisConfig { mode: RedisMode::Cluster, addresses, timeout_ms: 300, ..RedisConfig::default() };
    let cluster = Cluster::new();
    let node = cluster.node_with(&config);
    let news = channel("news");
    let started = Instant::now();
    let errors = [
        node.broker.publish(request(&news, "x")).await.expect_err("nobody is there"),
        node.broker.subscribe(vec![news.clone()]).await.expect_err("nobody is there"),
        node.broker.history(news.clone(), ALL, crate::harness::KEPT).await.expect_err("nobody is there"),
        node.broker.nodes().await.expect_err("nobody is there"),
        node.broker.send_control(Bytes::new()).await.expect_err("nobody is there"),
        node.broker
            .acquire_lease(LeaseRequest {
                what: "w",
                node: "n",
                lease: Duration::ZERO,
                patience: Duration::ZERO,
                done: "",
            })
            .await
            .expect_err("nobody is there"),
        node.broker.canary().await.expect_err("nobody is there"),
    ];
    assert!(started.elapsed() < Duration::from_secs(10), "each has its deadline");
    for error in &errors {
        let was_not_sent = matches!(error, BrokerError::Unreachable(_) | BrokerError::Timeout(_));
        assert!(was_not_sent, "{error}");
    }
    eventually("it says why", async || {
        let error = node.broker.canary().await.expect_err("nobody is there");
        error.to_string().contains("no node of the cluster answers")
    })
    .await;
    let server = crate::redis_server::RedisServer::start_at(ports[1], &["--cluster-enabled", "yes"]);
    server.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    node.listens().await;
    node.subscribe(&news).await;
    node.publish(&news, "x").await;
    eventually("it is heard", async || node.heard.texts(&news) == ["x"]).await;
}
