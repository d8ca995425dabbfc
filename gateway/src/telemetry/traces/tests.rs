//! Tests traces with a collector that decodes them as a real one does.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as SentSpan;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

type Received = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// Starts a collector, and returns its address and the spans that it receives.
async fn collector() -> (String, Received) {
    let received = Received::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let kept = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = kept.clone();
            let service = service_fn(move |request: Request<Incoming>| take(kept.clone(), request));
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (endpoint, received)
}

async fn take(kept: Received, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.uri().path(), "/v1/traces");
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    kept.lock().push(ExportTraceServiceRequest::decode(body).unwrap());
    Ok(Response::new(Full::default()))
}

fn spans(received: &Received) -> Vec<SentSpan> {
    let requests = received.lock();
    let scopes =
        requests.iter().flat_map(|request| &request.resource_spans).flat_map(|spans| &spans.scope_spans);
    scopes.flat_map(|scope| scope.spans.clone()).collect()
}

fn config(endpoint: String, trace_ratio: f64) -> TelemetryConfig {
    TelemetryConfig {
        otlp_endpoint: Some(endpoint),
        trace_ratio,
        service_name: "gateway-of-a-test".to_owned(),
        ..TelemetryConfig::default()
    }
}

/// Creates the spans of a publication, as the node does.
fn publish(headers: &HeaderMap) {
    let publish = tracing::info_span!(target: SPANS, "publish", channel = "prices:AAPL");
    join_callers_trace(&publish, headers);
    let _in_publish = publish.enter();
    let _broker = tracing::info_span!(target: SPANS, "broker publish").entered();
    tracing::info_span!("of no trace");
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_reach_the_collector_with_their_names_their_parents_and_the_service() {
    let (endpoint, received) = collector().await;
    let traces = Traces::start(&config(endpoint, 1.0)).unwrap().unwrap();
    let subscriber = Registry::default().with(traces.layer());
    tracing::subscriber::with_default(subscriber, || publish(&HeaderMap::new()));
    traces.flush().await;

    let spans = spans(&received);
    let find = |name: &str| spans.iter().find(|span| span.name == name).expect(name);
    assert_eq!(spans.len(), 2, "{spans:?}");
    let (publish, broker) = (find("publish"), find("broker publish"));
    assert_eq!(broker.parent_span_id, publish.span_id);
    assert_eq!(broker.trace_id, publish.trace_id);
    let channel = publish.attributes.iter().find(|attribute| attribute.key == "channel").unwrap();
    let channel = channel.value.as_ref().and_then(|value| value.value.clone());
    assert_eq!(channel, Some(Value::StringValue("prices:AAPL".to_owned())));

    let requests = received.lock();
    let resource = requests[0].resource_spans[0].resource.as_ref().unwrap();
    let name = resource.attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
    let name = name.value.as_ref().and_then(|value| value.value.clone());
    assert_eq!(name, Some(Value::StringValue("gateway-of-a-test".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_trace_is_joined_and_its_decision_to_sample_is_kept() {
    let (endpoint, received) = collector().await;
    let traces = Traces::start(&config(endpoint, 0.0)).unwrap().unwrap();
    let subscriber = Registry::default().with(traces.layer());
    let mut headers = HeaderMap::new();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    headers.insert("traceparent", parent.parse().unwrap());
    tracing::subscriber::with_default(subscriber, || {
        publish(&HeaderMap::new());
        publish(&headers);
    });
    traces.flush().await;

    let spans = spans(&received);
    assert_eq!(spans.len(), 2, "a ratio of 0 leaves only what the caller asked for: {spans:?}");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(spans.iter().all(|span| hex(&span.trace_id) == trace));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer_holds_the_end_up_no_longer_than_allowed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let config = TelemetryConfig { flush_timeout_ms: 100, ..config(endpoint, 1.0) };
    let traces = Traces::start(&config).unwrap().unwrap();
    let subscriber = Registry::default().with(traces.layer());
    tracing::subscriber::with_default(subscriber, || publish(&HeaderMap::new()));
    let flushed = tokio::time::timeout(Duration::from_secs(4), traces.flush()).await;
    assert!(flushed.is_ok(), "the flush went on past its deadline");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_base_address_of_a_collector_is_enough() {
    let (endpoint, received) = collector().await;
    let base = endpoint.strip_suffix("/v1/traces").unwrap().to_owned();
    let traces = Traces::start(&config(base, 1.0)).unwrap().unwrap();
    let subscriber = Registry::default().with(traces.layer());
    tracing::subscriber::with_default(subscriber, || publish(&HeaderMap::new()));
    traces.flush().await;
    assert_eq!(spans(&received).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_takes_nothing_is_counted() {
    let before = failed_exports();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let traces = Traces::start(&config(format!("http://{nobody}"), 1.0)).unwrap().unwrap();
    let subscriber = Registry::default().with(traces.layer());
    tracing::subscriber::with_default(subscriber, || publish(&HeaderMap::new()));
    traces.flush().await;
    assert!(failed_exports() > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_asked_next_is_told_the_trace_and_nothing_where_there_are_no_traces() {
    let (endpoint, _) = collector().await;
    let traces = Traces::start(&config(endpoint, 1.0)).unwrap().unwrap();
    let mut passed = HeaderMap::new();
    tracing::subscriber::with_default(Registry::default().with(traces.layer()), || {
        let mut callers = HeaderMap::new();
        let trace = "0af7651916cd43dd8448eb211c80319c";
        callers.insert("traceparent", format!("00-{trace}-b7ad6b7169203331-01").parse().unwrap());
        let span = tracing::info_span!(target: SPANS, "hook");
        join_callers_trace(&span, &callers);
        pass_trace_on(&span, &mut passed);
        let told = passed["traceparent"].to_str().unwrap();
        assert!(told.contains(trace) && !told.contains("b7ad6b7169203331"), "{told}");
    });
    passed.clear();
    tracing::subscriber::with_default(Registry::default(), || {
        pass_trace_on(&tracing::info_span!(target: SPANS, "hook"), &mut passed);
    });
    assert!(passed.is_empty(), "{passed:?}");
}

#[tokio::test]
async fn without_a_collector_there_are_no_traces() {
    assert!(Traces::start(&TelemetryConfig::default()).unwrap().is_none());
}
