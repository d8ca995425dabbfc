//! Limits log lines that others can cause as often as they like: most are suppressed and counted.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The most lines at once.
const AT_ONCE_MAX: u32 = 5;
/// After that, one line is let through in each interval.
const INTERVAL: Duration = Duration::from_secs(10);

/// Limits how often lines of one kind are logged.
#[derive(Debug, Default)]
pub struct LogLimiter(Mutex<LogLimiterState>);

#[derive(Debug, Default)]
struct LogLimiterState {
    /// Lines let through whose interval has not passed yet.
    admitted: u32,
    since: Option<Instant>,
    suppressed: u64,
}

impl LogLimiter {
    /// Returns `Some` if the line may be logged now, with the number of lines suppressed since the last one.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        let since = *state.since.get_or_insert(now);
        let gone_by = now.saturating_duration_since(since).as_nanos() / INTERVAL.as_nanos();
        let gone_by = u32::try_from(gone_by).unwrap_or(u32::MAX);
        state.admitted = state.admitted.saturating_sub(gone_by);
        state.since = Some(since + INTERVAL.saturating_mul(gone_by));
        if state.admitted < AT_ONCE_MAX {
            state.admitted += 1;
            return Some(std::mem::take(&mut state.suppressed));
        }
        state.suppressed += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_few_lines_and_says_how_many_it_would_have_been() {
        let (lines, start) = (LogLimiter::default(), Instant::now());
        let admitted = |at: Duration| lines.admit_at(start + at);
        for _ in 0..AT_ONCE_MAX {
            assert_eq!(admitted(Duration::ZERO), Some(0));
        }
        for _ in 0..1_000 {
            assert_eq!(admitted(INTERVAL / 2), None);
        }
        assert_eq!(admitted(INTERVAL), Some(1_000));
        assert_eq!(admitted(INTERVAL), None);
        // A long silence makes room for the initial number of lines again, and no more.
        let later = 1_000 * INTERVAL;
        let again: Vec<_> = (0..20).filter_map(|_| admitted(later)).collect();
        assert_eq!(again, [1, 0, 0, 0, 0]);
        assert_eq!(admitted(later), None);
    }
}
