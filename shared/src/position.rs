//! Positions in a channel's stream.

use std::fmt;
use std::num::NonZeroU8;

/// Longest epoch, in bytes. The gateway's own epochs are shorter, so a longer one from a client cannot be valid.
pub const EPOCH_BYTES_MAX: usize = 15;

/// Names one life of a stream. Offsets of different epochs cannot be compared: whatever resets a sequence
/// (an expired stream, a flushed Redis, a restarted memory broker) changes the epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// One more than the number of bytes, so that `Option<StreamPosition>` takes no more space.
    length: NonZeroU8,
    bytes: [u8; EPOCH_BYTES_MAX],
}

impl Epoch {
    /// The epoch of a client that has none yet.
    pub const EMPTY: Self = Self { length: NonZeroU8::MIN, bytes: [0; EPOCH_BYTES_MAX] };

    const RANDOM_BYTES: NonZeroU8 = NonZeroU8::MIN.saturating_add(8);

    /// Reads an epoch. `None` for a text that is too long to be one of the gateway's: treat it as one that differs from all.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; EPOCH_BYTES_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self { length: NonZeroU8::MIN.saturating_add(text.len() as u8), bytes })
    }

    /// Makes an epoch of eight lower-case letters from random bits that the caller provides.
    pub fn from_random(mut bits: u64) -> Self {
        let mut bytes = [0; EPOCH_BYTES_MAX];
        for byte in &mut bytes[..8] {
            *byte = b'a' + (bits % 26) as u8;
            bits /= 26;
        }
        Self { length: Self::RANDOM_BYTES, bytes }
    }

    pub fn as_str(&self) -> &str {
        // `parse` and `from_random` store only whole UTF-8 texts.
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
