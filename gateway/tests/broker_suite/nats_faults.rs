//! Tests faults that only NATS has: servers that are away or hang, streams that are lost or go back, and reserved keys that were
//! never used.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use gateway_core::history::HistoryFilter;
use tidegate::broker::nats::{NatsConfig, NatsUrl};
use tidegate::broker::{BrokerError, Idempotency, PublishRequest};
use tidegate::secret::Secret;

use crate::harness::{ALL, Backend, KEPT, NOT_KEPT, Nats, Node, PATIENCE, channel, eventually, request};
use crate::nats_kills::publish_for_sure;
use crate::presence::info;
use crate::relay::Relay;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_server_says_so_at_once_and_heals_by_itself() {
    let mut nats = Nats::new();
    nats.server.kill();
    let node = nats.node();
    let a = channel("a");
    assert!(matches!(node.broker.publish(request(&a, 1)).await, Err(BrokerError::Unreachable(_))));
    let passing = PublishRequest { retention: NOT_KEPT, ..request(&a, 1) };
    assert!(matches!(node.broker.publish(passing).await, Err(BrokerError::Unreachable(_))));
    assert!(matches!(node.broker.subscribe(vec![a.clone()]).await, Err(BrokerError::Unreachable(_))));
    assert!(matches!(node.broker.history(a.clone(), ALL, KEPT).await, Err(BrokerError::Unreachable(_))));
    assert!(matches!(node.broker.canary().await, Err(BrokerError::Unreachable(_))));
    assert_eq!(node.metrics.subscribed_channels.get(), 0);
    nats.server.restart();
    node.listens().await;
    node.subscribe(&a).await;
    node.publish(&a, "x").await;
    eventually("it is heard", async || node.heard.texts(&a) == ["x"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_waited_for_no_longer_than_a_call_may_take() {
    let mut nats = Nats::new();
    nats.config.timeout_ms = 300;
    let node = nats.node();
    node.listens().await;
    let a = channel("a");
    node.publish(&a, 1).await;
    nats.server.freeze();
    let began = std::time::Instant::now();
    // Not all threads of the server stop at once.
    let mut outcome = node.broker.publish(request(&a, 2)).await;
    while outcome.is_ok() && began.elapsed() < PATIENCE {
        outcome = node.broker.publish(request(&a, 2)).await;
    }
    assert!(outcome.expect_err("it hangs").is_outcome_unknown());
    assert!(node.broker.history(a.clone(), ALL, KEPT).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    nats.server.thaw();
    node.listens().await;
    eventually("it goes on", async || node.broker.publish(request(&a, 3)).await.is_ok()).await;
    let all = node.history(&a, ALL).await;
    assert!(all.first().is_some_and(|first| first == "1") && all.last().is_some_and(|last| last == "3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_lost_begins_new_epochs_for_all_nodes() {
    let nats = Nats::new();
    let (one, other) = (nats.node(), nats.node());
    for node in [&one, &other] {
        node.listens().await;
    }
    let a = channel("a");
    let before = one.publish(&a, 1).await.position.expect("a position");
    assert_eq!(other.publish(&a, 2).await.position.expect("a position").offset, 2);
    nats.server.ask("$JS.API.STREAM.DELETE.tidegate_history_256", "");
    // The other node does not know yet, and publishes with its old state.
    let after = one.publish(&a, 3).await.position.expect("a position");
    assert_ne!(after.epoch, before.epoch);
    let next = other.publish(&a, 4).await.position.expect("a position");
    assert_eq!((next.epoch, next.offset), (after.epoch, 2));
    assert_eq!(other.history(&a, ALL).await, ["3", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_put_back_ends_the_epochs_that_it_would_repeat() {
    let mut nats = Nats::new();
    let node = nats.node();
    node.listens().await;
    let (a, quiet) = (channel("a"), channel("quiet"));
    let first = node.publish(&a, 1).await.position.expect("a position");
    let in_quiet = node.publish(&quiet, 1).await.position.expect("a position");
    let copy = tempfile::tempdir().expect("a directory");
    nats.server.copy_while_down(copy.path());
    node.listens().await;
    for text in ["2", "3"] {
        publish_for_sure(&node, &a, text).await;
    }
    nats.server.restart_from(copy.path());
    node.listens().await;
    let after = publish_for_sure(&node, &a, "4").await;
    assert_ne!(after.epoch, first.epoch, "the offsets 2 and 3 were given out");
    assert_ne!(publish_for_sure(&node, &quiet, "2").await.epoch, in_quiet.epoch);
    assert_eq!(node.history(&a, ALL).await, ["4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_read_is_no_reason_to_believe_that_a_channel_went_back() {
    let nats = Nats::new();
    let relay = Relay::start((Ipv4Addr::LOCALHOST, nats.server.port()).into(), b":reads\"").await;
    let url = NatsUrl::new(format!("nats://127.0.0.1:{}", relay.port()));
    // No ping may come between the answers.
    let config = NatsConfig { url, timeout_ms: 20_000, ping_ms: 60_000, ..nats.config.clone() };
    let node = Arc::new(nats.node_with(&config));
    node.listens().await;
    let a = channel("a");
    let first = node.publish(&a, 1).await.position.expect("a position");
    assert_eq!(node.history(&a, ALL).await, ["1"]);
    relay.keep_answers();
    let reads = {
        let (node, a) = (node.clone(), a.clone());
        tokio::spawn(async move { node.broker.history(a, ALL, KEPT).await })
    };
    // The server has answered with the channel's position, and the relay holds the answer back.
    eventually("the answer is on its way", async || relay.keeps(b"Nats-Sequence")).await;
    let second = node.publish(&a, 2).await.position.expect("a position");
    assert_eq!((second.epoch, second.offset), (first.epoch, 2));
    relay.release();
    let read = reads.await.expect("no panic").expect("it is read");
    assert_eq!((read.top.epoch, read.top.offset), (first.epoch, 1));
    assert_eq!(crate::harness::texts(&read.publications), ["1"]);
    assert_eq!(node.publish(&a, 3).await.position.expect("a position").epoch, first.epoch);
    assert_eq!(node.history(&a, ALL).await, ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_taken_away_at_the_end_ends_the_epoch() {
    let nats = Nats::new();
    let node = nats.node();
    node.listens().await;
    let a = channel("a");
    let mut last = None;
    for number in 1..=3 {
        last = node.publish(&a, number).await.position;
    }
    let info = nats.server.ask("$JS.API.STREAM.INFO.tidegate_history_256", "");
    let last_sequence =
        info.split("\"last_seq\":").nth(1).and_then(|rest| rest.split(',').next()).expect("one");
    nats.server
        .ask("$JS.API.STREAM.MSG.DELETE.tidegate_history_256", &format!("{{\"seq\":{last_sequence}}}"));
    let next = node.publish(&a, "4").await.position.expect("a position");
    let last = last.expect("a position");
    assert!(next.epoch != last.epoch || next.offset > last.offset, "{next:?} after {last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_somebody_reserved_and_never_used_is_used_by_who_comes_later() {
    let mut nats = Nats::new();
    nats.config.timeout_ms = 300;
    let node = nats.node();
    node.listens().await;
    let a = channel("a");
    let publish = async |key: &str| {
        let idempotency = Some(Idempotency { key: key.into(), ttl: Duration::from_secs(30) });
        node.broker.publish(PublishRequest { idempotency, ..request(&a, key) }).await
    };
    assert!(!publish("known").await.expect("published").duplicate);
    // Leaves the key as a node does that dies after reserving it, with the stream and the layout of this release.
    let subject = nats.server.ask("$JS.API.STREAM.INFO.tidegate_once_60", "{\"subjects_filter\":\">\"}");
    let known =
        subject.split('"').find(|word| word.starts_with("tidegate.o60.k.a.")).expect("the key").to_owned();
    nats.server.add(&known, &[], &[0xB3, 0xB0, 0xEA, 0x01]);
    // The key was used, as the history shows.
    eventually("it is found", async || publish("known").await.is_ok_and(|published| published.duplicate))
        .await;
    assert_eq!(node.history(&a, ALL).await, ["known"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_somebody_else_has_reserved_holds_up_nothing_but_its_own_publication() {
    let mut nats = Nats::new();
    nats.config.timeout_ms = 10_000;
    let node = nats.node();
    node.listens().await;
    let a = channel("a");
    let keyed = |key: &str| PublishRequest {
        idempotency: Some(Idempotency { key: key.into(), ttl: Duration::from_secs(30) }),
        ..request(&a, key)
    };
    node.broker.publish(keyed("known")).await.expect("published");
    let info = nats.server.ask("$JS.API.STREAM.INFO.tidegate_once_60", "{\"subjects_filter\":\">\"}");
    let known =
        info.split('"').find(|word| word.starts_with("tidegate.o60.k.a.")).expect("the key").to_owned();
    // Another node has just reserved the key again, and does nothing more.
    nats.server.add(&known, &[], &[0xB3, 0xB0, 0xEA, 0x01]);
    let (broker, waiting) = (node.broker.clone(), keyed("known"));
    let waits = tokio::spawn(async move { broker.publish(waiting).await });
    for number in 0..5 {
        node.broker.publish(keyed(&format!("other {number}"))).await.expect("published");
        node.publish(&a, number).await;
    }
    assert!(!waits.is_finished(), "nobody knows yet what came of it");
    waits.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_refused_where_servers_do_not_keep_to_conditions() {
    // The server of Debian 12 is 2.9.
    let nats = Nats::new();
    let node = nats.node_with(&NatsConfig { replicas: 3, ..nats.config.clone() });
    let a = channel("a");
    let mut told = String::new();
    eventually("it is connected", async || {
        told = node.broker.publish(request(&a, 1)).await.expect_err("refused").to_string();
        told.contains("nats-server")
    })
    .await;
    assert!(told.contains("nats.replicas") && told.contains("2.11"), "{told}");
    assert!(node.broker.canary().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_may_be_remembered_for_a_shorter_time_from_some_day_on() {
    let nats = Nats::new();
    let before = nats.node();
    before.listens().await;
    let a = channel("a");
    before.publish(&a, 1).await;
    let shorter = nats.node_with(&NatsConfig { position_ttl_s: 60, ..nats.config.clone() });
    shorter.listens().await;
    assert_eq!(shorter.publish(&a, 2).await.position.expect("a position").offset, 2);
    let info = nats.server.ask("$JS.API.STREAM.INFO.tidegate_history_256", "");
    assert!(info.contains("\"max_age\":60000000000"), "{info}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_not_clear_up_after_others_writes_its_presence_once() {
    // A whole stream can be read only with a consumer.
    let denied = "authorization { users: [\
        { user: operator, password: \"o\" }, \
        { user: node, password: \"n\", permissions: { publish: { allow: \">\", deny: \"$JS.API.CONSUMER.CREATE.tidegate_state\" } } }] }";
    let nats = Nats::with(denied, "\"user\":\"operator\",\"pass\":\"o\",");
    let url = NatsUrl::new(format!("nats://node:n@127.0.0.1:{}", nats.server.port()));
    let config = NatsConfig { url, timeout_ms: 200, presence_ttl_s: 2, ..nats.config.clone() };
    let node = nats.node_with(&config);
    node.listens().await;
    let a = channel("a");
    node.enter(&a, &info(1, "ann")).await;
    let written = || {
        let info = nats.server.ask("$JS.API.STREAM.INFO.tidegate_presence", "");
        let last = info.split("\"last_seq\":").nth(1).and_then(|rest| rest.split(',').next()).expect("one");
        last.parse::<u64>().expect("a number")
    };
    let (before, failures) = (written(), node.metrics.unanswered.get());
    eventually("it could not clear up for some times", async || {
        node.metrics.unanswered.get() >= failures + 3
    })
    .await;
    assert_eq!(written(), before, "nothing of it was lost");
    assert!(node.broker.canary().await.is_ok(), "it has its lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_history_is_read_from_any_place_forwards_and_backwards() {
    let nats = Nats::new();
    let node = nats.node();
    node.listens().await;
    let a = channel("a");
    let retention = gateway_core::history::Retention { size: 500, ..KEPT };
    // Some publications are alone in a message, some share one.
    for round in 0..60 {
        let publishing = (0..10).map(|number| {
            node.broker.publish(PublishRequest { retention, ..request(&a, round * 10 + number + 1) })
        });
        futures_util::future::try_join_all(publishing).await.expect("published");
        node.broker.publish(PublishRequest { retention, ..request(&a, "alone") }).await.expect("published");
    }
    let top = 660;
    for (since, limit, reverse) in [
        (None, 1000, false),
        (None, 3, false),
        (Some(0), 5, false),
        (Some(300), 7, false),
        (Some(655), 100, false),
        (Some(300), 7, true),
        (Some(170), 100, true),
        (None, 1000, true),
    ] {
        let filter = HistoryFilter { since, limit, reverse, enough_bytes: None };
        let page = node.broker.history(a.clone(), filter, retention).await.expect("history");
        let offsets: Vec<u64> = page.publications.iter().map(|publication| publication.offset()).collect();
        let all = 161..=top;
        let expected: Vec<u64> = if reverse {
            all.rev()
                .filter(|offset| since.is_none_or(|since| *offset < since))
                .take(limit as usize)
                .collect()
        } else {
            all.filter(|offset| since.is_none_or(|since| *offset > since)).take(limit as usize).collect()
        };
        assert_eq!(offsets, expected, "{filter:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_present_is_so_again_after_the_server_lost_it() {
    let mut nats = Nats::new();
    let (one, other) = (nats.node(), nats.node());
    for node in [&one, &other] {
        node.listens().await;
    }
    let a = channel("a");
    one.enter(&a, &info(1, "ann")).await;
    assert_eq!(other.counts(&a).await, (1, 1));
    // The server keeps presence in memory.
    nats.server.restart();
    let counts = async |node: &Node| {
        node.presence.stats(a.clone()).await.map(|stats| (stats.clients, stats.users)).unwrap_or_default()
    };
    eventually("ann is there again", async || counts(&other).await == (1, 1)).await;
    one.leave(&a, &info(1, "ann")).await;
    eventually("ann is gone", async || counts(&other).await == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_of_a_node_that_died_are_gone_after_its_lease() {
    let mut nats = Nats::new();
    nats.config.presence_ttl_s = 1;
    let (one, other) = (nats.node(), nats.node());
    for node in [&one, &other] {
        node.listens().await;
    }
    let a = channel("a");
    one.enter(&a, &info(1, "ann")).await;
    assert_eq!(other.counts(&a).await, (1, 1));
    drop(one);
    eventually("they are gone", async || other.counts(&a).await == (0, 0)).await;
    let left = || nats.server.ask("$JS.API.STREAM.INFO.tidegate_presence", "").contains("\"messages\":0");
    eventually("what it left is taken away", async || left()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_log_in_by_password_and_token_and_are_told_what_is_wrong() {
    for (settings, login, url, wrong) in [
        (
            "authorization { user: me, password: \"s3cret\" }",
            "\"user\":\"me\",\"pass\":\"s3cret\",",
            "nats://me:s3cret@",
            "nats://me:wr0ng@",
        ),
        (
            "authorization { token: \"s3cret\" }",
            "\"auth_token\":\"s3cret\",",
            "nats://s3cret@",
            "nats://wr0ng@",
        ),
    ] {
        let nats = Nats::with(settings, login);
        let at = |url: &str| NatsUrl::new(format!("{url}127.0.0.1:{}", nats.server.port()));
        let node = nats.node_with(&NatsConfig { url: at(url), ..nats.config.clone() });
        node.listens().await;
        assert!(!format!("{node:?}").contains("s3cret"));
        let stranger = nats.node_with(&NatsConfig { url: at(wrong), timeout_ms: 200, ..nats.config.clone() });
        let mut told = String::new();
        eventually("it is told why", async || {
            told = stranger.broker.canary().await.expect_err("refused").to_string();
            told.contains("authorization")
        })
        .await;
        assert!(!told.contains("wr0ng"), "{told}");
    }
    let nats = Nats::with("authorization { token: \"s3cret\" }", "\"auth_token\":\"s3cret\",");
    nats.node_with(&NatsConfig { token: Secret::new("s3cret"), ..nats.config.clone() }).listens().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_servers_another_one_will_do() {
    let nats = Nats::new();
    let gone = {
        let other = crate::nats_server::NatsServer::start();
        other.port()
    };
    let url = NatsUrl::new(format!("nats://127.0.0.1:{gone},{}", nats.server.url()));
    nats.node_with(&NatsConfig { url, ..nats.config.clone() }).listens().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn installations_with_prefixes_of_their_own_do_not_hear_each_other() {
    let nats = Nats::new();
    let other = NatsConfig { prefix: "other".into(), ..nats.config.clone() };
    let (one, other) = (nats.node(), nats.node_with(&other));
    let a = channel("a.b*>%20");
    for node in [&one, &other] {
        node.listens().await;
        node.subscribe(&a).await;
    }
    one.publish(&a, "one").await;
    other.publish(&a, "other").await;
    assert_eq!(one.broker.send_control("x".into()).await.expect("sent"), 1);
    eventually("each hears its own", async || {
        one.heard.texts(&a) == ["one"]
            && other.heard.texts(&a) == ["other"]
            && !one.heard.control().is_empty()
    })
    .await;
    assert!(other.heard.control().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_longer_than_the_server_takes_is_refused_in_words() {
    let nats = Nats::with("max_payload: 65536", "");
    let node = nats.node();
    node.listens().await;
    let a = channel("a");
    for retention in [KEPT, NOT_KEPT] {
        let request = PublishRequest { retention, ..request(&a, "x".repeat(70_000)) };
        let error = node.broker.publish(request).await.expect_err("too long");
        assert!(matches!(error, BrokerError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains("65536"), "{error}");
    }
    node.publish(&a, "x").await;
}
