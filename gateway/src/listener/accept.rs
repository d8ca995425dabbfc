//! Accepts connections: PROXY header, TLS and HTTP, each with a deadline.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body_util::{Either, Full};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, HandshakePermit, Peer};
use crate::http::{HttpRouter, HttpStream};
use crate::listener::first_bytes::{FirstBytes, read_first_bytes};
use crate::listener::proxy_protocol;
use crate::listener::tls::ListenerTls;
use crate::telemetry::Metrics;
use crate::telemetry::labels::{Handshake, PanicSite};
use crate::worker::callers::{CallerHost, NewCaller};
use crate::worker::read_call::is_call;

/// The pause after the kernel fails to hand out a connection, because no descriptor is free.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The most connections accepted before the tasks of earlier ones get their turn.
const ACCEPTS_IN_A_ROW: usize = 32;

/// What the client listener needs to bring a connection from the kernel to the router.
#[derive(Debug)]
pub(crate) struct ClientListener {
    pub(crate) admission: Arc<Admission>,
    pub(crate) tls: Option<Arc<ListenerTls>>,
    pub(crate) tls_timeout: Duration,
    pub(crate) proxy_protocol: proxy_protocol::ProxyProtocolConfig,
    pub(crate) http: crate::http::http_config::HttpConfig,
    /// The most concurrent requests and clients of one HTTP/2 connection.
    pub(crate) http2_streams_max: u32,
    pub(crate) router: Arc<HttpRouter>,
    pub(crate) metrics: Arc<Metrics>,
    /// Cancelled when the node begins to leave: requests are answered, each with the last response on its connection.
    pub(crate) leaving: CancellationToken,
    /// Cancelled when no more is accepted: idle connections end then.
    pub(crate) stop: CancellationToken,
    /// Connections that speak HTTP, or are about to.
    pub(crate) connections: TaskTracker,
}

/// How long a connection in a spare place may take for its first request, because other connections may need the place.
const SPARE_TIMEOUT: Duration = Duration::from_secs(2);

impl ClientListener {
    /// Accepts connections until stopped. Connections in progress continue.
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
                        self.connections.spawn(self.clone().take(socket.into(), address, permit));
                    }
                    // Closed without an answer, which would cost more than the connection.
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
        let peer = Peer { address: address.ip(), place: permit.place(), is_shared: false };
        if self.tls.is_some() || proxy_protocol::is_expected(&self.proxy_protocol, address.ip()) {
            // Boxed, so that state needed by few connections does not enlarge the future of all.
            return Box::pin(self.take_wrapped(socket, address, permit)).await;
        }
        // The request may have arrived with the connection. Then there is no need to wait for the socket.
        match read_first_bytes(&socket, |bytes| self.router.open_at_once(&peer, bytes)) {
            FirstBytes::None => {}
            FirstBytes::Ended => return,
            FirstBytes::Granted(unread, granted) => return self.router.answer(socket, &unread, granted),
            FirstBytes::Other(read) if self.is_for_worker(&peer, &read) => {
                return self.give_to_worker(socket, read, peer);
            }
            FirstBytes::Other(read) => match TcpStream::from_std(socket) {
                Ok(stream) => {
                    let stream = HttpStream::plain(stream, read);
                    return Box::pin(async move { self.serve(stream, peer, Some(permit)).await }).await;
                }
                Err(error) => return self.router.lost(&error),
            },
        }
        match TcpStream::from_std(socket) {
            Ok(stream) => self.wait_for_request(stream, peer, permit).await,
            Err(error) => self.router.lost(&error),
        }
    }

    /// Waits for the first bytes of a connection.
    async fn wait_for_request(self: &Arc<Self>, stream: TcpStream, peer: Peer, permit: HandshakePermit) {
        loop {
            let ready = tokio::select! {
                biased;
                ready = tokio::time::timeout(self.head_timeout(&peer), stream.readable()) => ready,
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
                FirstBytes::Other(read) if self.is_for_worker(&peer, &read) => {
                    return match stream.into_std() {
                        Ok(socket) => self.give_to_worker(socket, read, peer),
                        Err(error) => self.router.lost(&error),
                    };
                }
                FirstBytes::Other(read) => {
                    let stream = HttpStream::plain(stream, read);
                    return Box::pin(self.serve(stream, peer, Some(permit))).await;
                }
            }
        }
    }

    /// Serves a connection that begins with a PROXY header or with TLS.
    async fn take_wrapped(
        self: Arc<Self>,
        socket: std::net::TcpStream,
        address: SocketAddr,
        permit: HandshakePermit,
    ) {
        let place = permit.place();
        let secured = async {
            let stream = TcpStream::from_std(socket).map_err(|_| Handshake::Request)?;
            tokio::select! {
                secured = self.secure(stream, address) => secured,
                // No request has been received yet.
                () = self.stop.cancelled() => Err(Handshake::Draining),
            }
        };
        match secured.await {
            Ok((stream, address)) => {
                let peer = Peer { address: address.ip(), place, is_shared: false };
                match stream {
                    AcceptedStream::Plain(stream) => self.wait_for_request(stream, peer, permit).await,
                    AcceptedStream::Tls(stream) if stream.is_http2() => {
                        Box::pin(self.clone().serve_http2(stream, peer, permit)).await;
                    }
                    AcceptedStream::Tls(stream) => self.serve(stream, peer, Some(permit)).await,
                }
            }
            Err(result) => self.metrics.handshake(result),
        }
    }

    /// Handles the PROXY header and the TLS handshake.
    async fn secure(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<(AcceptedStream, SocketAddr), Handshake> {
        let address = proxy_protocol::client_address(&self.proxy_protocol, &mut stream, peer).await;
        let address = address.map_err(|error| {
            tracing::debug!(%peer, %error, "a connection was refused");
            Handshake::ProxyHeader
        })?;
        let Some(tls) = &self.tls else { return Ok((AcceptedStream::Plain(stream), address)) };
        let handshake = TlsAcceptor::from(tls.server()).accept(stream);
        match tokio::time::timeout(self.tls_timeout, handshake).await {
            Ok(Ok(stream)) => Ok((AcceptedStream::Tls(HttpStream::tls(stream)), address)),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a TLS handshake failed");
                Err(Handshake::Tls)
            }
            Err(_) => Err(Handshake::Tls),
        }
    }

    /// Whether a connection that begins with these bytes is better served by a worker.
    fn is_for_worker(&self, peer: &Peer, read: &[u8]) -> bool {
        // In a spare place, some answers end the connection.
        self.router.api.is_some() && is_call(read) && !peer.place.is_spare() && !self.leaving.is_cancelled()
    }

    fn give_to_worker(self: &Arc<Self>, socket: std::net::TcpStream, read: Bytes, peer: Peer) {
        let (host, counted) = (self.clone(), self.connections.token());
        self.router.reception.call(NewCaller { socket, read, peer, host, counted });
    }

    async fn serve(&self, stream: HttpStream, peer: Peer, permit: Option<HandshakePermit>) {
        // The handshake is over when the first request's head has arrived. Later requests only have their deadline.
        let handshake = Mutex::new(permit);
        let take_over = stream.take_over();
        let service = service_fn(|request| {
            drop(handshake.lock().take());
            async {
                let answering =
                    AssertUnwindSafe(self.router.handle(&peer, &take_over, request)).catch_unwind();
                let mut response = match answering.await {
                    Ok(answered) => answered?,
                    Err(_) => {
                        self.metrics.panicked(PanicSite::Request);
                        let mut response = Response::new(Either::Left(Full::from(
                            "the gateway failed while it handled this request\n",
                        )));
                        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                        response
                    }
                };
                if self.is_last(&peer, &response) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.http.keep_alive())
            .max_buf_size(self.http.head_bytes_max)
            .max_headers(self.http.headers_max)
            .title_case_headers(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut first_head = pin!(tokio::time::sleep(self.head_timeout(&peer)));
        let (mut waits, mut stopping) = (true, false);
        let result = loop {
            tokio::select! {
                // A request that arrived before the stop is begun before the connection is told to end.
                biased;
                result = &mut connection => break result,
                () = take_over.granted() => {
                    if let Some(parts) = connection.into_parts() {
                        take_over.hand_over(parts.io.into_inner(), parts.read_buf);
                    }
                    return;
                }
                () = &mut first_head, if waits => {
                    waits = false;
                    if handshake.lock().is_some() {
                        return self.metrics.handshake(Handshake::Request);
                    }
                }
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a connection ended early");
            if (error.is_parse() || error.is_timeout()) && handshake.lock().is_some() {
                self.metrics.handshake(Handshake::Request);
            }
        }
    }

    /// Returns how long the first request may take. A kept connection may wait longer for the next one.
    pub(super) fn head_timeout(&self, peer: &Peer) -> Duration {
        let timeout = self.http.head_timeout();
        if peer.place.is_spare() { timeout.min(SPARE_TIMEOUT) } else { timeout }
    }

    /// Whether this response is the last on its connection.
    fn is_last<B>(&self, peer: &Peer, response: &Response<B>) -> bool {
        let status = response.status();
        let wastes_a_spare_place =
            peer.place.is_spare() && (status.is_client_error() || status.is_server_error());
        status != StatusCode::SWITCHING_PROTOCOLS && (self.leaving.is_cancelled() || wastes_a_spare_place)
    }
}

impl CallerHost for ClientListener {
    fn answer(&self, request: Request<Full<Bytes>>) -> BoxFuture<'static, Response<Full<Bytes>>> {
        let api = self.router.api.clone();
        async move {
            match api {
                Some(api) => api.serve(request).await,
                None => {
                    let mut response = Response::new(Full::default());
                    *response.status_mut() = StatusCode::NOT_FOUND;
                    response
                }
            }
        }
        .boxed()
    }

    fn take_back(self: Arc<Self>, socket: std::net::TcpStream, read: Bytes, peer: Peer) {
        match TcpStream::from_std(socket) {
            Ok(stream) => {
                let stream = HttpStream::plain(stream, read);
                let listener = self.clone();
                self.connections.spawn(async move { listener.serve(stream, peer, None).await });
            }
            Err(error) => self.router.lost(&error),
        }
    }

    fn is_leaving(&self) -> bool {
        self.leaving.is_cancelled()
    }
}

enum AcceptedStream {
    Plain(TcpStream),
    Tls(HttpStream),
}

/// Whether an error of `accept` concerns a single connection rather than this process.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
