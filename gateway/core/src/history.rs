//! Requests to a channel's stream, and the answers to them.

use std::time::Duration;

use shared::position::StreamPosition;
use shared::publication::Publication;

/// How much of a channel's retained history is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Retention {
    /// The number of publications kept. 0: none, and the channel has no offsets.
    pub size: u32,
    /// How long the stream is kept after its last publication.
    pub ttl: Duration,
    /// What the channel keeps beside its stream. Brokers may keep everything of such a channel elsewhere.
    pub beside: KeysBeside,
}

/// Whether a channel keeps state by key beside its stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum KeysBeside {
    #[default]
    None,
    /// Keys that expire.
    Expiring,
    /// Keys that stay until they are removed.
    Staying,
}

impl Retention {
    /// The retention of a channel that keeps nothing beside its stream.
    pub const fn new(size: u32, ttl: Duration) -> Self {
        Self { size, ttl, beside: KeysBeside::None }
    }

    pub fn keeps_history(self) -> bool {
        self.size > 0 && !self.ttl.is_zero()
    }
}

/// Which publications of a stream are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HistoryFilter {
    /// Only publications after this offset (before it, if `reverse`).
    pub since: Option<u64>,
    /// At most this many; 0 asks for the position only.
    pub limit: u32,
    /// Newest first.
    pub reverse: bool,
    /// The reader needs no publications behind the one with which the page reaches this many bytes: it would not keep them.
    pub enough_bytes: Option<u32>,
}

/// A part of a stream, and where the stream ended when it was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HistoryPage {
    pub publications: Vec<Publication>,
    pub top: StreamPosition,
}
