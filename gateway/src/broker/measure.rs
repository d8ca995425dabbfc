//! The counters that a broker keeps about itself, independent of any metrics library.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{BrokerError, BrokerRefusal};
use crate::telemetry::Reminder;

/// Called for every finished round trip, with its operation and duration.
pub type RoundTripHook = Box<dyn Fn(Operation, Duration) + Send + Sync>;

/// Counters that only grow, except where noted. Shared by a broker and the presence beside it.
#[derive(Default)]
pub struct BrokerMetrics {
    /// Publications accepted from this node, duplicates not counted.
    pub published: SharedCounter,
    /// Publications not made because their idempotency key had been used.
    pub duplicates: SharedCounter,
    /// Publications received for this node's subscribers.
    pub received: SharedCounter,
    /// Bytes of the received publications.
    pub received_bytes: SharedCounter,
    /// Messages dropped because they could not be decoded.
    pub undecodable: SharedCounter,
    /// Streams emptied or forgotten before their time, because memory was full.
    pub evicted_streams: SharedCounter,
    /// Idempotency keys forgotten before their time, because there were too many.
    pub evicted_keys: SharedCounter,
    /// Calls that failed without having been sent: there was no connection.
    pub unreachable: SharedCounter,
    /// Calls that failed without having been sent: there was no room for them in time.
    pub timeouts: SharedCounter,
    /// Calls that were sent and not answered.
    pub unanswered: SharedCounter,
    /// Calls whose answer was unexpected.
    pub unexpected: SharedCounter,
    /// Calls that the server refused, by the kind of refusal.
    refused: [SharedCounter; BrokerRefusal::ALL.len()],
    refusals_log: Mutex<Reminder>,
    /// The link that carries commands.
    pub command_link: LinkMetrics,
    /// The link that carries reads whose answers may be long.
    pub read_link: LinkMetrics,
    /// The link that carries subscriptions.
    pub subscriber_link: LinkMetrics,
    /// Times another server became the master that Sentinel names.
    pub master_changes: SharedCounter,
    /// Sentinels that answer: goes up and down.
    pub sentinels_up: SharedCounter,
    /// Times so many presence changes waited for Redis that all of this node's presence was written anew instead.
    pub presence_overflows: SharedCounter,
    /// Times a ledger's log was due for compaction and was not compacted.
    pub unshortened_ledgers: SharedCounter,
    /// Channels subscribed at this moment: goes up and down.
    pub subscribed_channels: SharedCounter,
    /// Microseconds that the last canary took: goes up and down.
    pub canary_micros: SharedCounter,
    round_trip: Option<RoundTripHook>,
}

/// One of the links to a server.
#[derive(Debug, Default)]
pub struct LinkMetrics {
    /// 1 while the link is up: goes up and down.
    pub up: SharedCounter,
    /// Times the link was opened again after it was lost.
    pub reconnects: SharedCounter,
}

/// What a round trip was for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    Publish,
    Subscribe,
    Unsubscribe,
    History,
    Positions,
    Control,
    Nodes,
    PresenceWrite,
    PresenceRead,
    LedgerWrite,
    LedgerRead,
    SessionWrite,
    SessionRead,
    Lease,
}

impl Operation {
    pub const ALL: [Self; 14] = [
        Self::Publish,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::History,
        Self::Positions,
        Self::Control,
        Self::Nodes,
        Self::PresenceWrite,
        Self::PresenceRead,
        Self::LedgerWrite,
        Self::LedgerRead,
        Self::SessionWrite,
        Self::SessionRead,
        Self::Lease,
    ];

    /// Returns the value for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::History => "history",
            Self::Positions => "positions",
            Self::Control => "control",
            Self::Nodes => "nodes",
            Self::PresenceWrite => "presence_write",
            Self::PresenceRead => "presence_read",
            Self::LedgerWrite => "ledger_write",
            Self::LedgerRead => "ledger_read",
            Self::SessionWrite => "session_write",
            Self::SessionRead => "session_read",
            Self::Lease => "turn",
        }
    }
}

impl BrokerMetrics {
    /// Returns counters that also report every round trip to `hook`.
    pub fn with_round_trip_hook(hook: RoundTripHook) -> Self {
        Self { round_trip: Some(hook), ..Self::default() }
    }

    /// Adds up the counters of several servers. A link is up if it is up to all of them; the canary is the slowest.
    pub fn together<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let together = Self::default();
        let all: Vec<&Self> = all.into_iter().collect();
        for one in &all {
            let counters: [(&SharedCounter, &SharedCounter); 16] = [
                (&together.published, &one.published),
                (&together.duplicates, &one.duplicates),
                (&together.received, &one.received),
                (&together.received_bytes, &one.received_bytes),
                (&together.undecodable, &one.undecodable),
                (&together.evicted_streams, &one.evicted_streams),
                (&together.evicted_keys, &one.evicted_keys),
                (&together.unreachable, &one.unreachable),
                (&together.timeouts, &one.timeouts),
                (&together.unanswered, &one.unanswered),
                (&together.unexpected, &one.unexpected),
                (&together.master_changes, &one.master_changes),
                (&together.sentinels_up, &one.sentinels_up),
                (&together.presence_overflows, &one.presence_overflows),
                (&together.unshortened_ledgers, &one.unshortened_ledgers),
                (&together.subscribed_channels, &one.subscribed_channels),
            ];
            counters.into_iter().for_each(|(sum, counter)| sum.add(counter.get()));
            together.refused.iter().zip(&one.refused).for_each(|(sum, counter)| sum.add(counter.get()));
        }
        let canary_micros = all.iter().map(|one| one.canary_micros.get()).max();
        together.canary_micros.set(canary_micros.unwrap_or_default());
        let links: [fn(&Self) -> &LinkMetrics; 3] =
            [|one| &one.command_link, |one| &one.read_link, |one| &one.subscriber_link];
        for link in links {
            let (ups, reconnects): (Vec<u64>, Vec<u64>) =
                all.iter().map(|one| (link(one).up.get(), link(one).reconnects.get())).unzip();
            link(&together).up.set(ups.into_iter().min().unwrap_or_default());
            link(&together).reconnects.set(reconnects.into_iter().sum());
        }
        together
    }

    /// Returns the number of calls that failed, and of times a link was opened again.
    pub(crate) fn failures(&self) -> (u64, u64) {
        let refused: u64 = self.refused.iter().map(SharedCounter::get).sum();
        let failed = [&self.unreachable, &self.timeouts, &self.unanswered, &self.unexpected];
        let links = [&self.command_link, &self.read_link, &self.subscriber_link];
        (
            refused + failed.into_iter().map(SharedCounter::get).sum::<u64>(),
            links.into_iter().map(|link| link.reconnects.get()).sum(),
        )
    }

    /// Counts a failed call. A refusal by the server is also logged, once a minute for each kind.
    pub(crate) fn failed(&self, error: &BrokerError) {
        match error {
            BrokerError::Unreachable(_) => self.unreachable.increment(),
            BrokerError::Timeout(_) => self.timeouts.increment(),
            BrokerError::Unanswered(_) => self.unanswered.increment(),
            BrokerError::Unexpected(_) => self.unexpected.increment(),
            // No call was made.
            BrokerError::Behind(_)
            | BrokerError::Abandoned
            | BrokerError::NotAvailable
            | BrokerError::Full
            | BrokerError::NoRoom => {}
            BrokerError::Refused { kind, .. } => {
                self.refused(*kind).increment();
                if self.refusals_log.lock().is_due(kind.label(), Instant::now()) {
                    tracing::warn!(%error, kind = kind.label(), "a call was refused");
                }
            }
        }
    }

    /// Returns the counter of calls that the server refused for this reason.
    pub fn refused(&self, kind: BrokerRefusal) -> &SharedCounter {
        &self.refused[kind as usize]
    }

    pub fn observe_round_trip(&self, operation: Operation, took: Duration) {
        if let Some(hook) = &self.round_trip {
            hook(operation, took);
        }
    }
}

impl fmt::Debug for BrokerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerMetrics")
            .field("published", &self.published)
            .field("received", &self.received)
            .field("unanswered", &self.unanswered)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

/// A counter that many threads share.
#[derive(Default)]
pub struct SharedCounter(AtomicU64);

impl SharedCounter {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl fmt::Debug for SharedCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}
