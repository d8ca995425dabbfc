//! Pusher Channels, protocol 7, as pusher-js, Laravel Echo and compatible libraries speak it.
//!
//! A message is an object with the name of an event. The `data` of the server's messages is a string that holds JSON;
//! clients may send any JSON. A reply has no number: its channel identifies the command. See `docs/protocols/pusher.md`
//! for the mapping between this protocol's channels and events and the gateway's channels and publications.

use bytes::BytesMut;

use super::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId};
use crate::command::{Command, Connect, Request};
use crate::disconnect::Disconnect;
use crate::framing::{Message, MessageKind};
use crate::push::Push;
use crate::reply::Reply;

mod close;
mod decode;
mod encode_push;
mod encode_reply;
mod names;
mod socket_id;

pub use names::{
    Access, CHANNEL_BYTES_MAX, EVENT_BYTES_MAX, InvalidName, PusherChannelKind, PusherNames, USER_BYTES_MAX,
    check_channel, check_event,
};
pub use socket_id::{parse_socket_id, socket_id};

/// The supported version of the protocol.
pub const PROTOCOL: u32 = 7;
/// The oldest compatible version. The versions differ only in the messages that servers receive.
pub const PROTOCOL_MIN: u32 = 5;

/// The name of events that were published without one.
pub const UNNAMED_EVENT: &str = "message";

const PING: &[u8] = br#"{"event":"pusher:ping","data":"{}"}"#;

/// Ids of commands by their kind, by which a reply is interpreted.
mod id {
    pub(super) const CONNECT: u32 = 1;
    pub(super) const SUBSCRIBE: u32 = 2;
    pub(super) const UNSUBSCRIBE: u32 = 3;
    pub(super) const EMIT: u32 = 4;
    pub(super) const SIGN_IN: u32 = 5;
    pub(super) const PING: u32 = 6;
    pub(super) const OTHER: u32 = 7;
}

/// The protocol for the clients of one app. Pushes are encoded the same for all apps whose channels are named alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pusher {
    pub names: PusherNames,
    /// Silence, in seconds, after which a client pings the server.
    pub activity_timeout_s: u32,
    /// The longest data of a client's event, in bytes.
    pub event_data_bytes_max: usize,
}

impl Protocol for Pusher {
    fn id(&self) -> ProtocolId {
        ProtocolId::PUSHER
    }

    fn open(&self, commands: &mut Vec<Command>) {
        let connect = Connect { name: "pusher".into(), ..Connect::default() };
        commands.push(Command { id: id::CONNECT, request: Request::Connect(Box::new(connect)) });
    }

    fn decode(&self, message: Message<'_>, commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        commands.extend(decode::decode(self, message.data)?);
        Ok(())
    }

    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded {
        encode_reply::encode(self, reply, out)
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        encode_push::encode(self, push, out)
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Message(MessageKind::Text, PING)
    }

    fn close(&self, disconnect: &Disconnect) -> Disconnect {
        close::translated(disconnect)
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        None
    }
}
