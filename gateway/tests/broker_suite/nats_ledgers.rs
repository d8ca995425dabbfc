//! What becomes of a ledger in NATS when nodes and NATS die, when its log is long, and when that is lost or goes back.

use std::time::Duration;

use gateway_core::ledger::{LedgerChange, LedgerEvent, ReaderProgress};
use serde_json::Value;
use tidegate::broker::nats::{NatsConfig, NatsUrl};
use tidegate::ledger::HoldOutcome;

use crate::harness::{Backend, Nats, Node, eventually};
use crate::ledger::{LEASE, ROOM, hold, reading, release};
use crate::ledger_faults::{die_again_and_again, die_while_others_live, read_for_one_reader};
use crate::nats_server::NatsServer;

fn taken(subject: &str) -> LedgerEvent {
    LedgerEvent::Taken(subject.into())
}

/// How many messages each subject of ledgers has.
fn subjects(server: &NatsServer) -> Vec<(String, u64)> {
    let info = server.ask("$JS.API.STREAM.INFO.tidegate_ledgers", "{\"subjects_filter\":\">\"}");
    let info: Value = serde_json::from_str(&info).expect("JSON");
    let subjects = info["state"]["subjects"].as_object().unwrap_or_else(|| panic!("{info}"));
    subjects.iter().map(|(subject, count)| (subject.clone(), count.as_u64().expect("a number"))).collect()
}

/// What a change came to, again and again until there is an answer: the outcome of what had none is not known.
async fn changed(node: &Node, holder: &str, change: LedgerChange) -> HoldOutcome {
    let mut outcome = None;
    eventually("there is an answer", async || {
        let changed = node.ledger.change("shop", holder, std::slice::from_ref(&change), ROOM).await;
        outcome = changed.ok();
        outcome.is_some()
    })
    .await;
    outcome.expect("there is one")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_node_held_is_free_once_and_only_what_nobody_else_holds() {
    let nats = Nats::new();
    die_while_others_live(&nats.node(), &nats.node(), &nats.node()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_reads_for_a_reader_until_its_lease_is_over_or_it_leaves() {
    let nats = Nats::new();
    read_for_one_reader(&nats.node(), &nats.node()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_and_whenever_news_take_turns_and_all_is_free_in_the_end() {
    let nats = Nats::new();
    die_again_and_again(&[nats.node(), nats.node(), nats.node()], async || true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_over_a_cluster_whose_leader_dies_on_the_way() {
    let mut servers = NatsServer::start_cluster(3);
    let url = servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",");
    let config =
        NatsConfig { url: NatsUrl::new(url), replicas: 3, timeout_ms: 10_000, ..NatsConfig::default() };
    let nats = Nats::of(NatsServer::start(), config);
    let nodes = [nats.node(), nats.node(), nats.node()];
    die_again_and_again(&nodes, async || true).await;
    let holder = "after";
    nodes[1].begin(holder).await;
    let known = nodes[1].news(None).await.len();
    let info: Value =
        serde_json::from_str(&servers[0].ask("$JS.API.STREAM.INFO.tidegate_ledgers", "")).expect("JSON");
    let leader = info["cluster"]["leader"].as_str().expect("a leader").trim_start_matches('s');
    servers[leader.parse::<usize>().expect("its place")].kill();
    assert_eq!(changed(&nodes[1], holder, hold("a")).await, HoldOutcome::Done);
    let mut news = Vec::new();
    eventually("news can be read", async || {
        let page = nodes[2].ledger.read(reading("main", None, 10_000)).await;
        news = page.ok().flatten().map(|page| page.news).unwrap_or_default();
        news.len() > known
    })
    .await;
    let told: Vec<_> = news.into_iter().map(|(_, event)| event).collect();
    assert_eq!(told[known..], [taken("a")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_nats_keeps_what_is_held_and_what_was_done_with() {
    let mut nats = Nats::new();
    let node = nats.node();
    node.begin("one").await;
    node.change("one", &[hold("a"), hold("b")]).await;
    assert_eq!(node.page("main", Some(1), 9).await.from, 1);
    nats.server.kill();
    assert!(node.ledger.change("shop", "one", &[hold("c")], ROOM).await.is_err());
    assert!(node.ledger.prolong("shop", "one", LEASE, ROOM).await.is_err());
    assert!(node.ledger.read(reading("main", None, 9)).await.is_err());
    nats.server.restart();
    assert_eq!(changed(&node, "one", release("a")).await, HoldOutcome::Done);
    let other = nats.node();
    other.begin("other").await;
    for node in [&node, &other] {
        let page = node.page("main", None, 9).await;
        let news: Vec<_> = page.news.into_iter().map(|(_, event)| event).collect();
        // It may be that what had no answer was done.
        let done: Vec<_> = news.into_iter().filter(|event| *event != taken("c")).collect();
        assert_eq!(done, [taken("b"), LedgerEvent::Free("a".into())]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_meets_a_stream_that_was_lost_begins_anew() {
    let nats = Nats::new();
    let (node, other) = (nats.node(), nats.node());
    node.begin("one").await;
    other.begin("other").await;
    node.change("one", &[hold("a")]).await;
    other.change("other", &[hold("b")]).await;
    assert_eq!(node.news(None).await.len(), 2);
    nats.server.ask("$JS.API.STREAM.DELETE.tidegate_ledgers", "");
    assert_eq!(changed(&node, "one", hold("b")).await, HoldOutcome::Over);
    node.begin("two").await;
    node.change("two", &[hold("a")]).await;
    // What was read before it was lost says nothing of what is there now.
    let done = Some(ReaderProgress { from: 0, until: 1 });
    let page = node.ledger.read(reading("main", done, 9)).await.expect("read").expect("nobody else reads");
    assert_eq!(page.news, [(1, taken("a"))]);
    // The other one has yet to find out.
    assert_eq!(changed(&other, "other", hold("b")).await, HoldOutcome::Over);
    assert_eq!(other.news(None).await, [taken("a")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_put_back_is_begun_anew() {
    let mut nats = Nats::new();
    let node = nats.node();
    node.begin("one").await;
    node.change("one", &[hold("a")]).await;
    let copy = tempfile::tempdir().expect("a directory");
    nats.server.copy_while_down(copy.path());
    assert_eq!(changed(&node, "one", hold("b")).await, HoldOutcome::Done);
    assert_eq!(changed(&node, "one", release("a")).await, HoldOutcome::Done);
    nats.server.restart_from(copy.path());
    assert_eq!(changed(&node, "one", hold("c")).await, HoldOutcome::Over);
    node.begin("two").await;
    node.change("two", &[hold("b")]).await;
    assert_eq!(node.news(None).await, [taken("b")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_log_is_made_short_and_says_the_same_to_who_was_there_and_to_who_comes() {
    let nats = Nats::new();
    let (one, behind) = (nats.node(), nats.node());
    one.begin("one").await;
    behind.begin("behind").await;
    behind.change("behind", &[hold("kept")]).await;
    // More than finds room in one message of what came of the log.
    let long = "x".repeat(1_000);
    let many: Vec<_> = (0..400).map(|number| hold(&format!("{number}{long}"))).collect();
    one.change("one", &many).await;
    let room = gateway_core::ledger::LedgerCapacity { news_max: 10, ..ROOM };
    let mut rounds = 0;
    for number in 0..2_100_u32 {
        let change = [LedgerChange::Count("kept".into(), 1 + number % 2)];
        let done = one.ledger.change("shop", "one", &change, room).await.expect("changed");
        assert_eq!(done, HoldOutcome::Done);
        rounds += 1;
    }
    let there = subjects(&nats.server);
    let log: Vec<_> = there.iter().filter(|(subject, _)| subject.contains(".log.")).collect();
    assert_eq!(log.len(), 1, "{there:?}");
    assert!(log[0].1 < 1_001 && rounds == 2_100, "{there:?}");
    // Of two times that it was made short the parts of the last are there.
    let parts: Vec<_> = there.iter().filter(|(subject, _)| subject.contains(".at-")).collect();
    assert!(parts.len() == 1 && parts[0].1 >= 3, "{there:?}");
    let newcomer = nats.node();
    newcomer.begin("newcomer").await;
    let expected = one.page("main", None, 99).await;
    assert_eq!((expected.news.len(), &expected.news[9].1), (10, &LedgerEvent::Counted("kept".into(), 2)));
    for node in [&behind, &newcomer] {
        assert_eq!(node.page("main", None, 99).await.news, expected.news);
    }
    behind.change("behind", &[release("kept")]).await;
    one.change("one", &[release(&format!("7{long}")), release("kept")]).await;
    let told = newcomer.page("main", expected.news.last().map(|(number, _)| *number), 99).await;
    let told: Vec<_> = told.news.into_iter().map(|(_, event)| event).collect();
    let free = |subject: &str| LedgerEvent::Free(subject.into());
    assert_eq!(told, [LedgerEvent::Counted("kept".into(), 0), free("kept"), free(&format!("7{long}"))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_which_a_part_was_taken_away_is_begun_anew_and_one_that_cannot_be_read_is_said_to_be() {
    let nats = Nats::new();
    let node = nats.node();
    node.begin("one").await;
    node.change("one", &[hold("a")]).await;
    let (log, _) =
        subjects(&nats.server).into_iter().find(|(subject, _)| subject.contains(".log.")).expect("a log");
    // All but the last message.
    let keep_one = format!("{{\"filter\":\"{log}\",\"keep\":1}}");
    nats.server.ask("$JS.API.STREAM.PURGE.tidegate_ledgers", &keep_one);
    let newcomer = nats.node();
    newcomer.begin("newcomer").await;
    newcomer.change("newcomer", &[hold("b")]).await;
    assert_eq!(newcomer.news(None).await, [taken("b")]);
    // Who was there finds that it has nothing any more.
    assert_eq!(changed(&node, "one", hold("c")).await, HoldOutcome::Over);
    nats.server.add(&log, &[], b"of another release");
    for node in [&node, &newcomer, &nats.node()] {
        eventually("it is said", async || {
            let read = node.ledger.read(reading("main", None, 9)).await;
            read.is_err_and(|error| error.to_string().contains("cannot be read"))
        })
        .await;
    }
    assert!(newcomer.metrics.undecodable.get() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_more_than_the_server_takes_at_once_goes_in_several_messages() {
    let nats = Nats::with("max_payload: 65536", "");
    let node = nats.node();
    node.begin("one").await;
    let long = "x".repeat(1_000);
    let many: Vec<_> = (0..300).map(|number| hold(&format!("{number}{long}"))).collect();
    node.change("one", &many).await;
    assert_eq!(node.news(None).await.len(), 300);
    let too_long = [LedgerChange::Say("x".repeat(70_000).into())];
    let refused = node.ledger.change("shop", "one", &too_long, ROOM).await.expect_err("it is too long");
    assert!(refused.to_string().contains("65536"), "{refused}");
    node.change("one", &[hold("a")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_and_has_nothing_to_say_writes_nothing() {
    let nats = Nats::new();
    let node = nats.node();
    node.begin("one").await;
    node.change("one", &[hold("a")]).await;
    node.page("main", None, 9).await;
    let before = subjects(&nats.server);
    for _ in 0..20 {
        assert_eq!(node.page("main", None, 9).await.news.len(), 1);
    }
    assert_eq!(subjects(&nats.server), before);
    // What nobody reads meanwhile can be read by another when the lease is over, but for the clocks.
    let short = tidegate::ledger::LedgerQuery { lease: Duration::from_millis(1), ..reading("main", None, 9) };
    assert!(node.ledger.read(short).await.expect("an answer").is_some());
    assert_ne!(subjects(&nats.server), before);
}
