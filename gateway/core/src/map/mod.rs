//! Channels that keep state by key: what is kept, how it is changed, and what is read of it.
//!
//! A channel's state holds one publication for each key. A change is checked against it ([`MapChange`]), written, and told
//! to subscribers as a publication of its key; where the channel has a stream beside its state, that publication is also
//! the stream's next. Where it has none, changes are numbered all the same, so that nodes know when one is missing and
//! subscribers are told to read anew; clients do not see these numbers. [`MapState`] is all of it for one channel, without a
//! clock; brokers that keep state elsewhere use the same words.

mod cursor;
mod map_options;
mod map_state;
#[cfg(test)]
mod tests;

use std::time::Duration;

use shared::position::StreamPosition;
use shared::publication::{Payload, Publication, Tags};

use crate::history::Retention;
use crate::version::Version;

pub use cursor::Cursor;
pub use map_options::{ClientKey, MapMode, MapOptions};
pub use map_state::{KeyEntry, MapPublications, MapState};

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// What a channel keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MapRetention {
    /// Of the stream beside the state. None where no size is set. It says by itself whether there are keys beside it, and
    /// whether they expire.
    pub stream: Retention,
    /// How long a key is kept after it was last written; `None`: until it is removed.
    pub key_ttl: Option<Duration>,
    /// Keys are read in the order of their scores, the highest first, and not of their names.
    pub ordered: bool,
    /// Keys of one channel. One more is refused.
    pub keys_max: u32,
    /// Who follows the channel follows its publications, and is not told when a key is gone of whose publications the newest
    /// was kept.
    pub quiet: bool,
}

/// A change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapChange {
    pub key: Box<str>,
    pub action: KeyAction,
    /// In a channel with a stream: nothing is done unless the key was last written there.
    pub expected: Option<StreamPosition>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyAction {
    Set(Box<SetKey>),
    /// `tags`: those of the publication that tells of it. `None`: those that the key had.
    Remove {
        tags: Option<Tags>,
    },
}

/// What a key is set to, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetKey {
    /// What the key holds then. Its `keyed` is filled in.
    pub publication: Publication,
    pub score: i64,
    pub mode: SetMode,
    /// The key is kept for longer even if it is not set because of `mode`.
    pub refreshes: bool,
    /// In a channel with a stream: nothing is done unless this is newer than what the key has.
    pub version: Option<Version>,
}

/// Which keys a change is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SetMode {
    #[default]
    Any,
    /// Those that are not there.
    IfNew,
    /// Those that are.
    IfExists,
}

/// Why a change was not made, although nothing is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Suppressed {
    /// It was made before, under the same idempotency key.
    Idempotency,
    /// The key has content that is as new.
    Version,
    KeyExists,
    KeyNotFound,
    /// The key was last written elsewhere in the stream.
    PositionMismatch,
}

impl Suppressed {
    pub const ALL: [Self; 5] =
        [Self::Idempotency, Self::Version, Self::KeyExists, Self::KeyNotFound, Self::PositionMismatch];

    /// The protocol's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idempotency => "idempotency",
            Self::Version => "version",
            Self::KeyExists => "key_exists",
            Self::KeyNotFound => "key_not_found",
            Self::PositionMismatch => "position_mismatch",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|suppressed| suppressed.as_str() == word)
    }
}

/// What came of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChangedKey {
    /// How many changes there were after it. In a channel without a stream that is for nodes to know.
    pub position: Option<StreamPosition>,
    pub suppressed: Option<Suppressed>,
}

/// Why a change is not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotMade {
    Suppressed(Suppressed),
    /// The channel has as many keys as it may.
    Full,
}

/// Which part of a state is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateFilter {
    /// Where the page before ended; empty for the first.
    pub cursor: Box<str>,
    /// Most keys; 0 asks for the position only.
    pub limit: u32,
    /// In an ordered channel: from the lowest score on.
    pub ascending: bool,
    /// This key alone.
    pub key: Option<Box<str>>,
    /// A page ends behind the key with which it holds so many bytes.
    pub enough_bytes: u32,
}

/// A part of a state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatePage {
    pub entries: Vec<Publication>,
    /// How many changes there were when it was read. In a channel without a stream that is for nodes to know.
    pub top: Option<StreamPosition>,
    /// Asks for what comes next; empty at the end.
    pub cursor: Box<str>,
}

/// The publication that tells that a key is there no more.
pub fn removal(key: &str, tags: Tags) -> Publication {
    let keyed = shared::publication::Keyed { key: key.into(), removed: true, ..Default::default() };
    Publication { tags, keyed: Some(Box::new(keyed)), ..Publication::new(Payload::json(bytes::Bytes::new())) }
}
