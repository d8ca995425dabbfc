//! Reserved streams that are opened at another node than the one that holds them: the holder sends the stream over a
//! connection between the two nodes, and this node passes it on to the client.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::graphql::GraphqlEndpoint;
use super::reserved::ReserveOutcome;
use crate::engine_io::{EngineIo, NodeOpening, OpeningPurpose};
use crate::transport::task_pipe::{HandedBody, carry, fill, handed};

/// How long the other node may take to answer whether it has the stream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// TCP keepalive: when the kernel probes a silent node first, and how often after that.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(20);
const KEEPALIVE_STEP: Duration = Duration::from_secs(5);

/// The first byte of the answer to a node that asks for a stream.
const GIVEN: u8 = b'+';
const OPEN_ALREADY: u8 = b'=';

impl GraphqlEndpoint {
    /// Sends the stream of this name to the other node. Returns a future that runs until the stream is over.
    pub(crate) async fn give_to_node(
        &self,
        name: &str,
        mut stream: TcpStream,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let (taken, answer) = match self.reserved.take(name) {
            ReserveOutcome::Stream(far) => (Some(far), GIVEN),
            ReserveOutcome::Already => (None, OPEN_ALREADY),
            ReserveOutcome::Unknown => (None, b'-'),
        };
        let sent = async {
            watch_silence(&stream)?;
            stream.write_all(&[answer]).await
        };
        if let Err(error) = tokio::time::timeout(ANSWER_TIMEOUT, sent).await.unwrap_or_else(|_| Err(late())) {
            tracing::debug!(%error, "a stream could not be given to another node");
            return None;
        }
        taken.map(|far| carry(stream, far))
    }
}

/// Asks the node at this address for the stream of this name.
pub(super) async fn ask_node(
    address: &str,
    name: &str,
    engine_io: Arc<EngineIo>,
) -> io::Result<ReserveOutcome> {
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        watch_silence(&stream)?;
        let opening = NodeOpening { session: name.into(), purpose: OpeningPurpose::Stream };
        opening.write(&mut stream).await?;
        let answer = stream.read_u8().await?;
        Ok((stream, answer))
    };
    let (stream, answer) =
        tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| Err(late()))?;
    Ok(match answer {
        GIVEN => ReserveOutcome::Stream(hand_on(stream, engine_io)),
        OPEN_ALREADY => ReserveOutcome::Already,
        _ => ReserveOutcome::Unknown,
    })
}

fn hand_on(stream: TcpStream, engine_io: Arc<EngineIo>) -> HandedBody {
    let (near, far) = handed();
    tokio::spawn(async move {
        tokio::select! {
            () = fill(near, stream) => {}
            () = engine_io.wait_for_drain() => {}
        }
    });
    far
}

fn watch_silence(stream: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_STEP);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

fn late() -> io::Error {
    io::ErrorKind::TimedOut.into()
}
