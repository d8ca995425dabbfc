//! The listener for other nodes: they carry WebSockets of clients whose sessions are here, and open streams that are
//! reserved here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::engine_io::{EngineIo, NodeOpening, OpeningPurpose, ProbeError};
use crate::http::graphql;
use crate::telemetry::Metrics;

/// The most concurrent connections without a session. Those with a session count as its client.
const CONNECTIONS_MAX: usize = 4_096;

/// The pause after the kernel fails to hand out a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How long a node may take to name the purpose of a connection.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);

/// The endpoints for connections of other nodes.
#[derive(Debug)]
pub(crate) struct FromNodes {
    pub(crate) engine_io: Arc<EngineIo>,
    pub(crate) graphql: Option<Arc<graphql::GraphqlEndpoint>>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Accepts connections until stopped.
pub(crate) async fn accept_relayed(socket: TcpListener, from_nodes: FromNodes, stop: CancellationToken) {
    let (room, from_nodes) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(from_nodes));
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let permit = room.clone().acquire_owned().await;
                (permit, socket.accept().await)
            } => accepted,
            () = stop.cancelled() => return,
        };
        let (Ok(permit), accepted) = accepted else { return };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection of another node could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let from_nodes = from_nodes.clone();
        tokio::spawn(async move {
            let taken = from_nodes.accept_one(stream).await;
            // From here on the connection is a client's.
            drop(permit);
            if let Some(carrying) = taken {
                carrying.await;
            }
        });
    }
}

impl FromNodes {
    /// Returns a future that runs as long as the client is connected.
    async fn accept_one(&self, mut stream: TcpStream) -> Option<impl Future<Output = ()> + use<>> {
        let (opening, unread) = self.read_opening(&mut stream).await?;
        match opening.purpose {
            OpeningPurpose::WebSocket { deflate } => {
                let taken = self.engine_io.accept_relayed(&opening.session, deflate, stream, unread).await;
                self.note_upgrade(&taken);
                None
            }
            OpeningPurpose::Stream => self.graphql.as_ref()?.give_to_node(&opening.session, stream).await,
        }
    }

    async fn read_opening(&self, stream: &mut TcpStream) -> Option<(NodeOpening, Bytes)> {
        match tokio::time::timeout(OPENING_TIMEOUT, NodeOpening::read(stream)).await {
            Ok(Ok(read)) => Some(read),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a connection of another node does not say what it is for");
                self.note_upgrade(&Err(ProbeError::Unexpected));
                None
            }
            Err(_) => {
                self.note_upgrade(&Err(ProbeError::Late));
                None
            }
        }
    }

    fn note_upgrade(&self, taken: &Result<(), ProbeError>) {
        self.metrics.engine_io_upgrade(taken.as_ref().map_or_else(ProbeError::label, |()| "changed"));
        if let Err(error) = taken {
            tracing::debug!(%error, "a client of another node's WebSocket stays with polling");
        }
    }
}
