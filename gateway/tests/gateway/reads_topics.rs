//! Tests feeds from Kafka topics, where they differ from other kinds. They need Kafka and run with `tests/kafka/run`.

use bytes::Bytes;
use krafka::Record;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::feeds::{Outside, STREAM};
use crate::gateway::{Description, eventually, gateway};
use crate::kafka::KafkaServer;
use crate::reads_feeds::{DEAD, PUBLISHED, add_to, as_values, data, history, node, numbers};
use crate::redis_server::RedisServer;
use crate::tls::Certificate;

const READER: &str = "tidegate_feed_reader";

/// Describes a node that reads a topic, with further settings of the section.
fn reads(server: &KafkaServer, topic: &str, settings: &str) -> Description {
    gateway().and(&format!(
        "[feeds.orders]\nkind = \"kafka\"\n[feeds.orders.kafka]\nbrokers = [\"{}\"]\ntopic = \"{topic}\"\n{settings}\n",
        server.address()
    ))
}

async fn with_topic(name: &str, partitions: i32) -> KafkaServer {
    let server = KafkaServer::start().await;
    server.make_topic(name, partitions).await;
    server.make_topic(&format!("{name}.dead"), 1).await;
    server
}

fn of(topic: &str, channel: &str, number: u64) -> Record {
    let value = json!({ "channel": channel, "data": number }).to_string();
    // The key puts all records of a channel into one partition.
    Record::new(topic, value).key(channel.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Kafka: tests/kafka/run"]
async fn partitions_are_read_side_by_side_and_those_of_a_dead_node_by_the_other() {
    let server = with_topic("t", 4).await;
    let broker = RedisServer::start();
    let describe = || reads(&server, "t", "").over(&broker.url()).with("feeds.orders.records_max", 16);
    let [first, second] = [describe().run().await, describe().run().await];
    eventually("both read", async || first.metric(READER).await + second.metric(READER).await == 2.0).await;
    let channels: Vec<String> = (0..12).map(|number| format!("stream:{number}")).collect();
    let write = async |numbers: std::ops::Range<u64>| {
        let all = numbers.flat_map(|number| channels.iter().map(move |channel| of("t", channel, number)));
        server.write(all).await;
    };
    write(0..60).await;
    for node in [&first, &second] {
        eventually("it is in flight", async || node.metric(PUBLISHED).await >= 32.0).await;
    }
    first.signal(Signal::KILL);
    write(60..120).await;
    let expected: Vec<Value> = (0..120).map(Value::from).collect();
    for channel in &channels {
        let mut found = Vec::new();
        eventually("all of it is there", async || {
            found = data(&second, channel).await;
            found.len() >= expected.len()
        })
        .await;
        assert_eq!(found, expected, "{channel}");
    }
    eventually("nothing is left", async || second.metric("tidegate_feed_behind_records").await == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Kafka: tests/kafka/run"]
async fn a_value_may_be_the_data_and_headers_and_the_key_the_rest() {
    let server = with_topic("t", 1).await;
    let node = reads(&server, "t", "value = \"data\"").start().await;
    let tagged = Record::new("t", "{\"a\":1}").key("stream:a").header("tags", "{\"event\":\"made\"}");
    let elsewhere = Record::new("t", "2").key("stream:a").header("channel", "stream:b");
    let gone = Record::tombstone("t", "stream:a");
    server.write([tagged, elsewhere, gone]).await;
    node.metric_becomes(PUBLISHED, 2.0).await;
    node.metric_becomes(DEAD, 1.0).await;
    let found = history(&node, "stream:a").await;
    assert_eq!((&found[0]["data"], &found[0]["tags"]), (&json!({ "a": 1 }), &json!({ "event": "made" })));
    assert_eq!(data(&node, "stream:b").await, [json!(2)]);
    node.drain().await;

    let node = reads(&server, "t", "value = \"bytes\"\ngroup = \"another\"").start().await;
    server.write([Record::new("t", Bytes::from_static(&[0, 1, 255])).key("stream:c")]).await;
    eventually("bytes are published", async || !data(&node, "stream:c").await.is_empty()).await;
    assert_eq!(data(&node, "stream:c").await, [json!("AAH/")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Kafka: tests/kafka/run"]
async fn what_a_transaction_took_back_is_not_published_and_what_was_cut_off_is_passed_over() {
    let server = with_topic("t", 1).await;
    let kafka = server.client().await;
    let transactions = kafka.producer().build_transactional("test").await.expect("a producer");
    for (number, commits) in [(0, true), (1, false), (2, true)] {
        transactions.begin().expect("a transaction");
        let written = transactions.send(of("t", "stream:a", number)).await.expect("it is written");
        assert!(written.is_success());
        match commits {
            true => transactions.commit().await.expect("it is committed"),
            false => transactions.abort().await.expect("it is taken back"),
        }
    }
    let node = reads(&server, "t", "").start().await;
    node.metric_becomes(PUBLISHED, 2.0).await;
    assert_eq!(data(&node, "stream:a").await, [json!(0), json!(2)]);
    node.drain().await;
    server.write((3..10).map(|number| of("t", "stream:a", number))).await;
    // Three records and three end-of-transaction markers precede these.
    server.cut_off("t", 6 + 4).await;
    let node = reads(&server, "t", "").start().await;
    node.metric_becomes(PUBLISHED, 3.0).await;
    assert_eq!(data(&node, "stream:a").await, [json!(7), json!(8), json!(9)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Kafka: tests/kafka/run"]
async fn a_group_may_begin_at_the_end_and_a_topic_that_is_not_there_is_told() {
    let outside = Outside::topic().await;
    let Outside::Topic(server) = &outside else { panic!("it is a topic") };
    let numbers = numbers(6);
    add_to(&outside, &["stream:a"], &numbers[..3]).await;
    let node = node(&outside).with("feeds.orders.kafka.from", "end").start().await;
    node.metric_becomes(READER, 1.0).await;
    eventually("it is at the end", async || outside.left().await == 0).await;
    add_to(&outside, &["stream:a"], &numbers[3..]).await;
    node.metric_becomes(PUBLISHED, 3.0).await;
    assert_eq!(data(&node, "stream:a").await, as_values(&numbers[3..]));

    let lost = reads(server, "nowhere", "").with("feeds.orders.retry_max_ms", 200).start().await;
    eventually("it tries", async || lost.metric("tidegate_feed_retries_total").await >= 2.0).await;
    assert_eq!(lost.metric("tidegate_feed_connected").await, 0.0);
    server.make_topic("nowhere", 1).await;
    server.make_topic("nowhere.dead", 1).await;
    lost.metric_becomes(READER, 1.0).await;
    assert_eq!(outside.dead_letters().await.len(), 0, "of {STREAM}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Kafka: tests/kafka/run"]
async fn nodes_log_in_in_each_way_over_tls_and_check_the_certificate() {
    let (right, wrong) = (Certificate::new(), Certificate::new());
    let keys = tempfile::NamedTempFile::new().expect("a file");
    let both =
        ["key.pem", "certificate.pem"].map(|name| std::fs::read_to_string(right.file(name)).expect("a file"));
    std::fs::write(keys.path(), both.concat()).expect("a key and its certificate");
    let modules = "org.apache.kafka.common.security";
    let server = KafkaServer::start_with(
        "SASL_SSL",
        &[
            "ssl.keystore.type=PEM",
            &format!("ssl.keystore.location={}", keys.path().display()),
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            &format!(
                "listener.name.client.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required user_gate=\"secret\";"
            ),
            &format!("listener.name.client.scram-sha-256.sasl.jaas.config={modules}.scram.ScramLoginModule required;"),
            &format!("listener.name.client.scram-sha-512.sasl.jaas.config={modules}.scram.ScramLoginModule required;"),
        ],
    )
    .await;
    server.make_topic("t", 1).await;
    server.make_topic("t.dead", 1).await;
    server.write([of("t", "stream:a", 1)]).await;
    let describe = |sasl: &str, password: &str, certificate: &Certificate| {
        let ca = certificate.file("certificate.pem").display().to_string();
        let settings = format!(
            "group = \"{sasl}-{password}\"\ntls = true\nca_file = \"{ca}\"\nsasl = \"{sasl}\"\nuser = \"gate\"\n\
             password = \"{password}\""
        );
        reads(&server, "t", &settings).with("feeds.orders.retry_max_ms", 200)
    };
    for sasl in ["plain", "scram_sha_256", "scram_sha_512"] {
        let node = describe(sasl, "secret", &right).start().await;
        node.metric_becomes(PUBLISHED, 1.0).await;
        node.drain().await;
    }
    for node in [describe("scram_sha_512", "guessed", &right), describe("plain", "secret", &wrong)] {
        let node = node.start().await;
        eventually("it tries", async || node.metric("tidegate_feed_retries_total").await >= 2.0).await;
        assert_eq!(node.metric("tidegate_feed_connected").await, 0.0);
    }
}
