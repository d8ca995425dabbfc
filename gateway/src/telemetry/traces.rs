//! Traces: the way of a publication from the API through the broker to its subscribers, as OTLP over HTTP.
//!
//! Spans have [`SPANS`] as their target. Where no collector is configured nothing subscribes to that target, and
//! creating a span costs a comparison.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData};
use parking_lot::Mutex;
use shared::stamp::TraceContext;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use super::telemetry_config::full_endpoint;
use super::{Reminder, TelemetryConfig};

/// The target of spans that belong to traces.
pub const SPANS: &str = "tidegate_trace";

/// The timeout for sending one batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer of a collector that is read, in bytes. It names rejected spans, if there are any.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why traces cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("traces cannot be sent to {endpoint}: {error}")]
    Exporter { endpoint: String, error: opentelemetry_otlp::ExporterBuildError },
}

/// The pipeline of traces to their collector. Spans wait in a bounded queue; when it is full, they are dropped.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    flush_timeout: Duration,
}

impl Traces {
    /// Returns `None` if no collector is configured. Sends from the tokio runtime that this is called in.
    pub fn start(config: &TelemetryConfig) -> Result<Option<Self>, TraceError> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
        let client = OnRuntime {
            runtime: tokio::runtime::Handle::current(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(full_endpoint(endpoint).unwrap_or_else(|_| endpoint.clone()))
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| TraceError::Exporter { endpoint: endpoint.clone(), error })?;
        let resource = Resource::builder().with_service_name(config.service_name.clone()).build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.trace_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(ReportingExporter { exporter, reminder: Mutex::new(Reminder::new()) })
            .with_resource(resource)
            .with_sampler(sampler)
            .build();
        Ok(Some(Self { provider, flush_timeout: Duration::from_millis(config.flush_timeout_ms) }))
    }

    /// Returns the layer for spans with the target [`SPANS`], and no others.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let only_traces = Targets::new().with_target(SPANS, tracing::Level::TRACE);
        tracing_opentelemetry::layer().with_tracer(self.provider.tracer("tidegate")).with_filter(only_traces)
    }

    /// Sends the waiting spans, for at most the configured time. Later spans are dropped.
    pub async fn flush(self) {
        let flushed =
            tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(self.flush_timeout));
        match flushed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "not all traces were sent"),
            Err(error) => tracing::warn!(%error, "sending the last traces failed"),
        }
    }
}

/// The number of batches of spans that this process could not send, for the metrics of its nodes.
static FAILED: AtomicU64 = AtomicU64::new(0);

/// Returns how many batches of spans could not be sent.
pub fn failed_exports() -> u64 {
    FAILED.load(Ordering::Relaxed)
}

/// Logs when spans cannot be sent: once, and once a minute while that lasts.
#[derive(Debug)]
struct ReportingExporter<E> {
    exporter: E,
    reminder: Mutex<Reminder>,
}

impl<E: opentelemetry_sdk::trace::SpanExporter> opentelemetry_sdk::trace::SpanExporter
    for ReportingExporter<E>
{
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.exporter.export(batch).await;
        let (mut reminder, now) = (self.reminder.lock(), Instant::now());
        match &sent {
            Ok(()) => {
                if let Some(lasted) = reminder.over(now) {
                    tracing::info!(after_s = lasted.as_secs(), "traces can be sent again");
                }
            }
            Err(error) => {
                FAILED.fetch_add(1, Ordering::Relaxed);
                if reminder.is_due(&error.to_string(), now) {
                    tracing::warn!(%error, spans, "traces cannot be sent and are lost");
                }
            }
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Makes `span` part of the trace in the caller's `traceparent` header (W3C Trace Context), if there is one.
pub fn join_callers_trace(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() || !headers.contains_key("traceparent") {
        return;
    }
    let context = TraceContextPropagator::new().extract(&Headers(headers));
    if let Err(error) = span.set_parent(context) {
        tracing::debug!(%error, "the caller's trace could not be joined");
    }
}

/// Returns the context of `span`, if its trace is sampled, for spans on other nodes.
pub fn sampled_trace(span: &Span) -> Option<TraceContext> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    let (trace, span) = (context.trace_id().to_bytes(), context.span_id().to_bytes());
    context
        .is_sampled()
        .then(|| TraceContext { trace: u128::from_be_bytes(trace), span: u64::from_be_bytes(span) })
}

/// Makes `span` a child of a span of another node, or of this one.
pub fn join_trace(span: &Span, parent: TraceContext) {
    if span.is_disabled() {
        return;
    }
    let parent = SpanContext::new(
        TraceId::from_bytes(parent.trace.to_be_bytes()),
        SpanId::from_bytes(parent.span.to_be_bytes()),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    if let Err(error) = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent)) {
        tracing::debug!(%error, "a publication's trace could not be joined");
    }
}

/// Adds the trace of `span`, if it has one, to the headers of an outgoing request.
pub fn pass_trace_on(span: &Span, headers: &mut HeaderMap) {
    if !span.is_disabled() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut IntoHeaders(headers));
    }
}

struct IntoHeaders<'a>(&'a mut HeaderMap);

impl Injector for IntoHeaders<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (http::HeaderName::from_bytes(key.as_bytes()), value.parse()) {
            self.0.insert(name, value);
        }
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Sends on the gateway's runtime: the exporter's own thread has none.
#[derive(Debug)]
struct OnRuntime {
    runtime: tokio::runtime::Handle,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl HttpClient for OnRuntime {
    fn send_bytes<'a, 'f>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let answered = async {
                let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
                let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
                Ok(Response::from_parts(head, body))
            };
            tokio::time::timeout(EXPORT_TIMEOUT, answered).await?
        });
        Box::pin(async move { sent.await? })
    }
}

#[cfg(test)]
mod tests;
