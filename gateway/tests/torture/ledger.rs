//! The joint record of a play: the publication at each position, and the time of the servers' last loss.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

/// How long after a loss a node may still detect it, and tell subscribers that came meanwhile.
const FOUND_OUT: Duration = Duration::from_secs(5);

/// Shared by publishers, subscribers and the player of events.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Whether a new connection counts as a loss, because the node cannot prove that the server behind it is the same.
    links_cost_epochs: bool,
    named: Mutex<HashMap<(String, String, u64), Value>>,
    losses: Mutex<Losses>,
}

#[derive(Debug, Default)]
struct Losses {
    in_flight: u32,
    ended: Option<Instant>,
}

impl Ledger {
    /// Creates the record. `links_cost_epochs`: for nodes that may not call INFO.
    pub fn new(links_cost_epochs: bool) -> Self {
        Self { links_cost_epochs, ..Self::default() }
    }

    /// Records the publication at a position. Panics if another one was seen there.
    pub fn note(&self, channel: &str, epoch: &str, offset: u64, data: &Value) {
        let mut named = self.named.lock();
        let known =
            named.entry((channel.to_owned(), epoch.to_owned(), offset)).or_insert_with(|| data.clone());
        assert_eq!(known, data, "{channel}: epoch {epoch}, offset {offset} names two publications");
    }

    pub fn positions(&self) -> usize {
        self.named.lock().len()
    }

    /// Runs `act` while data may be lost.
    pub async fn losing<T>(&self, act: impl Future<Output = T>) -> T {
        self.begin_losing();
        let result = act.await;
        self.end_losing();
        result
    }

    /// Begins a time in which data may be lost.
    pub fn begin_losing(&self) {
        self.losses.lock().in_flight += 1;
    }

    pub fn end_losing(&self) {
        let mut losses = self.losses.lock();
        losses.in_flight -= 1;
        losses.ended = Some(Instant::now());
    }

    /// Whether a subscriber that has followed since then may be told that publications are missing.
    pub fn may_have_lost(&self, since: Instant) -> bool {
        let losses = self.losses.lock();
        self.links_cost_epochs
            || losses.in_flight > 0
            || losses.ended.is_some_and(|ended| ended + FOUND_OUT > since)
    }
}
