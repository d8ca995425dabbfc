//! The metrics of Socket.IO.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::names;
use super::register::{counters, gauge, gauges};

#[derive(Debug)]
pub struct SocketIoMetrics {
    recoveries: IntCounterVec,
    pub(crate) sessions: IntGauge,
    clients: IntGaugeVec,
    received: IntCounter,
    refused: IntCounter,
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
        let events = counters(registry, names::SOCKETIO_EVENTS_TOTAL);
        Self {
            clients: gauges(registry, names::SOCKETIO_CLIENTS),
            received: events.with_label_values(&["received"]),
            refused: events.with_label_values(&["refused"]),
            recoveries,
            sessions: gauge(registry, names::SOCKETIO_SESSIONS),
            asks,
            asks_pending: gauge(registry, names::SOCKETIO_ASKS_PENDING),
        }
    }

    /// Adds to the number of clients in this namespace, which must be configured.
    pub fn entered(&self, namespace: &str, clients: i64) {
        self.clients.with_label_values(&[namespace]).add(clients);
    }

    /// Counts events of clients, and those of them that were refused.
    pub fn events(&self, received: u32, refused: u32) {
        self.received.inc_by(received.into());
        self.refused.inc_by(refused.into());
    }

    /// Counts a client's attempt to return to its session.
    pub fn recovery(&self, result: &'static str) {
        self.recoveries.with_label_values(&[result]).inc();
    }

    /// Counts the end of a request for acknowledgement, or an acknowledgement that nobody waits for.
    pub fn ask_ended(&self, result: &'static str) {
        self.asks.with_label_values(&[result]).inc();
    }
}
