//! Measures what a publication costs a Redis that is one of several, compared with one that is alone. This is not a test: it
//! prints what it measures.
//!
//! `cargo test -p tidegate --test broker_suite shard_costs -- --ignored --nocapture`

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;
use shared::channel::Channel;

use crate::harness::{Backend, Node, Redis, Shards, channel, request};
use crate::redis_server::RedisServer;

const PUBLICATIONS: u64 = 20_000;
/// Publications in flight at once at each server.
const TOGETHER: usize = 32;
const ROUNDS: usize = 5;

/// Returns the CPU time that a server has used, in microseconds, and its number of script calls.
fn used(server: &RedisServer) -> (f64, u64) {
    let info: String = server.ask(&["INFO", "everything"]);
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        line.trim_start_matches(':').to_owned()
    };
    let cpu = ["used_cpu_user", "used_cpu_sys"].map(|name| field(name).parse::<f64>().expect("seconds"));
    let stats = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")).unwrap_or("0,");
    let calls = stats.split(',').next().and_then(|calls| calls.parse().ok()).unwrap_or(0);
    (cpu.iter().sum::<f64>() * 1e6, calls)
}

async fn fill(node: &Node, channel: &Channel) {
    let next = AtomicU64::new(0);
    let publishers = (0..TOGETHER).map(|_| async {
        while next.fetch_add(1, Ordering::Relaxed) < PUBLICATIONS {
            node.broker.publish(request(channel, "x".repeat(128))).await.expect("published");
        }
    });
    join_all(publishers).await;
}

/// Returns, for each server, its CPU time in microseconds and its script calls per publication.
async fn measure(node: &Node, channels: &[Channel], servers: &[&RedisServer]) -> Vec<(f64, f64)> {
    let before: Vec<_> = servers.iter().map(|server| used(server)).collect();
    join_all(channels.iter().map(|channel| fill(node, channel))).await;
    let after = servers.iter().map(|server| used(server));
    let each = PUBLICATIONS as f64;
    before
        .into_iter()
        .zip(after)
        .map(|(before, after)| ((after.0 - before.0) / each, (after.1 - before.1) as f64 / each))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_publication_costs_one_of_several_servers_what_it_costs_one_that_is_alone() {
    let (redis, shards) = (Redis::new(), Shards::new());
    let (alone, several) = (redis.node(), shards.node());
    alone.listens().await;
    several.listens().await;
    let one = [channel("alone")];
    let each: Vec<Channel> = (0..several.broker.parts())
        .map(|part| {
            let mut names = (0..).map(|number| channel(&format!("several-{number}")));
            names.find(|name| several.broker.part_of(name) == part).expect("names are endless")
        })
        .collect();
    let servers: Vec<&RedisServer> = shards.servers.iter().collect();
    println!("µs of Redis for each publication (calls of scripts for each)");
    for _ in 0..ROUNDS {
        let shown = |measured: Vec<(f64, f64)>| {
            let shown = measured.iter().map(|(micros, calls)| format!("{micros:.2} ({calls:.3})"));
            shown.collect::<Vec<_>>().join(", ")
        };
        let alone = shown(measure(&alone, &one, &[&redis.server]).await);
        // First only one of the servers gets the load of the one that is alone, then each of them.
        let one_of = shown(measure(&several, &each[..1], &servers[..1]).await);
        let all = shown(measure(&several, &each, &servers).await);
        println!("alone: {alone}; one of three: {one_of}; all three at once: {all}");
    }
}
