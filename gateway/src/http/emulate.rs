//! `/emulation`: requests that carry commands of a client reached through a response.
//!
//! A request may reach any node: the client names the one that has its session. It is answered after that session has taken
//! the commands, so that a client that waits for the response before the next request has them carried out in order.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use prost::Message;
use serde::Deserialize;

use crate::http::head::ConnectHead;
use crate::http::{Body, DeliveryOutcome, EmulatedCommands, HttpRefusal, HttpRouter, cors, whole};
use crate::telemetry::labels::Handshake;

/// The content type of Protobuf.
const PROTOBUF: &[u8] = b"application/octet-stream";

pub(super) const METHODS: &str = "POST, OPTIONS";

/// The body as sent by clients that use JSON.
#[derive(Debug, Deserialize)]
struct Emulation<'a> {
    #[serde(borrow, default)]
    session: Cow<'a, str>,
    #[serde(borrow, default)]
    node: Cow<'a, str>,
    /// Commands, encoded as in a message.
    #[serde(borrow)]
    data: Cow<'a, str>,
}

/// The body in Protobuf.
#[derive(Message)]
struct WireEmulation {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(string, tag = "2")]
    session: String,
    #[prost(bytes = "bytes", tag = "3")]
    data: Bytes,
}

/// Reads the body of a request. The error says what is wrong with it.
pub(super) fn read_emulation(body: Bytes, in_protobuf: bool) -> Result<EmulatedCommands, String> {
    if in_protobuf {
        let WireEmulation { node, session, data } =
            WireEmulation::decode(body).map_err(|error| error.to_string())?;
        return Ok(EmulatedCommands { node: node.into(), session: session.into(), data });
    }
    let emulation = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let Emulation { session, node, data } = emulation;
    Ok(EmulatedCommands { node: node.into(), session: session.into(), data: Bytes::from(data.into_owned()) })
}

impl HttpRouter {
    /// Has the session that the request names take its commands.
    pub(super) async fn emulate(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, HttpRefusal> {
        let (cors, in_protobuf) = {
            let head = ConnectHead::of(&request);
            self.check_request(&head, METHODS)?;
            (cors::headers(&head), is_protobuf(&head))
        };
        let emulated = async {
            let body = self.read_body(request.into_body()).await?;
            let commands = read_emulation(body.clone(), in_protobuf);
            let commands = commands.map_err(|error| refused(StatusCode::BAD_REQUEST, &error))?;
            match (self.reception.tell)(commands).await {
                DeliveryOutcome::Done | DeliveryOutcome::NoSuchSession => Ok(()),
                DeliveryOutcome::Repeated => {
                    Err(refused(StatusCode::CONFLICT, "these commands are being carried out already"))
                }
                DeliveryOutcome::NoSuchNode => Err(refused(StatusCode::NOT_FOUND, "there is no such node")),
                DeliveryOutcome::TooLong => {
                    Err(refused(StatusCode::PAYLOAD_TOO_LARGE, "the commands are too long"))
                }
                DeliveryOutcome::Failed => {
                    Err(refused(StatusCode::INTERNAL_SERVER_ERROR, "the node does not answer"))
                }
            }
        };
        match emulated.await {
            Ok(()) => {
                let mut response = Response::new(whole(Bytes::new()));
                *response.status_mut() = StatusCode::NO_CONTENT;
                response.headers_mut().extend(cors);
                Ok(response)
            }
            Err(refused) => Err(refused.with(cors::lines(cors))),
        }
    }
}

/// Whether the body of a request is Protobuf.
pub(super) fn is_protobuf(head: &ConnectHead<'_>) -> bool {
    head.header("content-type").is_some_and(|kind| {
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(PROTOBUF)
    })
}

fn refused(status: StatusCode, why: &str) -> HttpRefusal {
    HttpRefusal::new(Handshake::Request, status, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_json(body: &str) -> Result<EmulatedCommands, String> {
        read_emulation(Bytes::copy_from_slice(body.as_bytes()), false)
    }

    #[test]
    fn commands_are_a_text_beside_the_names_of_node_and_session() {
        let commands = read_json(r#"{"session":"s","node":"n","data":"{\"id\":1}\n{\"id\":2}"}"#).unwrap();
        assert_eq!((&*commands.session, &*commands.node), ("s", "n"));
        assert_eq!(commands.data, "{\"id\":1}\n{\"id\":2}");
    }

    #[test]
    fn what_is_no_text_is_refused_and_what_is_missing_names_nobody() {
        for wrong in [r#"{"session":"s","node":"n","data":{"id":1}}"#, r#"{"session":"s"}"#, "[]", ""] {
            assert!(read_json(wrong).is_err(), "{wrong}");
        }
        assert_eq!(&*read_json(r#"{"data":""}"#).unwrap().node, "");
    }

    #[test]
    fn protobuf_is_read_by_its_numbers() {
        let body = Bytes::from_static(b"\x0a\x01n\x12\x01s\x1a\x02\x00\xff");
        let commands = read_emulation(body, true).unwrap();
        assert_eq!((&*commands.node, &*commands.session, &commands.data[..]), ("n", "s", &b"\x00\xff"[..]));
        assert!(read_emulation(Bytes::from_static(b"{}"), true).is_err());
    }
}
