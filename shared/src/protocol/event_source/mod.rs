//! Channels as server-sent events, for `EventSource` and other readers of such streams (HTML Standard, section 9.2).
//!
//! The address names the channels that a client follows, and the client sends nothing after it. Each publication is an
//! event with its payload as the data. The event's id is the channel's position; a client that follows several channels
//! receives the positions in all of them, kept by [`Positions`]. A client that reconnects with its last id receives the
//! publications that it missed, or is told that they cannot be recovered.
//!
//! `onmessage` of `EventSource` only receives events without a type. So the events of a client that follows one channel
//! have no type, unless the client asks for the names that publishers give to events.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};

use crate::command::Command;
use crate::disconnect::Disconnect;
use crate::framing::{Message, MessageKind};
use crate::protocol::centrifuge::json::write_string;
use crate::protocol::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId};
use crate::publication::{Payload, PayloadKind, Publication};
use crate::push::{Event, Push};
use crate::reply::{Answer, Connected, Reply};

mod positions;
mod request;

pub use positions::Positions;
pub use request::{EventSourceRequest, EventSourceRequestError};

use positions::put_id;

/// The type of the first event.
pub const SUBSCRIBED: &str = "subscribed";
/// The type of the last event.
pub const DISCONNECT: &str = "disconnect";
/// Names that cannot be the type of an event: `EventSource` has events of its own with these.
pub const RESERVED: [&str; 2] = ["error", "open"];

/// The content of an event's type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Types {
    /// Events have no type.
    #[default]
    Nothing,
    /// The channel of the publication: for clients that follow several.
    Channel,
    /// The publisher's name of the event, if it is valid as a type and is not one of the stream's own.
    Name,
}

/// The protocol for all clients with the same types of events.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventSource {
    pub types: Types,
    /// Average time that clients wait before they reconnect, in milliseconds. Each client is given its own time, from
    /// half of this to one and a half times this. 0: the client decides.
    pub retry_ms: u32,
}

impl Protocol for EventSource {
    fn id(&self) -> ProtocolId {
        match self.types {
            Types::Nothing => ProtocolId::SSE,
            Types::Channel => ProtocolId::SSE_CHANNELS,
            Types::Name => ProtocolId::SSE_NAMES,
        }
    }

    /// Clients cannot send anything.
    fn decode(&self, _message: Message<'_>, _commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        Err(DecodeError::Malformed)
    }

    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded {
        match &reply.outcome {
            Ok(Answer::Connect(connected)) => {
                self.put_connected(connected, out);
                Encoded::Begin(None)
            }
            Ok(_) => Encoded::Nothing,
            Err(refusal) => Encoded::Close(refusal.disconnect()),
        }
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        let name = push.channel.map(|channel| channel.as_str()).unwrap_or_default();
        match push.event {
            Event::Publication(publication, _) => {
                self.put_publication(name, publication, out);
                Encoded::Message(MessageKind::Text)
            }
            Event::Unsubscribed(code) => Encoded::Close(code.disconnect()),
            Event::Disconnected(disconnect) => {
                put_disconnect(disconnect, out);
                Encoded::Message(MessageKind::Text)
            }
            // Clients are told of publications alone.
            Event::Joined(_)
            | Event::Left(_)
            | Event::MemberAdded(_)
            | Event::MemberRemoved(_)
            | Event::Counted(_)
            | Event::Subscribed(_)
            | Event::Message(_)
            | Event::Refreshed(_) => Encoded::Nothing,
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Unanswered
    }

    /// Each event ends with an empty line, so that none needs a delimiter.
    fn delimiter(&self) -> Option<&'static [u8]> {
        Some(b"")
    }
}

impl EventSource {
    /// Writes the first event: the positions in all channels, and the publications that the client missed.
    fn put_connected(&self, connected: &Connected, out: &mut BytesMut) {
        put_type(SUBSCRIBED, out);
        out.put_slice(b"data: {\"client\":\"");
        out.put_slice(&connected.client.hyphenated());
        out.put_slice(b"\",\"channels\":{");
        for (at, (channel, subscribed)) in connected.subs.iter().enumerate() {
            if at > 0 {
                out.put_u8(b',');
            }
            write_string(channel.as_str(), out);
            out.put_slice(match (subscribed.was_recovering, subscribed.recovered) {
                (false, _) => b":{}",
                (true, true) => b":{\"recovered\":true}",
                (true, false) => b":{\"recovered\":false}",
            });
        }
        out.put_slice(b"}");
        if let Some(data) = connected.data.as_ref().filter(|data| data.kind == PayloadKind::Json) {
            // A backend's JSON may contain line breaks, which would end the data.
            out.put_slice(b",\"data\":");
            out.extend(data.bytes.iter().filter(|byte| !matches!(byte, b'\n' | b'\r')));
        }
        out.put_slice(b"}\n");
        if let Some(retry_ms) = self.retry_of(connected) {
            out.put_slice(b"retry: ");
            out.put_slice(itoa::Buffer::new().format(retry_ms).as_bytes());
            out.put_u8(b'\n');
        }
        let standing =
            connected.subs.iter().filter_map(|(channel, one)| Some((channel.as_str(), one.position?)));
        put_id(standing, out);
        out.put_u8(b'\n');
        for (channel, subscribed) in &connected.subs {
            for publication in &subscribed.publications {
                self.put_publication(channel.as_str(), publication, out);
            }
        }
    }

    /// Returns a time that differs from client to client, so that clients that were cut off together do not return together.
    fn retry_of(&self, connected: &Connected) -> Option<u32> {
        let half = self.retry_ms / 2;
        let spread = u128::from(self.retry_ms) + 1;
        (self.retry_ms > 0).then(|| half + u32::try_from(connected.client.bits() % spread).unwrap_or(0))
    }

    fn put_publication(&self, channel: &str, publication: &Publication, out: &mut BytesMut) {
        let kind = match self.types {
            Types::Nothing => None,
            Types::Channel => Some(channel),
            // Publishers may use neither the types of the stream's own events nor those that `EventSource` itself raises.
            Types::Name => publication
                .event()
                .filter(|name| can_be_type(name) && ![SUBSCRIBED, DISCONNECT].contains(name))
                .filter(|name| !RESERVED.contains(name)),
        };
        if let Some(kind) = kind {
            put_type(kind, out);
        }
        put_data(&publication.data, out);
        put_id(publication.position.map(|position| (channel, position)), out);
        out.put_u8(b'\n');
    }
}

/// Whether the name is valid as an event's type. It must be one line, and `EventSource` ignores an empty one.
pub(crate) fn can_be_type(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(char::is_control)
}

/// Writes an event's type. The caller has checked it with [`can_be_type`].
pub(crate) fn put_type(kind: &str, out: &mut BytesMut) {
    out.put_slice(b"event: ");
    out.put_slice(kind.as_bytes());
    out.put_u8(b'\n');
}

/// Writes a payload as the data of an event, each line as a field. Readers join the fields with line feeds, whatever
/// line breaks the payload has. Binary data is written in base64.
pub(crate) fn put_data(payload: &Payload, out: &mut BytesMut) {
    let encoded;
    let mut rest: &[u8] = match payload.kind {
        PayloadKind::Json | PayloadKind::Text => &payload.bytes,
        PayloadKind::Binary => {
            encoded = STANDARD.encode(&payload.bytes);
            encoded.as_bytes()
        }
    };
    loop {
        out.put_slice(b"data: ");
        let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else { break };
        out.put_slice(&rest[..end]);
        out.put_u8(b'\n');
        let is_pair = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(is_pair)..];
    }
    out.put_slice(rest);
    out.put_u8(b'\n');
}

/// Writes the event that tells why the stream ends.
pub(crate) fn put_disconnect(disconnect: &Disconnect, out: &mut BytesMut) {
    put_type(DISCONNECT, out);
    out.put_slice(b"data: {\"code\":");
    out.put_slice(itoa::Buffer::new().format(disconnect.code).as_bytes());
    out.put_slice(b",\"reason\":");
    write_string(&disconnect.reason, out);
    out.put_slice(b"}\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Channel;
    use crate::publication::{EVENT_TAG, Tags};

    fn told(types: Types, name: Option<&str>) -> String {
        let mut publication = Publication::new(Payload::json("1"));
        publication.tags = name.map(|name| (EVENT_TAG.into(), name.into())).into_iter().collect::<Tags>();
        let (channel, mut out) = (Channel::parse("news", 255).unwrap(), BytesMut::new());
        let protocol = EventSource { types, ..EventSource::default() };
        protocol.encode_push(Push::to(&channel, Event::plain(&publication)), &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn the_name_of_an_event_is_its_type_for_those_who_ask_for_names() {
        assert_eq!(told(Types::Name, Some("price changed")), "event: price changed\ndata: 1\n\n");
        assert_eq!(told(Types::Name, None), "data: 1\n\n");
        assert_eq!(told(Types::Nothing, Some("price")), "data: 1\n\n");
        assert_eq!(told(Types::Channel, Some("price")), "event: news\ndata: 1\n\n");
    }

    #[test]
    fn a_name_that_cannot_be_a_type_or_would_say_what_the_stream_says_is_none() {
        for name in ["", "a\ndata: 2", "a\rb", "a\0", "error", "open", "subscribed", "disconnect"] {
            assert_eq!(told(Types::Name, Some(name)), "data: 1\n\n", "{name:?}");
        }
    }
}
