//! So many times a second: values wait in a window, once for all who want as many, and leave when it closes.
//!
//! The first value after a pause leaves at once and opens a window; what comes while it is open leaves when it closes,
//! and that opens the next. So what comes seldom is never late.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use shared::moment::Moment;

use super::waiting::{Taken, Value, Waiting};

/// The window of those who want something as many times a second.
#[derive(Debug)]
pub struct Window<T> {
    interval: Duration,
    /// A value that has waited for longer is dropped; zero: none is.
    ttl: Duration,
    waiting: Waiting<T>,
    closes: Option<Moment>,
}

impl<T: Value> Window<T> {
    /// `interval`: zero for a window that is never open. `ttl`: zero for values that do not age.
    pub fn new(interval: Duration, ttl: Duration) -> Self {
        Self { interval, ttl, waiting: Waiting::default(), closes: None }
    }

    /// Whether what comes now waits.
    pub fn is_open(&self) -> bool {
        self.closes.is_some()
    }

    /// Something leaves now. Answers when the window closes that this opens, if it opens one.
    pub fn open(&mut self, now: Moment) -> Option<Moment> {
        (!self.interval.is_zero()).then(|| *self.closes.insert(now + self.interval))
    }

    /// For an open window. Answers whether an older value gave way.
    pub fn put(&mut self, value: T) -> bool {
        self.waiting.put(value)
    }

    /// What waits, in its order, and goes on waiting.
    pub fn waiting(&self) -> &Waiting<T> {
        &self.waiting
    }

    /// Lets go of what waits, and is not open any more.
    pub fn clear(&mut self) {
        self.closes = None;
        self.waiting = Waiting::default();
    }

    /// Whether it closes now.
    pub fn is_due(&self, now: Moment) -> bool {
        self.closes.is_some_and(|at| at <= now)
    }

    /// Closes it and answers what has waited, and how many values were too old for that. The first of the others tells of
    /// them.
    pub fn close(&mut self, now: Moment) -> (Vec<Taken<T>>, usize) {
        self.closes = None;
        let mut taken = self.waiting.take_all();
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

/// When windows close, soonest first, each by a number of its owner.
#[derive(Debug, Default)]
pub struct Windows(BinaryHeap<Reverse<(Moment, u32)>>);

impl Windows {
    pub fn add(&mut self, closes: Moment, id: u32) {
        self.0.push(Reverse((closes, id)));
    }

    pub fn next_close(&self) -> Option<Moment> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// The next whose time has come. It may be gone, or another one's by now: who has it says whether it is due.
    pub fn take_due(&mut self, now: Moment) -> Option<u32> {
        self.0.peek().filter(|Reverse((at, _))| *at <= now)?;
        let Reverse((_, id)) = self.0.pop()?;
        if self.0.is_empty() {
            self.0 = BinaryHeap::new();
        }
        Some(id)
    }
}
