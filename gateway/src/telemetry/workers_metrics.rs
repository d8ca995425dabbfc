//! The metrics of each worker, labelled with its number.

use prometheus::{Counter, CounterVec, IntGauge, IntGaugeVec, Registry};

use super::names;
use super::register::{float_counters, gauges};

/// The metrics of all workers.
#[derive(Debug)]
pub(super) struct WorkersMetrics {
    inbox: IntGaugeVec,
    busy_seconds_total: CounterVec,
    connections: IntGaugeVec,
    io_uring: IntGaugeVec,
}

/// The metrics of one worker, looked up once and counted without a lookup.
#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    pub inbox: IntGauge,
    pub busy_seconds_total: Counter,
    pub connections: IntGauge,
    /// Whether the worker sends to many clients in one system call.
    pub io_uring: IntGauge,
}

impl WorkersMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            inbox: gauges(registry, names::WORKER_INBOX),
            busy_seconds_total: float_counters(registry, names::WORKER_BUSY_SECONDS_TOTAL),
            connections: gauges(registry, names::WORKER_CONNECTIONS),
            io_uring: gauges(registry, names::WORKER_IO_URING),
        }
    }

    pub(super) fn of(&self, index: usize) -> WorkerMetrics {
        let label = index.to_string();
        WorkerMetrics {
            inbox: self.inbox.with_label_values(&[&label]),
            busy_seconds_total: self.busy_seconds_total.with_label_values(&[&label]),
            connections: self.connections.with_label_values(&[&label]),
            io_uring: self.io_uring.with_label_values(&[&label]),
        }
    }
}
