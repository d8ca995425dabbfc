//! Measures what a publication costs each of three masters of a cluster, compared with one that has all slots, and what moves of
//! slots and failovers cost. These are not tests: they print what they measure.
//!
//! `cargo test -p tidegate --test broker_suite cluster_costs -- --ignored --nocapture`

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shared::channel::Channel;
use tidegate::broker::redis::RedisConfig;

use crate::cluster_moves::{channels_at, slots_of};
use crate::harness::{Backend, Cluster, Node, channel, request};
use crate::redis_cluster::RedisCluster;
use crate::redis_server::RedisServer;

const PUBLICATIONS: u64 = 20_000;
const CHANNELS: usize = 300;
/// Publications in flight at once for each master.
const TOGETHER: usize = 64;
const ROUNDS: usize = 5;

/// Returns the CPU time that a server has used, in microseconds.
fn used(server: &RedisServer) -> f64 {
    let info: String = server.ask(&["INFO", "cpu"]);
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        line.trim_start_matches(':').trim().parse::<f64>().expect("seconds")
    };
    (field("used_cpu_user") + field("used_cpu_sys")) * 1e6
}

/// Returns the CPU time of each master per publication, in microseconds.
async fn measure(node: &Node, channels: &[Channel], servers: &[RedisServer], masters: usize) -> Vec<f64> {
    let before: Vec<f64> = servers.iter().map(used).collect();
    let counted = || {
        let by_name = node.by_name.lock();
        let published = |server: &RedisServer| {
            by_name.get(&format!("127.0.0.1:{}", server.port())).map_or(0, |one| one.published.get())
        };
        servers.iter().map(published).collect::<Vec<u64>>()
    };
    let published_before = counted();
    let next = AtomicU64::new(0);
    let all = PUBLICATIONS * masters as u64;
    let publishers = (0..TOGETHER * masters).map(|_| async {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= all {
                return;
            }
            let channel = &channels[number as usize % channels.len()];
            node.broker.publish(request(channel, "x".repeat(128))).await.expect("published");
        }
    });
    join_all(publishers).await;
    let published: Vec<u64> = counted().iter().zip(&published_before).map(|(now, was)| now - was).collect();
    let each = |(server, (was, count)): (&RedisServer, (&f64, &u64))| (used(server) - was) / *count as f64;
    servers.iter().zip(before.iter().zip(&published)).map(each).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_publication_costs_each_of_three_masters_what_it_costs_one_that_has_all_slots() {
    for partitions in [64, 1_024, 16_384] {
        let (one, three) = (Cluster::of(RedisCluster::start(1, 0)), Cluster::of(RedisCluster::start(3, 0)));
        let with =
            |cluster: &Cluster| RedisConfig { cluster_partitions: partitions, ..cluster.config.clone() };
        let (alone, several) = (one.node_with(&with(&one)), three.node_with(&with(&three)));
        alone.listens().await;
        several.listens().await;
        let channels: Vec<Channel> =
            (0..CHANNELS).map(|number| channel(&format!("costs:{number}"))).collect();
        println!("{partitions} partitions: µs of Redis for each publication");
        for _ in 0..ROUNDS {
            let shown = |measured: Vec<f64>| {
                measured.iter().map(|micros| format!("{micros:.1}")).collect::<Vec<_>>().join(", ")
            };
            let alone = shown(measure(&alone, &channels, &one.servers.servers, 1).await);
            let all = shown(measure(&several, &channels, &three.servers.servers, 3).await);
            println!("one master: {alone}; each of three: {all}");
        }
    }
}

/// Publishes until stopped and returns how long each publication took, in milliseconds, in ascending order.
async fn publish_for(node: &Node, channel: &Channel, stop: &AtomicBool) -> Vec<f64> {
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let published = node.broker.publish(request(channel, "x".repeat(128))).await;
        if published.is_ok() {
            took.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_long_publications_take_while_slots_move() {
    let cluster = Cluster::of(RedisCluster::start(2, 0));
    let node = cluster.node();
    node.listens().await;
    let channels: Vec<Channel> = (0..CHANNELS).map(|number| channel(&format!("moves:{number}"))).collect();
    let slots = slots_of(&cluster, &channels);
    for to in [0, 1, 0, 1] {
        let stop = AtomicBool::new(false);
        let publishing = join_all(channels.iter().take(50).map(|channel| publish_for(&node, channel, &stop)));
        let moving = async {
            let (servers, slots) = (cluster.servers.clone(), slots.clone());
            let begun = Instant::now();
            tokio::task::spawn_blocking(move || servers.move_slots(slots, to)).await.expect("moved");
            let took = begun.elapsed();
            stop.store(true, Ordering::Relaxed);
            took
        };
        let (took, moved) = tokio::join!(publishing, moving);
        let mut took: Vec<f64> = took.into_iter().flatten().collect();
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        println!(
            "{} slots in {} ms; {} publications: median {:.2} ms, 99 % {:.2} ms, longest {:.1} ms",
            slots.len(),
            moved.as_millis(),
            took.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_soon_a_killed_master_is_replaced() {
    for _ in 0..ROUNDS {
        let mut cluster = Cluster::of(RedisCluster::start(3, 1));
        let node = cluster.node();
        node.listens().await;
        let news = channels_at(&node, 1, 1, "healing").remove(0);
        node.publish(&news, "before").await;
        let killed = cluster.servers.owner(slots_of(&cluster, std::slice::from_ref(&news))[0]);
        let servers = std::sync::Arc::get_mut(&mut cluster.servers).expect("it is the test's own");
        servers.servers[killed].kill();
        let begun = Instant::now();
        let replica = &cluster.servers.servers[killed + 3];
        let promoted = async {
            while !replica.ask::<String>(&["INFO", "replication"]).contains("role:master") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            begun.elapsed()
        };
        let published = async {
            while node.broker.publish(request(&news, "after")).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            begun.elapsed()
        };
        let (promoted, published) = tokio::join!(promoted, published);
        println!(
            "promoted {} ms after the kill, publishing again {} ms after it",
            promoted.as_millis(),
            published.as_millis()
        );
    }
}
