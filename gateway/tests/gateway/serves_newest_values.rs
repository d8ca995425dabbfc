//! Tests subscribers of newest values: the newest value of each key in place of every publication.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::client::{Client, Socket};
use crate::gateway::{Description, Gateway, eventually, gateway};
use crate::http::Answer;
use crate::redis_server::RedisServer;
use crate::response::ask;

const SUPERSEDED: &str = "tidegate.superseded";

fn quotes() -> Description {
    gateway().and(
        r#"
[namespaces.quotes]
allow_subscribe = true
allow_subscribe_anonymous = true
allow_publish = true
allow_publish_anonymous = true
allow_publish_for_client = true
[namespaces.quotes.newest]
allow_choice = true
[namespaces.kept]
allow_subscribe = true
allow_subscribe_anonymous = true
allow_history = true
history_size = 20
history_ttl_s = 60
[namespaces.kept.newest]
delivery = "latest"
allow_choice = true
snapshot = true
keys_max = 6000
[namespaces.bare]
allow_subscribe = true
allow_subscribe_anonymous = true
newest = { allow_choice = true, snapshot = true, keys_max = 3 }
"#,
    )
}

fn latest(channel: &str) -> Value {
    json!({ "channel": channel, "data": { "tidegate": { "delivery": "latest" } } })
}

/// Connects a client with a small receive buffer.
async fn small(gateway: &Gateway) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("a size");
    let stream = socket.connect(gateway.address).await.expect("connected");
    let mut client =
        Client::new(Socket::upgrade(stream, "/connection/websocket", &[]).await.expect("upgraded"));
    client.command("connect", json!({})).await;
    client
}

/// Publishes a value of `bytes` bytes for each key, once per round.
async fn publish(gateway: &Gateway, channel: &str, keys: u64, rounds: std::ops::Range<u64>, bytes: usize) {
    for round in rounds {
        let values: Vec<Value> = (0..keys)
            .map(|key| {
                let data = json!({ "round": round, "more": "x".repeat(bytes) });
                json!({ "publish": { "channel": channel, "key": key.to_string(), "data": data } })
            })
            .collect();
        for part in values.chunks(500) {
            let answer = gateway.try_api("batch", &json!({ "commands": part })).await;
            let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
            let replies = body["replies"].as_array().unwrap_or_else(|| panic!("replies: {body}"));
            assert_eq!(replies.len(), part.len());
            assert!(replies.iter().all(|reply| reply["publish"].is_object()), "{body}");
        }
    }
}

/// Returns the error code of a refused command.
fn error(answer: &Answer) -> u64 {
    let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
    body["error"]["code"].as_u64().unwrap_or_else(|| panic!("it was done: {body}"))
}

/// Returns the key of a publication, its round, and the number of values that it stands for.
fn read(publication: &Value) -> (u64, u64, u64) {
    let key = publication["key"].as_str().expect("a key").parse().expect("a number");
    let superseded =
        publication["tags"][SUPERSEDED].as_str().map_or(0, |count| count.parse().expect("a number"));
    (key, publication["data"]["round"].as_u64().expect("a round"), superseded + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_slow_has_the_last_value_of_each_key_and_is_told_how_many_it_was_not_sent() {
    let gateway = quotes().start().await;
    let mut client = small(&gateway).await;
    client.command("subscribe", latest("quotes:all")).await;
    client.subscribe("stream:other").await;
    let (keys, rounds) = (5, 400);
    publish(&gateway, "quotes:all", keys, 0..rounds, 2_000).await;
    gateway.publish("stream:other", json!("by the way")).await;
    let (mut has, mut accounted, mut received, mut beside) = (BTreeMap::new(), 0, 0, None);
    while accounted < keys * rounds || beside.is_none() {
        let push = client.push().await["push"].take();
        if push["channel"] == "stream:other" {
            beside = Some(received);
            continue;
        }
        let (key, round, count) = read(&push["pub"]);
        let before = has.insert(key, round).unwrap_or(0);
        assert!(before <= round, "key {key} goes back from {before} to {round}");
        accounted += count;
        received += 1;
    }
    assert_eq!(has, (0..keys).map(|key| (key, rounds - 1)).collect());
    assert_eq!(accounted, keys * rounds, "nothing is dropped without a word");
    assert!(received < keys * rounds / 2, "{received} of them were sent");
    assert_eq!(gateway.metric("tidegate_superseded_total").await, (accounted - received) as f64);
    assert_eq!(gateway.metric("tidegate_slow_consumers_total").await, 0.0);
    publish(&gateway, "quotes:all", 1, 7..8, 1).await;
    assert_eq!(read(&client.push().await["push"]["pub"]), (0, 7, 1), "it goes on as before");
}

#[tokio::test]
async fn a_quick_reader_misses_nothing_and_publications_without_a_key_are_values_of_their_own() {
    let gateway = quotes().start().await;
    let mut client = gateway.connect().await;
    client.command("subscribe", latest("quotes:all")).await;
    for round in 0..20 {
        publish(&gateway, "quotes:all", 1, round..round + 1, 10).await;
        assert_eq!(read(&client.push().await["push"]["pub"]), (0, round, 1));
    }
    gateway.publish("quotes:all", json!("no key")).await;
    let push = client.push().await;
    assert_eq!((&push["push"]["pub"]["data"], &push["push"]["pub"]["key"]), (&json!("no key"), &Value::Null));
}

#[tokio::test]
async fn clients_publish_values_where_they_may_publish() {
    let gateway = quotes().start().await;
    let (mut ann, mut bob) = (gateway.connect_as("ann").await, gateway.connect_as("bob").await);
    bob.command("subscribe", latest("quotes:all")).await;
    let value = json!({ "channel": "quotes:all", "key": "3", "type": 1, "data": { "round": 4 } });
    ann.command("publish", value).await;
    assert_eq!(read(&bob.push().await["push"]["pub"]), (3, 4, 1));
    let elsewhere = json!({ "channel": "kept:x", "key": "3", "type": 1, "data": 1 });
    assert_eq!(ann.refused("publish", elsewhere).await, 103);
    let away = json!({ "channel": "quotes:all", "key": "3", "type": 1, "removed": true });
    assert_eq!(ann.refused("publish", away).await, 107);
}

#[tokio::test]
async fn so_many_times_a_second_is_what_it_says_and_can_be_changed_by_the_client() {
    let gateway = quotes().with("namespaces.quotes.newest.times_per_s", 100).start().await;
    let mut client = gateway.connect().await;
    let often = json!({ "delivery": "latest", "times_per_s": 1 });
    let subscribe = json!({ "channel": "quotes:all", "data": { "tidegate": often } });
    client.command("subscribe", subscribe).await;
    let begun = Instant::now();
    publish(&gateway, "quotes:all", 3, 0..1, 1).await;
    publish(&gateway, "quotes:all", 3, 1..40, 1).await;
    let (mut accounted, mut received) = (0, 0);
    while accounted < 3 * 40 {
        let (_, _, count) = read(&client.push().await["push"]["pub"]);
        accounted += count;
        received += 1;
    }
    assert!(begun.elapsed() >= Duration::from_millis(990), "the second time is a second later");
    assert!(received <= 9, "{received} values in a first time and in those of the seconds after it");
    // The client switches back to all publications.
    let all = json!({ "channel": "quotes:all", "delivery": "all" });
    assert_eq!(
        client.command("rpc", json!({ "method": "tidegate.delivery", "data": all })).await["data"],
        json!({})
    );
    publish(&gateway, "quotes:all", 1, 50..70, 1).await;
    for round in 50..70 {
        assert_eq!(read(&client.push().await["push"]["pub"]), (0, round, 1));
    }
    let wrong = json!({ "channel": "quotes:all", "delivery": "some" });
    assert_eq!(client.refused("rpc", json!({ "method": "tidegate.delivery", "data": wrong })).await, 107);
}

/// Reads up to this round and checks that rounds only increase. Returns the number of values that the publications stand for.
async fn read_until(client: &mut Client, last: u64) -> u64 {
    let (mut accounted, mut before) = (0, None);
    while before != Some(last) {
        let (_, round, count) = read(&client.push().await["push"]["pub"]);
        assert!(before < Some(round), "{round} comes after {before:?}");
        before = Some(round);
        accounted += count;
    }
    accounted
}

/// Asks for another kind of delivery.
async fn change(client: &mut Client, mut wanted: Value) {
    wanted["channel"] = json!("quotes:all");
    let answer = client.command("rpc", json!({ "method": "tidegate.delivery", "data": wanted })).await;
    assert_eq!(answer["data"], json!({}));
}

#[tokio::test]
async fn who_changes_to_all_is_left_with_the_last_value_and_is_told_what_it_was_not_sent() {
    let gateway = quotes().start().await;
    let mut client = gateway.connect().await;
    let seldom = json!({ "delivery": "latest", "times_per_s": 1, "bytes_per_s": 30 });
    client.command("subscribe", json!({ "channel": "quotes:all", "data": { "tidegate": seldom } })).await;
    publish(&gateway, "quotes:all", 1, 1..2, 1).await;
    assert_eq!(read(&client.push().await["push"]["pub"]), (0, 1, 1));
    publish(&gateway, "quotes:all", 1, 2..3, 1).await;
    let begun = Instant::now();
    eventually("the second waits for bytes", async || begun.elapsed() > Duration::from_millis(1_200)).await;
    publish(&gateway, "quotes:all", 1, 3..4, 1).await;
    change(&mut client, json!({ "delivery": "all" })).await;
    publish(&gateway, "quotes:all", 1, 4..5, 1).await;
    assert_eq!(read_until(&mut client, 4).await, 3);
}

#[tokio::test]
async fn who_changes_its_rate_has_the_last_value_and_is_told_what_it_was_not_sent() {
    let gateway = quotes().start().await;
    let mut client = gateway.connect().await;
    let often = json!({ "delivery": "latest", "times_per_s": 1 });
    client.command("subscribe", json!({ "channel": "quotes:all", "data": { "tidegate": often } })).await;
    publish(&gateway, "quotes:all", 1, 0..1, 1).await;
    assert_eq!(read(&client.push().await["push"]["pub"]), (0, 0, 1));
    publish(&gateway, "quotes:all", 1, 1..5, 1).await;
    change(&mut client, json!({ "delivery": "latest", "times_per_s": 50 })).await;
    assert_eq!(read_until(&mut client, 4).await, 4);
}

#[tokio::test]
async fn nobody_is_sent_again_what_it_has_when_it_comes_to_those_for_whom_something_waits() {
    let gateway = quotes().with("workers.count", 1).start().await;
    let of = |channel: &str, delivery: Value| json!({ "channel": channel, "data": { "tidegate": delivery } });
    let paced = json!({ "delivery": "latest", "times_per_s": 1 });
    for channel in ["quotes:all", "kept:q"] {
        let mut first = gateway.connect().await;
        first.command("subscribe", of(channel, paced.clone())).await;
        let mut changes = gateway.connect().await;
        changes.command("subscribe", of(channel, json!({ "delivery": "all" }))).await;
        publish(&gateway, channel, 1, 1..4, 1).await;
        for round in 1..4 {
            assert_eq!(read(&changes.push().await["push"]["pub"]), (0, round, 1));
        }
        let mut wanted = paced.clone();
        wanted["channel"] = json!(channel);
        changes.command("rpc", json!({ "method": "tidegate.delivery", "data": wanted })).await;
        let mut joins = gateway.connect().await;
        let reply = joins.command("subscribe", of(channel, paced.clone())).await;
        let snapshot: Vec<_> = reply["publications"].as_array().into_iter().flatten().map(read).collect();
        assert_eq!(snapshot, if channel == "kept:q" { vec![(0, 3, 1)] } else { vec![] });
        publish(&gateway, channel, 1, 4..5, 1).await;
        for client in [&mut changes, &mut joins] {
            assert_eq!(read(&client.push().await["push"]["pub"]), (0, 4, 1), "{channel}");
        }
        assert_eq!(read_until(&mut first, 4).await, 4);
    }
}

#[tokio::test]
async fn who_has_not_said_that_it_chooses_cannot_change_and_a_namespace_says_who_may_choose() {
    let gateway = quotes().start().await;
    let mut client = gateway.connect().await;
    client.subscribe("quotes:all").await;
    let change = json!({ "channel": "quotes:all", "delivery": "latest" });
    assert_eq!(client.refused("rpc", json!({ "method": "tidegate.delivery", "data": change })).await, 107);
    assert_eq!(client.refused("subscribe", latest("stream:s")).await, 107);
    let wrong =
        json!({ "channel": "quotes:b", "data": { "tidegate": { "delivery": "latest", "every": 5 } } });
    assert_eq!(client.refused("subscribe", wrong).await, 107);
    let key = |channel: &str, key: String| json!({ "channel": channel, "key": key, "data": 1 });
    for (channel, key_bytes) in [("stream:s", 1), ("quotes:all", 256), ("stream:s", 0), ("quotes:all", 0)] {
        let answer = gateway.try_api("publish", &key(channel, "k".repeat(key_bytes))).await;
        assert_eq!(error(&answer), 107, "{channel}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_has_the_newest_of_each_key_and_then_all_that_follows() {
    let gateway = quotes().start().await;
    publish(&gateway, "kept:q", 5_000, 0..2, 20).await;
    let mut client = gateway.connect().await;
    let reply = client.subscribe("kept:q").await;
    let publications = reply["publications"].as_array().expect("a snapshot");
    let rounds: BTreeMap<u64, u64> =
        publications.iter().map(read).map(|(key, round, _)| (key, round)).collect();
    assert_eq!(rounds, (0..5_000).map(|key| (key, 1)).collect());
    assert_eq!((&reply["recoverable"], &reply["offset"]), (&Value::Null, &Value::Null));
    publish(&gateway, "kept:q", 1, 2..3, 1).await;
    assert_eq!(read(&client.push().await["push"]["pub"]), (0, 2, 1));
    // A recovery is answered like a new subscription.
    let mut again = gateway.connect().await;
    let recover = json!({ "channel": "kept:q", "recover": true, "offset": 3, "epoch": "gone" });
    let reply = again.command("subscribe", recover).await;
    assert_eq!((&reply["recovered"], &reply["was_recovering"]), (&json!(true), &json!(true)));
    assert_eq!(reply["publications"].as_array().map(Vec::len), Some(5_000));
    // The history is unchanged.
    let history = gateway.api("history", json!({ "channel": "kept:q", "limit": 100 })).await;
    assert_eq!(history["publications"].as_array().map(Vec::len), Some(20));
}

#[tokio::test]
async fn a_snapshot_is_bounded_and_needs_no_history() {
    let gateway = quotes().start().await;
    publish(&gateway, "bare:q", 3, 0..2, 1).await;
    let full = gateway.try_api("publish", &json!({ "channel": "bare:q", "key": "more", "data": 1 })).await;
    assert_eq!(error(&full), 106);
    let mut client = gateway.connect().await;
    let reply = client.command("subscribe", latest("bare:q")).await;
    let publications = reply["publications"].as_array().expect("a snapshot");
    assert_eq!(publications.iter().map(read).collect::<Vec<_>>(), [(0, 1, 1), (1, 1, 1), (2, 1, 1)]);
    assert!(publications.iter().all(|publication| publication["offset"].is_null()), "nothing counts here");
    publish(&gateway, "bare:q", 1, 2..3, 1).await;
    let push = client.push().await;
    assert_eq!(read(&push["push"]["pub"]), (0, 2, 1));
    assert!(push["push"]["pub"]["offset"].is_null());
    let mut all = gateway.connect().await;
    assert_eq!(all.subscribe("bare:q").await["publications"].as_array().map(Vec::len), Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_kept_in_redis_for_those_who_join_on_any_node() {
    let redis = RedisServer::start();
    let [here, there] =
        [0, 1].map(|number| quotes().over(&redis.url()).with("node.name", format!("node-{number}")));
    let (here, there) = (here.start().await, there.start().await);
    for channel in ["kept:q", "bare:q"] {
        let keys = if channel == "kept:q" { 3_000 } else { 3 };
        publish(&here, channel, keys, 0..2, 20).await;
        let mut client = there.connect().await;
        let reply = client.command("subscribe", latest(channel)).await;
        let publications = reply["publications"].as_array().expect("a snapshot");
        let rounds: BTreeMap<u64, u64> =
            publications.iter().map(read).map(|(key, round, _)| (key, round)).collect();
        assert_eq!(rounds, (0..keys).map(|key| (key, 1)).collect());
        publish(&here, channel, 1, 2..3, 1).await;
        assert_eq!(read(&client.push().await["push"]["pub"]), (0, 2, 1));
        // A value with other tags is not treated as the removal of the key.
        let tagged = json!({ "channel": channel, "key": "0", "data": { "round": 3 }, "tags": { "a": "b" } });
        here.api("publish", tagged).await;
        assert_eq!(read(&client.push().await["push"]["pub"]), (0, 3, 1));
    }
    let full = here.try_api("publish", &json!({ "channel": "bare:q", "key": "more", "data": 1 })).await;
    assert_eq!(error(&full), 106);
}

async fn kept_values_age(gateway: Gateway) {
    publish(&gateway, "kept:q", 3, 0..1, 1).await;
    let mut listens = gateway.connect().await;
    listens.subscribe("kept:q").await;
    eventually("what is too old to be true is given to nobody", async || {
        let mut client = gateway.connect().await;
        client.subscribe("kept:q").await["publications"].is_null()
    })
    .await;
    publish(&gateway, "kept:q", 1, 1..2, 1).await;
    assert_eq!(read(&listens.push().await["push"]["pub"]), (0, 1, 1), "nobody is told that keys have gone");
}

#[tokio::test]
async fn kept_values_age_in_memory() {
    kept_values_age(quotes().with("namespaces.kept.newest.value_ttl_ms", 400).start().await).await;
}

#[tokio::test]
async fn kept_values_age_in_redis() {
    let redis = RedisServer::start();
    let gateway = quotes().with("namespaces.kept.newest.value_ttl_ms", 400).over(&redis.url());
    kept_values_age(gateway.start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_has_waited_too_long_is_dropped_and_the_next_tells_of_it() {
    let gateway = quotes().with("namespaces.quotes.newest.value_ttl_ms", 200).start().await;
    let mut client = small(&gateway).await;
    client.command("subscribe", latest("quotes:all")).await;
    let (keys, rounds) = (400, 2);
    publish(&gateway, "quotes:all", keys, 0..rounds, 2_000).await;
    let published = Instant::now();
    eventually("values are old", async || published.elapsed() > Duration::from_millis(250)).await;
    let (mut received, mut accounted) = (0, 0);
    while gateway.metric("tidegate_drops_total{reason=\"stale\"}").await == 0.0 {
        accounted += read(&client.push().await["push"]["pub"]).2;
        received += 1;
        assert!(received < keys, "nothing was dropped");
    }
    publish(&gateway, "quotes:all", 1, 9..10, 1).await;
    loop {
        let (key, round, count) = read(&client.push().await["push"]["pub"]);
        accounted += count;
        if (key, round) == (0, 9) {
            break;
        }
    }
    assert_eq!(accounted, keys * rounds + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_keys_than_may_wait_end_the_subscription_and_not_the_connection() {
    let gateway = quotes().with("namespaces.quotes.newest.keys_max", 50).start().await;
    let mut client = small(&gateway).await;
    client.command("subscribe", latest("quotes:all")).await;
    publish(&gateway, "quotes:all", 200, 0..1, 2_000).await;
    let code = loop {
        let push = client.push().await["push"].take();
        if let Some(code) = push["unsubscribe"]["code"].as_u64() {
            break code;
        }
    };
    assert_eq!(code, 2500, "libraries subscribe again by themselves");
    client.command("subscribe", latest("quotes:all")).await;
}

#[tokio::test]
async fn an_event_stream_begins_with_the_newest_values() {
    let gateway = quotes().with("sse.enabled", true).start().await;
    publish(&gateway, "kept:q", 3, 0..2, 1).await;
    let mut stream = ask(&gateway, "GET", "/sse?channel=kept:q&delivery=latest", "", "").await;
    assert_eq!(stream.status, 200);
    let mut rounds = Vec::new();
    let mut published = false;
    while rounds.len() < 4 {
        let event = stream.until("\n\n").await.expect("an event");
        let data = event.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
        let data: Value = serde_json::from_str(data).expect("JSON");
        rounds.extend(data["round"].as_u64());
        if rounds.len() == 3 && !std::mem::replace(&mut published, true) {
            publish(&gateway, "kept:q", 1, 2..3, 1).await;
        }
    }
    assert_eq!(rounds, [1, 1, 1, 2]);
    let refused = ask(&gateway, "GET", "/sse?channel=kept:q&delivery=some", "", "").await;
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn addresses_ask_for_newest_values_too() {
    let gateway = quotes().start().await;
    let mut bare = gateway.raw("quotes:all?delivery=latest&times_per_s=1").await;
    let refused = gateway.try_open("/raw/quotes:all?delivery=some", &[]).await;
    assert!(refused.is_err(), "it says why");
    gateway.metric_becomes("tidegate_subscriptions", 1.0).await;
    publish(&gateway, "quotes:all", 1, 0..30, 1).await;
    let mut rounds = Vec::new();
    while rounds.last() != Some(&29) {
        let value: Value = serde_json::from_str(&bare.text().await).expect("JSON");
        rounds.push(value["round"].as_u64().expect("a round"));
    }
    assert!(rounds.is_sorted() && rounds.len() < 15, "{rounds:?}");
}
