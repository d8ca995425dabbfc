//! Decides which log lines about a lasting problem are written: one when it begins or its cause changes, then one a minute.

use std::time::{Duration, Instant};

/// The interval of repeated lines.
const EVERY: Duration = Duration::from_secs(60);
/// The most causes that are told apart. With more at once, some are logged again early.
const CAUSES_MAX: usize = 8;

/// Remembers which lines were logged about one problem.
#[derive(Debug, Default)]
pub(crate) struct Reminder {
    since: Option<Instant>,
    logged: Vec<(String, Instant)>,
}

impl Reminder {
    pub(crate) const fn new() -> Self {
        Self { since: None, logged: Vec::new() }
    }

    /// Records that the problem is present with this cause. Returns whether to log that now.
    pub(crate) fn is_due(&mut self, cause: &str, now: Instant) -> bool {
        self.since.get_or_insert(now);
        if let Some((_, at)) = self.logged.iter_mut().find(|(logged, _)| logged == cause) {
            let due = now.duration_since(*at) >= EVERY;
            if due {
                *at = now;
            }
            return due;
        }
        if self.logged.len() == CAUSES_MAX {
            self.logged.remove(0);
        }
        self.logged.push((cause.to_owned(), now));
        true
    }

    /// Records that the problem is over. Returns how long it lasted, if there was one.
    pub(crate) fn over(&mut self, now: Instant) -> Option<Duration> {
        self.logged.clear();
        self.since.take().map(|since| now.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_said_when_it_begins_when_its_cause_changes_and_once_a_minute() {
        let (mut reminder, start) = (Reminder::new(), Instant::now());
        let mut due = |cause, second| reminder.is_due(cause, start + Duration::from_secs(second));
        assert!(due("full", 0));
        assert!((1..60).all(|second| !due("full", second)));
        assert!(due("gone", 30) && !due("full", 31) && !due("gone", 32), "two that take turns are not news");
        assert!(due("full", 61) && !due("full", 62));
        assert_eq!(reminder.over(start + Duration::from_secs(63)), Some(Duration::from_secs(63)));
        assert_eq!(reminder.over(start), None);
        assert!(reminder.is_due("full", start));
    }

    #[test]
    fn only_so_many_causes_are_remembered() {
        let (mut reminder, now) = (Reminder::new(), Instant::now());
        assert!((0..100).all(|cause| reminder.is_due(&cause.to_string(), now)));
        assert_eq!(reminder.logged.len(), CAUSES_MAX);
    }
}
