//! Latencies as an HDR histogram that takes no memory until something is recorded, since threads hand over new ones all
//! the time.

use hdrhistogram::Histogram;

/// Bounds in nanoseconds: 1 µs to 600 s. Shorter and longer ones count as these.
const NS_MIN: u64 = 1_000;
const NS_MAX: u64 = 600_000_000_000;
const DIGITS: u8 = 3;

/// Nanoseconds, to three digits. All have the same bounds, so any two can be merged.
#[derive(Debug, Default)]
pub struct Latencies(Option<Histogram<u64>>);

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

    fn histogram_mut(&mut self) -> &mut Histogram<u64> {
        self.0.get_or_insert_with(|| {
            Histogram::new_with_bounds(NS_MIN, NS_MAX, DIGITS)
                .expect("the bounds are constants in the order that histograms need")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_of_several_threads_merge_into_what_one_would_have_recorded() {
        let mut whole = Latencies::default();
        let mut parts =
            [Latencies::default(), Latencies::default(), Latencies::default(), Latencies::default()];
        for index in 0..30_000_u64 {
            let nanos = index * index * 7;
            whole.record(nanos);
            parts[(index % 3) as usize].record(nanos);
        }
        let mut merged = Latencies::default();
        for part in &parts {
            merged.merge(part);
        }
        assert_eq!(merged.histogram(), whole.histogram());
        assert_eq!(merged.histogram().unwrap().len(), 30_000);
        assert!(parts[3].histogram().is_none());
    }

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
