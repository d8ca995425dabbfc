//! The metrics of a node about the other nodes of its cluster.

use prometheus::{IntCounter, IntGauge, Registry};

use super::names;
use super::register::{counter, gauge};

#[derive(Debug)]
pub struct ClusterMetrics {
    pub(crate) nodes: IntGauge,
    pub(crate) nodes_expected: IntGauge,
    pub(crate) nodes_lost_total: IntCounter,
}

impl ClusterMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            nodes: gauge(registry, names::NODES),
            nodes_expected: gauge(registry, names::NODES_EXPECTED),
            nodes_lost_total: counter(registry, names::NODES_LOST_TOTAL),
        }
    }
}
