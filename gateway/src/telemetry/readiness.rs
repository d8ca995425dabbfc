//! Decides whether clients should be sent to this node, and why not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use shared::moment::Moment;

use super::metrics::Metrics;
use super::shards_metrics::Neighbors;

/// The state behind `/readyz`. A node is unready until it has started and a first canary has come back through the
/// broker, once it drains, and while canaries do not come back.
///
/// If the broker has several parts, an unreachable one is no reason to send all clients elsewhere: the other parts work
/// here as they do there. It is a reason if other nodes reach that part.
#[derive(Debug)]
pub struct Readiness {
    started: AtomicBool,
    draining: AtomicBool,
    /// The greatest age of the last canary that came back.
    canary_age_max: Duration,
    parts: Box<[BrokerPart]>,
    /// The reports of other nodes, once they were asked.
    neighbors: Mutex<Option<Arc<Neighbors>>>,
    /// Whether there was a moment in which all nodes placed channels alike. From then on, a newcomer with another
    /// placement does not make this node unready.
    agreed: AtomicBool,
    /// Why no token can be checked, if that is so.
    keys_missing: Mutex<Option<String>>,
}

/// A part of the broker.
#[derive(Debug)]
struct BrokerPart {
    /// The part's name. Empty if there is only one part.
    name: Mutex<Arc<str>>,
    /// Whether no part has this index at present.
    is_absent: AtomicBool,
    /// The millisecond of the node's clock after the one in which a canary last came back. 0: none did.
    canary_at: AtomicU64,
    trouble: Mutex<Option<CanaryFailure>>,
}

/// Why canaries do not come back, and since when.
#[derive(Debug)]
struct CanaryFailure {
    since: Moment,
    reason: String,
}

/// The longest failure that is no reason to send clients elsewhere: lost connections are restored sooner.
const TROUBLE_BORNE: Duration = Duration::from_secs(1);

/// Reports of other nodes count only once a part has failed here for this long, because older ones may be out of date:
/// a node's announcement holds for 10 s, and a link that hangs is noticed within some seconds.
const APART_BORNE: Duration = Duration::from_secs(15);

/// How long after the start a part that was never reached keeps the node unready.
const START_BORNE: Duration = Duration::from_secs(10);

/// The answer of `/readyz`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ReadinessReport {
    pub ready: bool,
    /// Why the node is not ready, for a human reader.
    pub reasons: Vec<String>,
    /// Problems that do not make the node unready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The highest age among the parts of the broker.
    pub canary_age_ms: u64,
}

impl Readiness {
    /// Creates the readiness for a broker of one part.
    pub fn new(canary_age_max: Duration) -> Self {
        Self::of_parts(canary_age_max, vec!["".into()])
    }

    /// Creates the readiness for a broker with parts of these names.
    pub fn of_parts(canary_age_max: Duration, names: Vec<Arc<str>>) -> Self {
        let part = |name| BrokerPart {
            name: Mutex::new(name),
            is_absent: AtomicBool::new(false),
            canary_at: AtomicU64::new(0),
            trouble: Mutex::new(None),
        };
        Self {
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            canary_age_max,
            parts: names.into_iter().map(part).collect(),
            neighbors: Mutex::new(None),
            agreed: AtomicBool::new(false),
            keys_missing: Mutex::new(None),
        }
    }

    /// Marks all parts of the node as running: clients can be served.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Marks the node as stopping, for good.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Replaces a part by another one, or by none. A part that comes when all others have proved themselves counts as
    /// working until its failure has lasted too long.
    pub fn part_changed(&self, part: usize, now: Moment, name: Option<Arc<str>>) {
        let others = self.parts.iter().enumerate().filter(|(index, _)| *index != part);
        let mut there =
            others.map(|(_, part)| part).filter(|part| !part.is_absent.load(Ordering::Acquire)).peekable();
        let are_proved =
            there.peek().is_some() && there.all(|part| part.canary_at.load(Ordering::Acquire) != 0);
        if let Some(part) = self.parts.get(part) {
            part.is_absent.store(name.is_none(), Ordering::Release);
            *part.name.lock() = name.unwrap_or_default();
            part.canary_at.store(if are_proved { now.0.saturating_add(1) } else { 0 }, Ordering::Release);
            *part.trouble.lock() = None;
        }
    }

    /// Records that a canary came back through a part of the broker.
    pub fn canary_returned(&self, part: usize, now: Moment) {
        if let Some(part) = self.parts.get(part) {
            part.canary_at.fetch_max(now.0.saturating_add(1), Ordering::AcqRel);
            *part.trouble.lock() = None;
        }
    }

    /// Records that a canary did not come back, with the reason.
    pub fn canary_failed(&self, part: usize, now: Moment, reason: String) {
        if let Some(part) = self.parts.get(part) {
            let mut trouble = part.trouble.lock();
            let since = trouble.as_ref().map_or(now, |trouble| trouble.since);
            *trouble = Some(CanaryFailure { since, reason });
        }
    }

    /// Sets the reports of the other nodes.
    pub fn set_neighbors(&self, neighbors: Option<Arc<Neighbors>>) {
        if neighbors.as_ref().is_some_and(|neighbors| neighbors.apart.is_empty()) {
            self.agreed.store(true, Ordering::Release);
        }
        *self.neighbors.lock() = neighbors;
    }

    /// Sets why no token can be checked, or clears it.
    pub fn keys_missing(&self, reason: Option<String>) {
        *self.keys_missing.lock() = reason;
    }

    pub fn verdict(&self, now: Moment) -> ReadinessReport {
        let mut reasons = Vec::new();
        if !self.started.load(Ordering::Acquire) {
            reasons.push("the node has not started yet".to_owned());
        }
        if self.is_draining() {
            reasons.push("the node is draining".to_owned());
        }
        reasons.extend(self.keys_missing.lock().clone());
        let mut notes = Vec::new();
        let neighbors = self.neighbors.lock().clone();
        self.judge_parts(now, neighbors.as_deref(), &mut reasons, &mut notes);
        let agreed = self.agreed.load(Ordering::Acquire);
        match neighbors.map(|neighbors| neighbors.apart.clone()) {
            None if self.parts.len() > 1 && !agreed => {
                reasons.push(
                    "this node does not know yet whether other nodes have the same Redis servers".to_owned(),
                );
            }
            Some(apart) if !apart.is_empty() => if agreed { &mut notes } else { &mut reasons }.push(apart),
            _ => {}
        }
        let there = self.parts.iter().filter(|part| !part.is_absent.load(Ordering::Acquire));
        let ages = there.map(|part| part.age(now));
        let canary_age_ms = u64::try_from(ages.max().unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        ReadinessReport { ready: reasons.is_empty(), reasons, notes, canary_age_ms }
    }

    /// Adds the failures of the broker's parts: to the reasons if they make the node unready, otherwise to the notes.
    fn judge_parts(
        &self,
        now: Moment,
        neighbors: Option<&Neighbors>,
        reasons: &mut Vec<String>,
        notes: &mut Vec<String>,
    ) {
        let there = self.parts.iter().enumerate().filter(|(_, part)| !part.is_absent.load(Ordering::Acquire));
        let wrong: Vec<(usize, &BrokerPart, Option<PartFailure>)> =
            there.map(|(index, part)| (index, part, part.wrong(now, self.canary_age_max))).collect();
        let none_works = wrong.iter().all(|(.., wrong)| wrong.is_some());
        for (index, part, wrong) in wrong {
            let Some(PartFailure { why, lasts }) = wrong else { continue };
            let name = part.name.lock().clone();
            if name.is_empty() {
                reasons.push(why);
                continue;
            }
            let why = format!("the Redis at {name} cannot be used: {why}");
            let user = neighbors.and_then(|neighbors| neighbors.uses.get(index)?.as_deref());
            let starts = part.canary_at.load(Ordering::Acquire) == 0 && now < Moment::ZERO + START_BORNE;
            match user.filter(|_| lasts >= APART_BORNE) {
                Some(node) => reasons.push(format!("{why} (node {node} uses it)")),
                None if none_works || starts => reasons.push(why),
                None => notes.push(why),
            }
        }
    }

    /// Updates the metrics of readiness.
    pub fn show(&self, now: Moment, metrics: &Metrics) {
        let verdict = self.verdict(now);
        metrics.ready.set(i64::from(verdict.ready));
        metrics.canary_age_seconds.set(Duration::from_millis(verdict.canary_age_ms).as_secs_f64());
    }
}

/// Why a part of the broker cannot be used, and for how long.
struct PartFailure {
    why: String,
    lasts: Duration,
}

impl BrokerPart {
    /// Returns the time since a canary last came back.
    fn age(&self, now: Moment) -> Duration {
        now.since(Moment(self.canary_at.load(Ordering::Acquire).saturating_sub(1)))
    }

    fn wrong(&self, now: Moment, age_max: Duration) -> Option<PartFailure> {
        let never = self.canary_at.load(Ordering::Acquire) == 0;
        let age = self.age(now);
        let trouble = self.trouble.lock();
        let lasts = trouble.as_ref().map_or(Duration::ZERO, |trouble| now.since(trouble.since));
        if !never && lasts < TROUBLE_BORNE && age <= age_max {
            return None;
        }
        let why = match &*trouble {
            Some(trouble) => trouble.reason.clone(),
            None if never => "no message has come back through the broker yet".to_owned(),
            None => format!("no message came back through the broker for {} ms", age.as_millis()),
        };
        Some(PartFailure { why, lasts: lasts.max(age) })
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
        readiness.canary_returned(0, Moment(0));
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
        readiness.canary_returned(0, Moment(2));
        assert!(readiness.verdict(Moment(2)).ready);
    }

    #[test]
    fn a_canary_that_does_not_come_back_turns_a_node_red_until_it_does() {
        let readiness = Readiness::new(Duration::from_secs(5));
        readiness.set_started();
        readiness.canary_returned(0, Moment(1000));
        assert!(readiness.verdict(Moment(6000)).ready);
        let late = readiness.verdict(Moment(6001));
        assert_eq!(late.reasons, ["no message came back through the broker for 5001 ms"]);
        readiness.canary_returned(0, Moment(6002));
        readiness.canary_returned(0, Moment(3000));
        assert!(readiness.verdict(Moment(6100)).ready);
    }

    #[test]
    fn a_trouble_that_lasts_turns_a_node_red_in_its_own_words_and_one_success_turns_it_green() {
        let readiness = Readiness::new(Duration::from_secs(5));
        readiness.set_started();
        readiness.canary_returned(0, Moment(1000));
        readiness.canary_failed(0, Moment(1100), "a blink".to_owned());
        assert!(readiness.verdict(Moment(1200)).ready);
        readiness.canary_failed(0, Moment(2100), "Redis refuses: OOM".to_owned());
        assert_eq!(readiness.verdict(Moment(2100)).reasons, ["Redis refuses: OOM"]);
        readiness.canary_returned(0, Moment(2200));
        assert!(readiness.verdict(Moment(2200)).ready);
        readiness.canary_failed(0, Moment(2300), "another".to_owned());
        assert!(readiness.verdict(Moment(2400)).ready, "it has only begun");
    }

    #[test]
    fn a_node_that_has_no_key_for_any_token_is_not_ready() {
        let readiness = Readiness::new(Duration::from_secs(5));
        readiness.set_started();
        readiness.canary_returned(0, Moment(0));
        readiness.keys_missing(Some("no keys".to_owned()));
        assert_eq!(readiness.verdict(Moment(0)).reasons, ["no keys"]);
        readiness.keys_missing(None);
        assert!(readiness.verdict(Moment(0)).ready);
    }

    #[test]
    fn a_part_that_is_not_there_any_more_is_no_trouble_and_another_at_its_place_has_to_prove_itself() {
        let readiness = of_two();
        readiness.set_neighbors(neighbors("", [None, None]));
        for part in 0..2 {
            readiness.canary_returned(part, Moment(1_000));
        }
        readiness.canary_failed(1, Moment(1_100), "gone".to_owned());
        readiness.canary_returned(0, Moment(12_000));
        assert_eq!(readiness.verdict(Moment(12_100)).notes.len(), 1);
        readiness.part_changed(1, Moment(12_100), None);
        assert_eq!(readiness.verdict(Moment(12_100)).notes, [""; 0]);
        assert_eq!(readiness.verdict(Moment(12_100)).canary_age_ms, 100);
        readiness.part_changed(1, Moment(12_150), Some("r3:6379".into()));
        readiness.canary_failed(1, Moment(12_200), "not yet".to_owned());
        assert_eq!(readiness.verdict(Moment(12_300)).notes, [""; 0], "it has only come");
        readiness.canary_returned(0, Moment(13_200));
        let verdict = readiness.verdict(Moment(13_300));
        assert!(verdict.ready);
        assert_eq!(verdict.notes, ["the Redis at r3:6379 cannot be used: not yet"]);
        readiness.canary_returned(1, Moment(13_400));
        assert_eq!(readiness.verdict(Moment(13_500)).notes, [""; 0]);
    }

    fn of_two() -> Readiness {
        let readiness = Readiness::of_parts(Duration::from_secs(5), vec!["r1:6379".into(), "r2:6379".into()]);
        readiness.set_started();
        readiness
    }

    fn neighbors(apart: &str, uses: [Option<&str>; 2]) -> Option<Arc<Neighbors>> {
        let uses = uses.map(|node| node.map(Box::from)).into();
        let apart_count = usize::from(!apart.is_empty());
        Some(Arc::new(Neighbors { apart: apart.to_owned(), apart_count, uses }))
    }

    #[test]
    fn one_part_that_is_away_is_a_note_and_all_of_them_are_reasons() {
        let readiness = of_two();
        readiness.set_neighbors(neighbors("", [None, None]));
        for part in 0..2 {
            readiness.canary_returned(part, Moment(1_000));
        }
        readiness.canary_failed(1, Moment(1_100), "gone".to_owned());
        assert_eq!(readiness.verdict(Moment(1_200)).notes, [""; 0], "it has only begun");
        readiness.canary_returned(0, Moment(4_000));
        let verdict = readiness.verdict(Moment(4_100));
        assert!(verdict.ready);
        assert_eq!(verdict.notes, ["the Redis at r2:6379 cannot be used: gone"]);
        readiness.canary_failed(0, Moment(4_200), "gone too".to_owned());
        let verdict = readiness.verdict(Moment(5_300));
        let all = ["r1:6379 cannot be used: gone too", "r2:6379 cannot be used: gone"]
            .map(|why| format!("the Redis at {why}"));
        assert_eq!((verdict.ready, verdict.reasons.as_slice()), (false, &all[..]));
    }

    #[test]
    fn a_part_that_others_use_and_this_node_cannot_for_long_is_a_reason() {
        let readiness = of_two();
        readiness.set_neighbors(neighbors("", [Some("a"), Some("a")]));
        for part in 0..2 {
            readiness.canary_returned(part, Moment(1_000));
        }
        readiness.canary_failed(1, Moment(1_100), "gone".to_owned());
        readiness.canary_returned(0, Moment(15_000));
        assert!(readiness.verdict(Moment(15_000)).ready, "others may not have noticed yet");
        readiness.canary_returned(0, Moment(17_000));
        let reasons = readiness.verdict(Moment(17_000)).reasons;
        assert_eq!(reasons, ["the Redis at r2:6379 cannot be used: gone (node a uses it)"]);
        readiness.set_neighbors(neighbors("", [Some("a"), None]));
        assert!(readiness.verdict(Moment(17_000)).ready, "nobody has it");
    }

    #[test]
    fn a_part_that_was_never_reached_keeps_a_node_from_being_ready_for_a_while() {
        let readiness = of_two();
        readiness.set_neighbors(neighbors("", [None, None]));
        readiness.canary_returned(0, Moment(100));
        assert!(!readiness.verdict(Moment(200)).ready);
        readiness.canary_returned(0, Moment(9_000));
        assert!(readiness.verdict(Moment(11_000)).ready);
    }

    #[test]
    fn a_node_that_starts_among_others_with_another_list_is_not_ready_and_they_stay_so() {
        let apart = "node a distributes channels differently";
        let (young, old) = (of_two(), of_two());
        for readiness in [&young, &old] {
            readiness.canary_returned(0, Moment(100));
            readiness.canary_returned(1, Moment(100));
        }
        assert!(!young.verdict(Moment(200)).ready, "nobody was asked yet");
        old.set_neighbors(neighbors("", [None, None]));
        assert!(old.verdict(Moment(200)).ready);
        for readiness in [&young, &old] {
            readiness.set_neighbors(neighbors(apart, [None, None]));
        }
        assert_eq!(young.verdict(Moment(200)).reasons, [apart]);
        let verdict = old.verdict(Moment(200));
        assert_eq!((verdict.ready, verdict.notes.as_slice()), (true, &[apart.to_owned()][..]));
        young.set_neighbors(neighbors("", [None, None]));
        assert!(young.verdict(Moment(200)).ready, "they are gone");
    }
}
