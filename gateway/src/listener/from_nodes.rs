//! The listener for other nodes: they bring WebSockets of clients whose sessions are here.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::engine_io::{EngineIo, ProbeError};
use crate::telemetry::Metrics;

/// The most connections at once that have no session yet. Those that have one count as its client.
const CONNECTIONS_MAX: usize = 4_096;

/// How long to wait after the kernel refuses to hand out a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Takes connections in until told to stop.
pub(crate) async fn take_in(
    socket: TcpListener,
    engine_io: Arc<EngineIo>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
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
        let (engine_io, metrics) = (engine_io.clone(), metrics.clone());
        tokio::spawn(async move {
            let taken = engine_io.take_in(stream).await;
            metrics.engine_io_upgrade(taken.as_ref().map_or_else(ProbeError::label, |()| "changed"));
            if let Err(error) = taken {
                tracing::debug!(%error, "a client of another node's WebSocket stays with polling");
            }
            drop(permit);
        });
    }
}
