//! What is counted of Socket.IO.

use prometheus::{IntCounterVec, IntGauge, Registry};

use super::names;
use super::register::{counters, gauge};

#[derive(Debug)]
pub struct SocketIoMetrics {
    recoveries: IntCounterVec,
    pub(crate) sessions: IntGauge,
    asks: IntCounterVec,
    pub(crate) asks_pending: IntGauge,
}

impl SocketIoMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let recoveries = counters(registry, names::SOCKETIO_RECOVERIES_TOTAL);
        for result in [
            "recovered",
            "unknown",
            "other_user",
            "other_client",
            "offset",
            "stale",
            "history",
            "taken",
            "unreachable",
        ] {
            recoveries.with_label_values(&[result]);
        }
        let asks = counters(registry, names::SOCKETIO_ASKS_TOTAL);
        for result in ["answered", "timeout", "gone", "too_many", "too_long", "late"] {
            asks.with_label_values(&[result]);
        }
        Self {
            recoveries,
            sessions: gauge(registry, names::SOCKETIO_SESSIONS),
            asks,
            asks_pending: gauge(registry, names::SOCKETIO_ASKS_PENDING),
        }
    }

    /// A client has asked to come back to a session that it had.
    pub fn recovery(&self, result: &'static str) {
        self.recoveries.with_label_values(&[result]).inc();
    }

    /// A client was asked for an acknowledgement, or has given one that nobody waits for.
    pub fn asked(&self, result: &'static str) {
        self.asks.with_label_values(&[result]).inc();
    }
}
