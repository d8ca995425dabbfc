//! The console: a page for operators, built into the program, and the requests that it makes to this node.
//!
//! The page uses methods of the server API, and no more than it needs. [`admit_operator`] decides who may use it. No
//! page of another origin can use the credentials that a browser remembers: each request carries a header that only
//! this page's script can send.

pub mod console_config;

mod admit_operator;
mod console_files;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;

use crate::api::Api;
use crate::clock::Clock;
use crate::secret::SecretFileError;
use crate::telemetry::{Metrics, Readiness, answer};

use admit_operator::{ConsoleRefusal, Gate};
use console_config::ConsoleConfig;

/// The path of the console.
pub(crate) const PREFIX: &str = "/console";

/// The header that the page's script sends with every request.
const CONSOLE_HEADER: HeaderName = HeaderName::from_static("x-tidegate-console");

/// The methods of the server API that only read.
const TELLING: [&str; 8] =
    ["info", "channels", "connections", "presence_stats", "history", "inspect", "closes", "explain"];
/// The methods that change something.
const CHANGING: [&str; 3] = ["publish", "disconnect", "unsubscribe"];

#[derive(Debug)]
pub(crate) struct Console {
    gate: Gate,
    read_only: bool,
    api: Arc<Api>,
    clock: Clock,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
}

impl Console {
    pub(crate) fn new(
        config: &ConsoleConfig,
        api: Arc<Api>,
        clock: Clock,
        readiness: Arc<Readiness>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SecretFileError> {
        Ok(Self { gate: Gate::new(config)?, read_only: config.read_only, api, clock, readiness, metrics })
    }

    /// Answers a request whose path begins with [`PREFIX`].
    pub(crate) async fn answer<B>(&self, request: Request<B>, peer: IpAddr) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
        if path.is_empty() {
            let mut response = plain(StatusCode::PERMANENT_REDIRECT, "");
            response.headers_mut().insert(LOCATION, HeaderValue::from_static("/console/"));
            return response;
        }
        match self.gate.admit(request.headers(), peer).await {
            Ok(()) => {}
            Err(ConsoleRefusal::Unauthorized) => {
                let mut response = plain(StatusCode::UNAUTHORIZED, "a password is needed\n");
                let ask = HeaderValue::from_static("Basic realm=\"Tidegate\", charset=\"UTF-8\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, ask);
                return response;
            }
            Err(ConsoleRefusal::TooMany) => {
                let mut response =
                    plain(StatusCode::TOO_MANY_REQUESTS, "too many wrong passwords: try again later\n");
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
                return response;
            }
        }
        if let Some(method) = path.strip_prefix("/api/") {
            return self.ask(method, request).await;
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match &*path {
            "/metrics" | "/readyz" => {
                answer(&Method::GET, &path, None, self.clock.now(), &self.readiness, &self.metrics)
            }
            "/settings" => console_files::json(
                &serde_json::json!({ "read_only": self.read_only, "version": crate::VERSION }),
            ),
            _ => console_files::find(&path).unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "not found\n")),
        }
    }

    /// Calls one of the methods of the server API.
    async fn ask<B>(&self, method: &str, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if !request.headers().contains_key(&CONSOLE_HEADER) {
            return plain(StatusCode::FORBIDDEN, "only the console's page may send this request\n");
        }
        if CHANGING.contains(&method) && self.read_only {
            return plain(StatusCode::FORBIDDEN, "the console is read-only (console.read_only)\n");
        }
        if !CHANGING.contains(&method) && !TELLING.contains(&method) {
            return plain(StatusCode::NOT_FOUND, "not found\n");
        }
        self.api.serve_admitted(method, request).await
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
