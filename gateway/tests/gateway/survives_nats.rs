//! Tests that when NATS dies or is absent from the start, gaps are reported and the node recovers by itself.

use std::sync::Arc;

use serde_json::json;

use crate::gateway::{Gateway, eventually, gateway};
use crate::nats_server::NatsServer;
use crate::survives_redis::{Load, accounts, followers};

async fn nodes<const N: usize>(nats: &NatsServer) -> [Gateway; N] {
    let mut nodes = Vec::new();
    for number in 0..N {
        let node = gateway().over_nats(&nats.url()).with("node.name", format!("node-{number}"));
        nodes.push(node.start().await);
    }
    nodes.try_into().expect("as many as were started")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_nats_leaves_clients_connected_and_costs_positioned_channels_nothing() {
    let mut nats = NatsServer::start();
    let [here, there] = nodes::<2>(&nats).await;
    let here = Arc::new(here);
    eventually("both are ready", async || here.is_ready().await && there.is_ready().await).await;
    let followers = followers(&[&here, &there]).await;
    let mut unpositioned = there.raw("chat").await;
    there.metric_becomes("tidegate_subscriptions", 4.0).await;
    let load = Load::on(&here);
    load.goes_on(50).await;
    for _ in 0..2 {
        nats.kill();
        eventually("unready while no canary comes back", async || {
            !here.is_ready().await && !there.is_ready().await
        })
        .await;
        assert_eq!(here.internal("/livez").await.status, 200, "a restart of the node would help nobody");
        assert_eq!(there.metric("tidegate_connections").await, 4.0, "everyone stays connected");
        let mut newcomer = there.connect().await;
        assert_eq!(newcomer.refused("subscribe", json!({ "channel": "stream:new" })).await, 100, "for now");
        drop(newcomer);
        nats.restart();
        eventually("ready again", async || here.is_ready().await && there.is_ready().await).await;
        load.goes_on(50).await;
    }
    let accepted = load.accepted();
    load.end().await;
    here.publish("chat", json!("also without a stream")).await;
    assert_eq!(unpositioned.text().await, "\"also without a stream\"");
    for account in accounts(&there, followers).await {
        assert_eq!(account.told, 0, "the history is in a file, and had all of it");
        assert!(account.received > accepted, "{account:?} of {accepted}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_before_its_nats_is_ready_when_both_are() {
    let mut nats = NatsServer::start();
    nats.kill();
    let gateway = gateway().over_nats(&nats.url()).start().await;
    let early = gateway.internal("/readyz").await;
    assert_eq!(early.status, 503, "{}", String::from_utf8_lossy(&early.body));
    assert_eq!(gateway.internal("/livez").await.status, 200);
    nats.restart();
    eventually("ready", async || gateway.is_ready().await).await;
    let mut client = gateway.connect().await;
    client.subscribe("stream:s").await;
    gateway.publish("stream:s", json!("served")).await;
    assert_eq!(client.publication().await.data, "served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_questions_reach_all_nodes_over_nats() {
    let nats = NatsServer::start();
    let [here, there] = nodes::<2>(&nats).await;
    eventually("both are ready", async || here.is_ready().await && there.is_ready().await).await;
    let mut client = there.connect().await;
    client.subscribe("stream:news").await;
    here.publish("stream:news", json!("from the other node")).await;
    assert_eq!(client.publication().await.data, "from the other node");
    eventually("both know of each other", async || {
        let info = here.api("info", json!({})).await;
        info["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2)
    })
    .await;
    eventually("the channel is told of", async || {
        let channels = here.api("channels", json!({ "pattern": "stream:*" })).await;
        channels["channels"].get("stream:news").is_some()
    })
    .await;
}
