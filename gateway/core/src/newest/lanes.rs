//! The values that wait for one client's connection: a lane for each of its subscriptions to newest values.
//!
//! Values are taken one by one, as the connection has room for them, from each lane in turn. A lane with a bound in bytes a
//! second is skipped while it has used them up.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use shared::channel::Channel;

use super::NewestTerms;
use super::waiting::{DueValue, NewestQueue, NewestValue};

/// The lanes of one client.
#[derive(Debug)]
pub struct Lanes<T> {
    lanes: FxHashMap<Channel, Lane<T>>,
    /// The lanes in which something waits, each once. The first one has its turn.
    turns: VecDeque<Channel>,
    /// The size of all waiting values, in bytes.
    bytes: usize,
    /// How many lanes have a bound in bytes a second.
    paced: usize,
    /// How many lanes have dropped values that no later value has counted yet.
    owing: usize,
}

#[derive(Debug)]
struct Lane<T> {
    latest: NewestTerms,
    waiting: NewestQueue<T>,
    /// When the lane may send again, in microseconds on the owner's clock.
    may_at: u64,
    /// How many values were dropped. The next value that is sent counts them as superseded.
    dropped: u32,
}

/// The client has as much waiting in one channel as it may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneFull;

/// The result of putting a value into a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LanePut {
    /// The value waits behind others.
    Behind,
    /// The value has replaced an older one.
    Instead,
}

/// What can be written now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NextWrite<T> {
    Value {
        channel: Channel,
        taken: DueValue<T>,
    },
    /// Nothing before then, in microseconds on the owner's clock.
    At(u64),
    /// Nothing waits.
    Nothing,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { lanes: FxHashMap::default(), turns: VecDeque::new(), bytes: 0, paced: 0, owing: 0 }
    }
}

impl<T: NewestValue> Lanes<T> {
    /// Opens a lane for this subscription, or changes the terms of the lane that it has.
    pub fn open(&mut self, channel: &Channel, latest: NewestTerms) {
        let is_paced = |latest: NewestTerms| usize::from(latest.bytes_per_s > 0);
        match self.lanes.get_mut(channel) {
            Some(lane) => {
                self.paced = self.paced - is_paced(lane.latest) + is_paced(latest);
                lane.latest = latest;
                if latest.bytes_per_s == 0 {
                    lane.may_at = 0;
                }
            }
            None => {
                self.paced += is_paced(latest);
                let lane = Lane { latest, waiting: NewestQueue::default(), may_at: 0, dropped: 0 };
                self.lanes.insert(channel.clone(), lane);
            }
        }
    }

    /// Closes the lane, because the subscription has ended or is to receive all publications. Returns the waiting values
    /// that are not too old, in their order. `stale` counts the others, and the returned values count them as superseded.
    pub fn close(&mut self, channel: &Channel, now_micros: u64, stale: &mut u64) -> Vec<DueValue<T>> {
        let Some(mut lane) = self.lanes.remove(channel) else { return Vec::new() };
        self.bytes -= lane.waiting.bytes();
        self.paced -= usize::from(lane.latest.bytes_per_s > 0);
        self.owing -= usize::from(lane.dropped > 0);
        self.turns.retain(|of| of != channel);
        let mut young: Vec<_> = std::iter::from_fn(|| lane.take(now_micros, stale)).collect();
        if let Some(last) = young.last_mut() {
            // No later value of this lane can count them.
            last.superseded = last.superseded.saturating_add(lane.dropped);
        }
        young
    }

    /// Whether there is no lane at all.
    pub fn is_unused(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether a value must go through its lane, and not past it: something waits, bytes are counted, or the value has to
    /// count those that were dropped before it.
    pub fn is_needed(&self) -> bool {
        self.paced > 0 || self.owing > 0 || !self.turns.is_empty()
    }

    /// Returns the size of all waiting values, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns how many values wait.
    pub fn len(&self) -> usize {
        self.turns.iter().filter_map(|channel| self.lanes.get(channel)).map(|lane| lane.waiting.len()).sum()
    }

    /// Puts a value into a lane. `bytes_max`: the most bytes that may wait in one lane.
    pub fn put(&mut self, channel: &Channel, value: T, bytes_max: usize) -> Result<LanePut, LaneFull> {
        // Every subscription to newest values has a lane.
        let Some(lane) = self.lanes.get_mut(channel) else { return Err(LaneFull) };
        let waiting = &mut lane.waiting;
        let is_new = !waiting.has(value.key());
        let is_full = is_new && waiting.len() >= lane.latest.keys_max as usize
            || !waiting.is_empty() && waiting.bytes() + value.bytes() > bytes_max;
        if is_full {
            return Err(LaneFull);
        }
        if waiting.is_empty() {
            self.turns.push_back(channel.clone());
        }
        let before = waiting.bytes();
        let has_superseded = waiting.put(value);
        self.bytes = self.bytes - before + waiting.bytes();
        Ok(if has_superseded { LanePut::Instead } else { LanePut::Behind })
    }

    /// Returns the value to write next. `stale` counts the values that were too old and are dropped.
    pub fn next(&mut self, now_micros: u64, stale: &mut u64) -> NextWrite<T> {
        let mut earliest: Option<u64> = None;
        for _ in 0..self.turns.len() {
            let Some(channel) = self.turns.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&channel) else { continue };
            if lane.may_at > now_micros {
                earliest = Some(earliest.map_or(lane.may_at, |at| at.min(lane.may_at)));
                self.turns.push_back(channel);
                continue;
            }
            let before = lane.waiting.bytes();
            self.owing -= usize::from(lane.dropped > 0);
            let taken = lane.take(now_micros, stale);
            self.owing += usize::from(lane.dropped > 0);
            self.bytes = self.bytes - before + lane.waiting.bytes();
            if !lane.waiting.is_empty() {
                self.turns.push_back(channel.clone());
            }
            if let Some(taken) = taken {
                return NextWrite::Value { channel, taken };
            }
        }
        if self.turns.is_empty() {
            self.turns = VecDeque::new();
        }
        earliest.map_or(NextWrite::Nothing, NextWrite::At)
    }

    /// Notes that `bytes` bytes of this lane were written.
    pub fn spent(&mut self, channel: &Channel, bytes: usize, now_micros: u64) {
        let Some(lane) = self.lanes.get_mut(channel).filter(|lane| lane.latest.bytes_per_s > 0) else {
            return;
        };
        let takes = (bytes as u64).saturating_mul(1_000_000) / u64::from(lane.latest.bytes_per_s);
        lane.may_at = lane.may_at.max(now_micros).saturating_add(takes);
    }
}

impl<T: NewestValue> Lane<T> {
    /// Removes and returns the next value that is not too old.
    fn take(&mut self, now_micros: u64, stale: &mut u64) -> Option<DueValue<T>> {
        let ttl_micros = u64::from(self.latest.value_ttl_ms) * 1_000;
        while let Some(mut taken) = self.waiting.pop() {
            let waited = now_micros.saturating_sub(taken.value.came_micros());
            if ttl_micros > 0 && waited > ttl_micros {
                *stale += 1;
                self.dropped = self.dropped.saturating_add(taken.superseded).saturating_add(1);
                continue;
            }
            taken.superseded = taken.superseded.saturating_add(std::mem::take(&mut self.dropped));
            return Some(taken);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Quote(&'static str, u64);

    impl NewestValue for Quote {
        fn key(&self) -> &str {
            self.0
        }

        fn bytes(&self) -> usize {
            10
        }

        fn superseded(&self) -> u32 {
            0
        }

        fn came_micros(&self) -> u64 {
            self.1
        }
    }

    fn channel(name: &str) -> Channel {
        Channel::parse(name, 255).unwrap()
    }

    const LATEST: NewestTerms = NewestTerms { times_per_s: 0, bytes_per_s: 0, value_ttl_ms: 0, keys_max: 3 };

    /// The channel, the key and the number of superseded values.
    fn next(lanes: &mut Lanes<Quote>, now: u64) -> Option<(String, &'static str, u32)> {
        match lanes.next(now, &mut 0) {
            NextWrite::Value { channel, taken } => {
                Some((channel.as_str().to_owned(), taken.value.0, taken.superseded))
            }
            NextWrite::At(_) | NextWrite::Nothing => None,
        }
    }

    #[test]
    fn lanes_take_turns_and_keys_keep_theirs() {
        let mut lanes = Lanes::default();
        for name in ["a", "b"] {
            lanes.open(&channel(name), LATEST);
        }
        for (name, key, expected) in [
            ("a", "x", LanePut::Behind),
            ("a", "y", LanePut::Behind),
            ("a", "x", LanePut::Instead),
            ("b", "z", LanePut::Behind),
            ("a", "x", LanePut::Instead),
        ] {
            assert_eq!(lanes.put(&channel(name), Quote(key, 0), 1_000), Ok(expected));
        }
        assert_eq!((lanes.len(), lanes.is_needed()), (3, true));
        let taken: Vec<_> = std::iter::from_fn(|| next(&mut lanes, 0)).collect();
        let expected = [("a", "x", 2), ("b", "z", 0), ("a", "y", 0)];
        assert_eq!(taken, expected.map(|(name, key, superseded)| (name.to_owned(), key, superseded)));
        assert_eq!((lanes.len(), lanes.bytes(), lanes.is_needed()), (0, 0, false));
    }

    #[test]
    fn a_lane_is_bounded_in_keys_and_bytes_and_newer_values_of_its_keys_still_come_in() {
        let (mut lanes, a) = (Lanes::default(), channel("a"));
        lanes.open(&a, LATEST);
        for key in ["x", "y", "z"] {
            lanes.put(&a, Quote(key, 0), 1_000).unwrap();
        }
        assert_eq!(lanes.put(&a, Quote("w", 0), 1_000), Err(LaneFull));
        assert_eq!(lanes.put(&a, Quote("y", 0), 1_000), Ok(LanePut::Instead));
        assert_eq!(lanes.put(&a, Quote("y", 0), lanes.bytes() + 9), Err(LaneFull));
        assert_eq!(lanes.close(&a, 0, &mut 0).len(), 3);
        assert!(lanes.is_unused() && lanes.bytes() == 0);
        assert_eq!(lanes.put(&a, Quote("x", 0), 1_000), Err(LaneFull), "there is no such subscription");
    }

    #[test]
    fn bytes_are_spread_over_the_second_and_others_do_not_wait_for_that() {
        let mut lanes = Lanes::default();
        lanes.open(&channel("slow"), NewestTerms { bytes_per_s: 100, ..LATEST });
        lanes.open(&channel("quick"), LATEST);
        assert!(lanes.is_needed(), "what is sent past it is not counted");
        let mut sent = Vec::new();
        for millis in 0..1_000_u64 {
            let now = millis * 1_000;
            for name in ["slow", "quick"] {
                lanes.put(&channel(name), Quote("x", now), 1_000).unwrap();
            }
            while let NextWrite::Value { channel, taken } = lanes.next(now, &mut 0) {
                lanes.spent(&channel, 10, now);
                sent.push((channel.as_str().to_owned(), taken.superseded));
            }
        }
        let of = |name: &str| sent.iter().filter(|(of, _)| of == name).map(|(_, count)| *count).collect();
        let (slow, quick): (Vec<u32>, Vec<u32>) = (of("slow"), of("quick"));
        assert_eq!((slow.len(), quick.len()), (10, 1_000));
        assert!(slow[1..].iter().all(|&superseded| superseded == 99));
        assert_eq!(lanes.next(999_999, &mut 0), NextWrite::At(1_000_000));
        lanes.open(&channel("slow"), LATEST);
        assert!(next(&mut lanes, 999_999).is_some(), "it need not wait any more");
        assert!(!lanes.is_needed());
    }

    #[test]
    fn a_lane_that_is_closed_gives_out_nothing_that_is_too_old_and_tells_of_it() {
        let (mut lanes, a, mut stale) = (Lanes::default(), channel("a"), 0);
        lanes.open(&a, NewestTerms { value_ttl_ms: 5, ..LATEST });
        for quote in [Quote("x", 0), Quote("y", 3_000), Quote("y", 4_000), Quote("z", 0)] {
            lanes.put(&a, quote, 1_000).unwrap();
        }
        let given = lanes.close(&a, 6_000, &mut stale);
        assert_eq!(given, [DueValue { value: Quote("y", 4_000), superseded: 3 }]);
        assert_eq!((stale, lanes.is_needed(), lanes.is_unused()), (2, false, true));
    }

    #[test]
    fn a_value_that_is_too_old_is_dropped_and_the_next_tells_of_it() {
        let (mut lanes, a, mut stale) = (Lanes::default(), channel("a"), 0);
        lanes.open(&a, NewestTerms { value_ttl_ms: 5, ..LATEST });
        for quote in [Quote("x", 0), Quote("y", 0), Quote("x", 3_000), Quote("z", 3_000)] {
            lanes.put(&a, quote, 1_000).unwrap();
        }
        let NextWrite::Value { taken, .. } = lanes.next(5_001, &mut stale) else {
            panic!("x is young enough")
        };
        assert_eq!((taken.value.0, taken.superseded, stale), ("x", 1, 0));
        let NextWrite::Value { taken, .. } = lanes.next(5_001, &mut stale) else { panic!("z is, too") };
        assert_eq!((taken.value.0, taken.superseded, stale), ("z", 1, 1));
        lanes.put(&a, Quote("x", 6_000), 1_000).unwrap();
        assert_eq!(lanes.next(20_000, &mut stale), NextWrite::Nothing);
        assert_eq!((stale, lanes.bytes(), lanes.is_empty()), (2, 0, true));
        assert!(lanes.is_needed(), "what goes past it would not tell of what was dropped");
        lanes.put(&a, Quote("z", 20_000), 1_000).unwrap();
        let NextWrite::Value { taken, .. } = lanes.next(20_000, &mut stale) else { panic!("it is new") };
        assert_eq!((taken.superseded, lanes.is_needed()), (1, false));
    }
}
