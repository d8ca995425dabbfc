//! Encodes pushes.

use std::ops::DerefMut;

use bytes::{BufMut, Bytes, BytesMut};

use super::arguments;
use super::cursor::Cursor;
use super::names::Namespaces;
use super::packet::{self, PacketKind};
use super::state::{ConnectionState, bit};
use super::{RESERVED, UNNAMED_EVENT};
use crate::disconnect::Disconnect;
use crate::framing::MessageKind;
use crate::protocol::{Encoded, json};
use crate::publication::{Payload, Publication, Tags};
use crate::push::{Event, Push, UnsubscribeCode};

/// Space to reserve around the arguments of an event.
const ENVELOPE_BYTES_GUESS: usize = 64;

/// Encodes a push. `state` belongs to one connection, so it is not used for pushes that connections share.
pub(super) fn encode<S: DerefMut<Target = ConnectionState>>(
    namespaces: &Namespaces,
    state: impl FnOnce() -> S,
    push: Push<'_>,
    out: &mut BytesMut,
) -> Encoded {
    let Some(seen) = namespaces.of(push.channel) else { return Encoded::Nothing };
    match push.event {
        Event::Publication(publication, _) if seen.namespace.keeps_sessions() => {
            let (mut state, channel) = (state(), push.channel.map(|channel| channel.as_str()));
            let cursor = state.cursor_mut(seen.index);
            followed_event(seen.namespace.name(), channel.unwrap_or_default(), publication, cursor, out)
        }
        Event::Publication(publication, _) => event(seen.namespace.name(), publication, None, out),
        // The client can only recover by reconnecting.
        Event::Unsubscribed(
            code @ (UnsubscribeCode::InsufficientState | UnsubscribeCode::StateInvalidated),
        ) => Encoded::Close(code.disconnect()),
        Event::Unsubscribed(UnsubscribeCode::Server | UnsubscribeCode::Expired) if seen.is_of_all() => {
            let (mut state, bit) = (state(), bit(seen.index));
            let was_in = state.joined & bit != 0;
            state.joined &= !bit;
            state.left |= bit;
            if !was_in {
                return Encoded::Nothing;
            }
            packet::begin(PacketKind::Disconnect, 0, seen.namespace.name(), None, out);
            Encoded::Message(MessageKind::Text)
        }
        // The protocol reports neither joins and leaves nor the rooms of a client.
        _ => Encoded::Nothing,
    }
}

/// Writes an event for one client, with the client's offset if it may resume its session.
pub(super) fn followed_event(
    namespace: &str,
    channel: &str,
    publication: &Publication,
    mut cursor: Option<&mut Cursor>,
    out: &mut BytesMut,
) -> Encoded {
    if let (Some(cursor), Some(position)) = (&mut cursor, publication.position) {
        cursor.advance(channel, position);
    }
    event(namespace, publication, cursor.as_deref(), out)
}

/// Writes a publication as an event. `cursor` holds the receiver's positions after the event.
pub(super) fn event(
    namespace: &str,
    publication: &Publication,
    cursor: Option<&Cursor>,
    out: &mut BytesMut,
) -> Encoded {
    let Publication { data, tags, .. } = publication;
    // An event with a reserved name from another protocol would close the connections of the clients here.
    let name = publication.event().filter(|name| !RESERVED.contains(name)).unwrap_or(UNNAMED_EVENT);
    out.reserve(ENVELOPE_BYTES_GUESS + namespace.len() + name.len() + data.bytes.len());
    let arguments = Arguments { event: Some(name), values: (data, tags), cursor };
    with_arguments([PacketKind::Event, PacketKind::BinaryEvent], namespace, None, arguments, out)
}

/// The contents of a packet.
pub(super) struct Arguments<'a> {
    /// The name of the event; `None` in an acknowledgement.
    pub(super) event: Option<&'a str>,
    pub(super) values: (&'a Payload, &'a Tags),
    /// The receiver's positions after the event, if it is told its offset.
    pub(super) cursor: Option<&'a Cursor>,
}

/// Writes a packet with arguments. `kinds` are its kinds without and with attachments.
pub(super) fn with_arguments(
    kinds: [PacketKind; 2],
    namespace: &str,
    ack: Option<u64>,
    Arguments { event, values: (data, tags), cursor }: Arguments<'_>,
    out: &mut BytesMut,
) -> Encoded {
    let start = out.len();
    let mut attachments = Vec::new();
    packet::begin(kinds[0], 0, namespace, ack, out);
    let head = out.len() - start;
    out.put_u8(b'[');
    if let Some(event) = event {
        json::string(event, out);
    }
    let before = out.len();
    if event.is_some() {
        out.put_u8(b',');
    }
    let empty = out.len();
    arguments::write(data, tags, out, &mut attachments);
    if out.len() == empty {
        out.truncate(before);
    }
    if let Some(cursor) = cursor {
        cursor.write_argument(out);
    }
    out.put_u8(b']');
    match attachments.is_empty() {
        true => Encoded::Message(MessageKind::Text),
        false => attach(kinds[1], namespace, ack, start, head, &attachments, out),
    }
}

/// Turns the packet written since `start`, with a head of `head` bytes, into one with attachments.
fn attach(
    kind: PacketKind,
    namespace: &str,
    ack: Option<u64>,
    start: usize,
    head: usize,
    attachments: &[Bytes],
    out: &mut BytesMut,
) -> Encoded {
    let written = out.split_off(start);
    packet::begin(kind, attachments.len(), namespace, ack, out);
    out.put_slice(&written[head..]);
    let mut messages = vec![(MessageKind::Text, out.len() - start)];
    for bytes in attachments {
        out.put_slice(bytes);
        messages.push((MessageKind::Binary, bytes.len()));
    }
    Encoded::Messages(messages)
}

/// Tells the client to leave its namespaces if it must not return: clients reconnect after a lost connection, but not
/// after they were told to leave.
pub(super) fn encode_close_message(
    namespaces: &Namespaces,
    state: &mut ConnectionState,
    disconnect: &Disconnect,
    out: &mut BytesMut,
) -> Encoded {
    let joined = std::mem::take(&mut state.joined);
    // A client that sent too much at once may return, as after a request that is too long.
    if disconnect.invites_reconnect() || disconnect.code == Disconnect::TOO_BIG.code {
        return Encoded::Nothing;
    }
    let mut messages = Vec::new();
    for (index, namespace) in namespaces.iter().enumerate().filter(|(index, _)| joined & bit(*index) != 0) {
        let start = out.len();
        packet::begin(PacketKind::Disconnect, 0, namespace.name(), None, out);
        messages.push((MessageKind::Text, out.len() - start));
        state.left |= bit(index);
    }
    match messages.is_empty() {
        true => Encoded::Nothing,
        false => Encoded::Messages(messages),
    }
}
