//! Tests the responses to malformed requests, and how errors appear in HTTP.

use ::http::header::{CONTENT_ENCODING, RETRY_AFTER};
use ::http::{HeaderValue, Request, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use serde_json::json;

use super::{KEY, fixture, post, with};
use crate::api::ErrorMode;
use crate::api::serve::ERROR_MODE_HEADERS;

#[tokio::test]
async fn bodies_that_are_no_json_of_the_right_shape_are_told_why() {
    let gateway = fixture().await;
    for (method, body) in [
        ("publish", "{"),
        ("publish", "{\"channel\":7}"),
        ("publish", "{\"channel\":\"a\",\"data\":1} x"),
        ("publish", "{\"channel\":\"a\",\"data\":01}"),
        ("history", "{\"limit\":\"all\"}"),
        ("info", "{\"a\":}"),
        ("batch", "{\"commands\":[7]}"),
    ] {
        let (status, answer) = gateway.raw(method, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{method} {body}");
        assert_eq!(answer["error"]["code"], 107);
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains("line 1 column"), "{message}");
    }
    for body in [&b"{\"channel\":\"\xff\"}"[..], b"[]", b"[\"a\",1]", b"7", b" "] {
        let (status, _) = gateway.raw("publish", body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body:?}");
    }
}

#[tokio::test]
async fn http_that_is_no_api_request_gets_its_status() {
    let gateway = with(|config| config.body_bytes_max = 1_024).await;
    let request = |method: &str, path: &str, key: &str| {
        Request::builder()
            .method(method)
            .uri(path)
            .header("X-API-Key", key)
            .body(Full::new(Bytes::new()))
            .unwrap()
    };
    for (request, expected, code) in [
        (request("POST", "/api/publish", "wrong"), 401, 101),
        (request("POST", "/api/nothing", KEY), 404, 104),
        (request("POST", "/api/", KEY), 404, 104),
        (request("POST", "/api/publish/", KEY), 404, 104),
        (request("GET", "/api/info", KEY), 405, 107),
        (post("publish", vec![b' '; 1_025].into()), 413, 107),
    ] {
        let (status, answer) = gateway.send(request).await;
        assert_eq!((status.as_u16(), answer["error"]["code"].as_u64()), (expected, Some(code)), "{answer}");
    }
    let mut compressed = post("info", Bytes::new());
    compressed.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    assert_eq!(gateway.send(compressed).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(gateway.raw("info", "").await.0, StatusCode::OK);
}

/// A body that sends its bytes and then stalls.
struct Stalls(Option<Bytes>);

impl Body for Stalls {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        match self.0.take() {
            Some(bytes) => std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(bytes)))),
            None => std::task::Poll::Pending,
        }
    }
}

fn stalling(first: &'static [u8]) -> Request<Stalls> {
    post("publish", Bytes::new()).map(|_| Stalls(Some(Bytes::from_static(first))))
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let gateway = with(|config| config.deadline_ms = 20).await;
    let response = gateway.api.serve(stalling(b"{\"channel\":")).await;
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn a_body_that_does_not_say_its_length_is_cut_off_while_it_is_read() {
    let gateway = with(|config| config.body_bytes_max = 1_024).await;
    let response = gateway.api.serve(stalling(&[b' '; 2_000])).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn more_requests_than_allowed_are_told_to_come_back() {
    let gateway = with(|config| config.requests_max = 1).await;
    let api = gateway.api.clone();
    let first = tokio::spawn(async move { api.serve(stalling(b"{")).await.status() });
    let mut second = gateway.api.serve(post("info", Bytes::new())).await;
    while second.status() == StatusCode::OK {
        // The first has not been polled yet.
        tokio::task::yield_now().await;
        second = gateway.api.serve(post("info", Bytes::new())).await;
    }
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(second.headers()[RETRY_AFTER], "1");
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(gateway.raw("info", "").await.0, StatusCode::OK);
}

#[tokio::test]
async fn errors_become_http_statuses_where_that_is_asked_for() {
    let gateway = fixture().await;
    for header in ERROR_MODE_HEADERS {
        for (method, params, expected) in [
            ("publish", json!({"channel": "unknown:a", "data": 1}), 404),
            ("publish", json!({"channel": ""}), 400),
            ("history", json!({"channel": "a"}), 400),
            ("history", json!({"channel": "kept:a", "since": {"offset": 1, "epoch": "x"}}), 416),
            ("publish", json!({"channel": "a", "data": 1}), 200),
        ] {
            let mut request = post(method, params.to_string().into());
            request.headers_mut().insert(header, HeaderValue::from_static("transport"));
            let (status, answer) = gateway.send(request).await;
            assert_eq!(status.as_u16(), expected, "{answer}");
            // The error is the whole body.
            assert_eq!(answer["code"].is_null(), expected == 200, "{answer}");
            assert_eq!(answer["result"].is_null(), expected != 200, "{answer}");
        }
    }
}

#[tokio::test]
async fn a_request_may_ask_otherwise_than_is_configured() {
    let gateway = with(|config| config.error_mode = ErrorMode::Transport).await;
    let status = async |mode: Option<&'static str>| {
        let mut request = post("publish", json!({"channel": "unknown:a", "data": 1}).to_string().into());
        if let Some(mode) = mode {
            request.headers_mut().insert(ERROR_MODE_HEADERS[0], HeaderValue::from_static(mode));
        }
        gateway.send(request).await.0.as_u16()
    };
    assert_eq!(
        [status(None).await, status(Some("transport")).await, status(Some("body")).await],
        [404, 404, 200]
    );
}

#[tokio::test]
async fn bodies_broken_in_any_way_are_answered() {
    use rand::{RngExt, SeedableRng};

    let whole = json!({"commands": [
        {"publish": {"channel": "kept:a", "data": {"a": [1, "\u{e9}\\"]}, "tags": {"k": "v"}, "idempotency_key": "x"}},
        {"publish": {"channel": "kept:b", "b64data": "AP8="}},
        {"broadcast": {"channels": ["a", "kept:a"], "data": -1.5e3, "skip_history": true}},
        {"history": {"channel": "kept:a", "limit": 3, "since": {"offset": 1, "epoch": "abc"}, "reverse": true}},
        {"disconnect": {"user": "u", "client": "c", "whitelist": ["w"], "disconnect": {"code": 4000, "reason": "r"}}},
        {"unsubscribe": {"user": "u", "channel": "a"}}
    ]})
    .to_string()
    .into_bytes();
    let gateway = fixture().await;
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let (mut done, mut refused) = (0, 0);
    for _ in 0..3_000 {
        let mut body = whole.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..body.len());
            match random.random_range(0..4) {
                0 => body[at] = random.random(),
                1 => body[at] = b"{}[]\",:\\0-n"[random.random_range(0..11)],
                2 => drop(body.remove(at)),
                _ => body.truncate(at + 1),
            }
        }
        let told = String::from_utf8_lossy(&body).into_owned();
        match gateway.raw("batch", body).await.0 {
            StatusCode::OK => done += 1,
            StatusCode::BAD_REQUEST => refused += 1,
            status => panic!("{status}: {told}"),
        }
    }
    assert!(done > 100 && refused > 100, "{done} {refused}");
}
