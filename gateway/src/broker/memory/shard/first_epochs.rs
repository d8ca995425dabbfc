//! The epochs of channels that have no stream, worked out rather than kept.

use std::hash::{BuildHasher, RandomState};

use shared::channel::Channel;
use shared::position::Epoch;

/// Channels are spread over so many counters, of one shard: 1 KiB.
const COUNTERS: usize = 256;

/// Gives each channel without a stream an epoch that holds until a stream of that channel is forgotten. Each that is
/// forgotten takes the epochs of a few other channels with it, one in [`COUNTERS`] of those without a stream.
#[derive(Debug)]
pub(super) struct FirstEpochs {
    state: RandomState,
    forgotten: Box<[u32; COUNTERS]>,
}

impl Default for FirstEpochs {
    fn default() -> Self {
        Self { state: RandomState::new(), forgotten: Box::new([0; COUNTERS]) }
    }
}

impl FirstEpochs {
    /// The epoch that this channel has without a stream, and its next stream will have.
    pub(super) fn of(&self, channel: &Channel) -> Epoch {
        let forgotten = self.forgotten[self.counter(channel)];
        Epoch::from_random(self.state.hash_one((channel, forgotten)))
    }

    /// The next epoch of this channel is another one.
    pub(super) fn leave(&mut self, channel: &Channel) {
        let counter = self.counter(channel);
        self.forgotten[counter] = self.forgotten[counter].wrapping_add(1);
    }

    fn counter(&self, channel: &Channel) -> usize {
        self.state.hash_one(channel) as usize % COUNTERS
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_epoch_holds_until_it_is_left_and_few_go_with_it() {
        let channels: Vec<_> = (0..1_000).map(|n| Channel::parse(&format!("c{n}"), 255).unwrap()).collect();
        let mut epochs = FirstEpochs::default();
        let all =
            |epochs: &FirstEpochs| -> Vec<_> { channels.iter().map(|channel| epochs.of(channel)).collect() };
        let before = all(&epochs);
        let different: BTreeSet<_> = before.iter().map(|epoch| epoch.as_str().to_owned()).collect();
        assert_eq!((different.len(), all(&epochs) == before), (1_000, true));
        epochs.leave(&channels[7]);
        let after = all(&epochs);
        assert_ne!(before[7], after[7]);
        let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert!(changed < 50, "{changed}");
    }
}
