//! Whose turn it is to read, as long as this node has seen it to be: by how much time went by here, whatever clocks show.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// The turn of one reader, as it was seen first.
#[derive(Debug)]
struct SeenTurn {
    by: Box<str>,
    until: u64,
    ends: Instant,
}

#[derive(Debug, Default)]
pub(super) struct SeenTurns(HashMap<Box<str>, SeenTurn>);

impl SeenTurns {
    /// How much of a turn is left. `time`: of the last message in the log; like `until`, in milliseconds since 1970, by the server's clock.
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
            // What the log says since then may be sooner.
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
        // By a clock of 1970, and by one of the year 5138.
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
