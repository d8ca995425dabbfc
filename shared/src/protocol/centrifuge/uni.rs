//! The unidirectional protocol: the client sends a connect request and only receives from then on.
//!
//! The client's first message is a connect request without a command around it. The server sends pushes without a reply
//! around them. The first push reports that the client has connected, and an error closes the connection.

use bytes::{BufMut, BytesMut};

use super::{json, protobuf};
use crate::command::{Command, Connect, Request};
use crate::disconnect::Disconnect;
use crate::error::ErrorCode;
use crate::framing::{Message, MessageKind};
use crate::protocol::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId};
use crate::push::Push;
use crate::refusal::Refusal;
use crate::reply::{Answer, Connected, Reply};

/// The id of the only command, which no client sees.
const CONNECT_ID: u32 = 1;

/// The unidirectional protocol in JSON.
#[derive(Clone, Copy, Debug, Default)]
pub struct CentrifugeUniJson {
    /// Whether several pushes may share a message, one per line.
    pub joins: bool,
    /// Whether to use the transport's pings in place of the protocol's.
    pub transport_pings: bool,
}

/// The unidirectional protocol in Protobuf. Each push is preceded by its length.
#[derive(Clone, Copy, Debug, Default)]
pub struct CentrifugeUniProtobuf {
    /// Whether several pushes may share a message.
    pub joins: bool,
    /// Whether to use the transport's pings in place of the protocol's.
    pub transport_pings: bool,
}

impl Protocol for CentrifugeUniJson {
    fn id(&self) -> ProtocolId {
        ProtocolId::CENTRIFUGE_UNI_JSON
    }

    fn decode(&self, message: Message<'_>, commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        commands.push(command(json::decode_connect(message.data)?));
        Ok(())
    }

    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded {
        encode_reply(reply, MessageKind::Text, |connected| {
            out.put_slice(b"{\"connect\":");
            json::write_connected(connected, out);
            out.put_u8(b'}');
        })
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        if push.event.is_of_members() {
            return Encoded::Nothing;
        }
        json::write_push(push, out);
        Encoded::Message(MessageKind::Text)
    }

    fn heartbeat(&self) -> Heartbeat {
        heartbeat(self.transport_pings, MessageKind::Text, json::PING)
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        self.joins.then_some(b"\n")
    }
}

impl Protocol for CentrifugeUniProtobuf {
    fn id(&self) -> ProtocolId {
        ProtocolId::CENTRIFUGE_UNI_PROTOBUF
    }

    fn decode(&self, message: Message<'_>, commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        commands.push(command(protobuf::decode_connect(message.data)?));
        Ok(())
    }

    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded {
        encode_reply(reply, MessageKind::Binary, |connected| protobuf::encode_connect_push(connected, out))
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        if push.event.is_of_members() {
            return Encoded::Nothing;
        }
        protobuf::encode_bare_push(push, out);
        Encoded::Message(MessageKind::Binary)
    }

    fn heartbeat(&self) -> Heartbeat {
        heartbeat(self.transport_pings, MessageKind::Binary, protobuf::PING)
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        self.joins.then_some(b"")
    }
}

fn command(connect: Connect) -> Command {
    Command { id: CONNECT_ID, request: Request::Connect(Box::new(connect)) }
}

fn encode_reply(reply: &Reply, kind: MessageKind, connected: impl FnOnce(&Connected)) -> Encoded {
    match &reply.outcome {
        Ok(Answer::Connect(answer)) => {
            connected(answer);
            Encoded::Message(kind)
        }
        Ok(_) => Encoded::Nothing,
        Err(refusal) => Encoded::Close(disconnect(refusal)),
    }
}

/// Returns the close for a refusal. A client whose token has expired is told so, so that it returns with a new one.
fn disconnect(refusal: &Refusal) -> Disconnect {
    match refusal.error_code() {
        Some(ErrorCode::TokenExpired | ErrorCode::Expired) => Disconnect::EXPIRED,
        _ => refusal.disconnect(),
    }
}

fn heartbeat(transport_pings: bool, kind: MessageKind, bytes: &'static [u8]) -> Heartbeat {
    match transport_pings {
        true => Heartbeat::Transport,
        false => Heartbeat::Message(kind, bytes),
    }
}
