//! The interface between a feed and the source of its records.
//!
//! A source delivers records in order to one node at a time, and keeps them until they are settled. Records that were
//! delivered before and not settled come first. A source knows when another node has the right to read.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// The bounds of one delivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) records_max: usize,
    pub(super) bytes_max: usize,
    /// Longer records are reported without their content.
    pub(super) record_bytes_max: usize,
}

/// The fields that a record can have.
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

/// The fields of a record, as they were found.
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
    /// The source's name for the record: always the same, and never that of another record.
    pub(super) position: Box<str>,
    /// The fields, or why they were not delivered.
    pub(super) fields: Result<RecordFields, RecordError>,
}

#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("it has {bytes} bytes, and record_bytes_max is {max}")]
    TooLong { bytes: u64, max: usize },
    #[error("it is not a JSON object: {0}")]
    NoObject(String),
    #[error("it was removed from the source before it was published")]
    Gone,
    #[error("{0}")]
    Malformed(String),
}

/// A delivery of a source.
#[derive(Debug)]
pub(super) enum SourceItem {
    /// In order. Empty: no record waits.
    Records(Vec<FeedRecord>),
    /// Another node reads.
    NotOurs,
}

/// A delivered record that is finished.
#[derive(Debug)]
pub(super) struct SettledRecord {
    pub(super) position: Box<str>,
    /// Why the record will never be published, if it is a dead letter.
    pub(super) dead: Option<String>,
}

/// How far a feed is behind, as far as its source knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Lag {
    pub(super) records: Option<u64>,
    /// The age of the oldest waiting record. `None` also where no record waits.
    pub(super) oldest: Option<Duration>,
}

/// The result of a check of a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SourceCheck {
    Ours(Lag),
    /// This node has lost the right to read: its delivered records are another node's now.
    NotOurs,
}

/// Why a call to a source has failed. The next call starts over. Never holds a secret.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct SourceError(pub(super) String);

/// Every call but `wait` ends by its own deadline. All but `settle` are cancellation safe.
pub(super) trait FeedSource: Send + std::fmt::Debug {
    /// Connects if necessary, takes the right to read if it is free, and delivers the next records.
    fn take(&mut self) -> BoxFuture<'_, Result<SourceItem, SourceError>>;

    /// Settles finished records. Dead letters go to the place where the source keeps them.
    fn settle(&mut self, settled: Vec<SettledRecord>) -> BoxFuture<'_, Result<(), SourceError>>;

    /// Renews this node's right to read while it publishes, and returns how far the feed is behind.
    fn look(&mut self) -> BoxFuture<'_, Result<SourceCheck, SourceError>>;

    /// Returns when new records may be there, or after about `at_most`.
    fn wait(&mut self, at_most: Duration) -> BoxFuture<'_, Result<(), SourceError>>;

    /// Gives up the right to read. Unsettled records are delivered to other nodes.
    fn leave(&mut self) -> BoxFuture<'_, ()>;
}
