//! What is counted of each of several Redis servers, and what nodes that know of each other say of them.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::names;
use super::register::{counters, gauge, gauges};

/// What other nodes say of their way to the broker.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Neighbors {
    /// Those that place channels in another way, in words. Empty: there are none.
    pub apart: String,
    /// How many they are.
    pub apart_count: usize,
    /// For each part of the broker, a node that can use it.
    pub uses: Vec<Option<Box<str>>>,
}

/// The servers are those that the configuration names.
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

    /// Has every metric of a server exist.
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
