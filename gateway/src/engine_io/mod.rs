//! Engine.IO on this node: the handshake of sessions, and the sessions of polling clients by name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use parking_lot::Mutex;
use shared::framing::MessageKind;
use shared::framing::engine_io::{EngineHandshake, SEPARATOR};
use shared::framing::websocket::encode_message;
use tokio::sync::watch;

use crate::socketio::SocketioConfig;
use crate::transport::PipeStream;
use crate::transport::task_pipe::handed_in_slices;

mod accept_relayed;
mod node_opening;
mod polling_session;
mod relay;
mod remote_session;
mod transport_probe;

pub use remote_session::RemotePollRequest;
pub(crate) use remote_session::{Nodes, RemotePollReply, RemoteSession};

pub(crate) use node_opening::{NodeOpening, OpeningPurpose};
pub(crate) use polling_session::{PollingError, PollingSession};
pub(crate) use relay::RelayedBytes;
pub(crate) use transport_probe::{PROBE_TIMEOUT, ProbeError, end_websocket, probe};

use polling_session::PacketUpload;
use remote_session::RemoteUpload;

/// Describes the opening line of another node, for [`crate::readers`]: session, whether it asks for a stream,
/// negotiated compression, and how many bytes follow it.
pub(crate) fn read_opening(bytes: &[u8]) -> Result<(Box<str>, bool, Option<String>, usize), String> {
    let read = NodeOpening::read(bytes).now_or_never().ok_or("it waits for more")?;
    let (NodeOpening { session, purpose }, rest) = read.map_err(|error| error.to_string())?;
    let (is_stream, agreed) = match purpose {
        OpeningPurpose::WebSocket { deflate } => (false, deflate.map(|agreed| agreed.response())),
        OpeningPurpose::Stream => (true, None),
    };
    Ok((session, is_stream, agreed, rest.len()))
}

/// Begins sessions of Engine.IO on this node, and keeps those of polling clients.
#[derive(Debug)]
pub(crate) struct EngineIo {
    settings: SocketioConfig,
    node: Box<str>,
    polling: Arc<PollingSessions>,
    /// Reaches sessions that are on other nodes.
    nodes: OnceLock<Arc<dyn Nodes>>,
    /// Whether this node is being stopped.
    leaving: Arc<AtomicBool>,
    /// The time by which the node must have closed the connections that it carries to other nodes.
    drain: watch::Sender<Option<Instant>>,
}

/// The session that a request names.
#[derive(Debug)]
pub(crate) enum FoundSession {
    Local(Arc<PollingSession>),
    Remote(RemoteSession),
}

/// A request that brings packets. If it is dropped, its session ends.
pub(crate) enum RemotePacketUpload<'s> {
    Local(PacketUpload<'s>),
    Remote(RemoteUpload<'s>),
}

impl FoundSession {
    /// Fetches packets, as [`PollingSession::fetch`].
    pub(crate) async fn fetch(&self, patience: Duration) -> Result<Bytes, PollingError> {
        match self {
            Self::Local(session) => session.fetch(patience).await,
            Self::Remote(remote) => remote.fetch(patience).await,
        }
    }

    /// Begins to bring packets, as [`PollingSession::begin_upload`].
    pub(crate) fn begin_upload(&self) -> Result<RemotePacketUpload<'_>, PollingError> {
        match self {
            Self::Local(session) => session.begin_upload().map(RemotePacketUpload::Local),
            Self::Remote(remote) => Ok(RemotePacketUpload::Remote(remote.begin_upload())),
        }
    }
}

impl RemotePacketUpload<'_> {
    pub(crate) async fn upload(self, body: Bytes) -> Result<(), PollingError> {
        match self {
            Self::Local(uploading) => uploading.upload(body).await,
            Self::Remote(uploading) => uploading.upload(body).await,
        }
    }
}

/// Sessions by the secrets of their names. There are as many as polling clients, each admitted as a client.
///
/// The time of a lookup does not show how much of a secret is right: the table hashes with random keys.
#[derive(Debug, Default)]
struct PollingSessions(Mutex<HashMap<u128, Arc<PollingSession>>>);

/// A session's name: its secret, and its node. Whoever knows it can speak for the client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sid<'a> {
    secret: u128,
    pub(crate) node: &'a str,
}

/// A client that is about to be opened.
#[derive(Debug)]
pub(crate) struct PollingClient {
    /// The worker's end of the pipe.
    pub(crate) pipe: PipeStream,
    pub(crate) session: Arc<PollingSession>,
    /// The first packet for the client.
    pub(crate) greeting: Bytes,
}

impl<'a> Sid<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (secret, node) = text.split_once('.')?;
        Some(Self { secret: Self::parse_secret(secret)?, node })
    }

    fn parse_secret(text: &str) -> Option<u128> {
        let secret = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(u128::from_be_bytes(secret.try_into().ok()?))
    }

    fn secret_to_text(self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.secret.to_be_bytes())
    }

    fn to_text(self) -> String {
        format!("{}.{}", self.secret_to_text(), self.node)
    }
}

impl EngineIo {
    pub(crate) fn new(settings: &SocketioConfig, node: &str) -> Self {
        Self {
            settings: settings.clone(),
            node: node.into(),
            polling: Arc::default(),
            nodes: OnceLock::new(),
            leaving: Arc::default(),
            drain: watch::Sender::new(None),
        }
    }

    /// Sets how the sessions of other nodes are reached.
    pub(crate) fn connect(&self, nodes: Arc<dyn Nodes>) {
        // Later calls have no effect: there is one cluster.
        let _ = self.nodes.set(nodes);
    }

    pub(crate) fn settings(&self) -> &SocketioConfig {
        &self.settings
    }

    /// Returns the first packet for a client over a WebSocket, as a frame.
    pub(crate) fn greeting(&self) -> Bytes {
        let mut packet = BytesMut::new();
        self.put_handshake(rand::random(), false, &mut packet);
        let mut frame = BytesMut::new();
        encode_message(MessageKind::Text, &packet, false, &mut frame);
        frame.freeze()
    }

    /// Begins the session of a polling client.
    pub(crate) fn begin_polling(&self) -> PollingClient {
        let secret = rand::random();
        let sessions = Arc::downgrade(&self.polling);
        let (pipe, far) = handed_in_slices(move || PollingSessions::forget(&sessions, secret));
        let session = Arc::new(PollingSession::new(far));
        self.polling.0.lock().insert(secret, session.clone());
        let mut greeting = BytesMut::new();
        self.put_handshake(secret, self.settings.upgrades, &mut greeting);
        greeting.put_u8(SEPARATOR);
        PollingClient { pipe, session, greeting: greeting.freeze() }
    }

    /// Marks this node as stopping: requests for sessions on other nodes wait here no longer.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Closes the connections that are carried to other nodes, evenly until then.
    pub(crate) fn drain_relays(&self, until: Instant) {
        self.drain.send_replace(Some(until));
    }

    /// Finds the session of this name, on this node or on the node that the name tells.
    pub(crate) fn find(&self, sid: Sid<'_>) -> Option<FoundSession> {
        if *sid.node == *self.node {
            return self.find_here(sid.secret).map(FoundSession::Local);
        }
        // All names of nodes have the same length, so a name of another length needs no request.
        let nodes = self.nodes.get().filter(|_| sid.node.len() == self.node.len())?.clone();
        Some(FoundSession::Remote(RemoteSession {
            nodes,
            node: sid.node.into(),
            session: sid.secret_to_text().into(),
            leaving: self.leaving.clone(),
        }))
    }

    fn find_here(&self, secret: u128) -> Option<Arc<PollingSession>> {
        self.polling.0.lock().get(&secret).cloned()
    }

    /// Returns the longest that a request waits for packets: a ping comes within that time, or the client is gone.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_millis(self.settings.ping_interval_ms + self.settings.ping_timeout_ms)
    }

    fn put_handshake(&self, secret: u128, upgrades: bool, packet: &mut BytesMut) {
        let SocketioConfig { ping_interval_ms, ping_timeout_ms, payload_bytes_max, .. } = self.settings;
        let sid = &*Sid { secret, node: &self.node }.to_text();
        EngineHandshake { sid, upgrades, ping_interval_ms, ping_timeout_ms, payload_bytes_max }.put(packet);
    }
}

impl PollingSessions {
    fn forget(sessions: &Weak<Self>, secret: u128) {
        // The session is dropped after the lock is released.
        let forgotten = sessions.upgrade().and_then(|sessions| sessions.0.lock().remove(&secret));
        drop(forgotten);
    }
}

impl std::fmt::Debug for Sid<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sid(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine_io() -> EngineIo {
        EngineIo::new(&SocketioConfig::default(), "node-1")
    }

    fn sid_of(greeting: &Bytes) -> String {
        let packet = std::str::from_utf8(greeting).unwrap();
        packet.split('"').nth(3).unwrap().to_owned()
    }

    #[test]
    fn a_session_is_found_by_the_name_that_its_client_is_told_until_its_worker_lets_go() {
        let engine_io = engine_io();
        let PollingClient { pipe, session, greeting } = engine_io.begin_polling();
        let text = sid_of(&greeting);
        let sid = Sid::parse(&text).unwrap();
        assert_eq!(sid.node, "node-1");
        assert!(
            matches!(engine_io.find(sid), Some(FoundSession::Local(found)) if Arc::ptr_eq(&found, &session))
        );
        let remote_session = Sid { node: "node-2", ..sid };
        assert!(engine_io.find(remote_session).is_none());
        assert!(engine_io.find(Sid { secret: sid.secret ^ 1, ..sid }).is_none());
        drop(pipe);
        assert!(engine_io.find(sid).is_none());
    }

    #[test]
    fn what_is_no_name_is_none_and_no_name_is_shown() {
        for text in
            ["", "x", ".", "AAAA.node", "AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAA.node", "!.n"]
        {
            assert!(Sid::parse(text).is_none(), "{text}");
        }
        let sid = Sid::parse("AAAAAAAAAAAAAAAAAAAAAQ.node").unwrap();
        assert_eq!((sid.secret, format!("{sid:?}")), (1, "Sid(..)".to_owned()));
    }
}
