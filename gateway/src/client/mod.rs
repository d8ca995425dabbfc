//! One client: its session, its outbox, and the link to it.
//!
//! A client lives on one worker from the request to the last byte. [`open`] begins it, [`read`] handles what the client
//! sends, [`perform`] carries out its session's decisions, [`write`] gives bytes to the socket, [`finish`] lets commands in
//! flight complete, and [`close`] ends it, by one exit for all causes.

use std::sync::Arc;

use shared::moment::Moment;
use shared::protocol::ProtocolId;
use shared::protocol::event_source::Positions;
use shared::protocol::graphql::GraphQl;
use shared::protocol::socketio::SocketIo;

use gateway_core::effect::Ticket;
use gateway_core::hub::Variant;
use gateway_core::session::Session;

use crate::admission::Admitted;
use crate::backend::ClientOrigin;
use crate::node::{AwaitedClient, SessionId, UserPermit};
use crate::pusher::PusherApp;
use crate::sessions::{Holder, SessionHolder};
use crate::telemetry::connection_metrics::CLOSE_LOST;
use crate::transport::{ClientStream, Direct};
use crate::worker::WorkerLocal;

mod ask_backend;
mod attach;
pub mod client_config;
mod close;
mod finish;
mod follow_keys;
mod framing;
mod go_live;
mod graphql_client;
mod newest;
pub(crate) mod open;
mod outbox;
mod pending_acks;
mod perform;
mod pusher_client;
pub(crate) mod read;
mod socketio_client;
mod socketio_session;
mod stream_watcher;
mod write;

pub(crate) use outbox::{Outbox, QueuedBytes};
pub(crate) use stream_watcher::StreamWatcher;

pub(crate) use crate::client_key::ClientKey;

pub(crate) use framing::{PendingResponse, ResponseBeginning};

use framing::Framing;

/// A connected client, owned by one worker from its request to its last byte.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) link: ClientLink,
    pub(crate) session: Session,
    pub(crate) outbox: Outbox,
    pub(crate) key: ClientKey,
    /// The hub's encoding that this client takes.
    pub(crate) variant: Variant,
    pub(crate) protocol: ProtocolId,
    pub(crate) opened: Moment,
    /// Whether reading is paused until the session has answered enough commands.
    pub(crate) paused: bool,
    incoming: Incoming,
    finishing: Option<Box<finish::Finishing>>,
    closing: Option<Box<Closing>>,
    /// The effect to report to the session when the socket has taken all bytes.
    awaits_room: Option<Ticket>,
    /// Since when the socket has taken no byte while bytes wait for it.
    stalled_since: Option<Moment>,
    rare: Option<Box<RareClientState>>,
    /// The connection's place among those allowed, held for its life.
    _admitted: Admitted,
    user_permit: Option<UserPermit>,
    /// The bytes that the node's memory budget counts for this client alone.
    accounted: usize,
}

/// State that few clients have, boxed so that all other clients are smaller.
#[derive(Debug, Default)]
struct RareClientState {
    /// The id by which commands find the client, if they arrive apart from its stream.
    name: Option<SessionId>,
    /// The client's position in each of its channels, if every event has to carry it.
    positions: Option<Positions>,
    /// A part of the node that is told when the stream begins and ends.
    watcher: Option<Arc<dyn StreamWatcher>>,
    /// The client's address and headers, as sent to hooks.
    origin: Option<Arc<ClientOrigin>>,
    /// The client's app, if it speaks Pusher.
    app: Option<Arc<PusherApp>>,
    /// The operations in flight, if the client speaks GraphQL.
    graphql: Option<Arc<GraphQl>>,
    /// State beside the session, if the client speaks Socket.IO.
    socketio: Option<Box<SocketIoState>>,
    /// The newest values that wait for the client, if it receives any.
    newest: Option<Box<newest::Newest>>,
}

/// State of a client that speaks Socket.IO, beside its session.
#[derive(Debug)]
struct SocketIoState {
    /// The connection's protocol value, shared with the session.
    protocol: Arc<SocketIo>,
    /// This connection as a holder of sessions. `None` if sessions of this client are not kept.
    connection: Option<SessionHolder>,
    /// The client's outstanding acknowledgements, by their numbers.
    pending_acks: Vec<(u32, AwaitedClient)>,
    /// The namespaces in which the client is counted, a bit for each.
    counted: u64,
}

impl SocketIoState {
    fn new(protocol: Arc<SocketIo>, key: ClientKey) -> Self {
        let connection = protocol.sends_offsets().then(|| SessionHolder::new(Holder(rand::random()), key));
        Self { protocol, connection, pending_acks: Vec::new(), counted: 0 }
    }
}

impl RareClientState {
    /// Returns the state in a box, or `None` if the client has none of it.
    fn boxed(self) -> Option<Box<Self>> {
        let Self { name, positions, watcher, origin, app, graphql, socketio, newest: _ } = &self;
        let of_streams = positions.is_some() || watcher.is_some();
        let of_protocols = app.is_some() || graphql.is_some() || socketio.is_some();
        let is_any = name.is_some() || of_streams || origin.is_some() || of_protocols;
        is_any.then(|| Box::new(self))
    }
}

/// The link to a client: its byte stream, and the framing of messages in it.
#[derive(Debug)]
pub(crate) struct ClientLink {
    pub(crate) stream: ClientStream,
    framing: Framing,
}

/// What the peer may still send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Incoming {
    Open,
    /// What comes is discarded, because it can no longer be parsed or no longer matters. It is still read: closing a socket
    /// with unread bytes could destroy the close frame in flight.
    Discarded,
    /// Nothing after the peer's close frame.
    Nothing,
}

/// A closing handshake in progress: the close frame is queued, and the peer may still answer it.
#[derive(Debug)]
struct Closing {
    /// When the socket is dropped, whether or not the peer has answered.
    until: Moment,
    /// The reason, for the metrics.
    reason: &'static str,
}

/// Why a connection's socket is dropped now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DropReason {
    /// The peer ended the stream, or the network did.
    #[error("the connection was lost: {0}")]
    Lost(std::io::ErrorKind),
    /// The closing handshake is complete, or its deadline has passed.
    #[error("closed")]
    Closed,
}

impl Client {
    /// Returns when to call [`Client::handle_timeout`] next, if nothing else happens. `None` means never.
    pub(crate) fn poll_timeout(&self, write_timeout: std::time::Duration) -> Option<Moment> {
        let stalled = self.stalled_since.map(|since| since + write_timeout);
        let earlier = |until: Moment| Some(stalled.map_or(until, |stalled| stalled.min(until)));
        match (&self.closing, &self.finishing) {
            (Some(closing), _) => earlier(closing.until),
            (None, Some(finishing)) if self.has_stopped_writing() => Some(finishing.until()),
            (None, Some(finishing)) => earlier(finishing.until()),
            (None, None) => {
                // A stalled socket reports by itself when it takes bytes again.
                let newest = self.next_newest().filter(|_| !self.is_stalled());
                [self.session.poll_timeout(), stalled, newest].into_iter().flatten().min()
            }
        }
    }

    /// Returns the bytes of memory held for this client. Bytes shared with other clients count in full.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.outbox.bytes() + self.newest_bytes() + self.commands_bytes()
    }

    fn commands_bytes(&self) -> usize {
        self.session.queued_bytes() + self.link.framing.held_bytes()
    }

    /// Updates the memory budget with what is held for this client alone. Bytes that the socket took at once were never
    /// held.
    pub(crate) fn account(&mut self, local: &mut WorkerLocal) {
        let outbox = if self.is_stalled() { self.outbox.own_bytes() } else { 0 };
        let now = outbox + self.newest_bytes() + self.commands_bytes();
        if now != self.accounted {
            local.memory.recount(self.accounted, now);
            self.accounted = now;
        }
    }

    pub(crate) fn forget_account(&mut self, local: &WorkerLocal) {
        local.memory.recount(std::mem::take(&mut self.accounted), 0);
    }

    /// Returns the direct way to the socket for deliveries, if there is one and no frames have to be made for this client
    /// alone.
    pub(crate) fn direct(&self) -> Option<Direct> {
        let sends_offsets = |own: &SocketIoState| own.protocol.sends_offsets();
        let alone = |rare: &RareClientState| {
            rare.positions.is_some()
                || rare.graphql.is_some()
                || rare.socketio.as_deref().is_some_and(sends_offsets)
        };
        let alone = self.rare.as_deref().is_some_and(alone);
        if alone { None } else { self.link.stream.direct() }
    }

    /// Returns the client's address and headers, as sent to hooks.
    fn origin(&self) -> Option<&Arc<ClientOrigin>> {
        self.rare.as_ref()?.origin.as_ref()
    }

    /// Returns the client's app, if it speaks Pusher.
    fn app(&self) -> Option<&Arc<PusherApp>> {
        self.rare.as_ref()?.app.as_ref()
    }

    /// Whether bytes wait because the socket takes no more.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled_since.is_some()
    }

    /// Returns the bytes that wait to be written to the socket.
    pub(crate) fn outbox_bytes(&self) -> u64 {
        self.outbox.bytes() as u64
    }

    /// Returns for how long the socket has taken none of the bytes that wait.
    pub(crate) fn stalled_for(&self, now: Moment) -> std::time::Duration {
        self.stalled_since.map(|since| now.since(since)).unwrap_or_default()
    }

    /// Returns the reason of the close, for the metrics: one of a bounded set.
    pub(crate) fn close_reason(&self) -> &'static str {
        self.closing.as_ref().map_or(CLOSE_LOST, |closing| closing.reason)
    }

    /// Whether this is the client's session id.
    pub(crate) fn is_session(&self, name: SessionId) -> bool {
        self.rare.as_ref().and_then(|rare| rare.name.as_ref()).is_some_and(|own| own.is(name))
    }

    /// Whether this connection holds its sessions under this number.
    pub(crate) fn is_holder(&self, holder: Holder) -> bool {
        let own = self.rare.as_ref().and_then(|rare| rare.socketio.as_ref());
        own.and_then(|own| own.connection.as_ref()).is_some_and(|own| own.holder == holder)
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_small() {
        // The allocator's size class for anything over 448 bytes. In addition, an idle client has a slot in five tables, and
        // with a subscription one in the hub's.
        assert!(
            size_of::<Client>() <= 512,
            "{} bytes, {} of them the session",
            size_of::<Client>(),
            size_of::<Session>()
        );
    }
}
