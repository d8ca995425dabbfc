//! Turns a request into a client's WebSocket: every check before the 101, then the socket goes to a worker.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use shared::command::Since;
use shared::delivery::DeliveryWanted;
use shared::disconnect::Disconnect;
use shared::framing::websocket::{DeflateParams, Upgrade};
use shared::protocol::Protocol;
use shared::protocol::graphql::GraphQl;
use shared::protocol::pusher;
use shared::protocol::raw::{MessageHandling, Raw};

use crate::admission::Admitted;
use crate::backend::ClientOrigin;
use crate::client::open::NewClient;
use crate::http::engine_io::ProbeRequest;
use crate::http::head::ConnectHead;
use crate::http::route::ClientEndpoint;
use crate::http::{HttpRefusal, HttpRouter, HttpStream};
use crate::pusher::{Apps, PusherApp};
use crate::telemetry::labels::Handshake;
use crate::transport::IncomingSocket;
use crate::transport::encodings::ClientWire;
use crate::transport::task_pipe::{carry, handed};

/// Centrifuge clients may name the subprotocol or none.
const CENTRIFUGE_JSON: &str = "centrifuge-json";
const CENTRIFUGE_PROTOBUF: &str = "centrifuge-protobuf";

/// The query parameter with the connect command of a unidirectional client.
const CONNECT_PARAMETER: &str = "cf_connect";

/// The subprotocol that a client of a raw endpoint may offer, so that it can offer its token beside it.
pub(super) const RAW: &str = "tidegate.raw";
/// Browsers cannot set headers, so they offer their token as a subprotocol that is never chosen.
const TOKEN_PREFIX: &str = "tidegate.token.";

/// A granted request to connect: its response, and the protocol for its client.
#[derive(Debug)]
pub(crate) struct UpgradeOpening {
    accept: String,
    subprotocol: Option<&'static str>,
    deflate: Option<DeflateParams>,
    protocol: Arc<dyn Protocol>,
    /// The client's address and headers, if any hook asks for them.
    origin: Option<Arc<ClientOrigin>>,
    /// The client's commands in the URL.
    first: Option<Bytes>,
    /// The client's app, if it speaks Pusher.
    app: Option<Arc<PusherApp>>,
    /// The same value as `protocol`, if the client speaks GraphQL.
    graphql: Option<Arc<GraphQl>>,
    turned_away: Option<Disconnect>,
    wire: ClientWire,
    /// Frames to send first, after the response.
    greeting: Bytes,
    /// Set if the client has a polling session and probes a WebSocket.
    probing: Option<ProbeRequest>,
}

impl UpgradeOpening {
    /// Sets the opening up for GraphQL. Messages are made for one client each, and sent without compression.
    pub(super) fn of_operations(self, graphql: Arc<GraphQl>, turned_away: Option<Disconnect>) -> Self {
        Self { graphql: Some(graphql), turned_away, deflate: None, ..self }
    }

    /// Adds the client's address and headers.
    pub(super) fn from(self, origin: Option<Arc<ClientOrigin>>) -> Self {
        Self { origin, ..self }
    }

    /// Sets another framing, which begins with these frames.
    pub(super) fn over(self, wire: ClientWire, greeting: Bytes) -> Self {
        Self { wire, greeting, ..self }
    }

    /// Marks the client as one that has a session already.
    pub(super) fn probing(self, probing: ProbeRequest) -> Self {
        Self { probing: Some(probing), ..self }
    }

    /// Whether the client has to complete a probe before a worker gets it.
    pub(super) fn has_to_probe(&self) -> bool {
        self.probing.is_some()
    }

    fn response(&self, version: Version) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        let is_stream = version == Version::HTTP_2;
        let headers = response.headers_mut();
        if !is_stream {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        let mut insert = |name, value: &str| {
            // Each value is base64 or a constant of ours.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        if !is_stream {
            insert(header::SEC_WEBSOCKET_ACCEPT, &self.accept);
        }
        if let Some(subprotocol) = self.subprotocol {
            insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        if let Some(deflate) = &self.deflate {
            insert(header::SEC_WEBSOCKET_EXTENSIONS, &deflate.response());
        }
        if !is_stream {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        response
    }

    /// Appends the response as bytes.
    pub(crate) fn write_response(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: ",
        );
        into.extend_from_slice(self.accept.as_bytes());
        if let Some(subprotocol) = self.subprotocol {
            into.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
            into.extend_from_slice(subprotocol.as_bytes());
        }
        if let Some(deflate) = &self.deflate {
            into.extend_from_slice(b"\r\nSec-WebSocket-Extensions: ");
            into.extend_from_slice(deflate.response().as_bytes());
        }
        into.extend_from_slice(b"\r\n\r\n");
    }
}

impl HttpRouter {
    /// Reads a request to connect. Changes nothing.
    pub(super) fn read_opening(
        &self,
        endpoint: &ClientEndpoint<'_>,
        head: &ConnectHead<'_>,
    ) -> Result<UpgradeOpening, HttpRefusal> {
        match endpoint {
            ClientEndpoint::Centrifuge => self.read_centrifuge(head),
            ClientEndpoint::CentrifugeUni => self.read_centrifuge_uni(head),
            ClientEndpoint::Raw(channel) => {
                let channel = percent_encoding::percent_decode_str(channel)
                    .decode_utf8()
                    .map_err(|_| malformed("the channel in the path is not UTF-8"))?;
                self.read_raw(&channel, MessageHandling::Publish, head)
            }
            ClientEndpoint::Pusher(apps, key) => self.read_pusher(apps, key, head),
            ClientEndpoint::EngineIo(path) => self.read_engine_io(path, head),
            ClientEndpoint::GraphQl(endpoint) => self.read_graphql(endpoint, head),
            ClientEndpoint::Bound(bound) => self.read_raw(&bound.channel, bound.messages.into(), head),
        }
    }

    /// Reads `/connection/websocket`: the Centrifuge protocol.
    fn read_centrifuge(&self, head: &ConnectHead<'_>) -> Result<UpgradeOpening, HttpRefusal> {
        let upgrade = read(head)?;
        let (in_protobuf, with_transport_pings) =
            (wants_protobuf(head, &upgrade), wants_transport_pings(head));
        let protocol = self.encodings.centrifuge(in_protobuf, with_transport_pings);
        Ok(self.opening(upgrade, default_subprotocol(in_protobuf), protocol))
    }

    /// Reads `/connection/uni_websocket`: the unidirectional Centrifuge protocol. The client's connect command is its first
    /// message, or in the URL.
    fn read_centrifuge_uni(&self, head: &ConnectHead<'_>) -> Result<UpgradeOpening, HttpRefusal> {
        let upgrade = read(head)?;
        let (in_protobuf, with_transport_pings) =
            (wants_protobuf(head, &upgrade), wants_transport_pings(head));
        let first = head.form_query(CONNECT_PARAMETER);
        if in_protobuf && first.is_some() {
            return Err(malformed(format!(
                "the parameter {CONNECT_PARAMETER} is only for clients that use JSON"
            )));
        }
        let protocol =
            self.encodings.centrifuge_uni(in_protobuf, ClientWire::WebSocket, with_transport_pings);
        let opening = self.opening(upgrade, default_subprotocol(in_protobuf), protocol);
        Ok(UpgradeOpening { first: first.map(Bytes::from), ..opening })
    }

    /// Reads `/raw/{channel}`, and configured paths that stand for a channel.
    fn read_raw(
        &self,
        channel: &str,
        messages: MessageHandling,
        head: &ConnectHead<'_>,
    ) -> Result<UpgradeOpening, HttpRefusal> {
        let since = match head.query("offset") {
            None => None,
            Some(offset) => {
                let offset = offset.parse().map_err(|_| malformed("offset must be a whole number"))?;
                Some(Since { offset, epoch: head.query("epoch").unwrap_or_default().into() })
            }
        };
        let upgrade = read(head)?;
        let token = token(head, &upgrade)?;
        let [delivery, times, bytes] =
            ["delivery", "times_per_s", "bytes_per_s"].map(|name| head.query(name));
        let delivery = DeliveryWanted::of_parameters(delivery.as_deref(), times.as_deref(), bytes.as_deref())
            .map_err(|unreadable| malformed(unreadable.to_string()))?;
        let raw = Raw::new(channel.into(), token.into(), since).delivering(delivery).taking(messages);
        Ok(self.opening(upgrade, RAW, Arc::new(raw)))
    }

    /// Reads `/app/{key}`: Pusher. Its clients rely on close codes, so a wrong request is admitted and closed with one.
    fn read_pusher(
        &self,
        apps: &Apps,
        key: &str,
        head: &ConnectHead<'_>,
    ) -> Result<UpgradeOpening, HttpRefusal> {
        let upgrade = read(head)?;
        let found = pusher_protocol(head).and_then(|()| {
            let unknown = || turned_away(4001, "there is no app with this key");
            apps.with_key(key).ok_or_else(unknown)
        });
        // No subprotocol, because there is none that all clients offer.
        Ok(match found {
            Ok(app) => {
                let opening = self.opening(upgrade, "", app.protocol.clone());
                UpgradeOpening { app: Some(app), ..opening }
            }
            Err(turned_away) => {
                let opening = self.opening(upgrade, "", apps.nobodys.clone());
                UpgradeOpening { turned_away: Some(turned_away), ..opening }
            }
        })
    }

    pub(super) fn opening(
        &self,
        upgrade: Upgrade<'_>,
        known: &'static str,
        protocol: Arc<dyn Protocol>,
    ) -> UpgradeOpening {
        UpgradeOpening {
            subprotocol: upgrade.select_subprotocol(&[known]).map(|_| known),
            deflate: upgrade.negotiate_deflate(self.encodings.deflate_policy()),
            accept: upgrade.accept,
            protocol,
            origin: None,
            first: None,
            app: None,
            graphql: None,
            turned_away: None,
            wire: ClientWire::WebSocket,
            greeting: Bytes::new(),
            probing: None,
        }
    }

    /// Returns what hooks are told of a client, if there are any.
    pub(super) fn origin(&self, head: &ConnectHead<'_>, address: IpAddr) -> Option<Arc<ClientOrigin>> {
        let backend = self.backend.as_ref().filter(|backend| backend.asks())?;
        Some(Arc::new(backend.origin(address, head.headers())))
    }

    /// Answers a request that hyper has read. A task waits for the upgraded socket and gives it to a worker.
    pub(super) fn open(
        self: &Arc<Self>,
        request: Request<Incoming>,
        opening: UpgradeOpening,
        admitted: Admitted,
    ) -> Response<Full<Bytes>> {
        let version = request.version();
        let response = opening.response(version);
        let router = self.clone();
        tokio::spawn(async move {
            let upgraded = match hyper::upgrade::on(request).await {
                Ok(upgraded) => upgraded,
                Err(error) => return router.lost(&io::Error::other(error)),
            };
            if let Some(probing) = opening.probing {
                router.change_over(upgraded, version, probing, opening.deflate).await;
                // Until then the connection keeps its own place.
                return drop(admitted);
            }
            if version == Version::HTTP_2 {
                let (near, far) = handed();
                router.hand_over(IncomingSocket::Handed(near), Bytes::new(), opening, admitted);
                return carry(TokioIo::new(upgraded), far).await;
            }
            let opened =
                own_stream(upgraded).and_then(|(stream, unread)| Ok((stream.into_socket()?, unread)));
            match opened {
                Ok((socket, unread)) => router.hand_over(socket, unread, opening, admitted),
                Err(error) => router.lost(&error),
            }
        });
        response
    }

    /// Gives a connection that was answered with 101 to a worker.
    pub(crate) fn hand_over(
        &self,
        socket: IncomingSocket,
        unread: Bytes,
        opening: UpgradeOpening,
        admitted: Admitted,
    ) {
        self.metrics.handshake(Handshake::Accepted);
        let UpgradeOpening {
            protocol,
            deflate,
            origin,
            first,
            app,
            graphql,
            turned_away,
            wire,
            greeting: head,
            ..
        } = opening;
        let (unanswered, connect, watcher) = (None, None, None);
        let new = NewClient {
            socket,
            unread,
            wire,
            head,
            unanswered,
            watcher,
            first,
            connect,
            protocol,
            deflate,
            admitted,
            origin,
            app,
            graphql,
            turned_away,
        };
        self.reception.receive(new);
    }

    /// Counts a client that went away before it was connected.
    pub(crate) fn lost(&self, error: &io::Error) {
        self.metrics.handshake(Handshake::Request);
        tracing::debug!(%error, "a client was gone before it was connected");
    }
}

/// Returns the connection itself, and the bytes read from it behind the request.
pub(super) fn own_stream(upgraded: Upgraded) -> io::Result<(HttpStream, Bytes)> {
    let parts = upgraded
        .downcast::<TokioIo<HttpStream>>()
        .map_err(|_| io::Error::other("the connection does not belong to this listener"))?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

/// Checks that the version that a client asks for is supported.
fn pusher_protocol(head: &ConnectHead<'_>) -> Result<(), Disconnect> {
    let Some(version) = head.query("protocol") else {
        return Err(turned_away(4008, "no protocol version is given"));
    };
    match version.parse::<u32>() {
        Ok(pusher::PROTOCOL_MIN..=pusher::PROTOCOL) => Ok(()),
        Ok(_) => Err(turned_away(4007, "only protocol versions 5 to 7 are supported")),
        Err(_) => Err(turned_away(4006, "the protocol version is not a number")),
    }
}

fn turned_away(code: u16, why: &'static str) -> Disconnect {
    Disconnect { code, reason: why.into() }
}

fn wants_protobuf(head: &ConnectHead<'_>, upgrade: &Upgrade<'_>) -> bool {
    let offers = |name| upgrade.subprotocols.contains(&name);
    offers(CENTRIFUGE_PROTOBUF) && !offers(CENTRIFUGE_JSON)
        || ["format", "cf_protocol"].iter().any(|name| head.query(name).as_deref() == Some("protobuf"))
}

fn wants_transport_pings(head: &ConnectHead<'_>) -> bool {
    head.query("cf_ws_frame_ping_pong").as_deref() == Some("true")
}

/// Returns the subprotocol to choose if it is offered.
fn default_subprotocol(in_protobuf: bool) -> &'static str {
    if in_protobuf { CENTRIFUGE_PROTOBUF } else { CENTRIFUGE_JSON }
}

pub(super) fn read<'h>(head: &ConnectHead<'h>) -> Result<Upgrade<'h>, HttpRefusal> {
    head.upgrade().map_err(|error| {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
        let header = error.header();
        let header =
            header.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        HttpRefusal::new(Handshake::Upgrade, status, error.to_string()).with(header)
    })
}

/// Returns the token of a client of a raw endpoint: from its `Authorization` header, or offered as a subprotocol. Empty if
/// there is none.
pub(super) fn token(head: &ConnectHead<'_>, upgrade: &Upgrade<'_>) -> Result<String, HttpRefusal> {
    if let Some(token) = head.bearer().map_err(malformed)? {
        return Ok(token.to_owned());
    }
    let offered = upgrade.subprotocols.iter().find_map(|offered| offered.strip_prefix(TOKEN_PREFIX));
    Ok(offered.unwrap_or_default().to_owned())
}

fn malformed(why: impl Into<String>) -> HttpRefusal {
    HttpRefusal::new(Handshake::Upgrade, StatusCode::BAD_REQUEST, why.into())
}
