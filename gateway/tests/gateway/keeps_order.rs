//! Tests order and completeness for all clients while clients come and go under a stream of publications.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Client, received};
use crate::gateway::{Gateway, gateway};

/// A subscriber that reconnects and recovers, and checks each publication against the one before it.
struct Follower {
    channel: &'static str,
    epoch: Value,
    offset: u64,
}

impl Follower {
    /// Connects, subscribes and recovers what was missed.
    async fn return_to(&mut self, gateway: &Gateway) -> Client {
        let mut client = gateway.connect().await;
        let mut subscribe = json!({ "channel": self.channel });
        let returns = !self.epoch.is_null();
        if returns {
            subscribe = json!({ "channel": self.channel, "recover": true, "offset": self.offset, "epoch": self.epoch });
        }
        let subscribed = client.command("subscribe", subscribe).await;
        self.epoch = subscribed["epoch"].clone();
        if returns {
            assert_eq!(subscribed["recovered"], true, "{subscribed}");
            for publication in subscribed["publications"].as_array().into_iter().flatten() {
                self.take(publication["offset"].as_u64().unwrap_or(0), &publication["data"]);
            }
        } else {
            self.offset = subscribed["offset"].as_u64().unwrap_or(0);
        }
        client
    }

    async fn follow(&mut self, client: &mut Client, count: u64) {
        for _ in 0..count {
            let push = client.push().await;
            let publication = received(&push).unwrap_or_else(|| panic!("no publication: {push}"));
            self.take(publication.offset, &publication.data);
        }
    }

    fn take(&mut self, offset: u64, data: &Value) {
        assert_eq!(offset, self.offset + 1, "the next one, once");
        assert_eq!(data, &json!(offset), "what was published there");
        self.offset = offset;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_misses_or_repeats_anything_in_a_storm_of_returns() {
    storm_of_returns(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_while_publications_wait_for_their_flush_interval() {
    storm_of_returns(3).await;
}

async fn storm_of_returns(flush_interval_ms: u32) {
    let gateway = gateway()
        .with("session.recovery_limit_max", 5000)
        .with("workers.count", 3)
        .with("namespaces.stream.flush_interval_ms", flush_interval_ms);
    let gateway = Arc::new(gateway.start().await);
    let stop = Arc::new(AtomicBool::new(false));
    let published = Arc::new(AtomicU64::new(0));
    let publisher = {
        let (gateway, stop, published) = (gateway.clone(), stop.clone(), published.clone());
        tokio::spawn(async move {
            let mut client = gateway.connect().await;
            while !stop.load(Ordering::Relaxed) {
                // Publishes several at once, which the worker delivers as one batch.
                let first = published.load(Ordering::Relaxed) + 1;
                let mut ids = Vec::new();
                for number in first..first + 8 {
                    ids.push(
                        client.ask("publish", json!({ "channel": "stream:storm", "data": number })).await,
                    );
                }
                for id in ids {
                    client.reply(id).await;
                }
                published.store(first + 7, Ordering::Relaxed);
                if first > 4000 {
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
            }
        })
    };
    let mut followers = tokio::task::JoinSet::new();
    for number in 0..12u64 {
        let gateway = gateway.clone();
        followers.spawn(async move {
            let mut follower = Follower { channel: "stream:storm", epoch: Value::Null, offset: 0 };
            for round in 0..12u64 {
                let mut client = follower.return_to(&gateway).await;
                follower.follow(&mut client, 1 + (number * 5 + round * 3) % 17).await;
                if (number + round) % 3 == 0 {
                    // The client unsubscribes and subscribes again on the same connection.
                    client.command("unsubscribe", json!({ "channel": "stream:storm" })).await;
                }
            }
        });
    }
    while let Some(follower) = followers.join_next().await {
        follower.expect("nothing out of order");
    }
    stop.store(true, Ordering::Relaxed);
    publisher.await.expect("the publisher");
    assert!(published.load(Ordering::Relaxed) > 100);
    assert_eq!(gateway.metric("tidegate_insufficient_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_at_once_are_heard_in_one_order_by_all() {
    let gateway = Arc::new(gateway().with("workers.count", 2).start().await);
    let mut listeners = Vec::new();
    for _ in 0..4 {
        let mut client = gateway.connect().await;
        client.subscribe("stream:many").await;
        listeners.push(client);
    }
    let mut publishers = tokio::task::JoinSet::new();
    for publisher in 0..4 {
        let gateway = gateway.clone();
        publishers.spawn(async move {
            let mut client = gateway.connect().await;
            for number in 0..50 {
                client.publish("stream:many", json!({ "publisher": publisher, "number": number })).await;
            }
        });
    }
    let mut heard = Vec::new();
    for client in &mut listeners {
        let mut order = Vec::new();
        while order.len() < 200 {
            order.push(client.publication().await);
        }
        heard.push(order);
    }
    while let Some(publisher) = publishers.join_next().await {
        publisher.expect("published");
    }
    assert!(heard.iter().all(|order| order == &heard[0]), "one order for all");
    assert!(heard[0].iter().zip(1..).all(|(publication, offset)| publication.offset == offset));
    for publisher in 0..4 {
        let own = heard[0].iter().filter(|publication| publication.data["publisher"] == publisher);
        assert!(own.zip(0..).all(|(publication, number)| publication.data["number"] == number));
    }
}

#[tokio::test]
async fn within_a_flush_interval_publications_leave_as_one_message() {
    const INTERVAL: Duration = Duration::from_millis(1_500);
    let gateway =
        gateway().with("namespaces.stream.flush_interval_ms", INTERVAL.as_millis() as u32).start().await;
    let offsets = |message: &str| -> Vec<u64> {
        let pushes = message.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        pushes.map(|push: Value| push["push"]["pub"]["offset"].as_u64().expect("an offset")).collect()
    };
    // A busy machine may not publish all within the interval, and a busy worker may take them up late.
    for attempt in 0..20 {
        let channel = format!("stream:paced-{attempt}");
        let mut client = gateway.connect().await;
        client.subscribe(&channel).await;
        for number in 1..=5 {
            gateway.publish(&channel, json!(number)).await;
        }
        let mut messages: Vec<Vec<u64>> = Vec::new();
        while messages.concat().len() < 5 {
            messages.push(offsets(&client.socket.text().await));
        }
        assert_eq!(messages.concat(), [1, 2, 3, 4, 5]);
        // The first publication after a pause does not wait.
        if messages == [vec![1], vec![2, 3, 4, 5]] {
            return;
        }
    }
    panic!("five publications never shared a message within {INTERVAL:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_many_channels_hears_each_in_its_order() {
    let gateway = gateway().with("workers.count", 1).start().await;
    let channels: Vec<String> = (0..7).map(|number| format!("stream:{number}")).collect();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.connect().await;
        for channel in &channels {
            client.subscribe(channel).await;
        }
        clients.push(client);
    }
    for round in 1..=20u64 {
        // One batch, so that the worker finds publications of several channels mixed.
        let publish = |channel: &String| json!({ "publish": { "channel": channel, "data": round } });
        let commands: Vec<Value> = channels.iter().chain(&channels).map(publish).collect();
        gateway.api("batch", json!({ "commands": commands })).await;
    }
    for client in &mut clients {
        let mut heard = std::collections::BTreeMap::new();
        for _ in 0..channels.len() * 40 {
            let push = client.push().await;
            let publication = received(&push).unwrap_or_else(|| panic!("no publication: {push}"));
            let last = heard.insert(publication.channel, publication.offset).unwrap_or(0);
            assert_eq!(publication.offset, last + 1, "{push}");
        }
        assert!(heard.len() == channels.len() && heard.values().all(|&last| last == 40), "{heard:?}");
    }
}

#[tokio::test]
async fn what_was_published_before_a_client_is_sent_away_comes_before_that() {
    let gateway = gateway().with("namespaces.stream.flush_interval_ms", 10_000).start().await;
    let (mut ann, mut bob) = (gateway.connect_as("ann").await, gateway.connect_as("bob").await);
    for client in [&mut ann, &mut bob] {
        client.subscribe("stream:room").await;
    }
    for number in 1..=3 {
        gateway.publish("stream:room", json!(number)).await;
    }
    gateway.api("disconnect", json!({ "user": "ann" })).await;
    gateway.api("unsubscribe", json!({ "user": "bob", "channel": "stream:room" })).await;
    for client in [&mut ann, &mut bob] {
        for number in 1..=3 {
            assert_eq!(client.publication().await.data, json!(number));
        }
    }
    assert_eq!(ann.closed().await.0, 3503);
    assert_eq!(bob.unsubscribed().await.0, "stream:room");
}
