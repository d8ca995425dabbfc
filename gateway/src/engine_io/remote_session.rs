//! Passes on polling requests that come to a node other than that of their session, to the node that the session's name tells.
//!
//! A request that fetches asks in turns, each shorter than a request between nodes may take. Any failure ends the
//! session: packets may have been lost, and the client has to notice.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use shared::framing::engine_io::PollingPayload;

use super::polling_session::{NOOP, PollingError, PollingSession};
use super::{EngineIo, Sid};

/// How long one request to the other node waits for packets.
const TURN: Duration = Duration::from_secs(3);

/// The longest part of packets in one message, in bytes: the room that a message between nodes has.
pub(crate) const PART_BYTES_MAX: usize = (1 << 20) - (4 << 10);

/// The longest sequence of packets that is put together from parts, in bytes: more than any node queues for one client.
const WHOLE_BYTES_MAX: usize = 256 << 20;

/// A request to a session on another node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemotePollRequest {
    /// Returns the packets that wait, or that come within this time.
    Fetch { wait_ms: u32 },
    /// Returns the packets that did not fit into the previous reply.
    FetchRest,
    /// Brings packets, behind the parts that were sent before.
    Upload(Bytes),
    /// Brings a part of the packets, of which more follow.
    UploadPart(Bytes),
    /// The client is gone.
    End,
}

/// The reply to such a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum RemotePollReply {
    /// Empty: no packets have come.
    Packets(Bytes),
    /// A part of the packets, of which more remain.
    Part(Bytes),
    Done,
    /// The session does not exist, or has ended.
    Over,
    /// It is not known whether the request was carried out.
    Unknown,
}

/// The connection to the other nodes.
pub(crate) trait Nodes: Send + Sync + fmt::Debug {
    /// Returns the address at which a node accepts carried WebSockets, if it does.
    fn address(&self, node: &str) -> BoxFuture<'static, Option<Box<str>>>;

    /// Sends a request to the node of a session, which is named by its secret.
    fn ask(
        &self,
        node: &str,
        session: Box<str>,
        polled: RemotePollRequest,
    ) -> BoxFuture<'static, RemotePollReply>;
}

/// A session on another node.
#[derive(Clone, Debug)]
pub(crate) struct RemoteSession {
    pub(super) nodes: Arc<dyn Nodes>,
    pub(super) node: Box<str>,
    pub(super) session: Box<str>,
    /// Whether the node that has the request is being stopped.
    pub(super) leaving: Arc<AtomicBool>,
}

impl RemoteSession {
    /// Fetches packets, as [`super::PollingSession::fetch`].
    pub(crate) async fn fetch(&self, patience: Duration) -> Result<Bytes, PollingError> {
        let unanswered = self.unanswered();
        let begun = Instant::now();
        while let Some(left) = patience.checked_sub(begun.elapsed()) {
            if self.leaving.load(Ordering::Relaxed) {
                break;
            }
            let wait_ms = u32::try_from(left.min(TURN).as_millis()).unwrap_or(u32::MAX);
            match self.ask(RemotePollRequest::Fetch { wait_ms }).await {
                RemotePollReply::Packets(packets) if packets.is_empty() => {}
                RemotePollReply::Packets(packets) => {
                    unanswered.done();
                    return Ok(packets);
                }
                RemotePollReply::Part(first) => {
                    let packets = self.fetch_rest(first).await?;
                    unanswered.done();
                    return Ok(packets);
                }
                RemotePollReply::Over => {
                    unanswered.done();
                    return Err(PollingError::Over);
                }
                RemotePollReply::Done | RemotePollReply::Unknown => return Err(PollingError::Unreachable),
            }
        }
        unanswered.done();
        Ok(NOOP)
    }

    /// Fetches the rest of packets that do not fit into one reply.
    async fn fetch_rest(&self, first: Bytes) -> Result<Bytes, PollingError> {
        let mut packets = BytesMut::from(first);
        while packets.len() <= WHOLE_BYTES_MAX {
            match self.ask(RemotePollRequest::FetchRest).await {
                RemotePollReply::Part(part) => packets.put(part),
                RemotePollReply::Packets(last) => {
                    packets.put(last);
                    return Ok(packets.freeze());
                }
                RemotePollReply::Over | RemotePollReply::Done | RemotePollReply::Unknown => break,
            }
        }
        Err(PollingError::Unreachable)
    }

    /// Begins a request that brings packets: it ends the session unless it is carried out.
    pub(crate) fn begin_upload(&self) -> RemoteUpload<'_> {
        RemoteUpload(self.unanswered())
    }

    async fn ask(&self, polled: RemotePollRequest) -> RemotePollReply {
        self.nodes.ask(&self.node, self.session.clone(), polled).await
    }

    fn unanswered(&self) -> RemoteRequestGuard<'_> {
        RemoteRequestGuard { remote_session: self, is_done: false }
    }
}

pub(crate) struct RemoteUpload<'e>(RemoteRequestGuard<'e>);

impl RemoteUpload<'_> {
    /// Brings packets, as [`super::polling_session::PacketUpload::upload`].
    pub(crate) async fn upload(self, body: Bytes) -> Result<(), PollingError> {
        if PollingPayload::check(&body).is_err() {
            return Err(PollingError::Malformed);
        }
        let mut rest = body;
        while rest.len() > PART_BYTES_MAX {
            let part = rest.split_to(PART_BYTES_MAX);
            match self.0.remote_session.ask(RemotePollRequest::UploadPart(part)).await {
                RemotePollReply::Done => {}
                RemotePollReply::Over => {
                    self.0.done();
                    return Err(PollingError::Over);
                }
                RemotePollReply::Packets(_) | RemotePollReply::Part(_) | RemotePollReply::Unknown => {
                    return Err(PollingError::Unreachable);
                }
            }
        }
        let answered = self.0.remote_session.ask(RemotePollRequest::Upload(rest)).await;
        match answered {
            RemotePollReply::Done => {
                self.0.done();
                Ok(())
            }
            RemotePollReply::Over => {
                self.0.done();
                Err(PollingError::Over)
            }
            RemotePollReply::Packets(_) | RemotePollReply::Part(_) | RemotePollReply::Unknown => {
                Err(PollingError::Unreachable)
            }
        }
    }
}

/// Guards a request to a session on another node: ends the session if dropped before the request is done.
struct RemoteRequestGuard<'e> {
    remote_session: &'e RemoteSession,
    is_done: bool,
}

impl RemoteRequestGuard<'_> {
    fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for RemoteRequestGuard<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            let RemoteSession { nodes, node, session, .. } = self.remote_session;
            // Bounded by the timeout of requests between nodes. If it fails too, the missing pong ends the session.
            tokio::spawn(nodes.ask(node, session.clone(), RemotePollRequest::End));
        }
    }
}

impl PollingSession {
    /// Returns as much of these packets as one reply has room for, and keeps the rest for the next.
    fn begin_parts(&self, mut packets: Bytes) -> RemotePollReply {
        if packets.len() <= PART_BYTES_MAX {
            return RemotePollReply::Packets(packets);
        }
        let first = packets.split_to(PART_BYTES_MAX);
        *self.unfetched.lock() = packets;
        RemotePollReply::Part(first)
    }

    fn next_part(&self) -> RemotePollReply {
        let rest = std::mem::take(&mut *self.unfetched.lock());
        if rest.is_empty() { RemotePollReply::Over } else { self.begin_parts(rest) }
    }

    /// Stores a part of the packets that a request brings, of which the rest follows.
    fn hold_part(&self, part: &[u8], bytes_max: usize) -> Result<(), PollingError> {
        let mut uploaded = self.uploaded.lock();
        if uploaded.len() + part.len() > bytes_max {
            drop(uploaded);
            self.end();
            return Err(PollingError::Malformed);
        }
        uploaded.put_slice(part);
        Ok(())
    }

    fn behind_parts(&self, last: Bytes) -> Bytes {
        let mut uploaded = std::mem::take(&mut *self.uploaded.lock());
        if uploaded.is_empty() {
            return last;
        }
        uploaded.put(last);
        uploaded.freeze()
    }
}

impl EngineIo {
    /// Carries out another node's request to a session of this node.
    pub(crate) async fn answer(&self, session: &str, polled: RemotePollRequest) -> RemotePollReply {
        let found = Sid::parse_secret(session).and_then(|secret| self.find_here(secret));
        let Some(session) = found else { return RemotePollReply::Over };
        let done = match polled {
            RemotePollRequest::Fetch { wait_ms } => {
                let waited = session.fetch_in_turn(Duration::from_millis(wait_ms.into())).await;
                match waited {
                    Ok(packets) => return session.begin_parts(packets),
                    Err(fault) => Err(fault),
                }
            }
            RemotePollRequest::FetchRest => return session.next_part(),
            RemotePollRequest::UploadPart(part) => session.hold_part(&part, self.settings.payload_bytes_max),
            RemotePollRequest::Upload(packets) => match session.begin_upload() {
                Ok(uploading) => uploading.upload(session.behind_parts(packets)).await,
                Err(fault) => Err(fault),
            },
            RemotePollRequest::End => {
                session.end();
                Ok(())
            }
        };
        if done.is_ok() { RemotePollReply::Done } else { RemotePollReply::Over }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use shared::framing::engine_io::SEPARATOR;

    use super::*;
    use crate::engine_io::{FoundSession, PollingClient};
    use crate::socketio::SocketioConfig;
    use crate::transport::ClientStream;

    /// Another node, which is reached without a network.
    #[derive(Debug)]
    struct Other {
        node: Arc<EngineIo>,
        /// Whether its replies are lost.
        is_lost: Mutex<bool>,
    }

    impl Nodes for Other {
        fn address(&self, _node: &str) -> BoxFuture<'static, Option<Box<str>>> {
            Box::pin(async { None })
        }

        fn ask(
            &self,
            _node: &str,
            session: Box<str>,
            polled: RemotePollRequest,
        ) -> BoxFuture<'static, RemotePollReply> {
            let (node, is_lost) =
                (self.node.clone(), *self.is_lost.lock() && polled != RemotePollRequest::End);
            Box::pin(async move {
                let answered = node.answer(&session, polled).await;
                if is_lost { RemotePollReply::Unknown } else { answered }
            })
        }
    }

    struct Pair {
        other: Arc<Other>,
        worker: ClientStream,
        found: FoundSession,
    }

    fn pair() -> Pair {
        pair_of(&SocketioConfig::default())
    }

    fn pair_of(config: &SocketioConfig) -> Pair {
        let node = Arc::new(EngineIo::new(config, "node-2"));
        let PollingClient { pipe, session, greeting } = node.begin_polling();
        drop(session);
        let other = Arc::new(Other { node, is_lost: Mutex::new(false) });
        let here = EngineIo::new(&SocketioConfig::default(), "node-1");
        here.connect(other.clone());
        let sid = std::str::from_utf8(&greeting).unwrap().split('"').nth(3).unwrap().to_owned();
        let found = here.find(Sid::parse(&sid).unwrap()).unwrap();
        Pair { other, worker: ClientStream::Handed(pipe), found }
    }

    fn write(worker: &mut ClientStream, packets: &[u8]) {
        worker.write_vectored(&[std::io::IoSlice::new(packets)]).unwrap();
    }

    async fn is_told_of_its_end(worker: &mut ClientStream) -> bool {
        for _ in 0..1_000 {
            if matches!(worker.read(&mut [0; 8]), Ok(0)) {
                return true;
            }
            tokio::task::yield_now().await;
        }
        false
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn packets_are_fetched_and_brought_as_if_the_session_were_here() {
        let Pair { mut worker, found, .. } = pair();
        write(&mut worker, b"4a\x1e4b\x1e");
        assert_eq!(found.fetch(PATIENCE).await.unwrap(), "4a\x1e4b");
        found.begin_upload().unwrap().upload(Bytes::from_static(b"4c")).await.unwrap();
        let mut read = [0; 8];
        assert_eq!((worker.read(&mut read).unwrap(), &read[..3]), (3, &b"4c\x1e"[..]));
        assert_eq!(found.fetch(Duration::from_millis(1)).await.unwrap(), "6", "nothing comes");
        worker.shut_down_writing();
        drop(worker);
        assert_eq!(found.fetch(PATIENCE).await, Err(PollingError::Over));
    }

    #[tokio::test]
    async fn what_is_lost_on_its_way_ends_the_session() {
        let Pair { mut worker, found, other } = pair();
        *other.is_lost.lock() = true;
        write(&mut worker, b"4a\x1e");
        assert_eq!(found.fetch(PATIENCE).await, Err(PollingError::Unreachable));
        assert!(is_told_of_its_end(&mut worker).await);
        let Pair { mut worker, found, other } = pair();
        *other.is_lost.lock() = true;
        let uploading = found.begin_upload().unwrap();
        assert_eq!(uploading.upload(Bytes::from_static(b"4a")).await, Err(PollingError::Unreachable));
        worker.read(&mut [0; 8]).unwrap();
        assert!(is_told_of_its_end(&mut worker).await);
    }

    #[tokio::test]
    async fn what_no_message_between_nodes_holds_goes_in_parts() {
        let Pair { mut worker, found, .. } = pair();
        let long = b"4".repeat(2 * PART_BYTES_MAX + 7);
        write(&mut worker, &[&long[..], b"\x1e"].concat());
        assert_eq!(found.fetch(PATIENCE).await.unwrap(), long);
        write(&mut worker, b"4short\x1e");
        assert_eq!(found.fetch(PATIENCE).await.unwrap(), "4short");
        let uploaded = b"4".repeat(PART_BYTES_MAX / 2);
        found.begin_upload().unwrap().upload(uploaded.clone().into()).await.unwrap();
        let mut read = vec![0; uploaded.len() + 1];
        assert_eq!(worker.read(&mut read).unwrap(), read.len());
    }

    #[tokio::test]
    async fn a_body_in_parts_comes_whole_and_no_longer_than_any() {
        let config = SocketioConfig { payload_bytes_max: 3 << 20, ..SocketioConfig::default() };
        let Pair { mut worker, found, .. } = pair_of(&config);
        let body = b"4".repeat(2 * PART_BYTES_MAX + 7);
        let uploading = found.begin_upload().unwrap().upload(body.clone().into());
        let reading = async {
            let mut read = Vec::new();
            let mut buffer = vec![0; 1 << 20];
            while read.len() <= body.len() {
                match worker.read(&mut buffer) {
                    Ok(count) => read.extend_from_slice(&buffer[..count]),
                    Err(_) => tokio::task::yield_now().await,
                }
            }
            read
        };
        let (uploaded, read) = tokio::join!(uploading, reading);
        assert_eq!((uploaded, read.len(), read.last()), (Ok(()), body.len() + 1, Some(&SEPARATOR)));
        let Pair { mut worker, found, .. } = pair();
        let uploading = found.begin_upload().unwrap();
        assert_eq!(
            uploading.upload(body.into()).await,
            Err(PollingError::Over),
            "the node that has the session lets in less"
        );
        assert!(is_told_of_its_end(&mut worker).await);
    }
}
