//! The epochs of channels without a stream, computed rather than stored.
//!
//! A stream that expires is forgotten no sooner than the TTL of positions after its last publication, and the computed
//! epoch of each channel changes once within that time. So the next stream of the channel has an epoch that no forgotten
//! stream of it had. Where a stream is forgotten earlier, to make room or because its epoch is left, a counter is
//! incremented that a few other channels share.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use shared::channel::Channel;
use shared::moment::Moment;
use shared::position::Epoch;

/// The number of counters that the channels of one shard are spread over: 1 KiB.
const COUNTERS: usize = 256;

/// An epoch given to a client remains valid for at least this long. A channel whose epoch would change sooner gets a stream.
pub(super) const HOLDS: Duration = Duration::from_secs(3600);

/// Gives channels without a stream their epochs.
#[derive(Debug)]
pub(super) struct FirstEpochs {
    state: RandomState,
    /// How long an epoch lasts, in milliseconds.
    period: u64,
    forgotten: Box<[u32; COUNTERS]>,
}

impl FirstEpochs {
    pub(super) fn new(position_ttl: Duration) -> Self {
        let period = u64::try_from(position_ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { state: RandomState::new(), period, forgotten: Box::new([0; COUNTERS]) }
    }

    /// Returns the epoch that this channel has without a stream, and that a stream begun now has.
    pub(super) fn of(&self, now: Moment, channel: &Channel) -> Epoch {
        let hash = self.state.hash_one(channel);
        let forgotten = self.forgotten[counter(hash)];
        Epoch::from_random(self.state.hash_one((channel, forgotten, self.at(now, hash).0)))
    }

    /// Whether the channel's epoch changes so soon that a client that was given it may come back to another one.
    pub(super) fn changes_soon(&self, now: Moment, channel: &Channel) -> bool {
        let left = self.period - self.at(now, self.state.hash_one(channel)).1;
        u128::from(left) <= HOLDS.as_millis()
    }

    /// Gives this channel another epoch from now on.
    pub(super) fn leave(&mut self, channel: &Channel) {
        let counter = counter(self.state.hash_one(channel));
        self.forgotten[counter] = self.forgotten[counter].wrapping_add(1);
    }

    /// Returns the number of the channel's period, and the age of that period. Periods of different channels do not begin
    /// at once.
    fn at(&self, now: Moment, hash: u64) -> (u64, u64) {
        let shifted = now.0.saturating_add(hash % self.period);
        (shifted / self.period, shifted % self.period)
    }
}

/// Takes other bits of the hash than those that shift the periods.
fn counter(hash: u64) -> usize {
    (hash >> 56) as usize % COUNTERS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DAY: u64 = 86_400_000;

    fn channels() -> Vec<Channel> {
        (0..1_000).map(|n| Channel::parse(&format!("c{n}"), 255).unwrap()).collect()
    }

    fn all(epochs: &FirstEpochs, now: u64) -> Vec<String> {
        channels().iter().map(|channel| epochs.of(Moment(now), channel).as_str().to_owned()).collect()
    }

    #[test]
    fn an_epoch_holds_until_it_is_left_and_few_go_with_it() {
        let mut epochs = FirstEpochs::new(Duration::from_millis(DAY));
        let before = all(&epochs, 0);
        assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 1_000);
        assert_eq!(all(&epochs, 0), before);
        epochs.leave(&channels()[7]);
        let after = all(&epochs, 0);
        assert_ne!(before[7], after[7]);
        let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert!(changed < 50, "{changed}");
    }

    #[test]
    fn within_the_time_to_live_of_positions_each_changes_once_and_says_so_before() {
        let epochs = FirstEpochs::new(Duration::from_millis(DAY));
        let hours: Vec<_> = (0..=24).map(|hour| all(&epochs, hour * DAY / 24)).collect();
        for (number, channel) in channels().iter().enumerate() {
            let changes: Vec<_> =
                (0..24).filter(|hour| hours[*hour][number] != hours[hour + 1][number]).collect();
            assert_eq!(changes.len(), 1, "{channel}");
            let soon = |hour: usize| epochs.changes_soon(Moment(hour as u64 * DAY / 24), channel);
            let foreseen: Vec<_> = (0..24).filter(|hour| soon(*hour)).collect();
            assert_eq!(foreseen, changes, "{channel}");
        }
    }
}
