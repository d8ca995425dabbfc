//! A queue of values in which each key waits at most once.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

/// A value of which only the newest one of its key counts.
pub trait NewestValue {
    /// Returns the key. A newer value replaces an older one of the same key.
    fn key(&self) -> &str;

    /// Returns the size of the value, in bytes.
    fn bytes(&self) -> usize;

    /// Returns how many values it had superseded before it was put here.
    fn superseded(&self) -> u32;

    /// Returns when it came, in microseconds on the owner's clock.
    fn came_micros(&self) -> u64;
}

/// The approximate cost of a value beside its own bytes: its entries in the queue and in the table.
const ENTRY_BYTES: usize = 64;

/// First come, first served, by key: a newer value takes the place of the older one. Owns no memory while empty.
#[derive(Debug)]
pub struct NewestQueue<T> {
    /// The number of each key's entry.
    places: HashTable<u64>,
    /// `None`: the value was removed by [`NewestQueue::retain`].
    queue: VecDeque<Option<WaitingValue<T>>>,
    /// The number of the first entry of the queue.
    first: u64,
    bytes: usize,
}

#[derive(Debug)]
struct WaitingValue<T> {
    value: T,
    superseded: u32,
}

/// A value whose turn it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DueValue<T> {
    pub value: T,
    /// How many values it has superseded, here and before it was put here.
    pub superseded: u32,
}

impl<T> Default for NewestQueue<T> {
    fn default() -> Self {
        Self { places: HashTable::new(), queue: VecDeque::new(), first: 0, bytes: 0 }
    }
}

fn hash(key: &str) -> u64 {
    FxBuildHasher.hash_one(key)
}

fn key<T: NewestValue>(queue: &VecDeque<Option<WaitingValue<T>>>, first: u64, number: u64) -> &str {
    let index = usize::try_from(number.wrapping_sub(first)).unwrap_or(usize::MAX);
    queue.get(index).and_then(Option::as_ref).map_or("", |entry| entry.value.key())
}

impl<T: NewestValue> NewestQueue<T> {
    /// Returns how many keys wait.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Returns the size of all waiting values, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts a value in the place of the older one of its key, or behind all others. Returns whether there was an older one.
    pub fn put(&mut self, value: T) -> bool {
        let hash = hash(value.key());
        let (queue, first) = (&mut self.queue, self.first);
        self.bytes += value.bytes();
        if let Some(&number) = self.places.find(hash, |&number| key(queue, first, number) == value.key())
            && let Some(Some(entry)) = queue.get_mut((number - first) as usize)
        {
            let superseded = entry.superseded.saturating_add(1).saturating_add(value.superseded());
            self.bytes -= entry.value.bytes();
            *entry = WaitingValue { value, superseded };
            return true;
        }
        self.bytes += ENTRY_BYTES;
        let superseded = value.superseded();
        let number = first + queue.len() as u64;
        queue.push_back(Some(WaitingValue { value, superseded }));
        self.places.insert_unique(hash, number, |&number| self::hash(key(queue, first, number)));
        false
    }

    /// Whether a value of this key waits.
    pub fn has(&self, wanted: &str) -> bool {
        self.places.find(hash(wanted), |&number| key(&self.queue, self.first, number) == wanted).is_some()
    }

    /// Returns how many values of this key have come since it began to wait: the superseded ones, and the one that waits.
    pub fn count(&self, wanted: &str) -> u32 {
        let (queue, first) = (&self.queue, self.first);
        let found = self.places.find(hash(wanted), |&number| key(queue, first, number) == wanted);
        let entry = found.and_then(|&number| queue.get((number - first) as usize)?.as_ref());
        entry.map_or(0, |entry| entry.superseded.saturating_add(1))
    }

    /// Removes and returns the value that is first in the queue.
    pub fn pop(&mut self) -> Option<DueValue<T>> {
        while let Some(front) = self.queue.front() {
            if let Some(entry) = front {
                let (hash, number) = (hash(entry.value.key()), self.first);
                if let Ok(found) = self.places.find_entry(hash, |&of| of == number) {
                    found.remove();
                }
            }
            self.first += 1;
            if let Some(WaitingValue { value, superseded }) = self.queue.pop_front().flatten() {
                self.bytes -= value.bytes() + ENTRY_BYTES;
                if self.places.is_empty() {
                    *self = Self { first: self.first, ..Self::default() };
                }
                return Some(DueValue { value, superseded });
            }
        }
        None
    }

    /// Removes and returns all values, in their order.
    pub fn take_all(&mut self) -> Vec<DueValue<T>> {
        let entries = std::mem::take(&mut self.queue).into_iter().flatten();
        let all = entries.map(|WaitingValue { value, superseded }| DueValue { value, superseded }).collect();
        *self = Self::default();
        all
    }

    /// Iterates over all values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.queue.iter().flatten().map(|entry| &entry.value)
    }

    /// Returns all values, in their order, with how many each has superseded.
    pub fn all(&self) -> Vec<DueValue<T>>
    where
        T: Clone,
    {
        let entries = self.queue.iter().flatten();
        entries.map(|entry| DueValue { value: entry.value.clone(), superseded: entry.superseded }).collect()
    }

    /// Removes the values for which `stays` returns false, and returns how many there were.
    pub fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) -> usize {
        let before = self.places.len();
        for index in 0..self.queue.len() {
            let Some(Some(entry)) = self.queue.get(index) else { continue };
            if stays(&entry.value) {
                continue;
            }
            let number = self.first + index as u64;
            if let Ok(found) = self.places.find_entry(hash(entry.value.key()), |&of| of == number) {
                found.remove();
            }
            self.bytes -= entry.value.bytes() + ENTRY_BYTES;
            self.queue[index] = None;
        }
        if self.places.is_empty() {
            *self = Self::default();
        }
        before - self.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Quote {
        key: String,
        number: u32,
        superseded: u32,
    }

    impl NewestValue for Quote {
        fn key(&self) -> &str {
            &self.key
        }

        fn bytes(&self) -> usize {
            self.number as usize % 7
        }

        fn superseded(&self) -> u32 {
            self.superseded
        }

        fn came_micros(&self) -> u64 {
            0
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put { key: u8, superseded: u32 },
        Pop,
        Retain { odd: bool },
        TakeAll,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..6_u8, 0..3_u32).prop_map(|(key, superseded)| Step::Put { key, superseded }),
            4 => Just(Step::Pop),
            1 => any::<bool>().prop_map(|odd| Step::Retain { odd }),
            1 => Just(Step::TakeAll),
        ]
    }

    proptest! {
        /// Against a list that is searched from end to end.
        #[test]
        fn each_key_waits_once_in_its_turn_and_all_that_was_superseded_is_counted(
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let mut waiting = NewestQueue::default();
            let mut model: Vec<DueValue<Quote>> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Put { key, superseded } => {
                        let value = Quote { key: key.to_string(), number: number as u32, superseded };
                        let older = model.iter_mut().find(|taken| taken.value.key == value.key);
                        prop_assert_eq!(waiting.has(&value.key), older.is_some());
                        prop_assert_eq!(waiting.put(value.clone()), older.is_some());
                        match older {
                            Some(older) => {
                                let superseded = older.superseded + 1 + superseded;
                                *older = DueValue { value, superseded };
                            }
                            None => model.push(DueValue { value, superseded }),
                        }
                    }
                    Step::Pop => {
                        let expected = (!model.is_empty()).then(|| model.remove(0));
                        prop_assert_eq!(waiting.pop(), expected);
                    }
                    Step::Retain { odd } => {
                        let before = model.len();
                        model.retain(|taken| (taken.value.number % 2 == 1) == odd);
                        let gone = waiting.retain(|value| (value.number % 2 == 1) == odd);
                        prop_assert_eq!(gone, before - model.len());
                    }
                    Step::TakeAll => prop_assert_eq!(waiting.take_all(), std::mem::take(&mut model)),
                }
                prop_assert_eq!((waiting.len(), waiting.is_empty()), (model.len(), model.is_empty()));
                let bytes: usize = model.iter().map(|taken| taken.value.bytes() + ENTRY_BYTES).sum();
                prop_assert_eq!(waiting.bytes(), bytes);
                let values: Vec<&Quote> = model.iter().map(|taken| &taken.value).collect();
                prop_assert_eq!(waiting.iter().collect::<Vec<_>>(), values);
            }
        }
    }

    #[test]
    fn nothing_is_kept_when_nothing_waits() {
        let mut waiting = NewestQueue::default();
        for number in 0..1_000 {
            waiting.put(Quote { key: number.to_string(), number, superseded: 0 });
        }
        while waiting.pop().is_some() {}
        assert_eq!((waiting.queue.capacity(), waiting.places.capacity(), waiting.bytes()), (0, 0, 0));
    }
}
