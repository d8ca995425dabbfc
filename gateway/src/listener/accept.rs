//! Accepting connections: PROXY header, TLS and HTTP, each with its deadline.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::http::Router;
use crate::listener::admission::{Admission, HandshakePermit};
use crate::listener::first_bytes::{FirstBytes, read_first_bytes};
use crate::listener::stream::Stream;
use crate::listener::tls::Tls;
use crate::listener::{Peer, proxy_protocol};
use crate::telemetry::Metrics;
use crate::telemetry::labels::Handshake;

/// How long to wait after the kernel refuses to hand out a connection: it has no descriptor to spare.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The most connections accepted before those that were get their turn.
const ACCEPTS_IN_A_ROW: usize = 32;

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
    pub(crate) async fn accept(self: Arc<Self>, socket: AsyncFd<mio::net::TcpListener>) {
        let mut in_a_row = 0;
        let mut stopped = pin!(self.stop.cancelled());
        loop {
            let accepted = tokio::select! {
                accepted = async {
                    self.admission.turn().await;
                    socket.async_io(Interest::READABLE, |socket| socket.accept()).await
                } => accepted,
                () = &mut stopped => return,
            };
            match accepted {
                Ok((socket, address)) => match self.admission.admit_handshake(address.ip()) {
                    Ok(permit) => {
                        tokio::spawn(self.clone().take(socket.into(), address, permit));
                    }
                    // Closed without a word: an answer would cost more than the connection.
                    Err(refusal) => self.metrics.handshake(refusal.handshake()),
                },
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "a connection was gone before it was accepted");
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
            in_a_row += 1;
            if in_a_row == ACCEPTS_IN_A_ROW {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    async fn take(
        self: Arc<Self>,
        socket: std::net::TcpStream,
        address: SocketAddr,
        permit: HandshakePermit,
    ) {
        let peer = Peer { address: address.ip(), place: permit.place() };
        if self.tls.is_some() || proxy_protocol::is_expected(&self.proxy_protocol, address.ip()) {
            // Boxed: what most connections do not need is no part of what is kept for each.
            return Box::pin(self.take_wrapped(socket, address, permit)).await;
        }
        // The request may have come with the connection. Then the socket need not be waited for.
        match read_first_bytes(&socket, |bytes| self.router.open_at_once(&peer, bytes)) {
            FirstBytes::None => {}
            FirstBytes::Ended => return,
            FirstBytes::Granted(unread, granted) => return self.router.answer(socket, &unread, granted),
            FirstBytes::Other(read) => match TcpStream::from_std(socket) {
                Ok(stream) => {
                    let stream = Stream::plain(stream, read);
                    return Box::pin(async move { self.serve(stream, peer, permit).await }).await;
                }
                Err(error) => return self.router.lost(&error),
            },
        }
        match TcpStream::from_std(socket) {
            Ok(stream) => self.wait_for_request(stream, peer, permit).await,
            Err(error) => self.router.lost(&error),
        }
    }

    /// A connection on which nothing has come yet.
    async fn wait_for_request(&self, stream: TcpStream, peer: Peer, permit: HandshakePermit) {
        loop {
            let ready = tokio::select! {
                ready = tokio::time::timeout(self.http.head_timeout(), stream.readable()) => ready,
                () = self.stop.cancelled() => return,
            };
            match ready {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return self.router.lost(&error),
                Err(_) => return self.metrics.handshake(Handshake::Request),
            }
            let mut granted = FirstBytes::None;
            let tried = stream.try_io(Interest::READABLE, || {
                granted = read_first_bytes(&stream, |bytes| self.router.open_at_once(&peer, bytes));
                match granted {
                    FirstBytes::None => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(()),
                }
            });
            match granted {
                FirstBytes::None if tried.is_err() => {}
                FirstBytes::None | FirstBytes::Ended => return,
                FirstBytes::Granted(unread, granted) => {
                    return match stream.into_std() {
                        Ok(socket) => self.router.answer(socket, &unread, granted),
                        Err(error) => self.router.lost(&error),
                    };
                }
                FirstBytes::Other(read) => {
                    let stream = Stream::plain(stream, read);
                    return Box::pin(self.serve(stream, peer, permit)).await;
                }
            }
        }
    }

    /// A connection that begins with a PROXY header or with TLS.
    async fn take_wrapped(
        self: Arc<Self>,
        socket: std::net::TcpStream,
        address: SocketAddr,
        permit: HandshakePermit,
    ) {
        let place = permit.place();
        let secured = async {
            let stream = TcpStream::from_std(socket).map_err(|_| Handshake::Request)?;
            self.secure(stream, address).await
        };
        match secured.await {
            Ok((stream, address)) => {
                let peer = Peer { address: address.ip(), place };
                match stream {
                    Secured::Plain(stream) => self.wait_for_request(stream, peer, permit).await,
                    Secured::Tls(stream) => self.serve(stream, peer, permit).await,
                }
            }
            Err(result) => self.metrics.handshake(result),
        }
    }

    /// What comes before HTTP.
    async fn secure(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<(Secured, SocketAddr), Handshake> {
        let address = proxy_protocol::client_address(&self.proxy_protocol, &mut stream, peer).await;
        let address = address.map_err(|error| {
            tracing::debug!(%peer, %error, "a connection was refused");
            Handshake::ProxyHeader
        })?;
        let Some(tls) = &self.tls else { return Ok((Secured::Plain(stream), address)) };
        let handshake = TlsAcceptor::from(tls.server()).accept(stream);
        match tokio::time::timeout(self.tls_timeout, handshake).await {
            Ok(Ok(stream)) => Ok((Secured::Tls(Stream::Tls(Box::new(stream))), address)),
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
            .title_case_headers(true)
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

enum Secured {
    Plain(TcpStream),
    Tls(Stream),
}

/// Whether an error of `accept` speaks of the connection that was next, and not of this process.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
