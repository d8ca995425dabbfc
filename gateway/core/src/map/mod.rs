//! Channels that keep state by key: what they keep, how it changes, and how it is read.
//!
//! A channel's state has one publication for each key. A change ([`MapChange`]) is checked against the state, written, and
//! sent to subscribers as a publication of its key. Where the channel has a stream beside its state, that publication is
//! also appended to the stream. Where it has none, changes are numbered all the same, so that nodes notice a missing one
//! and have subscribers read the state again; clients do not see these numbers. [`MapState`] implements all of it for one
//! channel, without a clock. Brokers that keep state elsewhere use the same types.

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

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// What a channel keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MapRetention {
    /// The retention of the stream beside the state. There is no stream where no size is set. It also says whether there
    /// are keys beside the stream, and whether they expire.
    pub stream: Retention,
    /// How long a key is kept after it was last written. `None`: until it is removed.
    pub key_ttl: Option<Duration>,
    /// Whether keys are read in the order of their scores, the highest first, and not of their names.
    pub ordered: bool,
    /// The most keys of one channel. A further one is refused.
    pub keys_max: u32,
    /// Whether removals are not published: subscribers follow the channel's publications, and the keys only keep the newest
    /// ones.
    pub quiet: bool,
}

/// A change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapChange {
    pub key: Box<str>,
    pub action: KeyAction,
    /// In a channel with a stream: the change is made only if the key was last written at this position.
    pub expected: Option<StreamPosition>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyAction {
    Set(Box<SetKey>),
    /// `tags`: the tags of the publication of the removal. `None`: the tags that the key had.
    Remove {
        tags: Option<Tags>,
    },
}

/// The new value of a key, and the conditions for setting it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetKey {
    /// The new value. Its `keyed` is filled in.
    pub publication: Publication,
    pub score: i64,
    pub mode: SetMode,
    /// Whether the key's expiry is extended even if the key is not set because of `mode`.
    pub refreshes: bool,
    /// In a channel with a stream: the change is made only if this is newer than the key's version.
    pub version: Option<Version>,
}

/// Which keys a change applies to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SetMode {
    #[default]
    Any,
    /// Keys that do not exist.
    IfNew,
    /// Keys that exist.
    IfExists,
}

/// Why a valid change was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Suppressed {
    /// It was made before, with the same idempotency key.
    Idempotency,
    /// The key has content that is at least as new.
    Version,
    KeyExists,
    KeyNotFound,
    /// The key was last written at another position.
    PositionMismatch,
}

impl Suppressed {
    pub const ALL: [Self; 5] =
        [Self::Idempotency, Self::Version, Self::KeyExists, Self::KeyNotFound, Self::PositionMismatch];

    /// Returns the protocol's word for it.
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

/// The result of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChangedKey {
    /// The position after the change. In a channel without a stream only nodes use it.
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

/// Which part of a state to read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateFilter {
    /// The cursor of the page before; empty for the first page.
    pub cursor: Box<str>,
    /// The most keys; 0 asks for the position only.
    pub limit: u32,
    /// In an ordered channel: the lowest score first.
    pub ascending: bool,
    /// Only this key.
    pub key: Option<Box<str>>,
    /// The page ends behind the key with which it reaches this many bytes.
    pub enough_bytes: u32,
}

/// A page of a state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatePage {
    pub entries: Vec<Publication>,
    /// The position when it was read. In a channel without a stream only nodes use it.
    pub top: Option<StreamPosition>,
    /// The cursor for the next page; empty at the end.
    pub cursor: Box<str>,
}

/// Returns the publication of a key's removal.
pub fn removal(key: &str, tags: Tags) -> Publication {
    let keyed = shared::publication::Keyed { key: key.into(), removed: true, ..Default::default() };
    Publication { tags, keyed: Some(Box::new(keyed)), ..Publication::new(Payload::json(bytes::Bytes::new())) }
}
