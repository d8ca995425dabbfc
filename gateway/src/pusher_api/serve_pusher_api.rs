//! The entry of the API: checks HTTP requests, and dispatches them to the operations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::pusher_api_error::PusherApiError;
use super::pusher_request::{PusherApiEndpoint, is_path, read_batch, read_trigger};
use super::request_signature::Parameters;
use crate::bodies::{BodyError, ReceivedBody};
use crate::node::Node;
use crate::pusher::{Apps, PusherApp};

/// The size of a body beside the data of its events: names, and JSON inside a text, of which half may be escapes.
const ENVELOPE_BYTES: usize = 64 << 10;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The limits of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PusherApiLimits {
    pub(crate) requests_max: usize,
    pub(crate) deadline: Duration,
    /// The most channels in a list.
    pub(crate) list_max: usize,
}

#[derive(Debug)]
pub(crate) struct PusherApi {
    pub(super) apps: Arc<Apps>,
    pub(super) node: Arc<Node>,
    pub(super) limits: PusherApiLimits,
    /// One permit for each request that may be served concurrently.
    room: Semaphore,
    closed: CancellationToken,
}

/// A request that is being served.
#[derive(Clone, Copy, Debug)]
pub(super) struct PusherApiCall<'a> {
    pub(super) node: &'a Node,
    pub(super) app: &'a PusherApp,
    pub(super) parameters: &'a Parameters,
    pub(super) limits: PusherApiLimits,
    /// No operation begins after this.
    pub(super) deadline: Instant,
}

impl PusherApiCall<'_> {
    pub(super) fn in_time(&self) -> Result<(), PusherApiError> {
        match Instant::now() < self.deadline {
            true => Ok(()),
            false => Err(PusherApiError::unavailable(
                "the request took too long; the part that had not begun was not carried out",
            )),
        }
    }
}

impl PusherApi {
    pub(crate) fn new(apps: Arc<Apps>, node: Arc<Node>, limits: PusherApiLimits) -> Self {
        let room = Semaphore::new(limits.requests_max);
        Self { apps, node, limits, room, closed: CancellationToken::new() }
    }

    /// Whether a path is one of this API's.
    pub(crate) fn has(path: &str) -> bool {
        is_path(path)
    }

    /// Refuses new requests. Requests that have begun are answered.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    pub(crate) async fn serve<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let begun = Instant::now();
        let path = request.uri().path().to_owned();
        let endpoint = PusherApiEndpoint::of(&path);
        let label = endpoint.as_ref().map_or("pusher_unknown", |(_, endpoint)| endpoint.label());
        let response = match self.answer(endpoint, request).await {
            Ok(answer) => respond(StatusCode::OK, JSON, answer.to_string()),
            Err(PusherApiError { status, why }) => {
                let mut response = respond(status, TEXT, why + "\n");
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                }
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
                }
                response
            }
        };
        self.node.metrics.api_request(label, response.status().as_u16(), begun.elapsed());
        response
    }

    async fn answer<B>(
        &self,
        endpoint: Option<(Option<&str>, PusherApiEndpoint)>,
        request: Request<B>,
    ) -> Result<Value, PusherApiError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Some((id, endpoint)) = endpoint else {
            return Err(PusherApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path"));
        };
        let (head, body) = request.into_parts();
        if head.method != endpoint.method() {
            let why = format!("this path accepts only {}", endpoint.method());
            return Err(PusherApiError::new(StatusCode::METHOD_NOT_ALLOWED, why));
        }
        if head.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(PusherApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "compressed bodies are not supported",
            ));
        }
        let parameters = Parameters::read(head.uri.query())?;
        let app = match id {
            Some(id) => self.apps.with_id(id).ok_or("there is no app with this id"),
            None => {
                let key = parameters.get("auth_key").ok_or("auth_key is missing");
                key.and_then(|key| self.apps.with_key(key).ok_or("there is no app with this key"))
            }
        };
        let app = app.map_err(PusherApiError::unauthorized)?;
        let Ok(_permit) = self.room.try_acquire() else {
            return Err(PusherApiError::unavailable(
                "this node already serves its limit of requests; nothing of this request was carried out",
            ));
        };
        let deadline = Instant::now() + self.limits.deadline;
        let body = tokio::select! {
            biased;
            () = self.closed.cancelled() => {
                return Err(PusherApiError::unavailable("this node is stopping: send the request to another node"));
            }
            body = self.read(&endpoint, body) => body?,
        };
        let now = self.node.clock.unix_seconds();
        let of = (head.method.as_str(), head.uri.path());
        let config = &self.apps.config;
        parameters.check(&app, config.timestamp_tolerance_s, now, of, &body)?;
        let call = PusherApiCall {
            node: &self.node,
            app: &app,
            parameters: &parameters,
            limits: self.limits,
            deadline,
        };
        match endpoint {
            PusherApiEndpoint::Events => call.trigger(read_trigger(&body, config)?).await,
            PusherApiEndpoint::BatchEvents => call.trigger_batch(read_batch(&body, config)?).await,
            PusherApiEndpoint::Channels => call.channels().await,
            PusherApiEndpoint::Channel(name) => call.channel(&name).await,
            PusherApiEndpoint::Users(name) => call.users(&name).await,
            PusherApiEndpoint::TerminateConnections(user) => call.terminate(&user).await.map(|()| json!({})),
        }
    }

    /// Reads the body, up to the size limit of the endpoint and the deadline.
    async fn read<B>(&self, endpoint: &PusherApiEndpoint, body: B) -> Result<ReceivedBody, PusherApiError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let config = &self.apps.config;
        let events = match endpoint {
            PusherApiEndpoint::Events => 1,
            PusherApiEndpoint::BatchEvents => config.batch_events_max,
            _ => 0,
        };
        let max = ENVELOPE_BYTES + events * config.event_data_bytes_max * 2;
        self.node.bodies().read(body, max, self.limits.deadline).await.map_err(|error| {
            let why = error.to_string();
            match error {
                BodyError::TooLong(_) => PusherApiError::too_large(why),
                BodyError::Broken(_) => PusherApiError::bad_request(why),
                BodyError::Late => PusherApiError::new(StatusCode::REQUEST_TIMEOUT, why),
                BodyError::Crowded => PusherApiError::unavailable(why),
            }
        })
    }
}

fn respond(status: StatusCode, content_type: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
