//! The part of a publication that a channel's subscribers share: its payload as JSON, and its position.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::close;
use crate::channel::Channel;
use crate::command::Command;
use crate::disconnect::Disconnect;
use crate::framing::{Message, MessageKind};
use crate::position::{Epoch, StreamPosition};
use crate::protocol::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId, json};
use crate::publication::Publication;
use crate::push::{Event, Push};
use crate::reply::Reply;

/// First byte of a record. No message of this protocol begins with it.
const MARK: u8 = 0;
/// The mark and the length of the whole record.
const HEADER_BYTES: usize = 5;
/// The last event of a stream that belongs to one operation.
const COMPLETE: &[u8] = b"event: complete\ndata:\n\n";

/// A publication from which each client's own messages are made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PayloadRecord {
    pub(super) channel: Bytes,
    pub(super) position: Option<StreamPosition>,
    /// One JSON value, without line breaks.
    pub(super) json: Bytes,
}

/// Writes a publication for all subscribers of its channel. Several records may follow each other.
pub(super) fn put(channel: &Channel, publication: &Publication, out: &mut BytesMut) {
    let start = out.len();
    out.put_u8(MARK);
    out.put_u32(0);
    // The lengths of a channel name and of an epoch fit in one byte.
    out.put_u8(channel.as_str().len() as u8);
    out.put_slice(channel.as_str().as_bytes());
    out.put_u8(u8::from(publication.position.is_some()));
    if let Some(position) = publication.position {
        out.put_u64(position.offset);
        out.put_u8(position.epoch.as_str().len() as u8);
        out.put_slice(position.epoch.as_str().as_bytes());
    }
    json::payload(&publication.data, out);
    // No payload exceeds what four bytes can express.
    let length = (out.len() - start) as u32;
    if let Some(place) = out.get_mut(start + 1..start + HEADER_BYTES) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

impl PayloadRecord {
    /// Whether the bytes are records of [`GraphQlRecords`], as opposed to a message that is sent to a client unchanged.
    pub fn is_first_in(bytes: &[u8]) -> bool {
        bytes.first() == Some(&MARK)
    }

    /// Takes the first of [`GraphQlRecords`]' records, together with its bytes. `None` if there is none left.
    pub fn take(bytes: &mut Bytes) -> Option<(Bytes, Self)> {
        let header: [u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let [MARK, length @ ..] = header else { return None };
        let length = u32::from_be_bytes(length) as usize;
        if length > bytes.len() {
            return None;
        }
        let own = bytes.split_to(length);
        let read = Self::read(own.get(HEADER_BYTES..).map(|rest| own.slice_ref(rest))?)?;
        Some((own, read))
    }

    fn read(mut rest: Bytes) -> Option<Self> {
        let channel = take(&mut rest)?;
        let position = match rest.try_get_u8().ok()? {
            0 => None,
            _ => {
                let offset = rest.try_get_u64().ok()?;
                let epoch = take(&mut rest)?;
                Some(StreamPosition { offset, epoch: Epoch::parse(std::str::from_utf8(&epoch).ok()?)? })
            }
        };
        Some(Self { channel, position, json: rest })
    }
}

/// Takes bytes that are preceded by their length.
fn take(rest: &mut Bytes) -> Option<Bytes> {
    let length = usize::from(rest.try_get_u8().ok()?);
    (rest.len() >= length).then(|| rest.split_to(length))
}

/// The shared encoding of publications for all clients, in every dialect.
#[derive(Clone, Copy, Debug, Default)]
pub struct GraphQlRecords;

impl Protocol for GraphQlRecords {
    fn id(&self) -> ProtocolId {
        ProtocolId::GRAPHQL
    }

    /// Clients have a [`super::GraphQl`] each, so that none sends messages to this one.
    fn decode(&self, _message: Message<'_>, _commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        Err(DecodeError::Malformed)
    }

    fn encode_reply(&self, _reply: &Reply, _out: &mut BytesMut) -> Encoded {
        Encoded::Nothing
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        match (push.channel, push.event) {
            (Some(channel), Event::Publication(publication, _)) => {
                put(channel, publication, out);
                Encoded::Message(MessageKind::Text)
            }
            // Only the stream of a single operation ends normally, when the operation does.
            (None, Event::Disconnected(disconnect)) if disconnect.code == Disconnect::NORMAL.code => {
                out.put_slice(COMPLETE);
                Encoded::Message(MessageKind::Text)
            }
            _ => Encoded::Nothing,
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Unanswered
    }

    fn close(&self, disconnect: &Disconnect) -> Disconnect {
        close::translated(disconnect)
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publication::Payload;

    fn record(data: Payload, position: Option<StreamPosition>) -> Bytes {
        let mut out = BytesMut::new();
        let channel = Channel::parse("news:1", 255).unwrap();
        put(&channel, &Publication { position, ..Publication::new(data) }, &mut out);
        out.freeze()
    }

    fn only(bytes: Bytes) -> Option<PayloadRecord> {
        let mut rest = bytes;
        let (_, record) = PayloadRecord::take(&mut rest)?;
        assert!(rest.is_empty());
        Some(record)
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let position = StreamPosition { offset: 7, epoch: Epoch::parse("life").unwrap() };
        for position in [None, Some(position)] {
            let read = only(record(Payload::json("{\n}"), position)).unwrap();
            assert_eq!(read, PayloadRecord { channel: "news:1".into(), position, json: "{ }".into() });
        }
        assert_eq!(only(record(Payload::text("a\nb"), None)).unwrap().json, r#""a\nb""#);
        assert_eq!(only(record(Payload::binary(&b"\0"[..]), None)).unwrap().json, r#""AA==""#);
    }

    #[test]
    fn those_that_travel_together_are_told_apart() {
        let together = ["1", "22", "3"].map(|json| record(Payload::json(json), None)).concat();
        let mut rest = Bytes::from(together);
        let mut read = Vec::new();
        while let Some((bytes, record)) = PayloadRecord::take(&mut rest) {
            assert!(PayloadRecord::is_first_in(&bytes));
            read.push(record.json);
        }
        assert_eq!((read, rest.len()), (vec!["1".into(), "22".into(), Bytes::from("3")], 0));
    }

    #[test]
    fn what_is_none_is_not_read() {
        let whole = record(Payload::json("1"), Some(StreamPosition::default()));
        assert!(only(whole.slice(..4)).is_none() && only(whole.slice(..whole.len() - 1)).is_none());
        for other in [&b""[..], b"{}", b"\x00", b"\x00\x00\x00\x00\x05", b"\x00\x00\x00\x00\x07\x05ab"] {
            assert!(only(Bytes::from_static(other)).is_none(), "{other:?}");
        }
    }
}
