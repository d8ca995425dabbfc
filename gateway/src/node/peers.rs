//! Which nodes there are: looked at every other second, as soon as anybody here has to know when one comes or goes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::node::Node;

/// How often nodes are asked for.
const INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Peers {
    wanted: AtomicBool,
    wake: Notify,
    /// How often there were others than before.
    changes: watch::Sender<u64>,
}

impl Default for Peers {
    fn default() -> Self {
        Self { wanted: AtomicBool::new(false), wake: Notify::new(), changes: watch::Sender::new(0) }
    }
}

impl Peers {
    /// Whoever holds it hears of each change from now on.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        if !self.wanted.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
        self.changes.subscribe()
    }
}

/// Looks at them again and again.
pub(super) async fn keep_looking(node: Arc<Node>) {
    // Most nodes have nobody who must know.
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
