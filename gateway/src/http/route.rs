//! Routes paths to handlers.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use http_body_util::Either;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use crate::admission::client_ip::X_FORWARDED_FOR;
use crate::admission::{AdmissionRefusal, Admitted, Peer};
use crate::http::engine_io::EngineIoPath;
use crate::http::head::ConnectHead;
use crate::http::raw_paths::{RawPath, RawTransport};
use crate::http::respond::Streamed;
use crate::http::upgrade::UpgradeOpening;
use crate::http::{
    Body, HttpRefusal, HttpRouter, TakeOver, cors, emulate, event_stream, graphql, mercure, pages, whole,
};
use crate::pusher::Apps;
use crate::pusher_api::PusherApi;
use crate::telemetry::labels::Handshake;

const CENTRIFUGE_PATH: &str = "/connection/websocket";
const UNI_PATH: &str = "/connection/uni_websocket";
const RAW_PREFIX: &str = "/raw/";
/// The key of an app follows.
const PUSHER_PREFIX: &str = "/app/";
const API_PREFIX: &str = "/api/";
const API_PATH: &str = "/api";

/// How many characters of a refused origin are shown.
const ORIGIN_SHOWN_MAX: usize = 120;

impl HttpRouter {
    /// Answers one request. Every failure is a response.
    pub(crate) async fn handle(
        self: &Arc<Self>,
        peer: &Peer,
        take_over: &TakeOver,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        Ok(self.route(peer, take_over, request).await.unwrap_or_else(|refused| {
            self.metrics.handshake(refused.result);
            self.log_refusal(peer, &refused);
            refused.into_response()
        }))
    }

    async fn route(
        self: &Arc<Self>,
        peer: &Peer,
        take_over: &TakeOver,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, HttpRefusal> {
        let granted = {
            let head = ConnectHead::of(&request);
            if head.url_bytes() > self.url_bytes_max {
                let why = format!("the path and query are longer than {} bytes", self.url_bytes_max);
                return Err(HttpRefusal::new(Handshake::Request, StatusCode::URI_TOO_LONG, why));
            }
            match self.endpoint_of(&head) {
                Some(endpoint) => {
                    let admitted = self.let_in(peer, &head)?;
                    let opening = self.read_opening(&endpoint, &head)?;
                    Some((opening.from(self.origin(&head, self.address_of(peer, &head))), admitted))
                }
                None => None,
            }
        };
        if let Some((opening, admitted)) = granted {
            return Ok(self.open(request, opening, admitted).map(Either::Left));
        }
        if let Some(path) = self.engine_io_at(request.uri().path()) {
            return self.serve_engine_io(peer, request, &path).await;
        }
        if let Some(apart) = self.apart_of(request.uri().path()) {
            return self.serve_apart(peer, take_over, request, apart).await;
        }
        let path = request.uri().path();
        if path.starts_with(API_PREFIX) || path == API_PATH {
            let Some(api) = &self.api else {
                let why = "the server API has an address of its own: see api.listen";
                return Err(HttpRefusal::new(Handshake::Path, StatusCode::NOT_FOUND, why));
            };
            return Ok(api.serve(request).await.map(Either::Left));
        }
        if PusherApi::has(path)
            && let Some(api) = &self.pusher_api
        {
            return Ok(api.serve(request).await.map(Either::Left));
        }
        if self.pages
            && let Some(page) = pages::find(path)
        {
            return Ok(page.map(Either::Left));
        }
        Err(HttpRefusal::new(Handshake::Path, StatusCode::NOT_FOUND, "there is nothing at this path"))
    }

    /// Serves clients' requests that ask for no WebSocket.
    async fn serve_apart(
        self: &Arc<Self>,
        peer: &Peer,
        take_over: &TakeOver,
        request: Request<Incoming>,
        apart: SeparateEndpoint,
    ) -> Result<Response<Body>, HttpRefusal> {
        if request.method() == Method::OPTIONS {
            let head = ConnectHead::of(&request);
            self.check_request(&head, apart.methods())?;
            return Ok(cors::preflight(&head, apart.methods()));
        }
        match apart {
            SeparateEndpoint::Streamed(streamed) => self.respond(peer, take_over, request, streamed).await,
            SeparateEndpoint::Channels => self.follow_channels(peer, take_over, request).await,
            SeparateEndpoint::Updates => self.serve_updates(peer, take_over, request).await,
            SeparateEndpoint::GraphQl => match &self.graphql {
                Some(endpoint) => self.serve_graphql(peer, take_over, request, endpoint).await,
                None => Err(HttpRefusal::new(
                    Handshake::Path,
                    StatusCode::NOT_FOUND,
                    "there is nothing at this path",
                )),
            },
            SeparateEndpoint::Emulation => self.emulate(request).await,
            SeparateEndpoint::Publish => self.publish(peer, request).await,
            SeparateEndpoint::Init => {
                let head = ConnectHead::of(&request);
                self.check_request(&head, apart.methods())?;
                let mut response = Response::new(whole("{}"));
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.extend(cors::headers(&head));
                Ok(response)
            }
        }
    }

    /// Publishes for a client, which counts as connected while it is served.
    async fn publish(&self, peer: &Peer, request: Request<Incoming>) -> Result<Response<Body>, HttpRefusal> {
        let (cors, _admitted, origin) = {
            let head = ConnectHead::of(&request);
            self.check_request(&head, SeparateEndpoint::Publish.methods())?;
            let admitted = self.admit(peer, &head)?;
            let origin = self.origin(&head, self.address_of(peer, &head));
            (cors::headers(&head), admitted, origin.unwrap_or_default())
        };
        let (head, body) = request.into_parts();
        let body = match self.read_body(body).await {
            Ok(body) => body,
            Err(refused) => return Err(refused.with(cors::lines(cors))),
        };
        let mut response = self.by_client.publish(&head.headers, &origin, &body).await;
        response.headers_mut().extend(cors);
        Ok(response.map(Either::Left))
    }

    /// Grants a connection whose first bytes are a request to connect, to be answered 101: with the same checks, but without
    /// hyper. `None` for anything else, refusals included; those are decided when hyper has read the bytes, and nothing has
    /// been counted yet.
    pub(crate) fn open_at_once(&self, peer: &Peer, bytes: &[u8]) -> Option<GrantedUpgrade> {
        let (head, length) = ConnectHead::read(bytes)?;
        if head.url_bytes() > self.url_bytes_max {
            return None;
        }
        let endpoint = self.endpoint_of(&head)?;
        let opening = self.read_opening(&endpoint, &head).ok().filter(|opening| !opening.has_to_probe())?;
        let admitted = self.let_in(peer, &head).ok()?;
        let opening = opening.from(self.origin(&head, self.address_of(peer, &head)));
        Some(GrantedUpgrade { head_bytes: length, opening, admitted })
    }

    /// Makes every check of a client before the handshake itself is read.
    fn let_in(&self, peer: &Peer, head: &ConnectHead<'_>) -> Result<Admitted, HttpRefusal> {
        if let Some(why) = head.ambiguity().or_else(|| head.version_fault()) {
            return Err(HttpRefusal::new(Handshake::Upgrade, StatusCode::BAD_REQUEST, why));
        }
        self.check_origin(head)?;
        self.admit(peer, head)
    }

    /// Checks the requester of a request that asks for no WebSocket.
    pub(super) fn check_asker(&self, head: &ConnectHead<'_>) -> Result<(), HttpRefusal> {
        if let Some(why) = head.ambiguity() {
            return Err(HttpRefusal::new(Handshake::Request, StatusCode::BAD_REQUEST, why));
        }
        self.check_origin(head)
    }

    /// Checks the requester, and that the method is one of these.
    pub(super) fn check_request(
        &self,
        head: &ConnectHead<'_>,
        methods: &'static str,
    ) -> Result<(), HttpRefusal> {
        self.check_asker(head)?;
        if methods.split(", ").any(|method| method == head.method) {
            return Ok(());
        }
        let why = format!("this path accepts only {methods}");
        let refused = HttpRefusal::new(Handshake::Request, StatusCode::METHOD_NOT_ALLOWED, why);
        Err(refused.with([(header::ALLOW, HeaderValue::from_static(methods))]))
    }

    /// Takes a place for the client among those of its address.
    pub(super) fn admit(&self, peer: &Peer, head: &ConnectHead<'_>) -> Result<Admitted, HttpRefusal> {
        let address = self.address_of(peer, head);
        let admitted = match peer.is_shared {
            true => self.admission.admit_beside(address, &peer.place),
            false => self.admission.admit_client(address, &peer.place),
        };
        admitted.map_err(not_admitted)
    }

    /// Takes a place for a client that outlives its connection.
    pub(super) fn admit_apart(&self, peer: &Peer, head: &ConnectHead<'_>) -> Result<Admitted, HttpRefusal> {
        self.admission.admit_apart(self.address_of(peer, head)).map_err(not_admitted)
    }

    pub(super) fn address_of(&self, peer: &Peer, head: &ConnectHead<'_>) -> IpAddr {
        self.proxies.client_ip(peer.address, head.all(X_FORWARDED_FOR))
    }

    /// Logs a refusal. The operator must see why a page cannot connect; rate-limited, because anyone can cause refusals.
    fn log_refusal(&self, peer: &Peer, refused: &HttpRefusal) {
        let (status, client) = (refused.status.as_u16(), peer.address);
        let suppressed = if refused.result == Handshake::Origin { self.refusals_log.admit() } else { None };
        match suppressed {
            Some(suppressed) => {
                tracing::info!(status, %client, why = refused.why, suppressed, "a request was refused");
            }
            None => tracing::debug!(status, %client, why = refused.why, "a request was refused"),
        }
    }

    fn endpoint_of<'a>(&'a self, head: &ConnectHead<'a>) -> Option<ClientEndpoint<'a>> {
        let path = head.path;
        if path == graphql::PATH {
            let asks = self.clients && graphql::asks_for_websocket(head);
            return self.graphql.as_deref().filter(|_| asks).map(ClientEndpoint::GraphQl);
        }
        let pusher = || {
            let apps = self.apps.as_ref()?;
            Some(ClientEndpoint::Pusher(apps, path.strip_prefix(PUSHER_PREFIX)?))
        };
        let engine_io = || {
            head.asks_to_upgrade().then(|| self.engine_io_at(path)).flatten().map(ClientEndpoint::EngineIo)
        };
        let bound = || {
            let bound = self.raw_paths.find(path).filter(|bound| bound.transport == RawTransport::WebSocket);
            bound.map(ClientEndpoint::Bound)
        };
        let named = || pusher().or_else(bound).or_else(engine_io);
        self.clients.then(|| ClientEndpoint::of(path).or_else(named)).flatten()
    }

    fn apart_of(&self, path: &str) -> Option<SeparateEndpoint> {
        let named = || match path {
            event_stream::PATH => self.sse.then_some(SeparateEndpoint::Channels),
            mercure::PATH => self.hub.is_some().then_some(SeparateEndpoint::Updates),
            graphql::PATH => self.graphql.is_some().then_some(SeparateEndpoint::GraphQl),
            _ if self.hub.as_ref().is_some_and(|hub| hub.lists(path)) => Some(SeparateEndpoint::Updates),
            _ => None,
        };
        self.clients.then(|| SeparateEndpoint::of(path).or_else(named)).flatten()
    }

    fn check_origin(&self, head: &ConnectHead<'_>) -> Result<(), HttpRefusal> {
        let text = |name| head.header(name).map(|value| std::str::from_utf8(value).unwrap_or("null"));
        if self.origins.read().allows(text("origin"), text("host")) {
            return Ok(());
        }
        let why = match text("origin") {
            // Truncated and escaped, because anyone may have written it.
            Some(origin) => {
                let origin: String = origin.chars().take(ORIGIN_SHOWN_MAX).collect();
                format!("pages of {origin:?} may not connect: http.allowed_origins does not name them")
            }
            None => "requests without an Origin may not connect: http.allow_missing_origin is off".to_owned(),
        };
        Err(HttpRefusal::new(Handshake::Origin, StatusCode::FORBIDDEN, why))
    }
}

fn not_admitted(refusal: AdmissionRefusal) -> HttpRefusal {
    let status = match refusal {
        AdmissionRefusal::NodeFull => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::TOO_MANY_REQUESTS,
    };
    let refused = HttpRefusal::new(refusal.handshake(), status, refusal.to_string());
    refused.with([(header::RETRY_AFTER, HeaderValue::from(refusal.retry_after_seconds()))])
}

/// An endpoint at which clients open a WebSocket.
#[derive(Debug)]
pub(super) enum ClientEndpoint<'a> {
    Centrifuge,
    /// For unidirectional clients, which only send a connect command.
    CentrifugeUni,
    /// The channel, as written in the path.
    Raw(&'a str),
    /// The key of an app, as written in the path.
    Pusher(&'a Apps, &'a str),
    GraphQl(&'a graphql::GraphqlEndpoint),
    /// A path from the configuration.
    Bound(Arc<RawPath>),
    /// A path of Engine.IO.
    EngineIo(EngineIoPath),
}

impl<'a> ClientEndpoint<'a> {
    fn of(path: &'a str) -> Option<Self> {
        if path == CENTRIFUGE_PATH {
            return Some(Self::Centrifuge);
        }
        if path == UNI_PATH {
            return Some(Self::CentrifugeUni);
        }
        path.strip_prefix(RAW_PREFIX).map(Self::Raw)
    }
}

/// An endpoint of clients without a WebSocket.
#[derive(Clone, Copy, Debug)]
enum SeparateEndpoint {
    Streamed(Streamed),
    /// Channels as server-sent events, named in the URL.
    Channels,
    /// Updates of topics, read or published.
    Updates,
    /// GraphQL operations, over server-sent events.
    GraphQl,
    /// Commands of a client reached through a response.
    Emulation,
    /// A publication of a client that has a token and no connection.
    Publish,
    /// An empty response, with which pages warm up a connection.
    Init,
}

impl SeparateEndpoint {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/connection/sse" => Some(Self::Streamed(Streamed::EventStream)),
            "/connection/http_stream" => Some(Self::Streamed(Streamed::HttpStream)),
            "/connection/uni_sse" => Some(Self::Streamed(Streamed::UniEvents)),
            "/connection/uni_http_stream" => Some(Self::Streamed(Streamed::UniHttp)),
            "/emulation" => Some(Self::Emulation),
            "/connection/publish" => Some(Self::Publish),
            "/connection/init" => Some(Self::Init),
            _ => None,
        }
    }

    fn methods(self) -> &'static str {
        match self {
            Self::Streamed(streamed) => streamed.methods(),
            Self::Channels => event_stream::METHODS,
            Self::Updates => mercure::METHODS,
            Self::GraphQl => graphql::METHODS,
            Self::Emulation | Self::Publish => emulate::METHODS,
            Self::Init => "GET, OPTIONS",
        }
    }
}

/// A request to connect that was granted from its first bytes. `head_bytes` is the length of its head.
#[derive(Debug)]
pub(crate) struct GrantedUpgrade {
    pub(crate) head_bytes: usize,
    pub(crate) opening: UpgradeOpening,
    pub(crate) admitted: Admitted,
}

impl HttpRefusal {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(whole(self.why + "\n"));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.extend(self.headers);
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.entry(header::CONTENT_TYPE).or_insert(text);
        response
    }
}
