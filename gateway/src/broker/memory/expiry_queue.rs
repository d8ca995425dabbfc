//! A queue of names by deadline.

use std::collections::BTreeSet;

use shared::moment::Moment;

/// Names by deadline. A name is queued at most once if its owner keeps the deadline it was queued with.
#[derive(Debug)]
pub(super) struct Deadlines<T: Ord>(BTreeSet<(Moment, T)>);

impl<T: Ord> Default for Deadlines<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<T: Ord> Deadlines<T> {
    pub(super) fn insert(&mut self, at: Moment, name: T) {
        self.0.insert((at, name));
    }

    pub(super) fn remove(&mut self, at: Moment, name: T) {
        self.0.remove(&(at, name));
    }

    /// Removes and returns the earliest name, if its deadline is not after `now`.
    pub(super) fn pop_due(&mut self, now: Moment) -> Option<T> {
        let (at, _) = self.0.first()?;
        if *at > now {
            return None;
        }
        self.pop_first().map(|(_, name)| name)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Removes and returns the earliest name, due or not.
    pub(super) fn pop_first(&mut self) -> Option<(Moment, T)> {
        self.0.pop_first()
    }
}
