//! Measures how long other nodes' leases on reading last, by the time that passes on this node, whatever the clocks of
//! nodes show.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// A reader's lease, as this node saw it first.
#[derive(Debug)]
struct SeenTurn {
    by: Box<str>,
    until: u64,
    ends: Instant,
}

#[derive(Debug, Default)]
pub(super) struct SeenTurns(HashMap<Box<str>, SeenTurn>);

impl SeenTurns {
    /// Returns how much of a lease is left. `time`, of the last message in the log, and `until` are in milliseconds
    /// since 1970, by the server's clock.
    pub(super) fn left(
        &mut self,
        reader: &str,
        (by, until): (&str, u64),
        time: u64,
        now: Instant,
    ) -> Duration {
        let is_same = |seen: &&SeenTurn| *seen.by == *by && seen.until == until;
        let length = Duration::from_millis(until.saturating_sub(time));
        let ends = match self.0.get(reader).filter(is_same) {
            // By the log's time the lease may end sooner.
            Some(seen) => seen.ends.min(now + length),
            None => now + length,
        };
        self.0.insert(reader.into(), SeenTurn { by: by.into(), until, ends });
        ends.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_lasts_as_long_as_it_is_seen_to_whatever_the_clocks_of_nodes_show() {
        let now = Instant::now();
        let after = |millis| now + Duration::from_millis(millis);
        // With a server clock in 1970, and one in the year 5138.
        for time in [1_000, 100_000_000_000_000] {
            let mut turns = SeenTurns::default();
            let mut left =
                |by, until, log_time, at| turns.left("main", (by, until), log_time, at).as_millis();
            assert_eq!(left("one", time + 500, time, after(0)), 500);
            assert_eq!(left("one", time + 500, time, after(400)), 100);
            assert_eq!(left("one", time + 500, time + 480, after(410)), 20, "the log knows better");
            assert_eq!(left("one", time + 500, time, after(500)), 0);
            assert_eq!(left("one", time + 900, time + 400, after(510)), 500, "it was prolonged");
            assert_eq!(left("other", time + 900, time + 400, after(610)), 500, "another has it");
            assert_eq!(left("other", time + 410, time + 410, after(620)), 0, "it has left");
        }
    }
}
