//! The record: the compact form in which brokers carry and store a publication.
//!
//! ```text
//! version  1 byte   1
//! flags    1 byte   bits 0-1: kind of payload (0 JSON, 1 text, 2 binary)
//!                   bit 2: client info follows · 3: it has conn_info · 4: it has chan_info · 5: tags follow
//! info              client id (16 bytes, big-endian) · user · conn_info · chan_info, each as length and bytes
//! tags              their number, then key and value of each as length and bytes, keys ascending
//! payload           all the rest
//! ```
//!
//! Lengths and numbers are LEB128. The payload comes last, so that reading slices it out of the broker's buffer
//! without a copy.
//!
//! A record does not hold the publication's position, which only the broker assigns. On its way to the nodes the
//! position stands before it: `<offset>:<epoch>:`, and a bare `:` in a channel without a stream. A message is that
//! prefix and the record.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::id::{ClientId, UserId};
use crate::position::{EPOCH_BYTES_MAX, Epoch, StreamPosition};
use crate::publication::{ClientInfo, Payload, PayloadKind, Publication, Tags};

const VERSION: u8 = 1;

const KIND: u8 = 0b11;
const HAS_INFO: u8 = 1 << 2;
const HAS_CONN_INFO: u8 = 1 << 3;
const HAS_CHAN_INFO: u8 = 1 << 4;
const HAS_TAGS: u8 = 1 << 5;
const KNOWN_FLAGS: u8 = KIND | HAS_INFO | HAS_CONN_INFO | HAS_CHAN_INFO | HAS_TAGS;

/// Longest encoding of a length.
const LENGTH_BYTES_MAX: usize = 5;

/// Longest text of an offset: that of `u64::MAX`.
const OFFSET_DIGITS_MAX: usize = 20;

/// Why bytes from a broker are no publication. Either something else writes there, or a newer release does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record ends too early")]
    Truncated,
    #[error("the record is of version {0}; this release reads version {VERSION}")]
    Version(u8),
    #[error("the record has flags this release does not know")]
    Flags,
    #[error("a length in the record is malformed")]
    Length,
    #[error("a text in the record is not UTF-8")]
    Text,
    #[error("the tags of the record are not in order")]
    Tags,
    #[error("the position before the record is malformed")]
    Position,
}

/// Appends the record of a publication, without its position.
pub fn encode_record(publication: &Publication, out: &mut BytesMut) {
    let info = publication.info.as_ref();
    let conn_info = info.and_then(|info| info.conn_info.as_ref());
    let chan_info = info.and_then(|info| info.chan_info.as_ref());
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let kind = match publication.data.kind {
        PayloadKind::Json => 0,
        PayloadKind::Text => 1,
        PayloadKind::Binary => 2,
    };
    out.reserve(2 + publication.data.bytes.len());
    out.put_u8(VERSION);
    out.put_u8(
        kind | flag(info.is_some(), HAS_INFO)
            | flag(conn_info.is_some(), HAS_CONN_INFO)
            | flag(chan_info.is_some(), HAS_CHAN_INFO)
            | flag(!publication.tags.is_empty(), HAS_TAGS),
    );
    if let Some(info) = info {
        out.put_u128(info.client.bits());
        put_bytes(info.user.as_str().as_bytes(), out);
        for json in [conn_info, chan_info].into_iter().flatten() {
            put_bytes(json, out);
        }
    }
    if !publication.tags.is_empty() {
        put_length(publication.tags.len(), out);
        for (key, value) in &publication.tags {
            put_bytes(key.as_bytes(), out);
            put_bytes(value.as_bytes(), out);
        }
    }
    out.put_slice(&publication.data.bytes);
}

/// Reads a record. The payload and the JSON of the client info share the record's memory. The position is `None`.
pub fn decode_record(mut record: Bytes) -> Result<Publication, RecordError> {
    let version = record.try_get_u8().map_err(|_| RecordError::Truncated)?;
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    let flags = record.try_get_u8().map_err(|_| RecordError::Truncated)?;
    let has = |flag: u8| flags & flag != 0;
    let kind = match flags & KIND {
        0 => PayloadKind::Json,
        1 => PayloadKind::Text,
        2 => PayloadKind::Binary,
        _ => return Err(RecordError::Flags),
    };
    if flags & !KNOWN_FLAGS != 0 || (has(HAS_CONN_INFO | HAS_CHAN_INFO) && !has(HAS_INFO)) {
        return Err(RecordError::Flags);
    }
    let info =
        has(HAS_INFO).then(|| take_info(has(HAS_CONN_INFO), has(HAS_CHAN_INFO), &mut record)).transpose()?;
    let tags = if has(HAS_TAGS) { take_tags(&mut record)? } else { Tags::new() };
    if kind != PayloadKind::Binary {
        check_text(&record)?;
    }
    Ok(Publication { info, tags, ..Publication::new(Payload { kind, bytes: record }) })
}

/// Appends what stands before a record on its way from the broker.
pub fn encode_position(position: Option<StreamPosition>, out: &mut BytesMut) {
    if let Some(StreamPosition { offset, epoch }) = position {
        out.put_slice(itoa::Buffer::new().format(offset).as_bytes());
        out.put_u8(b':');
        out.put_slice(epoch.as_str().as_bytes());
    }
    out.put_u8(b':');
}

/// Takes the position off a message; what is left is the record, in the same memory.
pub fn split_position(mut message: Bytes) -> Result<(Option<StreamPosition>, Bytes), RecordError> {
    let offset = take_until_colon(&mut message, OFFSET_DIGITS_MAX)?;
    if offset.is_empty() {
        return Ok((None, message));
    }
    let epoch = take_until_colon(&mut message, EPOCH_BYTES_MAX)?;
    let position = parse_offset(&offset)
        .zip(std::str::from_utf8(&epoch).ok().and_then(Epoch::parse))
        .map(|(offset, epoch)| StreamPosition { offset, epoch })
        .ok_or(RecordError::Position)?;
    Ok((Some(position), message))
}

/// Reads a whole message: a position and a record.
pub fn decode_message(message: Bytes) -> Result<Publication, RecordError> {
    let (position, record) = split_position(message)?;
    Ok(Publication { position, ..decode_record(record)? })
}

/// Digits only: what `str::parse` takes beyond them (a sign) we never wrote.
fn parse_offset(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |offset, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        offset.checked_mul(10)?.checked_add(digit)
    })
}

fn take_until_colon(message: &mut Bytes, bytes_max: usize) -> Result<Bytes, RecordError> {
    let window = &message[..message.len().min(bytes_max + 1)];
    let colon = memchr::memchr(b':', window).ok_or(RecordError::Position)?;
    let part = message.split_to(colon);
    message.advance(1);
    Ok(part)
}

fn take_info(
    has_conn_info: bool,
    has_chan_info: bool,
    record: &mut Bytes,
) -> Result<ClientInfo, RecordError> {
    let client = record.try_get_u128().map_err(|_| RecordError::Truncated)?;
    let user = take_bytes(record)?;
    let mut json = |is_there: bool| {
        is_there.then(|| take_bytes(record).and_then(|json| check_text(&json).map(|()| json))).transpose()
    };
    Ok(ClientInfo {
        client: ClientId::from_bits(client),
        user: UserId::new(text(&user)?),
        conn_info: json(has_conn_info)?,
        chan_info: json(has_chan_info)?,
    })
}

fn take_tags(record: &mut Bytes) -> Result<Tags, RecordError> {
    // The number is believed only as far as there are bytes: nothing is reserved for it.
    let count = take_length(record)?;
    let mut tags = Tags::new();
    for _ in 0..count {
        let (key, value) = (take_bytes(record)?, take_bytes(record)?);
        let key: Box<str> = text(&key)?.into();
        if tags.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(RecordError::Tags);
        }
        tags.insert(key, text(&value)?.into());
    }
    if tags.is_empty() { Err(RecordError::Tags) } else { Ok(tags) }
}

fn put_bytes(bytes: &[u8], out: &mut BytesMut) {
    put_length(bytes.len(), out);
    out.put_slice(bytes);
}

fn take_bytes(record: &mut Bytes) -> Result<Bytes, RecordError> {
    let length = take_length(record)?;
    if length > record.len() {
        return Err(RecordError::Truncated);
    }
    Ok(record.split_to(length))
}

fn put_length(mut length: usize, out: &mut BytesMut) {
    while length >= 0x80 {
        out.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
}

fn take_length(record: &mut Bytes) -> Result<usize, RecordError> {
    let mut length = 0_u64;
    for index in 0..LENGTH_BYTES_MAX {
        let byte = record.try_get_u8().map_err(|_| RecordError::Truncated)?;
        length |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return usize::try_from(length).map_err(|_| RecordError::Length);
        }
    }
    Err(RecordError::Length)
}

fn check_text(bytes: &[u8]) -> Result<(), RecordError> {
    text(bytes).map(|_| ())
}

fn text(bytes: &[u8]) -> Result<&str, RecordError> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| RecordError::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record_of(publication: &Publication) -> Bytes {
        let mut out = BytesMut::new();
        encode_record(publication, &mut out);
        out.freeze()
    }

    #[test]
    fn a_plain_record_is_two_bytes_and_the_payload() {
        assert_eq!(record_of(&Publication::new(Payload::json("{}"))), &b"\x01\x00{}"[..]);
        assert_eq!(record_of(&Publication::new(Payload::binary(&b"\xff"[..]))), &b"\x01\x02\xff"[..]);
    }

    #[test]
    fn the_payload_is_read_without_a_copy() {
        let record = record_of(&Publication::new(Payload::text("hello")));
        let publication = decode_record(record.clone()).unwrap();
        assert_eq!(publication.data.bytes.as_ptr(), record[2..].as_ptr());
    }

    #[test]
    fn a_message_is_a_position_and_a_record() {
        let read =
            |message: &'static [u8]| decode_message(Bytes::from_static(message)).map(|read| read.position);
        let epoch = Epoch::parse("abcdefgh").unwrap();
        assert_eq!(read(b":\x01\x00{}"), Ok(None));
        assert_eq!(read(b"7:abcdefgh:\x01\x00{}"), Ok(Some(StreamPosition { offset: 7, epoch })));
        assert_eq!(
            read(b"18446744073709551615::\x01\x00{}"),
            Ok(Some(StreamPosition { offset: u64::MAX, epoch: Epoch::EMPTY }))
        );
        for bad in [
            &b""[..],
            b"7",
            b"7:abc",
            b"+7:abc:\x01\x00{}",
            b"-7:abc:\x01\x00{}",
            b"18446744073709551616:abc:\x01\x00{}",
            b"7:sixteen-bytes-ok:\x01\x00{}",
            b"7:\xff:\x01\x00{}",
            b"000000000000000000007:abc:\x01\x00{}",
        ] {
            assert_eq!(read(bad), Err(RecordError::Position), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_record_is_told_apart() {
        let read = |record: &'static [u8]| decode_record(Bytes::from_static(record)).unwrap_err();
        assert_eq!(read(b""), RecordError::Truncated);
        assert_eq!(read(b"\x01"), RecordError::Truncated);
        assert_eq!(read(b"\x02\x00{}"), RecordError::Version(2));
        assert_eq!(read(b"\x01\x03{}"), RecordError::Flags);
        assert_eq!(read(b"\x01\x40{}"), RecordError::Flags);
        assert_eq!(read(b"\x01\x08{}"), RecordError::Flags);
        assert_eq!(read(b"\x01\x04short"), RecordError::Truncated);
        assert_eq!(read(b"\x01\x00\xff"), RecordError::Text);
        assert_eq!(read(b"\x01\x20\x00{}"), RecordError::Tags);
        assert_eq!(read(b"\x01\x20\x02\x01b\x00\x01a\x00{}"), RecordError::Tags);
        assert_eq!(read(b"\x01\x20\x02\x01a\x00\x01a\x00{}"), RecordError::Tags);
        assert_eq!(read(b"\x01\x20\xff\xff\xff\xff\x0f\x01a\x00"), RecordError::Truncated);
        assert_eq!(read(b"\x01\x20\xff\xff\xff\xff\xff\xff"), RecordError::Length);
    }
}
