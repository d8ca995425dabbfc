//! Whether clients should be sent to this node, and why not.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use shared::moment::Moment;

use super::metrics::Metrics;

/// What `/readyz` goes by. Red until the node has started and a first message has come back through the broker, from
/// the moment it begins to drain, and while messages do not come back.
#[derive(Debug)]
pub struct Readiness {
    started: AtomicBool,
    draining: AtomicBool,
    /// The millisecond of the node's clock after the one in which the canary last came back. 0: it never did.
    canary_at: AtomicU64,
    /// How old that may be.
    canary_age_max: Duration,
    trouble: Mutex<Option<Trouble>>,
    /// Why no token can be checked, if none can.
    keys_missing: Mutex<Option<String>>,
}

/// Why canaries do not come back, and since when.
#[derive(Debug)]
struct Trouble {
    since: Moment,
    reason: String,
}

/// A trouble this short is no reason to send clients elsewhere: a lost connection is made again sooner.
const TROUBLE_BORNE: Duration = Duration::from_secs(1);

/// The answer of `/readyz`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Verdict {
    pub ready: bool,
    /// Why not, for the person who reads it.
    pub reasons: Vec<String>,
    pub canary_age_ms: u64,
}

impl Readiness {
    pub fn new(canary_age_max: Duration) -> Self {
        Self {
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            canary_at: AtomicU64::new(0),
            canary_age_max,
            trouble: Mutex::new(None),
            keys_missing: Mutex::new(None),
        }
    }

    /// All parts run: clients can be served.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// The node is being stopped. There is no way back.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// A message to this node itself came back through the broker.
    pub fn canary_returned(&self, now: Moment) {
        self.canary_at.fetch_max(now.0.saturating_add(1), Ordering::AcqRel);
        *self.trouble.lock() = None;
    }

    /// It did not, for this reason.
    pub fn canary_failed(&self, now: Moment, reason: String) {
        let mut trouble = self.trouble.lock();
        let since = trouble.as_ref().map_or(now, |trouble| trouble.since);
        *trouble = Some(Trouble { since, reason });
    }

    /// No key is there to check any token with, for this reason; or there is one.
    pub fn keys_missing(&self, reason: Option<String>) {
        *self.keys_missing.lock() = reason;
    }

    pub fn verdict(&self, now: Moment) -> Verdict {
        let mut reasons = Vec::new();
        if !self.started.load(Ordering::Acquire) {
            reasons.push("the node has not started yet".to_owned());
        }
        if self.is_draining() {
            reasons.push("the node is draining".to_owned());
        }
        reasons.extend(self.keys_missing.lock().clone());
        let canary_at = self.canary_at.load(Ordering::Acquire);
        let age = now.since(Moment(canary_at.saturating_sub(1)));
        let trouble = self.trouble.lock();
        let lasts = trouble.as_ref().is_some_and(|trouble| now.since(trouble.since) >= TROUBLE_BORNE);
        if canary_at == 0 || lasts || age > self.canary_age_max {
            reasons.push(match &*trouble {
                Some(trouble) => trouble.reason.clone(),
                None if canary_at == 0 => "no message has come back through the broker yet".to_owned(),
                None => format!("no message came back through the broker for {} ms", age.as_millis()),
            });
        }
        drop(trouble);
        let canary_age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Verdict { ready: reasons.is_empty(), reasons, canary_age_ms }
    }

    /// Brings the metrics about readiness up to date.
    pub fn show(&self, now: Moment, metrics: &Metrics) {
        let verdict = self.verdict(now);
        metrics.ready.set(i64::from(verdict.ready));
        metrics.canary_age_seconds.set(Duration::from_millis(verdict.canary_age_ms).as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_once_started_until_it_drains() {
        let readiness = Readiness::new(Duration::from_secs(5));
        assert!(!readiness.verdict(Moment(0)).ready);
        readiness.set_started();
        readiness.canary_returned(Moment(0));
        assert!(readiness.verdict(Moment(0)).ready);
        readiness.set_draining();
        assert_eq!(readiness.verdict(Moment(0)).reasons, ["the node is draining"]);
    }

    #[test]
    fn a_node_that_never_reached_its_broker_is_not_ready_however_young_it_is() {
        let readiness = Readiness::new(Duration::from_secs(5));
        readiness.set_started();
        let young = readiness.verdict(Moment(1));
        assert_eq!(young.reasons, ["no message has come back through the broker yet"]);
        readiness.canary_returned(Moment(2));
        assert!(readiness.verdict(Moment(2)).ready);
    }

    #[test]
    fn a_canary_that_does_not_come_back_turns_a_node_red_until_it_does() {
        let readiness = Readiness::new(Duration::from_secs(5));
        readiness.set_started();
        readiness.canary_returned(Moment(1000));
        assert!(readiness.verdict(Moment(6000)).ready);
        let late = readiness.verdict(Moment(6001));
        assert_eq!(late.reasons, ["no message came back through the broker for 5001 ms"]);
        readiness.canary_returned(Moment(6002));
        readiness.canary_returned(Moment(3000));
        assert!(readiness.verdict(Moment(6100)).ready);
    }

    #[test]
    fn a_trouble_that_lasts_turns_a_node_red_in_its_own_words_and_one_success_turns_it_green() {
        let readiness = Readiness::new(Duration::from_secs(5));
        readiness.set_started();
        readiness.canary_returned(Moment(1000));
        readiness.canary_failed(Moment(1100), "a blink".to_owned());
        assert!(readiness.verdict(Moment(1200)).ready);
        readiness.canary_failed(Moment(2100), "Redis refuses: OOM".to_owned());
        assert_eq!(readiness.verdict(Moment(2100)).reasons, ["Redis refuses: OOM"]);
        readiness.canary_returned(Moment(2200));
        assert!(readiness.verdict(Moment(2200)).ready);
        readiness.canary_failed(Moment(2300), "another".to_owned());
        assert!(readiness.verdict(Moment(2400)).ready, "it has only begun");
    }

    #[test]
    fn a_node_that_has_no_key_for_any_token_is_not_ready() {
        let readiness = Readiness::new(Duration::from_secs(5));
        readiness.set_started();
        readiness.canary_returned(Moment(0));
        readiness.keys_missing(Some("no keys".to_owned()));
        assert_eq!(readiness.verdict(Moment(0)).reasons, ["no keys"]);
        readiness.keys_missing(None);
        assert!(readiness.verdict(Moment(0)).ready);
    }
}
