//! What a worker counts for itself and hands to the metrics once a turn, so that no shared counter is touched for
//! each delivery.

use shared::protocol::ProtocolId;

use crate::telemetry::Metrics;
use crate::telemetry::labels::Drop;

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) messages_in: [u64; ProtocolId::COUNT],
    pub(crate) deliveries: u64,
    /// Frames given up for clients that did not read them; each such client is closed and told.
    pub(crate) frames_discarded: u64,
    pub(crate) insufficient: u64,
    /// Newest values that gave way to newer ones while they waited for a client.
    pub(crate) superseded: u64,
    /// Newest values that became too old while they waited.
    pub(crate) stale: u64,
    /// Of clients that had left, and whose time was over.
    pub(crate) commands_given_up: u64,
}

impl Tally {
    /// Adds what was counted since the last time, and begins anew.
    pub(crate) fn report(&mut self, metrics: &Metrics) {
        let tally = std::mem::take(self);
        let add = |counter: &prometheus::IntCounter, count: u64| {
            if count > 0 {
                counter.inc_by(count);
            }
        };
        add(&metrics.bytes_in_total, tally.bytes_in);
        add(&metrics.bytes_out_total, tally.bytes_out);
        add(&metrics.deliveries_out_total, tally.deliveries);
        add(&metrics.insufficient_total, tally.insufficient);
        add(&metrics.superseded_total, tally.superseded);
        add(&metrics.commands_given_up_total, tally.commands_given_up);
        for (protocol, count) in tally.messages_in.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            metrics.messages_in(ProtocolId(protocol as u8), count);
        }
        if tally.stale > 0 {
            metrics.dropped(Drop::Stale, tally.stale);
        }
        if tally.frames_discarded > 0 {
            metrics.dropped(Drop::OutboxFull, tally.frames_discarded);
        }
    }
}
