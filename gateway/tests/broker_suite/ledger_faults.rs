//! Tests a ledger whose nodes or whose Redis die.

use std::collections::BTreeSet;
use std::time::Duration;

use gateway_core::ledger::{LedgerChange, LedgerEvent, ReaderProgress};
use tidegate::ledger::{HoldOutcome, LedgerQuery};

use crate::harness::{Backend, Node, Redis, eventually};
use crate::ledger::{LEASE, ROOM, hold, reading, release};

const SHORT: Duration = Duration::from_millis(100);

fn free(subject: &str) -> LedgerEvent {
    LedgerEvent::Free(subject.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_node_held_is_free_once_and_only_what_nobody_else_holds() {
    let redis = Redis::new();
    die_while_others_live(&redis.node(), &redis.node(), &redis.node()).await;
    let keys: Vec<String> = redis.server.ask(&["KEYS", "tidegate:ledger:{shop}:held:dying"]);
    assert_eq!(keys, [""; 0]);
}

/// Lets a holder's lease expire; what it held is freed, and its later changes are refused.
pub async fn die_while_others_live(dying: &Node, living: &Node, third: &Node) {
    living.begin("living").await;
    third.begin("third").await;
    dying.begin("dying").await;
    dying.change("dying", &[hold("a"), hold("b")]).await;
    living.change("living", &[hold("b")]).await;
    assert_eq!(
        dying.ledger.prolong("shop", "dying", SHORT, ROOM).await.expect("prolonged"),
        HoldOutcome::Done
    );
    eventually("a is free", async || {
        for (node, name) in [(living, "living"), (third, "third")] {
            assert_eq!(
                node.ledger.prolong("shop", name, LEASE, ROOM).await.expect("prolonged"),
                HoldOutcome::Done
            );
        }
        living.news(None).await.contains(&free("a"))
    })
    .await;
    let taken = |subject: &str| LedgerEvent::Taken(subject.into());
    assert_eq!(living.news(None).await, [taken("a"), taken("b"), free("a")]);

    // The node was only slow: its changes are refused, and it is told so.
    let changed = dying.ledger.change("shop", "dying", &[hold("c")], ROOM).await.expect("an answer");
    assert_eq!(changed, HoldOutcome::Over);
    dying.begin("dying.2").await;
    dying.change("dying.2", &[hold("a"), hold("b")]).await;
    living.change("living", &[release("b")]).await;
    assert_eq!(living.news(Some(3)).await, [taken("a")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_reads_for_a_reader_until_its_lease_is_over_or_it_leaves() {
    let redis = Redis::new();
    read_for_one_reader(&redis.node(), &redis.node()).await;
}

/// Lets two nodes ask to read for the same reader.
pub async fn read_for_one_reader(one: &Node, other: &Node) {
    one.begin("one").await;
    one.change("one", &[hold("a")]).await;
    let reading = |by: &'static str, lease| LedgerQuery { by, lease, ..reading("main", None, 9) };
    let reads = async |node: &Node, by, lease| {
        node.ledger.read(reading(by, lease)).await.expect("an answer").map(|page| page.news.len())
    };
    eventually("the other is connected", async || other.broker.canary().await.is_ok()).await;
    assert_eq!(reads(one, "one", LEASE).await, Some(1));
    assert_eq!(reads(other, "other", LEASE).await, None);
    assert_eq!(reads(one, "one", SHORT).await, Some(1));
    eventually("the other reads", async || reads(other, "other", LEASE).await == Some(1)).await;
    assert_eq!(reads(one, "one", LEASE).await, None);
    // Progress that a node reports late counts for nothing once another node reads.
    let late = LedgerQuery {
        by: "one",
        done: Some(ReaderProgress { from: 0, until: 1 }),
        ..self::reading("main", None, 9)
    };
    assert_eq!(one.ledger.read(late).await.expect("an answer"), None);
    assert_eq!(reads(other, "other", Duration::ZERO).await, Some(1));
    assert_eq!(reads(one, "one", LEASE).await, Some(1), "it has left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_meets_an_emptied_redis_or_another_process_begins_anew() {
    let mut redis = Redis::new();
    redis.config.ping_ms = 100;
    redis.config.reconnect_max_ms = 100;
    let node = redis.node();
    node.begin("one").await;
    node.change("one", &[hold("a")]).await;
    assert_eq!(node.news(None).await.len(), 1);
    redis.server.ask::<()>(&["FLUSHALL"]);
    let changed = async |name| node.ledger.change("shop", name, &[hold("b")], ROOM).await;
    assert_eq!(changed("one").await.expect("an answer"), HoldOutcome::Over);
    node.begin("two").await;
    node.change("two", &[hold("a")]).await;
    // Progress from before Redis was emptied says nothing about the new events.
    let done = Some(ReaderProgress { from: 0, until: 1 });
    let page = node.ledger.read(reading("main", done, 9)).await.expect("read").expect("nobody else reads");
    assert_eq!(page.news, [(1, LedgerEvent::Taken("a".into()))]);
    redis.server.ask::<()>(&["SAVE"]);
    redis.server.kill();
    redis.server.restart();
    eventually("it is over", async || matches!(changed("two").await, Ok(HoldOutcome::Over))).await;
    node.begin("three").await;
    node.change("three", &[hold("a")]).await;
    // Reads use a connection of their own, which may come back later.
    let reads = async || node.ledger.read(reading("main", None, 0)).await.is_ok();
    eventually("the ledger can be read", reads).await;
    assert_eq!(node.news(Some(1)).await, [], "it was held all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_refuses_changes_whole_and_lets_leases_and_readers_go_on() {
    let redis = Redis::new();
    let node = redis.node();
    node.begin("one").await;
    node.begin("two").await;
    node.change("one", &[hold("a")]).await;
    node.change("two", &[hold("b")]).await;
    redis.server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let changes = [hold("c"), release("a"), LedgerChange::Report("x".into())];
    let refused = node.ledger.change("shop", "one", &changes, ROOM).await.unwrap_err();
    assert_eq!(refused.label(), "oom");
    assert_eq!(node.news(None).await.len(), 2, "nothing of it was done");
    assert_eq!(node.ledger.prolong("shop", "one", LEASE, ROOM).await.expect("prolonged"), HoldOutcome::Done);
    node.ledger.retire("shop", "two", Duration::ZERO, ROOM).await.expect("ended");
    assert_eq!(node.news(Some(2)).await, [free("b")]);
    redis.server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    node.change("one", &changes).await;
    assert_eq!(
        node.news(Some(3)).await,
        [LedgerEvent::Taken("c".into()), free("a"), LedgerEvent::Reported("x".into())]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_and_whenever_news_take_turns_and_all_is_free_in_the_end() {
    let redis = Redis::new();
    let nodes = [redis.node(), redis.node(), redis.node()];
    let all_is_freed = async || redis.server.ask::<u64>(&["HLEN", "tidegate:ledger:{shop}:holders"]) == 0;
    die_again_and_again(&nodes, all_is_freed).await;
    let left: Vec<String> = redis.server.ask(&["KEYS", "tidegate:ledger:{shop}:held:*"]);
    assert_eq!(left, [""; 0]);
}

/// Lets holders of these nodes come and die at random while they hold things.
pub async fn die_again_and_again(nodes: &[Node; 3], all_is_freed: impl AsyncFn() -> bool) {
    let name = |node: usize, life: u32| format!("{node}.{life}");
    let mut lives = [0_u32; 3];
    for (number, node) in nodes.iter().enumerate() {
        node.begin(&name(number, 0)).await;
    }
    let mut seed = 11_u64;
    let mut draw = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..400 {
        let number = draw(3) as usize;
        let (node, holder) = (&nodes[number], name(number, lives[number]));
        match draw(10) {
            // The holder dies, and its successor begins before or after its lease has expired.
            0 => {
                let dying = node.ledger.prolong("shop", &holder, Duration::from_millis(draw(4)), ROOM);
                assert_ne!(dying.await.expect("prolonged"), HoldOutcome::Over);
                lives[number] += 1;
                node.begin(&name(number, lives[number])).await;
            }
            1 => {
                let prolonged = node.ledger.prolong("shop", &holder, LEASE, ROOM).await;
                assert_ne!(prolonged.expect("prolonged"), HoldOutcome::Over);
            }
            _ => {
                let subject = draw(4).to_string();
                let change = if draw(2) == 0 { hold(&subject) } else { release(&subject) };
                node.change(&holder, &[change]).await;
            }
        }
    }
    for (number, node) in nodes.iter().enumerate() {
        node.ledger.retire("shop", &name(number, lives[number]), Duration::ZERO, ROOM).await.expect("ended");
    }
    nodes[0].begin("last").await;
    eventually("all is freed", async || {
        nodes[0].ledger.prolong("shop", "last", LEASE, ROOM).await.expect("prolonged") == HoldOutcome::Done
            && all_is_freed().await
    })
    .await;
    let news = nodes[0].news(None).await;
    assert!(news.len() > 40, "{}", news.len());
    let mut held = BTreeSet::new();
    for one in news {
        match one {
            LedgerEvent::Taken(subject) => assert!(held.insert(subject), "told twice"),
            LedgerEvent::Free(subject) => assert!(held.remove(&subject), "told twice"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(held, BTreeSet::new());
}
