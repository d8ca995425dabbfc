//! The metrics of clients that a node closes: for want of memory, or to balance the nodes.

use prometheus::{IntCounter, IntGauge, Registry};

use super::names;
use super::register::{counter, gauge};

#[derive(Debug)]
pub struct MoveMetrics {
    pub(crate) memory_closes_total: IntCounter,
    pub(crate) balance_closes_total: IntCounter,
    pub(crate) balance_closes_pending: IntGauge,
    pub(crate) presence_held: IntGauge,
    pub(crate) presence_held_channels: IntGauge,
    pub(crate) presence_held_bytes: IntGauge,
    pub(crate) presence_hold_overflows_total: IntCounter,
}

impl MoveMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            memory_closes_total: counter(registry, names::MEMORY_CLOSES_TOTAL),
            balance_closes_total: counter(registry, names::BALANCE_CLOSES_TOTAL),
            balance_closes_pending: gauge(registry, names::BALANCE_CLOSES_PENDING),
            presence_held: gauge(registry, names::PRESENCE_HELD),
            presence_held_channels: gauge(registry, names::PRESENCE_HELD_CHANNELS),
            presence_held_bytes: gauge(registry, names::PRESENCE_HELD_BYTES),
            presence_hold_overflows_total: counter(registry, names::PRESENCE_HOLD_OVERFLOWS_TOTAL),
        }
    }
}
