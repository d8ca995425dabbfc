//! Takes messages once that arrive over several paths.
//!
//! A sender numbers its messages. The receiver remembers which of a sender's latest numbers have arrived. It refuses older
//! ones, because they may have arrived before.

use std::collections::HashMap;

/// How many of a sender's latest numbers are remembered.
pub const NUMBERS_MAX: u64 = 32_768;
/// The most senders that are remembered. Beyond it, the one heard from least recently is forgotten.
pub const SENDERS_MAX: usize = 1_024;

const WORDS: usize = NUMBERS_MAX as usize / 64;

/// Whether a message has arrived before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// This is its first arrival.
    First,
    /// It has arrived before.
    Again,
    /// It is so late that its number is no longer remembered. It must not be taken.
    Late,
}

#[derive(Debug, Default)]
pub struct Repeats {
    senders: HashMap<u64, Sender>,
    /// Counts the messages that have arrived, to tell which sender was heard from last.
    received: u64,
}

#[derive(Debug)]
struct Sender {
    highest: u64,
    /// A bit for each of the latest numbers, at the number's position in a ring.
    seen: Box<[u64; WORDS]>,
    received: u64,
}

impl Repeats {
    /// Records the arrival of a message.
    pub fn arrived(&mut self, sender: u64, number: u64) -> Arrival {
        self.received += 1;
        if self.senders.len() >= SENDERS_MAX && !self.senders.contains_key(&sender) {
            let oldest = self.senders.iter().min_by_key(|(_, sender)| sender.received).map(|(name, _)| *name);
            oldest.map(|oldest| self.senders.remove(&oldest));
        }
        let sender = self.senders.entry(sender).or_insert_with(|| Sender {
            highest: number,
            seen: Box::new([0; WORDS]),
            received: 0,
        });
        sender.received = self.received;
        sender.arrived(number)
    }
}

impl Sender {
    fn arrived(&mut self, number: u64) -> Arrival {
        if number > self.highest {
            if number - self.highest >= NUMBERS_MAX {
                self.seen.fill(0);
            } else {
                (self.highest + 1..=number).for_each(|skipped| *self.word(skipped) &= !bit(skipped));
            }
            self.highest = number;
        } else if self.highest - number >= NUMBERS_MAX {
            return Arrival::Late;
        }
        let word = self.word(number);
        let is_known = *word & bit(number) != 0;
        *word |= bit(number);
        if is_known { Arrival::Again } else { Arrival::First }
    }

    fn word(&mut self, number: u64) -> &mut u64 {
        &mut self.seen[(number % NUMBERS_MAX) as usize / 64]
    }
}

fn bit(number: u64) -> u64 {
    1 << (number % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_taken_once_in_whatever_order_its_copies_come() {
        let mut repeats = Repeats::default();
        for number in [5, 3, 9, 4, 100, 6] {
            assert_eq!(repeats.arrived(1, number), Arrival::First, "{number}");
            assert_eq!(repeats.arrived(1, number), Arrival::Again, "{number}");
        }
        assert_eq!(repeats.arrived(2, 5), Arrival::First, "of another sender");
    }

    #[test]
    fn what_is_too_late_to_be_known_is_not_taken() {
        let mut repeats = Repeats::default();
        let last = 2 * NUMBERS_MAX;
        assert_eq!(repeats.arrived(1, last), Arrival::First);
        assert_eq!(repeats.arrived(1, last - NUMBERS_MAX + 1), Arrival::First, "the last that is known");
        assert_eq!(repeats.arrived(1, last - NUMBERS_MAX), Arrival::Late);
        assert_eq!(repeats.arrived(1, last + NUMBERS_MAX), Arrival::First);
        assert_eq!(repeats.arrived(1, last), Arrival::Late);
        assert_eq!(repeats.arrived(1, last + 1), Arrival::First, "its place in the ring was another's");
    }

    #[test]
    fn many_numbers_in_a_row_go_round_the_ring() {
        let mut repeats = Repeats::default();
        for number in 1..3 * NUMBERS_MAX {
            assert_eq!(repeats.arrived(1, number), Arrival::First, "{number}");
            assert_eq!(repeats.arrived(1, number.saturating_sub(100).max(1)), Arrival::Again, "{number}");
        }
    }

    #[test]
    fn only_so_many_senders_are_known_and_the_one_that_was_heard_last_is() {
        let mut repeats = Repeats::default();
        for sender in 0..SENDERS_MAX as u64 + 10 {
            repeats.arrived(sender, 1);
            assert_eq!(repeats.arrived(0, 1), Arrival::Again, "it is heard all the time");
            assert!(repeats.senders.len() <= SENDERS_MAX);
        }
        assert_eq!(repeats.arrived(5, 1), Arrival::First, "it was forgotten");
    }
}
