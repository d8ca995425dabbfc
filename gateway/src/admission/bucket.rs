//! A token bucket: bounds an average rate per second, and how many may come at once.

use std::time::Duration;

use shared::moment::Moment;

/// Tokens are counted in thousandths: a rate of n a second is exactly n thousandths a millisecond.
const TOKEN: u64 = 1000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bucket {
    thousandths: u64,
    at: Moment,
}

/// How fast a bucket fills, and to where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BucketRate {
    pub(super) per_s: u32,
    pub(super) burst: u32,
}

impl Bucket {
    pub(super) fn full(rate: BucketRate, now: Moment) -> Self {
        Self { thousandths: u64::from(rate.burst) * TOKEN, at: now }
    }

    /// Takes a token, or returns how long it is until one is available.
    pub(super) fn take(&mut self, rate: BucketRate, now: Moment) -> Result<(), Duration> {
        self.fill(rate, now);
        if self.thousandths >= TOKEN {
            self.thousandths -= TOKEN;
            return Ok(());
        }
        let missing = TOKEN - self.thousandths;
        Err(Duration::from_millis(missing.div_ceil(u64::from(rate.per_s.max(1)))))
    }

    fn fill(&mut self, rate: BucketRate, now: Moment) {
        let passed = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        let filled = self.thousandths.saturating_add(passed.saturating_mul(u64::from(rate.per_s)));
        self.thousandths = filled.min(u64::from(rate.burst) * TOKEN);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: BucketRate = BucketRate { per_s: 10, burst: 3 };

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut bucket = Bucket::full(RATE, Moment(0));
        for _ in 0..3 {
            assert_eq!(bucket.take(RATE, Moment(0)), Ok(()));
        }
        assert_eq!(bucket.take(RATE, Moment(0)), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(RATE, Moment(40)), Err(Duration::from_millis(60)));
        assert_eq!(bucket.take(RATE, Moment(100)), Ok(()));
        assert_eq!(bucket.take(RATE, Moment(100)), Err(Duration::from_millis(100)));
    }

    #[test]
    fn a_pause_fills_it_to_the_burst_and_no_further() {
        let mut bucket = Bucket::full(RATE, Moment(0));
        let passed = (0..100).filter(|_| bucket.take(RATE, Moment(3_600_000)).is_ok()).count();
        assert_eq!(passed, 3);
    }

    #[test]
    fn over_a_long_time_the_rate_is_exact() {
        let rate = BucketRate { per_s: 7, burst: 1 };
        let mut bucket = Bucket::full(rate, Moment(0));
        let passed = (0..=100_000).filter(|ms| bucket.take(rate, Moment(*ms)).is_ok()).count();
        assert!((694..=701).contains(&passed), "{passed}");
    }
}
