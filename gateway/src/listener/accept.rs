//! Accepting connections: PROXY header, TLS and HTTP, each with its deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::http::Router;
use crate::listener::admission::{Admission, HandshakePermit};
use crate::listener::stream::Stream;
use crate::listener::tls::Tls;
use crate::listener::{Peer, proxy_protocol};
use crate::telemetry::Metrics;
use crate::telemetry::labels::Handshake;

/// How long to wait after the kernel refuses to hand out a connection: it has no descriptor to spare.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What the client listener needs to take a connection from the kernel to the router.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) admission: Arc<Admission>,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) tls_timeout: Duration,
    pub(crate) proxy_protocol: proxy_protocol::Config,
    pub(crate) http: crate::http::config::Config,
    pub(crate) router: Arc<Router>,
    pub(crate) metrics: Arc<Metrics>,
    /// Told when no more is accepted: connections that only wait for a next request end then.
    pub(crate) stop: CancellationToken,
}

impl Listener {
    /// Accepts until told to stop. Connections that are under way go on.
    pub(crate) async fn accept(self: Arc<Self>, socket: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = async {
                    self.admission.turn().await;
                    socket.accept().await
                } => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, address)) => match self.admission.admit_handshake(address.ip()) {
                    Ok(permit) => {
                        tokio::spawn(self.clone().take(stream, address, permit));
                    }
                    // Closed without a word: an answer would cost more than the connection.
                    Err(refusal) => self.metrics.handshake(refusal.handshake()),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn take(self: Arc<Self>, stream: TcpStream, address: SocketAddr, permit: HandshakePermit) {
        let place = permit.place();
        match self.secure(stream, address).await {
            Ok((stream, address)) => self.serve(stream, Peer { address: address.ip(), place }, permit).await,
            Err(result) => self.metrics.handshake(result),
        }
    }

    /// What comes before HTTP.
    async fn secure(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<(Stream, SocketAddr), Handshake> {
        // A publication is one write: nothing is gained by waiting for more.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone at once");
        }
        let address = proxy_protocol::client_address(&self.proxy_protocol, &mut stream, peer).await;
        let address = address.map_err(|error| {
            tracing::debug!(%peer, %error, "a connection was refused");
            Handshake::ProxyHeader
        })?;
        let Some(tls) = &self.tls else { return Ok((Stream::Plain(stream), address)) };
        let handshake = TlsAcceptor::from(tls.server()).accept(stream);
        match tokio::time::timeout(self.tls_timeout, handshake).await {
            Ok(Ok(stream)) => Ok((Stream::Tls(Box::new(stream)), address)),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a TLS handshake failed");
                Err(Handshake::Tls)
            }
            Err(_) => Err(Handshake::Tls),
        }
    }

    async fn serve(&self, stream: Stream, peer: Peer, permit: HandshakePermit) {
        // The handshake is over when the first request's head is here. Later ones only have their deadline.
        let handshake = Mutex::new(Some(permit));
        let service = service_fn(|request| {
            drop(handshake.lock().take());
            self.router.handle(&peer, request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.http.head_timeout())
            .max_buf_size(self.http.head_bytes_max)
            .max_headers(self.http.headers_max)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a connection ended early");
            // A connection that waits for its next request and times out was no failed handshake.
            if (error.is_parse() || error.is_timeout()) && handshake.lock().is_some() {
                self.metrics.handshake(Handshake::Request);
            }
        }
    }
}
