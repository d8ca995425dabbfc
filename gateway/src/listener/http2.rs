//! HTTP/2 on a TLS connection: requests, endless responses and WebSockets, many at once (RFC 9113, RFC 8441).
//!
//! Each client has its own place on the node, beside that of the connection, and is reached through a task.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::admission::{HandshakePermit, Peer};
use crate::http::{Body, HttpStream, TakeOver};
use crate::listener::accept::ClientListener;
use crate::telemetry::labels::{Handshake, PanicSite};

/// The most unread bytes that one stream may have sent.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// The most unread bytes of all streams of a connection together.
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;
/// The most bytes that a stream buffers while its client's window is closed. Further ones stay in the client's outbox.
const SEND_BYTES_MAX: usize = 32 << 10;

/// How often a stopping node checks whether a connection has lost a client.
const LEAVING_LOOK: Duration = Duration::from_millis(200);

/// Runs a connection's tasks in the tracker that a drain waits for.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tracked {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// State shared by the requests of one connection.
struct Http2Connection {
    peer: Peer,
    /// Released when the first request's head has arrived, which ends the handshake.
    handshake: Mutex<Option<HandshakePermit>>,
    /// The number of requests being answered.
    answering: AtomicUsize,
    /// The number of requests so far.
    requests: AtomicUsize,
}

impl ClientListener {
    /// Serves all requests of a connection.
    pub(super) async fn serve_http2(
        self: Arc<Self>,
        stream: HttpStream,
        mut peer: Peer,
        permit: HandshakePermit,
    ) {
        peer.is_shared = true;
        let head_timeout = self.head_timeout(&peer);
        let connection = Arc::new(Http2Connection {
            peer,
            handshake: Mutex::new(Some(permit)),
            answering: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        });
        let service = {
            let (listener, connection) = (self.clone(), connection.clone());
            service_fn(move |request| {
                let (listener, connection) = (listener.clone(), connection.clone());
                async move { Ok::<_, Infallible>(listener.answer(&connection, request).await) }
            })
        };
        let mut serving = pin!(
            http2::Builder::new(Tracked(self.connections.clone()))
                .timer(TokioTimer::new())
                .max_concurrent_streams(self.http2_streams_max)
                .max_header_list_size(u32::try_from(self.http.head_bytes_max).unwrap_or(u32::MAX))
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .max_send_buf_size(SEND_BYTES_MAX)
                // A peer that does not answer these pings is gone, however many clients its connection has.
                .keep_alive_interval(self.http.keep_alive())
                .enable_connect_protocol()
                .serve_connection(TokioIo::new(stream), service)
        );
        let mut look = pin!(tokio::time::sleep(head_timeout));
        let (mut seen, mut stopping) = (0, false);
        let mut leaving = pin!(self.may_say_goaway(&connection));
        let result = loop {
            tokio::select! {
                result = &mut serving => break result,
                () = &mut look => {
                    if connection.handshake.lock().is_some() {
                        return self.metrics.handshake(Handshake::Request);
                    }
                    // A connection unused since the last look is closed.
                    let requests = connection.requests.load(Ordering::Relaxed);
                    if requests == seen && connection.is_idle() && !stopping {
                        stopping = true;
                        serving.as_mut().graceful_shutdown();
                    }
                    seen = requests;
                    look.as_mut().reset(Instant::now() + self.http.keep_alive());
                }
                () = &mut leaving, if !stopping => {
                    stopping = true;
                    serving.as_mut().graceful_shutdown();
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a connection ended early");
            if connection.handshake.lock().is_some() {
                self.metrics.handshake(Handshake::Request);
            }
        }
    }

    /// Waits until a stopping node may send GOAWAY on a connection. By the standard (RFC 9113 §6.8) GOAWAY ends no open
    /// stream, but several clients give up all streams of the connection with it. So it is sent when the first of the
    /// connection's clients has been closed in its turn, which is also when a client might return over the same connection.
    async fn may_say_goaway(&self, connection: &Http2Connection) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.leaving.cancelled() => {}
        }
        let mut most = 0;
        loop {
            let clients = connection.clients();
            most = most.max(clients);
            let is_unused = clients == 0 && (connection.is_idle() || self.stop.is_cancelled());
            if clients < most || is_unused {
                return;
            }
            tokio::time::sleep(LEAVING_LOOK).await;
        }
    }

    async fn answer(&self, connection: &Http2Connection, mut request: Request<Incoming>) -> Response<Body> {
        drop(connection.handshake.lock().take());
        connection.requests.fetch_add(1, Ordering::Relaxed);
        connection.answering.fetch_add(1, Ordering::Relaxed);
        let _answered = InFlightGuard(&connection.answering);
        name_host(&mut request);
        // The connection cannot be taken over, because other requests share it.
        let take_over = TakeOver::default();
        let answering = self.router.handle(&connection.peer, &take_over, request);
        match AssertUnwindSafe(answering).catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => {
                self.metrics.panicked(PanicSite::Request);
                let mut response = Response::new(Either::Left(Full::from(
                    "the gateway failed while it handled this request\n",
                )));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            }
        }
    }
}

impl Http2Connection {
    /// Whether no request is being answered, and no client uses the connection.
    fn is_idle(&self) -> bool {
        self.answering.load(Ordering::Relaxed) == 0 && self.clients() == 0
    }

    /// Returns the number of clients on the connection.
    fn clients(&self) -> usize {
        self.peer.place.others()
    }
}

struct InFlightGuard<'a>(&'a AtomicUsize);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Copies the request's authority to the header that HTTP/1 has for it. A different host header stays, which makes the
/// request ambiguous (RFC 9113 §8.3.1).
fn name_host(request: &mut Request<Incoming>) {
    let authority = request.uri().authority().and_then(|name| HeaderValue::from_str(name.as_str()).ok());
    if let Some(authority) = authority
        && request.headers().get(HOST) != Some(&authority)
    {
        request.headers_mut().append(HOST, authority);
    }
}
