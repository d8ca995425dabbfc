//! Tests leases on tasks: which one of all nodes does a task, and how far the task has progressed.

use std::time::Duration;

use tidegate::broker::{LeaseOutcome, LeaseRequest};

use crate::harness::{Backend, Memory, Node, Redis, eventually};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

async fn take(node: &Node, name: &str, lease: Duration, patience: Duration, done: &str) -> LeaseOutcome {
    let taking = LeaseRequest { what: "something", node: name, lease, patience, done };
    let lease = node.broker.acquire_lease(taking).await.expect("an answer");
    assert!(lease.over < LONG, "no lease has been over for so long here");
    LeaseOutcome { over: Duration::ZERO, ..lease }
}

fn outcome(held: bool, done: &str) -> LeaseOutcome {
    LeaseOutcome { held, done: done.into(), over: Duration::ZERO }
}

pub async fn a_turn_is_one_nodes_until_it_is_given_back_and_who_follows_knows_how_far_it_got<B: Backend>() {
    let redis = B::new();
    let (one, other) = (redis.node(), redis.node());
    assert_eq!(
        take(&one, "one", LONG, LONG, "unheard").await,
        outcome(true, ""),
        "there is nothing to be patient about"
    );
    assert_eq!(take(&other, "other", LONG, Duration::ZERO, "x").await, outcome(false, ""));
    assert_eq!(take(&one, "one", LONG, Duration::ZERO, "1").await, outcome(true, "1"));
    assert_eq!(take(&other, "other", LONG, Duration::ZERO, "x").await, outcome(false, "1"));
    let elsewhere = LeaseRequest { what: "another", node: "other", lease: LONG, patience: LONG, done: "" };
    assert!(other.broker.acquire_lease(elsewhere).await.expect("an answer").held);
    // A lease of zero releases it.
    assert_eq!(take(&one, "one", Duration::ZERO, Duration::ZERO, "2").await, outcome(true, "2"));
    assert_eq!(
        take(&other, "other", LONG, LONG, "x").await,
        outcome(false, "2"),
        "it has not been over for long"
    );
    assert_eq!(take(&other, "other", LONG, Duration::ZERO, "x").await, outcome(true, "2"));
    assert_eq!(take(&one, "one", LONG, Duration::ZERO, "3").await, outcome(false, "2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_is_not_prolonged_goes_to_another_node() {
    let redis = Redis::new();
    let (one, other) = (redis.node(), redis.node());
    assert!(take(&one, "one", SHORT, Duration::ZERO, "").await.held);
    assert!(take(&one, "one", SHORT, Duration::ZERO, "1").await.held);
    let taking = LeaseRequest { what: "something", node: "other", lease: LONG, patience: SHORT, done: "" };
    eventually("it is over", async || {
        let lease = other.broker.acquire_lease(taking).await.expect("an answer");
        assert!(!lease.held || &*lease.done == "1" && lease.over >= SHORT, "{lease:?}");
        lease.held
    })
    .await;
    assert!(!take(&one, "one", SHORT, Duration::ZERO, "2").await.held);
}

#[tokio::test]
async fn where_there_is_one_node_the_turn_is_its_own() {
    let node = Memory::new().node();
    assert_eq!(take(&node, "one", SHORT, LONG, "1").await, outcome(true, ""));
    assert_eq!(take(&node, "one", SHORT, LONG, "2").await, outcome(true, ""));
}
