//! Tests nodes over a Redis Cluster whose slots move and whose masters die while clients read and write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::received;
use crate::gateway::{Description, Gateway, eventually, gateway};
use crate::loses_a_shard::{Load, follow_to_the_end, verdict};
use crate::redis_cluster::RedisCluster;

fn describe(cluster: &RedisCluster, name: &str) -> Description {
    // A move can take long on a loaded machine, and no publication may time out meanwhile.
    gateway().over_cluster(&cluster.addresses()).with("node.name", name).with("redis.timeout_ms", 20_000)
}

async fn nodes(cluster: &RedisCluster) -> [Arc<Gateway>; 2] {
    let nodes = [describe(cluster, "one").start().await, describe(cluster, "two").start().await];
    for node in &nodes {
        eventually("it is ready", async || node.is_ready().await).await;
    }
    nodes.map(Arc::new)
}

/// Returns the first slot of the channel's partition, with the default number of partitions.
fn slot_of(cluster: &RedisCluster, channel: &str) -> u16 {
    let slot: u16 = cluster.servers[0].ask(&["CLUSTER", "KEYSLOT", channel]);
    slot / 16 * 16
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_is_given_everything_once_and_in_order_while_slots_move_both_ways() {
    let cluster = Arc::new(RedisCluster::start(2, 0));
    let nodes = nodes(&cluster).await;
    let channels: Vec<String> = (0..6).map(|number| format!("stream:moving-{number}")).collect();
    let slots: Vec<u16> = channels.iter().map(|channel| slot_of(&cluster, channel)).collect();
    let (mut followers, mut loads) = (Vec::new(), Vec::new());
    for channel in &channels {
        for node in &nodes {
            let mut client = node.connect().await;
            client.subscribe(channel).await;
            followers.push((channel, tokio::spawn(follow_to_the_end(client))));
        }
        loads.push((channel, Load::on(&nodes[0], channel), Load::on(&nodes[1], channel)));
    }
    for to in [1, 0, 1, 0] {
        let (cluster, slots) = (cluster.clone(), slots.clone());
        tokio::task::spawn_blocking(move || {
            cluster.move_slots(slots.clone(), to);
            cluster.agree_on(&slots, to);
        })
        .await
        .expect("moved");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut accepted = Vec::new();
    for (channel, one, other) in loads {
        let (mut one, other) = (one.end().await, other.end().await);
        for numbers in [&one, &other] {
            let is_whole = numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]);
            assert!(numbers.len() > 5 && is_whole, "none was refused in {channel}: {numbers:?}");
        }
        one.extend(other);
        one.sort_unstable();
        accepted.push((channel, one));
        nodes[0].publish(channel, json!("the last")).await;
    }
    for (channel, follower) in followers {
        let (mut numbers, told) = follower.await.expect("a follower");
        numbers.sort_unstable();
        let expected = &accepted.iter().find(|(of, _)| *of == channel).expect("it has a load").1;
        assert_eq!((&numbers, told), (expected, 0), "{channel}");
    }
    for node in &nodes {
        assert!(verdict(node).await.0, "it is ready");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_is_replaced_and_whoever_reads_misses_nothing_unnoticed() {
    let mut cluster = RedisCluster::start(3, 1);
    let nodes = nodes(&cluster).await;
    // One channel for each master.
    let channels: Vec<String> = (0..3)
        .map(|server| {
            let mut names = (0..).map(|number| format!("stream:master-{server}-{number}"));
            names.find(|name| cluster.owner(slot_of(&cluster, name)) == server).expect("names are endless")
        })
        .collect();
    let (mut followers, mut loads) = (Vec::new(), Vec::new());
    for channel in &channels[1..] {
        for node in &nodes {
            let mut client = node.connect().await;
            client.subscribe(channel).await;
            followers.push((channel, tokio::spawn(follow_to_the_end(client))));
        }
        loads.push((channel, Load::on(&nodes[0], channel), Load::on(&nodes[1], channel)));
    }
    let mut reader = nodes[0].connect().await;
    reader.subscribe(&channels[0]).await;
    for number in 0..20 {
        nodes[1].publish(&channels[0], json!(number)).await;
    }
    let mut heard: Vec<Value> = Vec::new();
    while heard.len() < 20 {
        heard.push(reader.publication().await.data);
    }
    cluster.servers[0].kill();
    let killed = Instant::now();
    eventually("it takes publications again", async || {
        for node in &nodes {
            assert!(verdict(node).await.0, "it is ready all the same: what is at the others is served");
        }
        let answer = nodes[1].try_api("publish", &json!({ "channel": channels[0], "data": "after" })).await;
        let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        answer.get("result").is_some()
    })
    .await;
    println!("publishing again {} ms after the kill", killed.elapsed().as_millis());
    // A promotion begins a new epoch: the subscriber is unsubscribed with 2500, or receives what came after it.
    let push = reader.push().await;
    if received(&push).is_none() {
        assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
        eventually("it can be subscribed again", async || {
            let id = reader.ask("subscribe", json!({ "channel": channels[0] })).await;
            reader.reply(id).await.get("error").is_none()
        })
        .await;
    }
    nodes[1].publish(&channels[0], json!("last")).await;
    while reader.publication().await.data != "last" {}
    for node in &nodes {
        eventually("nothing is wrong any more", async || {
            let (is_ready, words) = verdict(node).await;
            is_ready && !words.contains("cannot be used")
        })
        .await;
    }
    let mut accepted = Vec::new();
    for (channel, one, other) in loads {
        let (mut one, other) = (one.end().await, other.end().await);
        for numbers in [&one, &other] {
            let is_whole = numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]);
            assert!(numbers.len() > 5 && is_whole, "none was refused in {channel}: {numbers:?}");
        }
        one.extend(other);
        one.sort_unstable();
        accepted.push((channel, one));
        nodes[0].publish(channel, json!("the last")).await;
    }
    for (channel, follower) in followers {
        let (mut numbers, told) = follower.await.expect("a follower");
        numbers.sort_unstable();
        let expected = &accepted.iter().find(|(of, _)| *of == channel).expect("it has a load").1;
        assert_eq!((&numbers, told), (expected, 0), "{channel}");
    }
}
