//! Sends events to a backend: in batches, in the order of this node, each retried until it is accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::backend_config::{BackendConfig, EventsConfig};
use super::backend_event::{BackendEvent, EventType};
use super::courier::{BatchDestination, Courier, stopping};
use super::hook::{HookContext, HookKind};
use super::sign_request::HOOK;
use crate::telemetry::LogLimiter;
use crate::telemetry::backend_metrics::{EventsMetrics, LostEvent};

/// The overhead of a queued event beside its text, in bytes.
const EVENT_BYTES: usize = 48;
/// How long the sending task may take to stop by itself after its deadline.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// The header with the number of a batch, `node/number`, by which the backend recognizes a batch that it has accepted before.
pub(super) const BATCH: &str = "tidegate-batch";

/// The queue of events, and the task that sends them.
#[derive(Debug)]
pub(super) struct Events {
    types: Vec<EventType>,
    queue: mpsc::Sender<Bytes>,
    shared: Arc<EventQueueState>,
    bytes_max: usize,
    stop: watch::Sender<Option<Instant>>,
    sending: Mutex<Option<JoinHandle<()>>>,
    log: LogLimiter,
}

#[derive(Debug)]
struct EventQueueState {
    /// The bytes of the queued events.
    bytes: AtomicUsize,
    /// The events lost since the last accepted batch.
    lost: AtomicU64,
    metrics: EventsMetrics,
}

impl Events {
    /// Starts the sending task. `config` has been checked and has a URL. `node` is unique over all nodes and time.
    pub(super) fn start(
        config: &BackendConfig,
        node: &str,
        common: HookContext,
        runtime: &Handle,
    ) -> Result<Self, String> {
        let events = &config.events;
        let (queue, waiting) = mpsc::channel(events.queue_events_max);
        let (stop, stopped) = watch::channel(None);
        let shared = Arc::new(EventQueueState {
            bytes: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            metrics: common.metrics.events(),
        });
        let errand = BatchDestination {
            to: HookKind::Events.name(),
            url: &events.url,
            static_headers: events.static_headers.as_ref().unwrap_or(&config.static_headers),
            timeout: Duration::from_millis(events.timeout_ms),
            deadline: Duration::from_secs(events.deadline_s),
            stop: stopped.clone(),
            metrics: shared.metrics.clone(),
        };
        let sender = EventSender {
            courier: Courier::new(common.client.clone(), errand)?,
            node: node.to_owned(),
            settings: events.clone(),
            common,
            waiting,
            stop: stopped,
            shared: shared.clone(),
        };
        Ok(Self {
            types: events.types.clone(),
            queue,
            shared,
            bytes_max: events.queue_bytes_max,
            stop,
            sending: Mutex::new(Some(runtime.spawn(sender.run()))),
            log: LogLimiter::default(),
        })
    }

    pub(super) fn wants(&self, kind: EventType) -> bool {
        self.types.contains(&kind)
    }

    /// Queues an event without waiting. If the queue is full, the event is lost, counted and reported.
    pub(super) fn push(&self, event: &BackendEvent<'_>, time_ms: u64) {
        if !self.wants(event.kind()) {
            return;
        }
        let json = Bytes::from(event.to_json(time_ms));
        let cost = json.len() + EVENT_BYTES;
        let before = self.shared.bytes.fetch_add(cost, Ordering::Relaxed);
        let reason = match before + cost > self.bytes_max {
            true => LostEvent::Full,
            false => match self.queue.try_send(json) {
                Ok(()) => {
                    self.shared.metrics.queued.inc();
                    self.shared.metrics.queued_bytes.add(cost as i64);
                    return;
                }
                Err(mpsc::error::TrySendError::Full(_)) => LostEvent::Full,
                Err(mpsc::error::TrySendError::Closed(_)) => LostEvent::Stopping,
            },
        };
        self.shared.bytes.fetch_sub(cost, Ordering::Relaxed);
        self.shared.lose(reason, 1);
        if let Some(suppressed) = self.log.admit() {
            tracing::warn!(reason = reason.label(), suppressed, "an event for the backend is lost");
        }
    }

    /// Sends the queued events, until this time. Events that are pushed after this call are lost.
    pub(super) async fn shut_down(&self, until: std::time::Instant) {
        let until = Instant::from_std(until);
        self.stop.send_replace(Some(until));
        let Some(mut sending) = self.sending.lock().take() else { return };
        if tokio::time::timeout_at(until + STOP_TIMEOUT, &mut sending).await.is_err() {
            sending.abort();
        }
    }
}

impl EventQueueState {
    fn lose(&self, reason: LostEvent, count: u64) {
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

/// The one task that sends: one batch after the other, so that batches arrive in order.
struct EventSender {
    courier: Courier,
    node: String,
    settings: EventsConfig,
    common: HookContext,
    waiting: mpsc::Receiver<Bytes>,
    stop: watch::Receiver<Option<Instant>>,
    shared: Arc<EventQueueState>,
}

impl EventSender {
    async fn run(mut self) {
        for number in 1_u64.. {
            let Some(events) = self.gather().await else { return };
            self.send(number, events).await;
        }
    }

    /// Collects the events of the next batch. `None`: the queue is empty and closed.
    async fn gather(&mut self) -> Option<Vec<Bytes>> {
        let mut events = Vec::new();
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            first = self.waiting.recv() => events.push(first?),
            () = stopping(&mut stop) => {
                self.waiting.close();
                // Events that were pushed before the queue was closed are still in it.
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

    /// Sends one batch until it is accepted, refused for good, or past its deadline.
    async fn send(&mut self, number: u64, events: Vec<Bytes>) {
        let lost = self.shared.lost.swap(0, Ordering::Relaxed);
        let body = self.batch(number, lost, &events);
        let batch = HeaderValue::from_str(&format!("{}/{number}", self.node));
        let batch = batch.expect("a node's id and a number are a header's value");
        let HookContext { signer, clock, .. } = &self.common;
        let sign = |headers: &mut HeaderMap, body: &Bytes| {
            headers.insert(HOOK, HeaderValue::from_static(HookKind::Events.name()));
            headers.insert(BATCH, batch.clone());
            if let Some(signer) = signer {
                let parts: [&[u8]; 1] = [HookKind::Events.name().as_bytes()];
                signer.sign(headers, clock.unix_seconds(), &parts, body);
            }
        };
        if let Err(reason) = self.courier.deliver(events.len(), body, sign).await {
            self.shared.lost.fetch_add(lost, Ordering::Relaxed);
            self.shared.lose(reason, events.len() as u64);
        }
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
