//! Tests the metrics by namespace, and that they add up to the totals.

use serde_json::json;

use crate::gateway::{Gateway, eventually, gateway};

const NAMESPACES: &str = r#"
[namespaces.chat]
allow_subscribe = true
allow_subscribe_anonymous = true
allow_publish = true
allow_publish_anonymous = true
[namespaces.rooms]
pattern = "/rooms/:id"
allow_subscribe = true
allow_subscribe_anonymous = true
[namespaces.values]
history_size = 10
history_ttl_s = 60
allow_subscribe_anonymous = true
"#;

async fn of(gateway: &Gateway, metric: &str, labels: &str) -> f64 {
    gateway.metric(&format!("tidegate_namespace_{metric}{{{labels}}}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_counted_by_namespace_adds_up_to_what_is_counted_of_all() {
    let gateway = gateway().and(NAMESPACES).start().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.connect().await;
        client.subscribe("stream:news").await;
        client.subscribe("chat:lobby").await;
        clients.push(client);
    }
    clients[0].subscribe("plain").await;
    clients[1].subscribe("/rooms/1").await;
    assert_eq!(clients[2].refused("subscribe", json!({ "channel": "nowhere:x" })).await, 102);
    assert_eq!(clients[2].refused("publish", json!({ "channel": "/rooms/1", "data": 1 })).await, 103);

    for (namespace, subscriptions) in
        [("stream", 3.0), ("chat", 3.0), ("(default)", 1.0), ("rooms", 1.0), ("values", 0.0)]
    {
        let labels = format!("namespace=\"{namespace}\"");
        gateway.metric_becomes(&format!("tidegate_namespace_subscriptions{{{labels}}}"), subscriptions).await;
        let channels = if subscriptions > 0.0 { 1.0 } else { 0.0 };
        assert_eq!(of(&gateway, "channels", &labels).await, channels, "{namespace}");
    }

    for number in 0..4 {
        gateway.publish("stream:news", json!(number)).await;
    }
    gateway.publish("chat:lobby", json!("x".repeat(10_000))).await;
    gateway.publish("plain", json!("to one")).await;
    clients[0].command("publish", json!({ "channel": "chat:lobby", "data": "by a client" })).await;
    for client in &mut clients {
        let mut received = 0;
        while received < 6 {
            received += usize::from(client.push().await["push"].get("pub").is_some());
        }
    }
    gateway.metric_becomes("tidegate_deliveries_out_total", 19.0).await;
    for (namespace, deliveries) in [("stream", 12.0), ("chat", 6.0), ("(default)", 1.0), ("rooms", 0.0)] {
        let labels = format!("namespace=\"{namespace}\"");
        assert_eq!(of(&gateway, "deliveries_out_total", &labels).await, deliveries, "{namespace}");
    }
    for (namespace, source, count) in
        [("stream", "api", 4.0), ("stream", "node", 4.0), ("chat", "api", 1.0), ("chat", "client", 1.0)]
    {
        let labels = format!("namespace=\"{namespace}\",source=\"{source}\"");
        assert_eq!(of(&gateway, "publications_in_total", &labels).await, count, "{labels}");
    }
    let bytes = of(&gateway, "bytes_out_total", "namespace=\"chat\"").await;
    assert!((30_000.0..32_000.0).contains(&bytes), "{bytes} bytes of one long publication for three");
    let bytes = of(&gateway, "bytes_out_total", "namespace=\"stream\"").await;
    assert!((12.0 * 30.0..12.0 * 200.0).contains(&bytes), "{bytes} bytes of twelve short ones");
    for (namespace, bytes) in [("stream", 4.0), ("chat", 10_002.0 + 13.0), ("rooms", 0.0)] {
        assert_eq!(of(&gateway, "bytes_in_total", &format!("namespace=\"{namespace}\"")).await, bytes);
    }
    let refusals = [("(unknown)", "unknown channel"), ("rooms", "permission denied")];
    for (namespace, error) in refusals {
        let labels = format!("error=\"{error}\",namespace=\"{namespace}\"");
        assert_eq!(of(&gateway, "refusals_total", &labels).await, 1.0, "{labels}");
    }

    // One client recovers what it missed; another asks for publications that are not retained any more.
    let mut back = gateway.connect().await;
    let epoch = gateway.api("history", json!({ "channel": "stream:news" })).await["epoch"].clone();
    back.command(
        "subscribe",
        json!({ "channel": "stream:news", "recover": true, "offset": 2, "epoch": epoch }),
    )
    .await;
    clients[0].command("unsubscribe", json!({ "channel": "stream:news" })).await;
    clients[0]
        .command(
            "subscribe",
            json!({ "channel": "stream:news", "recover": true, "offset": 2, "epoch": "gone" }),
        )
        .await;
    for result in ["recovered", "unrecovered"] {
        let labels = format!("namespace=\"stream\",result=\"{result}\"");
        assert_eq!(of(&gateway, "recoveries_total", &labels).await, 1.0, "{labels}");
    }
    assert!(of(&gateway, "history_reads_total", "namespace=\"stream\"").await >= 2.0);
    assert_eq!(of(&gateway, "history_reads_total", "namespace=\"chat\"").await, 0.0);

    eventually("the parts are the whole", async || {
        for metric in
            ["subscriptions", "channels", "deliveries_out_total", "publications_in_total", "recoveries_total"]
        {
            let whole = gateway.metric(&format!("tidegate_{metric}")).await;
            let parts = gateway.metric(&format!("tidegate_namespace_{metric}")).await;
            if whole != parts {
                return false;
            }
        }
        true
    })
    .await;
    for client in clients {
        client.socket.close().await;
    }
    back.socket.close().await;
    for namespace in ["stream", "chat", "(default)", "rooms"] {
        let metric = format!("tidegate_namespace_subscriptions{{namespace=\"{namespace}\"}}");
        gateway.metric_becomes(&metric, 0.0).await;
        let metric = format!("tidegate_namespace_channels{{namespace=\"{namespace}\"}}");
        gateway.metric_becomes(&metric, 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_demo_publishes_has_a_source_of_its_own_beside_that_of_the_broker() {
    let gateway =
        gateway().with("demo.feed", true).and("[namespaces.prices]\nallow_subscribe_anonymous = true\n");
    let gateway = gateway.start().await;
    let mut client = gateway.connect().await;
    client.subscribe("prices:AAPL").await;
    client.publication().await;
    let from = async |source: &str| {
        let labels = format!("namespace=\"prices\",source=\"{source}\"");
        of(&gateway, "publications_in_total", &labels).await
    };
    eventually("each counts where it was published, and as the broker brings it", async || {
        from("demo").await > 0.0 && from("node").await > 0.0
    })
    .await;
    for source in ["api", "client", "feed"] {
        assert_eq!(from(source).await, 0.0, "{source}");
    }
}
