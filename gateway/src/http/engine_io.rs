//! Requests of Engine.IO: what their addresses ask for, and what they are refused with.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use shared::framing::engine_io::PROTOCOL;
use shared::protocol::Protocol;
use shared::protocol::raw::Raw;

use crate::http::head::Head;
use crate::http::raw_paths::{RawPath, Transport as OfPath};
use crate::http::upgrade::{self, Opening};
use crate::http::{Refused, Router, cors};
use crate::telemetry::labels::Handshake;
use crate::transport::encodings::Wire;

/// What is spoken over Engine.IO at a path.
#[derive(Debug)]
pub(super) enum EngineIoPath {
    /// A path of a bare endpoint.
    Bound(Arc<RawPath>),
}

/// By what its client is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Polling,
    WebSocket,
}

/// Why a request is refused, in the words of the reference server: clients show them as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    UnknownTransport,
    UnknownSid,
    BadRequest,
    UnsupportedVersion,
}

impl Fault {
    fn told(self) -> &'static str {
        match self {
            Self::UnknownTransport => r#"{"code":0,"message":"Transport unknown"}"#,
            Self::UnknownSid => r#"{"code":1,"message":"Session ID unknown"}"#,
            Self::BadRequest => r#"{"code":3,"message":"Bad request"}"#,
            Self::UnsupportedVersion => r#"{"code":5,"message":"Unsupported protocol version"}"#,
        }
    }

    fn refused(self, head: &Head<'_>) -> Refused {
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let refused = Refused::new(Handshake::Request, StatusCode::BAD_REQUEST, self.told());
        refused.with([json]).with(cors::lines(cors::headers(head)))
    }
}

fn transport(head: &Head<'_>) -> Result<Transport, Fault> {
    match head.query("transport").as_deref() {
        Some("polling") => Ok(Transport::Polling),
        Some("websocket") => Ok(Transport::WebSocket),
        _ => Err(Fault::UnknownTransport),
    }
}

fn check_version(head: &Head<'_>) -> Result<(), Fault> {
    match head.query("EIO").as_deref() {
        Some(PROTOCOL) => Ok(()),
        _ => Err(Fault::UnsupportedVersion),
    }
}

impl Router {
    /// What is spoken over Engine.IO at this path, if anything is.
    pub(super) fn engine_io_at(&self, path: &str) -> Option<EngineIoPath> {
        let bound = self.raw_paths.find(path)?;
        (bound.transport == OfPath::EngineIo).then_some(EngineIoPath::Bound(bound))
    }

    /// A request to become a WebSocket with packets in it.
    pub(super) fn read_engine_io(&self, path: &EngineIoPath, head: &Head<'_>) -> Result<Opening, Refused> {
        let refused = |fault: Fault| fault.refused(head);
        if transport(head).map_err(refused)? != Transport::WebSocket {
            return Err(refused(Fault::BadRequest));
        }
        if head.query("sid").is_some() {
            return Err(refused(Fault::UnknownSid));
        }
        check_version(head).map_err(refused)?;
        let upgrade = upgrade::read(head)?;
        let protocol: Arc<dyn Protocol> = match path {
            EngineIoPath::Bound(bound) => {
                let token = upgrade::token(head, &upgrade)?;
                let raw = Raw::new(bound.channel.as_str().into(), token.into(), None);
                Arc::new(raw.taking(bound.messages.into()))
            }
        };
        let opening = self.opening(upgrade, upgrade::RAW, protocol);
        Ok(opening.over(Wire::EngineWebSocket, self.engine_io.greeting()))
    }
}
