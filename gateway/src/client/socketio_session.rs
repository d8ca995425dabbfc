//! A client of Socket.IO whose sessions are kept: updates its sessions as it moves between rooms, and when it leaves.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gateway_core::effect::{Grant, Resumed};
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::framing::MessageKind;
use shared::id::ClientId;
use shared::position::StreamPosition;
use shared::protocol::socketio::{Namespace, Resume, SessionOffsets, SocketIo, SocketIoShared};

use crate::client::Client;
use crate::client::framing::Framing;
use crate::node::{Node, ResumableSession, ResumeRequest};
use crate::sessions::{HoldEnd, SessionHolder, SessionRecord};
use crate::worker::WorkerLocal;

/// The random bytes in the secret id of a session.
const PID_BYTES: usize = 21;

/// A client's part in its sessions, for work that outlives the turn.
#[derive(Clone, Debug)]
pub(super) struct ClientSessions {
    pub(super) socketio: Arc<SocketIo>,
    connection: SessionHolder,
    client: ClientId,
    user: Box<str>,
}

/// Returns an id that cannot be guessed.
pub(super) fn draw_pid() -> String {
    use base64::Engine;
    let bits: [u8; PID_BYTES] = std::array::from_fn(|_| rand::random());
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bits)
}

pub(super) fn recovery(namespace: &Namespace) -> Duration {
    Duration::from_millis(namespace.recovery_ms)
}

impl ClientSessions {
    /// Records that the client follows a channel from this position. The session is written before the client is told.
    pub(super) async fn follow(
        &self,
        node: &Node,
        channel: &Channel,
        top: StreamPosition,
    ) -> Result<(), ErrorCode> {
        let Some(namespace) = self.socketio.follow(channel.as_str(), top) else { return Ok(()) };
        match self.write(node, namespace).await {
            Ok(()) => Ok(()),
            Err(_) if namespace.channel() == channel.as_str() => {
                // The client is admitted all the same, but has no session to resume.
                self.end(node, namespace, HoldEnd::ForGood);
                Ok(())
            }
            Err(_) => Err(ErrorCode::Internal),
        }
    }

    async fn write(&self, node: &Node, namespace: &Namespace) -> Result<(), crate::broker::BrokerError> {
        let Some((pid, version, offsets)) = self.socketio.offsets(namespace.name()) else { return Ok(()) };
        let record = SessionRecord {
            client: self.client,
            user: self.user.clone(),
            namespace: namespace.name().into(),
            node: (*node.id.0).into(),
            offsets,
        };
        let is_current = || self.socketio.offsets(namespace.name()).is_some_and(|(now, ..)| now == pid);
        let value = (version, record.encode());
        let written = node.sessions.write(&pid, &self.connection, value, recovery(namespace), is_current);
        if !written.await? {
            node.displace(self.connection.key);
        }
        Ok(())
    }

    /// Ends a session. Returns whether there was one.
    fn end(&self, node: &Node, namespace: &Namespace, ended: HoldEnd) -> bool {
        let pid = self.socketio.end_session(namespace.name());
        if let Some(pid) = &pid {
            node.sessions.end(pid, self.connection.holder, ended);
        }
        pid.is_some()
    }
}

/// A client that enters a namespace in which sessions are kept.
#[derive(Debug)]
pub(super) struct ReturningClient {
    keeper: ClientSessions,
    namespace: Box<str>,
    /// The client's request to resume an earlier session.
    resume: Resume,
    /// The client's id, if others know it already.
    own: Option<ClientId>,
    limit: u32,
    bytes_max: usize,
}

impl ReturningClient {
    /// Resumes the earlier session if possible; otherwise a new one begins.
    pub(super) async fn resume(
        &self,
        node: &Node,
        common: &SocketIoShared,
        user: &str,
    ) -> Option<Box<Resumed>> {
        let namespace = common.namespaces.named(&self.namespace)?;
        let Self { keeper, resume, own, limit, bytes_max, .. } = self;
        let (own, limit, bytes_max, by) = (*own, *limit, *bytes_max, &keeper.connection);
        let wanted = ResumeRequest { namespace, resume, user, own, by, limit, bytes_max };
        let found = match node.find_session(&wanted).await {
            Ok(found) => {
                node.take_session(&resume.pid, &found, by, recovery(namespace)).await.map(|()| found)
            }
            Err(why) => Err(why),
        };
        node.metrics.socketio.recovery(found.as_ref().map_or_else(|why| why.label(), |_| "recovered"));
        let Ok(ResumableSession { record, resumed, positions, .. }) = found else {
            keeper.socketio.keep_session(namespace.name(), &draw_pid(), SessionOffsets::default());
            return None;
        };
        keeper.socketio.keep_session(namespace.name(), &resume.pid, record.offsets);
        for (channel, position) in positions {
            keeper.socketio.note_position(channel.as_str(), position);
        }
        Some(Box::new(resumed))
    }

    /// Releases the session of a client that the application did not admit. It may try again.
    pub(super) fn release_session(&self, node: &Node, common: &SocketIoShared) {
        if let Some(namespace) = common.namespaces.named(&self.namespace) {
            self.keeper.end(node, namespace, HoldEnd::Away);
        }
    }
}

impl Client {
    /// Returns a client's request to resume a session, on entering a namespace that keeps sessions. `None` if a new session
    /// begins, or none.
    pub(super) fn returning(&self, local: &WorkerLocal, namespace: &Namespace) -> Option<ReturningClient> {
        let keeper = self.keeper().filter(|_| namespace.keeps_sessions())?;
        let Some(resume) = keeper.socketio.take_resume(namespace.name()) else {
            keeper.socketio.keep_session(namespace.name(), &draw_pid(), SessionOffsets::default());
            return None;
        };
        let settings = &local.context_of(true).settings;
        let is_known = self.session.subscriptions().next().is_some();
        Some(ReturningClient {
            keeper,
            namespace: namespace.name().into(),
            resume,
            own: is_known.then(|| self.session.client()),
            limit: settings.recovery_limit_max,
            bytes_max: settings.reply_bytes_max as usize,
        })
    }

    pub(super) fn socketio(&self) -> Option<&Arc<SocketIo>> {
        self.rare.as_ref()?.socketio.as_ref().map(|own| &own.protocol)
    }

    /// Returns the client's part in its sessions. `None` if its sessions are not kept.
    pub(super) fn keeper(&self) -> Option<ClientSessions> {
        let own = self.rare.as_ref()?.socketio.as_ref()?;
        Some(ClientSessions {
            socketio: own.protocol.clone(),
            connection: own.connection.clone()?,
            client: self.session.client(),
            user: self.session.user().as_str().into(),
        })
    }

    /// The same, if the channel belongs to a namespace in which the client has a session.
    pub(super) fn keeper_of(&self, local: &WorkerLocal, channel: &Channel) -> Option<ClientSessions> {
        let keeper = self.keeper()?;
        let names = &local.encodings.socketio_common().namespaces;
        let namespace = names.seen(channel.as_str())?.namespace;
        keeper.socketio.offsets(namespace.name()).map(|_| keeper)
    }

    /// Takes over the id of the resumed session, if the client was admitted with one. Others know it by that id from now on.
    pub(super) fn become_resumed(&mut self, local: &WorkerLocal, grant: Grant) -> Grant {
        let own = self.rare.as_ref().and_then(|rare| rare.socketio.as_ref());
        if let (Some(resumed), Some(own)) = (&grant.resumed, own) {
            if resumed.client != self.session.client() {
                local.node.client_ids.adopt(resumed.client, local.index, self.key.index);
                own.protocol.become_client(resumed.client);
            }
            let names = local.encodings.socketio_common().namespaces.iter();
            let held = names.filter_map(|namespace| own.protocol.offsets(namespace.name()));
            let pids: Vec<_> = held.map(|(pid, ..)| pid).collect();
            if let Some(by) = own.connection.clone() {
                let node = local.node.clone();
                local.node.spawn(async move { node.close_unless_holder(&pids, &by).await });
            }
        }
        grant
    }

    /// Updates the session after the client has left a channel.
    pub(super) fn note_left(&self, local: &WorkerLocal, channel: &Channel) {
        let Some(keeper) = self.keeper() else { return };
        let names = &local.encodings.socketio_common().namespaces;
        let Some(seen) = names.seen(channel.as_str()) else { return };
        if seen.is_of_all() {
            if keeper.end(&local.node, seen.namespace, HoldEnd::ForGood) {
                let node = local.node.clone();
                local.node.spawn(async move { node.settle_sessions().await });
            }
        } else if keeper.socketio.unfollow(channel.as_str()).is_some() {
            let (node, common) = (local.node.clone(), local.encodings.socketio_common().clone());
            let channel = channel.clone();
            local.node.spawn(async move {
                if let Some(seen) = common.namespaces.seen(channel.as_str()) {
                    // The session keeper retries until it is written.
                    drop(keeper.write(&node, seen.namespace).await);
                }
            });
        }
    }

    /// Releases the client's sessions at the end of the connection. The client may resume them unless its close code told it
    /// not to return.
    pub(crate) fn leave_sessions(&self, local: &WorkerLocal, why: &Disconnect) {
        let client = self.session.client();
        local.node.client_ids.release(client, local.index, self.key.index);
        let Some(keeper) = self.keeper() else { return };
        let may_return = why.invites_reconnect() || why.code == Disconnect::CONNECTION_CLOSED.code;
        let ended = if may_return { HoldEnd::Away } else { HoldEnd::ForGood };
        local.node.sessions.leave(&keeper.connection, ended);
    }

    /// Records that the client has received everything of a channel up to this position.
    pub(super) fn note_position(&self, channel: &Channel, position: Option<StreamPosition>) {
        if let (Some(socketio), Some(position)) = (self.socketio(), position) {
            socketio.note_position(channel.as_str(), position);
        }
    }
}

impl Framing {
    /// Returns the frames for a client, from bytes for it alone or shared by all.
    pub(super) fn select_for_session(&self, socketio: &SocketIo, bytes: &Bytes) -> Option<Bytes> {
        let mut frames = BytesMut::with_capacity(bytes.len() + 64);
        let were_records = socketio.deliver(bytes, |kind: MessageKind, message: &[u8]| {
            self.put_packet(kind, message, &mut frames);
        });
        were_records.then(|| frames.freeze())
    }
}
