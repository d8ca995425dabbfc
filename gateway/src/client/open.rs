//! The beginning of a connection on its worker.

use std::sync::Arc;

use bytes::Bytes;
use gateway_core::session::{ConnectionKind, Opening, Session};
use shared::command::Connect;
use shared::disconnect::Disconnect;
use shared::framing::websocket::DeflateParams;
use shared::protocol::event_source::Positions;
use shared::protocol::graphql::GraphQl;
use shared::protocol::{Protocol, ProtocolId};

use crate::admission::Admitted;
use crate::backend::ClientOrigin;
use crate::client::framing::{Framing, PendingResponse};
use crate::client::{
    Client, ClientKey, ClientLink, Incoming, Outbox, RareClientState, SocketIoState, StreamWatcher,
};
use crate::pusher::PusherApp;
use crate::transport::encodings::ClientWire;
use crate::transport::{ClientStream, IncomingSocket};
use crate::worker::WorkerLocal;

/// An admitted client on its way to a worker.
#[derive(Debug)]
pub(crate) struct NewClient {
    pub(crate) socket: IncomingSocket,
    /// Bytes read behind the request.
    pub(crate) unread: Bytes,
    pub(crate) wire: ClientWire,
    /// Written first: the head of a response, where the worker writes it in place of the HTTP server.
    pub(crate) head: Bytes,
    /// The response to begin, if it waits for the session's decision.
    pub(crate) unanswered: Option<Box<PendingResponse>>,
    /// Told when the stream begins and ends.
    pub(crate) watcher: Option<Arc<dyn StreamWatcher>>,
    /// Commands that came in the request.
    pub(crate) first: Option<Bytes>,
    /// The connect command that the request amounts to, if it is complete.
    pub(crate) connect: Option<Box<Connect>>,
    pub(crate) protocol: Arc<dyn Protocol>,
    pub(crate) deflate: Option<DeflateParams>,
    pub(crate) admitted: Admitted,
    /// The client's address and headers, if any hook asks for them.
    pub(crate) origin: Option<Arc<ClientOrigin>>,
    /// The client's app, if it speaks Pusher.
    pub(crate) app: Option<Arc<PusherApp>>,
    /// The same value as `protocol`, if the client speaks GraphQL.
    pub(crate) graphql: Option<Arc<GraphQl>>,
    /// The client is only admitted to be closed with this.
    pub(crate) turned_away: Option<Disconnect>,
}

impl Client {
    /// Makes a new client with its session. The session's first effects are performed by the caller's next step.
    pub(crate) fn open(new: NewClient, key: ClientKey, local: &WorkerLocal) -> Self {
        let stream = ClientStream::from(new.socket);
        let protocol_id = new.protocol.id();
        let of_socketio = (protocol_id == ProtocolId::SOCKET_IO).then(|| local.encodings.own_socketio());
        let (protocol, socketio) = match of_socketio {
            None => (new.protocol, None),
            Some((protocol, own)) => (protocol, Some(Box::new(SocketIoState::new(own, key)))),
        };
        let positions = (protocol_id == ProtocolId::SSE_CHANNELS).then(Positions::default);
        // Frames made for this client alone out of shared bytes are cut into pieces afterwards.
        let wire = match &positions {
            _ if new.graphql.is_some() => ClientWire::Bare,
            _ if socketio.as_ref().is_some_and(|own| own.protocol.sends_offsets()) => ClientWire::Bare,
            Some(_) => new.wire.whole(),
            None => new.wire,
        };
        let variant = local.encodings.variant(
            protocol_id,
            wire,
            new.deflate.as_ref().filter(|_| wire != ClientWire::Bare),
        );
        let is_unidirectional = protocol_id.is_unidirectional();
        // A client that is reached through a response sends its commands in other requests, which name its session. A
        // unidirectional client has an id, too, for its application.
        let name = (is_unidirectional || matches!(new.wire, ClientWire::Response(_)))
            .then(|| local.node.session_ids.make(rand::random(), local.index, key.index));
        let connection_kind = match name {
            None => ConnectionKind::Bidirectional,
            Some(name) if is_unidirectional => {
                ConnectionKind::Unidirectional { session: name.reveal().into() }
            }
            Some(name) => {
                ConnectionKind::Emulated { session: name.reveal().into(), node: local.node.id.0.clone() }
            }
        };
        let opening = Opening {
            client: local.node.client_ids.make(rand::random(), local.index, key.index),
            protocol,
            context: local.context_of(new.wire.is_of_engine_io()).clone(),
            connection_kind,
            connect: new.connect,
            seed: rand::random(),
        };
        let mut session = Session::open(local.now, opening);
        if new.wire.is_of_engine_io() {
            session = session.pinging_at_once(local.now);
        }
        let (watcher, origin, app, graphql) = (new.watcher, new.origin, new.app, new.graphql);
        let rare = RareClientState { name, positions, watcher, origin, app, graphql, socketio, newest: None };
        if rare.app.is_some() {
            session = session.asking_of_all();
        }
        if protocol_id == ProtocolId::SOCKET_IO {
            session = session.with_rooms();
        }
        if let Some(disconnect) = new.turned_away {
            session.handle_disconnect(disconnect);
        }
        let mut outbox = Outbox::default();
        if !new.head.is_empty() {
            outbox.push_last(new.head);
        }
        Self {
            link: ClientLink {
                stream,
                framing: Framing::new(new.wire, new.deflate.is_some(), new.unanswered),
            },
            session,
            outbox,
            key,
            variant,
            protocol: protocol_id,
            opened: local.now,
            paused: false,
            incoming: Incoming::Open,
            finishing: None,
            closing: None,
            awaits_room: None,
            stalled_since: None,
            rare: rare.boxed(),
            _admitted: new.admitted,
            user_permit: None,
            accounted: 0,
        }
    }
}
