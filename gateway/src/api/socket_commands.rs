//! Commands on clients of Socket.IO: events, rooms, and disconnects.

use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::protocol::ProtocolId;
use shared::protocol::socketio::{
    ARGUMENTS_MAX, Namespace, arguments_of_server, binary_fault, parse_sid, sid,
};
use shared::publication::is_too_deep;

use super::api_error::ApiError;
use super::api_request::{
    RequestText, SocketioDisconnect, SocketioEmit, SocketioJoin, SocketioLeave, SocketioSockets,
};
use super::list_command::{ConnectionList, ConnectionsQuery, ListRemainder};
use super::published_message::idempotency;
use super::run_command::ApiCall;
use crate::broker::Published;
use crate::node::control::{Among, ControlTarget};
use crate::node::node_message::{ClientCommand, ConnectionInfo, Subscribing};
use crate::socketio::addressed::{AddressedEvent, all, room, rooms, selection};
use crate::telemetry::labels::PublicationSource;

/// The namespace if none is named.
const MAIN: &str = "/";

/// A client as reported by the API.
#[derive(Debug)]
pub(super) struct SocketDescription {
    /// The client's id in the namespace.
    pub(super) id: String,
    pub(super) client: Box<str>,
    pub(super) user: Box<str>,
    /// The uid of the client's node.
    pub(super) node: Box<str>,
    pub(super) rooms: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct SocketList {
    pub(super) sockets: Vec<SocketDescription>,
    pub(super) rest: ListRemainder,
}

impl<'c> ApiCall<'c> {
    pub(super) async fn socketio_emit(&self, request: &SocketioEmit<'_>) -> Result<Published, ApiError> {
        let namespace = self.namespace(&request.namespace)?;
        if request.args.len() > ARGUMENTS_MAX {
            return Err(ApiError::bad_request(format!("there are more than {ARGUMENTS_MAX} arguments")));
        }
        let arguments = arguments_of_server(&request.args, &request.binary);
        let max = self.config.publication_bytes_max;
        if arguments.data.bytes.len() > max {
            return Err(ApiError::bad_request(format!("the arguments are longer than {max} bytes")));
        }
        if is_too_deep(&arguments.data.bytes) {
            return Err(ApiError::bad_request("the arguments are nested too deeply"));
        }
        if let Some(fault) = binary_fault(&request.args, &request.binary) {
            return Err(ApiError::bad_request(fault));
        }
        let addressed = AddressedEvent {
            event: &request.event,
            arguments,
            rooms: &request.rooms,
            except: &request.except,
            volatile: request.volatile,
        };
        let (channel, publication) = addressed.publication(namespace).map_err(ApiError::bad_request)?;
        let once = idempotency(&request.idempotency_key, self.config)?;
        let request = self.node.event_request(channel, publication, once).map_err(|code| match code {
            ErrorCode::BadRequest => {
                ApiError::bad_request("the arguments are not in the format that the channel requires")
            }
            ErrorCode::NotAvailable => ApiError::not_available(
                "the channel keeps state by key or is polled, so it carries no Socket.IO events",
            ),
            other => other.into(),
        })?;
        self.in_time()?;
        let namespace = self.node.namespace_of(&request.channel);
        let published = self.node.publish(request).await.map_err(ApiError::not_published)?;
        self.node.metrics.publication_in(namespace, PublicationSource::Api);
        Ok(published)
    }

    pub(super) async fn socketio_join(&self, request: &SocketioJoin<'_>) -> Result<(), ApiError> {
        let SocketioJoin { namespace, rooms: of, except, join } = request;
        let namespace = self.namespace(namespace)?;
        if join.is_empty() {
            return Err(ApiError::bad_request("no room to join is given"));
        }
        let mut full = Ok(());
        for channel in rooms(namespace, join).map_err(ApiError::bad_request)? {
            let (channel, options) = self.channel(channel.as_str())?;
            if options.is_polled() {
                return Err(ApiError::bad_request(
                    "the server cannot subscribe clients to a polled channel: clients subscribe themselves",
                ));
            }
            let act = ClientCommand::Subscribe(Box::new(Subscribing::to(channel)));
            match self.act(among(namespace, of, except)?, act).await {
                // Other clients may still have room, so the rest is carried out.
                Err(refused) if refused.is_of_limit() => full = full.and(Err(refused)),
                result => result?,
            }
        }
        full
    }

    pub(super) async fn socketio_leave(&self, request: &SocketioLeave<'_>) -> Result<(), ApiError> {
        let SocketioLeave { namespace, rooms: of, except, leave } = request;
        let namespace = self.namespace(namespace)?;
        if leave.is_empty() {
            return Err(ApiError::bad_request("no room to leave is given"));
        }
        let target = among(namespace, of, except)?;
        // A client selected by a room stays selected until it has left all the other rooms, so that room is left last.
        let named = target.among.as_ref().map(|among| among.only.channels.clone()).unwrap_or_default();
        let mut channels = rooms(namespace, leave).map_err(ApiError::bad_request)?;
        channels.sort_by_key(|channel| named.contains(channel));
        for channel in channels {
            self.act(target.clone(), ClientCommand::Unsubscribe(channel)).await?;
        }
        Ok(())
    }

    pub(super) async fn socketio_disconnect(&self, request: &SocketioDisconnect<'_>) -> Result<(), ApiError> {
        let SocketioDisconnect { namespace, rooms, except, close } = request;
        let namespace = self.namespace(namespace)?;
        let act = match close {
            true => ClientCommand::Disconnect(Disconnect::FORCE_DISCONNECT),
            false => ClientCommand::Unsubscribe(all(namespace).map_err(ApiError::bad_request)?),
        };
        self.act(among(namespace, rooms, except)?, act).await
    }

    pub(super) async fn socketio_sockets(
        &self,
        request: &SocketioSockets<'_>,
    ) -> Result<SocketList, ApiError> {
        let namespace = self.namespace(&request.namespace)?;
        let mut listing =
            ConnectionsQuery { limit: request.limit, cursor: &request.cursor, ..ConnectionsQuery::default() };
        match (&*request.room, parse_sid(&request.room, namespace.name())) {
            ("", _) => listing.channel = Some(all(namespace).map_err(ApiError::bad_request)?),
            (_, Some(client)) => listing.client = Some(client),
            (name, None) => listing.channel = Some(room(namespace, name).map_err(ApiError::bad_request)?),
        }
        let ConnectionList { connections, rest } = self.list(listing).await?;
        let of = |(node, connection)| self.socket(namespace, node, &connection);
        Ok(SocketList { sockets: connections.into_iter().filter_map(of).collect(), rest })
    }

    /// Returns `None` for a client that is not in the namespace, even if it is subscribed to a room's channel.
    fn socket(
        &self,
        namespace: &Namespace,
        node: Box<str>,
        connection: &ConnectionInfo,
    ) -> Option<SocketDescription> {
        let ConnectionInfo { client, user, protocol, channels, .. } = connection;
        let everyone = namespace.channel();
        if **protocol != *ProtocolId::SOCKET_IO.format() || !channels.iter().any(|one| **one == *everyone) {
            return None;
        }
        let seen = channels.iter().filter_map(|channel| self.namespaces?.seen(channel));
        let own = seen.filter(|seen| seen.namespace.name() == namespace.name());
        Some(SocketDescription {
            id: sid(shared::id::ClientId::parse(client)?, namespace.name()),
            client: client.clone(),
            user: user.clone(),
            node,
            rooms: own.filter_map(|seen| seen.room()).collect(),
        })
    }

    pub(super) fn namespace(&self, name: &str) -> Result<&'c Namespace, ApiError> {
        let namespaces = self.namespaces.ok_or(ApiError::not_available("Socket.IO is not enabled"))?;
        let name = if name.is_empty() { MAIN } else { name };
        namespaces.named(name).ok_or_else(|| ApiError::bad_request("there is no such namespace"))
    }
}

fn among(
    namespace: &Namespace,
    rooms: &[RequestText<'_>],
    except: &[RequestText<'_>],
) -> Result<ControlTarget, ApiError> {
    let only = selection(namespace, rooms, except).map_err(ApiError::bad_request)?;
    let channel = all(namespace).map_err(ApiError::bad_request)?;
    Ok(ControlTarget { among: Some(Box::new(Among { channel, only })), ..ControlTarget::default() })
}
