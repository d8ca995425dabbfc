//! The metrics of the broker, of whichever kind it is.

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::metrics::FAST_BUCKETS;
use super::names;
use super::register::{counter, counters, gauge, gauges, histograms};

#[derive(Debug)]
pub struct BrokerFamilies {
    pub(crate) seconds: HistogramVec,
    pub(crate) errors_total: IntCounterVec,
    pub(crate) link_up: IntGaugeVec,
    pub(crate) reconnects_total: IntCounterVec,
    pub(crate) master_changes_total: IntCounter,
    pub(crate) sentinels_up: IntGauge,
    pub(crate) channels: IntGauge,
    pub(crate) received_bytes_total: IntCounter,
    pub(crate) unreadable_total: IntCounter,
    pub(crate) repeated_total: IntCounter,
    pub(crate) evictions_total: IntCounterVec,
    pub(crate) presence_overflows_total: IntCounter,
    pub(crate) ledger_unshortened_total: IntCounter,
}

impl BrokerFamilies {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            seconds: histograms(r, names::BROKER_SECONDS, FAST_BUCKETS),
            errors_total: counters(r, names::BROKER_ERRORS_TOTAL),
            link_up: gauges(r, names::BROKER_LINK_UP),
            reconnects_total: counters(r, names::BROKER_RECONNECTS_TOTAL),
            master_changes_total: counter(r, names::BROKER_MASTER_CHANGES_TOTAL),
            sentinels_up: gauge(r, names::BROKER_SENTINELS_UP),
            channels: gauge(r, names::BROKER_CHANNELS),
            received_bytes_total: counter(r, names::BROKER_RECEIVED_BYTES_TOTAL),
            unreadable_total: counter(r, names::BROKER_UNREADABLE_TOTAL),
            repeated_total: counter(r, names::BROKER_REPEATED_TOTAL),
            evictions_total: counters(r, names::BROKER_EVICTIONS_TOTAL),
            presence_overflows_total: counter(r, names::PRESENCE_OVERFLOWS_TOTAL),
            ledger_unshortened_total: counter(r, names::LEDGER_UNSHORTENED_TOTAL),
        }
    }
}
