//! Corrupted valid input, the same in every run.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

pub(crate) fn config() -> Config {
    Config { cases: 400, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() }
}

/// Changes a few of the bytes, and may cut off the end.
pub(crate) fn spoiled(good: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (good, flips, any::<prop::sample::Index>(), any::<bool>()).prop_map(|(mut bytes, flips, cut, is_cut)| {
        for (at, value) in flips {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes
    })
}
