//! Blocks: publications of one channel as one message of a stream. A block holds the publications that waited when it was
//! sent, in order.
//!
//! The newest block of a channel holds all that the next publisher has to know: where the channel stands, the last
//! version, and where the blocks before it are.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gateway_core::history::Retention;
use prost::encoding::{decode_varint, encode_varint};
use shared::position::{EPOCH_BYTES_MAX, Epoch, StreamPosition};
use shared::publication::Publication;
use shared::record::{RecordError, decode_record};

use super::nats_names::KEY_BYTES;
use crate::broker::Version;

/// The first byte of a block; a message without history begins with a colon.
pub(super) const BLOCK: u8 = 0xB1;

/// The most earlier blocks that a block lists. A reader requests that many at once.
pub(super) const EARLIER_MAX: usize = 16;

const HAS_VERSION: u8 = 1;

/// The longest epoch of a version, in bytes.
const VERSION_EPOCH_BYTES_MAX: usize = 4_096;

/// The sequence of a block, and the offset of its first publication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BlockPlace {
    pub(super) sequence: u64,
    pub(super) first: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Block {
    /// The position of the last publication in the block, or before it if the block is empty.
    pub(super) top: StreamPosition,
    /// The offset of the first publication that is still kept: those before it have expired or were removed.
    pub(super) retained_from: u64,
    pub(super) retention: Retention,
    /// The version of the last publication that had one.
    pub(super) version: Option<Version>,
    /// The blocks before this one, newest first.
    pub(super) earlier: Vec<BlockPlace>,
    pub(super) entries: Vec<BlockEntry>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BlockEntry {
    /// The digest of the publication's idempotency key.
    pub(super) key: Option<[u8; KEY_BYTES]>,
    pub(super) record: Bytes,
}

#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum BlockError {
    #[error("it is not a block that this release understands")]
    Unknown,
    #[error("it ends too soon")]
    Truncated,
    #[error("a number in it is wrong")]
    Number,
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Block {
    /// Returns the offset of the first publication in the block.
    pub(super) fn first(&self) -> u64 {
        self.top.offset + 1 - self.entries.len() as u64
    }

    pub(super) fn encode(&self) -> Bytes {
        let bytes: usize = self.entries.iter().map(|entry| entry.record.len() + 28).sum();
        let mut out = BytesMut::with_capacity(bytes + 160);
        out.put_slice(&[BLOCK, if self.version.is_some() { HAS_VERSION } else { 0 }]);
        put_text(self.top.epoch.as_str(), &mut out);
        let ttl_ms = u64::try_from(self.retention.ttl.as_millis()).unwrap_or(u64::MAX);
        for number in [self.top.offset, self.retained_from, u64::from(self.retention.size), ttl_ms] {
            encode_varint(number, &mut out);
        }
        if let Some(version) = &self.version {
            encode_varint(version.number, &mut out);
            put_text(&version.epoch, &mut out);
        }
        encode_varint(self.earlier.len() as u64, &mut out);
        for place in &self.earlier {
            encode_varint(place.sequence, &mut out);
            encode_varint(place.first, &mut out);
        }
        encode_varint(self.entries.len() as u64, &mut out);
        for entry in &self.entries {
            out.put_u8(u8::from(entry.key.is_some()));
            if let Some(key) = &entry.key {
                out.put_slice(key);
            }
            encode_varint(entry.record.len() as u64, &mut out);
            out.put_slice(&entry.record);
        }
        out.freeze()
    }

    /// Decodes a block, which shares the memory of the message. Records are not decoded.
    pub(super) fn decode(mut bytes: Bytes) -> Result<Self, BlockError> {
        let head = take(&mut bytes, 2)?;
        let [BLOCK, flags @ 0..=HAS_VERSION] = head[..] else { return Err(BlockError::Unknown) };
        let epoch = text(&mut bytes, EPOCH_BYTES_MAX)?;
        let epoch = Epoch::parse(&epoch).ok_or(BlockError::Number)?;
        let [offset, retained_from] = [number(&mut bytes)?, number(&mut bytes)?];
        let size = u32::try_from(number(&mut bytes)?).map_err(|_| BlockError::Number)?;
        let ttl = Duration::from_millis(number(&mut bytes)?);
        let version = if flags & HAS_VERSION == 0 {
            None
        } else {
            let number = number(&mut bytes)?;
            Some(Version { number, epoch: text(&mut bytes, VERSION_EPOCH_BYTES_MAX)? })
        };
        let count = number(&mut bytes)?;
        if count > EARLIER_MAX as u64 {
            return Err(BlockError::Number);
        }
        let mut earlier = Vec::with_capacity(EARLIER_MAX);
        for _ in 0..count {
            earlier.push(BlockPlace { sequence: number(&mut bytes)?, first: number(&mut bytes)? });
        }
        // The count is not trusted: no memory is reserved for it.
        let count = number(&mut bytes)?;
        if count > offset {
            return Err(BlockError::Number);
        }
        let mut entries = Vec::new();
        for _ in 0..count {
            let key = match take(&mut bytes, 1)?[0] {
                0 => None,
                1 => take(&mut bytes, KEY_BYTES)?[..].try_into().ok(),
                _ => return Err(BlockError::Number),
            };
            let length = usize::try_from(number(&mut bytes)?).map_err(|_| BlockError::Number)?;
            entries.push(BlockEntry { key, record: take(&mut bytes, length)? });
        }
        if !bytes.is_empty() {
            return Err(BlockError::Number);
        }
        let top = StreamPosition { offset, epoch };
        let retention = Retention::new(size, ttl);
        Ok(Self { top, retained_from, retention, version, earlier, entries })
    }

    /// Decodes the publications, each at its position.
    pub(super) fn publications(&self) -> impl Iterator<Item = Result<Publication, BlockError>> {
        let epoch = self.top.epoch;
        self.entries.iter().zip(self.first()..).map(move |(entry, offset)| {
            let publication = decode_record(entry.record.clone())?;
            Ok(Publication { position: Some(StreamPosition { offset, epoch }), ..publication })
        })
    }

    /// Returns the first offset that is still kept, by the size that was last asked for.
    pub(super) fn lowest(&self) -> u64 {
        let by_size = (self.top.offset + 1).saturating_sub(u64::from(self.retention.size));
        by_size.max(self.retained_from).max(1)
    }

    /// Whether the history up to this block, written at `written`, has expired at `now`. Both are in milliseconds since 1970.
    pub(super) fn is_over(&self, written: u64, now: u64) -> bool {
        let ttl = u64::try_from(self.retention.ttl.as_millis()).unwrap_or(u64::MAX);
        now >= written.saturating_add(ttl)
    }
}

fn put_text(text: &str, out: &mut BytesMut) {
    encode_varint(text.len() as u64, out);
    out.put_slice(text.as_bytes());
}

fn take(bytes: &mut Bytes, count: usize) -> Result<Bytes, BlockError> {
    if count > bytes.len() {
        return Err(BlockError::Truncated);
    }
    Ok(bytes.split_to(count))
}

fn number(bytes: &mut Bytes) -> Result<u64, BlockError> {
    if !bytes.has_remaining() {
        return Err(BlockError::Truncated);
    }
    decode_varint(bytes).map_err(|_| BlockError::Number)
}

fn text(bytes: &mut Bytes, bytes_max: usize) -> Result<Box<str>, BlockError> {
    let length = usize::try_from(number(bytes)?).map_err(|_| BlockError::Number)?;
    if length > bytes_max {
        return Err(BlockError::Number);
    }
    let text = take(bytes, length)?;
    std::str::from_utf8(&text).map(Into::into).map_err(|_| BlockError::Number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block() -> Block {
        Block {
            top: StreamPosition { offset: 9, epoch: Epoch::from_random(7) },
            retained_from: 3,
            retention: Retention::new(100, Duration::from_secs(60)),
            version: Some(Version { number: u64::MAX, epoch: "day".into() }),
            earlier: vec![BlockPlace { sequence: 70, first: 7 }, BlockPlace { sequence: 3, first: 6 }],
            entries: vec![
                BlockEntry { key: None, record: Bytes::from_static(b"one") },
                BlockEntry { key: Some([7; 16]), record: Bytes::new() },
            ],
        }
    }

    #[test]
    fn a_block_reads_back_as_it_was_written() {
        let bare = Block { version: None, entries: Vec::new(), earlier: Vec::new(), ..block() };
        for block in [block(), bare] {
            assert_eq!(Block::decode(block.encode()).unwrap(), block);
        }
        assert_eq!((block().first(), block().lowest()), (8, 3));
    }

    #[test]
    fn what_is_cut_off_or_goes_on_is_no_block() {
        let whole = block().encode();
        for length in 0..whole.len() {
            assert!(Block::decode(whole.slice(..length)).is_err(), "{length}");
        }
        assert!(Block::decode([&whole[..], b"x"].concat().into()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd_to_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Block::decode(Bytes::from(bytes.clone()));
            let _ = Block::decode([&[BLOCK, 1], &bytes[..]].concat().into());
        }
    }

    #[test]
    fn a_stream_is_over_when_its_time_is_over_after_the_last() {
        let block = block();
        assert!(!block.is_over(1_000, 60_999) && block.is_over(1_000, 61_000));
    }
}
