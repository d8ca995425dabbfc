//! Tests that the epoch which a node remembers of a channel saves work in Redis, but is never trusted.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use shared::channel::Channel;
use shared::position::StreamPosition;

use crate::harness::{ALL, Backend, KEPT, Node, Redis, channel, eventually, request};

/// Publishes all at once, so that they leave in few calls, and returns the positions in the order of the calls.
async fn burst(node: &Node, channels: &[Channel], count: usize) -> Vec<StreamPosition> {
    let call = |number: usize| node.broker.publish(request(&channels[number % channels.len()], number));
    let answers: Vec<_> = (0..count).map(call).collect();
    let published = join_all(answers).await;
    published.into_iter().map(|made| made.expect("published").position.expect("a position")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_knows_an_epoch_finds_out_that_it_is_over() {
    let redis = Redis::new();
    let (node, other) = (redis.node(), redis.node());
    let a = channel("a");
    let position = async |node: &Node, text| node.publish(&a, text).await.position.expect("a position");
    let first = position(&node, "1").await;
    assert_eq!(position(&node, "2").await, StreamPosition { offset: 2, ..first });

    let left = other.broker.leave_epoch(a.clone(), first.epoch).await.expect("left");
    assert_eq!(position(&node, "3").await, StreamPosition { offset: 3, ..left }, "left by another node");

    let key = "tidegate:position:{a}";
    redis.server.ask::<()>(&["DEL", key]);
    let anew = position(&node, "4").await;
    assert_eq!((anew.offset, anew.epoch == left.epoch), (1, false), "its position was evicted");
    assert_eq!(node.history(&a, ALL).await, ["4"]);

    redis.server.ask::<()>(&["DEL", key]);
    let others = position(&other, "5").await;
    assert_eq!(
        position(&node, "6").await,
        StreamPosition { offset: 2, ..others },
        "begun anew by another node"
    );
    let fields: Vec<String> = redis.server.ask(&["HKEYS", key]);
    assert_eq!(fields.len(), 4, "nothing is left of what was tried: {fields:?}");

    redis.server.ask::<()>(&["DEL", "tidegate:stream:{a}"]);
    assert_eq!(position(&node, "7").await, StreamPosition { offset: 3, ..others }, "its stream was evicted");
    let ttl: i64 = redis.server.ask(&["PTTL", "tidegate:stream:{a}"]);
    assert!((1..=KEPT.ttl.as_millis() as i64 * 2).contains(&ttl), "the next one has its time: {ttl}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_leave_together_each_has_its_place_though_some_epochs_are_over() {
    let redis = Redis::new();
    let (node, other) = (redis.node(), redis.node());
    let channels: Vec<_> = ["a", "b", "c", "d"].into_iter().map(channel).collect();
    for channel in &channels {
        other.subscribe(channel).await;
    }
    let before = burst(&node, &channels, 40).await;
    for (channel, position) in channels.iter().zip(&before).step_by(2) {
        other.broker.leave_epoch(channel.clone(), position.epoch).await.expect("left");
    }
    let after = burst(&node, &channels, 200).await;
    for (number, channel) in channels.iter().enumerate() {
        let of_channel =
            |all: &[StreamPosition]| -> Vec<_> { all.iter().skip(number).step_by(4).copied().collect() };
        let (before, after) = (of_channel(&before), of_channel(&after));
        let offsets: Vec<_> = before.iter().chain(&after).map(|position| position.offset).collect();
        assert_eq!(offsets, (1..=60).collect::<Vec<_>>(), "{channel}");
        let epochs: BTreeSet<_> = after.iter().map(|position| position.epoch.as_str().to_owned()).collect();
        assert_eq!(epochs.len(), 1, "{channel}");
        assert_eq!(epochs.contains(before[0].epoch.as_str()), number % 2 == 1, "{channel} left its epoch");
        eventually("all are heard", async || other.heard.in_channel(channel).len() == 60).await;
        let heard: Vec<_> =
            other.heard.in_channel(channel).iter().filter_map(|heard| heard.position).collect();
        assert_eq!(heard, [before, after].concat(), "{channel}");
        let texts = (0..40).chain(0..200).filter(|text| text % 4 == number);
        assert_eq!(other.heard.texts(channel), texts.map(|text| text.to_string()).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_leave_together_only_those_that_are_refused_fail() {
    let redis = Redis::new();
    let node = redis.node();
    let channels = [channel("good"), channel("bad")];
    burst(&node, &channels, 10).await;
    redis.server.ask::<()>(&["SET", "tidegate:stream:{bad}", "a string"]);
    let calls = (0..60).map(|number| node.broker.publish(request(&channels[number % 2], number)));
    let calls: Vec<_> = calls.collect();
    let made = join_all(calls).await;
    let of = |first: usize| made.iter().skip(first).step_by(2);
    let offsets: Vec<_> = of(0).filter_map(|made| Some(made.as_ref().ok()?.position?.offset)).collect();
    assert_eq!(offsets, (6..=35).collect::<Vec<_>>());
    assert!(of(1).next().is_some_and(Result::is_err), "the key is of another kind");
    assert!(of(1).skip(1).all(Result::is_ok), "and was taken away, so that what follows begins anew");
    assert_eq!(node.history(&channels[1], ALL).await.len(), 29);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_is_none_is_given_up_by_the_first_who_publishes() {
    let redis = Redis::new();
    let (node, a, key) = (redis.node(), channel("a"), "tidegate:position:{a}");
    let refused = async || node.broker.publish(request(&a, "refused")).await.is_err();
    let offset = async || node.publish(&a, "taken").await.position.expect("a position").offset;
    assert_eq!((offset().await, offset().await), (1, 2));
    redis.server.ask::<()>(&["SET", key, "no hash"]);
    assert_eq!((refused().await, offset().await, offset().await), (true, 1, 2));
    let fields: Vec<String> = redis.server.ask(&["HKEYS", key]);
    let counter =
        fields.iter().find(|field| !["epoch", "in_life", "renew"].contains(&&***field)).expect("it counts");
    redis.server.ask::<()>(&["HSET", key, counter, "no number"]);
    assert_eq!((refused().await, offset().await), (true, 1));
}
