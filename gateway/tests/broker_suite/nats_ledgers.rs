//! Tests a ledger in NATS: nodes and servers that die, and a log that is long, is lost or goes back.

use std::time::Duration;

use gateway_core::ledger::{LedgerCapacity, LedgerChange, LedgerEvent, ReaderProgress};
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

/// Returns the number of messages on each subject of the ledgers' stream.
fn subjects(server: &NatsServer) -> Vec<(String, u64)> {
    let info = server.ask("$JS.API.STREAM.INFO.tidegate_ledgers", "{\"subjects_filter\":\">\"}");
    let info: Value = serde_json::from_str(&info).expect("JSON");
    let subjects = info["state"]["subjects"].as_object().unwrap_or_else(|| panic!("{info}"));
    subjects.iter().map(|(subject, count)| (subject.clone(), count.as_u64().expect("a number"))).collect()
}

/// Returns the subject of the only ledger's log.
fn log(server: &NatsServer) -> String {
    let log = subjects(server).into_iter().find(|(subject, _)| subject.contains(".log."));
    log.expect("a log").0
}

/// Repeats a change until it is answered, and returns the outcome. Attempts without an answer may have taken effect.
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
    let nodes = [nats.node(), nats.node(), nats.node()];
    die_again_and_again(&nodes, async || true).await;
    have_the_same_table(&nats, &nodes).await;
}

/// Returns the table that a node has derived from the log.
async fn table(node: &Node) -> Vec<String> {
    node.nats_ledger.as_ref().expect("it is over NATS").table("shop").await.expect("a table")
}

/// Checks that the nodes have the same table as one that joins now.
async fn have_the_same_table(nats: &Nats, nodes: &[Node]) {
    let newcomer = nats.node();
    eventually("it is connected", async || newcomer.broker.canary().await.is_ok()).await;
    let expected = table(&newcomer).await;
    assert!(expected.len() > 4, "{expected:?}");
    for node in nodes {
        assert_eq!(table(node).await, expected);
    }
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
    have_the_same_table(&nats, &nodes).await;
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
        // A change without an answer may have taken effect.
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
    // Progress from before the loss says nothing about the new events.
    let done = Some(ReaderProgress { from: 0, until: 1 });
    let page = node.ledger.read(reading("main", done, 9)).await.expect("read").expect("nobody else reads");
    assert_eq!(page.news, [(1, taken("a"))]);
    // The other node does not know yet.
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
    // A snapshot of these holds does not fit in one message.
    let long = "x".repeat(1_000);
    let many: Vec<_> = (0..400).map(|number| hold(&format!("{number}{long}"))).collect();
    one.change("one", &many).await;
    let room = LedgerCapacity { news_max: 10, ..ROOM };
    let mut rounds = 0;
    for number in 0..2_100_u32 {
        let change = [LedgerChange::Count("kept".into(), 1 + number % 2)];
        let done = one.ledger.change("shop", "one", &change, room).await.expect("changed");
        assert_eq!(done, HoldOutcome::Done);
        rounds += 1;
    }
    assert_eq!(rounds, 2_100);
    is_short(&nats.server, 1_500).await;
    let there = subjects(&nats.server);
    // Of all compactions, only the parts of the last snapshot remain.
    let parts: Vec<_> = there.iter().filter(|(subject, _)| subject.contains(".at-")).collect();
    assert!(parts[0].1 >= 3, "{there:?}");
    let newcomer = nats.node();
    newcomer.begin("newcomer").await;
    let expected = one.page("main", None, 99).await;
    assert_eq!((expected.news.len(), &expected.news[9].1), (10, &LedgerEvent::Counted("kept".into(), 2)));
    for node in [&behind, &newcomer] {
        assert_eq!(node.page("main", None, 99).await.news, expected.news);
        assert_eq!(table(node).await, table(&one).await);
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
    // Deletes all messages but the last.
    let keep_one = format!("{{\"filter\":\"{log}\",\"keep\":1}}");
    nats.server.ask("$JS.API.STREAM.PURGE.tidegate_ledgers", &keep_one);
    let newcomer = nats.node();
    newcomer.begin("newcomer").await;
    newcomer.change("newcomer", &[hold("b")]).await;
    assert_eq!(newcomer.news(None).await, [taken("b")]);
    // The holder from before finds that it holds nothing any more.
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
async fn a_log_that_does_not_begin_with_a_table_is_read_from_the_one_that_stands_further_on() {
    let nats = Nats::new();
    let node = nats.node();
    node.begin("one").await;
    node.change("one", &[hold("a")]).await;
    let all = nats.server.all_of("tidegate_ledgers");
    let [(_, base), (_, begun), (_, change)] = all.as_slice() else { panic!("{all:?}") };
    let log = log(&nats.server);
    let purge = format!("{{\"filter\":\"{log}\"}}");
    nats.server.ask("$JS.API.STREAM.PURGE.tidegate_ledgers", &purge);
    nats.server.add_all(&[change, base, begun, change].map(|payload| (log.clone(), payload.clone())));
    let newcomer = nats.node();
    newcomer.begin("newcomer").await;
    assert_eq!(newcomer.news(None).await, [taken("a")]);
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
    let too_long = [LedgerChange::Report("x".repeat(70_000).into())];
    let refused = node.ledger.change("shop", "one", &too_long, ROOM).await.expect_err("it is too long");
    assert!(refused.to_string().contains("65536"), "{refused}");
    node.change("one", &[hold("a")]).await;
    // A step that does not fit is refused as a whole, and `fits_in_a_step` tells callers before.
    let some = [LedgerChange::Report("before".into()), too_long[0].clone(), hold("b")];
    assert_eq!(node.ledger.fits_in_a_step(&some), 1);
    assert_eq!(node.ledger.fits_in_a_step(&some[1..]), 0);
    assert!((40..300).contains(&node.ledger.fits_in_a_step(&many)), "as many as are one message");
    assert!(node.ledger.change("shop", "one", &some, ROOM).await.is_err());
    let told = node.news(None).await;
    assert_eq!((told.len(), told.last()), (301, Some(&taken("a"))));
    // A change just below the limit is accepted, and the log with it can be compacted.
    let long = LedgerChange::Report("x".repeat(64_000).into());
    for _ in 0..20 {
        node.change("one", std::slice::from_ref(&long)).await;
    }
    is_short(&nats.server, 20).await;
    have_the_same_table(&nats, &[node]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_made_short_is_counted_and_written_to_all_the_same() {
    let nats = Nats::new();
    let node = nats.node();
    node.begin("one").await;
    // The snapshot of all holds is longer than a message of this stream may be.
    let info = nats.server.ask("$JS.API.STREAM.INFO.tidegate_ledgers", "");
    let mut info: Value = serde_json::from_str(&info).expect("JSON");
    info["config"]["max_msg_size"] = 8_192.into();
    let set = nats.server.ask("$JS.API.STREAM.UPDATE.tidegate_ledgers", &info["config"].to_string());
    assert!(set.contains("8192"), "{set}");
    let mut count = 0;
    while node.metrics.unshortened_ledgers.get() == 0 {
        assert!(count < 5_000, "its log is never made short");
        node.change("one", &[hold(&format!("a thing of some length {count}"))]).await;
        count += 1;
    }
    node.change("one", &[hold("another")]).await;
    assert_eq!(node.page("main", None, 9_999).await.news.len(), count + 1);
    have_the_same_table(&nats, &[node]).await;
}

/// Waits until the log has fewer messages than `messages_max` and one snapshot, whole or in parts.
async fn is_short(server: &NatsServer, messages_max: u64) {
    eventually("the log is short", async || {
        let there = subjects(server);
        let count = |what: &str| there.iter().filter(|(subject, _)| subject.contains(what)).count();
        let log = there.iter().find(|(subject, _)| subject.contains(".log.")).expect("a log");
        log.1 < messages_max && count(".at-") == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_which_all_write_all_the_while_is_made_short_and_whoever_comes_or_was_away_has_the_same() {
    let nats = Nats::new();
    let nodes = [nats.node(), nats.node(), nats.node()];
    let behind = nats.node();
    behind.begin("behind").await;
    for (number, node) in nodes.iter().enumerate() {
        node.begin(&number.to_string()).await;
    }
    let many: Vec<_> = (0..3_000).map(|number| hold(&format!("{number}{}", "x".repeat(300)))).collect();
    nodes[0].change("0", &many).await;
    let (stop, mut writing) = (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)), Vec::new());
    let room = LedgerCapacity { news_max: 10, ..ROOM };
    for (number, node) in nodes.iter().enumerate() {
        let (ledger, stop) = (node.ledger.clone(), stop.clone());
        writing.push(tokio::spawn(async move {
            let mut count = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                count += 1;
                let change = [LedgerChange::Hold(format!("{number}.{}", count % 50).into())];
                let done = ledger.change("shop", &number.to_string(), &change, room).await;
                assert_eq!(done.expect("changed"), HoldOutcome::Done);
            }
            count
        }));
    }
    let base = || {
        subjects(&nats.server).into_iter().find(|(subject, _)| subject.contains(".at-")).map(|base| base.0)
    };
    let mut bases = std::collections::BTreeSet::new();
    eventually("it is made short again and again", async || {
        bases.extend(base());
        bases.len() >= 3
    })
    .await;
    // The writers are still writing.
    let newcomer = nats.node();
    newcomer.begin("newcomer").await;
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut written = 0;
    for one in writing {
        written += one.await.expect("it has written");
    }
    assert!(written > 1_000, "{written}");
    for node in nodes.iter().chain([&behind, &newcomer]) {
        assert_eq!(table(node).await, table(&nodes[0]).await);
    }
    have_the_same_table(&nats, &nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_far_behind_does_not_read_one_by_one() {
    let nats = Nats::new();
    let (node, behind) = (nats.node(), nats.node());
    node.begin("one").await;
    behind.begin("behind").await;
    node.change("one", &[hold("b")]).await;
    // Repeats of an earlier change alter nothing, but must be read.
    let (_, op) = nats.server.all_of("tidegate_ledgers").pop().expect("a change");
    let log = log(&nats.server);
    nats.server.add_all(&vec![(log, op); 30_000]);
    // The node reads all of it within the timeout of one call.
    behind.change("behind", &[hold("a")]).await;
    assert_eq!(node.news(None).await, [taken("b"), taken("a")]);
    have_the_same_table(&nats, &[node, behind]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_goes_back_is_noticed_by_who_has_only_read_what_others_wrote() {
    let mut nats = Nats::new();
    let (writer, reader) = (nats.node(), nats.node());
    writer.begin("writer").await;
    reader.begin("reader").await;
    let copy = tempfile::tempdir().expect("a directory");
    nats.server.copy_while_down(copy.path());
    // Both nodes have examined the stream before more is written.
    eventually("they are back", async || {
        let read = reader.ledger.read(reading("main", None, 9)).await;
        read.is_ok() && writer.ledger.prolong("shop", "writer", LEASE, ROOM).await.is_ok()
    })
    .await;
    for number in 0..20 {
        writer.change("writer", &[hold(&number.to_string())]).await;
    }
    assert_eq!(table(&reader).await, table(&writer).await);
    drop(writer);
    nats.server.restart_from(copy.path());
    assert_eq!(changed(&reader, "reader", hold("a")).await, HoldOutcome::Over);
    reader.begin("reader.2").await;
    reader.change("reader.2", &[hold("b")]).await;
    assert_eq!(reader.news(None).await, [taken("b")]);
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
    // A changed lease is written: it decides when another node may read.
    let short = tidegate::ledger::LedgerQuery { lease: Duration::from_millis(1), ..reading("main", None, 9) };
    assert!(node.ledger.read(short).await.expect("an answer").is_some());
    assert_ne!(subjects(&nats.server), before);
}
