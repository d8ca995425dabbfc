//! The metrics of each of several Redis servers, and what other nodes report about them.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::names;
use super::register::{counters, gauge, gauges};

/// The reports of other nodes about their access to the broker.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Neighbors {
    /// A description of the nodes that place channels differently. Empty: there are none.
    pub apart: String,
    /// The number of these nodes.
    pub apart_count: usize,
    /// For each part of the broker, a node that can use it.
    pub uses: Vec<Option<Box<str>>>,
}

/// The metrics of each server. The label values are bounded by the configuration.
#[derive(Debug)]
pub struct ShardMetrics {
    pub(crate) up: IntGaugeVec,
    pub(crate) channels: IntGaugeVec,
    pub(crate) published_total: IntCounterVec,
    pub(crate) errors_total: IntCounterVec,
    pub(crate) reconnects_total: IntCounterVec,
    pub(crate) nodes_apart: IntGauge,
}

impl ShardMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            up: gauges(registry, names::BROKER_SHARD_UP),
            channels: gauges(registry, names::BROKER_SHARD_CHANNELS),
            published_total: counters(registry, names::BROKER_SHARD_PUBLISHED_TOTAL),
            errors_total: counters(registry, names::BROKER_SHARD_ERRORS_TOTAL),
            reconnects_total: counters(registry, names::BROKER_SHARD_RECONNECTS_TOTAL),
            nodes_apart: gauge(registry, names::NODES_APART),
        }
    }

    /// Creates every metric of a server.
    #[cfg(test)]
    pub(super) fn name_one(&self) {
        let shard = &["10.0.0.1:6379"];
        self.up.with_label_values(shard).set(1);
        self.channels.with_label_values(shard).set(1);
        for counter in [&self.published_total, &self.errors_total, &self.reconnects_total] {
            counter.with_label_values(shard).inc();
        }
    }
}
