//! Tests that channels that keep state by key over NATS survive faults: streams that are lost or go back, messages that are
//! missing, and servers that are away.

use std::net::Ipv4Addr;
use std::time::Duration;

use gateway_core::map::Suppressed;
use shared::channel::Channel;
use shared::position::StreamPosition;
use tidegate::broker::nats::{NatsConfig, NatsUrl};
use tidegate::broker::{BrokerError, ChangeRequest, Idempotency};

use crate::harness::{Backend, Nats, Node, channel, eventually};
use crate::keys::{STAYING, all, change, read, remove, set};
use crate::nats_maps::{EXPIRING, log_of, long, top, try_change, values};
use crate::nats_server::{NatsServer, recent_program};
use crate::relay::Relay;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_cleared_begins_anew_for_nodes_that_know_it_and_its_idempotency_keys_stay_used() {
    let nats = Nats::new();
    let a = channel("a");
    let [node, other] = nats.listening().await;
    let idempotency = Some(Idempotency { key: "once".into(), ttl: Duration::from_secs(60) });
    let once = ChangeRequest { channel: a.clone(), change: set("k", "1"), keeping: STAYING, idempotency };
    let first = node.broker.change_key(once.clone()).await.expect("changed");
    assert_eq!(read(&other, &a, all(10), STAYING).await.entries.len(), 1);
    node.broker.clear_state(a.clone()).await.expect("cleared");
    let after = change(&other, &a, set("l", "2"), STAYING).await.position.expect("a position");
    assert_eq!((after.offset, Some(after.epoch) == first.position.map(|before| before.epoch)), (1, false));
    assert_eq!(values(&read(&node, &a, all(10), STAYING).await), ["l=2@1"]);
    let again = other.broker.change_key(once).await.expect("known");
    assert_eq!((again.suppressed, again.position), (Some(Suppressed::Idempotency), first.position));
    assert_eq!(node.broker.count_keys(a.clone()).await.expect("counted"), 1);
    let left = node.broker.leave_epoch(a.clone(), after.epoch).await.expect("left");
    assert_eq!((left.offset, left.epoch == after.epoch), (1, false));
    let page = read(&other, &a, all(10), STAYING).await;
    assert_eq!((page.top, page.entries[0].position), (Some(left), Some(left)));
    assert_eq!(other.broker.leave_epoch(a, after.epoch).await.expect("left"), left);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_lost_begins_its_channels_anew_without_keys() {
    let nats = Nats::new();
    let a = channel("a");
    let [one, other] = nats.listening().await;
    let before = change(&one, &a, set("k", "1"), STAYING).await.position.expect("a position");
    change(&other, &a, set("l", "2"), STAYING).await;
    nats.server.ask("$JS.API.STREAM.DELETE.tidegate_keys_staying", "");
    // The other node does not know yet, and writes with its old state.
    let after = change(&one, &a, set("m", "3"), STAYING).await.position.expect("a position");
    assert_eq!((after.offset, after.epoch == before.epoch), (1, false));
    let next = change(&other, &a, set("n", "4"), STAYING).await.position.expect("a position");
    assert_eq!((next.epoch, next.offset), (after.epoch, 2));
    assert_eq!(values(&read(&other, &a, all(10), STAYING).await), ["m=3@1", "n=4@2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_put_back_gives_back_the_keys_it_had_in_epochs_that_are_new() {
    let mut nats = Nats::new();
    let node = nats.node();
    node.listens().await;
    let (a, quiet, large) = (channel("a"), channel("quiet"), channel("large"));
    let first = change(&node, &a, set("k", "1"), STAYING).await.position.expect("a position");
    let in_quiet = change(&node, &quiet, set("q", "1"), STAYING).await.position.expect("a position");
    for number in 0..40 {
        // So much that the snapshot is in parts.
        change(&node, &large, set(&format!("k{number:02}"), &long("", 20_000)), STAYING).await;
    }
    eventually("it is written down", async || log_of(&nats, "tidegate_keys_staying", "large").1 < 30).await;
    let copy = tempfile::tempdir().expect("a directory");
    nats.server.copy_while_down(copy.path());
    node.listens().await;
    for number in 2..=4 {
        eventually("it is changed", async || {
            try_change(&node, &a, set("k", &number.to_string())).await.is_ok()
        })
        .await;
    }
    eventually("it is changed", async || try_change(&node, &large, remove("k00")).await.is_ok()).await;
    nats.server.restart_from(copy.path());
    node.listens().await;
    let mut pages = Vec::new();
    for channel in [&a, &quiet, &large] {
        let mut page = None;
        eventually("it is read", async || {
            page = node.broker.read_state(channel.clone(), all(100), STAYING).await.ok();
            page.is_some()
        })
        .await;
        pages.push(page.expect("a page"));
    }
    assert_eq!(values(&pages[0]), ["k=1@1"]);
    assert_ne!(pages[0].top.map(|top| top.epoch), Some(first.epoch), "the offsets 2 and 3 were given out");
    assert_eq!((values(&pages[1]), pages[2].entries.len()), (vec!["q=1@1".to_owned()], 40));
    assert_ne!(pages[1].top.map(|top| top.epoch), Some(in_quiet.epoch));
    let other = nats.node();
    other.listens().await;
    let next = change(&other, &a, set("l", "2"), STAYING).await.position.expect("a position");
    assert_eq!((Some(next.epoch), next.offset), (pages[0].top.map(|top| top.epoch), 2));
    assert_eq!(values(&read(&node, &a, all(10), STAYING).await), ["k=1@1", "l=2@2"]);
}

/// Deletes the first (`next`) or the last message of a log.
fn delete(nats: &Nats, subject: &str, which: &str) {
    let asked = format!("{{\"{which}_by_subj\":\"{subject}\",\"seq\":1}}");
    let asked = if which == "last" { format!("{{\"last_by_subj\":\"{subject}\"}}") } else { asked };
    let found = nats.server.ask("$JS.API.STREAM.MSG.GET.tidegate_keys_staying", &asked);
    let sequence = found.split("\"seq\":").nth(1).and_then(|rest| rest.split(',').next()).expect("one");
    let asked = format!("{{\"seq\":{sequence}}}");
    nats.server.ask("$JS.API.STREAM.MSG.DELETE.tidegate_keys_staying", &asked);
}

/// Sets three keys and deletes the last message of the channel's log. Returns where the channel stood before.
async fn three_keys_of_which_the_last_is_lost(nats: &Nats, node: &Node, a: &Channel) -> StreamPosition {
    for number in 1..=3 {
        change(node, a, set(&format!("k{number}"), "1"), STAYING).await;
    }
    let before = top(node, a, STAYING).await;
    delete(nats, &log_of(nats, "tidegate_keys_staying", "a").0, "last");
    before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_whose_log_has_lost_changes_is_left_although_the_first_attempt_fails() {
    // A server before 2.10 names no last message of a subject whose last one was deleted.
    let server = NatsServer::start_of(&recent_program());
    let relay = Relay::start((Ipv4Addr::LOCALHOST, server.port()).into(), b":commands\"").await;
    let url = NatsUrl::new(format!("nats://127.0.0.1:{}", relay.port()));
    let config = NatsConfig { url, timeout_ms: 500, ping_ms: 200, ..NatsConfig::default() };
    let nats = Nats::of(server, config);
    let node = nats.node();
    let a = channel("a");
    node.listens().await;
    let before = three_keys_of_which_the_last_is_lost(&nats, &node, &a).await;
    // Nothing can be written, although everything can be read.
    relay.silence();
    let read_now = async || node.broker.read_state(a.clone(), all(10), STAYING).await;
    let failed = read_now().await;
    assert!(failed.is_err(), "{failed:?}");
    let mut page = None;
    eventually("it is read", async || {
        page = read_now().await.ok();
        page.is_some()
    })
    .await;
    let page = page.expect("a page");
    assert_eq!(values(&page), ["k1=1@1", "k2=1@2"]);
    let left = page.top.expect("a position");
    assert!(left.epoch != before.epoch, "{left:?} after {before:?}");
    let next = change(&node, &a, set("k4", "1"), STAYING).await.position.expect("a position");
    assert_eq!((next.epoch, next.offset), (left.epoch, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_in_which_others_went_on_after_changes_were_lost_is_left() {
    let server = NatsServer::start_of(&recent_program());
    let url = NatsUrl::new(server.url());
    let nats = Nats::of(server, NatsConfig { url, ..NatsConfig::default() });
    let node = nats.node();
    let a = channel("a");
    node.listens().await;
    let before = three_keys_of_which_the_last_is_lost(&nats, &node, &a).await;
    let fresh = nats.node();
    fresh.listens().await;
    let again = change(&fresh, &a, set("k4", "1"), STAYING).await.position.expect("a position");
    assert_eq!(again, before, "a node that does not know it cannot do better");
    let page = read(&node, &a, all(10), STAYING).await;
    let left = page.top.expect("a position");
    assert!(left.epoch != before.epoch, "{left:?} after {before:?}");
    assert_eq!(values(&page), ["k1=1@1", "k2=1@2", "k4=1@3"]);
    let next = change(&fresh, &a, set("k5", "1"), STAYING).await.position.expect("a position");
    assert_eq!((next.epoch, next.offset), (left.epoch, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_taken_away_ends_the_epoch_wherever_it_stood() {
    let nats = Nats::new();
    let (a, b) = (channel("a"), channel("b"));
    let [node, other] = nats.listening().await;
    for channel in [&a, &b] {
        for number in 1..=3 {
            change(&node, channel, set(&format!("k{number}"), "1"), STAYING).await;
        }
    }
    let before = top(&node, &a, STAYING).await;
    delete(&nats, &log_of(&nats, "tidegate_keys_staying", "a").0, "last");
    let next = change(&node, &a, set("k4", "1"), STAYING).await.position.expect("a position");
    assert!(next.epoch != before.epoch, "{next:?} after {before:?}");
    assert_eq!(values(&read(&other, &a, all(10), STAYING).await), ["k1=1@1", "k2=1@2", "k4=1@3"]);
    // The first message of a log is the snapshot that the later ones build on.
    let before = top(&node, &b, STAYING).await;
    delete(&nats, &log_of(&nats, "tidegate_keys_staying", "b").0, "next");
    let fresh = nats.node();
    fresh.listens().await;
    let page = read(&fresh, &b, all(10), STAYING).await;
    assert_eq!(page.entries, []);
    assert_ne!(page.top.map(|top| top.epoch), Some(before.epoch));
    let next = change(&node, &b, set("k5", "1"), STAYING).await.position.expect("a position");
    assert_eq!((Some(next.epoch), next.offset), (page.top.map(|top| top.epoch), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_missing_within_a_log_ends_the_epoch_and_the_other_keys_stay() {
    let nats = Nats::new();
    let [node, writer] = nats.listening().await;
    let a = channel("a");
    let mut before = None;
    for number in 1..=3 {
        before = change(&writer, &a, set(&format!("k{number}"), "1"), STAYING).await.position;
        if number == 1 {
            assert_eq!(values(&read(&node, &a, all(10), STAYING).await), ["k1=1@1"]);
        }
    }
    // The log begins with a base, which has the sequence 1.
    nats.server.ask("$JS.API.STREAM.MSG.DELETE.tidegate_keys_staying", "{\"seq\":3}");
    let page = read(&node, &a, all(10), STAYING).await;
    assert_eq!(values(&page), ["k1=1@1", "k3=1@3"]);
    assert_ne!(page.top.map(|top| top.epoch), before.map(|before| before.epoch));
    let fresh = nats.node();
    fresh.listens().await;
    for node in [&writer, &fresh] {
        assert_eq!(read(node, &a, all(10), STAYING).await, page);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_a_log_that_could_not_be_made_short_are_deleted() {
    let nats = Nats::new();
    let node = nats.node();
    let a = channel("a");
    node.listens().await;
    change(&node, &a, set("k", "1"), STAYING).await;
    let stream = |what: &str, payload: &str| {
        nats.server.ask(&format!("$JS.API.STREAM.{what}.tidegate_keys_staying"), payload)
    };
    let allow = |allowed: bool| {
        let info: serde_json::Value = serde_json::from_str(&stream("INFO", "")).expect("JSON");
        let mut config = info["config"].clone();
        config["allow_rollup_hdrs"] = allowed.into();
        let updated = stream("UPDATE", &config.to_string());
        assert!(!updated.contains("\"error\""), "{updated}");
    };
    let last = || -> u64 {
        let info: serde_json::Value = serde_json::from_str(&stream("INFO", "")).expect("JSON");
        info["state"]["last_seq"].as_u64().expect("a sequence")
    };
    let parts = || stream("INFO", "{\"subjects_filter\":\"tidegate.ksp.>\"}").contains("\"tidegate.ksp.a.");
    // A base takes the place of the log, and is refused now.
    allow(false);
    let mut sets = 0;
    eventually("parts are written", async || {
        sets += 1;
        change(&node, &a, set(&format!("k{}", sets % 20), &long("x", 50_000)), STAYING).await;
        last() > log_of(&nats, "tidegate_keys_staying", "a").1
    })
    .await;
    eventually("they are deleted", async || !parts()).await;
    assert!(log_of(&nats, "tidegate_keys_staying", "a").1 > sets);
    allow(true);
    eventually("its log is short", async || {
        change(&node, &a, set("k1", &long("x", 50_000)), STAYING).await;
        log_of(&nats, "tidegate_keys_staying", "a").1 < 5
    })
    .await;
    let fresh = nats.node();
    fresh.listens().await;
    assert_eq!(
        values(&read(&fresh, &a, all(100), STAYING).await),
        values(&read(&node, &a, all(100), STAYING).await)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_server_refuses_changes_and_reads_and_heals_by_itself() {
    let mut nats = Nats::new();
    nats.server.kill();
    let node = nats.node();
    let a = channel("a");
    assert!(matches!(try_change(&node, &a, set("k", "1")).await, Err(BrokerError::Unreachable(_))));
    let page = node.broker.read_state(a.clone(), all(10), STAYING).await;
    assert!(matches!(page, Err(BrokerError::Unreachable(_))));
    assert!(matches!(node.broker.clear_state(a.clone()).await, Err(BrokerError::Unreachable(_))));
    nats.server.restart();
    node.listens().await;
    change(&node, &a, set("k", "2"), STAYING).await;
    assert_eq!(values(&read(&node, &a, all(10), STAYING).await), ["k=2@1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maps_work_over_the_newest_server_too() {
    let server = NatsServer::start_of(&recent_program());
    let url = NatsUrl::new(server.url());
    let nats = Nats::of(server, NatsConfig { url, ..NatsConfig::default() });
    let a = channel("a");
    let [node, other] = nats.following(&a).await;
    for number in 0..300 {
        let node = if number % 2 == 0 { &node } else { &other };
        change(node, &a, set(&format!("k{}", number % 7), &long(&number.to_string(), 2_000)), EXPIRING).await;
    }
    let page = read(&other, &a, all(10), EXPIRING).await;
    assert_eq!((page.entries.len(), page.top.expect("a position").offset), (7, 300));
    eventually("all is heard", async || node.heard.in_channel(&a).len() == 300).await;
    nats.server.ask("$JS.API.STREAM.DELETE.tidegate_keys_expiring", "");
    let after = change(&node, &a, set("k", "1"), EXPIRING).await.position.expect("a position");
    assert_eq!(after.offset, 1);
}
