//! Tells a backend what has happened: in batches, in the order of this node, each again until it is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::config::{Config, EventsConfig, parse_line, parse_url};
use super::event::{Event, EventType};
use super::failure::Failure;
use super::hook::{Common, HookKind};
use super::sign::HOOK;
use crate::telemetry::backend::{EventsMetrics, Lost};
use crate::telemetry::traces::{SPANS, pass_trace_on};
use crate::telemetry::{Reminder, Sparingly};

/// What a queued event costs beside its text, in bytes.
const EVENT_BYTES: usize = 48;
/// How long to wait before a batch is sent again: doubled each time, up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Longest answer that is read. What it says does not matter.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// What is given to the one that sends to stop by itself, after its deadline.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// The number of a batch, `node/number`: whoever has taken it before takes it only once.
pub(super) const BATCH: &str = "tidegate-batch";

/// The queue of events, and who sends them.
#[derive(Debug)]
pub(super) struct Events {
    types: Vec<EventType>,
    queue: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    bytes_max: usize,
    stop: watch::Sender<Option<Instant>>,
    sending: Mutex<Option<JoinHandle<()>>>,
    told: Sparingly,
}

#[derive(Debug)]
struct Shared {
    /// Of the events that wait.
    bytes: AtomicUsize,
    /// Since the last batch that was taken.
    lost: AtomicU64,
    metrics: EventsMetrics,
}

impl Events {
    /// `config` has been checked and has a URL. `node` is unique over all nodes and time.
    pub(super) fn start(
        config: &Config,
        node: &str,
        common: Common,
        runtime: &Handle,
    ) -> Result<Self, String> {
        let events = &config.events;
        let lines = events.static_headers.as_ref().unwrap_or(&config.static_headers);
        let mut headers: HeaderMap = lines.iter().map(parse_line).collect::<Result<_, _>>()?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(HOOK, HeaderValue::from_static(HookKind::Events.name()));
        let (queue, waiting) = mpsc::channel(events.queue_events_max);
        let (stop, stopped) = watch::channel(None);
        let shared = Arc::new(Shared {
            bytes: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            metrics: common.metrics.events(),
        });
        let sender = Sender {
            url: parse_url(&events.url)?,
            headers,
            node: node.to_owned(),
            settings: events.clone(),
            common,
            waiting,
            stop: stopped,
            shared: shared.clone(),
            reminder: Reminder::new(),
        };
        Ok(Self {
            types: events.types.clone(),
            queue,
            shared,
            bytes_max: events.queue_bytes_max,
            stop,
            sending: Mutex::new(Some(runtime.spawn(sender.run()))),
            told: Sparingly::default(),
        })
    }

    pub(super) fn wants(&self, kind: EventType) -> bool {
        self.types.contains(&kind)
    }

    /// Waits for nothing: an event that finds no room is lost, counted and told.
    pub(super) fn push(&self, event: &Event<'_>, time_ms: u64) {
        if !self.wants(event.kind()) {
            return;
        }
        let json = Bytes::from(event.to_json(time_ms));
        let cost = json.len() + EVENT_BYTES;
        let before = self.shared.bytes.fetch_add(cost, Ordering::Relaxed);
        let reason = match before + cost > self.bytes_max {
            true => Lost::Full,
            false => match self.queue.try_send(json) {
                Ok(()) => {
                    self.shared.metrics.queued.inc();
                    self.shared.metrics.queued_bytes.add(cost as i64);
                    return;
                }
                Err(mpsc::error::TrySendError::Full(_)) => Lost::Full,
                Err(mpsc::error::TrySendError::Closed(_)) => Lost::Stopping,
            },
        };
        self.shared.bytes.fetch_sub(cost, Ordering::Relaxed);
        self.shared.lose(reason, 1);
        if let Some(untold) = self.told.now() {
            tracing::warn!(reason = reason.label(), untold, "an event for the backend is lost");
        }
    }

    /// Sends what waits, until then. What is pushed after this is lost.
    pub(super) async fn shut_down(&self, until: std::time::Instant) {
        let until = Instant::from_std(until);
        self.stop.send_replace(Some(until));
        let Some(mut sending) = self.sending.lock().take() else { return };
        if tokio::time::timeout_at(until + STOP_TIMEOUT, &mut sending).await.is_err() {
            sending.abort();
        }
    }
}

impl Shared {
    fn lose(&self, reason: Lost, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        self.metrics.lost(reason, count);
    }

    fn took_out(&self, event: &Bytes) {
        let cost = event.len() + EVENT_BYTES;
        self.bytes.fetch_sub(cost, Ordering::Relaxed);
        self.metrics.queued.dec();
        self.metrics.queued_bytes.sub(cost as i64);
    }
}

/// The one task that sends: one batch after the other, so that they arrive in order.
struct Sender {
    url: Uri,
    headers: HeaderMap,
    node: String,
    settings: EventsConfig,
    common: Common,
    waiting: mpsc::Receiver<Bytes>,
    stop: watch::Receiver<Option<Instant>>,
    shared: Arc<Shared>,
    reminder: Reminder,
}

impl Sender {
    async fn run(mut self) {
        for number in 1_u64.. {
            let Some(events) = self.gather().await else { return };
            self.send(number, events).await;
        }
    }

    /// The events of the next batch. `None`: there are no more and there will be none.
    async fn gather(&mut self) -> Option<Vec<Bytes>> {
        let mut events = Vec::new();
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            first = self.waiting.recv() => events.push(first?),
            () = stopping(&mut stop) => {
                self.waiting.close();
                // What was pushed before is there still.
                events.push(self.waiting.recv().await?);
            }
        }
        let wait = tokio::time::sleep(Duration::from_millis(self.settings.batch_wait_ms));
        tokio::pin!(wait);
        while events.len() < self.settings.batch_events_max {
            tokio::select! {
                biased;
                event = self.waiting.recv() => match event {
                    Some(event) => events.push(event),
                    None => break,
                },
                () = &mut wait => break,
                () = stopping(&mut stop) => break,
            }
        }
        events.iter().for_each(|event| self.shared.took_out(event));
        Some(events)
    }

    /// When all must be over, once that is known.
    fn stop_at(&self) -> Option<Instant> {
        let at = *self.stop.borrow();
        // Nobody is left to say when.
        at.or_else(|| self.stop.has_changed().is_err().then(Instant::now))
    }

    /// Sends one batch until it is taken, refused for good, or its time is over.
    async fn send(&mut self, number: u64, events: Vec<Bytes>) {
        let lost = self.shared.lost.swap(0, Ordering::Relaxed);
        let body = self.batch(number, lost, &events);
        let mut headers = self.headers.clone();
        let batch = HeaderValue::from_str(&format!("{}/{number}", self.node));
        headers.insert(BATCH, batch.expect("a node's id and a number are a header's value"));
        let own_deadline = Instant::now() + Duration::from_secs(self.settings.deadline_s);
        let mut pause = PAUSE;
        let reason = loop {
            let deadline = self.stop_at().map_or(own_deadline, |stop| stop.min(own_deadline));
            let failure = match self.attempt(headers.clone(), body.clone(), deadline).await {
                Ok(()) => {
                    self.shared.metrics.sent(events.len() as u64);
                    if let Some(lasted) = self.reminder.over(std::time::Instant::now()) {
                        tracing::info!(after_s = lasted.as_secs(), "the backend takes events again");
                    }
                    return;
                }
                Err(failure) => failure,
            };
            self.shared.metrics.failed(failure.label());
            if self.reminder.is_due(failure.label(), std::time::Instant::now()) {
                tracing::warn!(reason = failure.label(), %failure, "the backend does not take events");
            }
            if is_final(&failure) {
                break Lost::Refused;
            }
            if self.stop_at().is_some_and(|stop| stop <= Instant::now()) {
                break Lost::Stopping;
            }
            if own_deadline <= Instant::now() {
                break Lost::Deadline;
            }
            let wait = pause.mul_f64(rand::random_range(0.5..=1.0));
            pause = (pause * 2).min(PAUSE_MAX);
            if self.stop_at().is_some() {
                tokio::time::sleep(wait.min(PAUSE)).await;
                continue;
            }
            let mut stop = self.stop.clone();
            // Whoever stops has less time than that.
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopping(&mut stop) => {}
            }
        };
        self.shared.lost.fetch_add(lost, Ordering::Relaxed);
        self.shared.lose(reason, events.len() as u64);
        tracing::warn!(reason = reason.label(), events = events.len(), "events for the backend are given up");
    }

    async fn attempt(&self, mut headers: HeaderMap, body: Bytes, deadline: Instant) -> Result<(), Failure> {
        if let Some(signer) = &self.common.signer {
            let parts: [&[u8]; 1] = [HookKind::Events.name().as_bytes()];
            signer.sign(&mut headers, self.common.clock.unix_seconds(), &parts, &body);
        }
        let span = tracing::info_span!(target: SPANS, "hook", hook = HookKind::Events.name());
        pass_trace_on(&span, &mut headers);
        let until = deadline.min(Instant::now() + Duration::from_millis(self.settings.timeout_ms));
        let posted = self.common.client.post(&self.url, headers, body, ANSWER_BYTES_MAX);
        let answer = tokio::time::timeout_at(until, posted).await.unwrap_or(Err(Failure::Timeout))?;
        if answer.status.is_success() { Ok(()) } else { Err(Failure::Status(answer.status)) }
    }

    fn batch(&self, number: u64, lost: u64, events: &[Bytes]) -> Bytes {
        let length: usize = events.iter().map(|event| event.len() + 1).sum();
        let mut body = Vec::with_capacity(length + 128);
        let node = serde_json::to_string(&self.node).expect("a text is JSON");
        body.extend_from_slice(
            format!(r#"{{"node":{node},"batch":{number},"lost":{lost},"events":["#).as_bytes(),
        );
        body.extend_from_slice(&events.join(&b","[..]));
        body.extend_from_slice(b"]}");
        body.into()
    }
}

/// Until the node stops.
async fn stopping(stop: &mut watch::Receiver<Option<Instant>>) {
    // What it waits for is there, or nobody is left to say it.
    drop(stop.wait_for(Option::is_some).await);
}

/// Whether the backend says that it will never take this batch.
fn is_final(failure: &Failure) -> bool {
    let never = [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY];
    matches!(failure, Failure::Status(status) if never.contains(status))
}
