//! The beginning of a connection on its worker.

use std::sync::Arc;

use bytes::Bytes;
use gateway_core::session::{ConnectionWay, Opening, Session};
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
    Client, ClientKey, ClientLink, Incoming, OfSocketIo, Outbox, RareClientState, StreamWatcher,
};
use crate::pusher::PusherApp;
use crate::transport::encodings::ClientWire;
use crate::transport::{ClientStream, IncomingSocket};
use crate::worker::WorkerLocal;

/// A client that has been let in, on its way to a worker.
#[derive(Debug)]
pub(crate) struct NewClient {
    pub(crate) socket: IncomingSocket,
    /// What came behind the request.
    pub(crate) unread: Bytes,
    pub(crate) wire: ClientWire,
    /// Written before everything else: the head of a response that the worker gives in place of HTTP's own machinery.
    pub(crate) head: Bytes,
    /// Where the answer waits for the session: whose it is to begin.
    pub(crate) unanswered: Option<Box<PendingResponse>>,
    /// Who is told that it comes and goes.
    pub(crate) watcher: Option<Arc<dyn StreamWatcher>>,
    /// Commands that came with the request.
    pub(crate) first: Option<Bytes>,
    /// The request as the connect command that it comes to, where it says it all.
    pub(crate) connect: Option<Box<Connect>>,
    pub(crate) protocol: Arc<dyn Protocol>,
    pub(crate) deflate: Option<DeflateParams>,
    pub(crate) admitted: Admitted,
    /// For the application's own servers, where any is asked.
    pub(crate) origin: Option<Arc<ClientOrigin>>,
    /// Whose client it is, if it speaks Pusher.
    pub(crate) app: Option<Arc<PusherApp>>,
    /// The same value as `protocol`, if it speaks GraphQL.
    pub(crate) graphql: Option<Arc<GraphQl>>,
    /// It is only let in to be told this.
    pub(crate) turned_away: Option<Disconnect>,
}

impl Client {
    /// Gives a new client its session. What the session wants at once is performed by the caller's next step.
    pub(crate) fn open(new: NewClient, key: ClientKey, local: &WorkerLocal) -> Self {
        let stream = ClientStream::from(new.socket);
        let protocol_id = new.protocol.id();
        let of_socketio = (protocol_id == ProtocolId::SOCKET_IO).then(|| local.encodings.own_socketio());
        let (protocol, socketio) = match of_socketio {
            None => (new.protocol, None),
            Some((protocol, own)) => (protocol, Some(Box::new(OfSocketIo::new(own, key)))),
        };
        let positions = (protocol_id == ProtocolId::SSE_CHANNELS).then(Positions::default);
        // What is made for it alone out of what all share is cut into pieces after that.
        let wire = match &positions {
            _ if new.graphql.is_some() => ClientWire::Bare,
            _ if socketio.as_ref().is_some_and(|own| own.protocol.tells_offsets()) => ClientWire::Bare,
            Some(_) => new.wire.whole(),
            None => new.wire,
        };
        let variant = local.encodings.variant(
            protocol_id,
            wire,
            new.deflate.as_ref().filter(|_| wire != ClientWire::Bare),
        );
        let only_tells = protocol_id.only_tells();
        // Who is reached through a response says its commands in other requests; who says none has a name all the same, for
        // its application.
        let name = (only_tells || matches!(new.wire, ClientWire::Response(_)))
            .then(|| local.node.session_ids.make(rand::random(), local.index, key.index));
        let way = match name {
            None => ConnectionWay::Both,
            Some(name) if only_tells => ConnectionWay::OneWay { session: name.reveal().into() },
            Some(name) => {
                ConnectionWay::Apart { session: name.reveal().into(), node: local.node.id.0.clone() }
            }
        };
        let opening = Opening {
            client: local.node.client_ids.make(rand::random(), local.index, key.index),
            protocol,
            context: local.context_of(new.wire.is_of_engine_io()).clone(),
            way,
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
