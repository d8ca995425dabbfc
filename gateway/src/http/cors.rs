//! CORS: pages of other origins that may connect may also read responses (the Fetch standard's CORS protocol).

use bytes::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};

use crate::http::Body;
use crate::http::head::ConnectHead;

/// How long a browser may cache the response to a preflight, in seconds.
const PREFLIGHT_SECONDS: &str = "300";
/// Longest list of headers that a preflight may request, in bytes.
const REQUEST_HEADERS_BYTES_MAX: usize = 512;

/// Returns the CORS headers of the response to this request, whose origin was checked before.
pub(super) fn headers(head: &ConnectHead<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let origin = head.header("origin").and_then(|origin| HeaderValue::from_bytes(origin).ok());
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    }
    headers
}

/// Returns the headers one by one. Each has one value.
pub(super) fn lines(headers: HeaderMap) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    headers.into_iter().filter_map(|(name, value)| Some((name?, value)))
}

/// Returns the response to a preflight for a request with one of these methods.
pub(super) fn preflight(head: &ConnectHead<'_>, methods: &'static str) -> Response<Body> {
    let mut response = Response::new(super::whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers_of_answer = response.headers_mut();
    headers_of_answer.extend(headers(head));
    let mut insert = |name: HeaderName, value| headers_of_answer.insert(name, value);
    insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_SECONDS));
    let requested = head.header("access-control-request-headers");
    let requested = requested.filter(|requested| requested.len() <= REQUEST_HEADERS_BYTES_MAX);
    if let Some(requested) = requested.and_then(|requested| HeaderValue::from_bytes(requested).ok()) {
        insert(header::ACCESS_CONTROL_ALLOW_HEADERS, requested);
    }
    response
}
