//! One polled channel through virtual time.

use super::*;

const INTERVAL: Duration = Duration::from_millis(1_000);
const SETTINGS: PollerSettings = PollerSettings {
    versioned: true,
    interval: INTERVAL,
    batch: 2,
    keys_max: 10,
    linger: Duration::from_millis(500),
};

/// A poller and a clock.
struct Rig {
    poller: Poller,
    now: Moment,
    versions: u64,
}

impl Rig {
    fn new(settings: PollerSettings) -> Self {
        let now = Moment(1_000_000);
        Self { poller: Poller::new(now, settings, 7), now, versions: 0 }
    }

    fn track(&mut self, worker: usize, key: &str, version: u64) {
        self.poller.track(self.now, worker, key, version);
    }

    /// Waits for the next question, and how long that took.
    fn requested(&mut self) -> (Vec<PolledKey>, Duration) {
        let from = self.now;
        loop {
            match self.poller.next(self.now) {
                PollerStep::Ask(requested) => return (requested, self.now.since(from)),
                PollerStep::Wait(until) => {
                    assert!(until > self.now, "it would spin");
                    self.now = until;
                }
                PollerStep::End => panic!("it has ended"),
            }
        }
    }

    fn keys(&mut self) -> Vec<String> {
        self.requested().0.iter().map(|requested| requested.key.to_string()).collect()
    }

    fn answer(&mut self, requested: &[PolledKey], items: Vec<PolledItem>) -> PollerUpdate {
        self.answer_in(Epoch::EMPTY, requested, items)
    }

    fn answer_in(&mut self, epoch: Epoch, requested: &[PolledKey], items: Vec<PolledItem>) -> PollerUpdate {
        let versions = &mut self.versions;
        self.poller.answered(self.now, requested, epoch, items, || {
            *versions += 1;
            *versions
        })
    }
}

fn item(key: &str, data: &'static str, version: u64) -> PolledItem {
    PolledItem { key: key.into(), data: Payload::json(data), version, removed: false }
}

fn updates(taken: &PollerUpdate) -> Vec<(&str, u64, Option<&[u8]>, u64)> {
    let of = |news: &KeyUpdate| news.data.as_ref().map(|data| data.bytes.clone());
    let leaked = taken.news.iter().map(|news| {
        let data = of(news).map(|bytes| &*Box::leak(bytes.to_vec().into_boxed_slice()));
        (&*news.key, news.version, data, news.workers)
    });
    leaked.collect()
}

#[test]
fn new_keys_are_asked_for_soon_and_together() {
    let mut rig = Rig::new(SETTINGS);
    for key in ["b", "a", "c"] {
        rig.track(0, key, 0);
    }
    let (requested, waited) = rig.requested();
    assert_eq!(waited, COALESCE);
    assert_eq!(
        requested.iter().map(|requested| (&*requested.key, requested.version)).collect::<Vec<_>>(),
        [("a", 0), ("b", 0)]
    );
    let (rest, waited) = rig.requested();
    assert_eq!((rest.len(), waited), (1, Duration::ZERO), "as many as one request takes");
}

#[test]
fn rounds_over_all_keys_are_spread_over_the_interval() {
    let mut rig = Rig::new(SETTINGS);
    for key in ["a", "b", "c", "d"] {
        rig.track(0, key, 0);
    }
    for _ in 0..2 {
        let (requested, _) = rig.requested();
        rig.answer(&requested, Vec::new());
    }
    let (first, waited) = rig.requested();
    assert!(waited > INTERVAL / 2 && waited < INTERVAL * 12 / 10, "{waited:?}");
    rig.answer(&first, Vec::new());
    let (second, waited) = rig.requested();
    assert!(waited > INTERVAL * 4 / 10 && waited < INTERVAL * 6 / 10, "{waited:?}");
    rig.answer(&second, Vec::new());
    let (_, waited) = rig.requested();
    assert!(waited > INTERVAL * 3 / 10 && waited < INTERVAL * 7 / 10, "{waited:?}");
}

#[test]
fn what_is_being_asked_for_is_not_asked_for_again() {
    let mut rig = Rig::new(PollerSettings { batch: 10, ..SETTINGS });
    rig.track(0, "a", 0);
    let (requested, _) = rig.requested();
    rig.track(0, "b", 0);
    assert_eq!(rig.keys(), ["b"]);
    rig.answer(&requested, vec![item("a", "1", 1)]);
    assert_eq!(rig.keys(), ["a"], "in the next round, while b has not been answered");
}

#[test]
fn newer_versions_are_told_to_the_workers_that_follow_the_key() {
    let mut rig = Rig::new(SETTINGS);
    rig.track(0, "a", 0);
    rig.track(3, "a", 0);
    let (requested, _) = rig.requested();
    let taken = rig.answer(&requested, vec![item("a", "1", 4), item("stranger", "2", 1)]);
    assert_eq!(updates(&taken), [("a", 4, Some(&b"1"[..]), 0b1001)]);
    let (requested, _) = rig.requested();
    assert_eq!(requested[0].version, 4);
    for older in [3, 4] {
        let taken = rig.answer(&requested, vec![item("a", "0", older)]);
        assert_eq!((taken.news.len(), taken.unchanged), (0, 1));
    }
}

#[test]
fn who_comes_later_and_has_less_is_asked_for_at_once_and_once() {
    let mut rig = Rig::new(SETTINGS);
    rig.track(0, "a", 0);
    let (requested, _) = rig.requested();
    rig.answer(&requested, vec![item("a", "1", 4)]);
    rig.track(1, "a", 4);
    assert!(matches!(rig.poller.next(rig.now), PollerStep::Wait(until) if until > rig.now + COALESCE));
    for worker in [1, 2] {
        rig.track(worker, "a", 0);
    }
    let (requested, waited) = rig.requested();
    assert_eq!((waited, requested[0].version), (COALESCE, 0), "whatever the version");
    rig.track(2, "a", 1);
    let taken = rig.answer(&requested, vec![item("a", "1", 4)]);
    assert_eq!(updates(&taken), [("a", 4, Some(&b"1"[..]), 0b111)]);
    let (_, waited) = rig.requested();
    assert!(waited > INTERVAL / 2, "{waited:?}");
}

#[test]
fn without_versions_content_that_differs_is_news() {
    let mut rig = Rig::new(PollerSettings { versioned: false, ..SETTINGS });
    rig.track(0, "a", 0);
    let mut versions = Vec::new();
    for data in ["1", "1", "2", "1"] {
        let (requested, _) = rig.requested();
        assert_eq!(requested[0].version, 0);
        let taken = rig.answer(&requested, vec![item("a", data, 0)]);
        versions.push(taken.news.first().map(|news| news.version));
    }
    assert_eq!(versions, [Some(1), None, Some(2), Some(3)]);
}

#[test]
fn a_removed_key_is_told_and_forgotten() {
    let mut rig = Rig::new(SETTINGS);
    rig.track(1, "a", 0);
    let (requested, _) = rig.requested();
    let removed = PolledItem { removed: true, ..item("a", "null", 9) };
    let taken = rig.answer(&requested, vec![removed]);
    assert_eq!(updates(&taken), [("a", 9, None, 0b10)]);
    assert_eq!(rig.poller.keys(), 0);
    rig.track(1, "a", 0);
    assert_eq!(rig.keys(), ["a"], "whoever follows it again has it asked for");
}

#[test]
fn a_channel_without_followers_stops_asking_and_ends() {
    let mut rig = Rig::new(SETTINGS);
    rig.track(0, "a", 0);
    rig.track(1, "a", 0);
    rig.poller.untrack(rig.now, 0, "a");
    assert_eq!(rig.poller.keys(), 1);
    rig.poller.untrack(rig.now, 1, "a");
    let end = rig.now + SETTINGS.linger;
    assert_eq!(rig.poller.next(rig.now), PollerStep::Wait(end));
    assert_eq!(rig.poller.next(end), PollerStep::End);
    rig.track(0, "a", 0);
    assert_eq!(rig.keys(), ["a"]);
}

#[test]
fn a_backend_that_fails_is_left_alone_for_longer_and_longer() {
    let mut rig = Rig::new(SETTINGS);
    rig.track(0, "a", 0);
    let mut pauses = Vec::new();
    let (mut requested, _) = rig.requested();
    for _ in 0..8 {
        rig.poller.failed(rig.now, &requested);
        let (again, waited) = rig.requested();
        requested = again;
        pauses.push(waited);
    }
    assert!(pauses[0] >= INTERVAL * 9 / 10 && pauses[0] <= INTERVAL * 11 / 10, "{pauses:?}");
    assert!(pauses[1] > pauses[0] * 15 / 10 && pauses[2] > pauses[1] * 15 / 10, "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= BACKOFF_MAX * 11 / 10), "{pauses:?}");
    rig.answer(&requested, vec![item("a", "1", 1)]);
    let (requested, _) = rig.requested();
    rig.poller.failed(rig.now, &requested);
    let (_, waited) = rig.requested();
    assert!(waited <= INTERVAL * 12 / 10, "it begins anew: {waited:?}");
}

#[test]
fn what_is_published_is_told_at_once_and_not_asked_for_in_the_next_round() {
    let mut rig = Rig::new(SETTINGS);
    for key in ["a", "b"] {
        rig.track(0, key, 0);
    }
    let (requested, _) = rig.requested();
    rig.answer(&requested, vec![item("a", "1", 1), item("b", "1", 1)]);
    let taken = rig.poller.published("a", 2, Epoch::EMPTY, Payload::json("2"));
    assert_eq!(updates(&taken), [("a", 2, Some(&b"2"[..]), 1)]);
    assert_eq!(rig.keys(), ["b"]);
    let older = rig.poller.published("a", 2, Epoch::EMPTY, Payload::json("3"));
    assert_eq!((older.news.len(), older.unchanged), (0, 1));
    let stranger = rig.poller.published("c", 2, Epoch::EMPTY, Payload::json("3"));
    assert_eq!(stranger, PollerUpdate::default());
    assert_eq!(rig.keys(), ["a"], "the round after that");
}

#[test]
fn an_answer_older_than_what_was_published_meanwhile_is_not_told() {
    let mut rig = Rig::new(SETTINGS);
    rig.track(0, "a", 0);
    let (requested, _) = rig.requested();
    rig.poller.published("a", 5, Epoch::EMPTY, Payload::json("5"));
    rig.track(1, "a", 0);
    let taken = rig.answer(&requested, vec![item("a", "4", 4)]);
    assert_eq!(taken.news, []);
    let (requested, _) = rig.requested();
    assert_eq!(requested[0].version, 0, "one waits for it still");
    let taken = rig.answer(&requested, vec![item("a", "5", 5)]);
    assert_eq!(updates(&taken), [("a", 5, Some(&b"5"[..]), 0b11)]);
}

#[test]
fn another_epoch_makes_versions_count_anew() {
    let mut rig = Rig::new(SETTINGS);
    rig.track(0, "a", 0);
    let (requested, _) = rig.requested();
    let first = Epoch::parse("one").unwrap();
    assert!(rig.answer_in(first, &requested, vec![item("a", "1", 7)]).reset, "nobody knew of it");
    let (requested, _) = rig.requested();
    assert!(!rig.answer_in(first, &requested, vec![item("a", "1", 7)]).reset);
    let (requested, _) = rig.requested();
    let taken = rig.answer_in(Epoch::parse("two").unwrap(), &requested, vec![item("a", "1", 2)]);
    assert!(taken.reset);
    assert_eq!(updates(&taken), [("a", 2, Some(&b"1"[..]), 1)]);
    assert_eq!(rig.poller.epoch().as_str(), "two");
    rig.poller.untrack(rig.now, 0, "a");
    let end = rig.now + EPOCH_LINGER;
    assert_eq!(rig.poller.next(rig.now), PollerStep::Wait(end), "those who were told come back to it");
}

#[test]
fn keys_are_bounded_and_what_found_no_room_is_told_later() {
    let mut rig = Rig::new(SETTINGS);
    rig.track(0, "a", 0);
    assert!(rig.poller.has_room(9) && !rig.poller.has_room(10));
    let (requested, _) = rig.requested();
    rig.answer(&requested, vec![item("a", "1", 1)]);
    rig.poller.undelivered("a");
    let (requested, _) = rig.requested();
    let taken = rig.answer(&requested, vec![item("a", "1", 1)]);
    assert_eq!(updates(&taken), [("a", 1, Some(&b"1"[..]), 1)]);
}

#[test]
fn keys_that_come_and_go_leave_nothing_behind() {
    let mut rig = Rig::new(SETTINGS);
    for round in 0..100 {
        let key = format!("k{}", round % 7);
        rig.track(0, &key, 0);
        rig.poller.untrack(rig.now, 0, &key);
    }
    assert_eq!((rig.poller.keys(), rig.poller.urgent.len(), rig.poller.round.len()), (0, 0, 0));
}
