//! The metrics of backends. The children of a hook are looked up once, and counted without a lookup.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

use super::metrics::SLOW_BUCKETS;
use super::names;
use super::register::{counter, counters, gauge, gauges, histograms};

/// The results of a hook's requests beside the failures, which `HookFailure` names.
const ANSWERED: [&str; 2] = ["answered", "denied"];

/// The metric families of backends.
#[derive(Debug)]
pub(super) struct BackendMetrics {
    seconds: prometheus::HistogramVec,
    results: IntCounterVec,
    retries: IntCounterVec,
    in_flight: prometheus::IntGaugeVec,
    breakers_open: prometheus::IntGaugeVec,
    events: IntCounterVec,
    event_failures: IntCounterVec,
    events_queued: IntGauge,
    events_queued_bytes: IntGauge,
    webhooks: EventsMetrics,
    webhook_restarts: IntCounter,
}

/// The metrics of one hook.
#[derive(Clone, Debug)]
pub struct HookMetrics {
    hook: &'static str,
    pub seconds: Histogram,
    pub retries: IntCounter,
    pub in_flight: IntGauge,
    pub breakers_open: IntGauge,
    results: IntCounterVec,
}

/// The metrics of a queue of events.
#[derive(Clone, Debug)]
pub struct EventsMetrics {
    pub queued: IntGauge,
    pub queued_bytes: IntGauge,
    events: IntCounterVec,
    failures: IntCounterVec,
}

/// Why an event was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LostEvent {
    /// The queue was full.
    Full,
    /// Its batch was not accepted before the deadline.
    Deadline,
    /// The recipient refused its batch for good, or the event is too long to be kept until it is sent.
    Refused,
    /// The node stopped before the event was sent.
    Stopping,
    /// The node failed while it handled the batch.
    Failed,
}

impl LostEvent {
    pub const ALL: [Self; 5] = [Self::Full, Self::Deadline, Self::Refused, Self::Stopping, Self::Failed];

    pub fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Deadline => "deadline",
            Self::Refused => "refused",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
        }
    }
}

impl BackendMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            seconds: histograms(registry, names::BACKEND_SECONDS, SLOW_BUCKETS),
            results: counters(registry, names::BACKEND_RESULTS_TOTAL),
            retries: counters(registry, names::BACKEND_RETRIES_TOTAL),
            in_flight: gauges(registry, names::BACKEND_IN_FLIGHT),
            breakers_open: gauges(registry, names::BACKEND_BREAKERS_OPEN),
            events: counters(registry, names::BACKEND_EVENTS_TOTAL),
            event_failures: counters(registry, names::BACKEND_EVENT_FAILURES_TOTAL),
            events_queued: gauge(registry, names::BACKEND_EVENTS_QUEUED),
            events_queued_bytes: gauge(registry, names::BACKEND_EVENTS_QUEUED_BYTES),
            webhooks: EventsMetrics {
                queued: gauge(registry, names::WEBHOOK_CHANGES_QUEUED),
                queued_bytes: gauge(registry, names::WEBHOOK_CHANGES_QUEUED_BYTES),
                events: counters(registry, names::WEBHOOK_EVENTS_TOTAL),
                failures: counters(registry, names::WEBHOOK_FAILURES_TOTAL),
            },
            webhook_restarts: counter(registry, names::WEBHOOK_RESTARTS_TOTAL),
        }
    }

    /// Returns the metrics of a hook. They are shown as 0 from here on, so that a rate is right from the start.
    pub(super) fn hook(&self, hook: &'static str, failures: &[&'static str]) -> HookMetrics {
        for result in ANSWERED.iter().chain(failures) {
            self.results.with_label_values(&[hook, result]);
        }
        HookMetrics {
            hook,
            seconds: self.seconds.with_label_values(&[hook]),
            retries: self.retries.with_label_values(&[hook]),
            in_flight: self.in_flight.with_label_values(&[hook]),
            breakers_open: self.breakers_open.with_label_values(&[hook]),
            results: self.results.clone(),
        }
    }

    pub(super) fn events(&self) -> EventsMetrics {
        let metrics = EventsMetrics {
            queued: self.events_queued.clone(),
            queued_bytes: self.events_queued_bytes.clone(),
            events: self.events.clone(),
            failures: self.event_failures.clone(),
        };
        metrics.shown()
    }

    pub(super) fn webhooks(&self) -> EventsMetrics {
        self.webhooks.clone().shown()
    }

    pub(super) fn webhook_restarts(&self) -> IntCounter {
        self.webhook_restarts.clone()
    }
}

impl HookMetrics {
    /// Counts a result, which is one of a bounded set of words.
    pub fn result(&self, result: &'static str) {
        self.results.with_label_values(&[self.hook, result]).inc();
    }
}

impl EventsMetrics {
    /// Shows the metrics as 0 from here on.
    fn shown(self) -> Self {
        for result in LostEvent::ALL.iter().map(|lost| lost.label()).chain(["sent"]) {
            self.events.with_label_values(&[result]);
        }
        self
    }

    pub fn sent(&self, count: u64) {
        self.events.with_label_values(&["sent"]).inc_by(count);
    }

    pub fn lost(&self, why: LostEvent, count: u64) {
        self.events.with_label_values(&[why.label()]).inc_by(count);
    }

    /// Counts a failed attempt to send a batch. `reason` is one of a bounded set of words.
    pub fn failed(&self, reason: &'static str) {
        self.failures.with_label_values(&[reason]).inc();
    }
}
