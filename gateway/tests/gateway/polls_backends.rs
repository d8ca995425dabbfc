//! Tests polled channels: each key is requested once for all clients that track it, and delivered to exactly those.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use ring::{digest, hmac};
use serde_json::{Value, json};

use crate::application::Application;
use crate::client::Client;
use crate::gateway::{Description, Gateway, eventually, gateway};
use crate::redis_server::RedisServer;

const SECRET: &str = "secret of the tests of polled channels";

/// The application's data, by key.
type Contents = Arc<Mutex<BTreeMap<String, Value>>>;

fn put(contents: &Contents, key: &str, content: Value) {
    contents.lock().insert(key.to_owned(), content);
}

async fn application(contents: &Contents) -> Application {
    let contents = contents.clone();
    Application::start(move |received| {
        let contents = contents.lock();
        if let Some(status) = contents.get("!status") {
            return Some((status.as_u64()? as u16, String::new()));
        }
        let received = received.json();
        let items = received["items"].as_array()?.iter().filter_map(|item| {
            let mut content = contents.get(item["key"].as_str()?)?.clone();
            content["key"] = item["key"].clone();
            Some(content)
        });
        let epoch = contents.get("!epoch").cloned().unwrap_or(json!(""));
        Some((200, json!({ "result": { "items": items.collect::<Vec<_>>(), "epoch": epoch } }).to_string()))
    })
    .await
}

fn describe(application: &Application, mode: &str) -> Description {
    gateway()
        .with("shared_poll.hmac_secret", SECRET)
        .with("backend.polls.app.url", format!("{}/poll", application.url))
        .with("backend.retries", 0)
        .with("namespaces.poll.subscription_type", "shared_poll")
        .with("namespaces.poll.shared_poll.backend", "app")
        .with("namespaces.poll.shared_poll.mode", mode)
        .with("namespaces.poll.shared_poll.refresh_interval_ms", 50)
        .with("namespaces.poll.shared_poll.keys_per_connection_max", 4)
        .with("namespaces.poll.shared_poll.publish_enabled", mode == "versioned")
        .with("namespaces.poll.allow_subscribe", true)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sign(user: &str, channel: &str, keys: &[&str], seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs() as i64;
    let keys = hexadecimal(digest::digest(&digest::SHA256, keys.join("\0").as_bytes()).as_ref());
    let signed = format!("{now}\0{}\0{user}\0{channel}\0{keys}", now + seconds);
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{now}:{}:{}", now + seconds, hexadecimal(hmac::sign(&key, signed.as_bytes()).as_ref()))
}

async fn subscribed(gateway: &Gateway, user: &str) -> (Client, Value) {
    let mut client = gateway.connect_as(user).await;
    let reply = client.command("subscribe", json!({ "channel": "poll:a", "type": 4 })).await;
    (client, reply)
}

fn tracking(user: &str, keys: &[(&str, u64)], seconds: i64) -> Value {
    let names: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
    let items: Vec<Value> =
        keys.iter().map(|(key, version)| json!({ "key": key, "version": version })).collect();
    let signature = sign(user, "poll:a", &names, seconds);
    json!({ "channel": "poll:a", "type": 1, "track": [{ "items": items, "signature": signature }] })
}

async fn track(client: &mut Client, user: &str, keys: &[(&str, u64)]) -> Value {
    client.command("sub_refresh", tracking(user, keys, 60)).await
}

async fn next_push(client: &mut Client) -> Value {
    client.push().await["push"]["pub"].take()
}

#[tokio::test]
async fn what_is_newer_is_told_to_those_who_follow_the_key_and_asked_for_once() {
    let contents = Contents::default();
    put(&contents, "x", json!({ "data": { "n": 1 }, "version": 3 }));
    put(&contents, "y", json!({ "data": "why", "version": 1 }));
    let application = application(&contents).await;
    let gateway = describe(&application, "versioned").start().await;
    let (mut ann, reply) = subscribed(&gateway, "ann").await;
    assert_eq!((&reply["type"], &reply["epoch"]), (&json!(4), &Value::Null));
    let (mut bob, _) = subscribed(&gateway, "bob").await;

    let reply = track(&mut ann, "ann", &[("x", 0), ("y", 1)]).await;
    assert_eq!((&reply["expires"], reply["ttl"].as_u64() > Some(55)), (&json!(true), true));
    assert_eq!(next_push(&mut ann).await, json!({ "data": { "n": 1 }, "key": "x", "version": 3 }));
    track(&mut bob, "bob", &[("x", 0)]).await;
    assert_eq!(next_push(&mut bob).await, json!({ "data": { "n": 1 }, "key": "x", "version": 3 }));

    put(&contents, "y", json!({ "data": "because", "version": 2 }));
    assert_eq!(next_push(&mut ann).await, json!({ "data": "because", "key": "y", "version": 2 }));
    gateway.metric_becomes("tidegate_deliveries_out_total", 3.0).await;
    gateway.metric_becomes("tidegate_namespace_deliveries_out_total{namespace=\"poll\"}", 3.0).await;
    put(&contents, "x", json!({ "data": 4, "version": 4 }));
    for client in [&mut ann, &mut bob] {
        assert_eq!(
            next_push(client).await,
            json!({ "data": 4, "key": "x", "version": 4 }),
            "bob has no y before it"
        );
    }
    for received in application.requests("/poll") {
        let received = received.json();
        assert_eq!(received["channel"], "poll:a");
        let mut keys: Vec<&str> =
            received["items"].as_array().unwrap().iter().filter_map(|item| item["key"].as_str()).collect();
        keys.dedup();
        assert_eq!(keys.len(), received["items"].as_array().unwrap().len(), "each once: {received}");
    }
    assert_eq!(gateway.metric("tidegate_poll_keys").await, 2.0);
    gateway.metric_becomes("tidegate_poll_client_keys", 3.0).await;
}

#[tokio::test]
async fn a_key_that_is_removed_is_told_and_followed_no_more() {
    let contents = Contents::default();
    put(&contents, "x", json!({ "data": 1, "version": 1 }));
    let application = application(&contents).await;
    let gateway = describe(&application, "versioned").start().await;
    let (mut ann, _) = subscribed(&gateway, "ann").await;
    track(&mut ann, "ann", &[("x", 0)]).await;
    next_push(&mut ann).await;
    put(&contents, "x", json!({ "data": null, "version": 2, "removed": true }));
    let removal = next_push(&mut ann).await;
    assert_eq!((&removal["key"], &removal["removed"]), (&json!("x"), &json!(true)));
    gateway.metric_becomes("tidegate_poll_keys", 0.0).await;
    gateway.metric_becomes("tidegate_poll_client_keys", 0.0).await;
    put(&contents, "x", json!({ "data": 3, "version": 3 }));
    track(&mut ann, "ann", &[("x", 0)]).await;
    assert_eq!(next_push(&mut ann).await["version"], 3);
}

#[tokio::test]
async fn without_versions_what_differs_is_told_with_versions_of_the_node() {
    let contents = Contents::default();
    put(&contents, "x", json!({ "data": { "on": true } }));
    let application = application(&contents).await;
    let gateway = describe(&application, "versionless").start().await;
    let (mut ann, reply) = subscribed(&gateway, "ann").await;
    assert_eq!(reply["epoch"].as_str().map(str::len), Some(8));
    track(&mut ann, "ann", &[("x", 0)]).await;
    let first = next_push(&mut ann).await;
    assert_eq!(first["data"], json!({ "on": true }));
    put(&contents, "x", json!({ "data": { "on": false } }));
    let second = next_push(&mut ann).await;
    assert_eq!(second["data"], json!({ "on": false }));
    assert!(second["version"].as_u64() > first["version"].as_u64(), "{first} {second}");
    let published = json!({ "channel": "poll:a", "key": "x", "version": 99, "data": 1 });
    let answer = gateway.try_api("shared_poll_publish", &published).await;
    let body = String::from_utf8_lossy(&answer.body);
    assert!(body.contains(r#""code":108"#), "{body}");
}

#[tokio::test]
async fn only_what_is_signed_for_the_user_is_followed_and_no_more_than_is_allowed() {
    let application = application(&Contents::default()).await;
    let gateway = describe(&application, "versioned").start().await;
    let (mut ann, _) = subscribed(&gateway, "ann").await;
    for (wrong, code) in [
        (tracking("bob", &[("x", 0)], 60), 103),
        (tracking("ann", &[("x", 0)], -60), 109),
        (
            json!({ "channel": "poll:a", "type": 1, "track": [{ "items": [{ "key": "x" }], "signature": "no" }] }),
            103,
        ),
        (tracking("ann", &[("1", 0), ("2", 0), ("3", 0), ("4", 0), ("5", 0)], 60), 106),
    ] {
        assert_eq!(ann.refused("sub_refresh", wrong.clone()).await, code, "{wrong}");
    }
    assert_eq!(ann.refused("publish", json!({ "channel": "poll:a", "data": 1 })).await, 108);
    assert_eq!(ann.refused("subscribe", json!({ "channel": "poll:b" })).await, 103);
}

#[tokio::test]
async fn what_the_application_publishes_need_not_wait_to_be_asked_for() {
    let contents = Contents::default();
    put(&contents, "x", json!({ "data": 1, "version": 1 }));
    let application = application(&contents).await;
    let gateway = describe(&application, "versioned")
        .with("namespaces.poll.shared_poll.refresh_interval_ms", 3_600_000)
        .start()
        .await;
    let (mut ann, _) = subscribed(&gateway, "ann").await;
    track(&mut ann, "ann", &[("x", 0), ("y", 0)]).await;
    assert_eq!(next_push(&mut ann).await["version"], 1);
    for (key, version) in [("x", 1), ("x", 5), ("stranger", 6), ("x", 4), ("y", 2)] {
        let published = json!({ "channel": "poll:a", "key": key, "version": version, "data": version });
        gateway.api("shared_poll_publish", published).await;
    }
    assert_eq!(next_push(&mut ann).await, json!({ "data": 5, "key": "x", "version": 5 }));
    assert_eq!(
        next_push(&mut ann).await,
        json!({ "data": 2, "key": "y", "version": 2 }),
        "nothing older comes between"
    );
    let skipped = "tidegate_poll_results_total{result=\"unchanged\",source=\"published\"}";
    gateway.metric_becomes(skipped, 2.0).await;
}

#[tokio::test]
async fn a_channel_that_nobody_follows_is_asked_about_no_more() {
    let contents = Contents::default();
    put(&contents, "x", json!({ "data": 1, "version": 1 }));
    let application = application(&contents).await;
    let gateway =
        describe(&application, "versioned").with("namespaces.poll.shared_poll.linger_ms", 0).start().await;
    let (mut ann, _) = subscribed(&gateway, "ann").await;
    let (mut bob, _) = subscribed(&gateway, "bob").await;
    let (mut eve, _) = subscribed(&gateway, "eve").await;
    for (client, user) in [(&mut ann, "ann"), (&mut bob, "bob"), (&mut eve, "eve")] {
        track(client, user, &[("x", 0)]).await;
        next_push(client).await;
    }
    ann.command("unsubscribe", json!({ "channel": "poll:a" })).await;
    bob.command("sub_refresh", json!({ "channel": "poll:a", "type": 2, "untrack": ["x"] })).await;
    assert_eq!(gateway.metric("tidegate_poll_channels").await, 1.0);
    eve.socket.close().await;
    gateway.metric_becomes("tidegate_poll_channels", 0.0).await;
    gateway.metric_becomes("tidegate_poll_client_keys", 0.0).await;
    put(&contents, "x", json!({ "data": 2, "version": 2 }));
    track(&mut bob, "bob", &[("x", 1)]).await;
    assert_eq!(next_push(&mut bob).await["version"], 2, "nothing came while it did not follow it");
}

#[tokio::test]
async fn a_backend_that_fails_is_asked_less_and_news_come_when_it_is_back() {
    let contents = Contents::default();
    put(&contents, "!status", json!(500));
    let application = application(&contents).await;
    let gateway = describe(&application, "versioned").start().await;
    let (mut ann, _) = subscribed(&gateway, "ann").await;
    track(&mut ann, "ann", &[("x", 0)]).await;
    eventually("it is asked several times", async || application.requests("/poll").len() >= 3).await;
    assert!(gateway.metric("tidegate_backend_results_total{hook=\"poll\",result=\"status\"}").await >= 2.0);
    put(&contents, "x", json!({ "data": 1, "version": 1 }));
    contents.lock().remove("!status");
    assert_eq!(next_push(&mut ann).await["version"], 1);
}

#[tokio::test]
async fn another_epoch_sends_subscribers_back_who_then_know_it() {
    let contents = Contents::default();
    put(&contents, "x", json!({ "data": 1, "version": 9 }));
    let application = application(&contents).await;
    let gateway = describe(&application, "versioned").start().await;
    let (mut ann, _) = subscribed(&gateway, "ann").await;
    track(&mut ann, "ann", &[("x", 0)]).await;
    assert_eq!(next_push(&mut ann).await["version"], 9);
    put(&contents, "x", json!({ "data": 2, "version": 1 }));
    put(&contents, "!epoch", json!("second"));
    assert_eq!(ann.unsubscribed().await, ("poll:a".to_owned(), 2500));
    let reply = ann.command("subscribe", json!({ "channel": "poll:a", "type": 4 })).await;
    assert_eq!(reply["epoch"], "second");
    track(&mut ann, "ann", &[("x", 0)]).await;
    assert_eq!(next_push(&mut ann).await, json!({ "data": 2, "key": "x", "version": 1 }));
    assert_eq!(gateway.metric("tidegate_poll_resets_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_on_one_node_is_told_on_all_with_its_epoch() {
    let redis = RedisServer::start();
    let contents = Contents::default();
    put(&contents, "x", json!({ "data": 1, "version": 1 }));
    put(&contents, "!epoch", json!("first"));
    let application = application(&contents).await;
    let start = async || {
        describe(&application, "versioned")
            .with("namespaces.poll.shared_poll.refresh_interval_ms", 3_600_000)
            .over(&redis.url())
            .start()
            .await
    };
    let (one, other) = (start().await, start().await);
    let mut clients = Vec::new();
    for node in [&one, &other] {
        let (mut ann, _) = subscribed(node, "ann").await;
        track(&mut ann, "ann", &[("x", 0)]).await;
        // The node learns the epoch only from the backend's first response.
        assert_eq!(ann.unsubscribed().await.1, 2500);
        let reply = ann.command("subscribe", json!({ "channel": "poll:a", "type": 4 })).await;
        assert_eq!(reply["epoch"], "first");
        track(&mut ann, "ann", &[("x", 0)]).await;
        assert_eq!(next_push(&mut ann).await["version"], 1);
        clients.push(ann);
    }
    let mut published =
        json!({ "channel": "poll:a", "key": "x", "version": 2, "epoch": "first", "data": "new" });
    one.api("shared_poll_publish", published.clone()).await;
    for client in &mut clients {
        assert_eq!(next_push(client).await, json!({ "data": "new", "key": "x", "version": 2 }));
    }
    published["epoch"] = json!("second");
    other.api("shared_poll_publish", published).await;
    for client in &mut clients {
        assert_eq!(client.unsubscribed().await, ("poll:a".to_owned(), 2500));
    }
}
