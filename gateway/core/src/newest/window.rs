//! Windows that bound the number of deliveries a second: values wait in a window, once for all members that want the same
//! number, and leave when it closes.
//!
//! The first value after a pause leaves at once and opens a window. Values that come while it is open leave when it closes,
//! and that opens the next one. So values that come rarely are never late.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use shared::moment::Moment;

use super::newcomers::Newcomers;
use super::waiting::{DueValue, NewestQueue, NewestValue};

/// The window of the members that want the same number of deliveries a second.
#[derive(Debug)]
pub struct NewestWindow<T> {
    interval: Duration,
    /// How long a value may wait before it is dropped. Zero: for ever.
    ttl: Duration,
    waiting: NewestQueue<T>,
    closes: Option<Moment>,
    /// Members that joined while something waited. As a rule there are none.
    newcomers: Option<Box<Newcomers>>,
}

/// The values that leave a window that has closed.
#[derive(Debug)]
pub struct Closed<T> {
    /// The values for members that joined before anything waited.
    pub values: Vec<DueValue<T>>,
    /// How many of these values were dropped as too old.
    pub stale: usize,
    /// The values for members that joined later, in groups with the same values.
    pub newcomers: Vec<WindowShare<T>>,
}

/// The values for members that joined at about the same time.
#[derive(Debug)]
pub struct WindowShare<T> {
    pub members: Vec<u32>,
    pub values: Vec<DueValue<T>>,
    /// How many values for them were dropped as too old.
    pub stale: usize,
}

/// The result of putting a value into a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WindowPut {
    /// Whether it replaced an older value of its key.
    pub has_superseded: bool,
    /// How many of the members joined after that older value, and so knew nothing of it.
    pub unaware: usize,
}

impl<T: NewestValue + Clone> NewestWindow<T> {
    /// Makes a window. `interval`: zero for a window that never opens. `ttl`: zero for values that do not age.
    pub fn new(interval: Duration, ttl: Duration) -> Self {
        Self { interval, ttl, waiting: NewestQueue::default(), closes: None, newcomers: None }
    }

    /// Whether a value that comes now has to wait.
    pub fn is_open(&self) -> bool {
        self.closes.is_some()
    }

    /// Opens the window because a value leaves now. Returns when it closes, unless its interval is zero.
    pub fn open(&mut self, now: Moment) -> Option<Moment> {
        (!self.interval.is_zero()).then(|| *self.closes.insert(now + self.interval))
    }

    /// Puts a value into the window, which has to be open.
    pub fn put(&mut self, value: T) -> WindowPut {
        let unaware = match &mut self.newcomers {
            Some(newcomers) => newcomers.note(value.key(), self.waiting.count(value.key())),
            None => 0,
        };
        WindowPut { has_superseded: self.waiting.put(value), unaware }
    }

    /// Adds a member, which is to have none of the values that already wait.
    pub fn join(&mut self, member: u32) {
        if !self.waiting.is_empty() {
            self.newcomers.get_or_insert_default().add(member);
        }
    }

    pub fn leave(&mut self, member: u32) {
        if let Some(newcomers) = &mut self.newcomers {
            newcomers.remove(member);
        }
    }

    /// Returns the values that wait for a member, in their order. They go on waiting.
    pub fn waiting_for(&self, member: u32) -> Vec<DueValue<T>> {
        let all = self.waiting.all();
        let share = self.newcomers.as_ref().and_then(|newcomers| newcomers.share_for(member, &all));
        share.unwrap_or(all)
    }

    /// Drops all waiting values and closes the window.
    pub fn clear(&mut self) {
        self.closes = None;
        self.newcomers = None;
        self.waiting = NewestQueue::default();
    }

    /// Whether the window has to close now.
    pub fn is_due(&self, now: Moment) -> bool {
        self.closes.is_some_and(|at| at <= now)
    }

    /// Closes the window and returns the waiting values that are not too old. The first of them counts the dropped ones as
    /// superseded.
    pub fn close(&mut self, now: Moment) -> Closed<T> {
        self.closes = None;
        let all = self.waiting.take_all();
        let shares = self.newcomers.take().map(|newcomers| newcomers.shares(&all)).unwrap_or_default();
        let newcomers = shares.into_iter().map(|(members, share)| {
            let (values, stale) = self.young(now, share);
            WindowShare { members, values, stale }
        });
        let newcomers = newcomers.collect();
        let (values, stale) = self.young(now, all);
        Closed { values, stale, newcomers }
    }

    /// Returns the values that are not too old, and how many are.
    fn young(&self, now: Moment, mut taken: Vec<DueValue<T>>) -> (Vec<DueValue<T>>, usize) {
        if self.ttl.is_zero() {
            return (taken, 0);
        }
        let (now, ttl) = (Duration::from_millis(now.0), self.ttl);
        let is_young = |value: &T| now.saturating_sub(Duration::from_micros(value.came_micros())) <= ttl;
        let (before, mut dropped) = (taken.len(), 0_u32);
        taken.retain(|one| {
            let stays = is_young(&one.value);
            dropped = dropped.saturating_add(if stays { 0 } else { one.superseded.saturating_add(1) });
            stays
        });
        if let Some(first) = taken.first_mut() {
            first.superseded = first.superseded.saturating_add(dropped);
        }
        let stale = before - taken.len();
        (taken, stale)
    }
}

/// When windows close, soonest first, each by a number that its owner chose.
#[derive(Debug, Default)]
pub struct WindowTimers(BinaryHeap<Reverse<(Moment, u32)>>);

impl WindowTimers {
    pub fn add(&mut self, closes: Moment, id: u32) {
        self.0.push(Reverse((closes, id)));
    }

    pub fn next_close(&self) -> Option<Moment> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Removes and returns the next window that is due. The window may be gone, or its number another one's by now: the
    /// owner checks whether it is due.
    pub fn take_due(&mut self, now: Moment) -> Option<u32> {
        self.0.peek().filter(|Reverse((at, _))| *at <= now)?;
        let Reverse((_, id)) = self.0.pop()?;
        if self.0.is_empty() {
            self.0 = BinaryHeap::new();
        }
        Some(id)
    }
}
