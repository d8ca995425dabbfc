//! Where in a channel's stream someone stands.

use std::fmt;
use std::num::NonZeroU8;

/// Longest epoch, in bytes. Ours are shorter; a client that sends a longer one cannot have got it from us.
pub const EPOCH_BYTES_MAX: usize = 15;

/// Names one life of a stream. Offsets of different epochs cannot be compared: whatever resets a sequence
/// (an expired stream, a flushed Redis, a restarted memory broker) changes the epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// One more than the bytes it has, so that a position that may be missing takes no more room.
    length: NonZeroU8,
    bytes: [u8; EPOCH_BYTES_MAX],
}

impl Epoch {
    /// What a client sends that has no epoch yet.
    pub const EMPTY: Self = Self { length: NonZeroU8::MIN, bytes: [0; EPOCH_BYTES_MAX] };

    const RANDOM_BYTES: NonZeroU8 = NonZeroU8::MIN.saturating_add(8);

    /// `None` for a text that is too long to be one of ours: treat it as an epoch that differs from all.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; EPOCH_BYTES_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self { length: NonZeroU8::MIN.saturating_add(text.len() as u8), bytes })
    }

    /// Eight lower-case letters out of random bits that the caller provides.
    pub fn from_random(mut bits: u64) -> Self {
        let mut bytes = [0; EPOCH_BYTES_MAX];
        for byte in &mut bytes[..8] {
            *byte = b'a' + (bits % 26) as u8;
            bits /= 26;
        }
        Self { length: Self::RANDOM_BYTES, bytes }
    }

    pub fn as_str(&self) -> &str {
        // Only whole texts are ever stored.
        std::str::from_utf8(&self.bytes[..usize::from(self.length.get() - 1)]).unwrap_or("")
    }

    pub fn is_empty(&self) -> bool {
        self.length == NonZeroU8::MIN
    }
}

impl Default for Epoch {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({})", self.as_str())
    }
}

/// A place in a stream: the offset of the last publication seen (0: none yet) in a given epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct StreamPosition {
    pub offset: u64,
    pub epoch: Epoch,
}

const _: () =
    assert!(size_of::<Option<StreamPosition>>() == 24, "there are some for each channel and subscription");
