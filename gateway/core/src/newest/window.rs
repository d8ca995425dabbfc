//! So many times a second: values wait in a window, once for all who want as many, and leave when it closes.
//!
//! The first value after a pause leaves at once and opens a window; what comes while it is open leaves when it closes,
//! and that opens the next. So what comes seldom is never late.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use shared::moment::Moment;

use super::newcomers::Newcomers;
use super::waiting::{DueValue, NewestQueue, NewestValue};

/// The window of those who want something as many times a second.
#[derive(Debug)]
pub struct NewestWindow<T> {
    interval: Duration,
    /// A value that has waited for longer is dropped; zero: none is.
    ttl: Duration,
    waiting: NewestQueue<T>,
    closes: Option<Moment>,
    /// Who came while something waited. Mostly nobody.
    newcomers: Option<Box<Newcomers>>,
}

/// What leaves a window that has closed.
#[derive(Debug)]
pub struct Closed<T> {
    /// For those who were there before anything waited.
    pub values: Vec<DueValue<T>>,
    /// How many of these values were too old.
    pub stale: usize,
    /// The same for those who came later, in groups that are to have the same.
    pub newcomers: Vec<WindowShare<T>>,
}

/// What is for those of the members who came at about the same time.
#[derive(Debug)]
pub struct WindowShare<T> {
    pub members: Vec<u32>,
    pub values: Vec<DueValue<T>>,
    /// How many values for them were too old.
    pub stale: usize,
}

/// What came of putting a value into a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WindowPut {
    /// An older value of its key gave way.
    pub has_superseded: bool,
    /// To how many of the members that was nothing, having come after it.
    pub unaware: usize,
}

impl<T: NewestValue + Clone> NewestWindow<T> {
    /// `interval`: zero for a window that is never open. `ttl`: zero for values that do not age.
    pub fn new(interval: Duration, ttl: Duration) -> Self {
        Self { interval, ttl, waiting: NewestQueue::default(), closes: None, newcomers: None }
    }

    /// Whether what comes now waits.
    pub fn is_open(&self) -> bool {
        self.closes.is_some()
    }

    /// Something leaves now. Returns when the window closes that this opens, if it opens one.
    pub fn open(&mut self, now: Moment) -> Option<Moment> {
        (!self.interval.is_zero()).then(|| *self.closes.insert(now + self.interval))
    }

    /// For an open window.
    pub fn put(&mut self, value: T) -> WindowPut {
        let unaware = match &mut self.newcomers {
            Some(newcomers) => newcomers.note(value.key(), self.waiting.count(value.key())),
            None => 0,
        };
        WindowPut { has_superseded: self.waiting.put(value), unaware }
    }

    /// A member comes, who is to have nothing of what waits already.
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

    /// What waits for one of the members, in its order. It goes on waiting.
    pub fn waiting_for(&self, member: u32) -> Vec<DueValue<T>> {
        let all = self.waiting.all();
        let share = self.newcomers.as_ref().and_then(|newcomers| newcomers.share_for(member, &all));
        share.unwrap_or(all)
    }

    /// Lets go of what waits, and is not open any more.
    pub fn clear(&mut self) {
        self.closes = None;
        self.newcomers = None;
        self.waiting = NewestQueue::default();
    }

    /// Whether it closes now.
    pub fn is_due(&self, now: Moment) -> bool {
        self.closes.is_some_and(|at| at <= now)
    }

    /// Closes it and answers what has waited without growing too old. The first value tells of those that have.
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

    /// Those that are not too old, and how many are.
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

/// When windows close, soonest first, each by a number of its owner.
#[derive(Debug, Default)]
pub struct WindowTimers(BinaryHeap<Reverse<(Moment, u32)>>);

impl WindowTimers {
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
