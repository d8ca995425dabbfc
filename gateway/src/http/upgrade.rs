//! Turning a request into a client's connection: every check before the 101, then the socket goes to a worker.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use shared::command::Since;
use shared::framing::websocket::{self, DeflateParams, Upgrade};
use shared::protocol::Protocol;
use shared::protocol::raw::Raw;

use crate::connection::open::NewConnection;
use crate::http::{Refused, Router, query};
use crate::listener::{Admitted, Stream};
use crate::telemetry::labels::Handshake;
use crate::worker::inbox::Event;

/// Centrifuge clients may name the protocol or say nothing.
const CENTRIFUGE_JSON: &str = "centrifuge-json";
const CENTRIFUGE_PROTOBUF: &str = "centrifuge-protobuf";

/// What a bare client may name, so that it can offer its token beside it.
const RAW: &str = "tidegate.raw";
/// Browsers cannot set headers: they offer their token as a protocol that is never chosen.
const TOKEN_PREFIX: &str = "tidegate.token.";

impl Router {
    /// `/connection/websocket`: the Centrifuge protocol.
    pub(super) fn open_centrifuge(
        &self,
        request: Request<Incoming>,
        admitted: Admitted,
    ) -> Result<Response<Full<Bytes>>, Refused> {
        let (response, deflate) = {
            let upgrade = read(&request)?;
            let wants_protobuf = upgrade.subprotocols.contains(&CENTRIFUGE_PROTOBUF)
                && !upgrade.subprotocols.contains(&CENTRIFUGE_JSON)
                || ["format", "cf_protocol"]
                    .iter()
                    .any(|name| query(&request, name).as_deref() == Some("protobuf"));
            if wants_protobuf {
                return Err(malformed("this endpoint speaks JSON; Protobuf is not served"));
            }
            self.switching_protocols(&upgrade, upgrade.select_subprotocol(&[CENTRIFUGE_JSON]))
        };
        self.hand_over(request, self.encodings.centrifuge_json.clone(), deflate, admitted);
        Ok(response)
    }

    /// `/raw/{channel}`: a message is a publication.
    pub(super) fn open_raw(
        &self,
        channel: &str,
        request: Request<Incoming>,
        admitted: Admitted,
    ) -> Result<Response<Full<Bytes>>, Refused> {
        let channel = percent_encoding::percent_decode_str(channel)
            .decode_utf8()
            .map_err(|_| malformed("the channel in the path is not UTF-8"))?;
        let since = match query(&request, "offset") {
            None => None,
            Some(offset) => {
                let offset = offset.parse().map_err(|_| malformed("offset must be a whole number"))?;
                Some(Since { offset, epoch: query(&request, "epoch").unwrap_or_default().into() })
            }
        };
        let (response, deflate, token) = {
            let upgrade = read(&request)?;
            let token = token(&request, &upgrade)?;
            let (response, deflate) = self.switching_protocols(&upgrade, upgrade.select_subprotocol(&[RAW]));
            (response, deflate, token)
        };
        let protocol: Arc<dyn Protocol> = Arc::new(Raw::new(channel.as_ref().into(), token.into(), since));
        self.hand_over(request, protocol, deflate, admitted);
        Ok(response)
    }

    fn switching_protocols(
        &self,
        upgrade: &Upgrade<'_>,
        subprotocol: Option<&str>,
    ) -> (Response<Full<Bytes>>, Option<DeflateParams>) {
        let deflate = upgrade.negotiate_deflate(self.encodings.deflate_policy());
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        let mut insert = |name, value: &str| {
            // Each is base64, a token that was checked, or our own words.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        insert(header::SEC_WEBSOCKET_ACCEPT, &upgrade.accept);
        if let Some(subprotocol) = subprotocol {
            insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        if let Some(deflate) = &deflate {
            insert(header::SEC_WEBSOCKET_EXTENSIONS, &deflate.response());
        }
        (response, deflate)
    }

    /// Waits, beside the answer, until the socket is ours, and gives it to a worker.
    fn hand_over(
        &self,
        request: Request<Incoming>,
        protocol: Arc<dyn Protocol>,
        deflate: Option<DeflateParams>,
        admitted: Admitted,
    ) {
        let inbox = self.workers.next().clone();
        let metrics = self.metrics.clone();
        tokio::spawn(async move {
            let opened = async {
                let upgraded = hyper::upgrade::on(request).await.map_err(std::io::Error::other)?;
                let parts = upgraded
                    .downcast::<TokioIo<Stream>>()
                    .map_err(|_| std::io::Error::other("the connection is none of this listener's"))?;
                Ok::<_, std::io::Error>((parts.io.into_inner().into_socket()?, parts.read_buf))
            };
            match opened.await {
                Ok((socket, unread)) => {
                    metrics.handshake(Handshake::Accepted);
                    inbox.push(Event::Open(Box::new(NewConnection {
                        socket,
                        unread,
                        protocol,
                        deflate,
                        admitted,
                    })));
                }
                Err(error) => {
                    metrics.handshake(Handshake::Request);
                    tracing::debug!(%error, "a client was gone before it was connected");
                }
            }
        });
    }
}

fn read(request: &Request<Incoming>) -> Result<Upgrade<'_>, Refused> {
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    websocket::read_upgrade(request.method().as_str(), headers).map_err(|error| {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
        let mut refused = Refused::new(Handshake::Upgrade, status, error.to_string());
        if let Some((name, value)) = error.header() {
            refused.header = Some((HeaderName::from_static(name), HeaderValue::from_static(value)));
        }
        refused
    })
}

/// The token of a bare client: from its `Authorization` header, or offered as a subprotocol. Empty if there is none.
fn token(request: &Request<Incoming>, upgrade: &Upgrade<'_>) -> Result<String, Refused> {
    if let Some(value) = request.headers().get(header::AUTHORIZATION) {
        let value = value.to_str().map_err(|_| malformed("the Authorization header is not text"))?;
        return match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim().to_owned()),
            _ => Err(malformed("the Authorization header must be: Bearer, a space, the token")),
        };
    }
    let offered = upgrade.subprotocols.iter().find_map(|offered| offered.strip_prefix(TOKEN_PREFIX));
    Ok(offered.unwrap_or_default().to_owned())
}

fn malformed(why: impl Into<String>) -> Refused {
    Refused::new(Handshake::Upgrade, StatusCode::BAD_REQUEST, why.into())
}
