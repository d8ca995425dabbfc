//! WebSockets that other nodes carry here, each to a session whose client polls: from then on its worker reaches it by that.

use bytes::Bytes;
use shared::framing::websocket::DeflateParams;
use tokio::net::TcpStream;

use super::transport_probe::{PROBE_TIMEOUT, ProbeError, probe};
use super::{EngineIo, Sid};
use crate::transport::IncomingSocket;
use crate::transport::task_pipe::Attached;

impl EngineIo {
    /// Has the client of this session reached by a connection of another node, if it changes over. `unread` has come on that
    /// already.
    pub(crate) async fn take_in(
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
