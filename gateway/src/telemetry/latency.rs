//! Records latencies of one kind: in the buckets of their metric, in buckets fine enough for any quantile, and with the
//! traces of some of them.
//!
//! The fine buckets are those of Prometheus' native histograms: their bounds are powers of 2^(1/8), so that a quantile
//! is off by at most 9 %. Their number is fixed, so recording takes no lock and no further memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus::Histogram;
use shared::stamp::TraceContext;

/// The schema with eight fine buckets for each power of two.
pub(super) const SCHEMA: i32 = 3;
const PER_DOUBLING: i32 = 1 << SCHEMA;

/// Latencies up to this count in the zero bucket: 2^-20 s, about a microsecond.
pub(super) const ZERO_SECONDS: f64 = 1.0 / 1_048_576.0;
/// The first fine bucket ends at 2^(1/8) times [`ZERO_SECONDS`].
pub(super) const FIRST_BUCKET: i32 = -20 * PER_DOUBLING + 1;
/// The last fine bucket ends at 2^7 s. Longer latencies are counted in it, too.
const LAST_BUCKET: i32 = 7 * PER_DOUBLING;
const BUCKETS: usize = (LAST_BUCKET - FIRST_BUCKET + 1) as usize;

/// A latency and its trace.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Exemplar {
    pub(super) trace: u128,
    pub(super) seconds: f64,
    /// When it was observed, in seconds since 1970.
    pub(super) at: f64,
}

#[derive(Debug)]
pub(crate) struct Latency {
    buckets: Histogram,
    /// The upper bounds of `buckets`.
    ends: &'static [f64],
    zero: AtomicU64,
    fine: Box<[AtomicU64]>,
    /// The last trace in each bucket, and beyond the last bucket.
    exemplars: Mutex<Box<[Option<Exemplar>]>>,
}

/// The data that only some of the formats show.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Detail {
    pub(super) zero: u64,
    /// The fine buckets, from [`FIRST_BUCKET`] on.
    pub(super) fine: Vec<u64>,
    pub(super) exemplars: Vec<Option<Exemplar>>,
}

impl Latency {
    pub(super) fn new(buckets: Histogram, ends: &'static [f64]) -> Self {
        Self {
            buckets,
            ends,
            zero: AtomicU64::new(0),
            fine: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            exemplars: Mutex::new(vec![None; ends.len() + 1].into()),
        }
    }

    pub(super) fn observe(&self, seconds: f64, trace: Option<TraceContext>) {
        self.buckets.observe(seconds);
        let bucket = if seconds > ZERO_SECONDS { &self.fine[place(seconds)] } else { &self.zero };
        bucket.fetch_add(1, Ordering::Relaxed);
        if let Some(TraceContext { trace, .. }) = trace {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let bucket = self.ends.partition_point(|end| *end < seconds);
            self.exemplars.lock()[bucket] = Some(Exemplar { trace, seconds, at });
        }
    }

    pub(super) fn detail(&self) -> Detail {
        Detail {
            zero: self.zero.load(Ordering::Relaxed),
            fine: self.fine.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            exemplars: self.exemplars.lock().to_vec(),
        }
    }
}

/// Returns the index of the fine bucket for a latency.
fn place(seconds: f64) -> usize {
    let bucket = (seconds.log2() * f64::from(PER_DOUBLING)).ceil() as i32;
    (bucket.clamp(FIRST_BUCKET, LAST_BUCKET) - FIRST_BUCKET) as usize
}

/// Returns the upper bound of a fine bucket, in seconds.
pub(crate) fn end_of(bucket: i32) -> f64 {
    (f64::from(bucket) / f64::from(PER_DOUBLING)).exp2()
}

#[cfg(test)]
mod tests {
    use prometheus::HistogramOpts;

    use super::*;

    const ENDS: &[f64] = &[0.001, 0.01];

    fn latency() -> Latency {
        let options = HistogramOpts::new("a", "A.").buckets(ENDS.to_vec());
        Latency::new(Histogram::with_opts(options).unwrap(), ENDS)
    }

    #[test]
    fn every_latency_is_in_the_fine_bucket_around_it() {
        for seconds in [1.1e-6, 0.000_123, 0.001, 0.25, 1.0, 1.000_1, 77.7, 128.0] {
            let latency = latency();
            latency.observe(seconds, None);
            let detail = latency.detail();
            let at = detail.fine.iter().position(|count| *count == 1).unwrap() as i32 + FIRST_BUCKET;
            assert!(end_of(at - 1) < seconds && seconds <= end_of(at) * 1.000_001, "{seconds} is in {at}");
            assert_eq!((detail.zero, detail.fine.iter().sum::<u64>()), (0, 1));
        }
    }

    #[test]
    fn what_is_too_short_or_too_long_for_them_is_counted_at_their_ends() {
        let latency = latency();
        for seconds in [0.0, 1e-7, ZERO_SECONDS, 1e6] {
            latency.observe(seconds, None);
        }
        let detail = latency.detail();
        assert_eq!((detail.zero, detail.fine.last()), (3, Some(&1)));
        assert_eq!(latency.buckets.get_sample_count(), 4);
    }

    #[test]
    fn each_bucket_remembers_its_last_trace() {
        let latency = latency();
        for (seconds, trace) in [(0.000_5, 1), (0.001, 2), (0.5, 3)] {
            latency.observe(seconds, Some(TraceContext { trace, span: 1 }));
        }
        latency.observe(0.5, None);
        let traces: Vec<Option<u128>> = latency
            .detail()
            .exemplars
            .iter()
            .map(|exemplar| exemplar.map(|exemplar| exemplar.trace))
            .collect();
        assert_eq!(traces, [Some(2), None, Some(3)]);
    }
}
