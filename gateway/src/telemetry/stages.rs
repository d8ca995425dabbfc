//! Measures how long publications take from their publishers to the sockets, stage by stage, for a sample of them.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::Registry;
use shared::stamp::TraceContext;

use super::labels::Stage;
use super::latency::{Detail, Latency};
use super::metrics::STAGE_BUCKETS;
use super::names;
use super::register::{histogram, histograms};

#[derive(Debug)]
pub(crate) struct StageMetrics {
    stages: [Latency; Stage::ALL.len()],
    delivery: Latency,
    sampler: Sampler,
}

impl StageMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let family = histograms(registry, names::STAGE_SECONDS, STAGE_BUCKETS);
        let stage = |stage: Stage| Latency::new(family.with_label_values(&[stage.label()]), STAGE_BUCKETS);
        let delivery = histogram(registry, names::DELIVERY_SECONDS, STAGE_BUCKETS);
        Self {
            stages: Stage::ALL.map(stage),
            delivery: Latency::new(delivery, STAGE_BUCKETS),
            sampler: Sampler::default(),
        }
    }

    /// Sets the most publications a second that are measured.
    pub(crate) fn set_samples_per_second(&self, samples: u32) {
        self.sampler.per_second.store(samples.into(), Ordering::Relaxed);
    }

    /// Whether the publication that arrived at this time is to be measured.
    pub(crate) fn is_due(&self, now_micros: u64) -> bool {
        self.sampler.is_due(now_micros / 1_000_000)
    }

    pub(crate) fn observe(&self, stage: Stage, micros: u64, trace: Option<TraceContext>) {
        self.stages[stage as usize].observe(micros as f64 / 1e6, trace);
    }

    /// Records that a publication has reached the last socket of a worker.
    pub(crate) fn delivered(&self, micros: u64, trace: Option<TraceContext>) {
        self.delivery.observe(micros as f64 / 1e6, trace);
    }

    /// Returns the details for the formats that show them, by the metric's name and its label `stage`.
    pub(super) fn details(&self) -> Vec<(&'static str, Option<&'static str>, Detail)> {
        let stages = Stage::ALL.into_iter().zip(&self.stages);
        let stages =
            stages.map(|(stage, latency)| (names::STAGE_SECONDS.name, Some(stage.label()), latency.detail()));
        stages.chain([(names::DELIVERY_SECONDS.name, None, self.delivery.detail())]).collect()
    }
}

/// Samples one publication in `stride`, which follows from their number in the second before. So publications in a
/// burst are as likely to be measured as others, and no more than `per_second` are.
#[derive(Debug, Default)]
struct Sampler {
    per_second: AtomicU64,
    second: AtomicU64,
    seen: AtomicU64,
    taken: AtomicU64,
    /// The sampling stride. 0: every publication is sampled, in the first second.
    stride: AtomicU64,
}

impl Sampler {
    fn is_due(&self, second: u64) -> bool {
        let per_second = self.per_second.load(Ordering::Relaxed);
        if per_second == 0 {
            return false;
        }
        let before = self.second.load(Ordering::Relaxed);
        if before != second
            && self.second.compare_exchange(before, second, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let seen = self.seen.swap(0, Ordering::Relaxed);
            self.stride.store(seen.div_ceil(per_second), Ordering::Relaxed);
            self.taken.store(0, Ordering::Relaxed);
        }
        let seen = self.seen.fetch_add(1, Ordering::Relaxed);
        seen.is_multiple_of(self.stride.load(Ordering::Relaxed).max(1))
            && self.taken.fetch_add(1, Ordering::Relaxed) < per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_measured_than_were_asked_for_and_they_are_spread_over_a_burst() {
        let sampler = Sampler::default();
        sampler.per_second.store(10, Ordering::Relaxed);
        let second = |second, publications| -> Vec<u64> {
            (0..publications).filter(|_| sampler.is_due(second)).collect()
        };
        assert_eq!(second(1, 4), [0, 1, 2, 3], "few are all measured");
        assert_eq!(second(2, 1_000).len(), 10, "what was not foreseen is bounded");
        let spread = second(3, 1_000);
        assert_eq!(spread, [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]);
        assert_eq!(second(4, 5_000).len(), 10);
        assert_eq!(second(9, 5_000), (0..10).map(|at| at * 500).collect::<Vec<_>>());
    }

    #[test]
    fn none_are_measured_where_none_are_asked_for() {
        assert!(!Sampler::default().is_due(1));
    }
}
