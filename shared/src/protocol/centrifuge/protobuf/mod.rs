//! The Protobuf encoding: binary messages of any number of commands or replies, each preceded by its length.

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
mod requests;
mod write;

pub(super) use decode::decode_connect;
pub(super) use encode_push::encode_bare as encode_bare_push;
pub(super) use encode_reply::encode_connect_push;

/// The Centrifuge protocol, version 2, in Protobuf.
///
/// A payload is carried as its bytes. A client's payload counts as JSON or text if it is valid as such, so that JSON
/// subscribers receive it in that form.
#[derive(Clone, Copy, Debug)]
pub struct CentrifugeProtobuf {
    /// The most commands in one message.
    pub commands_max: usize,
    /// Whether to use the transport's pings in place of the protocol's.
    pub transport_pings: bool,
}

impl Default for CentrifugeProtobuf {
    fn default() -> Self {
        Self { commands_max: COMMANDS_PER_MESSAGE_MAX, transport_pings: false }
    }
}

/// A ping, and the pong that answers it: an empty message, of which only the length 0 is written.
pub const PING: &[u8] = &[0];

impl Protocol for CentrifugeProtobuf {
    fn id(&self) -> ProtocolId {
        ProtocolId::CENTRIFUGE_PROTOBUF
    }

    fn decode(&self, message: Message<'_>, commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        decode::decode(message.data, self.commands_max, commands)
    }

    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded {
        if matches!(reply.outcome, Ok(Answer::Pong | Answer::SignedIn { .. })) {
            return Encoded::Nothing;
        }
        encode_reply::encode(reply, out);
        Encoded::Message(MessageKind::Binary)
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        if push.event.is_of_members() {
            return Encoded::Nothing;
        }
        encode_push::encode(push, out);
        Encoded::Message(MessageKind::Binary)
    }

    fn heartbeat(&self) -> Heartbeat {
        match self.transport_pings {
            true => Heartbeat::Transport,
            false => Heartbeat::Message(MessageKind::Binary, PING),
        }
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        Some(b"")
    }
}
