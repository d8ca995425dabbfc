//! Clients of Socket.IO as servers see them: events for them, the rooms they are in, and their end.

use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::protocol::ProtocolId;
use shared::protocol::socketio::{ARGUMENTS_MAX, Namespace, binary_fault, parse_sid, said_by_server, sid};
use shared::publication::is_too_deep;

use super::list::{ConnectionList, Listing, Rest};
use super::message::idempotency;
use super::refused::Refused;
use super::request::{SocketioDisconnect, SocketioEmit, SocketioJoin, SocketioLeave, SocketioSockets, Text};
use super::run::Call;
use crate::broker::Published;
use crate::node::control::{Among, Target};
use crate::node::question::{Act, ConnectionInfo, Subscribing};
use crate::socketio::addressed::{Addressed, all, room, rooms, selection};
use crate::telemetry::labels::Source;

/// The namespace that is meant where none is named.
const MAIN: &str = "/";

/// What is told of a client.
#[derive(Debug)]
pub(super) struct Socket {
    /// In the namespace.
    pub(super) id: String,
    pub(super) client: Box<str>,
    pub(super) user: Box<str>,
    /// The uid of its node.
    pub(super) node: Box<str>,
    pub(super) rooms: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct SocketList {
    pub(super) sockets: Vec<Socket>,
    pub(super) rest: Rest,
}

impl<'c> Call<'c> {
    pub(super) async fn socketio_emit(&self, request: &SocketioEmit<'_>) -> Result<Published, Refused> {
        let namespace = self.namespace(&request.namespace)?;
        if request.args.len() > ARGUMENTS_MAX {
            return Err(Refused::bad_request(format!("there are more than {ARGUMENTS_MAX} arguments")));
        }
        let said = said_by_server(&request.args, &request.binary);
        let max = self.config.publication_bytes_max;
        if said.data.bytes.len() > max {
            return Err(Refused::bad_request(format!("the arguments are longer than {max} bytes")));
        }
        if is_too_deep(&said.data.bytes) {
            return Err(Refused::bad_request("the arguments are nested too deep"));
        }
        if let Some(fault) = binary_fault(&request.args, &request.binary) {
            return Err(Refused::bad_request(fault));
        }
        let addressed = Addressed {
            event: &request.event,
            said,
            rooms: &request.rooms,
            except: &request.except,
            volatile: request.volatile,
        };
        let (channel, publication) = addressed.publication(namespace).map_err(Refused::bad_request)?;
        let once = idempotency(&request.idempotency_key, self.config)?;
        let request = self.node.event_request(channel, publication, once).map_err(|code| match code {
            ErrorCode::BadRequest => {
                Refused::bad_request("the arguments are not of the format that the channel is set to")
            }
            ErrorCode::NotAvailable => Refused::not_available("the channel keeps state by key, or is polled"),
            other => other.into(),
        })?;
        self.in_time()?;
        let published = self.node.publish(request).await.map_err(Refused::not_published)?;
        self.node.metrics.publication_in(Source::Api);
        Ok(published)
    }

    pub(super) async fn socketio_join(&self, request: &SocketioJoin<'_>) -> Result<(), Refused> {
        let SocketioJoin { namespace, rooms: of, except, join } = request;
        let namespace = self.namespace(namespace)?;
        if join.is_empty() {
            return Err(Refused::bad_request("no room to join is given"));
        }
        let mut full = Ok(());
        for channel in rooms(namespace, join).map_err(Refused::bad_request)? {
            let (channel, options) = self.channel(channel.as_str())?;
            if options.is_polled() {
                return Err(Refused::bad_request("clients alone subscribe to polled channels"));
            }
            let act = Act::Subscribe(Box::new(Subscribing::to(channel)));
            match self.act(among(namespace, of, except)?, act).await {
                // Others have room for what follows.
                Err(refused) if refused.is_of_limit() => full = full.and(Err(refused)),
                result => result?,
            }
        }
        full
    }

    pub(super) async fn socketio_leave(&self, request: &SocketioLeave<'_>) -> Result<(), Refused> {
        let SocketioLeave { namespace, rooms: of, except, leave } = request;
        let namespace = self.namespace(namespace)?;
        if leave.is_empty() {
            return Err(Refused::bad_request("no room to leave is given"));
        }
        let target = among(namespace, of, except)?;
        // Whoever is meant by a room is meant until it has left all that it is to leave: that room last.
        let named = target.among.as_ref().map(|among| among.only.channels.clone()).unwrap_or_default();
        let mut channels = rooms(namespace, leave).map_err(Refused::bad_request)?;
        channels.sort_by_key(|channel| named.contains(channel));
        for channel in channels {
            self.act(target.clone(), Act::Unsubscribe(channel)).await?;
        }
        Ok(())
    }

    pub(super) async fn socketio_disconnect(&self, request: &SocketioDisconnect<'_>) -> Result<(), Refused> {
        let SocketioDisconnect { namespace, rooms, except, close } = request;
        let namespace = self.namespace(namespace)?;
        let act = match close {
            true => Act::Disconnect(Disconnect::FORCE_DISCONNECT),
            false => Act::Unsubscribe(all(namespace).map_err(Refused::bad_request)?),
        };
        self.act(among(namespace, rooms, except)?, act).await
    }

    pub(super) async fn socketio_sockets(
        &self,
        request: &SocketioSockets<'_>,
    ) -> Result<SocketList, Refused> {
        let namespace = self.namespace(&request.namespace)?;
        let mut listing = Listing { limit: request.limit, cursor: &request.cursor, ..Listing::default() };
        match (&*request.room, parse_sid(&request.room, namespace.name())) {
            ("", _) => listing.channel = Some(all(namespace).map_err(Refused::bad_request)?),
            (_, Some(client)) => listing.client = Some(client),
            (name, None) => listing.channel = Some(room(namespace, name).map_err(Refused::bad_request)?),
        }
        let ConnectionList { connections, rest } = self.list(listing).await?;
        let of = |(node, connection)| self.socket(namespace, node, &connection);
        Ok(SocketList { sockets: connections.into_iter().filter_map(of).collect(), rest })
    }

    /// `None` for a client that is not in the namespace, though it may be subscribed to a room's channel.
    fn socket(&self, namespace: &Namespace, node: Box<str>, connection: &ConnectionInfo) -> Option<Socket> {
        let ConnectionInfo { client, user, protocol, channels, .. } = connection;
        let everyone = namespace.channel();
        if **protocol != *ProtocolId::SOCKET_IO.format() || !channels.iter().any(|one| **one == *everyone) {
            return None;
        }
        let seen = channels.iter().filter_map(|channel| self.namespaces?.seen(channel));
        let own = seen.filter(|seen| seen.namespace.name() == namespace.name());
        Some(Socket {
            id: sid(shared::id::ClientId::parse(client)?, namespace.name()),
            client: client.clone(),
            user: user.clone(),
            node,
            rooms: own.filter_map(|seen| seen.room()).collect(),
        })
    }

    pub(super) fn namespace(&self, name: &str) -> Result<&'c Namespace, Refused> {
        let namespaces = self.namespaces.ok_or(Refused::not_available("Socket.IO is not served here"))?;
        let name = if name.is_empty() { MAIN } else { name };
        namespaces.named(name).ok_or_else(|| Refused::bad_request("there is no such namespace"))
    }
}

fn among(namespace: &Namespace, rooms: &[Text<'_>], except: &[Text<'_>]) -> Result<Target, Refused> {
    let only = selection(namespace, rooms, except).map_err(Refused::bad_request)?;
    let channel = all(namespace).map_err(Refused::bad_request)?;
    Ok(Target { among: Some(Box::new(Among { channel, only })), ..Target::default() })
}
