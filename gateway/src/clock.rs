//! The one place that reads the time for sessions, hubs and feeds.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shared::moment::Moment;

/// Counts milliseconds since it was made, and knows what time of day that was.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    origin_unix: Duration,
}

impl Clock {
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
            origin_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    pub fn now(&self) -> Moment {
        Moment::ZERO + self.origin.elapsed()
    }

    /// Microseconds since the clock was made, for measuring latencies.
    pub fn micros(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Seconds since 1970, as the wall clock says now.
    pub fn unix_seconds(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
    }

    /// The moment at which the wall clock will say this many seconds since 1970; the clock's start if that is
    /// past already.
    pub fn at_unix(&self, seconds: i64) -> Moment {
        let since_epoch = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Moment::ZERO + since_epoch.saturating_sub(self.origin_unix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_second_is_as_far_off_on_the_monotonic_clock() {
        let clock = Clock::start();
        let ahead = clock.at_unix(clock.unix_seconds() + 100).since(clock.now());
        assert!((98..=101).contains(&ahead.as_secs()), "{ahead:?}");
        assert_eq!(clock.at_unix(-5), Moment::ZERO);
    }
}
