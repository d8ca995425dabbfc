//! The messages in the log of a channel that keeps state by key: changes that were made together, and bases, which hold
//! the state that all changes before them resulted in.
//!
//! A message of changes holds what nodes hear and the outcome for each key, so a reader decides nothing.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gateway_core::history::Retention;
use prost::encoding::{decode_varint, encode_varint};
use shared::position::{EPOCH_BYTES_MAX, Epoch, StreamPosition};
use shared::publication::Publication;
use shared::record::{RecordError, decode_record};

use super::super::nats_names::KEY_BYTES;
use crate::broker::Version;

/// The first byte of a message of changes. Blocks of publications begin with another byte.
pub(in super::super) const CHANGES: u8 = 0xB5;
/// The first byte of a base.
pub(in super::super) const BASE: u8 = 0xB6;

// The first byte of each kind of row.
const GONE: u8 = 1;
const HELD: u8 = 2;
const LIVES: u8 = 3;
const ONCE: u8 = 4;
const KEY: u8 = 5;
const BEGINS: u8 = 6;
const PAST: u8 = 7;
const DONE: u8 = 8;

/// Longest text in a message that is no record, in bytes.
const TEXT_BYTES_MAX: usize = 4_096;

#[derive(Clone, Debug, thiserror::Error)]
pub(in super::super) enum MapMessageError {
    #[error("it is nothing that this release understands")]
    Unknown,
    #[error("it ends too soon")]
    Truncated,
    #[error("a number in it is wrong")]
    Number,
    #[error("it does not go on from what stands before it")]
    Gap,
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The beginning of each message: where the channel stands with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct MapHead {
    /// The position of the last change.
    pub(in super::super) top: StreamPosition,
    /// When the first key expires, in milliseconds since 1970. 0: no key expires.
    pub(in super::super) next_expiry: u64,
}

/// Changes that were made together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) struct ChangesMessage {
    pub(in super::super) head: MapHead,
    /// When it was written by the writer's clock, which the times in its rows are by.
    pub(super) at: u64,
    pub(super) retention: Retention,
    /// The version of the last publication without a key that had one.
    pub(super) version: Option<Version>,
    pub(super) entries: Vec<ChangeEntry>,
    pub(super) rows: Vec<MapRow>,
}

/// A change as nodes hear it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ChangeEntry {
    pub(super) record: Bytes,
    /// The record of what the key held before, if subscribers may be sent patches.
    pub(super) before: Option<Bytes>,
}

/// The state that all changes before it resulted in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BaseMessage {
    pub(super) head: MapHead,
    /// The sequence of the last message that it is made of. 0: the base itself changes the state.
    pub(super) covers: u64,
    /// When that message was written.
    pub(super) time: u64,
    /// The name of its parts: messages with the rows that have no room here.
    pub(super) part: Box<str>,
    pub(super) parts: u64,
    /// The bytes of all rows.
    pub(super) bytes: u64,
    pub(super) rows: Bytes,
}

/// An item of a channel's state, or of a change to it. Times are in milliseconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum MapRow {
    /// A key is removed.
    Gone(Box<str>),
    /// The key of this entry of the message holds its publication.
    Held { entry: u64, expires: Option<u64>, version: Option<Version> },
    /// A key expires at another time.
    Lives(Box<str>, Option<u64>),
    /// An idempotency key by its digest, the position of the change that it was used for, and when the key expires.
    Once { digest: [u8; KEY_BYTES], position: StreamPosition, until: u64 },
    /// A key with its publication as a record, and the offset of that.
    Key { offset: u64, expires: Option<u64>, version: Option<Version>, record: Bytes },
    /// The position of the channel before the retained changes that follow, its version, and when those changes expire.
    Begins { position: StreamPosition, version: Option<Version>, until: u64 },
    /// The next retained change, as a record.
    Past(Bytes),
    /// Changes after all rows before this one, as an encoded [`ChangesMessage`], and when they were written.
    Done(u64, Bytes),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum MapMessage {
    Changes(ChangesMessage),
    Base(BaseMessage),
}

impl MapHead {
    fn encode(self, what: u8, out: &mut BytesMut) {
        out.put_u8(what);
        put_position(self.top, out);
        encode_varint(self.next_expiry, out);
    }

    fn take(bytes: &mut Bytes) -> Result<(u8, Self), MapMessageError> {
        let what = take(bytes, 1)?[0];
        if ![CHANGES, BASE].contains(&what) {
            return Err(MapMessageError::Unknown);
        }
        Ok((what, Self { top: position(bytes)?, next_expiry: number(bytes)? }))
    }

    /// Reads the head of a message of either kind.
    pub(super) fn of(mut payload: Bytes) -> Result<Self, MapMessageError> {
        Self::take(&mut payload).map(|(_, head)| head)
    }
}

impl ChangesMessage {
    /// Returns the offset before its first change.
    pub(super) fn before(&self) -> u64 {
        self.head.top.offset - self.entries.len() as u64
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.head.encode(CHANGES, &mut out);
        let ttl_ms = u64::try_from(self.retention.ttl.as_millis()).unwrap_or(u64::MAX);
        for number in [self.at, u64::from(self.retention.size), ttl_ms] {
            encode_varint(number, &mut out);
        }
        put_version(self.version.as_ref(), &mut out);
        encode_varint(self.entries.len() as u64, &mut out);
        for ChangeEntry { record, before } in &self.entries {
            // No record is empty.
            put_bytes(before.as_deref().unwrap_or_default(), &mut out);
            put_bytes(record, &mut out);
        }
        self.rows.iter().for_each(|row| row.encode(&mut out));
        out.freeze()
    }

    pub(in super::super) fn decode(payload: Bytes) -> Result<Self, MapMessageError> {
        match MapMessage::decode(payload)? {
            MapMessage::Changes(changes) => Ok(changes),
            MapMessage::Base(_) => Err(MapMessageError::Unknown),
        }
    }

    /// Returns the publications that nodes hear, each with its position and, if the message has it, with what its key
    /// held before.
    pub(in super::super) fn publications(
        &self,
    ) -> impl Iterator<Item = Result<Publication, MapMessageError>> {
        let epoch = self.head.top.epoch;
        let before = self.before();
        self.entries.iter().enumerate().map(move |(at, entry)| {
            let position = Some(StreamPosition { offset: before + 1 + at as u64, epoch });
            let mut publication = Publication { position, ..decode_record(entry.record.clone())? };
            if let (Some(before), Some(keyed)) = (&entry.before, &mut publication.keyed) {
                keyed.before = Some(decode_record(before.clone())?.data);
            }
            Ok(publication)
        })
    }
}

impl BaseMessage {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.head.encode(BASE, &mut out);
        encode_varint(self.covers, &mut out);
        encode_varint(self.time, &mut out);
        put_bytes(self.part.as_bytes(), &mut out);
        encode_varint(self.parts, &mut out);
        encode_varint(self.bytes, &mut out);
        out.put_slice(&self.rows);
        out.freeze()
    }
}

impl MapMessage {
    pub(super) fn decode(mut payload: Bytes) -> Result<Self, MapMessageError> {
        let bytes = &mut payload;
        let (what, head) = MapHead::take(bytes)?;
        if what == BASE {
            let (covers, time, part) = (number(bytes)?, number(bytes)?, text(bytes)?);
            let (parts, length) = (number(bytes)?, number(bytes)?);
            let rows = payload;
            return Ok(Self::Base(BaseMessage { head, covers, time, part, parts, bytes: length, rows }));
        }
        let at = number(bytes)?;
        let size = u32::try_from(number(bytes)?).map_err(|_| MapMessageError::Number)?;
        let retention = Retention::new(size, Duration::from_millis(number(bytes)?));
        let version = version(bytes)?;
        // The count may be wrong, so no memory is reserved for it.
        let count = number(bytes)?;
        if count > head.top.offset {
            return Err(MapMessageError::Number);
        }
        let mut entries = Vec::new();
        for _ in 0..count {
            let before = Some(counted(bytes)?).filter(|before| !before.is_empty());
            entries.push(ChangeEntry { before, record: counted(bytes)? });
        }
        let mut rows = Vec::new();
        while let Some(row) = MapRow::next(bytes)? {
            rows.push(row);
        }
        Ok(Self::Changes(ChangesMessage { head, at, retention, version, entries, rows }))
    }
}

impl MapRow {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Gone(key) => {
                out.put_u8(GONE);
                put_bytes(key.as_bytes(), out);
            }
            Self::Held { entry, expires, version } => {
                out.put_u8(HELD);
                encode_varint(*entry, out);
                put_moment(*expires, out);
                put_version(version.as_ref(), out);
            }
            Self::Lives(key, expires) => {
                out.put_u8(LIVES);
                put_bytes(key.as_bytes(), out);
                put_moment(*expires, out);
            }
            Self::Once { digest, position, until } => {
                out.put_u8(ONCE);
                out.put_slice(digest);
                put_position(*position, out);
                encode_varint(*until, out);
            }
            Self::Key { offset, expires, version, record } => {
                out.put_u8(KEY);
                encode_varint(*offset, out);
                put_moment(*expires, out);
                put_version(version.as_ref(), out);
                put_bytes(record, out);
            }
            Self::Begins { position, version, until } => {
                out.put_u8(BEGINS);
                put_position(*position, out);
                put_version(version.as_ref(), out);
                encode_varint(*until, out);
            }
            Self::Past(record) => {
                out.put_u8(PAST);
                put_bytes(record, out);
            }
            Self::Done(written, message) => {
                out.put_u8(DONE);
                encode_varint(*written, out);
                put_bytes(message, out);
            }
        }
    }

    /// Reads the next row. `None`: there are no more.
    pub(super) fn next(bytes: &mut Bytes) -> Result<Option<Self>, MapMessageError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let what = take(bytes, 1)?[0];
        Ok(Some(match what {
            GONE => Self::Gone(text(bytes)?),
            HELD => Self::Held { entry: number(bytes)?, expires: moment(bytes)?, version: version(bytes)? },
            LIVES => Self::Lives(text(bytes)?, moment(bytes)?),
            ONCE => {
                let digest =
                    take(bytes, KEY_BYTES)?[..].try_into().map_err(|_| MapMessageError::Truncated)?;
                Self::Once { digest, position: position(bytes)?, until: number(bytes)? }
            }
            KEY => Self::Key {
                offset: number(bytes)?,
                expires: moment(bytes)?,
                version: version(bytes)?,
                record: counted(bytes)?,
            },
            BEGINS => {
                Self::Begins { position: position(bytes)?, version: version(bytes)?, until: number(bytes)? }
            }
            PAST => Self::Past(counted(bytes)?),
            DONE => Self::Done(number(bytes)?, counted(bytes)?),
            _ => return Err(MapMessageError::Unknown),
        }))
    }
}

fn put_bytes(bytes: &[u8], out: &mut BytesMut) {
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

fn put_position(position: StreamPosition, out: &mut BytesMut) {
    put_bytes(position.epoch.as_str().as_bytes(), out);
    encode_varint(position.offset, out);
}

/// 0 stands for none.
fn put_moment(moment: Option<u64>, out: &mut BytesMut) {
    encode_varint(moment.map_or(0, |moment| moment.max(1)), out);
}

/// The number of a version is at least 1, so 0 stands for none.
fn put_version(version: Option<&Version>, out: &mut BytesMut) {
    encode_varint(version.map_or(0, |version| version.number), out);
    if let Some(version) = version.filter(|version| version.number > 0) {
        put_bytes(version.epoch.as_bytes(), out);
    }
}

fn take(bytes: &mut Bytes, count: usize) -> Result<Bytes, MapMessageError> {
    if count > bytes.len() {
        return Err(MapMessageError::Truncated);
    }
    Ok(bytes.split_to(count))
}

fn number(bytes: &mut Bytes) -> Result<u64, MapMessageError> {
    if !bytes.has_remaining() {
        return Err(MapMessageError::Truncated);
    }
    decode_varint(bytes).map_err(|_| MapMessageError::Number)
}

fn counted(bytes: &mut Bytes) -> Result<Bytes, MapMessageError> {
    let length = usize::try_from(number(bytes)?).map_err(|_| MapMessageError::Number)?;
    take(bytes, length)
}

fn text(bytes: &mut Bytes) -> Result<Box<str>, MapMessageError> {
    let text = counted(bytes)?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(MapMessageError::Number);
    }
    std::str::from_utf8(&text).map(Into::into).map_err(|_| MapMessageError::Number)
}

fn position(bytes: &mut Bytes) -> Result<StreamPosition, MapMessageError> {
    let epoch = text(bytes)?;
    let epoch = Some(&*epoch).filter(|epoch| epoch.len() <= EPOCH_BYTES_MAX).and_then(Epoch::parse);
    Ok(StreamPosition { epoch: epoch.ok_or(MapMessageError::Number)?, offset: number(bytes)? })
}

fn moment(bytes: &mut Bytes) -> Result<Option<u64>, MapMessageError> {
    Ok(Some(number(bytes)?).filter(|moment| *moment > 0))
}

fn version(bytes: &mut Bytes) -> Result<Option<Version>, MapMessageError> {
    match number(bytes)? {
        0 => Ok(None),
        number => Ok(Some(Version { number, epoch: text(bytes)? })),
    }
}

#[cfg(test)]
#[path = "map_message_tests.rs"]
mod tests;
