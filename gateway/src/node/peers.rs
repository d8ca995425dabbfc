//! Watches which nodes there are: reads their announcements every two seconds, once anything here needs to know when nodes
//! come or go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::node::Node;

/// How often announcements are read.
const INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Peers {
    wanted: AtomicBool,
    wake: Notify,
    /// Counts how often the set of nodes has changed.
    changes: watch::Sender<u64>,
}

impl Default for Peers {
    fn default() -> Self {
        Self { wanted: AtomicBool::new(false), wake: Notify::new(), changes: watch::Sender::new(0) }
    }
}

impl Peers {
    /// Returns a receiver that is notified of every change from now on.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        if !self.wanted.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
        self.changes.subscribe()
    }
}

/// Watches the nodes, for as long as this node runs.
pub(super) async fn keep_looking(node: Arc<Node>) {
    // Most nodes have nothing that needs to know.
    if !node.peers.wanted.load(Ordering::Relaxed) {
        node.peers.wake.notified().await;
    }
    let mut round = interval(INTERVAL);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<BTreeSet<Box<str>>> = None;
    loop {
        round.tick().await;
        let Ok(nodes) = node.nodes().await else { continue };
        let now: BTreeSet<Box<str>> = nodes.into_iter().map(|node| node.uid).collect();
        if before.as_ref().is_some_and(|before| *before != now) {
            node.peers.changes.send_modify(|changes| *changes += 1);
        }
        before = Some(now);
    }
}
