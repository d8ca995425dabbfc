//! `/sse`: channels as server-sent events, named in the URL.

use std::sync::Arc;

use gateway_core::hub::Layout;
use hyper::body::Incoming;
use hyper::{Request, Response};
use serde::{Deserialize, Serialize};
use shared::protocol::event_source::EventSourceRequest;

use crate::admission::Peer;
use crate::http::head::ConnectHead;
use crate::http::respond::{RefusalResponse, StreamOpening, headers_of_stream};
use crate::http::{Body, HttpRefusal, HttpRouter, TakeOver, cors};
use crate::setting::Faults;

pub(crate) const PATH: &str = "/sse";

pub(super) const METHODS: &str = "GET, OPTIONS";

/// Channels as event streams, for `EventSource`: `GET /sse?channel=news`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventStreamConfig {
    /// Serves `/sse`.
    pub enabled: bool,
    /// The reconnection delay that clients are given, in milliseconds. Each connection gets a random value from half
    /// to one and a half times of it. 0: the client's own default, which is 3 to 5 seconds in browsers.
    pub retry_ms: u32,
}

impl Default for EventStreamConfig {
    fn default() -> Self {
        Self { enabled: false, retry_ms: 2_000 }
    }
}

impl EventStreamConfig {
    pub fn check(&self, faults: &mut Faults) {
        faults.outside("retry_ms", u64::from(self.retry_ms), 0..=600_000);
    }
}

impl HttpRouter {
    /// Opens a client that follows the channels in its URL. A refused client is told so by a status, after which
    /// `EventSource` does not reconnect.
    pub(super) async fn follow_channels(
        self: &Arc<Self>,
        peer: &Peer,
        take_over: &TakeOver,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, HttpRefusal> {
        let opening = {
            let head = ConnectHead::of(&request);
            self.check_request(&head, METHODS)?;
            let cors = cors::headers(&head);
            let malformed = |why: String| HttpRefusal::malformed(why, &cors);
            let request =
                EventSourceRequest::read(head.query.unwrap_or_default(), head.header("last-event-id"))
                    .map_err(|unreadable| malformed(unreadable.to_string()))?;
            let request = request.with_token(head.bearer().map_err(|why| malformed(why.to_owned()))?);
            let admitted = self.admit(peer, &head)?;
            let types = request.types();
            StreamOpening {
                layout: Layout::Events,
                headers: headers_of_stream(Layout::Events, cors.clone()),
                waits: Some(RefusalResponse::with(cors)),
                watcher: None,
                first: None,
                connect: Some(Box::new(request.connect())),
                protocol: self.encodings.event_source(types),
                graphql: None,
                admitted,
                origin: self.origin(&head, self.address_of(peer, &head)),
            }
        };
        self.open_stream(take_over, opening, request.version()).await
    }
}
