//! When each publication is due: a fixed schedule, whatever the server does (open loop).
//!
//! The latency of a publication that leaves late counts from the moment when it was due. A stall of the server therefore
//! shows in every publication that was due meanwhile, and not in one.

use crate::clock::NANOS_PER_SECOND;

/// One publication that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Due {
    pub channel: u32,
    pub at_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Schedule {
    pub start_ns: u64,
    /// Publications a second, over all channels.
    pub rate: f64,
    /// How many publications are due at the same moment. The mean rate is the same.
    pub burst: u64,
    /// The number of all publications.
    pub total: u64,
    pub channels: u32,
    /// How long a closed loop lasts. `rate` then means nothing, and everything is due from the start.
    pub closed_ns: Option<u64>,
}

impl Schedule {
    /// Returns the publication with this number, from 0. Channels take turns.
    pub fn due(&self, number: u64) -> Option<Due> {
        (number < self.total).then(|| Due {
            channel: (number % u64::from(self.channels)) as u32,
            at_ns: self.start_ns + self.offset_ns(number),
        })
    }

    /// Returns when the time of the last publication ends.
    pub fn end_ns(&self) -> u64 {
        if let Some(lasts_ns) = self.closed_ns {
            return self.start_ns + lasts_ns;
        }
        self.start_ns + (self.total as f64 / self.rate * NANOS_PER_SECOND as f64) as u64
    }

    /// Returns the share of publisher number `publisher` of `publishers`, in order. Each channel belongs to one publisher,
    /// which keeps the channel's order.
    pub fn share(self, publisher: u32, publishers: u32) -> impl Iterator<Item = Due> {
        // The publisher's own places in each round over the channels.
        let mine = (publisher..self.channels).step_by(publishers as usize);
        let rounds = self.total.div_ceil(u64::from(self.channels));
        (0..rounds).flat_map(move |round| {
            let first = round * u64::from(self.channels);
            mine.clone().filter_map(move |channel| self.due(first + u64::from(channel)))
        })
    }

    fn offset_ns(&self, number: u64) -> u64 {
        if self.closed_ns.is_some() {
            return 0;
        }
        let slot = number / self.burst * self.burst;
        (slot as f64 / self.rate * NANOS_PER_SECOND as f64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = NANOS_PER_SECOND;

    fn schedule(rate: f64, burst: u64, total: u64, channels: u32) -> Schedule {
        Schedule { start_ns: 5 * SECOND, rate, burst, total, channels, closed_ns: None }
    }

    #[test]
    fn publications_and_bursts_are_evenly_spaced_from_the_start() {
        let spaced = [0, 250, 500, 750, 1000, 1250, 1500, 1750];
        for (burst, expected_ms) in [(1, spaced), (4, [0, 0, 0, 0, 1000, 1000, 1000, 1000])] {
            let schedule = schedule(4.0, burst, 8, 1);
            let at: Vec<u64> =
                (0..8).map(|number| schedule.due(number).unwrap().at_ns - 5 * SECOND).collect();
            assert_eq!(at, expected_ms.map(|ms| ms * 1_000_000));
            assert_eq!((schedule.due(8), schedule.end_ns()), (None, 7 * SECOND));
        }
    }

    #[test]
    fn a_long_run_does_not_drift() {
        let schedule = schedule(3_000.0, 1, 3_000 * 3_600, 1);
        assert_eq!(schedule.due(3_000 * 3_599).unwrap().at_ns, (5 + 3_599) * SECOND);
    }

    #[test]
    fn publishers_share_the_schedule_by_channel_without_rest() {
        let schedule = schedule(1_000.0, 1, 23, 5);
        let mut shared: Vec<(u64, Due)> = Vec::new();
        for publisher in 0..3 {
            let share: Vec<Due> = schedule.share(publisher, 3).collect();
            assert!(share.iter().all(|due| due.channel % 3 == publisher));
            assert!(share.is_sorted_by_key(|due| due.at_ns));
            shared.extend(share.into_iter().map(|due| (due.at_ns, due)));
        }
        shared.sort_by_key(|(at, _)| *at);
        let whole: Vec<Due> = (0..23).map(|number| schedule.due(number).unwrap()).collect();
        assert_eq!(shared.into_iter().map(|(_, due)| due).collect::<Vec<_>>(), whole);
    }

    #[test]
    fn in_a_closed_loop_all_is_due_from_the_start() {
        let closed = Schedule { closed_ns: Some(3 * SECOND), ..schedule(0.0, 1, 1_000, 1) };
        assert_eq!(closed.due(999).map(|due| due.at_ns), Some(5 * SECOND));
        assert_eq!(closed.end_ns(), 8 * SECOND);
    }
}
