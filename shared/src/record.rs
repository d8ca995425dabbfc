//! The record: the compact form in which brokers carry and store publications and other events of a channel.
//!
//! ```text
//! version  1 byte   1, or 2 if any field marked (2) is needed: releases that read only 1 then read all they know
//! what     1 byte   (2) 0: a publication · 1: a join · 2: a leave; joins and leaves have only flags and info ·
//!                   3: the number of subscribers, which follows the flags
//! flags    1 byte   bits 0-1: kind of payload (0 JSON, 1 text, 2 binary)
//!                   bit 2: client info follows · 3: it has conn_info · 4: it has chan_info · 5: tags follow
//! more     1 byte   (2) bit 0: a time follows · 1: patches are wanted · 2: a key follows · 3: the key is removed
//!                   4: a score follows · 5: the key's version follows · 6: the id of an excluded client follows
//!                   7: a selection of subscribers follows
//! numbers           (2) time in milliseconds · key, as length and bytes · score (zigzag) · version · client id (16 bytes)
//! selection         (2) 1 if it is volatile, or 0 · channels · clients · excluded channels · excluded clients, each list as
//!                   a count, followed by length and bytes of each channel, or 16 bytes for each client
//! info              client id (16 bytes, big-endian) · user · conn_info · chan_info, each as length and bytes
//! tags              their number, then key and value of each as length and bytes, keys ascending. The tag of a stamp
//!                   (`tidegate-stamp`) does not belong to the publication's own tags
//! payload           all the rest
//! ```
//!
//! Lengths and numbers are LEB128. The payload comes last, so that reading slices it out of the broker's buffer without
//! a copy.
//!
//! A record does not hold the publication's position, which only the broker assigns. On the way to the nodes the
//! position precedes the record: `<offset>:<epoch>:`, or a bare `:` in a channel without a stream. A message is this
//! prefix and the record. Where a key's value may be sent as a patch, the key's previous value stands between the two:
//! a byte 3, the length of its record in digits, a `:`, and the record.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::channel::{CHANNEL_BYTES_MAX, Channel};
use crate::id::{ClientId, UserId};
use crate::position::{EPOCH_BYTES_MAX, Epoch, StreamPosition};
use crate::publication::{ClientInfo, Keyed, Payload, PayloadKind, Publication, Selection, Tags};
use crate::push::OwnedEvent;
use crate::stamp::{STAMP_TAG, Stamp};

const VERSION: u8 = 1;
/// Used only for fields that version 1 cannot express.
const VERSION_2: u8 = 2;

/// Takes the place of a version, in messages alone: the record of the key's previous value precedes the record itself.
const PAIR: u8 = 3;

const PUBLICATION: u8 = 0;
const JOINED: u8 = 1;
const LEFT: u8 = 2;
const COUNTED: u8 = 3;

const HAS_TIME: u8 = 1;
const DELTA: u8 = 1 << 1;
const HAS_KEY: u8 = 1 << 2;
const REMOVED: u8 = 1 << 3;
const HAS_SCORE: u8 = 1 << 4;
const HAS_KEY_VERSION: u8 = 1 << 5;
const HAS_EXCEPT: u8 = 1 << 6;
const HAS_SELECTION: u8 = 1 << 7;

const KIND: u8 = 0b11;
const HAS_INFO: u8 = 1 << 2;
const HAS_CONN_INFO: u8 = 1 << 3;
const HAS_CHAN_INFO: u8 = 1 << 4;
const HAS_TAGS: u8 = 1 << 5;
const KNOWN_FLAGS: u8 = KIND | HAS_INFO | HAS_CONN_INFO | HAS_CHAN_INFO | HAS_TAGS;

/// Longest encoding of a number.
const NUMBER_BYTES_MAX: u32 = 10;

/// Longest encoding of a length.
const LENGTH_BYTES_MAX: usize = 5;

/// Longest text of an offset: that of `u64::MAX`.
const OFFSET_DIGITS_MAX: usize = 20;

/// Why bytes from a broker are not a publication. Either another program writes there, or a newer release does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record ends too early")]
    Truncated,
    #[error("the record is of version {0}; this release reads versions up to {VERSION_2}")]
    Version(u8),
    #[error("the record is of a kind that this release does not know")]
    What,
    #[error("the record does not hold a publication")]
    NoPublication,
    #[error("the record has flags this release does not know")]
    Flags,
    #[error("a length in the record is malformed")]
    Length,
    #[error("a text in the record is not UTF-8")]
    Text,
    #[error("the tags of the record are not in order")]
    Tags,
    #[error("a channel in the record has an invalid name")]
    Channel,
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
    // Only sampled publications have a stamp, so the tags are seldom copied.
    let stamped;
    let tags = match &publication.stamp {
        None => &publication.tags,
        Some(stamp) => {
            let mut tags = publication.tags.clone();
            tags.insert(STAMP_TAG.into(), stamp.to_string().into());
            stamped = tags;
            &stamped
        }
    };
    let needs_more = publication.time_ms != 0
        || publication.delta
        || publication.keyed.is_some()
        || publication.except.is_some()
        || publication.only.is_some();
    match needs_more {
        true => out.put_slice(&[VERSION_2, PUBLICATION]),
        false => out.put_u8(VERSION),
    }
    out.put_u8(
        kind | flag(info.is_some(), HAS_INFO)
            | flag(conn_info.is_some(), HAS_CONN_INFO)
            | flag(chan_info.is_some(), HAS_CHAN_INFO)
            | flag(!tags.is_empty(), HAS_TAGS),
    );
    if needs_more {
        put_more(publication, out);
    }
    if let Some(info) = info {
        put_info(info, out);
    }
    if !tags.is_empty() {
        put_length(tags.len(), out);
        for (key, value) in tags {
            put_bytes(key.as_bytes(), out);
            put_bytes(value.as_bytes(), out);
        }
    }
    out.put_slice(&publication.data.bytes);
}

/// Appends the record of any event of a channel. Events that stay on their node have no record: nothing is appended.
pub fn encode_event(event: &OwnedEvent, out: &mut BytesMut) {
    let (what, info) = match event {
        OwnedEvent::Publication(publication) => return encode_record(publication, out),
        OwnedEvent::Joined(info) => (JOINED, info),
        OwnedEvent::Left(info) => (LEFT, info),
        OwnedEvent::Counted { subscribers } => {
            out.put_slice(&[VERSION_2, COUNTED, 0]);
            return put_number(u64::from(*subscribers), out);
        }
        OwnedEvent::MemberAdded { .. } | OwnedEvent::MemberRemoved { .. } => return,
    };
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let json = flag(info.conn_info.is_some(), HAS_CONN_INFO) | flag(info.chan_info.is_some(), HAS_CHAN_INFO);
    out.put_slice(&[VERSION_2, what, HAS_INFO | json]);
    put_info(info, out);
}

/// Reads a record. The payload and the JSON of the client info share the record's memory. The position is `None`.
pub fn decode_record(record: Bytes) -> Result<Publication, RecordError> {
    decode_publication(record, None)
}

fn decode_publication(
    mut record: Bytes,
    position: Option<StreamPosition>,
) -> Result<Publication, RecordError> {
    match take_head(&mut record)? {
        head @ Head { what: PUBLICATION, .. } => take_publication(head, record, position),
        Head { what, flags, .. } => {
            decode_info_event(what, flags, record).and(Err(RecordError::NoPublication))
        }
    }
}

/// Reads the record of any event of a channel.
pub fn decode_event(record: Bytes) -> Result<OwnedEvent, RecordError> {
    decode_event_at(record, None)
}

fn decode_event_at(mut record: Bytes, position: Option<StreamPosition>) -> Result<OwnedEvent, RecordError> {
    match take_head(&mut record)? {
        head @ Head { what: PUBLICATION, .. } => {
            take_publication(head, record, position).map(OwnedEvent::Publication)
        }
        Head { what: COUNTED, flags: 0, .. } => {
            let subscribers = u32::try_from(take_number(&mut record)?).map_err(|_| RecordError::Length)?;
            match record.is_empty() {
                true => Ok(OwnedEvent::Counted { subscribers }),
                false => Err(RecordError::Length),
            }
        }
        Head { what, flags, .. } => decode_info_event(what, flags, record),
    }
}

/// The fixed beginning of a record.
struct Head {
    what: u8,
    flags: u8,
    /// `None` in version 1.
    more: Option<u8>,
}

fn take_head(record: &mut Bytes) -> Result<Head, RecordError> {
    let (head, bytes) = match **record {
        [VERSION, flags, ..] => (Head { what: PUBLICATION, flags, more: None }, 2),
        [VERSION_2, PUBLICATION, flags, more, ..] => (Head { what: PUBLICATION, flags, more: Some(more) }, 4),
        [VERSION_2, what, flags, ..] if what != PUBLICATION => (Head { what, flags, more: None }, 3),
        [] | [VERSION | VERSION_2, ..] => return Err(RecordError::Truncated),
        [version, ..] => return Err(RecordError::Version(version)),
    };
    record.advance(bytes);
    Ok(head)
}

fn take_publication(
    Head { flags, more, .. }: Head,
    mut record: Bytes,
    position: Option<StreamPosition>,
) -> Result<Publication, RecordError> {
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
    let mut publication = Publication::new(Payload { kind, bytes: Bytes::new() });
    publication.position = position;
    if let Some(more) = more {
        take_more(more, &mut record, &mut publication)?;
    }
    publication.info =
        has(HAS_INFO).then(|| take_info(has(HAS_CONN_INFO), has(HAS_CHAN_INFO), &mut record)).transpose()?;
    if has(HAS_TAGS) {
        publication.tags = take_tags(&mut record)?;
        publication.stamp = take_stamp(&mut publication.tags);
    }
    if kind != PayloadKind::Binary {
        check_text(&record)?;
    }
    publication.data.bytes = record;
    Ok(publication)
}

/// Reads a join or a leave: the client's info, and nothing after it.
fn decode_info_event(what: u8, flags: u8, mut record: Bytes) -> Result<OwnedEvent, RecordError> {
    if !matches!(what, JOINED | LEFT) {
        return Err(RecordError::What);
    }
    if flags & !(HAS_INFO | HAS_CONN_INFO | HAS_CHAN_INFO) != 0 || flags & HAS_INFO == 0 {
        return Err(RecordError::Flags);
    }
    let info = take_info(flags & HAS_CONN_INFO != 0, flags & HAS_CHAN_INFO != 0, &mut record)?;
    if !record.is_empty() {
        return Err(RecordError::Length);
    }
    Ok(if what == JOINED { OwnedEvent::Joined(info) } else { OwnedEvent::Left(info) })
}

fn put_more(publication: &Publication, out: &mut BytesMut) {
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let keyed = publication.keyed.as_deref();
    let has = |of: fn(&Keyed) -> bool| keyed.is_some_and(of);
    out.put_u8(
        flag(publication.time_ms != 0, HAS_TIME)
            | flag(publication.delta, DELTA)
            | flag(keyed.is_some(), HAS_KEY)
            | flag(has(|keyed| keyed.removed), REMOVED)
            | flag(has(|keyed| keyed.score != 0), HAS_SCORE)
            | flag(has(|keyed| keyed.version != 0), HAS_KEY_VERSION)
            | flag(publication.except.is_some(), HAS_EXCEPT)
            | flag(publication.only.is_some(), HAS_SELECTION),
    );
    if publication.time_ms != 0 {
        put_number(publication.time_ms, out);
    }
    if let Some(keyed) = keyed {
        put_bytes(keyed.key.as_bytes(), out);
        if keyed.score != 0 {
            put_number((keyed.score << 1 ^ keyed.score >> 63) as u64, out);
        }
        if keyed.version != 0 {
            put_number(keyed.version, out);
        }
    }
    if let Some(except) = &publication.except {
        out.put_u128(except.bits());
    }
    if let Some(only) = &publication.only {
        put_selection(only, out);
    }
}

fn put_selection(only: &Selection, out: &mut BytesMut) {
    out.put_u8(u8::from(only.volatile));
    for (channels, clients) in
        [(&only.channels, &only.clients), (&only.except_channels, &only.except_clients)]
    {
        put_length(channels.len(), out);
        channels.iter().for_each(|channel| put_bytes(channel.as_str().as_bytes(), out));
        put_length(clients.len(), out);
        clients.iter().for_each(|client| out.put_u128(client.bits()));
    }
}

fn take_selection(record: &mut Bytes) -> Result<Selection, RecordError> {
    let volatile = match record.try_get_u8().map_err(|_| RecordError::Truncated)? {
        0 => false,
        1 => true,
        _ => return Err(RecordError::Flags),
    };
    let (channels, clients) = (take_channels(record)?, take_clients(record)?);
    let (except_channels, except_clients) = (take_channels(record)?, take_clients(record)?);
    Ok(Selection { channels, clients, except_channels, except_clients, volatile })
}

/// Reserves nothing for the announced number, which may exceed the bytes that follow.
fn take_channels(record: &mut Bytes) -> Result<Vec<Channel>, RecordError> {
    let mut channels = Vec::new();
    for _ in 0..take_length(record)? {
        let name = take_bytes(record)?;
        channels
            .push(Channel::parse_unicode(text(&name)?, CHANNEL_BYTES_MAX).map_err(|_| RecordError::Channel)?);
    }
    Ok(channels)
}

fn take_clients(record: &mut Bytes) -> Result<Vec<ClientId>, RecordError> {
    let mut clients = Vec::new();
    for _ in 0..take_length(record)? {
        clients.push(ClientId::from_bits(record.try_get_u128().map_err(|_| RecordError::Truncated)?));
    }
    Ok(clients)
}

fn take_more(more: u8, record: &mut Bytes, publication: &mut Publication) -> Result<(), RecordError> {
    let has = |flag: u8| more & flag != 0;
    if has(REMOVED | HAS_SCORE | HAS_KEY_VERSION) && !has(HAS_KEY) {
        return Err(RecordError::Flags);
    }
    if has(HAS_TIME) {
        publication.time_ms = take_number(record)?;
    }
    publication.delta = has(DELTA);
    if has(HAS_KEY) {
        let mut keyed = Keyed { removed: has(REMOVED), ..Keyed::default() };
        keyed.key = text(&take_bytes(record)?)?.into();
        if has(HAS_SCORE) {
            let zigzag = take_number(record)?;
            keyed.score = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        }
        if has(HAS_KEY_VERSION) {
            keyed.version = take_number(record)?;
        }
        publication.keyed = Some(Box::new(keyed));
    }
    if has(HAS_EXCEPT) {
        let except = record.try_get_u128().map_err(|_| RecordError::Truncated)?;
        publication.except = Some(Box::new(ClientId::from_bits(except)));
    }
    if has(HAS_SELECTION) {
        publication.only = Some(Box::new(take_selection(record)?));
    }
    Ok(())
}

/// Appends the position that precedes a record on its way from the broker.
pub fn encode_position(position: Option<StreamPosition>, out: &mut BytesMut) {
    if let Some(StreamPosition { offset, epoch }) = position {
        out.put_slice(itoa::Buffer::new().format(offset).as_bytes());
        out.put_u8(b':');
        out.put_slice(epoch.as_str().as_bytes());
    }
    out.put_u8(b':');
}

/// Splits the position off a message. The remaining record shares the message's memory.
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

/// Reads a whole message: a position and a record of a publication.
pub fn decode_message(message: Bytes) -> Result<Publication, RecordError> {
    let (position, record) = split_position(message)?;
    decode_publication(record, position)
}

/// Reads a whole message of any kind. Only publications have a position: that of another event is ignored.
pub fn decode_event_message(message: Bytes) -> Result<OwnedEvent, RecordError> {
    let (position, mut record) = split_position(message)?;
    let before = match record.first() {
        Some(&PAIR) => {
            record.advance(1);
            let length = take_until_colon(&mut record, OFFSET_DIGITS_MAX)?;
            let length = parse_offset(&length).and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|length| *length <= record.len()).ok_or(RecordError::Length)?;
            Some(decode_record(record.split_to(length))?.data)
        }
        _ => None,
    };
    let mut event = decode_event_at(record, position)?;
    if before.is_some()
        && let OwnedEvent::Publication(Publication { keyed: Some(keyed), .. }) = &mut event
    {
        keyed.before = before;
    }
    Ok(event)
}

/// Reads digits only. `str::parse` would also accept a sign, which the gateway never writes.
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
    // Nothing is reserved for the announced number, which may exceed the bytes that follow.
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

/// Removes the stamp from the tags. A value that is not readable, such as a later release's stamp, is dropped.
fn take_stamp(tags: &mut Tags) -> Option<Box<Stamp>> {
    let stamp = tags.remove(STAMP_TAG)?;
    Stamp::parse(&stamp).map(Box::new)
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

fn put_info(info: &ClientInfo, out: &mut BytesMut) {
    out.put_u128(info.client.bits());
    put_bytes(info.user.as_str().as_bytes(), out);
    for json in [&info.conn_info, &info.chan_info].into_iter().flatten() {
        put_bytes(json, out);
    }
}

fn put_length(length: usize, out: &mut BytesMut) {
    put_number(length as u64, out);
}

fn put_number(mut number: u64, out: &mut BytesMut) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn take_number(record: &mut Bytes) -> Result<u64, RecordError> {
    let mut number = 0_u64;
    for index in 0..NUMBER_BYTES_MAX {
        let byte = record.try_get_u8().map_err(|_| RecordError::Truncated)?;
        let bits = u64::from(byte & 0x7f);
        if bits != 0 && bits.leading_zeros() < 7 * index {
            return Err(RecordError::Length);
        }
        number |= bits << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(RecordError::Length)
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
mod tests;
