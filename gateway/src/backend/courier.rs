//! Posts batches to one address, one after the other. Each is retried until it is accepted, refused for good, or past
//! its deadline.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use tokio::sync::watch;
use tokio::time::Instant;

use super::backend_config::{parse_line, parse_url};
use super::client::HttpClient;
use super::failure::HookFailure;
use crate::secret::Secret;
use crate::telemetry::Reminder;
use crate::telemetry::backend_metrics::{EventsMetrics, LostEvent};
use crate::telemetry::traces::{SPANS, pass_trace_on};

/// The pause before a retry: doubled each time, up to the maximum.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The longest response that is read. Its content does not matter.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The destination of batches, and its timeouts.
#[derive(Clone, Debug)]
pub(crate) struct BatchDestination<'a> {
    /// The recipient, for logs and traces.
    pub(crate) to: &'static str,
    pub(crate) url: &'a str,
    /// Headers of every request, each as `Name: value`.
    pub(crate) static_headers: &'a [Secret],
    /// The timeout of one attempt.
    pub(crate) timeout: Duration,
    /// How long a batch is retried.
    pub(crate) deadline: Duration,
    /// The time by which everything must have stopped, once that is known.
    pub(crate) stop: watch::Receiver<Option<Instant>>,
    pub(crate) metrics: EventsMetrics,
}

pub(crate) struct Courier {
    client: HttpClient,
    to: &'static str,
    url: Uri,
    headers: HeaderMap,
    timeout: Duration,
    deadline: Duration,
    stop: watch::Receiver<Option<Instant>>,
    metrics: EventsMetrics,
    reminder: Reminder,
}

impl Courier {
    pub(super) fn new(client: HttpClient, errand: BatchDestination<'_>) -> Result<Self, String> {
        let BatchDestination { to, url, static_headers, timeout, deadline, stop, metrics } = errand;
        let mut headers: HeaderMap = static_headers.iter().map(parse_line).collect::<Result<_, _>>()?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let url = parse_url(url)?;
        let reminder = Reminder::new();
        Ok(Self { client, to, url, headers, timeout, deadline, stop, metrics, reminder })
    }

    /// Returns the time by which everything must have stopped, once that is known.
    pub(crate) fn stop_at(&self) -> Option<Instant> {
        let at = *self.stop.borrow();
        // The sender is gone, so nobody can name a time any more: stop now.
        at.or_else(|| self.stop.has_changed().is_err().then(Instant::now))
    }

    /// Sends one batch of this many events, or gives it up. `sign` adds the headers that belong to one attempt.
    pub(crate) async fn deliver(
        &mut self,
        events: usize,
        body: Bytes,
        sign: impl Fn(&mut HeaderMap, &Bytes),
    ) -> Result<(), LostEvent> {
        let own_deadline = Instant::now() + self.deadline;
        let mut pause = PAUSE;
        let reason = loop {
            let deadline = self.stop_at().map_or(own_deadline, |stop| stop.min(own_deadline));
            let mut headers = self.headers.clone();
            sign(&mut headers, &body);
            let failure = match self.attempt(headers, body.clone(), deadline).await {
                Ok(()) => {
                    self.metrics.sent(events as u64);
                    if let Some(lasted) = self.reminder.over(std::time::Instant::now()) {
                        tracing::info!(to = self.to, after_s = lasted.as_secs(), "events are accepted again");
                    }
                    return Ok(());
                }
                Err(failure) => failure,
            };
            self.metrics.failed(failure.label());
            if self.reminder.is_due(failure.label(), std::time::Instant::now()) {
                tracing::warn!(to = self.to, reason = failure.label(), %failure, "events are not accepted");
            }
            if is_final(&failure) {
                break LostEvent::Refused;
            }
            if self.stop_at().is_some_and(|stop| stop <= Instant::now()) {
                break LostEvent::Stopping;
            }
            if own_deadline <= Instant::now() {
                break LostEvent::Deadline;
            }
            let wait = pause.mul_f64(rand::random_range(0.5..=1.0));
            pause = (pause * 2).min(PAUSE_MAX);
            self.rest(wait).await;
        };
        tracing::warn!(to = self.to, reason = reason.label(), events, "events are lost");
        Err(reason)
    }

    /// Waits before another attempt: a shorter time while the node is stopping.
    async fn rest(&self, wait: Duration) {
        if self.stop_at().is_some() {
            return tokio::time::sleep(wait.min(PAUSE)).await;
        }
        let mut stop = self.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stopping(&mut stop) => {}
        }
    }

    async fn attempt(
        &self,
        mut headers: HeaderMap,
        body: Bytes,
        deadline: Instant,
    ) -> Result<(), HookFailure> {
        let span = tracing::info_span!(target: SPANS, "hook", hook = self.to);
        pass_trace_on(&span, &mut headers);
        let until = deadline.min(Instant::now() + self.timeout);
        let posted = self.client.post(&self.url, headers, body, ANSWER_BYTES_MAX);
        let answer = tokio::time::timeout_at(until, posted).await.unwrap_or(Err(HookFailure::Timeout))?;
        if answer.status.is_success() { Ok(()) } else { Err(HookFailure::Status(answer.status)) }
    }
}

/// Waits until a time to stop is set.
pub(crate) async fn stopping(stop: &mut watch::Receiver<Option<Instant>>) {
    // Returns when the time is set, or when its sender is gone.
    drop(stop.wait_for(Option::is_some).await);
}

/// Whether the recipient says that it will never accept this batch.
fn is_final(failure: &HookFailure) -> bool {
    let never = [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY];
    matches!(failure, HookFailure::Status(status) if never.contains(status))
}
