//! The beginning of a connection on its worker.

use std::sync::Arc;

use bytes::Bytes;
use gateway_core::session::{Opening, Session, Way};
use shared::framing::websocket::{Assembler, DeflateParams, Role};
use shared::protocol::Protocol;

use crate::admission::Admitted;
use crate::client::{Client, ClientKey, Incoming, Outbox};
use crate::transport::{Socket, Stream};
use crate::worker::Local;

/// A client that has been answered 101, on its way to a worker.
#[derive(Debug)]
pub(crate) struct NewClient {
    pub(crate) socket: Socket,
    /// What came behind the request head.
    pub(crate) unread: Bytes,
    pub(crate) protocol: Arc<dyn Protocol>,
    pub(crate) deflate: Option<DeflateParams>,
    pub(crate) admitted: Admitted,
}

impl Client {
    /// Gives a new client its session. What the session wants at once is performed by the caller's next step.
    pub(crate) fn open(new: NewClient, key: ClientKey, local: &Local) -> Self {
        let stream = Stream::from(new.socket);
        let variant = local.encodings.variant(new.protocol.id(), new.deflate.as_ref());
        let protocol_id = new.protocol.id();
        let opening = Opening {
            client: local.node.client_ids.make(rand::random(), local.index, key.index),
            protocol: new.protocol,
            context: local.context.clone(),
            way: Way::Both,
            seed: rand::random(),
        };
        Self {
            stream,
            assembler: Assembler::new(Role::Server, new.deflate.is_some()),
            session: Session::open(local.now, opening),
            outbox: Outbox::default(),
            key,
            variant,
            protocol: protocol_id,
            opened: local.now,
            paused: false,
            incoming: Incoming::Frames,
            finishing: None,
            closing: None,
            awaits_room: None,
            stalled_since: None,
            _admitted: new.admitted,
            user_permit: None,
            accounted: 0,
        }
    }
}
