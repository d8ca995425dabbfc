//! Tests how the Redis broker behaves when Redis or the network fails.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use gateway_core::history::{HistoryPage, Retention};
use tidegate::broker::BrokerError;
use tidegate::broker::redis::RedisUrl;

use crate::harness::{ALL, Backend, KEPT, Node, Redis, channel, eventually, request};
use crate::relay::Relay;

/// How long after its timeout a call may return on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

fn impatient() -> Redis {
    let mut redis = Redis::new();
    redis.config.timeout_ms = 500;
    redis.config.ping_ms = 100;
    redis.config.reconnect_max_ms = 100;
    redis
}

async fn page(node: &Node, name: &str) -> HistoryPage {
    node.broker.history(channel(name), ALL, KEPT).await.expect("history")
}

/// Makes every call of a broker, and returns its name, its duration and its result.
async fn all_calls(node: &Node) -> Vec<(&'static str, Duration, Result<(), BrokerError>)> {
    let broker = &node.broker;
    let a = channel("a");
    let mut results = Vec::new();
    macro_rules! time {
        ($name:literal, $call:expr) => {
            let start = Instant::now();
            let result = $call.await.map(|_| ());
            results.push(($name, start.elapsed(), result));
        };
    }
    time!("publish", broker.publish(request(&a, "x")));
    let retention = Retention::default();
    time!(
        "publish without history",
        broker.publish(tidegate::broker::PublishRequest { retention, ..request(&a, "x") })
    );
    time!("subscribe", broker.subscribe(vec![channel("fresh")]));
    time!("history", broker.history(a.clone(), ALL, KEPT));
    time!("positions", broker.positions(vec![(a.clone(), KEPT)]));
    time!("remove_history", broker.remove_history(a.clone()));
    time!("send_control", broker.send_control(bytes::Bytes::from_static(b"x")));
    time!("canary", broker.canary());
    time!("announce", broker.announce("me", bytes::Bytes::new(), Duration::from_secs(1)));
    time!("nodes", broker.nodes());
    time!("retire", broker.retire("me"));
    time!("presence add", node.presence.add(a.clone(), crate::presence::info(1, "ann")).wait());
    time!("presence clients", node.presence.clients(a.clone()));
    time!("presence stats", node.presence.stats(a.clone()));
    results
}

pub async fn works(node: &Node) -> bool {
    all_calls(node).await.iter().all(|(_, _, result)| result.is_ok())
}

/// Redis channels that every node subscribes to: its canary, commands for all nodes, and messages for this node.
const OWN_CHANNELS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_begins_new_epochs() {
    let mut redis = impatient();
    let node = redis.node();
    let a = channel("a");
    node.subscribe(&a).await;
    for number in 1..=3 {
        node.publish(&a, number).await;
    }
    let before = page(&node, "a").await.top;
    redis.server.kill();
    eventually("calls fail", async || node.broker.publish(request(&a, "lost")).await.is_err()).await;
    redis.server.restart();
    eventually("the node is told for both links", async || node.heard.resumed() == 2).await;
    eventually("calls work", async || node.broker.canary().await.is_ok()).await;
    let after = page(&node, "a").await;
    assert_eq!((after.top.offset, after.publications.len()), (0, 0));
    assert_ne!(after.top.epoch, before.epoch);
    let position = node.publish(&a, "again").await.position.expect("a position");
    assert_eq!((position.offset, position.epoch), (1, after.top.epoch));
    eventually("it is heard", async || node.heard.texts(&a).last().is_some_and(|text| text == "again")).await;
    assert_eq!(node.metrics.subscriber_link.reconnects.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_with_old_data_begins_new_epochs_and_keeps_history() {
    let mut redis = impatient();
    let node = redis.node();
    let a = channel("a");
    node.publish(&a, "saved").await;
    redis.server.ask::<()>(&["SAVE"]);
    let lost = node.publish(&a, "lost").await.position.expect("a position");
    redis.server.restart();
    eventually("calls work", async || node.broker.canary().await.is_ok()).await;
    assert_eq!(node.history(&a, ALL).await, ["saved"]);
    let next = node.publish(&a, "next").await.position.expect("a position");
    assert_eq!(next.offset, lost.offset, "the offset is given again");
    assert_ne!(next.epoch, lost.epoch, "so it must not be in the same epoch");
    let page = page(&node, "a").await;
    assert!(
        page.publications
            .iter()
            .all(|publication| publication.position.is_some_and(|at| at.epoch == next.epoch))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_subscriber_link_is_made_again_with_everything_subscribed() {
    let redis = Redis::new();
    let node = redis.node();
    let channels: Vec<_> = (0..10_000).map(|number| channel(&format!("many:{number}"))).collect();
    node.broker.subscribe(channels.clone()).await.expect("subscribed");
    let before = page(&node, "many:1").await.top;
    let killed: i64 = redis.server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(killed, 1);
    // The node may or may not have subscribed again by now; in the second case it misses this publication.
    node.publish(&channels[1], "meanwhile").await;
    eventually("the node is told", async || node.heard.resumed() == 1).await;
    let subscribed: Vec<String> = redis.server.ask(&["PUBSUB", "CHANNELS"]);
    assert_eq!(subscribed.len(), channels.len() + OWN_CHANNELS);
    let after = page(&node, "many:1").await;
    assert_eq!((after.top.offset, after.top.epoch), (1, before.epoch), "the stream goes on");
    for channel in [&channels[0], &channels[9_999]] {
        node.publish(channel, "now").await;
        eventually("it is heard", async || node.heard.texts(channel) == ["now"]).await;
    }
    assert_eq!(node.metrics.subscribed_channels.get(), 10_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_command_link_is_made_again_and_loses_no_publication() {
    let redis = impatient();
    let node = redis.node();
    let a = channel("a");
    node.subscribe(&a).await;
    node.publish(&a, "before").await;
    redis.server.ask::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("calls work", async || node.broker.publish(request(&a, "after")).await.is_ok()).await;
    eventually("both are heard", async || node.heard.texts(&a) == ["before", "after"]).await;
    assert_eq!(node.metrics.command_link.reconnects.get(), 1);
    assert_eq!(node.heard.resumed(), 1, "it may be another Redis");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_to_a_frozen_redis_ends_by_its_deadline() {
    let redis = impatient();
    let node = redis.node();
    assert!(works(&node).await);
    redis.server.freeze();
    let start = Instant::now();
    // Long enough that the node notices the loss and then makes attempts to connect, which hang too.
    while start.elapsed() < Duration::from_secs(4) {
        for (name, took, result) in all_calls(&node).await {
            assert!(took < Duration::from_millis(redis.config.timeout_ms) + SLACK, "{name} took {took:?}");
            assert!(result.is_err(), "{name} worked");
        }
    }
    let leaving = Instant::now();
    node.presence.remove(channel("a"), crate::presence::info(1, "ann").client);
    assert!(leaving.elapsed() < Duration::from_millis(100), "to leave is not to wait");
    assert!(node.metrics.unanswered.get() > 0);
    redis.server.thaw();
    eventually("everything works", async || works(&node).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_to_a_paused_redis_ends_by_its_deadline() {
    let redis = impatient();
    let node = redis.node();
    assert!(works(&node).await);
    redis.server.ask::<()>(&["CLIENT", "PAUSE", "1500", "ALL"]);
    for (name, took, _) in all_calls(&node).await {
        assert!(took < Duration::from_millis(redis.config.timeout_ms) + SLACK, "{name} took {took:?}");
    }
    eventually("everything works", async || works(&node).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_calls_fail_at_once_and_work_when_it_comes() {
    let mut redis = impatient();
    redis.server.kill();
    let node = redis.node();
    eventually("the first attempt has failed", async || node.broker.nodes().await.is_err()).await;
    let start = Instant::now();
    for _ in 0..100 {
        let error = node.broker.publish(request(&channel("a"), "x")).await.expect_err("no Redis");
        assert!(matches!(&error, BrokerError::Unreachable(reason) if reason.contains("refused")), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(2), "failing is not waiting");
    redis.server.restart();
    eventually("everything works", async || works(&node).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_canary_dies_when_nothing_arrives_though_commands_work() {
    let redis = impatient();
    let node = redis.node();
    node.listens().await;
    redis.server.ask::<()>(&["ACL", "SETUSER", "default", "-subscribe"]);
    redis.server.ask::<()>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    eventually("the canary dies", async || node.broker.canary().await.is_err()).await;
    node.publish(&channel("a"), "commands work").await;
    assert!(node.broker.canary().await.is_err());
    redis.server.ask::<()>(&["ACL", "SETUSER", "default", "+subscribe"]);
    eventually("the canary lives", async || node.broker.canary().await.is_ok()).await;
    assert_eq!(node.heard.resumed(), 1);
}

async fn behind_relay(redis: &mut Redis) -> Relay {
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, redis.server.port()));
    let relay = Relay::start(target, b"SUBSCRIBE").await;
    redis.config.url = RedisUrl::new(format!("redis://127.0.0.1:{}", relay.port()));
    relay
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_canary_dies_on_a_subscriber_link_that_fell_silent() {
    let mut redis = impatient();
    redis.config.ping_ms = 60_000;
    let relay = behind_relay(&mut redis).await;
    let node = redis.node();
    node.listens().await;
    relay.silence();
    let died = node.broker.canary().await;
    assert!(matches!(died, Err(BrokerError::Unanswered(_))), "{died:?}");
    node.publish(&channel("a"), "commands work").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_link_that_fell_silent_is_noticed_and_made_again() {
    let mut redis = impatient();
    let relay = behind_relay(&mut redis).await;
    let node = redis.node();
    let a = channel("a");
    node.subscribe(&a).await;
    relay.silence();
    eventually("the node is told", async || node.heard.resumed() == 1).await;
    node.publish(&a, "x").await;
    eventually("it is heard", async || node.heard.texts(&a) == ["x"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_whose_caller_gave_up_does_not_stay() {
    let redis = Redis::new();
    let node = redis.node();
    for number in 0..100 {
        let subscribing = node.broker.subscribe(vec![channel(&format!("c{number}"))]);
        if number % 2 == 0 {
            // Half of the calls are dropped before they start, the others perhaps when the command is on its way.
            drop(subscribing);
        } else {
            let _ = tokio::time::timeout(Duration::from_micros(number * 20), subscribing).await;
        }
    }
    node.subscribe(&channel("kept")).await;
    eventually("only what was waited for stays", async || {
        let subscribed: Vec<String> = redis.server.ask(&["PUBSUB", "CHANNELS"]);
        let answered = node.metrics.subscribed_channels.get();
        subscribed.len() as u64 == answered + OWN_CHANNELS as u64
            && subscribed.contains(&"tidegate:pub:{kept}".to_owned())
    })
    .await;
    let even: Vec<String> = redis.server.ask(&["PUBSUB", "CHANNELS", "tidegate:pub:*[02468]}"]);
    assert_eq!(even, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_redis_has_forgotten_are_sent_again() {
    let redis = Redis::new();
    let node = redis.node();
    assert!(works(&node).await);
    redis.server.ask::<()>(&["SCRIPT", "FLUSH"]);
    assert!(works(&node).await);
    redis.server.ask::<()>(&["SCRIPT", "FLUSH"]);
    let asked = (0..10).map(|number| (channel(&format!("c{number}")), KEPT)).collect();
    assert_eq!(node.broker.positions(asked).await.expect("positions").len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_that_find_their_script_forgotten_keep_their_order() {
    let mut redis = Redis::new();
    redis.config.timeout_ms = 30_000;
    let node = redis.node();
    let a = channel("a");
    node.subscribe(&a).await;
    node.publish(&a, "first").await;
    redis.server.ask::<()>(&["SCRIPT", "FLUSH"]);
    let answers: Vec<_> = (0..2_000).map(|number| node.broker.publish(request(&a, number))).collect();
    for answer in answers {
        answer.await.expect("published");
    }
    eventually("all are heard", async || node.heard.in_channel(&a).len() == 2_001).await;
    let all: Vec<String> = (0..2_000).map(|number| number.to_string()).collect();
    assert_eq!(node.heard.texts(&a)[1..], all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_that_find_no_room_wait_for_it() {
    let mut redis = Redis::new();
    redis.config.timeout_ms = 30_000;
    let node = redis.node();
    let a = channel("a");
    // More than the 64 MiB that may be in flight at once.
    let text = "x".repeat(100 << 10);
    let answers: Vec<_> = (0..800).map(|_| node.broker.publish(request(&a, &text))).collect();
    let mut offsets = Vec::new();
    for answer in futures_util::future::join_all(answers).await {
        offsets.push(answer.expect("published").position.expect("a position").offset);
    }
    let first_wrong = offsets.iter().zip(1..).position(|(offset, expected)| *offset != expected);
    assert_eq!(first_wrong, None, "{:?}", &offsets[first_wrong.unwrap_or_default().saturating_sub(5)..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_publication_are_counted_and_harm_nothing() {
    let redis = Redis::new();
    let node = redis.node();
    let a = channel("a");
    node.subscribe(&a).await;
    for message in ["", ":", "garbage", "1:abc:", "1:abc:\u{9}\u{9}"] {
        let heard_by: i64 = redis.server.ask(&["PUBLISH", "tidegate:pub:{a}", message]);
        assert_eq!(heard_by, 1);
    }
    node.publish(&a, "x").await;
    eventually("it is heard", async || node.heard.texts(&a) == ["x"]).await;
    assert_eq!(node.metrics.undecodable.get(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_without_telling_it_and_a_right_one_works() {
    let mut redis = impatient();
    redis.server.ask::<()>(&["ACL", "SETUSER", "gate", "on", ">open sesame", "~*", "&*", "+@all"]);
    redis.server.ask::<()>(&["CONFIG", "SET", "requirepass", "someone else's"]);
    let port = redis.server.port();
    redis.config.url = RedisUrl::new(format!("redis://gate:wr0ng@127.0.0.1:{port}"));
    let shut_out = redis.node();
    let error = shut_out.broker.canary().await.expect_err("a wrong password");
    assert!(error.to_string().to_lowercase().contains("password"), "{error}");
    assert!(!format!("{error}{error:?}{shut_out:?}").contains("wr0ng"));

    redis.config.url = RedisUrl::new(format!("redis://gate:open%20sesame@127.0.0.1:{port}/2"));
    let node = redis.node();
    eventually("everything works", async || works(&node).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_named_for_whoever_looks_at_redis() {
    let redis = Redis::new();
    let node = redis.node();
    node.listens().await;
    let list: String = redis.server.ask(&["CLIENT", "LIST"]);
    for name in ["commands", "reads", "subscriptions"].map(|name| format!("name=tidegate:node-0:{name}")) {
        assert!(list.contains(&name), "{list}");
    }
    drop(node);
    let gone = async || !redis.server.ask::<String>(&["CLIENT", "LIST"]).contains("name=tidegate");
    eventually("a node that is gone has no connections", gone).await;
}
