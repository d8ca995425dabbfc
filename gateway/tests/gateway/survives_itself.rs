//! Tests that a fault in the program costs one publication or one client, but not the node.

use serde_json::json;
use tidegate::faults;

use crate::application::Application;
use crate::gateway::{Gateway, eventually, gateway};
use crate::pusher::APP;

async fn panics(gateway: &Gateway, what: &str) -> f64 {
    gateway.metric(&format!("tidegate_panics_total{{what=\"{what}\"}}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_cannot_be_encoded_is_told_as_lost_to_those_it_was_for() {
    faults::arm();
    let gateway = gateway().start().await;
    let mut follows = [gateway.connect().await, gateway.connect().await];
    let mut listens = gateway.connect().await;
    for client in &mut follows {
        client.subscribe("stream:s").await;
        client.subscribe("chat").await;
    }
    listens.subscribe("chat").await;
    let mut bare = gateway.raw("stream:s").await;
    gateway.metric_becomes("tidegate_subscriptions", 6.0).await;
    gateway.publish("stream:s", json!(1)).await;
    for client in &mut follows {
        assert_eq!(client.publication().await.offset, 1);
    }
    gateway.publish("stream:s", json!(faults::ENCODING_PANICS)).await;
    for client in &mut follows {
        assert_eq!(client.unsubscribed().await, ("stream:s".to_owned(), 2500));
    }
    gateway.publish("stream:s", json!(3)).await;
    gateway.publish("chat", json!(faults::ENCODING_PANICS)).await;
    gateway.publish("chat", json!("after")).await;
    for client in &mut follows {
        assert_eq!(client.publication().await.data, "after");
    }
    assert_eq!(listens.publication().await.data, "after");
    // Bare clients receive the publication, because only the encoding of other protocols panics.
    assert_eq!(bare.text().await, "1");
    assert_eq!(bare.text().await, json!(faults::ENCODING_PANICS).to_string());
    assert_eq!(bare.text().await, "3");
    gateway.metric_becomes("tidegate_drops_total{reason=\"quarantined\"}", 5.0).await;
    assert_eq!(gateway.metric("tidegate_connections").await, 4.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_message_makes_the_node_fail_is_closed_and_nobody_else_is() {
    faults::arm();
    let gateway = gateway().with("workers.count", 1).start().await;
    let mut others = gateway.connect().await;
    others.subscribe("stream:room").await;
    for round in 1..=5 {
        let mut poison = gateway.connect().await;
        poison.subscribe("stream:room").await;
        poison.ask("publish", json!({ "channel": "stream:room", "data": faults::DECODING_PANICS })).await;
        assert_eq!(poison.closed().await, (3004, "internal server error".to_owned()));
        gateway.metric_becomes("tidegate_subscriptions", 1.0).await;
        gateway.publish("stream:room", json!(round)).await;
        assert_eq!(others.publication().await.data, round);
        let room = gateway.api("presence_stats", json!({ "channel": "stream:room" })).await;
        assert_eq!(room["num_clients"], 1, "it has left");
    }
    assert_eq!(panics(&gateway, "client").await, 5.0);
    assert_eq!(panics(&gateway, "worker").await, 0.0);
    gateway.metric_becomes("tidegate_closes_total{reason=\"internal server error\"}", 5.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_fails_lets_its_clients_go_and_serves_those_who_come_back() {
    faults::arm();
    let gateway = gateway().with("workers.count", 1).start().await;
    for round in 1..=3 {
        let (mut one, mut other) = (gateway.connect_as("ann").await, gateway.raw("elsewhere").await);
        one.subscribe("stream:room").await;
        gateway.metric_becomes("tidegate_subscriptions", 2.0).await;
        gateway.publish("stream:room", json!(round)).await;
        assert_eq!(one.publication().await.data, round);
        gateway.publish("stream:room", json!(faults::DELIVERING_PANICS)).await;
        assert_eq!(one.closed().await.0, 3004);
        assert_eq!(other.closed().await.0, 3004);
        gateway.metric_becomes("tidegate_connections", 0.0).await;
        gateway.metric_becomes("tidegate_subscriptions", 0.0).await;
        let room = gateway.api("presence_stats", json!({ "channel": "stream:room" })).await;
        assert_eq!(room["num_clients"], 0);
        assert_eq!(gateway.api("info", json!({})).await["nodes"][0]["num_users"], 0);
        assert_eq!(panics(&gateway, "worker").await, f64::from(round));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_delivered_before_a_worker_failed_is_counted_in_its_namespace_as_well() {
    faults::arm();
    let gateway = gateway().with("workers.count", 1).start().await;
    let mut clients = [gateway.connect().await, gateway.connect().await, gateway.connect().await];
    for client in &mut clients {
        client.subscribe("stream:room").await;
    }
    gateway.metric_becomes("tidegate_subscriptions", 3.0).await;
    gateway.publish("stream:room", json!(faults::DELIVERED_PANICS)).await;
    for client in &mut clients {
        assert_eq!(client.publication().await.data, faults::DELIVERED_PANICS);
        assert_eq!(client.closed().await.0, 3004);
    }
    gateway.metric_becomes("tidegate_deliveries_out_total", 3.0).await;
    gateway.metric_becomes("tidegate_namespace_deliveries_out_total{namespace=\"stream\"}", 3.0).await;
    assert_eq!(panics(&gateway, "worker").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_over_which_the_node_fails_goes_on_with_what_comes_next() {
    faults::arm();
    let application = Application::start(|_| Some((200, String::new()))).await;
    let webhook = format!(
        "[pusher.apps.shop.webhooks.main]\nurl = \"{}/events\"\ntypes = [\"client_event\", \"channel_occupied\"]\n",
        application.url
    );
    let gateway = gateway().and(APP).and(&webhook).start().await;
    let mut ann = gateway.pusher().await;
    ann.enter("presence-room", "ann").await;
    let told = async |what: &str| {
        eventually(what, async || {
            application
                .requests("/events")
                .iter()
                .any(|received| String::from_utf8_lossy(&received.body).contains(what))
        })
        .await;
    };
    told("channel_occupied").await;
    let mut failures = 0.0;
    for fault in [faults::TELLING_PANICS, faults::KEEPING_PANICS, faults::TELLING_PANICS] {
        ann.say(json!({ "event": "client-bad", "channel": "presence-room", "data": fault })).await;
        failures += 1.0;
        gateway.metric_becomes("tidegate_panics_total{what=\"delivery\"}", failures).await;
        gateway.metric_becomes("tidegate_webhook_events_total{result=\"failed\"}", failures).await;
        let next = format!("client-good-{failures}");
        ann.say(json!({ "event": next, "channel": "presence-room", "data": 1 })).await;
        told(&next).await;
    }
    let later = format!("presence-{failures}");
    ann.enter(&later, "ann").await;
    told(&later).await;
}
