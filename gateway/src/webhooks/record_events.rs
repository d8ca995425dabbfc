//! Writes this node's occupancy and events to an app's ledger, and renews the lease there.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use gateway_core::ledger::LedgerCapacity;
use prometheus::IntCounter;
use tokio::sync::watch as signal;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::{WebhookApp, WebhooksParts};
use crate::backend::stopping;
use crate::broker::BrokerError;
use crate::clock::Clock;
use crate::ledger::{HoldOutcome, Ledger};
use crate::telemetry::Reminder;
use crate::telemetry::backend_metrics::LostEvent;

/// How long a change waits for others to be written with it.
const GATHER: Duration = Duration::from_millis(20);
/// The most changes in one step of the ledger, and the approximate most bytes.
const STEP_CHANGES_MAX: usize = 500;
const STEP_BYTES_MAX: usize = 1 << 20;
/// How often a lease is renewed within its duration.
const PROLONGS_PER_LEASE: u32 = 4;
/// The pause after the ledger has refused or did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

pub(super) struct EventRecorder {
    watched: Arc<WebhookApp>,
    ledger: Arc<dyn Ledger>,
    node: String,
    /// The holder's name of this node at present, and the number of names so far.
    holder: String,
    names: u64,
    has_begun: bool,
    room: LedgerCapacity,
    delay: Duration,
    clock: Clock,
    restarts: IntCounter,
    /// The waiting changes and bytes that the metrics show.
    shown: (usize, usize),
    /// Whether the last run has panicked.
    has_failed: bool,
    stop: signal::Receiver<Option<Instant>>,
    reminder: Reminder,
}

impl EventRecorder {
    pub(super) fn new(
        parts: &WebhooksParts,
        watched: Arc<WebhookApp>,
        room: LedgerCapacity,
        delay: Duration,
        stop: signal::Receiver<Option<Instant>>,
    ) -> Self {
        let mut keeper = Self {
            watched,
            ledger: parts.ledger.clone(),
            node: parts.node.to_string(),
            holder: String::new(),
            names: 0,
            has_begun: false,
            room,
            delay,
            clock: parts.clock,
            restarts: parts.metrics.webhook_restarts(),
            shown: (0, 0),
            has_failed: false,
            stop,
            reminder: Reminder::new(),
        };
        keeper.take_new_name();
        keeper
    }

    /// Runs until it is told to stop. After a panic it drops unwritten events, and writes everything else anew.
    pub(super) async fn run(mut self) {
        while AssertUnwindSafe(self.keep_on()).catch_unwind().await.is_err() {
            self.has_failed = true;
            self.watched.panicked("keep").await;
        }
    }

    async fn keep_on(&mut self) {
        if std::mem::take(&mut self.has_failed) {
            let lost = self.watched.watch.lock().give_up_announced();
            self.watched.lose(LostEvent::Failed, lost);
            self.begin_anew();
        }
        let mut prolonging = interval(self.ledger.lease() / PROLONGS_PER_LEASE);
        prolonging.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (watched, mut stop) = (self.watched.clone(), self.stop.clone());
        loop {
            let now = self.clock.now();
            let next = watched.next_at().map(|at| at.since(now).max(Duration::from_millis(1)));
            let mut is_due = false;
            tokio::select! {
                biased;
                () = stopping(&mut stop) => return self.retire().await,
                _ = prolonging.tick() => is_due = true,
                () = watched.changed.notified() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(next.unwrap_or_default()), if next.is_some() => {}
            }
            let result = self.keep(is_due).await;
            self.show();
            self.note(result, &mut prolonging);
        }
    }

    /// Writes all changes to the ledger. `is_due`: the lease is due for renewal.
    async fn keep(&mut self, is_due: bool) -> Result<(), BrokerError> {
        // Done also while the ledger is unreachable, so that expired entries do not pile up.
        self.watched.watch.lock().pass(self.clock.now());
        if is_due || !self.has_begun {
            self.prolong().await?;
        }
        loop {
            let changes = {
                let mut watch = self.watched.watch.lock();
                watch.pass(self.clock.now());
                match watch.take_overflowed() {
                    true => None,
                    false => Some(watch.first(STEP_CHANGES_MAX, STEP_BYTES_MAX)),
                }
            };
            #[cfg(debug_assertions)]
            crate::faults::trip_over(crate::faults::KEEPING_PANICS, &changes);
            let Some(mut changes) = changes else {
                self.begin_anew();
                self.prolong().await?;
                continue;
            };
            if changes.is_empty() {
                return Ok(());
            }
            // Only as many as are applied atomically: after a partial failure a retry would report some twice.
            changes.truncate(self.ledger.fits_in_a_step(&changes));
            if changes.is_empty() {
                // The first change would be refused for ever, and block all changes behind it.
                self.watched.watch.lock().done(1);
                self.watched.lose(LostEvent::Refused, 1);
                continue;
            }
            match self.ledger.change(&self.watched.namespace, &self.holder, &changes, self.room).await? {
                HoldOutcome::Done | HoldOutcome::Freeing => {
                    self.watched.watch.lock().done(changes.len());
                    self.watched.news.iter().for_each(tokio::sync::Notify::notify_one);
                }
                HoldOutcome::Over => {
                    self.begin_anew();
                    self.prolong().await?;
                    // If that happens repeatedly, the loop must not spin.
                    tokio::time::sleep(GATHER).await;
                }
            }
        }
    }

    async fn prolong(&mut self) -> Result<(), BrokerError> {
        loop {
            let lease = self.ledger.lease();
            let namespace = &self.watched.namespace;
            let held = self.ledger.prolong(namespace, &self.holder, lease, self.room).await?;
            if held == HoldOutcome::Over {
                self.begin_anew();
                continue;
            }
            self.has_begun = true;
            // Entries of other holders may have been freed.
            self.watched.news.iter().for_each(tokio::sync::Notify::notify_one);
            if held == HoldOutcome::Done {
                return Ok(());
            }
        }
    }

    /// Starts over under a new name, and writes everything again. The entries of the old name are freed when its lease
    /// expires, by when the new name holds them.
    fn begin_anew(&mut self) {
        tracing::info!(
            app = &*self.watched.namespace,
            "writing the occupancy of channels for webhooks again"
        );
        self.restarts.inc();
        self.take_new_name();
        self.watched.watch.lock().begin_anew();
    }

    fn take_new_name(&mut self) {
        self.names += 1;
        self.holder = format!("{}.{}", self.node, self.names);
        self.has_begun = false;
    }

    /// Writes the last changes, and releases this node's entries after a delay, so that clients that went to other
    /// nodes have arrived there.
    async fn retire(&mut self) {
        let until = self.stop.borrow().unwrap_or_else(Instant::now);
        let leaving = async {
            if let Err(error) = self.keep(false).await {
                tracing::debug!(%error, "the last changes could not be written for webhooks");
            }
            self.ledger.retire(&self.watched.namespace, &self.holder, self.delay, self.room).await
        };
        if !matches!(tokio::time::timeout_at(until, leaving).await, Ok(Ok(()))) {
            tracing::warn!(
                "this node's occupancy could not be released for webhooks; it is freed when its lease expires"
            );
        }
        let lost = self.watched.watch.lock().announced();
        self.watched.lose(LostEvent::Stopping, lost);
        self.show();
        self.watched.news.iter().for_each(tokio::sync::Notify::notify_one);
    }

    fn show(&mut self) {
        let now = self.watched.watch.lock().waiting();
        let metrics = &self.watched.metrics;
        metrics.queued.add(now.0 as i64 - self.shown.0 as i64);
        metrics.queued_bytes.add(now.1 as i64 - self.shown.1 as i64);
        self.shown = now;
    }

    /// Schedules a retry after a failure.
    fn note(&mut self, result: Result<(), BrokerError>, prolonging: &mut Interval) {
        let now = std::time::Instant::now();
        match result {
            Ok(()) => {
                if let Some(lasted) = self.reminder.over(now) {
                    tracing::info!(after_s = lasted.as_secs(), "events for webhooks can be written again");
                }
            }
            Err(error) => {
                if self.reminder.is_due(error.label(), now) {
                    tracing::warn!(%error, "events for webhooks cannot be written");
                }
                prolonging.reset_after(RETRY_PAUSE);
            }
        }
    }
}
