//! Channels of so many subscribers that a worker serves them in pieces, and whoever is closed meanwhile.

use futures_util::future::join_all;
use serde_json::json;

use crate::client::Client;
use crate::gateway::{Gateway, gateway};

/// Three pieces for one worker.
const MANY: usize = 1_100;
const AT_ONCE: usize = 50;

async fn subscribers(gateway: &Gateway, channel: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    while clients.len() < MANY {
        let some = join_all((0..AT_ONCE).map(async |_| {
            let mut client = gateway.connect_as("ann").await;
            client.subscribe(channel).await;
            client
        }));
        clients.extend(some.await);
    }
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_gets_everything_in_order_and_before_it_is_closed() {
    let gateway = gateway().with("workers.count", 1).start().await;
    let mut clients = subscribers(&gateway, "stream:many").await;
    for number in 1..=10 {
        gateway.publish("stream:many", json!(number)).await;
    }
    // Told in one breath: the second must not overtake the first.
    let goodbye = json!({ "publish": { "channel": "stream:many", "data": "goodbye" } });
    let close = json!({ "disconnect": { "user": "ann" } });
    gateway.api("batch", json!({ "commands": [goodbye, close] })).await;
    for client in &mut clients {
        for number in 1..=10 {
            assert_eq!(client.publication().await.data, json!(number));
        }
        assert_eq!(client.publication().await.data, json!("goodbye"));
        assert_eq!(client.closed().await.0, 3503);
    }
    gateway.metric_becomes("tidegate_connections", 0.0).await;
}

#[tokio::test]
async fn what_waits_for_its_flush_interval_does_not_come_too_late_for_who_is_closed() {
    let gateway = gateway().with("namespaces.stream.flush_interval_ms", 5_000).start().await;
    let mut client = gateway.connect_as("ann").await;
    client.subscribe("stream:paced").await;
    for number in 1..=3 {
        gateway.publish("stream:paced", json!(number)).await;
    }
    gateway.api("disconnect", json!({ "user": "ann" })).await;
    for number in 1..=3 {
        assert_eq!(client.publication().await.data, json!(number));
    }
    assert_eq!(client.closed().await.0, 3503);
}
