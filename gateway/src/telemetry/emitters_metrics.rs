//! The metrics of Socket.IO emitters: their messages, and the results of carrying them out.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::names;
use super::register::{counter, counters, gauge};

/// The metrics of emitters.
#[derive(Clone, Debug)]
pub struct EmittersMetrics {
    messages: IntCounterVec,
    /// Whether the connection to the emitters' Redis is open.
    pub link_up: IntGauge,
    pub reconnects: IntCounter,
    /// Whether this node carries out the messages.
    pub leads: IntGauge,
    pub waiting_bytes: IntGauge,
}

impl EmittersMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            messages: counters(registry, names::EMITTED_TOTAL),
            link_up: gauge(registry, names::EMITTERS_LINK_UP),
            reconnects: counter(registry, names::EMITTERS_RECONNECTS_TOTAL),
            leads: gauge(registry, names::EMITTERS_LEADER),
            waiting_bytes: gauge(registry, names::EMITTERS_WAITING_BYTES),
        }
    }

    /// Counts messages. Both labels are of bounded sets of words.
    pub fn message(&self, kind: &'static str, result: &'static str, count: u64) {
        self.messages.with_label_values(&[kind, result]).inc_by(count);
    }
}
