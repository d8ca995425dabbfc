//! The metrics of clients' connections: opened, open, and closed.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry};
use shared::disconnect::{Disconnect, SlowCause};
use shared::protocol::ProtocolId;

use super::Metrics;
use super::labels::Handshake;
use super::names;
use super::register::{by_protocol, counters, gauge, gauges, histogram, shown_counters};

/// The upper bounds of the buckets of a connection's lifetime, in seconds: from a second to a day.
const LIFE_BUCKETS: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];

/// The labels of closes without a close code of the gateway.
pub const CLOSE_BY_PEER: &str = "peer";
pub const CLOSE_LOST: &str = "lost";

#[derive(Debug)]
pub struct ConnectionMetrics {
    open: [IntGauge; ProtocolId::COUNT],
    opened_total: [IntCounter; ProtocolId::COUNT],
    pub(crate) max: IntGauge,
    handshakes_total: IntCounterVec,
    pub(crate) handshakes_pending: IntGauge,
    closes_total: IntCounterVec,
    slow_consumers_total: IntCounterVec,
    pub(crate) lived_seconds: Histogram,
}

impl ConnectionMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        let close_reasons = Disconnect::ALL.iter().map(Disconnect::label).chain([CLOSE_BY_PEER, CLOSE_LOST]);
        let slow_causes = SlowCause::ALL.into_iter().map(SlowCause::label);
        Self {
            open: by_protocol(&gauges(r, names::CONNECTIONS)),
            opened_total: by_protocol(&counters(r, names::CONNECTIONS_TOTAL)),
            max: gauge(r, names::CONNECTIONS_MAX),
            handshakes_total: shown_counters(
                r,
                names::HANDSHAKES_TOTAL,
                Handshake::ALL.into_iter().map(Handshake::label),
            ),
            handshakes_pending: gauge(r, names::HANDSHAKES_PENDING),
            closes_total: shown_counters(r, names::CLOSES_TOTAL, close_reasons),
            slow_consumers_total: shown_counters(r, names::SLOW_CONSUMERS_TOTAL, slow_causes),
            lived_seconds: histogram(r, names::CONNECTION_SECONDS, LIFE_BUCKETS),
        }
    }
}

impl Metrics {
    /// Counts a connected client, until [`Metrics::disconnected`].
    pub fn connected(&self, protocol: ProtocolId) {
        self.connection.open[usize::from(protocol.0)].inc();
        self.connection.opened_total[usize::from(protocol.0)].inc();
    }

    /// Counts a closed connection. `reason` is a [`Disconnect::label`], [`CLOSE_BY_PEER`] or [`CLOSE_LOST`].
    pub fn disconnected(&self, protocol: ProtocolId, reason: &'static str, lived: Duration) {
        self.connection.open[usize::from(protocol.0)].dec();
        self.connection.closes_total.with_label_values(&[reason]).inc();
        self.connection.lived_seconds.observe(lived.as_secs_f64());
    }

    /// Counts a client that is closed because it is too slow.
    pub fn slow_consumer(&self, cause: SlowCause) {
        self.connection.slow_consumers_total.with_label_values(&[cause.label()]).inc();
    }

    pub fn handshake(&self, result: Handshake) {
        self.connection.handshakes_total.with_label_values(&[result.label()]).inc();
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> i64 {
        self.connection.open.iter().map(IntGauge::get).sum()
    }
}
