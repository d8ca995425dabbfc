//! Clients reached through an endless response: `/connection/sse`, `/connection/http_stream`, and the unidirectional
//! `/connection/uni_sse` and `/connection/uni_http_stream`.
//!
//! Over HTTP/1 the worker writes the response itself, to the socket, as it does for WebSockets. If the connection cannot be
//! taken over, the response is a body that a worker fills.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::hub::{Layout, StreamFrames};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use parking_lot::Mutex;
use shared::command::Connect;
use shared::protocol::graphql::GraphQl;
use shared::protocol::{Header, Protocol};
use tokio::sync::oneshot;

use crate::admission::{Admitted, Peer};
use crate::backend::ClientOrigin;
use crate::bodies::{BodyError, ReceivedBody};
use crate::client::open::NewClient;
use crate::client::{PendingResponse, ResponseBeginning, StreamWatcher};
use crate::http::emulate::is_protobuf;
use crate::http::head::ConnectHead;
use crate::http::{Body, HttpRefusal, HttpRouter, TakeOver, cors};
use crate::telemetry::labels::Handshake;
use crate::transport::IncomingSocket;
use crate::transport::encodings::ClientWire;
use crate::transport::task_pipe::{HandedBody, handed};

/// How long the body of a request may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The query parameter with the commands of an `EventSource`, which cannot send a body.
const COMMANDS_PARAMETER: &str = "cf_connect";

/// Sent first in an event stream, because some proxies pass nothing on before there is a line.
const EVENT_STREAM_BEGINS: &[u8] = b"\r\n";

/// Headers against buffering and caching of the response.
const UNKEPT: [(HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "private, no-cache, no-store, must-revalidate, max-age=0"),
    (header::PRAGMA, "no-cache"),
    (header::EXPIRES, "0"),
    (HeaderName::from_static("x-accel-buffering"), "no"),
];

fn content_type(layout: Layout) -> &'static str {
    match layout {
        Layout::EventStream | Layout::Events => "text/event-stream; charset=utf-8",
        Layout::Lines => "text/plain; charset=utf-8",
        Layout::Delimited => "application/octet-stream",
    }
}

/// An endpoint with an endless response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Streamed {
    EventStream,
    HttpStream,
    /// For unidirectional clients, which send a connect command in the request and nothing more.
    UniEvents,
    UniHttp,
}

impl Streamed {
    fn is_unidirectional(self) -> bool {
        matches!(self, Self::UniEvents | Self::UniHttp)
    }

    pub(super) fn methods(self) -> &'static str {
        match self {
            Self::EventStream | Self::UniEvents => "GET, POST, OPTIONS",
            Self::HttpStream | Self::UniHttp => "POST, OPTIONS",
        }
    }

    /// Returns the layout of messages. `in_protobuf` says that the request's body is Protobuf.
    fn layout(self, in_protobuf: bool) -> Layout {
        match self {
            Self::EventStream | Self::UniEvents => Layout::EventStream,
            Self::HttpStream | Self::UniHttp if in_protobuf => Layout::Delimited,
            Self::HttpStream | Self::UniHttp => Layout::Lines,
        }
    }
}

/// An admitted client, and how its response begins.
#[derive(Debug)]
pub(super) struct StreamOpening {
    pub(super) layout: Layout,
    /// The headers of a stream.
    pub(super) headers: HeaderMap,
    /// Set if the client's session decides between a stream and a refusal. Otherwise there is always a stream.
    pub(super) waits: Option<RefusalResponse>,
    pub(super) watcher: Option<Arc<dyn StreamWatcher>>,
    pub(super) first: Option<Bytes>,
    pub(super) connect: Option<Box<Connect>>,
    pub(super) protocol: Arc<dyn Protocol>,
    /// The same value as `protocol`, if the client speaks GraphQL.
    pub(super) graphql: Option<Arc<GraphQl>>,
    pub(super) admitted: Admitted,
    pub(super) origin: Option<Arc<ClientOrigin>>,
}

/// What a refusal needs in addition to its status.
#[derive(Debug, Default)]
pub(super) struct RefusalResponse {
    pub(super) headers: HeaderMap,
    /// The task to tell, if the worker does not write the head.
    tell: Option<oneshot::Sender<ResponseBeginning>>,
}

impl RefusalResponse {
    pub(super) fn with(headers: HeaderMap) -> Self {
        Self { headers, tell: None }
    }
}

impl StreamOpening {
    /// Has the session report its decision, if the decision is the session's.
    fn asks(&mut self) -> Option<AwaitedBeginning> {
        let waits = self.waits.as_mut()?;
        let (tell, beginning) = oneshot::channel();
        waits.tell = Some(tell);
        Some((beginning, waits.headers.clone()))
    }

    /// Returns the client for a worker that writes to `socket`, or through a task.
    fn into_client(self, socket: IncomingSocket, unread: Bytes, version: Version) -> NewClient {
        let is_handed = matches!(socket, IncomingSocket::Handed(_));
        // HTTP/1.0 has no chunked coding: its responses end with their connection.
        let chunked = version == Version::HTTP_11 && !is_handed;
        let frames = StreamFrames { layout: self.layout, chunked };
        let mut head = if is_handed { Vec::new() } else { lines_of_head(&self.headers, chunked) };
        let unanswered = match self.waits {
            None => {
                if !is_handed {
                    head.extend_from_slice(b"\r\n");
                }
                if self.layout == Layout::EventStream {
                    head.extend_from_slice(&frames.piece(EVENT_STREAM_BEGINS));
                }
                None
            }
            Some(RefusalResponse { tell: Some(tell), .. }) => Some(PendingResponse::Elsewhere(tell)),
            Some(RefusalResponse { headers, tell: None }) => {
                let stream = std::mem::take(&mut head).into();
                Some(PendingResponse::Here { stream, refusal: lines_of_refusal(&headers).into() })
            }
        };
        NewClient {
            socket,
            unread,
            wire: ClientWire::Response(frames),
            head: head.into(),
            unanswered: unanswered.map(Box::new),
            watcher: self.watcher,
            first: self.first,
            connect: self.connect,
            protocol: self.protocol,
            deflate: None,
            admitted: self.admitted,
            origin: self.origin,
            app: None,
            graphql: self.graphql,
            turned_away: None,
        }
    }
}

/// Returns the head of an endless response without its final line.
fn lines_of_head(headers: &HeaderMap, chunked: bool) -> Vec<u8> {
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    put_lines(headers, &mut head);
    if chunked {
        head.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    // The socket belongs to the client from here on: no other request is read from it.
    head.extend_from_slice(b"connection: close\r\n");
    head
}

/// Returns the lines of every refusal after its status.
fn lines_of_refusal(headers: &HeaderMap) -> Vec<u8> {
    let mut lines = b"content-type: text/plain; charset=utf-8\r\n".to_vec();
    put_lines(headers, &mut lines);
    lines.extend_from_slice(b"connection: close\r\n");
    lines
}

fn put_lines(headers: &HeaderMap, head: &mut Vec<u8>) {
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
}

/// Returns the headers of a stream.
pub(super) fn headers_of_stream(layout: Layout, cors: HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(layout)));
    headers.extend(UNKEPT.map(|(name, value)| (name, HeaderValue::from_static(value))));
    headers.extend(cors);
    headers
}

impl HttpRouter {
    /// Opens a client that is reached through the response to this request.
    pub(super) async fn respond(
        self: &Arc<Self>,
        peer: &Peer,
        take_over: &TakeOver,
        request: Request<Incoming>,
        streamed: Streamed,
    ) -> Result<Response<Body>, HttpRefusal> {
        let (cors, admitted, in_query, layout, origin) = {
            let head = ConnectHead::of(&request);
            self.check_request(&head, streamed.methods())?;
            let (admitted, in_query) = (self.admit(peer, &head)?, head.form_query(COMMANDS_PARAMETER));
            let origin = self.origin(&head, self.address_of(peer, &head));
            (cors::headers(&head), admitted, in_query, streamed.layout(is_protobuf(&head)), origin)
        };
        let version = request.version();
        let first = match (request.method(), in_query) {
            (&Method::GET, Some(commands)) => commands.into(),
            // An anonymous client.
            (&Method::GET, None) if streamed.is_unidirectional() => Bytes::from_static(b"{}"),
            (&Method::GET, None) => {
                let why = format!("the parameter {COMMANDS_PARAMETER} must contain the first commands");
                return Err(HttpRefusal::malformed(why, &cors));
            }
            _ => match self.read_body(request.into_body()).await {
                Ok(body) => body.clone(),
                Err(refused) => return Err(refused.with(cors::lines(cors))),
            },
        };
        let headers = headers_of_stream(layout, cors);
        let in_protobuf = layout == Layout::Delimited;
        let protocol = match streamed.is_unidirectional() {
            // The protocol is the same whether or not the response is chunked.
            true => {
                let wire = ClientWire::Response(StreamFrames { layout, chunked: false });
                self.encodings.centrifuge_uni(in_protobuf, wire, false)
            }
            false => self.encodings.centrifuge(in_protobuf, false),
        };
        let first = Some(first);
        let (waits, watcher, connect, graphql) = (None, None, None, None);
        let opening = StreamOpening {
            layout,
            headers,
            waits,
            watcher,
            first,
            connect,
            protocol,
            graphql,
            admitted,
            origin,
        };
        self.open_stream(take_over, opening, version).await
    }

    /// Has a worker write the response, or a task if the connection cannot be taken over.
    pub(super) async fn open_stream(
        self: &Arc<Self>,
        take_over: &TakeOver,
        opening: StreamOpening,
        version: Version,
    ) -> Result<Response<Body>, HttpRefusal> {
        let left = match version {
            Version::HTTP_10 | Version::HTTP_11 => self.take_connection(take_over, opening, version).await,
            _ => Some(opening),
        };
        // If the connection was taken over, this point is not reached.
        let Some(mut opening) = left else { return Err(gone()) };
        let (near, far) = handed();
        let mut response = Response::new(Either::Right(far));
        response.headers_mut().extend(opening.headers.clone());
        let beginning = opening.asks();
        self.reception.receive(opening.into_client(IncomingSocket::Handed(near), Bytes::new(), version));
        if let Some(beginning) = beginning {
            let line = begun(beginning).await?.and_then(|Header { name, value }| {
                Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
            });
            response.headers_mut().extend(line);
        }
        self.metrics.handshake(Handshake::Accepted);
        Ok(response)
    }

    /// Makes a client whose stream is not the response to this request. Returns the stream, and the session's header if it
    /// has one.
    pub(super) async fn open_apart(
        &self,
        mut opening: StreamOpening,
    ) -> Result<(HandedBody, Option<Header>), HttpRefusal> {
        let (near, far) = handed();
        let beginning = opening.asks();
        self.reception.receive(opening.into_client(
            IncomingSocket::Handed(near),
            Bytes::new(),
            Version::HTTP_2,
        ));
        let found = match beginning {
            Some(beginning) => begun(beginning).await?,
            None => None,
        };
        Ok((far, found))
    }

    /// Has a worker write to the connection itself. Returns the opening if the connection cannot be taken over.
    async fn take_connection(
        self: &Arc<Self>,
        take_over: &TakeOver,
        opening: StreamOpening,
        version: Version,
    ) -> Option<StreamOpening> {
        let slot = Arc::new(Mutex::new(Some(opening)));
        let (router, taken) = (self.clone(), slot.clone());
        take_over
            .ask(move |connection: io::Result<(IncomingSocket, Bytes)>| {
                let Some(opening) = taken.lock().take() else { return };
                match connection {
                    Ok((socket, unread)) => {
                        // If the session decides, it reports the outcome.
                        if opening.waits.is_none() {
                            router.metrics.handshake(Handshake::Accepted);
                        }
                        router.reception.receive(opening.into_client(socket, unread, version));
                    }
                    Err(error) => router.lost(&error),
                }
            })
            .await;
        slot.lock().take()
    }

    /// Reads the body of a short request.
    pub(super) async fn read_body(&self, body: Incoming) -> Result<ReceivedBody, HttpRefusal> {
        self.read_body_of(body, self.message_bytes_max).await
    }

    /// Reads the body of a request, of at most `max` bytes.
    pub(super) async fn read_body_of(&self, body: Incoming, max: usize) -> Result<ReceivedBody, HttpRefusal> {
        self.bodies.read(body, max, BODY_TIMEOUT).await.map_err(|error| {
            let (status, retry_after) = match error {
                BodyError::TooLong(_) => (StatusCode::PAYLOAD_TOO_LARGE, None),
                BodyError::Broken(_) => (StatusCode::BAD_REQUEST, None),
                BodyError::Late => (StatusCode::REQUEST_TIMEOUT, None),
                BodyError::Crowded => {
                    let line = (header::RETRY_AFTER, HeaderValue::from_static("1"));
                    (StatusCode::SERVICE_UNAVAILABLE, Some(line))
                }
            };
            HttpRefusal::new(Handshake::Request, status, error.to_string()).with(retry_after)
        })
    }
}

/// The session's pending decision, and the headers of a refusal.
type AwaitedBeginning = (oneshot::Receiver<ResponseBeginning>, HeaderMap);

/// Waits for the session's decision: its header, or a refusal. The session has a deadline and always reports.
async fn begun((beginning, cors): AwaitedBeginning) -> Result<Option<Header>, HttpRefusal> {
    match beginning.await.map_err(|_| gone())? {
        ResponseBeginning::Refusal { status, why } => Err(refused(status, why).with(cors::lines(cors))),
        ResponseBeginning::Stream(found) => Ok(found),
    }
}

/// Returns the session's refusal.
fn refused(status: u16, why: String) -> HttpRefusal {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    let challenge = (status == StatusCode::UNAUTHORIZED)
        .then(|| (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
    HttpRefusal::new(Handshake::Request, status, why).with(challenge)
}

fn gone() -> HttpRefusal {
    HttpRefusal::new(Handshake::Request, StatusCode::INTERNAL_SERVER_ERROR, "the connection was given away")
}
