//! The hub's shared encoding of events for clients that receive offsets: each client gets its own offset as the last argument.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::SocketIoShared;
use super::encode_push;
use super::names::Namespaces;
use super::state::ConnectionState;
use crate::command::Command;
use crate::disconnect::Disconnect;
use crate::framing::{Message, MessageKind};
use crate::position::{Epoch, StreamPosition};
use crate::protocol::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId};
use crate::push::{Event, Push};
use crate::reply::Reply;

/// First byte of a record. No packet begins with it, nor does a frame that holds one.
const MARK: u8 = 0;
/// The mark and the length of the whole record.
const HEADER_BYTES: usize = 5;
/// The end of an event's list of arguments.
const END: u8 = b']';

/// The shared encoding for all clients that receive offsets.
#[derive(Debug)]
pub struct EventRecords {
    common: Arc<SocketIoShared>,
}

impl EventRecords {
    pub fn new(common: Arc<SocketIoShared>) -> Self {
        Self { common }
    }
}

impl Protocol for EventRecords {
    fn id(&self) -> ProtocolId {
        ProtocolId::SOCKET_IO
    }

    /// Clients have a [`super::SocketIo`] each, so that none sends messages to this one.
    fn decode(&self, _message: Message<'_>, _commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        Err(DecodeError::Malformed)
    }

    fn encode_reply(&self, _reply: &Reply, _out: &mut BytesMut) -> Encoded {
        Encoded::Nothing
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        let Event::Publication(publication, _) = push.event else { return Encoded::Nothing };
        let (Some(seen), Some(channel)) = (self.common.namespaces.of(push.channel), push.channel) else {
            return Encoded::Nothing;
        };
        let mut packet = BytesMut::new();
        let messages = match encode_push::event(seen.namespace.name(), publication, None, &mut packet) {
            Encoded::Message(kind) => vec![(kind, packet.len())],
            Encoded::Messages(messages) => messages,
            other => return other,
        };
        put(channel.as_str(), publication.position, &messages, &packet, out);
        Encoded::Message(MessageKind::Binary)
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Transport
    }

    fn encode_close_message(&self, _disconnect: &Disconnect, _out: &mut BytesMut) -> Encoded {
        Encoded::Nothing
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        None
    }
}

fn put(
    channel: &str,
    position: Option<StreamPosition>,
    messages: &[(MessageKind, usize)],
    packet: &[u8],
    out: &mut BytesMut,
) {
    let start = out.len();
    out.reserve(packet.len() + channel.len() + 64 + messages.len() * HEADER_BYTES);
    out.put_u8(MARK);
    out.put_u32(0);
    // The lengths of a channel name and of an epoch fit in one byte.
    out.put_u8(channel.len() as u8);
    out.put_slice(channel.as_bytes());
    out.put_u8(u8::from(position.is_some()));
    if let Some(position) = position {
        out.put_u64(position.offset);
        out.put_u8(position.epoch.as_str().len() as u8);
        out.put_slice(position.epoch.as_str().as_bytes());
    }
    out.put_u32(messages.len() as u32);
    for (kind, length) in messages {
        out.put_u8(u8::from(*kind == MessageKind::Binary));
        out.put_u32(*length as u32);
    }
    out.put_slice(packet);
    let length = (out.len() - start) as u32;
    if let Some(place) = out.get_mut(start + 1..start + HEADER_BYTES) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Whether the bytes are records of [`EventRecords`], as opposed to messages that are sent to a client unchanged.
pub(super) fn is_first_in(bytes: &[u8]) -> bool {
    bytes.first() == Some(&MARK)
}

/// Passes each message in the records to `say`, with the client's own offset.
pub(super) fn deliver(
    namespaces: &Namespaces,
    state: &mut ConnectionState,
    records: &Bytes,
    mut say: impl FnMut(MessageKind, &[u8]),
) {
    let (mut rest, mut message_for_client) = (records.clone(), BytesMut::new());
    while let Some(EventRecord { channel, position, messages, mut packet }) = EventRecord::take(&mut rest) {
        let channel = std::str::from_utf8(&channel).unwrap_or_default();
        let index = namespaces.seen(channel).map(|seen| seen.index);
        let cursor = index.and_then(|index| state.cursor_mut(index));
        if let Some((cursor, position)) = cursor.zip(position) {
            cursor.advance(channel, position);
        }
        let cursor = index.and_then(|index| state.cursor(index));
        for (at, (kind, length)) in messages.into_iter().enumerate() {
            let message = packet.split_to(length.min(packet.len()));
            match (cursor, message.split_last()) {
                // Only the first message holds the arguments.
                (Some(cursor), Some((&END, before))) if at == 0 => {
                    message_for_client.clear();
                    message_for_client.reserve(message.len() + cursor.argument_bytes());
                    message_for_client.put_slice(before);
                    cursor.write_argument(&mut message_for_client);
                    message_for_client.put_u8(END);
                    say(kind, &message_for_client);
                }
                _ => say(kind, &message),
            }
        }
    }
}

/// An event in a channel.
struct EventRecord {
    channel: Bytes,
    position: Option<StreamPosition>,
    messages: Vec<(MessageKind, usize)>,
    packet: Bytes,
}

impl EventRecord {
    /// Takes the first record. `None` if there is none left.
    fn take(bytes: &mut Bytes) -> Option<Self> {
        let header: [u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let [MARK, length @ ..] = header else { return None };
        let length = u32::from_be_bytes(length) as usize;
        if length > bytes.len() {
            return None;
        }
        let mut rest = bytes.split_to(length);
        rest.advance(HEADER_BYTES.min(length));
        let channel = take(&mut rest)?;
        let position = match rest.try_get_u8().ok()? {
            0 => None,
            _ => {
                let offset = rest.try_get_u64().ok()?;
                let epoch = take(&mut rest)?;
                Some(StreamPosition { offset, epoch: Epoch::parse(std::str::from_utf8(&epoch).ok()?)? })
            }
        };
        let count = rest.try_get_u32().ok()?;
        let message = |_| {
            let kind = if rest.try_get_u8().ok()? == 0 { MessageKind::Text } else { MessageKind::Binary };
            Some((kind, rest.try_get_u32().ok()? as usize))
        };
        let messages = (0..count).map(message).collect::<Option<Vec<_>>>()?;
        Some(Self { channel, position, messages, packet: rest })
    }
}

/// Takes bytes that are preceded by their length.
fn take(rest: &mut Bytes) -> Option<Bytes> {
    let length = usize::from(rest.try_get_u8().ok()?);
    (rest.len() >= length).then(|| rest.split_to(length))
}
