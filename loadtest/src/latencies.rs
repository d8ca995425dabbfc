//! Latencies as an HDR histogram. An empty one takes no memory, since every collection of counts leaves an empty one behind.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Bounds in nanoseconds: 1 µs to 600 s. Shorter and longer latencies count as the bounds.
const NS_MIN: u64 = 1_000;
const NS_MAX: u64 = 600_000_000_000;
const DIGITS: u8 = 3;
const NANOS_PER_MS: f64 = 1e6;

/// Nanoseconds, to three digits. All have the same bounds, so any two can be merged.
#[derive(Serialize, Clone, Debug, Default, PartialEq)]
#[serde(into = "Summary")]
pub struct Latencies(Option<Histogram<u64>>);

/// Latencies as a report shows them, in milliseconds.
#[derive(Serialize, Clone, Copy, Debug, Default)]
pub struct Summary {
    pub count: u64,
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Latencies {
    pub fn record(&mut self, nanos: u64) {
        self.histogram_mut().saturating_record(nanos.clamp(NS_MIN, NS_MAX));
    }

    pub fn merge(&mut self, other: &Self) {
        if let Some(other) = &other.0 {
            self.histogram_mut().add(other).expect("histograms with the same bounds can be added");
        }
    }

    /// `None` if nothing was recorded.
    pub fn histogram(&self) -> Option<&Histogram<u64>> {
        self.0.as_ref()
    }

    /// Returns the distribution in percent and milliseconds, in steps that get finer towards the end. The largest of n
    /// values stands at 100 % less half a value: at 99.95 % of a thousand.
    pub fn percentiles(&self) -> Vec<(f64, f64)> {
        let Some(histogram) = &self.0 else { return Vec::new() };
        let last = 1.0 - 0.5 / histogram.len().max(1) as f64;
        let steps = histogram.iter_quantiles(8);
        steps
            .map(|step| {
                (step.quantile_iterated_to().min(last) * 100.0, milliseconds(step.value_iterated_to()))
            })
            .collect()
    }

    fn histogram_mut(&mut self) -> &mut Histogram<u64> {
        self.0.get_or_insert_with(|| {
            Histogram::new_with_bounds(NS_MIN, NS_MAX, DIGITS)
                .expect("the bounds are constants in the order that histograms need")
        })
    }
}

impl From<Latencies> for Summary {
    fn from(latencies: Latencies) -> Self {
        let Some(histogram) = &latencies.0 else { return Self::default() };
        let at = |quantile| milliseconds(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            min: milliseconds(histogram.min()),
            mean: histogram.mean() / NANOS_PER_MS,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: milliseconds(histogram.max()),
        }
    }
}

pub fn milliseconds(nanos: u64) -> f64 {
    nanos as f64 / NANOS_PER_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_the_bounds_is_kept_at_the_bound() {
        let mut latencies = Latencies::default();
        latencies.record(0);
        latencies.record(u64::MAX);
        let histogram = latencies.histogram().unwrap();
        assert_eq!(histogram.len(), 2);
        assert!(histogram.max() >= NS_MAX && histogram.min() <= NS_MIN);
    }
}
