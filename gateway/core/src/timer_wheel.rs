//! A coarse timer wheel for many deadlines: one wheel per worker, six bytes per connection.
//!
//! The wheel only knows in which tick to look at a connection again. When that tick comes, the owner is asked for the
//! current deadline. A deadline that moves later, as it does with every message, costs nothing.

use std::time::Duration;

use shared::moment::Moment;

/// How far the wheel reaches. A deadline beyond it is looked at after this time, and again.
pub const REACH: Duration = Duration::from_millis(TICK_MS * (SLOTS as u64 - 1));

/// The length of a tick: a deadline is noticed at most this much too late, and never too early.
const TICK_MS: u64 = 64;
const SLOTS: usize = 1024;
const NOWHERE: u16 = u16::MAX;

/// Connections by the tick in which they have to be looked at.
#[derive(Debug)]
pub struct TimerWheel {
    /// The tick up to which all keys have been taken.
    tick: u64,
    slots: Box<[Vec<u32>]>,
    /// A bit for each slot that is not empty.
    occupied: [u64; SLOTS / 64],
    /// How many keys are in the slots, stale ones included.
    entries: usize,
    /// The slot of each connection. Entries under its key in other slots are stale.
    slot_of: Vec<u16>,
}

impl TimerWheel {
    pub fn new(now: Moment) -> Self {
        Self {
            tick: now.0 / TICK_MS,
            slots: vec![Vec::new(); SLOTS].into_boxed_slice(),
            occupied: [0; SLOTS / 64],
            entries: 0,
            slot_of: Vec::new(),
        }
    }

    /// Schedules a look at `key` no later than a tick after `deadline`. Does nothing if that is scheduled already, so it
    /// may be called after every change.
    pub fn schedule(&mut self, key: u32, deadline: Moment) {
        let tick = deadline.0.div_ceil(TICK_MS).clamp(self.tick + 1, self.tick + SLOTS as u64 - 1);
        let slot = (tick % SLOTS as u64) as u16;
        let index = key as usize;
        if index >= self.slot_of.len() {
            self.slot_of.resize(index + 1, NOWHERE);
        }
        let present = self.slot_of[index];
        if present != NOWHERE && self.ticks_until(present) <= tick - self.tick {
            return;
        }
        if self.entries >= self.slot_of.len() * 2 + SLOTS {
            self.purge();
        }
        self.slot_of[index] = slot;
        self.entries += 1;
        self.slots[usize::from(slot)].push(key);
        self.occupied[usize::from(slot) / 64] |= 1 << (slot % 64);
    }

    /// Forgets `key`, which another connection may then use.
    pub fn remove(&mut self, key: u32) {
        if let Some(slot) = self.slot_of.get_mut(key as usize) {
            *slot = NOWHERE;
        }
    }

    /// Appends the keys whose tick has come. They are no longer scheduled: ask the owner of each for its deadline,
    /// and schedule it again if that lies ahead.
    pub fn take_due(&mut self, now: Moment, due: &mut Vec<u32>) {
        let until = now.0 / TICK_MS;
        // After a long sleep each slot is taken once.
        let first = (self.tick + 1).max(until.saturating_sub(SLOTS as u64 - 1));
        for tick in first..=until {
            let slot = (tick % SLOTS as u64) as usize;
            if self.occupied[slot / 64] & 1 << (slot % 64) == 0 {
                continue;
            }
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            let keys = std::mem::take(&mut self.slots[slot]);
            self.entries -= keys.len();
            for key in keys {
                if let Some(of) = self.slot_of.get_mut(key as usize).filter(|of| usize::from(**of) == slot) {
                    *of = NOWHERE;
                    due.push(key);
                }
            }
        }
        self.tick = self.tick.max(until);
    }

    /// Returns when [`TimerWheel::take_due`] next has keys to take.
    pub fn next_due(&self) -> Option<Moment> {
        let start = ((self.tick + 1) % SLOTS as u64) as usize;
        let words = self.occupied.len();
        (0..=words).find_map(|step| {
            let word = (start / 64 + step) % words;
            let mask = match step {
                0 => u64::MAX << (start % 64),
                step if step == words => !(u64::MAX << (start % 64)),
                _ => u64::MAX,
            };
            let bits = self.occupied[word] & mask;
            let slot = (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)?;
            Some(Moment((self.tick + self.ticks_until(slot as u16)) * TICK_MS))
        })
    }

    /// Gives back the memory of keys from `keys` on.
    pub fn shrink(&mut self, keys: usize) {
        if self.slot_of.iter().skip(keys).all(|&slot| slot == NOWHERE) {
            self.slot_of.truncate(keys);
            self.slot_of.shrink_to_fit();
        }
    }

    /// Removes stale entries, so that connections that come and go fast cannot fill the slots.
    fn purge(&mut self) {
        self.entries = 0;
        for (slot, keys) in (0u16..).zip(&mut self.slots) {
            // The first entry of a key is kept, and a second one cannot be taken for it.
            keys.retain(|&key| match self.slot_of.get_mut(key as usize) {
                Some(of) if *of == slot => {
                    *of = NOWHERE;
                    true
                }
                _ => false,
            });
            for &key in keys.iter() {
                self.slot_of[key as usize] = slot;
            }
            keys.shrink_to_fit();
            self.entries += keys.len();
            if keys.is_empty() {
                self.occupied[usize::from(slot) / 64] &= !(1 << (slot % 64));
            }
        }
    }

    /// Returns the ticks from the current one to the next time this slot comes, 1 to [`SLOTS`].
    fn ticks_until(&self, slot: u16) -> u64 {
        let present = self.tick % SLOTS as u64;
        let ahead = (u64::from(slot) + SLOTS as u64 - present) % SLOTS as u64;
        if ahead == 0 { SLOTS as u64 } else { ahead }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: [u32; 0] = [];

    fn due(wheel: &mut TimerWheel, now: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.take_due(Moment(now), &mut due);
        due
    }

    #[test]
    fn a_deadline_is_noticed_after_it_and_within_a_tick() {
        let mut wheel = TimerWheel::new(Moment(1000));
        wheel.schedule(7, Moment(5000));
        assert_eq!(wheel.next_due(), Some(Moment(5056)));
        assert_eq!(due(&mut wheel, 5055), NONE);
        assert_eq!(due(&mut wheel, 5056), [7]);
        assert_eq!((wheel.next_due(), due(&mut wheel, 100_000)), (None, vec![]));
    }

    #[test]
    fn a_deadline_that_moved_later_costs_nothing_until_the_first_one_comes() {
        let mut wheel = TimerWheel::new(Moment(0));
        wheel.schedule(1, Moment(640));
        for later in 0..1000 {
            wheel.schedule(1, Moment(1000 + later));
        }
        assert_eq!(wheel.slots.iter().map(Vec::len).sum::<usize>(), 1);
        assert_eq!(due(&mut wheel, 640), [1]);
    }

    #[test]
    fn a_deadline_that_moved_earlier_is_looked_at_once() {
        let mut wheel = TimerWheel::new(Moment(0));
        wheel.schedule(1, Moment(6400));
        wheel.schedule(1, Moment(640));
        assert_eq!(due(&mut wheel, 640), [1]);
        assert_eq!(due(&mut wheel, 10_000), NONE);
    }

    #[test]
    fn a_deadline_beyond_the_reach_is_looked_at_in_between() {
        let mut wheel = TimerWheel::new(Moment(0));
        wheel.schedule(1, Moment(u64::MAX));
        assert_eq!(wheel.next_due(), Some(Moment::ZERO + REACH));
        assert_eq!(due(&mut wheel, REACH.as_millis() as u64), [1]);
    }

    #[test]
    fn what_is_past_is_due_in_the_next_tick() {
        let mut wheel = TimerWheel::new(Moment(10_000));
        wheel.schedule(1, Moment(3));
        assert_eq!(due(&mut wheel, 10_000 + 64), [1]);
    }

    #[test]
    fn a_removed_key_is_not_due_and_its_next_owner_is_due_once() {
        let mut wheel = TimerWheel::new(Moment(0));
        wheel.schedule(1, Moment(640));
        wheel.remove(1);
        wheel.schedule(1, Moment(640));
        assert_eq!(due(&mut wheel, 640), [1]);
        wheel.schedule(1, Moment(1280));
        wheel.remove(1);
        assert_eq!(due(&mut wheel, 100_000), NONE);
        wheel.shrink(0);
        assert_eq!(wheel.slot_of.capacity(), 0);
    }

    #[test]
    fn connections_that_come_and_go_do_not_pile_up() {
        let mut wheel = TimerWheel::new(Moment(0));
        for round in 0..100_000 {
            wheel.schedule(round % 3, Moment(1000 + u64::from(round) % 7 * 640));
            wheel.remove(round % 3);
        }
        wheel.schedule(1, Moment(1000));
        assert!(wheel.slots.iter().map(Vec::len).sum::<usize>() <= 2 * SLOTS);
        assert_eq!(due(&mut wheel, 100_000), [1]);
    }

    proptest! {
        #[test]
        fn every_deadline_is_looked_at_in_time_whatever_moves(
            steps in prop::collection::vec((0u32..20, 0u64..200_000, 0u64..3000, 0u8..10), 1..300),
        ) {
            let mut wheel = TimerWheel::new(Moment(12_345));
            let mut now = 12_345;
            let mut deadlines = [None::<u64>; 20];
            for (key, ahead, passes, kind) in steps {
                if kind == 0 {
                    wheel.remove(key);
                    deadlines[key as usize] = None;
                } else {
                    deadlines[key as usize] = Some(now + ahead);
                    wheel.schedule(key, Moment(now + ahead));
                }
                let wakeup = wheel.next_due().map(|at| at.0);
                prop_assert!(wakeup.is_some() || deadlines.iter().all(Option::is_none));
                now += if kind == 9 { 100_000 } else { passes };
                let due = due(&mut wheel, now);
                prop_assert!(due.is_empty() || wakeup.is_some_and(|at| at <= now));
                for key in due {
                    let deadline = deadlines[key as usize].take().expect("only what is scheduled is due");
                    if deadline > now {
                        deadlines[key as usize] = Some(deadline);
                        wheel.schedule(key, Moment(deadline));
                    }
                }
                for deadline in deadlines.into_iter().flatten() {
                    prop_assert!(deadline + TICK_MS > now, "{deadline} was missed by {now}");
                }
            }
        }
    }
}
