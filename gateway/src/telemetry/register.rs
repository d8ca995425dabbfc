//! Creates metrics by their definitions and registers them.

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};
use shared::protocol::ProtocolId;

use super::names::Name;

pub(super) fn by_protocol<M: prometheus::core::MetricVecBuilder>(
    family: &prometheus::core::MetricVec<M>,
) -> [M::M; ProtocolId::COUNT] {
    std::array::from_fn(|index| family.with_label_values(&[ProtocolId(index as u8).name()]))
}

pub(super) fn options(name: Name) -> Opts {
    Opts::new(name.name, name.help)
}

/// Registers a metric that this file has created.
pub(super) fn register<M: Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<M>,
) -> M {
    let metric = made.expect("names and labels are constants, and a test makes them all");
    registry.register(Box::new(metric.clone())).expect("a test shows that no name is there twice");
    metric
}

pub(super) fn counter(registry: &Registry, name: Name) -> IntCounter {
    register(registry, IntCounter::with_opts(options(name)))
}

pub(super) fn counters(registry: &Registry, name: Name) -> IntCounterVec {
    register(registry, IntCounterVec::new(options(name), &name.label_names()))
}

/// Registers counters that are shown as 0 before the first count, so that a rate is right from the start.
pub(super) fn shown_counters<'l>(
    registry: &Registry,
    name: Name,
    labels: impl Iterator<Item = &'l str>,
) -> IntCounterVec {
    let family = counters(registry, name);
    labels.for_each(|label| drop(family.with_label_values(&[label])));
    family
}

pub(super) fn float_counters(registry: &Registry, name: Name) -> CounterVec {
    register(registry, CounterVec::new(options(name), &name.label_names()))
}

pub(super) fn gauge(registry: &Registry, name: Name) -> IntGauge {
    register(registry, IntGauge::with_opts(options(name)))
}

pub(super) fn gauges(registry: &Registry, name: Name) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(options(name), &name.label_names()))
}

pub(super) fn histogram_options(name: Name, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::new(name.name, name.help).buckets(buckets.to_vec())
}

pub(super) fn histogram(registry: &Registry, name: Name, buckets: &[f64]) -> Histogram {
    register(registry, Histogram::with_opts(histogram_options(name, buckets)))
}

pub(super) fn histograms(registry: &Registry, name: Name, buckets: &[f64]) -> HistogramVec {
    register(registry, HistogramVec::new(histogram_options(name, buckets), &name.label_names()))
}
