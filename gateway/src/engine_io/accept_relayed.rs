//! Takes in WebSockets that other nodes carry here, each for the session of a polling client, which changes over to it.

use bytes::Bytes;
use shared::framing::websocket::DeflateParams;
use tokio::net::TcpStream;

use super::transport_probe::{PROBE_TIMEOUT, ProbeError, probe};
use super::{EngineIo, Sid};
use crate::transport::IncomingSocket;
use crate::transport::task_pipe::Attached;

impl EngineIo {
    /// Moves the client of this session to a connection from another node, if the client changes over. `unread` has
    /// been received on the connection already.
    pub(crate) async fn accept_relayed(
        &self,
        session: &str,
        deflate: Option<DeflateParams>,
        mut stream: TcpStream,
        unread: Bytes,
    ) -> Result<(), ProbeError> {
        let session = Sid::parse_secret(session).and_then(|secret| self.find_here(secret));
        let session = session.as_deref();
        let unread = probe(&mut stream, unread, deflate.is_some(), session, PROBE_TIMEOUT).await?;
        let socket = IncomingSocket::Plain(stream.into_std()?);
        let is_there = session.is_some_and(|session| session.attach(Attached { socket, unread, deflate }));
        if is_there { Ok(()) } else { Err(ProbeError::NotPolling) }
    }
}
