//! Lines that others can cause as often as they like: logged now and then, with how many were not.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// So many lines may come at once.
const AT_ONCE_MAX: u32 = 5;
/// Then one is let through in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// Says when to log a line of one kind.
#[derive(Debug, Default)]
pub struct Sparingly(Mutex<SparingState>);

#[derive(Debug, Default)]
struct SparingState {
    /// Lines let through for which no interval has gone by yet.
    told: u32,
    since: Option<Instant>,
    untold: u64,
}

impl Sparingly {
    /// `Some` if the line may be logged now: how many were not, since the last that was.
    pub fn now(&self) -> Option<u64> {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        let since = *state.since.get_or_insert(now);
        let gone_by = now.saturating_duration_since(since).as_nanos() / INTERVAL.as_nanos();
        let gone_by = u32::try_from(gone_by).unwrap_or(u32::MAX);
        state.told = state.told.saturating_sub(gone_by);
        state.since = Some(since + INTERVAL.saturating_mul(gone_by));
        if state.told < AT_ONCE_MAX {
            state.told += 1;
            return Some(std::mem::take(&mut state.untold));
        }
        state.untold += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_few_lines_and_says_how_many_it_would_have_been() {
        let (lines, start) = (Sparingly::default(), Instant::now());
        let told = |at: Duration| lines.at(start + at);
        for _ in 0..AT_ONCE_MAX {
            assert_eq!(told(Duration::ZERO), Some(0));
        }
        for _ in 0..1_000 {
            assert_eq!(told(INTERVAL / 2), None);
        }
        assert_eq!(told(INTERVAL), Some(1_000));
        assert_eq!(told(INTERVAL), None);
        // A long silence makes room for a few again, and no more.
        let later = 1_000 * INTERVAL;
        let again: Vec<_> = (0..20).filter_map(|_| told(later)).collect();
        assert_eq!(again, [1, 0, 0, 0, 0]);
        assert_eq!(told(later), None);
    }
}
