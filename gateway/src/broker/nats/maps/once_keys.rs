//! Idempotency keys of changes: which were used, where what they were used for stands, and until when they are good.

use std::collections::{BTreeSet, HashMap};

use shared::position::StreamPosition;

use super::super::nats_names::KEY_BYTES;

/// The most of one channel. Past it the one goes that is good for the shortest time.
const KEYS_MAX: usize = 65_536;

/// What each costs in memory, roughly, in bytes.
const KEY_COST: usize = 128;

pub(super) type KeyDigest = [u8; KEY_BYTES];

/// Where what a key was used for stands, and until when it is good, in milliseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct UsedKey {
    pub(super) position: StreamPosition,
    pub(super) until: u64,
}

#[derive(Debug, Default)]
pub(super) struct OnceKeys {
    keys: HashMap<KeyDigest, UsedKey>,
    ending: BTreeSet<(u64, KeyDigest)>,
}

impl OnceKeys {
    pub(super) fn bytes(&self) -> usize {
        self.keys.len() * KEY_COST
    }

    pub(super) fn find(&self, digest: &KeyDigest, now: u64) -> Option<UsedKey> {
        self.keys.get(digest).copied().filter(|used| used.until > now)
    }

    /// Returns how many were forgotten before their time.
    pub(super) fn remember(&mut self, digest: KeyDigest, used: UsedKey, now: u64) -> u64 {
        if let Some(before) = self.keys.insert(digest, used) {
            self.ending.remove(&(before.until, digest));
        }
        self.ending.insert((used.until, digest));
        let mut forgotten = 0;
        while let Some((until, first)) = self.ending.first().copied() {
            if until > now && self.keys.len() <= KEYS_MAX {
                break;
            }
            forgotten += u64::from(until > now);
            self.ending.remove(&(until, first));
            self.keys.remove(&first);
        }
        forgotten
    }

    /// Those that are good, the one first that is good for the shortest time.
    pub(super) fn iter(&self) -> impl Iterator<Item = (KeyDigest, UsedKey)> {
        self.ending.iter().filter_map(|(_, digest)| Some((*digest, *self.keys.get(digest)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: usize) -> KeyDigest {
        let mut digest = [0; KEY_BYTES];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        digest
    }

    #[test]
    fn keys_are_known_until_their_time_is_over_or_there_are_too_many() {
        let mut once = OnceKeys::default();
        let used = |until| UsedKey { position: StreamPosition::default(), until };
        assert_eq!(once.remember(digest(0), used(100), 0), 0);
        assert_eq!(once.find(&digest(0), 99), Some(used(100)));
        assert_eq!(once.find(&digest(0), 100), None);
        assert_eq!(once.remember(digest(1), used(200), 150), 0, "one whose time is over is not missed");
        assert_eq!(once.iter().map(|(digest, _)| digest).collect::<Vec<_>>(), [digest(1)]);
        assert_eq!(once.remember(digest(1), used(300), 150), 0);
        for number in 2..=KEYS_MAX {
            assert_eq!(once.remember(digest(number), used(1_000 + number as u64), 150), 0);
        }
        assert_eq!(once.remember(digest(KEYS_MAX + 1), used(900), 150), 1, "the first of them goes");
        assert_eq!((once.find(&digest(1), 150), once.find(&digest(2), 150)), (None, Some(used(1_002))));
        assert_eq!(once.bytes(), KEYS_MAX * KEY_COST);
    }
}
