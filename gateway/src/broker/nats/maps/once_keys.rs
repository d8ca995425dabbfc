//! The idempotency keys that were used in a channel: the position of the change that each was used for, and when each
//! expires.

use std::collections::{BTreeSet, HashMap};

use shared::position::StreamPosition;

use super::super::nats_names::KEY_BYTES;

/// The most keys of one channel. Past it, the key that expires first is forgotten.
const KEYS_MAX: usize = 65_536;

/// The memory that a key takes, roughly, in bytes.
const KEY_COST: usize = 128;

pub(super) type KeyDigest = [u8; KEY_BYTES];

/// The position of the change that a key was used for, and when the key expires, in milliseconds since 1970.
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

    /// Remembers a key. Returns how many keys were forgotten before they expired.
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

    /// Returns all keys in the order in which they expire.
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
