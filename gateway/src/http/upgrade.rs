//! Turning a request into a client's connection: every check before the 101, then the socket goes to a worker.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use shared::command::Since;
use shared::framing::websocket::{self, HandshakeError, Upgrade};
use shared::protocol::Protocol;
use shared::protocol::raw::Raw;

use crate::connection::open::{NewConnection, Socket};
use crate::http::{Refused, Router, query, refuse};
use crate::listener::{Admitted, Stream};
use crate::telemetry::labels::Handshake;

/// Centrifuge clients may name the protocol or say nothing.
const CENTRIFUGE_JSON: &str = "centrifuge-json";
const CENTRIFUGE_PROTOBUF: &str = "centrifuge-protobuf";

/// What a bare client may name, so that it can offer its token beside it.
const RAW: &str = "tidegate.raw";
/// Browsers cannot set headers: they offer their token as a protocol that is never chosen.
const TOKEN_PREFIX: &str = "tidegate.token.";

impl Router {
    /// `/connection/websocket`: the Centrifuge protocol.
    pub(super) fn open_centrifuge(&self, request: Request<Incoming>, admitted: Admitted) -> Result<Response<Full<Bytes>>, Refused> {
        let upgrade = read(&request)?;
        let wants_protobuf = upgrade.subprotocols.contains(&CENTRIFUGE_PROTOBUF)
            && !upgrade.subprotocols.contains(&CENTRIFUGE_JSON)
            || ["format", "cf_protocol"].iter().any(|name| query(&request, name).as_deref() == Some("protobuf"));
        if wants_protobuf {
            return Err(Refused::new(Handshake::Malformed, StatusCode::BAD_REQUEST, "this endpoint speaks JSON; Protobuf is not served"));
        }
        let subprotocol = upgrade.select_subprotocol(&[CENTRIFUGE_JSON]);
        self.switch(&request, &upgrade, subprotocol, self.encodings.centrifuge_json.clone(), admitted)
            .map(|response| self.hand_over(request, response))
    }

    /// `/raw/{channel}`: a message is a publication.
    pub(super) fn open_raw(&self, channel: &str, request: Request<Incoming>, admitted: Admitted) -> Result<Response<Full<Bytes>>, Refused> {
        let upgrade = read(&request)?;
        let channel = percent_encoding::percent_decode_str(channel).decode_utf8();
        let channel = channel.map_err(|_| Refused::new(Handshake::Malformed, StatusCode::BAD_REQUEST, "the channel is not UTF-8"))?;
        let since = query(&request, "offset").map(|offset| {
            let offset = offset.parse().map_err(|_| {
                Refused::new(Handshake::Malformed, StatusCode::BAD_REQUEST, "offset must be a whole number")
            })?;
            Ok(Since { offset, epoch: query(&request, "epoch").unwrap_or_default().into() })
        });
        let token = token(&request, &upgrade).unwrap_or_default();
        let protocol: Arc<dyn Protocol> = Arc::new(Raw::new(channel.as_ref().into(), token.into(), since.transpose()?));
        let subprotocol = upgrade.select_subprotocol(&[RAW]);
        self.switch(&request, &upgrade, subprotocol, protocol, admitted).map(|response| self.hand_over(request, response))
    }
}
