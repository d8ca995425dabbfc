//! The JSON encoding: text messages with one JSON object per line.

use bytes::BytesMut;

use crate::command::Command;
use crate::framing::{Message, MessageKind};
use crate::protocol::centrifuge::COMMANDS_PER_MESSAGE_MAX;
use crate::protocol::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId};
use crate::push::Push;
use crate::reply::{Answer, Reply};

pub mod client;
mod decode;
mod encode_push;
mod encode_reply;
mod write;

pub(super) use decode::decode_connect;
pub(super) use encode_push::write_push;
pub(super) use encode_reply::write_connected;

/// Also used by the server API, whose JSON has the same parts.
pub use write::{
    client_info as write_client_info, payload as write_payload, publications as write_publications,
    string as write_string,
};

/// The Centrifuge protocol, version 2, in JSON.
///
/// A JSON payload is carried as its publisher wrote it, except for line breaks outside of strings, which would end the
/// message and become spaces. A text payload becomes a JSON string, and a binary one a JSON string in standard base64
/// (RFC 4648 §4).
#[derive(Clone, Copy, Debug)]
pub struct CentrifugeJson {
    /// The most commands in one message.
    pub commands_max: usize,
    /// Whether to use the transport's pings in place of the protocol's.
    pub transport_pings: bool,
}

impl Default for CentrifugeJson {
    fn default() -> Self {
        Self { commands_max: COMMANDS_PER_MESSAGE_MAX, transport_pings: false }
    }
}

/// A ping, and the pong that answers it.
pub const PING: &[u8] = b"{}";

impl Protocol for CentrifugeJson {
    fn id(&self) -> ProtocolId {
        ProtocolId::CENTRIFUGE_JSON
    }

    fn decode(&self, message: Message<'_>, commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        // The kind of message is ignored, as some libraries send JSON in binary messages.
        decode::decode(message.data, self.commands_max, commands)
    }

    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded {
        if matches!(reply.outcome, Ok(Answer::Pong | Answer::SignedIn { .. })) {
            return Encoded::Nothing;
        }
        encode_reply::encode(reply, out);
        Encoded::Message(MessageKind::Text)
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        if push.event.is_of_members() {
            return Encoded::Nothing;
        }
        encode_push::encode(push, out);
        Encoded::Message(MessageKind::Text)
    }

    fn heartbeat(&self) -> Heartbeat {
        match self.transport_pings {
            true => Heartbeat::Transport,
            false => Heartbeat::Message(MessageKind::Text, PING),
        }
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        Some(b"\n")
    }
}
