//! Computes figures from readings: sums, rates between two of them, and quantiles of the values in between.

use std::collections::BTreeMap;

use super::read_nodes::{Reading, WatchedNode};
use crate::telemetry::exposition::protobuf::{Histogram, Metric};
use crate::telemetry::latency::end_of;

/// The key of the zero bucket.
const ZERO: i32 = i32::MIN;

/// The number of values in each fine bucket.
pub(super) type Buckets = BTreeMap<i32, u64>;

fn metrics<'r>(reading: &'r Reading, name: &str) -> &'r [Metric] {
    reading.families.get(name).map_or(&[], |family| &family.metric)
}

fn value(metric: &Metric) -> f64 {
    let value = metric.gauge.or(metric.counter);
    value.map_or(0.0, |value| value.value())
}

fn label<'m>(metric: &'m Metric, name: &str) -> Option<&'m str> {
    metric.label.iter().find(|label| label.name() == name).map(|label| label.value())
}

/// Returns the metrics of a name. A publication counts where it was published: its arrival from the broker is counted
/// with the source `node` on every node, that one included, and is left out.
fn counting<'r>(reading: &'r Reading, name: &str) -> impl Iterator<Item = &'r Metric> {
    metrics(reading, name).iter().filter(|metric| label(metric, "source") != Some("node"))
}

/// Returns the sum of a counter or a gauge over all its labels.
pub(super) fn sum(reading: &Reading, name: &str) -> f64 {
    counting(reading, name).map(value).sum()
}

/// Returns the lowest value of a gauge, if there is one.
pub(super) fn least(reading: &Reading, name: &str) -> Option<f64> {
    metrics(reading, name).iter().map(value).reduce(f64::min)
}

/// Returns the sums for each value of one label.
pub(super) fn by_label<'r>(reading: &'r Reading, name: &str, by: &str) -> BTreeMap<&'r str, f64> {
    let mut sums = BTreeMap::new();
    for metric in counting(reading, name) {
        *sums.entry(label(metric, by).unwrap_or_default()).or_default() += value(metric);
    }
    sums
}

/// Returns the name of the node, if its metrics carry it.
pub(super) fn node_label(reading: &Reading) -> Option<String> {
    let metric = metrics(reading, "tidegate_ready").first()?;
    label(metric, "node").map(str::to_owned)
}

impl WatchedNode {
    pub(super) fn last(&self) -> Option<&Reading> {
        self.readings.back().filter(|_| self.gone.is_none())
    }

    /// Returns the reading before the last, and the seconds between them.
    fn before(&self) -> Option<(&Reading, f64)> {
        let last = self.last()?;
        let before = self.readings.get(self.readings.len().checked_sub(2)?)?;
        Some((before, last.at.duration_since(before.at).as_secs_f64().max(0.001)))
    }

    /// Returns how much a counter grows in a second. `None` before there are two readings.
    pub(super) fn rate(&self, name: &str) -> Option<f64> {
        let (before, seconds) = self.before()?;
        Some((sum(self.last()?, name) - sum(before, name)).max(0.0) / seconds)
    }

    /// Returns the rates for each value of one label that grows.
    pub(super) fn rates(&self, name: &str, by: &str) -> Vec<(String, f64)> {
        let (Some(last), Some((before, seconds))) = (self.last(), self.before()) else { return Vec::new() };
        let before = by_label(before, name, by);
        let rate = |(value, sum): (&str, f64)| {
            let rate = (sum - before.get(value).copied().unwrap_or_default()) / seconds;
            (rate > 0.0).then(|| (value.to_owned(), rate))
        };
        by_label(last, name, by).into_iter().filter_map(rate).collect()
    }

    /// Returns the values that a histogram received between the oldest kept reading and the last one.
    pub(super) fn latencies(&self, name: &str, stage: Option<&str>) -> Buckets {
        let of = |reading: &Reading| {
            let is_it = |metric: &&Metric| label(metric, "stage") == stage;
            let found = metrics(reading, name).iter().find(is_it);
            found.and_then(|metric| metric.histogram.as_ref()).map(buckets).unwrap_or_default()
        };
        let (Some(last), Some(first)) = (self.last(), self.readings.front()) else { return Buckets::new() };
        let before = of(first);
        let grown = of(last).into_iter().map(|(bucket, count)| {
            (bucket, count.saturating_sub(before.get(&bucket).copied().unwrap_or_default()))
        });
        grown.filter(|(_, count)| *count > 0).collect()
    }
}

/// Decodes the runs of buckets and the differences between their counts.
fn buckets(histogram: &Histogram) -> Buckets {
    let mut buckets = Buckets::from([(ZERO, histogram.zero_count())]);
    let (mut bucket, mut count) = (0_i32, 0_i64);
    let mut deltas = histogram.positive_delta.iter();
    for span in &histogram.positive_span {
        bucket = bucket.saturating_add(span.offset());
        for _ in 0..span.length() {
            let Some(delta) = deltas.next() else { return buckets };
            count = count.saturating_add(*delta);
            buckets.insert(bucket, u64::try_from(count).unwrap_or(0));
            bucket = bucket.saturating_add(1);
        }
    }
    buckets
}

/// Adds the values of other buckets.
pub(super) fn add(sum: &mut Buckets, other: &Buckets) {
    for (bucket, count) in other {
        *sum.entry(*bucket).or_default() += count;
    }
}

/// Returns the quantile for this share, in seconds. `None` where there are no values.
pub(super) fn quantile(buckets: &Buckets, share: f64) -> Option<f64> {
    let count: u64 = buckets.values().sum();
    let rank = ((count as f64 * share).ceil() as u64).max(1);
    let mut passed = 0;
    buckets.iter().find_map(|(bucket, in_it)| {
        passed += in_it;
        (count > 0 && passed >= rank).then(|| if *bucket == ZERO { 0.0 } else { end_of(*bucket) })
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::VecDeque;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::telemetry::Metrics;
    use crate::telemetry::exposition::ExpositionFormat;
    use crate::telemetry::exposition::protobuf;
    use gateway_core::namespace_id::NamespaceId;

    use crate::telemetry::labels::{PublicationSource, Stage};

    pub(in crate::top) fn reading(metrics: &Metrics, at: Instant) -> Reading {
        let families = protobuf::read(&metrics.render_as(ExpositionFormat::Protobuf).unwrap()).unwrap();
        let families = families.into_iter().map(|family| (family.name().to_owned(), family)).collect();
        Reading { at, families }
    }

    /// A node that was read twice, two seconds apart.
    pub(in crate::top) fn node(name: &str, between: impl FnOnce(&Metrics)) -> WatchedNode {
        let (metrics, at) = (Metrics::new(), Instant::now());
        metrics.publication_in(NamespaceId::DEFAULT, PublicationSource::Api);
        metrics.stages.observe(Stage::Queue, 900_000, None);
        let first = reading(&metrics, at);
        between(&metrics);
        let second = reading(&metrics, at + Duration::from_secs(2));
        WatchedNode::of(name, VecDeque::from([first, second]))
    }

    #[test]
    fn rates_and_quantiles_are_of_what_came_between_two_readings() {
        let node = node("a", |metrics| {
            for _ in 0..6 {
                metrics.publication_in(NamespaceId::DEFAULT, PublicationSource::Client);
                metrics.publication_in(NamespaceId::DEFAULT, PublicationSource::Node);
            }
            for micros in [1_000, 1_000, 1_000, 50_000] {
                metrics.stages.observe(Stage::Queue, micros, None);
            }
        });
        assert_eq!(node.rate("tidegate_publications_in_total"), Some(3.0));
        assert_eq!(node.rates("tidegate_publications_in_total", "source"), [("client".to_owned(), 3.0)]);
        let latencies = node.latencies("tidegate_stage_seconds", Some("queue"));
        let near = |share: f64, seconds: f64| {
            let found = quantile(&latencies, share).unwrap();
            assert!(found >= seconds && found < seconds * 1.1, "{share}: {found}");
        };
        near(0.5, 0.001);
        near(0.75, 0.001);
        near(0.99, 0.05);
        assert_eq!(quantile(&node.latencies("tidegate_stage_seconds", Some("node")), 0.5), None);
        assert_eq!(quantile(&Buckets::from([(ZERO, 2)]), 0.99), Some(0.0));
    }
}
