//! `/emulation`: the commands of a client that is reached through a response, each request some of them.
//!
//! A request may come to any node: the client says which one has its session. It is answered when that node's session has
//! taken the commands, so that who waits for the answer before the next request has them carried out in their order.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use serde::Deserialize;

use crate::http::head::Head;
use crate::http::{Body, Handed, Refused, Router, Told, cors, whole};
use crate::telemetry::labels::Handshake;

pub(super) const METHODS: &str = "POST, OPTIONS";

/// As centrifuge-js and its like send it.
#[derive(Debug, Deserialize)]
struct Emulation<'a> {
    #[serde(borrow, default)]
    session: Cow<'a, str>,
    #[serde(borrow, default)]
    node: Cow<'a, str>,
    /// Commands, as they would stand in a message.
    #[serde(borrow)]
    data: Cow<'a, str>,
}

fn read_json(body: &[u8]) -> Result<Told, serde_json::Error> {
    let Emulation { session, node, data } = serde_json::from_slice(body)?;
    Ok(Told { node: node.into(), session: session.into(), data: Bytes::from(data.into_owned()) })
}

impl Router {
    /// Has the session that is named take the commands of this request.
    pub(super) async fn emulate(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        let cors = {
            let head = Head::of(&request);
            self.check_request(&head, METHODS)?;
            cors::headers(&head)
        };
        let emulated = async {
            let body = self.read_body(request.into_body()).await?;
            let told =
                read_json(&body).map_err(|error| refused(StatusCode::BAD_REQUEST, &error.to_string()))?;
            match (self.reception.tell)(told).await {
                Handed::Done => Ok(()),
                Handed::NoSuchNode => Err(refused(StatusCode::NOT_FOUND, "there is no such node")),
                Handed::TooLong => Err(refused(StatusCode::PAYLOAD_TOO_LARGE, "the commands are too long")),
                Handed::Failed => Err(refused(StatusCode::INTERNAL_SERVER_ERROR, "the node does not answer")),
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

fn refused(status: StatusCode, why: &str) -> Refused {
    Refused::new(Handshake::Request, status, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_a_text_beside_the_names_of_node_and_session() {
        let told = read_json(br#"{"session":"s","node":"n","data":"{\"id\":1}\n{\"id\":2}"}"#).unwrap();
        assert_eq!((&*told.session, &*told.node), ("s", "n"));
        assert_eq!(told.data, "{\"id\":1}\n{\"id\":2}");
    }

    #[test]
    fn what_is_no_text_is_refused_and_what_is_missing_names_nobody() {
        for wrong in [r#"{"session":"s","node":"n","data":{"id":1}}"#, r#"{"session":"s"}"#, "[]", ""] {
            assert!(read_json(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert_eq!(&*read_json(br#"{"data":""}"#).unwrap().node, "");
    }
}
