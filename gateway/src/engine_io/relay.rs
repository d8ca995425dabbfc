//! Carries a WebSocket that came to a node other than that of its session: copies bytes between the client and the node
//! that has the session, for as long as the connection lasts.
//!
//! The bytes are not parsed. An idle connection has no buffer here.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use prometheus::IntCounter;
use shared::framing::websocket::DeflateParams;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::node_opening::{NodeOpening, OpeningPurpose};
use super::{EngineIo, RemoteSession};

/// The timeout for connecting to another node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long one side may go on after the other has ended.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes in flight, in each direction.
const WAITING_BYTES_MAX: usize = 16 << 10;

/// How much longer than a client may be silent the connection may be idle before both sides are closed.
const SILENCE_BEYOND: Duration = Duration::from_secs(10);

/// Why a WebSocket is not carried, or not any longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    #[error("the node of its session accepts no WebSockets from other nodes, or is gone")]
    NoAddress,
    #[error("the node of its session cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("no bytes came from either side for too long")]
    Silent,
    #[error(transparent)]
    Lost(#[from] io::Error),
}

impl RelayError {
    /// Returns the label for metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NoAddress => "no_address",
            Self::Unreachable(_) => "unreachable",
            Self::Silent => "late",
            Self::Lost(_) => "lost",
        }
    }
}

/// Counters of carried bytes, by direction.
#[derive(Clone, Debug)]
pub(crate) struct RelayedBytes {
    pub(crate) to_session: IntCounter,
    pub(crate) to_client: IntCounter,
}

impl RemoteSession {
    /// Connects to the node of this session, and sends it what the client and this node have negotiated.
    pub(crate) async fn reach(&self, deflate: Option<&DeflateParams>) -> Result<TcpStream, RelayError> {
        let address = self.nodes.address(&self.node).await.ok_or(RelayError::NoAddress)?;
        let connecting = async {
            let mut stream = TcpStream::connect(&*address).await?;
            stream.set_nodelay(true)?;
            let purpose = OpeningPurpose::WebSocket { deflate: deflate.copied() };
            let opening = NodeOpening { session: self.session.clone(), purpose };
            opening.write(&mut stream).await?;
            Ok(stream)
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(RelayError::Unreachable)
    }
}

impl EngineIo {
    /// Waits until this stopping node has to close one of the connections that it carries.
    pub(crate) async fn wait_for_drain(&self) {
        let until = changed(&mut self.drain.subscribe()).await;
        at(Some(moment_within(until))).await;
    }

    /// Carries bytes both ways until both sides have ended, the connection is idle for too long, or this node has to
    /// close it. `unread` has been received from the client already.
    pub(crate) async fn relay(
        &self,
        client: impl AsyncRead + AsyncWrite + Unpin,
        unread: Bytes,
        node: TcpStream,
        relayed: RelayedBytes,
    ) -> Result<(), RelayError> {
        Relay::new(client, unread, node, relayed)
            .run(self.patience() + SILENCE_BEYOND, self.drain.subscribe())
            .await
    }
}

struct Relay<C, N> {
    client: C,
    node: N,
    inward: OneWay,
    outward: OneWay,
}

enum RelayStep {
    /// The client has ended its side, and the node has been told.
    InwardOver,
    /// The node has ended its side, and the client has been told.
    OutwardOver,
}

impl<C: AsyncRead + AsyncWrite + Unpin, N: AsyncRead + AsyncWrite + Unpin> Relay<C, N> {
    fn new(client: C, unread: Bytes, node: N, relayed: RelayedBytes) -> Self {
        let RelayedBytes { to_session, to_client } = relayed;
        let (inward, outward) = (OneWay::new(unread, to_session), OneWay::new(Bytes::new(), to_client));
        Self { client, node, inward, outward }
    }

    async fn run(
        mut self,
        silence: Duration,
        mut drain: watch::Receiver<Option<Instant>>,
    ) -> Result<(), RelayError> {
        let mut patience = silence;
        let mut leave_at = None;
        let mut silent = std::pin::pin!(tokio::time::sleep(patience));
        loop {
            tokio::select! {
                step = std::future::poll_fn(|context| self.poll_step(context)) => match step? {
                    RelayStep::OutwardOver => return Ok(()),
                    RelayStep::InwardOver => {
                        patience = LAST_WORDS_TIMEOUT;
                        silent.as_mut().reset((self.moved() + patience).into());
                    }
                },
                () = &mut silent => {
                    if self.moved().elapsed() >= patience {
                        return Err(RelayError::Silent);
                    }
                    silent.as_mut().reset((self.moved() + patience).into());
                }
                until = changed(&mut drain), if leave_at.is_none() => leave_at = Some(moment_within(until)),
                () = at(leave_at), if leave_at.is_some() && !self.inward.ended => self.inward.ended = true,
            }
        }
    }

    fn moved(&self) -> Instant {
        self.inward.moved.max(self.outward.moved)
    }

    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<io::Result<RelayStep>> {
        let Self { client, node, inward, outward } = self;
        let (mut client, mut node) = (Pin::new(client), Pin::new(node));
        if outward.poll(context, node.as_mut(), client.as_mut())?.is_ready() {
            return Poll::Ready(Ok(RelayStep::OutwardOver));
        }
        if !inward.is_over && inward.poll(context, client, node)?.is_ready() {
            inward.is_over = true;
            return Poll::Ready(Ok(RelayStep::InwardOver));
        }
        Poll::Pending
    }
}

/// Returns a random time until then, so that carried clients leave evenly, as clients of workers do.
fn moment_within(until: Instant) -> Instant {
    let now = Instant::now();
    now + until.saturating_duration_since(now).mul_f64(rand::random())
}

/// Returns the time by which this node must have closed what it carries, once that is known.
async fn changed(drain: &mut watch::Receiver<Option<Instant>>) -> Instant {
    loop {
        let until = *drain.borrow_and_update();
        match until {
            Some(until) => return until,
            None if drain.changed().await.is_ok() => {}
            None => std::future::pending().await,
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// One direction of the connection.
struct OneWay {
    /// Bytes that the receiving side has not accepted yet.
    waiting: BytesMut,
    /// Whether the receiving side has accepted bytes that were not flushed.
    unflushed: bool,
    /// Whether the sending side has ended.
    ended: bool,
    /// Whether the receiving side has been told that.
    is_over: bool,
    /// When the receiving side last accepted bytes.
    moved: Instant,
    relayed: IntCounter,
}

impl OneWay {
    fn new(first: Bytes, relayed: IntCounter) -> Self {
        Self {
            waiting: first.into(),
            unflushed: false,
            ended: false,
            is_over: false,
            moved: Instant::now(),
            relayed,
        }
    }

    /// Ready when all bytes are carried, and the receiving side is shut down.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut from: Pin<&mut impl AsyncRead>,
        mut to: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.waiting.is_empty() {
                let taken = ready!(to.as_mut().poll_write(context, &self.waiting))?;
                self.note_taken(taken)?;
                self.waiting.advance(taken);
            }
            // An idle connection keeps no buffer.
            self.waiting = BytesMut::new();
            if self.ended {
                return to.as_mut().poll_shutdown(context);
            }
            let mut buffer = [MaybeUninit::uninit(); WAITING_BYTES_MAX];
            let mut buffer = ReadBuf::uninit(&mut buffer);
            if from.as_mut().poll_read(context, &mut buffer)?.is_pending() {
                if self.unflushed {
                    ready!(to.as_mut().poll_flush(context))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            let mut come = buffer.filled();
            self.ended = come.is_empty();
            if !come.is_empty()
                && let Poll::Ready(taken) = to.as_mut().poll_write(context, come)?
            {
                self.note_taken(taken)?;
                come = &come[taken..];
            }
            self.waiting.extend_from_slice(come);
        }
    }

    fn note_taken(&mut self, bytes: usize) -> io::Result<()> {
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.relayed.inc_by(bytes as u64);
        self.moved = Instant::now();
        self.unflushed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;

    struct Pair {
        client: DuplexStream,
        node: DuplexStream,
        relayed: RelayedBytes,
        drain: watch::Sender<Option<Instant>>,
        relay: JoinHandle<Result<(), RelayError>>,
    }

    fn pair(unread: &'static [u8], silence: Duration) -> Pair {
        let counter = || IntCounter::new("bytes", "of a test").unwrap();
        let relayed = RelayedBytes { to_session: counter(), to_client: counter() };
        let (client, near) = duplex(1 << 10);
        let (node, far) = duplex(1 << 10);
        let (drain, told) = watch::channel(None);
        let relay = Relay::new(near, Bytes::from_static(unread), far, relayed.clone());
        let relay = tokio::spawn(relay.run(silence, told));
        Pair { client, node, relayed, drain, relay }
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn told(stream: &mut DuplexStream, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        stream.read_exact(&mut read).await.unwrap();
        read
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_in_their_order_and_are_counted() {
        let Pair { mut client, mut node, relayed, relay, .. } = pair(b"come ", PATIENCE);
        let long = vec![7; 5 * WAITING_BYTES_MAX];
        let writing = {
            let long = long.clone();
            tokio::spawn(async move {
                client.write_all(&long).await.unwrap();
                client
            })
        };
        assert_eq!(told(&mut node, 5).await, b"come ");
        assert_eq!(told(&mut node, long.len()).await, long);
        node.write_all(b"back").await.unwrap();
        let mut client = writing.await.unwrap();
        assert_eq!(told(&mut client, 4).await, b"back");
        drop(node);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        relay.await.unwrap().unwrap();
        assert_eq!((relayed.to_session.get(), relayed.to_client.get()), (5 + long.len() as u64, 4));
    }

    #[tokio::test]
    async fn a_client_that_has_said_all_is_still_told_what_the_node_says_last() {
        let Pair { mut client, mut node, relay, .. } = pair(b"", PATIENCE);
        client.write_all(b"bye").await.unwrap();
        client.shutdown().await.unwrap();
        let mut said = Vec::new();
        node.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"bye");
        node.write_all(b"bye too").await.unwrap();
        drop(node);
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"bye too");
        relay.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn who_takes_nothing_and_says_nothing_is_let_go() {
        let Pair { mut client, mut node, relay, .. } = pair(b"", Duration::from_millis(50));
        client.write_all(b"x").await.unwrap();
        told(&mut node, 1).await;
        // More than the sockets buffer: the client reads nothing.
        let writing = tokio::spawn(async move { node.write_all(&vec![0; 1 << 20]).await });
        assert!(matches!(relay.await.unwrap(), Err(RelayError::Silent)));
        assert!(writing.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_node_that_stops_ends_what_the_client_says_and_hands_on_the_last_words() {
        let Pair { mut client, mut node, drain, relay, .. } = pair(b"", PATIENCE);
        client.write_all(b"said").await.unwrap();
        assert_eq!(told(&mut node, 4).await, b"said");
        drain.send(Some(Instant::now() + Duration::from_millis(5))).unwrap();
        assert_eq!(node.read(&mut [0; 8]).await.unwrap(), 0);
        node.write_all(b"last").await.unwrap();
        drop(node);
        assert_eq!(told(&mut client, 4).await, b"last");
        relay.await.unwrap().unwrap();
    }
}
