//! Reports a worker's counts to the metrics at the end of a turn.

use std::time::Duration;

use shared::moment::Moment;

use crate::telemetry::labels::Drop;
use crate::worker::Worker;

/// How often outboxes are counted.
const OUTBOXES_INTERVAL: Duration = Duration::from_secs(5);

/// How often a worker logs the commands it has given up.
const GIVEN_UP_INTERVAL: Duration = Duration::from_secs(10);

/// The totals reported so far.
#[derive(Debug, Default)]
pub(super) struct ReportedTotals {
    subscriptions: usize,
    client_keys: usize,
    duplicates: u64,
    held_overflow: u64,
    superseded: u64,
    stale: u64,
    outbox_bytes: i64,
    outbox_blocked: i64,
    outboxes_at: Moment,
    given_up: u64,
    given_up_at: Option<Moment>,
}

impl Worker {
    pub(super) fn report(&mut self, busy: Duration) {
        let interest = self.local.hub.interest();
        let counts = self.local.hub.counts();
        self.metrics.subscriptions.add(interest.subscriptions as i64 - self.reported.subscriptions as i64);
        let client_keys = self.local.trackers.count();
        self.metrics.poll_client_keys.add(client_keys as i64 - self.reported.client_keys as i64);
        self.metrics.duplicates_total.inc_by(counts.duplicates - self.reported.duplicates);
        self.metrics.dropped(Drop::HeldBackFull, counts.held_overflow - self.reported.held_overflow);
        self.local.tally.superseded += counts.superseded - self.reported.superseded;
        self.local.tally.stale += counts.stale - self.reported.stale;
        self.reported = ReportedTotals {
            subscriptions: interest.subscriptions,
            client_keys,
            duplicates: counts.duplicates,
            held_overflow: counts.held_overflow,
            superseded: counts.superseded,
            stale: counts.stale,
            ..self.reported
        };
        self.report_outboxes();
        self.report_given_up();
        self.own_metrics.inbox.set(self.local.inbox.depth() as i64);
        self.own_metrics.connections.set(self.clients.len() as i64);
        self.own_metrics.io_uring.set(i64::from(self.together.is_some()));
        self.own_metrics.busy_seconds_total.inc_by(busy.as_secs_f64());
        self.local.tally.report(&self.metrics);
    }

    fn report_given_up(&mut self) {
        let (reported, now) = (&mut self.reported, self.local.now);
        reported.given_up += self.local.tally.commands_given_up;
        let is_due = reported.given_up_at.is_none_or(|last| now.since(last) >= GIVEN_UP_INTERVAL);
        if reported.given_up > 0 && is_due {
            let commands = std::mem::take(&mut reported.given_up);
            reported.given_up_at = Some(now);
            tracing::warn!(commands, "commands of clients that have left were not carried out in time");
        }
    }

    /// Reports the bytes that wait for full sockets. Done at intervals, because it visits all connections.
    fn report_outboxes(&mut self) {
        if self.local.now.since(self.reported.outboxes_at) < OUTBOXES_INTERVAL {
            return;
        }
        let (mut bytes, mut blocked) = (0, 0);
        for (_, client) in &self.clients {
            if client.is_stalled() {
                bytes += client.outbox.bytes() as i64;
                blocked += 1;
            }
        }
        self.metrics.outbox_bytes.add(bytes - self.reported.outbox_bytes);
        self.metrics.outbox_blocked.add(blocked - self.reported.outbox_blocked);
        self.reported.outbox_bytes = bytes;
        self.reported.outbox_blocked = blocked;
        self.reported.outboxes_at = self.local.now;
        if !self.local.shared_frames.is_empty() {
            self.local.shared_frames.prune();
        }
        self.report_largest();
    }
}
