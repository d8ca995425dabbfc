//! Sends an app's news to one of its webhooks: in batches, in order, from one node at a time.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use gateway_core::ledger::{LedgerEvent, LedgerPage, ReaderProgress};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::watch as signal;
use tokio::time::Instant;

use super::webhook_event::written;
use super::{WebhookApp, WebhooksParts};
use crate::backend::{BatchDestination, Courier, stopping};
use crate::broker::BrokerError;
use crate::clock::Clock;
use crate::ledger::{Ledger, LedgerQuery};
use crate::telemetry::Reminder;
use crate::telemetry::backend_metrics::LostEvent;

const KEY: HeaderName = HeaderName::from_static("x-pusher-key");
const SIGNATURE: HeaderName = HeaderName::from_static("x-pusher-signature");

/// How long a node remains the only sender after each read. Then another node may take over.
const LEASE: Duration = Duration::from_secs(5);
/// The interval at which the sending node looks for news of other nodes.
const LOOK: Duration = Duration::from_millis(500);
/// The interval at which other nodes try to take over, randomized so that they differ.
const LOOK_ELSEWHERE: Duration = Duration::from_millis(2_500);
/// The pause after the ledger did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct WebhookSender {
    watched: Arc<WebhookApp>,
    /// The index of the webhook among those of its app.
    index: usize,
    ledger: Arc<dyn Ledger>,
    node: String,
    courier: Courier,
    clock: Clock,
    batch_max: usize,
    stop: signal::Receiver<Option<Instant>>,
    /// The progress that has not been acknowledged yet.
    done: Option<ReaderProgress>,
    /// The progress of the batch in flight, and its number of events.
    sending: Option<(ReaderProgress, u64)>,
    /// The first news after the last gap that has been counted.
    counted: u64,
    reminder: Reminder,
}

/// The next step after a look at the news.
enum Next {
    AtOnce,
    After(Duration),
    /// Another node sends.
    Elsewhere,
    Stop,
}

impl WebhookSender {
    pub(super) fn new(
        parts: &WebhooksParts,
        watched: Arc<WebhookApp>,
        index: usize,
        stop: signal::Receiver<Option<Instant>>,
    ) -> Result<Self, String> {
        let (_, hook) = &watched.hooks[index];
        let errand = BatchDestination {
            to: "webhook",
            url: &hook.url,
            static_headers: &hook.static_headers,
            timeout: Duration::from_millis(parts.settings.timeout_ms),
            deadline: Duration::from_secs(parts.settings.deadline_s),
            stop: stop.clone(),
            metrics: watched.metrics.clone(),
        };
        let courier = parts.outbound.courier(errand)?;
        Ok(Self {
            watched,
            index,
            ledger: parts.ledger.clone(),
            node: parts.node.to_string(),
            courier,
            clock: parts.clock,
            batch_max: parts.settings.batch_events_max,
            stop,
            done: None,
            sending: None,
            counted: 0,
            reminder: Reminder::new(),
        })
    }

    /// Runs until it is told to stop. After a panic it gives up the batch in flight.
    pub(super) async fn run(mut self) {
        while AssertUnwindSafe(self.send_on()).catch_unwind().await.is_err() {
            self.watched.panicked("send").await;
        }
    }

    async fn send_on(&mut self) {
        if let Some((done, count)) = self.sending.take() {
            self.watched.lose(LostEvent::Failed, count);
            self.done = Some(done);
        }
        let watched = self.watched.clone();
        let mut stop = self.stop.clone();
        loop {
            let next = self.look().await;
            let is_stopping = self.courier.stop_at().is_some();
            let pause = match next {
                Next::AtOnce => continue,
                Next::Stop => return self.leave().await,
                Next::After(_) | Next::Elsewhere if is_stopping => return self.leave().await,
                Next::After(pause) => pause,
                Next::Elsewhere => LOOK_ELSEWHERE.mul_f64(rand::random_range(0.5..=1.0)),
            };
            let is_elsewhere = matches!(next, Next::Elsewhere);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = watched.news[self.index].notified(), if !is_elsewhere => {}
                () = stopping(&mut stop) => {}
            }
        }
    }

    async fn look(&mut self) -> Next {
        let page = match self.read(self.done, self.batch_max, LEASE).await {
            Ok(Some(page)) => page,
            Ok(None) => return Next::Elsewhere,
            Err(error) => {
                if self.reminder.is_due(error.label(), std::time::Instant::now()) {
                    tracing::warn!(%error, "events for webhooks cannot be read");
                }
                return Next::After(RETRY_PAUSE);
            }
        };
        self.done = None;
        self.reminder.over(std::time::Instant::now());
        let (Some((first, _)), Some((last, _))) = (page.news.first(), page.news.last()) else {
            return Next::After(LOOK);
        };
        if page.dropped > 0 && self.counted != *first {
            self.counted = *first;
            self.watched.lose(LostEvent::Full, page.dropped);
        }
        let done = ReaderProgress { from: page.from, until: *last };
        self.sending = Some((done, page.news.len() as u64));
        let events: Vec<String> = page.news.iter().filter_map(|(_, news)| self.event(news)).collect();
        #[cfg(debug_assertions)]
        events.iter().for_each(|event| crate::faults::trip(crate::faults::TELLING_PANICS, event.as_bytes()));
        if !events.is_empty() {
            let delivered = self.deliver(&events).await;
            self.sending = None;
            match delivered {
                Some(Ok(())) => {}
                // If the ledger outlives this node, another node sends the batch.
                Some(Err(LostEvent::Stopping)) => return Next::Stop,
                Some(Err(reason)) => self.watched.lose(reason, events.len() as u64),
                None => return Next::Elsewhere,
            }
        }
        self.sending = None;
        self.done = Some(done);
        Next::AtOnce
    }

    fn event(&self, news: &LedgerEvent) -> Option<String> {
        written(news, |event, name| self.watched.hooks[self.index].1.wants(event, name))
    }

    /// Sends a batch. `None`: another node is the sender by now.
    async fn deliver(&mut self, events: &[String]) -> Option<Result<(), LostEvent>> {
        let time_ms = self.clock.unix_millis();
        let body = Bytes::from(format!(r#"{{"time_ms":{time_ms},"events":[{}]}}"#, events.join(",")));
        let Self { watched, courier, ledger, node, index, .. } = self;
        let sign = |headers: &mut HeaderMap, body: &Bytes| {
            let terms = watched.app().terms();
            let value =
                |text: &str| HeaderValue::from_str(text).expect("letters and digits are a header's value");
            headers.insert(KEY, value(terms.signer.key()));
            headers.insert(SIGNATURE, value(&terms.signer.sign(body)));
        };
        let keep = async {
            loop {
                tokio::time::sleep(LEASE / 3).await;
                let reading = reading(watched, *index, node);
                // While the ledger does not answer, sending goes on.
                if let Ok(None) = ledger.read(LedgerQuery { lease: LEASE, ..reading.borrow() }).await {
                    return;
                }
            }
        };
        tokio::select! {
            delivered = courier.deliver(events.len(), body, sign) => Some(delivered),
            () = keep => None,
        }
    }

    /// Lets another node take over at once. If no other node can, the remaining news are lost.
    async fn leave(&self) {
        if !self.ledger.outlives_node() {
            if let Ok(Some(page)) = self.read(self.done, usize::MAX, LEASE).await {
                let lost = page.news.iter().filter_map(|(_, news)| self.event(news)).count();
                self.watched.lose(LostEvent::Stopping, lost as u64);
            }
            return;
        }
        if let Err(error) = self.read(self.done, 0, Duration::ZERO).await {
            tracing::debug!(%error, "another node sends for a webhook once this one's lease is over");
        }
    }

    async fn read(
        &self,
        done: Option<ReaderProgress>,
        limit: usize,
        lease: Duration,
    ) -> Result<Option<LedgerPage>, BrokerError> {
        let reading = reading(&self.watched, self.index, &self.node);
        self.ledger.read(LedgerQuery { done, limit, lease, ..reading.borrow() }).await
    }
}

/// A reader of the ledger: the webhook, and this node.
struct LedgerReader<'a> {
    readers: Vec<&'a str>,
    watched: &'a WebhookApp,
    reader: &'a str,
    by: &'a str,
}

fn reading<'a>(watched: &'a WebhookApp, index: usize, by: &'a str) -> LedgerReader<'a> {
    let readers = watched.hooks.iter().map(|(name, _)| &**name).collect();
    LedgerReader { readers, watched, reader: &watched.hooks[index].0, by }
}

impl LedgerReader<'_> {
    fn borrow(&self) -> LedgerQuery<'_> {
        LedgerQuery {
            ledger: &self.watched.namespace,
            reader: self.reader,
            readers: &self.readers,
            by: self.by,
            lease: LEASE,
            done: None,
            limit: 0,
        }
    }
}
