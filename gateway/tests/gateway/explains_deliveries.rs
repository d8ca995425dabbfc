//! Tests that an operator can find a client in a cluster, and why it did or did not receive a publication.

use serde_json::{Value, json};

use crate::gateway::{Gateway, eventually, gateway};
use crate::redis_server::RedisServer;
use crate::spans_nodes::nodes;

const FILTERED: &str = "[namespaces.odd]\nallow_subscribe = true\nallow_tags_filter = true\nhistory_size = 10\nhistory_ttl_s = 60\npublication_time = true\n";

async fn explain(node: &Gateway, client: &str, channel: &str, offset: u64) -> (String, Vec<String>) {
    let body = json!({ "client": client, "channel": channel, "offset": offset });
    let said = node.api("explain", body).await;
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let findings = said["findings"].as_array().expect("a list").iter();
    (text(&said["verdict"]), findings.map(|one| text(&one["finding"])).collect())
}

async fn id_of(node: &Gateway, user: &str) -> String {
    let listed = node.api("connections", json!({ "user": user })).await;
    let all = listed["connections"].as_object().expect("connections");
    assert_eq!(all.len(), 1, "{listed}");
    all.keys().next().expect("one").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_looked_into_at_whichever_node_it_is() {
    let redis = RedisServer::start();
    let [asking, there] = nodes::<2>(&redis).await;
    let mut ann = there.connect_as("ann").await;
    ann.subscribe("stream:room").await;
    ann.subscribe("chat").await;
    eventually("both listen", async || asking.is_ready().await && there.is_ready().await).await;
    let client = id_of(&asking, "ann").await;
    there.publish("stream:room", json!(1)).await;
    assert_eq!(ann.publication().await.offset, 1);

    let looked = asking.api("inspect", json!({ "client": client })).await;
    let connection = &looked["connection"];
    assert_eq!((&connection["user"], &connection["num_channels"]), (&json!("ann"), &json!(2)));
    assert_eq!((&connection["outbox_bytes"], &connection["stalled_ms"]), (&json!(0), &json!(0)));
    let subscriptions = connection["subscriptions"].as_array().expect("a list");
    let of = |name: &str| subscriptions.iter().find(|one| one["channel"] == name).expect("it is there");
    assert_eq!((&of("stream:room")["stage"], &of("stream:room")["offset"]), (&json!("live"), &json!(1)));
    assert_eq!(of("chat").get("offset"), None, "it has no stream");

    let not_sent = |finding: &str| ("not_sent".to_owned(), vec![finding.to_owned()]);
    assert_eq!(explain(&asking, &client, "stream:room", 2).await, not_sent("not_published"));
    assert_eq!(explain(&asking, &client, "stream:another", 0).await, not_sent("not_subscribed"));
    let unknown = |finding: &str| ("unknown".to_owned(), vec![finding.to_owned()]);
    assert_eq!(explain(&asking, &client, "chat", 0).await, unknown("subscribed"));
    assert_eq!(explain(&asking, &client, "stream:room", 0).await, unknown("subscribed"));
    assert_eq!(explain(&asking, &client, "chat", 1).await.1[0], "no_history");

    asking.api("disconnect", json!({ "user": "ann" })).await;
    assert_eq!(ann.closed().await.0, 3503);
    let closes = async || asking.api("closes", json!({ "client": client })).await["closes"].clone();
    eventually("its close is told", async || closes().await.as_array().is_some_and(|all| all.len() == 1))
        .await;
    let close = closes().await[0].clone();
    assert_eq!((&close["user"], &close["code"]), (&json!("ann"), &json!(3503)));
    assert_eq!(close["reason"], "force disconnect");
    let (verdict, findings) = explain(&asking, &client, "stream:room", 1).await;
    assert_eq!(
        (&*verdict, &findings[..]),
        ("unknown", &["not_connected".to_owned(), "closed".to_owned()][..])
    );
    assert_eq!(asking.api("inspect", json!({ "client": client })).await["connection"], Value::Null);
    assert_eq!(asking.api("inspect", json!({ "client": "nobody" })).await["connection"], Value::Null);
    let others = asking.api("closes", json!({ "user": "bob" })).await;
    assert_eq!(others["closes"], json!([]));
}

#[tokio::test]
async fn without_its_time_a_publication_may_be_older_than_the_connection() {
    let node = gateway().start().await;
    node.publish("stream:room", json!("before")).await;
    let mut ann = node.connect_as("ann").await;
    ann.subscribe("stream:room").await;
    node.publish("stream:room", json!("after")).await;
    assert_eq!(ann.publication().await.offset, 2);
    let client = id_of(&node, "ann").await;
    for offset in [1, 2] {
        let explained = explain(&node, &client, "stream:room", offset).await;
        assert_eq!(explained, ("unknown".to_owned(), vec!["subscribed".to_owned()]), "{offset}");
    }
}

#[tokio::test]
async fn what_a_filter_keeps_back_was_not_sent() {
    let node = gateway().and(FILTERED).start().await;
    let mut ann = node.connect_as("ann").await;
    let filter = json!({ "key": "kind", "cmp": "eq", "val": "odd" });
    ann.command("subscribe", json!({ "channel": "odd:numbers", "tf": filter })).await;
    for (number, kind) in [(1, "odd"), (2, "even")] {
        let body = json!({ "channel": "odd:numbers", "data": number, "tags": { "kind": kind } });
        node.api("publish", body).await;
    }
    assert_eq!(ann.publication().await.data, 1);
    let client = id_of(&node, "ann").await;
    assert_eq!(explain(&node, &client, "odd:numbers", 1).await.0, "sent");
    let kept_back = explain(&node, &client, "odd:numbers", 2).await;
    assert_eq!(kept_back, ("not_sent".to_owned(), vec!["filtered".to_owned()]));
    let subscription =
        node.api("inspect", json!({ "client": client })).await["connection"]["subscriptions"][0].clone();
    assert_eq!((&subscription["filtered"], &subscription["offset"]), (&json!(true), &json!(2)));
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told() {
    let node = gateway().start().await;
    for (method, body, code) in [
        ("inspect", json!({}), 107),
        ("explain", json!({ "client": "c", "channel": "" }), 107),
        ("explain", json!({ "client": "c", "channel": "nowhere:a" }), 102),
        ("explain", json!({ "channel": "chat" }), 107),
    ] {
        let answer = node.try_api(method, &body).await;
        let said: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(said["error"]["code"], code, "{method} {body}");
    }
}
