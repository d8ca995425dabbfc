//! The one place that reads the time for sessions, hubs and feeds.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shared::moment::Moment;

/// Counts milliseconds since its creation.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    pub fn now(&self) -> Moment {
        Moment::ZERO + self.origin.elapsed()
    }

    /// Returns microseconds since the clock's creation, for measuring latencies.
    pub fn micros(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Returns seconds since 1970 by the wall clock.
    pub fn unix_seconds(&self) -> i64 {
        i64::try_from(since_1970().as_secs()).unwrap_or(i64::MAX)
    }

    /// Returns microseconds since 1970 by the wall clock.
    pub fn unix_micros(&self) -> u64 {
        u64::try_from(since_1970().as_micros()).unwrap_or(u64::MAX)
    }

    /// Returns milliseconds since 1970 by the wall clock.
    pub fn unix_millis(&self) -> u64 {
        u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX)
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
