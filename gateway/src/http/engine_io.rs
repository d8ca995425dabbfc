//! Requests of Engine.IO: what their URLs ask for, and how they are refused.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use prometheus::IntGauge;
use shared::framing::engine_io::PROTOCOL;
use shared::framing::websocket::DeflateParams;
use shared::protocol::Protocol;
use shared::protocol::raw::Raw;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::admission::{Admitted, Peer};
use crate::backend::ClientOrigin;
use crate::client::open::NewClient;
use crate::engine_io::{
    FoundSession, PROBE_TIMEOUT, PollingClient, PollingError, PollingSession, ProbeError, RelayedBytes,
    RemoteSession, Sid, end_websocket, probe,
};
use crate::http::emulate::is_protobuf as is_octet_stream;
use crate::http::head::ConnectHead;
use crate::http::raw_paths::{RawPath, RawTransport};
use crate::http::upgrade::{self, UpgradeOpening};
use crate::http::{Body, HttpRefusal, HttpRouter, cors, whole};
use crate::telemetry::labels::Handshake;
use crate::transport::IncomingSocket;
use crate::transport::encodings::{ClientWire, Encodings};
use crate::transport::task_pipe::{Attached, carry, handed};

const METHODS: &str = "GET, POST, OPTIONS";

/// The protocol spoken over Engine.IO at a path.
#[derive(Debug)]
pub(super) enum EngineIoPath {
    SocketIo,
    /// A path of a raw endpoint.
    Bound(Arc<RawPath>),
}

/// The transport that a request names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EngineIoTransport {
    Polling,
    WebSocket,
}

/// Why a request is refused, in the words of the reference server, which clients show as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EngineIoError {
    UnknownTransport,
    UnknownSid,
    BadMethod,
    BadRequest,
    UnsupportedVersion,
}

impl EngineIoError {
    fn body(self) -> &'static str {
        match self {
            Self::UnknownTransport => r#"{"code":0,"message":"Transport unknown"}"#,
            Self::UnknownSid => r#"{"code":1,"message":"Session ID unknown"}"#,
            Self::BadMethod => r#"{"code":2,"message":"Bad handshake method"}"#,
            Self::BadRequest => r#"{"code":3,"message":"Bad request"}"#,
            Self::UnsupportedVersion => r#"{"code":5,"message":"Unsupported protocol version"}"#,
        }
    }

    fn refused(self, head: &ConnectHead<'_>) -> HttpRefusal {
        let refused = HttpRefusal::new(Handshake::Request, StatusCode::BAD_REQUEST, self.body());
        refused.with([self.content_type()]).with(cors::lines(cors::headers(head)))
    }

    fn content_type(self) -> (HeaderName, HeaderValue) {
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
    }
}

fn transport(head: &ConnectHead<'_>) -> Result<EngineIoTransport, EngineIoError> {
    match head.query("transport").as_deref() {
        Some("polling") => Ok(EngineIoTransport::Polling),
        Some("websocket") => Ok(EngineIoTransport::WebSocket),
        _ => Err(EngineIoError::UnknownTransport),
    }
}

fn check_version(head: &ConnectHead<'_>) -> Result<(), EngineIoError> {
    match head.query("EIO").as_deref() {
        Some(PROTOCOL) => Ok(()),
        _ => Err(EngineIoError::UnsupportedVersion),
    }
}

/// A polling client that probes a WebSocket. `None` if its session does not exist, or has ended.
#[derive(Debug)]
pub(super) struct ProbeRequest(Option<FoundSession>);

/// What a polling request asks for.
enum PollRequest {
    /// A new session, which the response begins.
    Open(AdmittedPoller),
    /// Packets of this session.
    Fetch(FoundSession),
    /// To deliver the packets in the body to this session.
    Upload(FoundSession),
}

/// An admitted client.
struct AdmittedPoller {
    protocol: Arc<dyn Protocol>,
    admitted: Admitted,
    origin: Option<Arc<ClientOrigin>>,
}

impl HttpRouter {
    /// Returns the protocol spoken over Engine.IO at this path, if any.
    pub(super) fn engine_io_at(&self, path: &str) -> Option<EngineIoPath> {
        if !self.clients {
            return None;
        }
        if self.engine_io.settings().is_at(path) {
            return Some(EngineIoPath::SocketIo);
        }
        let bound = self.raw_paths.find(path)?;
        (bound.transport == RawTransport::EngineIo).then_some(EngineIoPath::Bound(bound))
    }

    /// Reads a request to open a WebSocket that carries packets.
    pub(super) fn read_engine_io(
        &self,
        path: &EngineIoPath,
        head: &ConnectHead<'_>,
    ) -> Result<UpgradeOpening, HttpRefusal> {
        let refused = |fault: EngineIoError| fault.refused(head);
        if transport(head).map_err(refused)? != EngineIoTransport::WebSocket {
            return Err(refused(EngineIoError::BadRequest));
        }
        let sid = head.query("sid");
        if sid.is_none() {
            check_version(head).map_err(refused)?;
        }
        let upgrade = upgrade::read(head)?;
        let protocol = spoken_at(&self.encodings, path, upgrade::token(head, &upgrade)?);
        let opening = self.opening(upgrade, upgrade::RAW, protocol);
        let Some(sid) = sid else {
            return Ok(opening.over(ClientWire::EngineWebSocket, self.engine_io.greeting()));
        };
        if !self.engine_io.settings().upgrades {
            return Err(refused(EngineIoError::BadRequest));
        }
        // A client that names a session that has ended, or has changed over, learns that from the WebSocket: libraries do
        // not expect a status.
        let sid = Sid::parse(&sid).ok_or_else(|| refused(EngineIoError::UnknownSid))?;
        Ok(opening.probing(ProbeRequest(self.engine_io.find(sid))))
    }

    /// Answers a polling request.
    pub(super) async fn serve_engine_io(
        self: &Arc<Self>,
        peer: &Peer,
        request: Request<Incoming>,
        path: &EngineIoPath,
    ) -> Result<Response<Body>, HttpRefusal> {
        let (polled, cors, in_octets) = {
            let head = ConnectHead::of(&request);
            self.check_asker(&head)?;
            if request.method() == Method::OPTIONS {
                return Ok(cors::preflight(&head, METHODS));
            }
            (self.read_polling(peer, path, &head)?, cors::headers(&head), is_octet_stream(&head))
        };
        let answered = match polled {
            PollRequest::Open(opened) => self.begin_polling(opened).await,
            PollRequest::Fetch(session) => self.fetch(&session).await,
            PollRequest::Upload(session) => self.upload(request.into_body(), in_octets, &session).await,
        };
        let packets = answered.map_err(|refused| refused.with(cors::lines(cors.clone())))?;
        let mut response = Response::new(whole(packets));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(cors);
        Ok(response)
    }

    fn read_polling(
        &self,
        peer: &Peer,
        path: &EngineIoPath,
        head: &ConnectHead<'_>,
    ) -> Result<PollRequest, HttpRefusal> {
        let refused = |fault: EngineIoError| fault.refused(head);
        match transport(head).map_err(refused)? {
            EngineIoTransport::Polling if self.engine_io.settings().polling => {}
            EngineIoTransport::Polling => return Err(refused(EngineIoError::UnknownTransport)),
            EngineIoTransport::WebSocket => return Err(refused(EngineIoError::BadRequest)),
        }
        // JSONP polling, which version 4 no longer has.
        if head.query("j").is_some() {
            return Err(refused(EngineIoError::BadRequest));
        }
        if let Some(sid) = head.query("sid") {
            let session = Sid::parse(&sid).and_then(|sid| self.engine_io.find(sid));
            let session = session.ok_or_else(|| refused(EngineIoError::UnknownSid))?;
            return match head.method {
                "GET" => Ok(PollRequest::Fetch(session)),
                "POST" => Ok(PollRequest::Upload(session)),
                _ => Err(refused(EngineIoError::BadRequest)),
            };
        }
        if head.method != "GET" {
            return Err(refused(EngineIoError::BadMethod));
        }
        check_version(head).map_err(refused)?;
        let token = head.bearer().map_err(|why| HttpRefusal::malformed(why, &cors::headers(head)))?;
        let protocol = spoken_at(&self.encodings, path, token.unwrap_or_default().to_owned());
        let admitted = self.admit_apart(peer, head)?;
        let origin = self.origin(head, self.address_of(peer, head));
        Ok(PollRequest::Open(AdmittedPoller { protocol, admitted, origin }))
    }

    async fn begin_polling(&self, opened: AdmittedPoller) -> Result<Bytes, HttpRefusal> {
        let AdmittedPoller { protocol, admitted, origin } = opened;
        let PollingClient { pipe, session, greeting } = self.engine_io.begin_polling();
        self.reception.receive(NewClient {
            socket: IncomingSocket::Handed(pipe),
            unread: Bytes::new(),
            wire: ClientWire::EnginePolling,
            head: greeting,
            unanswered: None,
            watcher: None,
            first: None,
            connect: None,
            protocol,
            deflate: None,
            admitted,
            origin,
            app: None,
            graphql: None,
            turned_away: None,
        });
        self.metrics.handshake(Handshake::Accepted);
        self.fetch(&FoundSession::Local(session)).await
    }

    async fn fetch(&self, session: &FoundSession) -> Result<Bytes, HttpRefusal> {
        let _waiting = GaugeGuard::one_more(&self.metrics.engine_io_waiting);
        session.fetch(self.engine_io.patience()).await.map_err(ended)
    }

    async fn upload(
        &self,
        body: Incoming,
        in_octets: bool,
        session: &FoundSession,
    ) -> Result<Bytes, HttpRefusal> {
        let uploading = session.begin_upload().map_err(ended)?;
        // Binary packets are encoded as text, too.
        if in_octets {
            return Err(ended(PollingError::Malformed));
        }
        let body = self.read_body_of(body, self.engine_io.settings().payload_bytes_max).await?;
        uploading.upload(body.clone()).await.map_err(ended)?;
        Ok(Bytes::from_static(b"ok"))
    }

    /// Handles the probe of a client that tries a WebSocket, and moves the client to it if it changes over. If another node
    /// has the session, carries the WebSocket there.
    pub(super) async fn change_over(
        &self,
        upgraded: Upgraded,
        version: Version,
        ProbeRequest(found): ProbeRequest,
        deflate: Option<DeflateParams>,
    ) {
        let session = match &found {
            Some(FoundSession::Remote(remote_session)) => {
                return self.relay_upgraded(upgraded, version, remote_session, deflate).await;
            }
            Some(FoundSession::Local(session)) => Some(&**session),
            None => None,
        };
        let changed = match version {
            Version::HTTP_2 => {
                let mut stream = TokioIo::new(upgraded);
                match probe(&mut stream, Bytes::new(), deflate.is_some(), session, PROBE_TIMEOUT).await {
                    Ok(unread) => {
                        let (near, far) = handed();
                        let attached = self.attach(
                            session,
                            Attached { socket: IncomingSocket::Handed(near), unread, deflate },
                        );
                        self.note_change(&attached);
                        return carry(stream, far).await;
                    }
                    Err(error) => Err(error),
                }
            }
            _ => self.change_over_to_socket(upgraded, session, deflate).await,
        };
        self.note_change(&changed);
    }

    async fn relay_upgraded(
        &self,
        upgraded: Upgraded,
        version: Version,
        remote_session: &RemoteSession,
        deflate: Option<DeflateParams>,
    ) {
        if version == Version::HTTP_2 {
            return self.relay_stream(TokioIo::new(upgraded), Bytes::new(), remote_session, deflate).await;
        }
        match upgrade::own_stream(upgraded) {
            Ok((stream, unread)) => self.relay_stream(stream, unread, remote_session, deflate).await,
            Err(error) => self.lost(&error),
        }
    }

    async fn relay_stream(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        unread: Bytes,
        remote_session: &RemoteSession,
        deflate: Option<DeflateParams>,
    ) {
        let node = match remote_session.reach(deflate.as_ref()).await {
            Ok(node) => node,
            Err(error) => {
                self.metrics.engine_io_upgrade(error.label());
                tracing::debug!(%error, "a client stays with polling");
                return end_websocket(&mut stream).await;
            }
        };
        self.metrics.engine_io_upgrade("carried");
        let _counted = GaugeGuard::one_more(&self.metrics.engine_io_carried);
        let [to_session, to_client] = self.metrics.engine_io_carried_bytes_total.clone();
        if let Err(error) =
            self.engine_io.relay(stream, unread, node, RelayedBytes { to_session, to_client }).await
        {
            tracing::debug!(%error, "carrying a WebSocket to the node of its session has ended");
        }
    }

    async fn change_over_to_socket(
        &self,
        upgraded: Upgraded,
        session: Option<&PollingSession>,
        deflate: Option<DeflateParams>,
    ) -> Result<(), ProbeError> {
        let (mut stream, unread) = upgrade::own_stream(upgraded)?;
        let unread = probe(&mut stream, unread, deflate.is_some(), session, PROBE_TIMEOUT).await?;
        self.attach(session, Attached { socket: stream.into_socket()?, unread, deflate })
    }

    fn attach(&self, session: Option<&PollingSession>, attached: Attached) -> Result<(), ProbeError> {
        let is_there = session.is_some_and(|session| session.attach(attached));
        if is_there { Ok(()) } else { Err(ProbeError::NotPolling) }
    }

    fn note_change(&self, changed: &Result<(), ProbeError>) {
        self.metrics.engine_io_upgrade(changed.as_ref().map_or_else(ProbeError::label, |()| "changed"));
        if let Err(error) = changed {
            tracing::debug!(%error, "a client stays with polling");
        }
    }
}

/// Counts in a gauge until it is dropped.
struct GaugeGuard<'m>(&'m IntGauge);

impl<'m> GaugeGuard<'m> {
    fn one_more(gauge: &'m IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Returns the protocol of a client at this path.
fn spoken_at(encodings: &Encodings, path: &EngineIoPath, token: String) -> Arc<dyn Protocol> {
    match path {
        // The client sends its token later.
        EngineIoPath::SocketIo => encodings.socketio(),
        EngineIoPath::Bound(bound) => {
            let raw = Raw::new(bound.channel.as_str().into(), token.into(), None);
            Arc::new(raw.taking(bound.messages.into()))
        }
    }
}

fn ended(fault: PollingError) -> HttpRefusal {
    let status = match fault {
        PollingError::Congested | PollingError::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
        PollingError::Over | PollingError::Overlap | PollingError::Malformed => StatusCode::BAD_REQUEST,
    };
    let error = match fault {
        PollingError::Over => EngineIoError::UnknownSid,
        _ => EngineIoError::BadRequest,
    };
    tracing::debug!(%fault, "a request over Engine.IO was refused");
    HttpRefusal::new(Handshake::Request, status, error.body()).with([error.content_type()])
}
