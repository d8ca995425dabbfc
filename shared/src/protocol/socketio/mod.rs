//! Socket.IO, protocol 5: what socket.io-client from 3.0 on and its kin speak, over Engine.IO 4.
//!
//! A message is a packet; one with bytes in it is a packet of text and a binary message for each. A connection carries any
//! number of namespaces, each with clients' events and rooms of its own. See `docs/protocols/socketio.md` for how
//! namespaces, rooms and events of this protocol and channels and publications stand for each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;

use super::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId};
use crate::command::Command;
use crate::disconnect::Disconnect;
use crate::framing::{Message, MessageKind};
use crate::push::Push;
use crate::reply::Reply;

mod arguments;
mod attachments;
mod decode;
mod encode_push;
mod encode_reply;
mod names;
mod packet;
mod routes;
mod sid;
mod state;

pub use arguments::{ARGUMENTS_TAG, BINARY_TAG, listed_by_server, said_by_server};
pub use decode::{ARGUMENTS_MAX, EVENT_BYTES_MAX, RESERVED};
pub use names::{NAMESPACES_MAX, Namespace, Namespaces, Seen};
pub use routes::{Door, Entry, Forward, Named, Route, Routes, To};
pub use sid::{parse_sid, sid};

use state::State;

/// What events are called that were published without a name.
pub const UNNAMED_EVENT: &str = "message";

/// What a command was: its answer is told apart by it. The lowest bits name a namespace, or an answer that is awaited.
mod id {
    const KIND: u32 = 29;

    pub(super) const ENTER: u32 = 1 << KIND;
    pub(super) const EVENT: u32 = 2 << KIND;
    pub(super) const LEAVE: u32 = 3 << KIND;
    /// The highest number of an answer that is awaited.
    pub(super) const NUMBER_MAX: u32 = ENTER - 1;

    /// The kind of a command, and the rest.
    pub(super) fn parts(id: u32) -> (u32, u32) {
        (id & !NUMBER_MAX, id & NUMBER_MAX)
    }
}

/// What all connections have in common.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Common {
    pub namespaces: Namespaces,
    /// What holds the connection token in what a client says as it connects. Empty: nothing does.
    pub token_key: Box<str>,
    /// The most attachments of one packet.
    pub attachments_max: u32,
    /// The longest packet with its attachments, in bytes.
    pub packet_bytes_max: usize,
}

/// One connection. Unlike other protocols it has a value for each, which knows its namespaces. What it encodes for all is
/// the same for all.
#[derive(Debug)]
pub struct SocketIo {
    common: Arc<Common>,
    state: Mutex<State>,
}

impl SocketIo {
    pub fn new(common: Arc<Common>) -> Self {
        Self { common, state: Mutex::default() }
    }

    /// Only the connection's own worker asks for it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Protocol for SocketIo {
    fn id(&self) -> ProtocolId {
        ProtocolId::SOCKET_IO
    }

    fn decode(&self, message: Message<'_>, commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        let state = &mut self.state();
        match message.kind {
            MessageKind::Text => decode::text(&self.common, state, message.data, commands),
            MessageKind::Binary => decode::attachment(&self.common, state, message.data, commands),
        }
    }

    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded {
        encode_reply::encode(&self.common.namespaces, &mut self.state(), reply, out)
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        let state = || self.state();
        encode_push::encode(&self.common.namespaces, state, push, out)
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Transport
    }

    fn last_words(&self, disconnect: &Disconnect, out: &mut BytesMut) -> Encoded {
        encode_push::last_words(&self.common.namespaces, &mut self.state(), disconnect, out)
    }

    fn held_bytes(&self) -> usize {
        self.state().held_bytes()
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        None
    }
}
