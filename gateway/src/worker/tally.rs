//! A worker's own counters, added to the metrics once a turn, so that deliveries touch no shared counter.

use std::mem;

use gateway_core::namespace_id::NamespaceId;
use shared::protocol::ProtocolId;

use crate::telemetry::Metrics;
use crate::telemetry::labels::Drop;
use crate::worker::tally_namespaces::NamespaceTallies;

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Bytes that sweeps put into outboxes because the sockets did not take them at once.
    pub(crate) bytes_queued: u64,
    pub(crate) messages_in: [u64; ProtocolId::COUNT],
    pub(crate) deliveries: u64,
    /// Frames dropped for clients that did not read them. Each such client is closed with a code.
    pub(crate) frames_discarded: u64,
    pub(crate) insufficient: u64,
    /// Newest values that gave way to newer ones while they waited for a client.
    pub(crate) superseded: u64,
    /// Newest values that became too old while they waited.
    pub(crate) stale: u64,
    /// Commands of clients that had left, and whose deadline passed.
    pub(crate) commands_given_up: u64,
    pub(crate) namespaces: NamespaceTallies,
}

/// A worker's totals of deliveries and bytes before a sweep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandedOut {
    deliveries: u64,
    bytes: u64,
}

impl Tally {
    pub(crate) fn handed_out(&self) -> HandedOut {
        HandedOut { deliveries: self.deliveries, bytes: self.bytes_out + self.bytes_queued }
    }

    /// Counts the deliveries and bytes since `before` for this namespace.
    pub(crate) fn note_handed_out(&mut self, namespace: NamespaceId, before: HandedOut) {
        let now = self.handed_out();
        let tally = self.namespaces.of(namespace);
        tally.deliveries += now.deliveries - before.deliveries;
        tally.bytes_out += now.bytes - before.bytes;
    }

    /// Counts one publication delivered to one client, with its bytes.
    pub(crate) fn note_delivered(&mut self, namespace: NamespaceId, bytes: usize) {
        self.deliveries += 1;
        let tally = self.namespaces.of(namespace);
        tally.deliveries += 1;
        tally.bytes_out += bytes as u64;
    }

    /// Adds the counts since the last report to the metrics, and resets them.
    pub(crate) fn report(&mut self, metrics: &Metrics) {
        self.namespaces.report(&metrics.namespaces);
        self.bytes_queued = 0;
        let add = |counter: &prometheus::IntCounter, count: &mut u64| {
            if *count > 0 {
                counter.inc_by(mem::take(count));
            }
        };
        add(&metrics.bytes_in_total, &mut self.bytes_in);
        add(&metrics.bytes_out_total, &mut self.bytes_out);
        add(&metrics.deliveries_out_total, &mut self.deliveries);
        add(&metrics.insufficient_total, &mut self.insufficient);
        add(&metrics.superseded_total, &mut self.superseded);
        add(&metrics.commands_given_up_total, &mut self.commands_given_up);
        for (protocol, count) in
            mem::take(&mut self.messages_in).into_iter().enumerate().filter(|(_, count)| *count > 0)
        {
            metrics.messages_in(ProtocolId(protocol as u8), count);
        }
        if self.stale > 0 {
            metrics.dropped(Drop::Stale, mem::take(&mut self.stale));
        }
        if self.frames_discarded > 0 {
            metrics.dropped(Drop::OutboxFull, mem::take(&mut self.frames_discarded));
        }
    }
}
