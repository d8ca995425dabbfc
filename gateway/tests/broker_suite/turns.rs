//! Tests turns: which one of all nodes does a task, and how far the task has progressed.

use std::time::Duration;

use tidegate::broker::{TurnLease, TurnRequest};

use crate::harness::{Backend, Memory, Node, Redis, eventually};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

async fn take(node: &Node, name: &str, lease: Duration, patience: Duration, done: &str) -> TurnLease {
    let taking = TurnRequest { what: "something", node: name, lease, patience, done };
    let turn = node.broker.take_turn(taking).await.expect("an answer");
    assert!(turn.over < LONG, "no turn has been over for so long here");
    TurnLease { over: Duration::ZERO, ..turn }
}

fn turn(held: bool, done: &str) -> TurnLease {
    TurnLease { held, done: done.into(), over: Duration::ZERO }
}

pub async fn a_turn_is_one_nodes_until_it_is_given_back_and_who_follows_knows_how_far_it_got<B: Backend>() {
    let redis = B::new();
    let (one, other) = (redis.node(), redis.node());
    assert_eq!(
        take(&one, "one", LONG, LONG, "unheard").await,
        turn(true, ""),
        "there is nothing to be patient about"
    );
    assert_eq!(take(&other, "other", LONG, Duration::ZERO, "x").await, turn(false, ""));
    assert_eq!(take(&one, "one", LONG, Duration::ZERO, "1").await, turn(true, "1"));
    assert_eq!(take(&other, "other", LONG, Duration::ZERO, "x").await, turn(false, "1"));
    let elsewhere = TurnRequest { what: "another", node: "other", lease: LONG, patience: LONG, done: "" };
    assert!(other.broker.take_turn(elsewhere).await.expect("an answer").held);
    // A lease of zero gives the turn back.
    assert_eq!(take(&one, "one", Duration::ZERO, Duration::ZERO, "2").await, turn(true, "2"));
    assert_eq!(
        take(&other, "other", LONG, LONG, "x").await,
        turn(false, "2"),
        "it has not been over for long"
    );
    assert_eq!(take(&other, "other", LONG, Duration::ZERO, "x").await, turn(true, "2"));
    assert_eq!(take(&one, "one", LONG, Duration::ZERO, "3").await, turn(false, "2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_is_not_prolonged_goes_to_another_node() {
    let redis = Redis::new();
    let (one, other) = (redis.node(), redis.node());
    assert!(take(&one, "one", SHORT, Duration::ZERO, "").await.held);
    assert!(take(&one, "one", SHORT, Duration::ZERO, "1").await.held);
    let taking = TurnRequest { what: "something", node: "other", lease: LONG, patience: SHORT, done: "" };
    eventually("it is over", async || {
        let turn = other.broker.take_turn(taking).await.expect("an answer");
        assert!(!turn.held || &*turn.done == "1" && turn.over >= SHORT, "{turn:?}");
        turn.held
    })
    .await;
    assert!(!take(&one, "one", SHORT, Duration::ZERO, "2").await.held);
}

#[tokio::test]
async fn where_there_is_one_node_the_turn_is_its_own() {
    let node = Memory::new().node();
    assert_eq!(take(&node, "one", SHORT, LONG, "1").await, turn(true, ""));
    assert_eq!(take(&node, "one", SHORT, LONG, "2").await, turn(true, ""));
}
