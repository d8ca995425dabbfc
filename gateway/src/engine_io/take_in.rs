//! WebSockets that other nodes carry here, each to a session whose client polls: from then on its worker reaches it by that.

use std::time::Duration;

use tokio::net::TcpStream;

use super::opening::Opening;
use super::probe::{PROBE_TIMEOUT, ProbeError, probe};
use super::{EngineIo, Sid};
use crate::transport::Socket;
use crate::transport::handed::Attached;

/// How long a node may take to say for whom a WebSocket is.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);

impl EngineIo {
    /// Hears for which session a connection of another node is, and has that session's client reached by it if it
    /// changes over.
    pub(crate) async fn take_in(&self, mut stream: TcpStream) -> Result<(), ProbeError> {
        let (opening, unread) = match tokio::time::timeout(OPENING_TIMEOUT, Opening::read(&mut stream)).await
        {
            Ok(Ok(opening)) => opening,
            Ok(Err(error)) => {
                tracing::warn!(%error, "a connection of another node does not say what it is for");
                return Err(ProbeError::Unexpected);
            }
            Err(_) => return Err(ProbeError::Late),
        };
        let Opening { session, deflate } = opening;
        let session = Sid::parse_secret(&session).and_then(|secret| self.find_here(secret));
        let session = session.as_deref();
        let unread = probe(&mut stream, unread, deflate.is_some(), session, PROBE_TIMEOUT).await?;
        let socket = Socket::Plain(stream.into_std()?);
        let is_there = session.is_some_and(|session| session.attach(Attached { socket, unread, deflate }));
        if is_there { Ok(()) } else { Err(ProbeError::NotPolling) }
    }
}
