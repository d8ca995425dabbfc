//! The entry point of the API: from HTTP requests to commands.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use parking_lot::RwLock;
use serde_json::json;
use shared::error::ErrorCode;
use shared::protocol::socketio::SocketIoShared;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::api_config::{ApiConfig, ErrorMode};
use super::api_error::ApiError;
use super::api_keys::ApiKeys;
use super::api_request::{BatchRequest, Method, OlderCommand};
use super::api_response;
use super::openapi;
use super::response_budget::ResponseBudget;
use super::run_command::ApiCall;
use crate::bodies::{BodyError, ReceivedBody};
use crate::node::Node;
use crate::secret::SecretFileError;
use crate::telemetry::traces::{SPANS, join_callers_trace};

/// The prefix of the API's paths.
pub const PREFIX: &str = "/api/";

/// The path to which older client libraries send all their commands.
const OLDER_PATH: &str = "/api";

/// The method that combines others.
const BATCH: &str = "batch";

/// The method that concerns the node itself, rather than a channel or client.
const RELOAD: &str = "reload";

/// Reloads the configuration. Returns what has changed as JSON, or why nothing has. May block on files.
pub(crate) trait ReloadFn: Send + Sync + fmt::Debug {
    fn reload(&self) -> Result<serde_json::Value, String>;
}

/// The endpoint at a path.
#[derive(Clone, Copy, Debug)]
enum ApiEndpoint {
    One(Method),
    Batch,
    /// Commands that name their methods themselves.
    Older,
    /// A reload of this node's configuration.
    Reload,
}

impl ApiEndpoint {
    fn of(path: &str) -> Option<Self> {
        if path == OLDER_PATH {
            return Some(Self::Older);
        }
        match path.strip_prefix(PREFIX)? {
            BATCH => Some(Self::Batch),
            RELOAD => Some(Self::Reload),
            name => Method::parse(name).map(Self::One),
        }
    }

    /// Returns the value of the metric's label: never the requested path, which is unbounded.
    fn label(endpoint: Option<Self>) -> &'static str {
        match endpoint {
            Some(Self::One(method)) => method.name(),
            Some(Self::Batch) => BATCH,
            Some(Self::Older) => "older",
            Some(Self::Reload) => RELOAD,
            None => "unknown",
        }
    }
}

/// Headers that ask for an HTTP status in place of 200 for protocol errors, with the value `transport`.
const ERROR_MODE_HEADERS: [&str; 2] = ["x-tidegate-error-mode", "x-centrifugo-error-mode"];

const JSON: HeaderValue = HeaderValue::from_static("application/json");

#[derive(Debug)]
pub struct Api {
    config: ApiConfig,
    /// May be replaced while the node runs.
    keys: RwLock<ApiKeys>,
    reload: OnceLock<Arc<dyn ReloadFn>>,
    socketio: OnceLock<Arc<SocketIoShared>>,
    node: Arc<Node>,
    /// One permit for each request that may be served at once.
    room: Semaphore,
    /// Cancelled when no more requests are begun.
    closed: CancellationToken,
}

/// Why a request was refused before it was read.
struct ApiBodyError {
    status: StatusCode,
    refused: ApiError,
}

impl Api {
    pub fn new(config: &ApiConfig, node: Arc<Node>) -> Result<Self, SecretFileError> {
        Ok(Self {
            keys: RwLock::new(ApiKeys::new(config)?),
            reload: OnceLock::new(),
            socketio: OnceLock::new(),
            room: Semaphore::new(config.requests_max),
            closed: CancellationToken::new(),
            config: config.clone(),
            node,
        })
    }

    /// Reads the keys of another configuration.
    pub(crate) fn read_keys(&self, config: &ApiConfig) -> Result<ApiKeys, SecretFileError> {
        ApiKeys::new(config)
    }

    /// Replaces the keys.
    pub(crate) fn set_keys(&self, keys: ApiKeys) {
        *self.keys.write() = keys;
    }

    /// Sets the function that reloads the configuration. Called once.
    pub(crate) fn reload_with(&self, reload: Arc<dyn ReloadFn>) {
        let _ = self.reload.set(reload);
    }

    /// Sets the namespaces of Socket.IO, if it is enabled. Called once.
    pub(crate) fn set_socketio(&self, common: Arc<SocketIoShared>) {
        let _ = self.socketio.set(common);
    }

    /// Stops accepting requests. Those in progress are answered.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Serves one request whose path begins with [`PREFIX`].
    pub async fn serve<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if request.uri().path() == openapi::PATH {
            return openapi::serve(request.method());
        }
        let admitted = self.keys.read().admit(request.uri(), request.headers());
        self.serve_endpoint(ApiEndpoint::of(request.uri().path()), admitted, request).await
    }

    /// Serves a request to a method whose caller was authenticated elsewhere.
    pub(crate) async fn serve_admitted<B>(&self, method: &str, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.serve_endpoint(Method::parse(method).map(ApiEndpoint::One), Ok(()), request).await
    }

    async fn serve_endpoint<B>(
        &self,
        endpoint: Option<ApiEndpoint>,
        admitted: Result<(), &'static str>,
        request: Request<B>,
    ) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let begun = Instant::now();
        let label = ApiEndpoint::label(endpoint);
        let span = tracing::info_span!(target: SPANS, "api", method = label);
        join_callers_trace(&span, request.headers());
        let response = match self.answer(endpoint, admitted, request).instrument(span).await {
            Ok(response) => response,
            Err(unread) => {
                let mut response = respond(unread.status, api_response::error(&unread.refused));
                match unread.status {
                    StatusCode::METHOD_NOT_ALLOWED => {
                        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                    }
                    StatusCode::SERVICE_UNAVAILABLE => {
                        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                    }
                    _ => {}
                }
                response
            }
        };
        self.node.metrics.api_request(label, response.status().as_u16(), begun.elapsed());
        response
    }

    async fn answer<B>(
        &self,
        endpoint: Option<ApiEndpoint>,
        admitted: Result<(), &'static str>,
        request: Request<B>,
    ) -> Result<Response<Full<Bytes>>, ApiBodyError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        admitted.map_err(|reason| {
            unread(StatusCode::UNAUTHORIZED, ApiError::with_detail(ErrorCode::Unauthorized, reason))
        })?;
        let Some(endpoint) = endpoint else {
            return Err(unread(StatusCode::NOT_FOUND, ErrorCode::MethodNotFound.into()));
        };
        if head.method != http::Method::POST {
            let refused = ApiError::bad_request("the server API accepts only POST");
            return Err(unread(StatusCode::METHOD_NOT_ALLOWED, refused));
        }
        if head.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            let refused = ApiError::bad_request("compressed bodies are not supported");
            return Err(unread(StatusCode::UNSUPPORTED_MEDIA_TYPE, refused));
        }
        let Ok(_permit) = self.room.try_acquire() else {
            let detail = format!(
                "this node already serves {} requests, its limit; nothing of this request was carried out",
                self.config.requests_max
            );
            let refused = ApiError::with_detail(ErrorCode::TooManyRequests, detail);
            return Err(unread(StatusCode::SERVICE_UNAVAILABLE, refused));
        };
        let deadline = Instant::now() + self.config.deadline();
        let body = tokio::select! {
            biased;
            () = self.closed.cancelled() => return Err(going_away()),
            body = self.read(&head.headers, body) => body?,
        };
        let room = ResponseBudget::of(self.config.answer_bytes_max);
        let call = ApiCall {
            config: &self.config,
            node: &self.node,
            body: &body,
            deadline,
            room: &room,
            namespaces: self.socketio.get().map(|common| &common.namespaces),
            side_by_side: 1,
        };
        let json: &[u8] = if body.is_empty() { b"{}" } else { &body };
        // serde would also accept an array of fields in order, which is not part of the API.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(unread(
                StatusCode::BAD_REQUEST,
                ApiError::bad_request("the body is not a JSON object"),
            ));
        }
        let malformed = |error: serde_json::Error| {
            unread(
                StatusCode::BAD_REQUEST,
                ApiError::bad_request(format!("the body cannot be read: {error}")),
            )
        };
        let mut out = BytesMut::with_capacity(256);
        let refused = match endpoint {
            ApiEndpoint::One(method) => {
                let command = method.read(json).map_err(malformed)?;
                let answer = call.run(&command).await;
                api_response::write(&answer, &mut out);
                answer.err()
            }
            ApiEndpoint::Batch => {
                let batch: BatchRequest<'_> = serde_json::from_slice(json).map_err(malformed)?;
                let answers = call
                    .run_batch(&batch)
                    .await
                    .map_err(|refused| unread(StatusCode::BAD_REQUEST, refused))?;
                api_response::write_batch(&batch.commands, &answers, &mut out);
                None
            }
            ApiEndpoint::Reload => {
                let reloaded = self.reload().await;
                match &reloaded {
                    Ok(done) => out.put_slice(json!({ "result": done }).to_string().as_bytes()),
                    Err(refused) => out.extend_from_slice(&api_response::error(refused)),
                }
                reloaded.err()
            }
            ApiEndpoint::Older => {
                let (ids, batch) = read_older(json, self.config.batch_commands_max)?;
                let answers = call
                    .run_batch(&batch)
                    .await
                    .map_err(|refused| unread(StatusCode::BAD_REQUEST, refused))?;
                for (at, (id, answer)) in ids.into_iter().zip(&answers).enumerate() {
                    if at > 0 {
                        out.put_u8(b'\n');
                    }
                    api_response::write_older(id, answer, &mut out);
                }
                // The status can report a single command only.
                answers.into_iter().next().filter(|_| batch.commands.len() == 1).and_then(Result::err)
            }
        };
        Ok(match refused {
            Some(refused) if self.reports_by_status(&head.headers) => {
                let mut out = BytesMut::with_capacity(128);
                refused.write(&mut out);
                respond(refused.status(), out.freeze())
            }
            _ => respond(StatusCode::OK, out.freeze()),
        })
    }

    async fn reload(&self) -> Result<serde_json::Value, ApiError> {
        let Some(reload) = self.reload.get().cloned() else {
            return Err(ApiError::not_available("this node cannot reload its configuration"));
        };
        let reloaded = tokio::task::spawn_blocking(move || reload.reload()).await;
        reloaded.map_err(|_| ApiError::from(ErrorCode::Internal))?.map_err(ApiError::bad_request)
    }

    fn reports_by_status(&self, headers: &HeaderMap) -> bool {
        let mode = ERROR_MODE_HEADERS.iter().find_map(|name| headers.get(*name));
        mode.map_or(self.config.error_mode == ErrorMode::Transport, |mode| mode == "transport")
    }

    /// Reads the body, within the limits of size and time.
    async fn read<B>(&self, headers: &HeaderMap, body: B) -> Result<ReceivedBody, ApiBodyError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let max = self.config.body_bytes_max;
        let refused = |error: BodyError| {
            let refused = ApiError::bad_request(error.to_string());
            match error {
                BodyError::TooLong(_) => unread(StatusCode::PAYLOAD_TOO_LARGE, refused),
                BodyError::Broken(_) => unread(StatusCode::BAD_REQUEST, refused),
                BodyError::Late => unread(StatusCode::REQUEST_TIMEOUT, refused),
                BodyError::Crowded => {
                    let refused = ApiError::with_detail(ErrorCode::TooManyRequests, error.to_string());
                    unread(StatusCode::SERVICE_UNAVAILABLE, refused)
                }
            }
        };
        let announced =
            headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > max as u64) {
            return Err(refused(BodyError::TooLong(max)));
        }
        self.node.bodies().read(body, max, self.config.deadline()).await.map_err(refused)
    }
}

fn going_away() -> ApiBodyError {
    let detail = "this node is stopping; nothing of this request was carried out: send it to another node";
    unread(StatusCode::SERVICE_UNAVAILABLE, ApiError::with_detail(ErrorCode::Internal, detail))
}

fn unread(status: StatusCode, refused: ApiError) -> ApiBodyError {
    ApiBodyError { status, refused }
}

/// Reads consecutive commands and their ids. All are read before any is executed.
fn read_older(json: &[u8], max: usize) -> Result<(Vec<u32>, BatchRequest<'_>), ApiBodyError> {
    let bad = |detail: String| unread(StatusCode::BAD_REQUEST, ApiError::bad_request(detail));
    let (mut ids, mut batch) = (Vec::new(), BatchRequest::default());
    for older in serde_json::Deserializer::from_slice(json).into_iter::<OlderCommand<'_>>() {
        let older = older.map_err(|error| bad(format!("the body cannot be read: {error}")))?;
        if ids.len() >= max {
            return Err(bad(format!("the body holds more than {max} commands")));
        }
        let method = Method::parse(&older.method)
            .ok_or_else(|| bad("a command names an unknown method".to_owned()))?;
        let params = older.params.map_or("{}", |params| params.get());
        let command = method
            .read(params.as_bytes())
            .map_err(|error| bad(format!("the parameters of {} cannot be read: {error}", method.name())))?;
        ids.push(older.id);
        batch.commands.push(command);
    }
    Ok((ids, batch))
}

fn respond(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

#[cfg(test)]
mod tests;
