//! Pusher Channels, protocol 7: what pusher-js, Laravel Echo and their kin speak.
//!
//! A message is an object with the name of an event. What the server sends has its `data` as a string that holds JSON, what
//! clients send need not. An answer has no number: it is known by its channel. See `docs/protocols/pusher.md` for how
//! channels and events of this protocol and publications stand for each other.

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

/// The version of the protocol that is spoken here.
pub const PROTOCOL: u32 = 7;
/// The oldest that says the same as far as clients go: they differ in what servers may be told.
pub const PROTOCOL_MIN: u32 = 5;

/// What events are called that were published without a name.
pub const UNNAMED_EVENT: &str = "message";

const PING: &[u8] = br#"{"event":"pusher:ping","data":"{}"}"#;

/// What a client's message was: an answer is told apart by it.
mod id {
    pub(super) const CONNECT: u32 = 1;
    pub(super) const SUBSCRIBE: u32 = 2;
    pub(super) const UNSUBSCRIBE: u32 = 3;
    pub(super) const EMIT: u32 = 4;
    pub(super) const SIGN_IN: u32 = 5;
    pub(super) const PING: u32 = 6;
    pub(super) const OTHER: u32 = 7;
}

/// Pusher as the clients of one app speak it. What it encodes for all is the same for every app, as long as their channels
/// are named in the same way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pusher {
    pub names: PusherNames,
    /// Seconds of silence after which a client asks whether the server is there.
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
