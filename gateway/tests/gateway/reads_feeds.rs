//! Tests feeds: records of an external source reach channels once and in order, whatever is killed meanwhile.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::feeds::{FEED, Outside, STREAM};
use crate::gateway::{Description, Gateway, PATIENCE, eventually, gateway};
use crate::redis_server::RedisServer;

pub const PUBLISHED: &str = "tidegate_feed_records_total{feed=\"orders\",result=\"published\"}";
const REPEATED: &str = "tidegate_feed_records_total{feed=\"orders\",result=\"repeated\"}";
pub const DEAD: &str = "tidegate_feed_records_total{feed=\"orders\",result=\"dead_lettered\"}";
const READER: &str = "tidegate_feed_reader";

pub fn node(outside: &Outside) -> Description {
    outside.feeds(gateway())
}

/// Returns the publications in a channel's history.
pub async fn history(node: &Gateway, channel: &str) -> Vec<Value> {
    let answer = node.api("history", json!({ "channel": channel, "limit": -1 })).await;
    answer["publications"].as_array().cloned().unwrap_or_default()
}

pub async fn data(node: &Gateway, channel: &str) -> Vec<Value> {
    history(node, channel).await.into_iter().map(|publication| publication["data"].clone()).collect()
}

/// Returns the value of a gauge that is not always exported.
async fn shown(node: &Gateway, name: &str) -> Option<f64> {
    let answer = node.internal("/metrics").await;
    let text = String::from_utf8(answer.body).expect("text");
    let series = format!("{name}{{feed=\"{FEED}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
}

pub fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|at| at.to_string()).collect()
}

/// Adds these numbers as records to each of these channels, in turn.
pub async fn add_to(outside: &Outside, channels: &[&str], numbers: &[String]) {
    let of = |number| channels.iter().map(move |channel| vec![("channel", *channel), ("data", number)]);
    outside.add_all(&numbers.iter().map(String::as_str).flat_map(of).collect::<Vec<_>>()).await;
}

pub fn as_values(numbers: &[String]) -> Vec<Value> {
    numbers.iter().map(|number| number.parse::<u64>().expect("a number").into()).collect()
}

async fn all_that_a_record_says_is_published(outside: Outside) {
    // Added before a node reads.
    outside
        .add(&[("channel", "stream:a"), ("data", "{ \"first\": true }"), ("tags", "{\"event\":\"made\"}")])
        .await;
    let node = node(&outside).with("feeds.orders.fields.key", "kind").start().await;
    let mut listener = node.connect().await;
    listener.subscribe("plain").await;
    outside.add(&[("channel", "stream:a"), ("b64data", "aGVsbG8=")]).await;
    outside.add(&[("channels", "[\"stream:a\",\"stream:b\"]"), ("data", "\"both\"")]).await;
    outside.add(&[("channel", "stream:a"), ("data", "1"), ("skip_history", "true")]).await;
    outside.add(&[("channel", "stream:a"), ("data", "2"), ("version", "7")]).await;
    outside.add(&[("channel", "stream:a"), ("data", "3"), ("version", "6")]).await;
    outside.add(&[("channel", "plain"), ("data", "\"to those who listen\"")]).await;
    node.metric_becomes(PUBLISHED, 6.0).await;
    node.metric_becomes(REPEATED, 1.0).await;
    let found = history(&node, "stream:a").await;
    assert_eq!(found[0]["data"], json!({ "first": true }));
    assert_eq!(found[0]["tags"], json!({ "event": "made" }));
    let rest: Vec<&Value> = found[1..].iter().map(|publication| &publication["data"]).collect();
    assert_eq!(
        rest,
        [&json!("hello"), &json!("both"), &json!(2)],
        "what is older than a version is not published"
    );
    assert_eq!(data(&node, "stream:b").await, [json!("both")]);
    assert_eq!(listener.publication().await.data, json!("to those who listen"));
    assert_eq!(node.metric("tidegate_publications_in_total{source=\"feed\"}").await, 8.0);
}

async fn a_record_that_is_read_again_is_published_once(outside: Outside) {
    let node = node(&outside).start().await;
    let numbers = numbers(50);
    add_to(&outside, &["stream:a", "stream:b"], &numbers).await;
    node.metric_becomes(PUBLISHED, 100.0).await;
    outside.repeat().await;
    node.metric_becomes(REPEATED, 100.0).await;
    for channel in ["stream:a", "stream:b"] {
        assert_eq!(data(&node, channel).await, as_values(&numbers));
    }
    assert_eq!(node.metric(PUBLISHED).await, 100.0);
}

async fn what_cannot_be_published_is_a_dead_letter_and_what_follows_is_not(outside: Outside) {
    let node = node(&outside).with("feeds.orders.record_bytes_max", 2_000).start().await;
    let long = format!("\"{}\"", "x".repeat(4_000));
    let bad: [(&[(&str, &str)], &str); 5] = [
        (&[("data", "1")], "names no channel"),
        (&[("channel", "stream:a"), ("b64data", "?")], "b64data"),
        (&[("channel", "nowhere:a"), ("data", "1")], "unknown channel"),
        (&[("channel", "stream:a"), ("data", &long)], "record_bytes_max is 2000"),
        (&[("channel", "stream:a"), ("data", "1"), ("tags", "[1]")], "tags"),
    ];
    for (at, (fields, _)) in bad.iter().enumerate() {
        outside.add(fields).await;
        outside.add(&[("channel", "stream:a"), ("data", &at.to_string())]).await;
    }
    node.metric_becomes(DEAD, 5.0).await;
    node.metric_becomes(PUBLISHED, 5.0).await;
    assert_eq!(data(&node, "stream:a").await, as_values(&numbers(5)));
    let found = outside.dead_letters().await;
    assert_eq!(found.len(), 5, "{found:?}");
    for ((reason, kept), (fields, why)) in found.iter().zip(bad) {
        assert!(reason.contains(why), "{why}: {reason}");
        for (name, value) in fields {
            assert!(kept[*name].replace(' ', "") == value.replace(' ', ""), "{name} of {kept:?}");
        }
    }
}

async fn of_two_nodes_one_reads_and_when_it_is_killed_the_other_goes_on(outside: Outside) {
    const CHANNELS: [&str; 5] = ["stream:a", "stream:b", "stream:c", "stream:d", "stream:e"];
    const EACH: usize = 600;
    let broker = RedisServer::start();
    let describe = || node(&outside).over(&broker.url()).with("feeds.orders.records_max", 32);
    let mut nodes = vec![describe().run().await, describe().run().await];
    let numbers = numbers(EACH);
    add_to(&outside, &CHANNELS, &numbers[..EACH / 2]).await;
    // A node that gets no CPU for longer than its lease loses its turn; the node that has published more is the reader.
    let mut reader = 0;
    eventually("it is in flight", async || {
        let published = [nodes[0].metric(PUBLISHED).await, nodes[1].metric(PUBLISHED).await];
        reader = usize::from(published[1] > published[0]);
        published[reader] >= 64.0
    })
    .await;
    let first = nodes.swap_remove(reader);
    let second = nodes.remove(0);
    first.signal(Signal::KILL);
    first.ended().await;
    add_to(&outside, &CHANNELS, &numbers[EACH / 2..]).await;
    for channel in CHANNELS {
        let mut found = Vec::new();
        eventually("all of it is there", async || {
            found = data(&second, channel).await;
            found.len() >= EACH
        })
        .await;
        assert_eq!(found, as_values(&numbers), "{channel}");
    }
    assert_eq!(second.metric(READER).await, 1.0);
    eventually("nothing is left", async || shown(&second, "tidegate_feed_behind_records").await == Some(0.0))
        .await;
    assert!(outside.dead_letters().await.is_empty());
}

async fn a_source_that_goes_away_is_come_back_to_and_the_node_stays_ready(mut outside: Outside) {
    let node = node(&outside).start().await;
    let numbers = numbers(30);
    add_to(&outside, &["stream:a"], &numbers[..10]).await;
    node.metric_becomes(PUBLISHED, 10.0).await;
    assert_eq!(node.metric("tidegate_feed_connected").await, 1.0);
    outside.kill().await;
    node.metric_becomes("tidegate_feed_connected", 0.0).await;
    assert!(node.is_ready().await, "clients are served all the same");
    assert_eq!(shown(&node, "tidegate_feed_behind_records").await, None, "nobody can say");
    assert!(node.metric("tidegate_feed_retries_total").await >= 1.0);
    outside.restart().await;
    add_to(&outside, &["stream:a"], &numbers[10..]).await;
    node.metric_becomes("tidegate_feed_connected", 1.0).await;
    eventually("the rest has come", async || data(&node, "stream:a").await.len() >= 30).await;
    assert_eq!(data(&node, "stream:a").await, as_values(&numbers));
}

async fn while_the_broker_is_away_no_more_is_read_than_can_be_held_and_nothing_is_skipped(outside: Outside) {
    let broker = RedisServer::start();
    let node = node(&outside)
        .over(&broker.url())
        .with("redis.timeout_ms", 200)
        .with("feeds.orders.records_max", 10)
        .with("feeds.orders.retry_max_ms", 200)
        .start()
        .await;
    let numbers = numbers(100);
    add_to(&outside, &["stream:a"], &numbers[..1]).await;
    node.metric_becomes(PUBLISHED, 1.0).await;
    broker.freeze();
    add_to(&outside, &["stream:a", "stream:b"], &numbers[1..]).await;
    let start = Instant::now();
    let mut most = 0.0_f64;
    while node.metric("tidegate_feed_retries_total").await < 3.0 || most == 0.0 {
        most = most.max(node.metric("tidegate_feed_held_records").await);
        assert!(start.elapsed() < PATIENCE, "it does not try again");
        tokio::task::yield_now().await;
    }
    assert!(most <= 10.0, "{most} are held");
    eventually("it says how far it is behind", async || {
        shown(&node, "tidegate_feed_behind_records").await == Some(198.0)
            && shown(&node, "tidegate_feed_oldest_seconds").await.is_some_and(|age| age > 0.0)
    })
    .await;
    assert!(node.metric("tidegate_feed_read_total").await <= 11.0);
    assert_eq!(node.metric(PUBLISHED).await, 1.0);
    broker.thaw();
    node.metric_becomes("tidegate_feed_held_records", 0.0).await;
    eventually("nothing is left", async || shown(&node, "tidegate_feed_behind_records").await == Some(0.0))
        .await;
    assert_eq!(shown(&node, "tidegate_feed_oldest_seconds").await, Some(0.0));
    assert_eq!(data(&node, "stream:a").await, as_values(&numbers));
    assert_eq!(data(&node, "stream:b").await, as_values(&numbers[1..]));
    assert_eq!(node.metric(DEAD).await, 0.0);
}

async fn a_node_that_stops_lets_another_go_on_at_once(outside: Outside) {
    let broker = RedisServer::start();
    let describe = || node(&outside).over(&broker.url());
    let first = describe().start().await;
    first.metric_becomes(READER, 1.0).await;
    let second = describe().start().await;
    let numbers = numbers(400);
    add_to(&outside, &["stream:a"], &numbers[..200]).await;
    eventually("it is in flight", async || first.metric(PUBLISHED).await > 0.0).await;
    assert_eq!(second.metric(READER).await, 0.0);
    first.drain().await;
    second.metric_becomes(READER, 1.0).await;
    add_to(&outside, &["stream:a"], &numbers[200..]).await;
    eventually("all of it is there", async || data(&second, "stream:a").await.len() >= 400).await;
    assert_eq!(data(&second, "stream:a").await, as_values(&numbers));
}

async fn what_a_record_is_known_by_is_its_feeds_own(outside: Outside) {
    // Two feeds of one source: the idempotency key of a record is the feed's name with the record's position.
    let describe = outside.feeds_as("other", node(&outside));
    let node = describe.start().await;
    add_to(&outside, &["stream:a"], &numbers(3)).await;
    outside.add(&[("channel", "stream:b"), ("data", "1"), ("idempotency_key", "mine")]).await;
    eventually("each has published it", async || data(&node, "stream:a").await.len() == 6).await;
    node.metric_becomes("tidegate_feed_records_total", 8.0).await;
    assert_eq!(data(&node, "stream:b").await, [json!(1)], "by its own key, a record is one in all feeds");
}

async fn what_is_published_is_let_go_of_though_dead_letters_cannot_be_written(outside: Outside) {
    let node = node(&outside).start().await;
    node.metric_becomes(READER, 1.0).await;
    outside.refuse_dead_letters(true).await;
    let bad = vec![("channel", "nowhere:a"), ("data", "1")];
    outside.add_all(&[vec![("channel", "stream:a"), ("data", "2")], bad]).await;
    eventually("what is published is let go of", async || {
        data(&node, "stream:a").await == [json!(2)] && outside.left().await == 1
    })
    .await;
    eventually("it tries again", async || node.metric("tidegate_feed_retries_total").await >= 2.0).await;
    assert_eq!((node.metric(DEAD).await, outside.left().await), (0.0, 1), "the other one is kept");
    outside.refuse_dead_letters(false).await;
    node.metric_becomes(DEAD, 1.0).await;
    assert_eq!(outside.left().await, 0);
    assert_eq!(data(&node, "stream:a").await, [json!(2)]);
    assert_eq!(outside.dead_letters().await.len(), 1);
}

async fn a_reader_that_stood_still_reads_nothing_more_once_another_reads(outside: Outside) {
    let broker = RedisServer::start();
    // No more publications than one response of the API can return.
    let describe = || node(&outside).over(&broker.url()).with("feeds.orders.records_max", 4);
    let first = describe().run().await;
    first.metric_becomes(READER, 1.0).await;
    let second = describe().run().await;
    let numbers = numbers(900);
    add_to(&outside, &["stream:a"], &numbers[..450]).await;
    eventually("it is in flight", async || first.metric(PUBLISHED).await > 8.0).await;
    // The node stops for long enough to lose its turn, with records in flight.
    first.signal(Signal::STOP);
    second.metric_becomes(READER, 1.0).await;
    first.signal(Signal::CONT);
    add_to(&outside, &["stream:a"], &numbers[450..]).await;
    eventually("all of it is there", async || data(&second, "stream:a").await.len() >= 900).await;
    assert_eq!(data(&second, "stream:a").await, as_values(&numbers));
    first.metric_becomes(READER, 0.0).await;
}

/// Runs each of these tests for each kind of source.
macro_rules! of_each_kind {
    ($($name:ident)*) => {
        mod of_a_stream {
            use super::Outside;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(Outside::stream()).await;
                }
            )*
        }
        mod of_subjects {
            use super::Outside;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(Outside::subjects()).await;
                }
            )*
        }
        mod of_a_table {
            use super::Outside;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(Outside::table().await).await;
                }
            )*
        }
    };
}

/// Runs each of these tests for a Kafka topic, where Kafka is available.
macro_rules! of_a_topic {
    ($($name:ident)*) => {
        mod of_a_topic {
            use super::Outside;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = "needs Kafka: tests/kafka/run"]
                async fn $name() {
                    super::$name(Outside::topic().await).await;
                }
            )*
        }
    };
}

of_a_topic! {
    all_that_a_record_says_is_published
    what_cannot_be_published_is_a_dead_letter_and_what_follows_is_not
    of_two_nodes_one_reads_and_when_it_is_killed_the_other_goes_on
    a_source_that_goes_away_is_come_back_to_and_the_node_stays_ready
    while_the_broker_is_away_no_more_is_read_than_can_be_held_and_nothing_is_skipped
    a_node_that_stops_lets_another_go_on_at_once
    what_is_published_is_let_go_of_though_dead_letters_cannot_be_written
    a_reader_that_stood_still_reads_nothing_more_once_another_reads
}

of_each_kind! {
    all_that_a_record_says_is_published
    a_record_that_is_read_again_is_published_once
    what_cannot_be_published_is_a_dead_letter_and_what_follows_is_not
    of_two_nodes_one_reads_and_when_it_is_killed_the_other_goes_on
    a_source_that_goes_away_is_come_back_to_and_the_node_stays_ready
    while_the_broker_is_away_no_more_is_read_than_can_be_held_and_nothing_is_skipped
    a_node_that_stops_lets_another_go_on_at_once
    what_is_published_is_let_go_of_though_dead_letters_cannot_be_written
    a_reader_that_stood_still_reads_nothing_more_once_another_reads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_feeds_of_a_stream_publish_a_record_each() {
    what_a_record_is_known_by_is_its_feeds_own(Outside::stream()).await;
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_panics_is_told_of_and_begins_anew_with_what_it_was_not_done_with() {
    tidegate::faults::arm();
    let outside = Outside::stream();
    let node = node(&outside).start().await;
    let poison = serde_json::to_string(tidegate::faults::READING_PANICS).expect("a text");
    outside.add(&[("channel", "stream:a"), ("data", "1")]).await;
    node.metric_becomes(PUBLISHED, 1.0).await;
    let of = |data| vec![("channel", "stream:a"), ("data", data)];
    outside.add_all(&[of(poison.as_str()), of("2")]).await;
    let panics = "tidegate_panics_total{what=\"feed\"}";
    eventually("it is told again and again", async || node.metric(panics).await >= 2.0).await;
    assert_eq!(data(&node, "stream:a").await, [json!(1)], "nothing is skipped");
    assert!(node.is_ready().await);
    let Outside::Stream(redis) = &outside else { panic!("it is a stream") };
    let all: Vec<(String, Vec<String>)> = redis.ask(&["XRANGE", STREAM, "-", "+"]);
    redis.ask::<u64>(&["XDEL", STREAM, &all[1].0]);
    node.metric_becomes(PUBLISHED, 2.0).await;
    assert_eq!(data(&node, "stream:a").await, [json!(1), json!(2)]);
    node.metric_becomes(DEAD, 1.0).await;
    assert_eq!((node.metric(READER).await, node.metric("tidegate_feed_connected").await), (1.0, 1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_for_which_there_is_no_room_yet_waits_for_some() {
    let outside = Outside::stream();
    let kept = "[namespaces.kept]\nhistory_size = 20\nhistory_ttl_s = 60\n\
                newest = { allow_choice = true, snapshot = true, keys_max = 2 }\n";
    let node =
        node(&outside).with("broker.memory.keys_max", 2).with("namespaces.kept.newest.value_ttl_ms", 1_500);
    let node = node.and(kept).start().await;
    let of = |channel, key| vec![("channel", channel), ("key", key), ("data", "1")];
    outside.add_all(&[of("kept:a", "1"), of("kept:a", "2"), of("kept:a", "3"), of("kept:b", "1")]).await;
    // The bounds on keys make records wait for room; they do not make dead letters of them.
    eventually("it waits", async || node.metric("tidegate_feed_retries_total").await >= 2.0).await;
    assert_eq!(node.metric(PUBLISHED).await, 2.0);
    node.metric_becomes(PUBLISHED, 4.0).await;
    assert_eq!(node.metric(DEAD).await, 0.0);
}
