//! One hook: its requests within their deadline, their concurrency limit and the circuit breaker.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway_core::effect::Denial;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::error::ErrorCode;
use shared::refusal::Refusal;
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::backend_config::{BackendConfig, HookConfig, parse_line, parse_url};
use super::breaker::{Breaker, BreakerSettings, BreakerTransition, Health, Pass};
use super::client::{HookResponse, HttpClient};
use super::failure::HookFailure;
use super::hook_request::HookRequest;
use super::hook_response::{self, InvalidResult};
use super::sign_request::{HOOK, HookSigner};
use crate::clock::Clock;
use crate::telemetry::backend_metrics::HookMetrics;
use crate::telemetry::traces::{SPANS, pass_trace_on};
use crate::telemetry::{LogLimiter, Metrics};

/// The kinds of hooks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HookKind {
    Connect,
    Refresh,
    Subscribe,
    SubRefresh,
    Publish,
    MapPublish,
    MapRemove,
    Rpc,
    Message,
    Graphql,
    SocketIo,
    Poll,
    Events,
}

impl HookKind {
    /// Returns the hook's name: its section, its label in metrics, and the kind that its requests state.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Refresh => "refresh",
            Self::Subscribe => "subscribe",
            Self::SubRefresh => "sub_refresh",
            Self::Publish => "publish",
            Self::MapPublish => "map_publish",
            Self::MapRemove => "map_remove",
            Self::Rpc => "rpc",
            Self::Message => "message",
            Self::Graphql => "graphql",
            Self::SocketIo => "socketio",
            Self::Poll => "poll",
            Self::Events => "events",
        }
    }

    /// Whether the hook only asks, so that sending a request twice does no harm.
    fn only_asks(self) -> bool {
        matches!(
            self,
            Self::Connect | Self::Refresh | Self::Subscribe | Self::SubRefresh | Self::Graphql | Self::Poll
        )
    }
}

/// The origin of a client, as far as hooks receive it.
#[derive(Clone, Debug, Default)]
pub struct ClientOrigin {
    pub address: Option<IpAddr>,
    /// Headers of the client's handshake.
    pub headers: HeaderMap,
    /// Headers of the client's connect command.
    pub emulated: HeaderMap,
}

/// Shared by all hooks of a node.
#[derive(Clone, Debug)]
pub(super) struct HookContext {
    pub(super) client: HttpClient,
    pub(super) signer: Option<Arc<HookSigner>>,
    pub(super) client_ip_header: Option<HeaderName>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Debug)]
pub(super) struct Hook {
    kind: HookKind,
    url: Uri,
    common: HookContext,
    timeout: Duration,
    retries: u32,
    retry_delay: Duration,
    answer_bytes_max: usize,
    http_headers: Vec<HeaderName>,
    emulated_headers: Vec<HeaderName>,
    static_headers: HeaderMap,
    failure: Refusal,
    permits: Semaphore,
    breaker: Breaker,
    metrics: HookMetrics,
    log: LogLimiter,
}

/// Ends the counts of a request and reports to the breaker, also if the caller drops the request.
struct HookInFlight<'a> {
    hook: &'a Hook,
    pass: Pass,
    health: Health,
}

impl Drop for HookInFlight<'_> {
    fn drop(&mut self) {
        self.hook.metrics.in_flight.dec();
        match self.hook.breaker.report(self.pass, self.health, Instant::now()) {
            BreakerTransition::None => {}
            BreakerTransition::Opened => {
                self.hook.metrics.breakers_open.inc();
                tracing::warn!(hook = self.hook.kind.name(), "a backend fails: its circuit breaker is open");
            }
            BreakerTransition::Closed => {
                self.hook.metrics.breakers_open.dec();
                tracing::info!(hook = self.hook.kind.name(), "a backend answers again");
            }
        }
    }
}

impl Hook {
    /// Creates a hook from settings that have been checked.
    pub(super) fn new(
        kind: HookKind,
        config: &BackendConfig,
        own: &HookConfig,
        common: &HookContext,
    ) -> Result<Self, String> {
        let names = |own: &Option<Vec<String>>, all: &Vec<String>| {
            let names = own.as_ref().unwrap_or(all).iter();
            names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect()
        };
        let lines = own.static_headers.as_ref().unwrap_or(&config.static_headers);
        let lines = lines.iter().map(parse_line).collect::<Result<Vec<_>, _>>()?;
        let message = own.failure_message.as_ref().unwrap_or(&config.failure_message);
        Ok(Self {
            kind,
            url: parse_url(&own.url)?,
            timeout: Duration::from_millis(own.timeout_ms.unwrap_or(config.timeout_ms)),
            retries: own.retries.unwrap_or(config.retries),
            retry_delay: Duration::from_millis(config.retry_delay_ms),
            answer_bytes_max: own.answer_bytes_max.unwrap_or(config.answer_bytes_max),
            http_headers: names(&own.http_headers, &config.http_headers),
            emulated_headers: names(&own.emulated_headers, &config.emulated_headers),
            static_headers: lines.into_iter().collect(),
            failure: Refusal {
                code: own.failure_code.unwrap_or(config.failure_code),
                message: message.clone().into(),
                temporary: own.failure_temporary.unwrap_or(config.failure_temporary),
            },
            permits: Semaphore::new(own.concurrency_max.unwrap_or(config.concurrency_max)),
            breaker: Breaker::new(BreakerSettings {
                failures: config.breaker_failures as usize,
                window: Duration::from_millis(config.breaker_window_ms),
                open_for: Duration::from_millis(config.breaker_open_ms),
            }),
            metrics: common.metrics.hook(kind.name(), &HookFailure::LABELS),
            log: LogLimiter::default(),
            common: common.clone(),
        })
    }

    pub(super) fn http_headers(&self) -> &[HeaderName] {
        &self.http_headers
    }

    pub(super) fn emulated_headers(&self) -> &[HeaderName] {
        &self.emulated_headers
    }

    /// Sends a request in the envelope that all hooks but `message` use. `mean` interprets the result; it gets `None`
    /// where the answer has none.
    pub(super) async fn ask<T: DeserializeOwned, U>(
        &self,
        origin: &ClientOrigin,
        question: &HookRequest<'_>,
        mean: impl Fn(Option<T>) -> Result<U, InvalidResult>,
    ) -> Result<U, Denial> {
        match self.question(origin, question, mean).await {
            Ok(answered) => answered,
            Err(failure) => Err(self.denied(&failure)),
        }
    }

    /// Like [`Self::ask`], for callers with a fallback of their own. A failure is returned and not counted yet.
    pub(super) async fn question<T: DeserializeOwned, U>(
        &self,
        origin: &ClientOrigin,
        question: &impl Serialize,
        mean: impl Fn(Option<T>) -> Result<U, InvalidResult>,
    ) -> Result<Result<U, Denial>, HookFailure> {
        let body = serde_json::to_vec(question).expect("questions are made of texts, numbers and JSON");
        let mut headers = self.headers_for(origin);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let read = |answer: HookResponse| match answer.status {
            StatusCode::OK => match hook_response::read_envelope::<T>(&answer.body)? {
                Ok(result) => mean(result).map(Ok).map_err(HookFailure::Malformed),
                Err(denial) => Ok(Err(denial)),
            },
            status => Err(HookFailure::Status(status)),
        };
        let answered = self.exchange(headers, &[], body.into(), read).await?;
        self.metrics.result(if answered.is_ok() { "answered" } else { "denied" });
        Ok(answered)
    }

    /// Counts and logs a failure, and returns the error for the client.
    pub(super) fn denied(&self, failure: &HookFailure) -> Denial {
        self.metrics.result(failure.label());
        if let Some(suppressed) = self.log.admit() {
            let reason = failure.label();
            tracing::warn!(
                hook = self.kind.name(), reason, %failure, suppressed,
                "a backend gave no answer, or an invalid one"
            );
        }
        Denial::Error(match failure {
            HookFailure::TooMany => ErrorCode::TooManyRequests.into(),
            HookFailure::Malformed(_) | HookFailure::TooLong { .. } => ErrorCode::Internal.into(),
            _ => self.failure.clone(),
        })
    }

    /// Returns the headers of a request for this client.
    pub(super) fn headers_for(&self, origin: &ClientOrigin) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let passed = [(&self.emulated_headers, &origin.emulated), (&self.http_headers, &origin.headers)];
        for (names, given) in passed {
            for name in names.iter().filter(|name| given.contains_key(*name)) {
                headers.remove(name);
                for value in given.get_all(name) {
                    headers.append(name.clone(), value.clone());
                }
            }
        }
        if let (Some(name), Some(address)) = (&self.common.client_ip_header, origin.address)
            && let Ok(value) = HeaderValue::from_str(&address.to_string())
        {
            headers.insert(name.clone(), value);
        }
        for name in self.static_headers.keys() {
            headers.remove(name);
        }
        headers.extend(self.static_headers.clone());
        headers
    }

    /// Counts a valid answer.
    pub(super) fn answered(&self) {
        self.metrics.result("answered");
    }

    /// Sends a request within all limits of the hook. `context` is signed beside the parts that are always signed.
    pub(super) async fn exchange<T>(
        &self,
        mut headers: HeaderMap,
        context: &[&[u8]],
        body: Bytes,
        read: impl Fn(HookResponse) -> Result<T, HookFailure>,
    ) -> Result<T, HookFailure> {
        let Ok(_permit) = self.permits.try_acquire() else { return Err(HookFailure::TooMany) };
        let Some(pass) = self.breaker.enter(Instant::now()) else { return Err(HookFailure::Open) };
        self.metrics.in_flight.inc();
        let mut in_flight = HookInFlight { hook: self, pass, health: Health::Unknown };
        headers.insert(HOOK, HeaderValue::from_static(self.kind.name()));

        let started = Instant::now();
        let deadline = tokio::time::Instant::now() + self.timeout;
        let span = tracing::info_span!(target: SPANS, "hook", hook = self.kind.name());
        pass_trace_on(&span, &mut headers);
        let tried = self.try_often(headers, context, body, &read, deadline).instrument(span);
        let outcome = tokio::time::timeout_at(deadline, tried).await.unwrap_or(Err(HookFailure::Timeout));
        self.metrics.seconds.observe(started.elapsed().as_secs_f64());
        in_flight.health = outcome.as_ref().err().map_or(Health::Well, HookFailure::health);
        outcome
    }

    async fn try_often<T>(
        &self,
        headers: HeaderMap,
        context: &[&[u8]],
        body: Bytes,
        read: &impl Fn(HookResponse) -> Result<T, HookFailure>,
        deadline: tokio::time::Instant,
    ) -> Result<T, HookFailure> {
        let mut delay = self.retry_delay;
        let mut tried = 0;
        loop {
            let mut headers = headers.clone();
            if let Some(signer) = &self.common.signer {
                let parts: Vec<&[u8]> =
                    std::iter::once(self.kind.name().as_bytes()).chain(context.iter().copied()).collect();
                signer.sign(&mut headers, self.common.clock.unix_seconds(), &parts, &body);
            }
            let answered =
                self.common.client.post(&self.url, headers, body.clone(), self.answer_bytes_max).await;
            let failure = match answered.and_then(read) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let again = failure.was_not_sent() || (self.kind.only_asks() && failure.may_pass());
            let pause = delay.mul_f64(rand::random_range(0.5..=1.0));
            if !again || tried >= self.retries || tokio::time::Instant::now() + pause >= deadline {
                return Err(failure);
            }
            self.metrics.retries.inc();
            tried += 1;
            tokio::time::sleep(pause).await;
            delay = delay.saturating_mul(2);
        }
    }
}
