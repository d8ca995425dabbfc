//! The seam: what a feed asks of whatever keeps its records.
//!
//! A source hands out records in their order to one node at a time, keeps them until it is told what came of each, and hands
//! those out first that were handed out before and nothing was said of. It knows when it is not this node's turn.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// How much may be handed out at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) records_max: usize,
    pub(super) bytes_max: usize,
    /// Longer records are told of, and not handed out.
    pub(super) record_bytes_max: usize,
}

/// What a record can say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FieldKey {
    Channel,
    Channels,
    Data,
    B64data,
    Tags,
    Key,
    IdempotencyKey,
    Version,
    VersionEpoch,
    SkipHistory,
    Delta,
}

impl FieldKey {
    pub(super) const COUNT: usize = 11;

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::Channels => "channels",
            Self::Data => "data",
            Self::B64data => "b64data",
            Self::Tags => "tags",
            Self::Key => "key",
            Self::IdempotencyKey => "idempotency_key",
            Self::Version => "version",
            Self::VersionEpoch => "version_epoch",
            Self::SkipHistory => "skip_history",
            Self::Delta => "delta",
        }
    }
}

/// What a record says, as it was found.
#[derive(Clone, Debug, Default)]
pub(super) struct RecordFields([Option<Bytes>; FieldKey::COUNT]);

impl RecordFields {
    pub(super) fn set(&mut self, word: FieldKey, value: Bytes) {
        self.0[word as usize] = Some(value);
    }

    pub(super) fn get(&self, word: FieldKey) -> Option<&Bytes> {
        self.0[word as usize].as_ref()
    }
}

/// One record.
#[derive(Clone, Debug)]
pub(super) struct FeedRecord {
    /// What the source calls it: the same each time, and never that of another.
    pub(super) position: Box<str>,
    /// What it says, or why it was not handed out.
    pub(super) fields: Result<RecordFields, RecordError>,
}

#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("it is of {bytes} bytes, and record_bytes_max is {max}")]
    TooLong { bytes: u64, max: usize },
    #[error("it is no JSON object: {0}")]
    NoObject(String),
    #[error("it was removed from the source before it was published")]
    Gone,
    #[error("{0}")]
    Malformed(String),
}

/// What a source hands out.
#[derive(Debug)]
pub(super) enum SourceItem {
    /// In their order. None: nothing waits.
    Records(Vec<FeedRecord>),
    /// Another node reads.
    NotOurs,
}

/// What came of a record that was handed out.
#[derive(Debug)]
pub(super) struct SettledRecord {
    pub(super) position: Box<str>,
    /// Why it will never be published, if so.
    pub(super) dead: Option<String>,
}

/// How far a feed is behind, as far as its source can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Lag {
    pub(super) records: Option<u64>,
    /// The age of the oldest of them. None where there is none, too.
    pub(super) oldest: Option<Duration>,
}

/// What a look at a source has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SourceCheck {
    Ours(Lag),
    /// The turn is over: what was handed out is another node's now.
    NotOurs,
}

/// Why a source could not do what it was asked to. Whatever it was doing, it begins anew when it is asked again. Never holds a
/// secret.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct SourceError(pub(super) String);

/// Every call but `wait` ends by a deadline of its own. All but `settle` may be dropped before they end.
pub(super) trait FeedSource: Send + std::fmt::Debug {
    /// Connects if it has to, takes this node's turn if nobody has it, and hands out what comes next.
    fn take(&mut self) -> BoxFuture<'_, Result<SourceItem, SourceError>>;

    /// Lets go of records that are done with. Those that are dead go to where the source keeps such.
    fn settle(&mut self, settled: Vec<SettledRecord>) -> BoxFuture<'_, Result<(), SourceError>>;

    /// Keeps this node's turn while it publishes, and tells how far behind it is.
    fn look(&mut self) -> BoxFuture<'_, Result<SourceCheck, SourceError>>;

    /// Returns when something may have come since nothing was handed out, or after about so long.
    fn wait(&mut self, at_most: Duration) -> BoxFuture<'_, Result<(), SourceError>>;

    /// Gives the turn back. What was handed out and not settled is handed out to others.
    fn leave(&mut self) -> BoxFuture<'_, ()>;
}
