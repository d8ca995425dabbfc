//! The epochs of channels that this node published to recently, as told by the script.
//!
//! An epoch is only a hint, which the script checks: if the channel has another epoch by then, the script needs a few
//! more reads. That is why names are kept as hashes, and two channels with the same hash overwrite each other.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shared::channel::Channel;
use shared::position::Epoch;

/// The most channels remembered: 2 MB.
const CHANNELS_MAX: usize = 1 << 16;

/// Epochs by channel.
#[derive(Debug, Default)]
pub(super) struct KnownEpochs {
    state: RandomState,
    by_channel: Mutex<HashMap<u64, KnownEpoch>>,
}

/// An epoch, and until when the TTLs of its channel need no renewal.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownEpoch {
    pub(super) epoch: Epoch,
    until: Instant,
}

impl KnownEpoch {
    /// Returns the epoch, as long as nothing needs to be renewed.
    pub(super) fn at(&self, now: Instant) -> Option<Epoch> {
        (now < self.until).then_some(self.epoch)
    }
}

impl KnownEpochs {
    pub(super) fn hash(&self, channel: &Channel) -> u64 {
        self.state.hash_one(channel.as_str())
    }

    pub(super) fn of(&self, hash: u64) -> Option<KnownEpoch> {
        self.by_channel.lock().get(&hash).copied()
    }

    /// Remembers the epoch of a channel: for `time` after `requested_at` nothing needs to be renewed.
    pub(super) fn learn(&self, hash: u64, epoch: Epoch, requested_at: Instant, time: Duration) {
        let Some(until) = requested_at.checked_add(time) else { return };
        let mut by_channel = self.by_channel.lock();
        if by_channel.len() >= CHANNELS_MAX && !by_channel.contains_key(&hash) {
            by_channel.retain(|_, known| requested_at < known.until);
            if by_channel.len() > CHANNELS_MAX / 2 {
                by_channel.clear();
            }
            by_channel.shrink_to(CHANNELS_MAX / 2);
        }
        by_channel.insert(hash, KnownEpoch { epoch, until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch() -> Epoch {
        Epoch::from_random(7)
    }

    #[test]
    fn an_epoch_is_known_until_something_must_be_renewed() {
        let (known, now) = (KnownEpochs::default(), Instant::now());
        known.learn(1, epoch(), now, Duration::from_secs(2));
        let at = |seconds| known.of(1).unwrap().at(now + Duration::from_secs(seconds));
        assert_eq!((at(0), at(1), at(2)), (Some(epoch()), Some(epoch()), None));
        assert!(known.of(2).is_none());
    }

    #[test]
    fn only_so_many_channels_are_remembered() {
        let (known, now) = (KnownEpochs::default(), Instant::now());
        for hash in 0..3 * CHANNELS_MAX as u64 {
            let lasts = Duration::from_secs(if hash % 3 == 0 { 60 } else { 0 });
            known.learn(hash, epoch(), now, lasts);
            assert!(known.by_channel.lock().len() <= CHANNELS_MAX);
        }
        assert!(known.of(3 * CHANNELS_MAX as u64 - 1).is_some(), "the last one always is");
    }
}
