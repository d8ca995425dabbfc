//! Socket.IO, protocol 5, as socket.io-client from 3.0 on and compatible libraries speak it, over Engine.IO 4.
//!
//! A message is a packet. A packet with bytes is a text message followed by a binary message for each of them. A
//! connection carries any number of namespaces, each with its own events and rooms. See `docs/protocols/socketio.md`
//! for the mapping between this protocol's namespaces, rooms and events and the gateway's channels and publications.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use super::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId};
use crate::command::Command;
use crate::disconnect::Disconnect;
use crate::framing::{Message, MessageKind};
use crate::id::ClientId;
use crate::position::StreamPosition;
use crate::publication::Tagged;
use crate::push::Push;
use crate::reply::Reply;

mod arguments;
mod attachments;
mod cursor;
mod decode;
mod encode_push;
mod encode_reply;
mod live;
mod names;
mod packet;
mod record;
mod routes;
mod sid;
mod state;

pub use arguments::{
    ARGUMENTS_TAG, BINARY_TAG, arguments_of_server, arguments_with_attachments, binary_fault,
    listed_by_server,
};
pub use cursor::{FollowedChannel, Resume, SessionOffsets, UnusableOffset};
pub use decode::{ARGUMENTS_MAX, EVENT_BYTES_MAX, RESERVED};
pub use live::Live;
pub use names::{NAMESPACES_MAX, Namespace, Namespaces, SeenRoom};
pub use record::EventRecords;
pub use routes::{Destination, ForwardRule, NamespaceAccess, RoomName, RoomRule, Route, Routes};
pub use sid::{parse_sid, sid};
pub use state::AckReceived;

use cursor::Cursor;
use encode_push::Arguments;
use packet::PacketKind;
use state::ConnectionState;

/// The name of events that were published without one.
pub const UNNAMED_EVENT: &str = "message";

/// Ids of commands by their kind, by which a reply is interpreted. The lower bits hold a namespace or the number of a
/// reply that is awaited.
mod id {
    const KIND: u32 = 29;

    pub(super) const ENTER: u32 = 1 << KIND;
    pub(super) const EVENT: u32 = 2 << KIND;
    pub(super) const LEAVE: u32 = 3 << KIND;
    /// The highest number of a reply that is awaited.
    pub(super) const NUMBER_MAX: u32 = ENTER - 1;

    /// Splits an id into the kind of its command and the rest.
    pub(super) fn parts(id: u32) -> (u32, u32) {
        (id & !NUMBER_MAX, id & NUMBER_MAX)
    }
}

/// Settings that all connections share.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SocketIoShared {
    pub namespaces: Namespaces,
    /// The key of the connection token in the object that a client sends as it connects. Empty: there is no token.
    pub token_key: Box<str>,
    /// The most attachments of one packet.
    pub attachments_max: u32,
    /// The longest packet with its attachments, in bytes.
    pub packet_bytes_max: usize,
}

/// Changes of a client, for counters and for callers that wait for its acknowledgements.
#[derive(Debug)]
pub struct ClientNews {
    /// Acknowledgements that the client has sent.
    pub answered: Vec<AckReceived>,
    /// Number of events that the client has sent.
    pub events: u32,
    /// Number of those that were refused.
    pub refused: u32,
    /// The namespaces that the client is in now, as a bit for each in their order.
    pub joined: u64,
}

/// One connection. Unlike other protocols it has a value per connection, which knows the connection's namespaces.
/// Encodings that are shared do not depend on the connection.
#[derive(Debug)]
pub struct SocketIo {
    common: Arc<SocketIoShared>,
    state: Mutex<ConnectionState>,
}

impl SocketIo {
    pub fn new(common: Arc<SocketIoShared>) -> Self {
        Self { common, state: Mutex::default() }
    }

    /// Whether clients may be told their offsets. If so, the hub's shared encoding is [`EventRecords`], from which
    /// [`Self::deliver`] makes each client's messages.
    pub fn sends_offsets(&self) -> bool {
        self.common.namespaces.keep_any()
    }

    /// Passes each message in the records of [`EventRecords`] to `say`, completed for this client. Returns whether the
    /// bytes were records: all others are sent to the client unchanged.
    pub fn deliver(&self, records: &Bytes, say: impl FnMut(MessageKind, &[u8])) -> bool {
        let are_records = record::is_first_in(records);
        if are_records {
            record::deliver(&self.common.namespaces, &mut self.state(), records, say);
        }
        are_records
    }

    /// Takes the session that the client wants to resume in this namespace, if it named one.
    pub fn take_resume(&self, namespace: &str) -> Option<Resume> {
        self.state().take_resume(self.common.namespaces.find(namespace)?)
    }

    /// Lets the client resume later under this secret name, from these offsets. The client is told the name as it enters.
    pub fn keep_session(&self, namespace: &str, pid: &str, offsets: SessionOffsets) {
        if let Some(index) = self.common.namespaces.find(namespace) {
            self.state().set_cursor(index, Some(Cursor::new(pid.into(), offsets)));
        }
    }

    /// Returns the session's secret name, and its state to save with the number of changes that led to it.
    pub fn offsets(&self, namespace: &str) -> Option<(Box<str>, u64, SessionOffsets)> {
        let state = self.state();
        let cursor = state.cursor(self.common.namespaces.find(namespace)?)?;
        let (changes, offsets) = cursor.offsets();
        Some((cursor.pid.clone(), changes, offsets))
    }

    /// Ends the client's session in this namespace, so that it cannot resume. Returns the session's secret name, if
    /// there was one.
    pub fn end_session(&self, namespace: &str) -> Option<Box<str>> {
        let index = self.common.namespaces.find(namespace)?;
        let mut state = self.state();
        let pid = state.cursor(index)?.pid.clone();
        state.set_cursor(index, None);
        Some(pid)
    }

    /// Starts to follow a channel from this position. Returns the namespace if its state to save has changed.
    pub fn follow(&self, channel: &str, since: StreamPosition) -> Option<&Namespace> {
        let index = self.common.namespaces.seen(channel)?.index;
        if !self.state().cursor_mut(index)?.follow(channel, since) {
            return None;
        }
        self.common.namespaces.get(index)
    }

    /// Stops following a channel. Returns the namespace if its state to save has changed.
    pub fn unfollow(&self, channel: &str) -> Option<&Namespace> {
        let index = self.common.namespaces.seen(channel)?.index;
        if !self.state().cursor_mut(index)?.unfollow(channel) {
            return None;
        }
        self.common.namespaces.get(index)
    }

    /// Notes that the client was sent all publications of a channel up to this position.
    pub fn note_position(&self, channel: &str, position: StreamPosition) {
        if let Some(seen) = self.common.namespaces.seen(channel)
            && let Some(cursor) = self.state().cursor_mut(seen.index)
        {
            cursor.advance(channel, position);
        }
    }

    /// Gives the connection the id of a client whose session it resumes.
    pub fn become_client(&self, client: ClientId) {
        self.state().client = Some(client);
    }

    /// Writes an event that requests an acknowledgement, and returns the acknowledgement's number. `None` if the client
    /// is not in the namespace.
    pub fn ask(
        &self,
        namespace: &str,
        event: &str,
        event_arguments: &Tagged,
        out: &mut BytesMut,
    ) -> Option<(u32, Encoded)> {
        let index = self.common.namespaces.find(namespace)?;
        let mut state = self.state();
        if state.joined & state::bit(index) == 0 {
            return None;
        }
        let number = state.ask(index);
        let arguments = Arguments {
            event: Some(event),
            values: (&event_arguments.data, &event_arguments.tags),
            cursor: None,
        };
        let kinds = [PacketKind::Event, PacketKind::BinaryEvent];
        Some((number, encode_push::with_arguments(kinds, namespace, Some(number.into()), arguments, out)))
    }

    /// Whether the server has told the client to leave a namespace.
    pub fn was_told_to_leave(&self) -> bool {
        self.state().left != 0
    }

    /// Forgets an acknowledgement that no caller waits for any more.
    pub fn give_up_ask(&self, number: u32) {
        self.state().give_up_ask(number);
    }

    /// Takes the changes since the last call.
    pub fn take_news(&self) -> ClientNews {
        let mut state = self.state();
        let (events, refused) = (std::mem::take(&mut state.events), std::mem::take(&mut state.refused));
        ClientNews { answered: state.take_answered(), events, refused, joined: state.joined }
    }

    /// Locks the state. Only the connection's own worker, and tasks that it starts for the connection, use it.
    fn state(&self) -> MutexGuard<'_, ConnectionState> {
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

    fn encode_close_message(&self, disconnect: &Disconnect, out: &mut BytesMut) -> Encoded {
        encode_push::encode_close_message(&self.common.namespaces, &mut self.state(), disconnect, out)
    }

    fn held_bytes(&self) -> usize {
        self.state().held_bytes()
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        None
    }
}
