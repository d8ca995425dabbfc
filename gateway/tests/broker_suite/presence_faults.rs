//! Tests presence when nodes or Redis die.

use std::time::{Duration, Instant};

use tidegate::broker::BrokerRefusal;

use crate::harness::{Backend, Redis, channel, eventually};
use crate::presence::info;

fn short_lease() -> Redis {
    let mut redis = Redis::new();
    redis.config.presence_ttl_s = 1;
    redis.config.timeout_ms = 1_000;
    redis.config.ping_ms = 200;
    redis.config.reconnect_max_ms = 100;
    redis
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_of_a_dead_node_are_present_until_its_lease_runs_out() {
    let redis = short_lease();
    let (dying, living) = (redis.node(), redis.node());
    let a = channel("a");
    dying.enter(&a, &info(1, "ann")).await;
    living.enter(&a, &info(2, "bob")).await;
    assert_eq!(living.counts(&a).await, (2, 2));
    drop(dying);
    assert_eq!(living.counts(&a).await, (2, 2));
    eventually("ann is gone", async || living.counts(&a).await == (1, 1)).await;
    assert_eq!(living.present(&a).await, [info(2, "bob")]);
    // The node that read the dead node's presence has also removed it.
    let keys: Vec<String> = redis.server.ask(&["KEYS", "tidegate:present:{a}:*"]);
    assert!(keys.iter().all(|key| key.contains("node-1")), "{keys:?}");
    let nodes: Vec<String> = redis.server.ask(&["SMEMBERS", "tidegate:present:{a}"]);
    assert_eq!(nodes.len(), 1, "{nodes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_of_a_living_node_outlast_every_lease_and_key() {
    let mut redis = short_lease();
    redis.config.presence_ttl_s = 2;
    let (node, other) = (redis.node(), redis.node());
    let a = channel("a");
    node.enter(&a, &info(1, "ann")).await;
    let start = Instant::now();
    let ttl = async || redis.server.ask::<i64>(&["PTTL", "tidegate:present:{a}"]);
    // The keys live for six leases and are prolonged every second lease.
    eventually("the keys are prolonged more than once", async || {
        assert_eq!(other.counts(&a).await, (1, 1));
        assert!(ttl().await > 2_000, "the keys run out");
        start.elapsed() > Duration::from_secs(13)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_takes_nobody_new_and_keeps_those_who_are_there() {
    let redis = short_lease();
    let node = redis.node();
    let (a, b) = (channel("a"), channel("b"));
    node.enter(&a, &info(1, "ann")).await;
    redis.server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = node.presence.add(b.clone(), info(2, "bob")).wait().await;
    assert!(refused.is_err_and(|error| error.to_string().contains("OOM")));
    let mut least = i64::MAX;
    eventually("the keys of those who are there are prolonged", async || {
        let ttl: i64 = redis.server.ask(&["PTTL", "tidegate:present:{a}"]);
        let is_prolonged = ttl > least;
        least = least.min(ttl);
        is_prolonged
    })
    .await;
    redis.server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("bob is there too", async || node.counts(&b).await == (1, 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_lets_everybody_go_also_from_where_somebody_new_was_refused() {
    let redis = short_lease();
    let node = redis.node();
    let a = channel("a");
    for (client, user) in [(1, "ann"), (2, "amy"), (3, "amy")] {
        node.enter(&a, &info(client, user)).await;
    }
    assert_eq!(node.counts(&a).await, (3, 2));
    redis.server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = node.presence.add(a.clone(), info(4, "bob")).wait().await;
    assert!(refused.is_err_and(|error| error.to_string().contains("OOM")));
    for (client, left) in [(1, (2, 1)), (2, (1, 1)), (3, (0, 0))] {
        node.presence.remove(a.clone(), info(client, "").client);
        eventually("who leaves is gone", async || node.counts(&a).await == left).await;
    }
    redis.server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("bob is there", async || node.present(&a).await == [info(4, "bob")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_were_lost_are_written_again() {
    let redis = short_lease();
    let node = redis.node();
    let a = channel("a");
    node.enter(&a, &info(1, "ann")).await;
    for what in
        ["tidegate:present:{a}", "tidegate:present:{a}:node-0.1", "tidegate:present:{a}:node-0.1:users"]
    {
        assert_eq!(redis.server.ask::<i64>(&["DEL", what]), 1, "{what}");
        eventually("ann is back", async || {
            node.counts(&a).await == (1, 1) && node.present(&a).await == [info(1, "ann")]
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_was_lost_is_taken_under_another_name_with_everything_in_it() {
    let redis = short_lease();
    let (node, other) = (redis.node(), redis.node());
    let a = channel("a");
    node.enter(&a, &info(1, "ann")).await;
    redis.server.ask::<i64>(&["DEL", "tidegate:presence-leases"]);
    eventually("ann is back", async || {
        let nodes: Vec<String> = redis.server.ask(&["SMEMBERS", "tidegate:present:{a}"]);
        other.counts(&a).await == (1, 1) && nodes.len() == 1 && nodes != ["node-0.1"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_while_an_old_name_cannot_be_ended_is_gone_as_soon_as_it_can_be() {
    let mut redis = short_lease();
    // Members left under the old name would stay for longer than this test waits.
    redis.config.presence_ttl_s = 120;
    let node = redis.node();
    let a = channel("a");
    node.enter(&a, &info(1, "ann")).await;
    node.enter(&a, &info(2, "bob")).await;
    let refused = || node.metrics.refused(BrokerRefusal::Other).get();
    let before = refused();
    // No node can read the leases, and Redis is another process, so that nodes write all their presence again.
    let leases = "tidegate:presence-leases";
    redis.server.ask::<()>(&["RENAME", leases, "leases"]);
    redis.server.ask::<()>(&["SET", leases, "of another kind"]);
    redis.server.ask::<()>(&["SAVE"]);
    redis.server.kill();
    redis.server.restart();
    eventually("a new name is taken, and the old one cannot be ended", async || refused() > before).await;
    node.leave(&a, &info(1, "ann")).await;
    redis.server.ask::<()>(&["RENAME", "leases", leases]);
    eventually("bob alone is present", async || {
        let stats = node.presence.stats(a.clone()).await;
        stats.is_ok_and(|stats| (stats.clients, stats.users) == (1, 1))
    })
    .await;
    assert_eq!(node.present(&a).await, [info(2, "bob")]);
    let names: Vec<String> = redis.server.ask(&["ZRANGE", leases, "0", "-1"]);
    assert!(names.len() == 1 && names != ["node-0.1"], "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_learns_who_is_present() {
    let mut redis = short_lease();
    // 2000 members are added at once.
    redis.config.timeout_ms = 10_000;
    let (node, other) = (redis.node(), redis.node());
    let channels: Vec<_> = (0..2_000).map(|number| channel(&format!("c{number}"))).collect();
    let ann = info(1, "ann");
    let entering = channels.iter().map(|channel| node.enter(channel, &ann));
    futures_util::future::join_all(entering).await;
    redis.server.kill();
    // Joins and leaves while Redis is away count too.
    node.leave(&channels[0], &info(1, "ann")).await;
    let late = node.presence.add(channels[1].clone(), info(2, "bob")).wait().await;
    assert!(late.is_err(), "nobody can see bob yet");
    redis.server.restart();
    for (channel, expected) in [(&channels[0], (0, 0)), (&channels[1], (2, 2)), (&channels[1_999], (1, 1))] {
        eventually("presence is as it was", async || {
            other
                .presence
                .stats(channel.clone())
                .await
                .is_ok_and(|stats| (stats.clients, stats.users) == expected)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_while_redis_is_frozen_is_gone_when_it_thaws() {
    let redis = short_lease();
    let node = redis.node();
    let a = channel("a");
    node.enter(&a, &info(1, "ann")).await;
    node.enter(&a, &info(2, "bob")).await;
    redis.server.freeze();
    node.leave(&a, &info(1, "ann")).await;
    assert!(node.presence.clients(a.clone()).await.is_err());
    redis.server.thaw();
    eventually("only bob is present", async || {
        node.presence.clients(a.clone()).await.is_ok_and(|clients| clients.into_values().eq([info(2, "bob")]))
    })
    .await;
}
