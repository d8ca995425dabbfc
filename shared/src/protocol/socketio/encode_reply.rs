//! Encodes replies.

use bytes::{BufMut, BytesMut};

use super::cursor::Cursor;
use super::encode_push::{Arguments, followed_event, with_arguments};
use super::id;
use super::names::{Namespace, Namespaces};
use super::packet::{self, PacketKind};
use super::sid::sid;
use super::state::{ConnectionState, ReplyPurpose, bit};
use crate::framing::MessageKind;
use crate::protocol::Encoded;
use crate::protocol::json::{self, Object};
use crate::publication::{Payload, Tagged, Tags};
use crate::refusal::Refusal;
use crate::reply::{Answer, Reply, Subscribed};

const TEXT: Encoded = Encoded::Message(MessageKind::Text);

/// The event that tells a client of the refusal of an event for which it requested no acknowledgement.
const ERROR_EVENT: &str = "error";

pub(super) fn encode(
    namespaces: &Namespaces,
    state: &mut ConnectionState,
    reply: &Reply,
    out: &mut BytesMut,
) -> Encoded {
    let (kind, rest) = id::parts(reply.id);
    let index = rest as usize;
    match (kind, namespaces.get(index)) {
        (id::ENTER, Some(namespace)) => entered(state, namespace, index, reply, out),
        (id::EVENT, Some(namespace)) => match &reply.outcome {
            Err(refusal) => {
                state.refused = state.refused.saturating_add(1);
                match state.joined & bit(index) {
                    0 => Encoded::Nothing,
                    _ => refused(namespace, refusal, out),
                }
            }
            _ => Encoded::Nothing,
        },
        (0, _) => match state.take_awaited(rest) {
            Some(ReplyPurpose::Ack { namespace, ack }) => {
                let Some(namespace) = namespaces.get(namespace) else { return Encoded::Nothing };
                state.refused = state.refused.saturating_add(u32::from(reply.outcome.is_err()));
                acknowledged(namespace, ack, &reply.outcome, out)
            }
            Some(ReplyPurpose::Unknown(name)) => connect_error(&name, "Invalid namespace", None, out),
            None => Encoded::Nothing,
        },
        _ => Encoded::Nothing,
    }
}

/// Answers a client that has entered a namespace, or was refused.
fn entered(
    state: &mut ConnectionState,
    namespace: &Namespace,
    index: usize,
    reply: &Reply,
    out: &mut BytesMut,
) -> Encoded {
    match &reply.outcome {
        // The namespace's own reply follows.
        Ok(Answer::Connect(connected)) => {
            state.client = Some(connected.client);
            Encoded::Nothing
        }
        // The client may have left again already.
        _ if state.entering & bit(index) == 0 => Encoded::Nothing,
        Ok(Answer::Subscribe(subscribed)) => {
            let Some(client) = state.client else { return Encoded::Nothing };
            state.entering &= !bit(index);
            state.left &= !bit(index);
            state.joined |= bit(index);
            welcome(namespace, state.cursor_mut(index), &sid(client, namespace.name()), subscribed, out)
        }
        Ok(_) => Encoded::Nothing,
        Err(refusal) => {
            state.entering &= !bit(index);
            // Libraries do not retry a namespace by themselves, except after a lost connection. A client that is in
            // another namespace is told of the error and stays connected.
            match refusal.is_outage() && state.joined == 0 {
                true => Encoded::Close(refusal.disconnect()),
                false => connect_error(namespace.name(), &refusal.message, Some(refusal), out),
            }
        }
    }
}

fn welcome(
    namespace: &Namespace,
    mut cursor: Option<&mut Cursor>,
    sid: &str,
    subscribed: &Subscribed,
    out: &mut BytesMut,
) -> Encoded {
    let start = out.len();
    packet::begin(PacketKind::Connect, 0, namespace.name(), None, out);
    let mut object = Object::begin(out);
    object.string("sid", sid);
    if let Some(cursor) = &cursor {
        object.string("pid", &cursor.pid);
    }
    object.end();
    if subscribed.publications.is_empty() {
        return TEXT;
    }
    let mut messages = vec![(MessageKind::Text, out.len() - start)];
    let channel = namespace.channel();
    for publication in &subscribed.publications {
        let start = out.len();
        match followed_event(namespace.name(), &channel, publication, cursor.as_deref_mut(), out) {
            Encoded::Messages(parts) => messages.extend(parts),
            _ => messages.push((MessageKind::Text, out.len() - start)),
        }
    }
    Encoded::Messages(messages)
}

fn connect_error(namespace: &str, message: &str, refusal: Option<&Refusal>, out: &mut BytesMut) -> Encoded {
    packet::begin(PacketKind::ConnectError, 0, namespace, None, out);
    let mut object = Object::begin(out);
    object.string("message", message);
    if let Some(refusal) = refusal {
        let mut data = Object::begin(object.field("data"));
        data.count("code", u64::from(refusal.code));
        data.flag("temporary", refusal.temporary);
        data.end();
    }
    object.end();
    TEXT
}

/// Writes the refusal of an event without an acknowledgement.
fn refused(namespace: &Namespace, refusal: &Refusal, out: &mut BytesMut) -> Encoded {
    packet::begin(PacketKind::Event, 0, namespace.name(), None, out);
    out.put_u8(b'[');
    json::string(ERROR_EVENT, out);
    out.put_u8(b',');
    write_refusal(Object::begin(out), refusal);
    out.put_u8(b']');
    TEXT
}

fn acknowledged(
    namespace: &Namespace,
    ack: u64,
    outcome: &Result<Answer, Refusal>,
    out: &mut BytesMut,
) -> Encoded {
    let acknowledged = match outcome {
        Ok(Answer::Acknowledged(arguments)) => arguments.as_deref(),
        _ => {
            packet::begin(PacketKind::Ack, 0, namespace.name(), Some(ack), out);
            out.put_u8(b'[');
            let mut object = Object::begin(out);
            match outcome {
                Ok(_) => {
                    object.string("status", "ok");
                    object.end();
                }
                Err(refusal) => {
                    object.string("status", "error");
                    write_refusal(object, refusal);
                }
            }
            out.put_u8(b']');
            return TEXT;
        }
    };
    let nothing =
        Tagged { data: Payload::json("[]"), tags: Tags::from([(super::ARGUMENTS_TAG.into(), "0".into())]) };
    let Tagged { data, tags } = acknowledged.unwrap_or(&nothing);
    let arguments = Arguments { event: None, values: (data, tags), cursor: None };
    with_arguments([PacketKind::Ack, PacketKind::BinaryAck], namespace.name(), Some(ack), arguments, out)
}

fn write_refusal(mut object: Object<'_>, refusal: &Refusal) {
    object.count("code", u64::from(refusal.code));
    json::string(&refusal.message, object.field("message"));
    object.end();
}
