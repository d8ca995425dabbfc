//! The one place that reads the time for sessions, hubs and feeds.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use shared::moment::Moment;

/// Counts milliseconds since it was made.
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

    /// Microseconds since the clock was made, for measuring latencies.
    pub fn micros(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Seconds since 1970, as the wall clock says now.
    pub fn unix_seconds(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
    }
}
