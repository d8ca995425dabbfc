//! The paths of the internal listener: `/livez`, `/readyz`, `/metrics`.

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use shared::moment::Moment;

use super::exposition::ExpositionFormat;
use super::metrics::Metrics;
use super::readiness::Readiness;

/// Answers a request to the internal listener. `accept`: the header of that name.
pub fn answer(
    method: &Method,
    path: &str,
    accept: Option<&str>,
    now: Moment,
    readiness: &Readiness,
    metrics: &Metrics,
) -> Response<Full<Bytes>> {
    if !matches!(path, "/livez" | "/readyz" | "/metrics") {
        return text(StatusCode::NOT_FOUND, "not found: this listener serves /livez, /readyz and /metrics\n");
    }
    if *method != Method::GET && *method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is allowed\n");
    }
    match path {
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" => ready(now, readiness),
        _ => {
            readiness.show(now, metrics);
            let format = ExpositionFormat::wanted(accept);
            match metrics.render_as(format) {
                Ok(body) => {
                    let mut response = respond(StatusCode::OK, format.content_type(), body.into());
                    response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("accept"));
                    response
                }
                Err(error) => {
                    tracing::error!(%error, "metrics cannot be shown");
                    text(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be shown: see the log\n")
                }
            }
        }
    }
}

fn ready(now: Moment, readiness: &Readiness) -> Response<Full<Bytes>> {
    let verdict = readiness.verdict(now);
    let status = if verdict.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_vec(&verdict).expect("a verdict is made of booleans, numbers and texts");
    respond(status, "application/json", body.into())
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;

    fn ask(method: &Method, path: &str, readiness: &Readiness) -> (u16, String) {
        let response = answer(method, path, None, Moment(0), readiness, &Metrics::new());
        let status = response.status().as_u16();
        let body = futures_util::FutureExt::now_or_never(response.into_body().collect());
        let bytes = body.unwrap().unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn alive_is_not_ready() {
        let readiness = Readiness::new(Duration::from_secs(1));
        assert_eq!(ask(&Method::GET, "/livez", &readiness).0, 200);
        let (status, body) = ask(&Method::GET, "/readyz", &readiness);
        assert_eq!(status, 503);
        assert!(body.contains("the node has not started yet"), "{body}");
        readiness.set_started();
        readiness.canary_returned(0, Moment(0));
        let (status, body) = ask(&Method::HEAD, "/readyz", &readiness);
        assert_eq!((status, body.as_str()), (200, r#"{"ready":true,"reasons":[],"canary_age_ms":0}"#));
    }

    #[test]
    fn metrics_say_whether_the_node_is_ready() {
        let readiness = Readiness::new(Duration::from_secs(1));
        readiness.set_started();
        readiness.canary_returned(0, Moment(0));
        let (status, body) = ask(&Method::GET, "/metrics", &readiness);
        assert_eq!(status, 200);
        assert!(body.contains("\ntidegate_ready 1\n"), "{body}");
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        let readiness = Readiness::new(Duration::from_secs(1));
        assert_eq!(ask(&Method::GET, "/", &readiness).0, 404);
        assert_eq!(ask(&Method::POST, "/metrics", &readiness).0, 405);
    }
}
