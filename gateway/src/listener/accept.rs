//! Accepting connections: PROXY header, TLS and HTTP, each with its deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::http::Router;
use crate::listener::{Listener, Peer, Stream};
use crate::telemetry::labels::Handshake;

/// How long to wait after the kernel refuses to hand out a connection: it has no descriptor to spare.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

impl Listener {
    /// Accepts until told to stop. Connections that are under way go on.
    pub(crate) async fn accept(self: Arc<Self>, socket: TcpListener, router: Arc<Router>, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let permit = match self.admission.admit_handshake(address.ip()) {
                Ok(permit) => permit,
                Err(refusal) => {
                    // Closed without a word: an answer would cost more than the connection.
                    self.metrics.handshake(refusal.handshake());
                    continue;
                }
            };
            let (listener, router, stop) = (self.clone(), router.clone(), stop.clone());
            tokio::spawn(async move {
                if let Err(result) = listener.serve(stream, address, &router, stop, permit).await {
                    listener.metrics.handshake(result);
                }
            });
        }
    }
}
