//! Turning a request into a client's connection: every check before the 101, then the socket goes to a worker.

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

/// Centrifuge clients may name the protocol or say nothing.
const CENTRIFUGE_JSON: &str = "centrifuge-json";
const CENTRIFUGE_PROTOBUF: &str = "centrifuge-protobuf";

/// Where a client that says nothing later puts who it is.
const CONNECT_PARAMETER: &str = "cf_connect";

/// The subprotocol that a client of a raw endpoint may name, so that it can offer its token beside it.
pub(super) const RAW: &str = "tidegate.raw";
/// Browsers cannot set headers: they offer their token as a protocol that is never chosen.
const TOKEN_PREFIX: &str = "tidegate.token.";

/// What a request to connect comes to: how it is answered, and how its client is spoken to.
#[derive(Debug)]
pub(crate) struct UpgradeOpening {
    accept: String,
    subprotocol: Option<&'static str>,
    deflate: Option<DeflateParams>,
    protocol: Arc<dyn Protocol>,
    /// For the application's own servers, where any is asked.
    origin: Option<Arc<ClientOrigin>>,
    /// What the client says in the address.
    first: Option<Bytes>,
    /// Whose client it is, if it speaks Pusher.
    app: Option<Arc<PusherApp>>,
    /// The same value as `protocol`, if it speaks GraphQL.
    graphql: Option<Arc<GraphQl>>,
    turned_away: Option<Disconnect>,
    wire: ClientWire,
    /// Frames that it begins with, behind the answer.
    greeting: Bytes,
    /// It has a session already, and tries a WebSocket.
    probing: Option<ProbeRequest>,
}

impl UpgradeOpening {
    /// For a client of GraphQL. What it is told is made for it alone, and goes out as it is.
    pub(super) fn of_operations(self, graphql: Arc<GraphQl>, turned_away: Option<Disconnect>) -> Self {
        Self { graphql: Some(graphql), turned_away, deflate: None, ..self }
    }

    /// With what is known of where the client comes from.
    pub(super) fn from(self, origin: Option<Arc<ClientOrigin>>) -> Self {
        Self { origin, ..self }
    }

    /// The same over another framing, beginning with these frames.
    pub(super) fn over(self, wire: ClientWire, greeting: Bytes) -> Self {
        Self { wire, greeting, ..self }
    }

    /// The same for a client that has a session already.
    pub(super) fn probing(self, probing: ProbeRequest) -> Self {
        Self { probing: Some(probing), ..self }
    }

    /// Whether something is to be heard of the client before a worker has it.
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
            // Each is base64 or our own words.
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

    /// The same, as bytes.
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

    /// `/connection/websocket`: the Centrifuge protocol.
    fn read_centrifuge(&self, head: &ConnectHead<'_>) -> Result<UpgradeOpening, HttpRefusal> {
        let upgrade = read(head)?;
        let (in_protobuf, with_transport_pings) =
            (wants_protobuf(head, &upgrade), wants_transport_pings(head));
        let protocol = self.encodings.centrifuge(in_protobuf, with_transport_pings);
        Ok(self.opening(upgrade, known(in_protobuf), protocol))
    }

    /// `/connection/uni_websocket`: what the client is told, once it has said who it is, in its first message or in the
    /// address.
    fn read_centrifuge_uni(&self, head: &ConnectHead<'_>) -> Result<UpgradeOpening, HttpRefusal> {
        let upgrade = read(head)?;
        let (in_protobuf, with_transport_pings) =
            (wants_protobuf(head, &upgrade), wants_transport_pings(head));
        let first = head.form_query(CONNECT_PARAMETER);
        if in_protobuf && first.is_some() {
            return Err(malformed(format!("{CONNECT_PARAMETER} is for those who speak JSON")));
        }
        let protocol =
            self.encodings.centrifuge_uni(in_protobuf, ClientWire::WebSocket, with_transport_pings);
        let opening = self.opening(upgrade, known(in_protobuf), protocol);
        Ok(UpgradeOpening { first: first.map(Bytes::from), ..opening })
    }

    /// `/raw/{channel}`, and the paths that stand for a channel.
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

    /// `/app/{key}`: Pusher. Its clients go by close codes: a request that is wrong is let in to be told so.
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
        // No subprotocol: there is none that all of its clients offer.
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

    /// What the application's servers may be told of a client, if they are asked anything.
    pub(super) fn origin(&self, head: &ConnectHead<'_>, address: IpAddr) -> Option<Arc<ClientOrigin>> {
        let backend = self.backend.as_ref().filter(|backend| backend.asks())?;
        Some(Arc::new(backend.origin(address, head.headers())))
    }

    /// Answers a request that hyper has read. Waits, beside the answer, until the socket is ours, and gives it to a
    /// worker.
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
                // Until then it counts as the connection that it is.
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

    /// Gives a connection that has been answered 101 to a worker.
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

    /// Counts a client that went away while it was answered.
    pub(crate) fn lost(&self, error: &io::Error) {
        self.metrics.handshake(Handshake::Request);
        tracing::debug!(%error, "a client was gone before it was connected");
    }
}

/// The connection itself, and what was read from it behind the request.
pub(super) fn own_stream(upgraded: Upgraded) -> io::Result<(HttpStream, Bytes)> {
    let parts = upgraded
        .downcast::<TokioIo<HttpStream>>()
        .map_err(|_| io::Error::other("the connection is none of this listener's"))?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

/// Whether the version of the protocol that a client asks for is spoken here.
fn pusher_protocol(head: &ConnectHead<'_>) -> Result<(), Disconnect> {
    let Some(version) = head.query("protocol") else {
        return Err(turned_away(4008, "no protocol version is given"));
    };
    match version.parse::<u32>() {
        Ok(pusher::PROTOCOL_MIN..=pusher::PROTOCOL) => Ok(()),
        Ok(_) => Err(turned_away(4007, "protocol versions 5 to 7 are spoken here")),
        Err(_) => Err(turned_away(4006, "the protocol version is no number")),
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

/// The subprotocol that is chosen if it is offered.
fn known(in_protobuf: bool) -> &'static str {
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

/// Returns the token of a client of a raw endpoint: from its `Authorization` header, or offered as a subprotocol. Empty if there is none.
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
