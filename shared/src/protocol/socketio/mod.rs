//! Socket.IO, protocol 5: what socket.io-client from 3.0 on and its kin speak, over Engine.IO 4.
//!
//! A message is a packet; one with bytes in it is a packet of text and a binary message for each. A connection carries any
//! number of namespaces, each with clients' events and rooms of its own. See `docs/protocols/socketio.md` for how
//! namespaces, rooms and events of this protocol and channels and publications stand for each other.

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
pub struct SocketIoShared {
    pub namespaces: Namespaces,
    /// What holds the connection token in what a client says as it connects. Empty: nothing does.
    pub token_key: Box<str>,
    /// The most attachments of one packet.
    pub attachments_max: u32,
    /// The longest packet with its attachments, in bytes.
    pub packet_bytes_max: usize,
}

/// What is told of a client to whoever counts, and to whoever waits for it.
#[derive(Debug)]
pub struct ClientNews {
    /// What it has said to events that ask for it.
    pub answered: Vec<AckReceived>,
    /// Events that it has sent.
    pub events: u32,
    /// Those that were refused.
    pub refused: u32,
    /// The namespaces that it is in now, as a bit for each in their order.
    pub joined: u64,
}

/// One connection. Unlike other protocols it has a value for each, which knows its namespaces. What it encodes for all is
/// the same for all.
#[derive(Debug)]
pub struct SocketIo {
    common: Arc<SocketIoShared>,
    state: Mutex<ConnectionState>,
}

impl SocketIo {
    pub fn new(common: Arc<SocketIoShared>) -> Self {
        Self { common, state: Mutex::default() }
    }

    /// Whether its clients may be told how far they have come: then what all share is [`EventRecords`], of which
    /// [`Self::deliver`] makes what they are told.
    pub fn tells_offsets(&self) -> bool {
        self.common.namespaces.keep_any()
    }

    /// Has each message of what [`EventRecords`] has written said to this client. Returns whether it was that: other bytes are for
    /// it as they are.
    pub fn deliver(&self, records: &Bytes, say: impl FnMut(MessageKind, &[u8])) -> bool {
        let are_records = record::is_first_in(records);
        if are_records {
            record::deliver(&self.common.namespaces, &mut self.state(), records, say);
        }
        are_records
    }

    /// What the client has said of a session in this namespace that it comes back to. Once.
    pub fn take_resume(&self, namespace: &str) -> Option<Resume> {
        self.state().take_resume(self.common.namespaces.find(namespace)?)
    }

    /// The client may come back to a session of this secret name, of which this is known. It is told the name as it enters.
    pub fn keep_session(&self, namespace: &str, pid: &str, offsets: SessionOffsets) {
        if let Some(index) = self.common.namespaces.find(namespace) {
            self.state().set_cursor(index, Some(Cursor::new(pid.into(), offsets)));
        }
    }

    /// The secret name of its session, and what is to be kept of it, with how many changes have led there.
    pub fn offsets(&self, namespace: &str) -> Option<(Box<str>, u64, SessionOffsets)> {
        let state = self.state();
        let cursor = state.cursor(self.common.namespaces.find(namespace)?)?;
        let (changes, offsets) = cursor.offsets();
        Some((cursor.pid.clone(), changes, offsets))
    }

    /// It cannot come back to its session in this namespace. Returns its secret name, if there was one.
    pub fn end_session(&self, namespace: &str) -> Option<Box<str>> {
        let index = self.common.namespaces.find(namespace)?;
        let mut state = self.state();
        let pid = state.cursor(index)?.pid.clone();
        state.set_cursor(index, None);
        Some(pid)
    }

    /// The client follows a channel from here on. Returns the namespace that has something else to be kept now.
    pub fn follow(&self, channel: &str, since: StreamPosition) -> Option<&Namespace> {
        let index = self.common.namespaces.seen(channel)?.index;
        if !self.state().cursor_mut(index)?.follow(channel, since) {
            return None;
        }
        self.common.namespaces.get(index)
    }

    /// The same for one that it does not follow any more.
    pub fn unfollow(&self, channel: &str) -> Option<&Namespace> {
        let index = self.common.namespaces.seen(channel)?.index;
        if !self.state().cursor_mut(index)?.unfollow(channel) {
            return None;
        }
        self.common.namespaces.get(index)
    }

    /// The client has had all of a channel up to here.
    pub fn stands_at(&self, channel: &str, position: StreamPosition) {
        if let Some(seen) = self.common.namespaces.seen(channel)
            && let Some(cursor) = self.state().cursor_mut(seen.index)
        {
            cursor.advance(channel, position);
        }
    }

    /// The client is one that was here before.
    pub fn become_client(&self, client: ClientId) {
        self.state().client = Some(client);
    }

    /// An event that asks the client for an acknowledgement, with the number of that. `None`: it is not in the namespace.
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

    /// Whether it was told to leave a namespace.
    pub fn was_told_to_leave(&self) -> bool {
        self.state().left != 0
    }

    /// Nobody waits for this acknowledgement any more.
    pub fn give_up_ask(&self, number: u32) {
        self.state().give_up_ask(number);
    }

    /// What has come of the client since this was asked last.
    pub fn take_news(&self) -> ClientNews {
        let mut state = self.state();
        let (events, refused) = (std::mem::take(&mut state.events), std::mem::take(&mut state.refused));
        ClientNews { answered: state.take_answered(), events, refused, joined: state.joined }
    }

    /// Only the connection's own worker, and what it has others do for it, ask for it.
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
