//! A circuit breaker: after a number of failures within a window, it stops requests to a backend for a while, then lets
//! one request through as a probe.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

#[derive(Clone, Copy, Debug)]
pub(super) struct BreakerSettings {
    /// 0: never opens.
    pub(super) failures: usize,
    pub(super) window: Duration,
    pub(super) open_for: Duration,
}

#[derive(Debug)]
pub(super) struct Breaker {
    settings: BreakerSettings,
    state: Mutex<BreakerState>,
}

#[derive(Debug)]
enum BreakerState {
    /// The times of the last failures: at most as many as open the breaker.
    Closed(VecDeque<Instant>),
    Open(Instant),
    /// One request is in flight, and its outcome decides.
    Probing,
}

/// The permission to send a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pass {
    Usual,
    Probe,
}

/// What the outcome of a request says about the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Health {
    Well,
    Failing,
    /// The request was cancelled before an answer came.
    Unknown,
}

/// The change of state that a report caused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BreakerTransition {
    None,
    Opened,
    Closed,
}

impl Breaker {
    pub(super) fn new(settings: BreakerSettings) -> Self {
        Self { settings, state: Mutex::new(BreakerState::Closed(VecDeque::new())) }
    }

    /// Returns `None` while no request may be sent.
    pub(super) fn enter(&self, now: Instant) -> Option<Pass> {
        let mut state = self.state.lock();
        match *state {
            BreakerState::Closed(_) => Some(Pass::Usual),
            BreakerState::Open(until) if now < until => None,
            BreakerState::Open(_) => {
                *state = BreakerState::Probing;
                Some(Pass::Probe)
            }
            BreakerState::Probing => None,
        }
    }

    /// Reports the outcome of a request. Must be called once for every pass.
    pub(super) fn report(&self, pass: Pass, health: Health, now: Instant) -> BreakerTransition {
        let mut state = self.state.lock();
        match (pass, health, &mut *state) {
            (Pass::Probe, Health::Well, BreakerState::Probing) => {
                *state = BreakerState::Closed(VecDeque::new());
                BreakerTransition::Closed
            }
            (Pass::Probe, Health::Failing, BreakerState::Probing) => {
                *state = BreakerState::Open(now + self.settings.open_for);
                BreakerTransition::None
            }
            // The next request becomes the probe.
            (Pass::Probe, Health::Unknown, BreakerState::Probing) => {
                *state = BreakerState::Open(now);
                BreakerTransition::None
            }
            (Pass::Usual, Health::Failing, BreakerState::Closed(failures)) if self.settings.failures > 0 => {
                while failures.front().is_some_and(|&at| now.duration_since(at) > self.settings.window) {
                    failures.pop_front();
                }
                failures.push_back(now);
                if failures.len() < self.settings.failures {
                    return BreakerTransition::None;
                }
                *state = BreakerState::Open(now + self.settings.open_for);
                BreakerTransition::Opened
            }
            // A request from before the breaker opened says nothing about the present.
            _ => BreakerTransition::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: BreakerSettings =
        BreakerSettings { failures: 3, window: Duration::from_secs(10), open_for: Duration::from_secs(5) };

    fn fail(breaker: &Breaker, at: Instant) -> BreakerTransition {
        let pass = breaker.enter(at).expect("closed");
        breaker.report(pass, Health::Failing, at)
    }

    #[test]
    fn it_opens_after_failures_within_the_window_and_one_probe_closes_it() {
        let (breaker, start) = (Breaker::new(SETTINGS), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(
            [0, 1, 2].map(|second| fail(&breaker, at(second))),
            [BreakerTransition::None, BreakerTransition::None, BreakerTransition::Opened]
        );
        assert_eq!([2, 6].map(|second| breaker.enter(at(second))), [None, None]);
        assert_eq!(breaker.enter(at(7)), Some(Pass::Probe));
        assert_eq!(breaker.enter(at(8)), None, "there is one probe, not many");
        assert_eq!(breaker.report(Pass::Probe, Health::Well, at(8)), BreakerTransition::Closed);
        assert_eq!(fail(&breaker, at(8)), BreakerTransition::None, "it counts anew");
    }

    #[test]
    fn failures_that_are_long_ago_do_not_count() {
        let (breaker, start) = (Breaker::new(SETTINGS), Instant::now());
        for second in [0, 6, 12, 18, 24] {
            assert_eq!(fail(&breaker, start + Duration::from_secs(second)), BreakerTransition::None);
        }
    }

    #[test]
    fn a_probe_that_fails_opens_it_again_and_one_let_go_of_makes_room_for_another() {
        let (breaker, start) = (Breaker::new(SETTINGS), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for _ in 0..3 {
            fail(&breaker, at(0));
        }
        assert_eq!(breaker.enter(at(5)), Some(Pass::Probe));
        assert_eq!(breaker.report(Pass::Probe, Health::Failing, at(6)), BreakerTransition::None);
        assert_eq!(breaker.enter(at(10)), None);
        assert_eq!(breaker.enter(at(11)), Some(Pass::Probe));
        breaker.report(Pass::Probe, Health::Unknown, at(12));
        assert_eq!(breaker.enter(at(12)), Some(Pass::Probe));
    }

    #[test]
    fn what_was_asked_before_it_opened_neither_closes_it_nor_holds_it_open() {
        let (breaker, now) = (Breaker::new(SETTINGS), Instant::now());
        let early = breaker.enter(now).unwrap();
        for _ in 0..3 {
            fail(&breaker, now);
        }
        assert_eq!(breaker.report(early, Health::Well, now), BreakerTransition::None);
        assert_eq!(
            breaker.report(early, Health::Failing, now + Duration::from_secs(4)),
            BreakerTransition::None
        );
        assert_eq!(breaker.enter(now + Duration::from_secs(5)), Some(Pass::Probe));
    }

    #[test]
    fn without_a_number_of_failures_it_never_opens() {
        let breaker = Breaker::new(BreakerSettings { failures: 0, ..SETTINGS });
        assert!((0..1_000).all(|_| fail(&breaker, Instant::now()) == BreakerTransition::None));
    }
}
