//! Channels as an event stream, for `EventSource` and whatever reads such streams (HTML Standard, section 9.2).
//!
//! What a client follows stands in its address, and nothing comes from it after that. Each publication is an event with its
//! payload as the data. Its id says where its channel stands; whoever follows several channels is told where all of them
//! stand, by [`Positions`]. A client that comes back with the last id has what it missed, or is told that it cannot have it.

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
pub use request::{Asked, Unreadable};

use positions::put_id;

/// The type of the first event.
pub const SUBSCRIBED: &str = "subscribed";
/// The type of the last event.
pub const DISCONNECT: &str = "disconnect";
/// Names of channels that cannot be types of events: `EventSource` has events of its own with these.
pub const RESERVED: [&str; 2] = ["error", "open"];

/// What is said to all clients of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventSource {
    /// Clients follow several channels: the type of each event is its channel's name.
    pub several: bool,
    /// About how long clients are to wait before they come back, in milliseconds. Each is told a time of its own, between a
    /// half of this and one and a half. 0: as long as they like.
    pub retry_ms: u32,
}

impl Protocol for EventSource {
    fn id(&self) -> ProtocolId {
        if self.several { ProtocolId::SSE_CHANNELS } else { ProtocolId::SSE }
    }

    /// There is no way to send anything.
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
            // A client that is told of publications alone.
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

    /// An event ends itself.
    fn delimiter(&self) -> Option<&'static [u8]> {
        Some(b"")
    }
}

impl EventSource {
    /// What the client begins with: where it stands in each channel, and what it has missed since.
    fn put_connected(&self, connected: &Connected, out: &mut BytesMut) {
        out.put_slice(b"event: ");
        out.put_slice(SUBSCRIBED.as_bytes());
        out.put_slice(b"\ndata: {\"client\":\"");
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
            // One line: what a backend says may be laid out on several.
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

    /// A time that differs from client to client, so that those who were cut off together do not come back together.
    fn retry_of(&self, connected: &Connected) -> Option<u32> {
        let half = self.retry_ms / 2;
        let spread = u128::from(self.retry_ms) + 1;
        (self.retry_ms > 0).then(|| half + u32::try_from(connected.client.bits() % spread).unwrap_or(0))
    }

    fn put_publication(&self, channel: &str, publication: &Publication, out: &mut BytesMut) {
        if self.several {
            out.put_slice(b"event: ");
            out.put_slice(channel.as_bytes());
            out.put_u8(b'\n');
        }
        put_data(&publication.data, out);
        put_id(publication.position.map(|position| (channel, position)), out);
        out.put_u8(b'\n');
    }
}

/// A payload as the data of an event. Each line of it is a field, and readers put line feeds between them, whatever ended
/// the lines before. What is no text is in base64.
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

/// Why the stream ends.
pub(crate) fn put_disconnect(disconnect: &Disconnect, out: &mut BytesMut) {
    out.put_slice(b"event: ");
    out.put_slice(DISCONNECT.as_bytes());
    out.put_slice(b"\ndata: {\"code\":");
    out.put_slice(itoa::Buffer::new().format(disconnect.code).as_bytes());
    out.put_slice(b",\"reason\":");
    write_string(&disconnect.reason, out);
    out.put_slice(b"}\n\n");
}
