//! Compares what one subscription receives with what was published: lost, duplicated, reordered.

use crate::counts::Verdict;

/// Holes that one subscription remembers. Beyond that, the oldest hole counts as lost, and a publication that fills it later
/// counts as a duplicate.
const HOLES_MAX: usize = 1_024;

/// Follows one sequence, which is published from 1 and without holes.
#[derive(Debug, Default)]
pub struct Checker {
    /// The first publication after the subscription was confirmed. Everything from here on must arrive.
    due_from: u64,
    /// The lowest and the highest that have arrived since; 0 for none.
    first: u64,
    highest: u64,
    /// The end of an earlier life of this subscription. Nothing up to here may come again.
    floor: u64,
    /// What is missing, as inclusive ranges.
    holes: Vec<(u64, u64)>,
    settled: Verdict,
}

/// What one publication is to its subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    InOrder,
    /// The publication came after a later one.
    Reordered,
    Duplicate,
}

impl Checker {
    /// Starts with a confirmed subscription; `next` is published next. Earlier publications may still come, but need not.
    pub fn confirmed(&mut self, next: u64) {
        self.due_from = next;
    }

    /// Starts anew with a subscription that was confirmed again without recovery.
    pub fn confirmed_anew(&mut self, next: u64, failed: &[u64]) {
        let seen = self.seen_to();
        for hole in std::mem::take(&mut self.holes) {
            self.settle(hole, failed);
        }
        self.floor = seen;
        self.settled.missed_away += next.saturating_sub(seen + 1);
        (self.due_from, self.first, self.highest) = (next, 0, 0);
    }

    pub fn arrived(&mut self, sequence: u64) -> Arrival {
        if sequence <= self.floor {
            return Arrival::Duplicate;
        }
        if self.first == 0 {
            if sequence > self.due_from {
                self.open_hole(self.due_from, sequence - 1);
            } else if sequence < self.due_from {
                // It was published before the confirmation came, so it need not have arrived.
                self.settled.missed_away = self.settled.missed_away.saturating_sub(self.due_from - sequence);
            }
            (self.first, self.highest) = (sequence, sequence);
            return Arrival::InOrder;
        }
        if sequence > self.highest {
            if sequence > self.highest + 1 {
                self.open_hole(self.highest + 1, sequence - 1);
            }
            self.highest = sequence;
            return Arrival::InOrder;
        }
        if self.fill_hole(sequence) {
            return Arrival::Reordered;
        }
        if sequence < self.first && sequence < self.due_from {
            self.first = sequence;
            return Arrival::Reordered;
        }
        Arrival::Duplicate
    }

    /// Returns the last publication that this subscription does not wait for any more.
    pub fn seen_to(&self) -> u64 {
        self.highest.max(self.due_from.saturating_sub(1)).max(self.floor)
    }

    /// Returns how many publications are missing if `last` was published last.
    pub fn missing(&self, last: u64) -> u64 {
        let holes: u64 = self.holes.iter().map(|(from, to)| to - from + 1).sum();
        holes + last.saturating_sub(self.seen_to())
    }

    /// Returns what is missing when nothing more will come. `last` was published last, or last before the connection was lost
    /// for good.
    pub fn finish(mut self, last: u64, failed: &[u64]) -> Verdict {
        let seen = self.seen_to();
        for hole in std::mem::take(&mut self.holes) {
            self.settle(hole, failed);
        }
        if last > seen {
            let before = self.settled.lost;
            self.settle((seen + 1, last), failed);
            self.settled.lost_at_end = self.settled.lost - before;
        }
        self.settled
    }

    fn open_hole(&mut self, from: u64, to: u64) {
        if self.holes.len() == HOLES_MAX {
            let oldest = self.holes.remove(0);
            self.settle(oldest, &[]);
        }
        self.holes.push((from, to));
    }

    fn fill_hole(&mut self, sequence: u64) -> bool {
        let Some(index) = self.holes.iter().position(|&(from, to)| (from..=to).contains(&sequence)) else {
            return false;
        };
        let (from, to) = self.holes[index];
        match (from == sequence, to == sequence) {
            (true, true) => {
                self.holes.remove(index);
            }
            (true, false) => self.holes[index].0 += 1,
            (false, true) => self.holes[index].1 -= 1,
            (false, false) => {
                self.holes[index].1 = sequence - 1;
                self.holes.insert(index + 1, (sequence + 1, to));
            }
        }
        true
    }

    fn settle(&mut self, (from, to): (u64, u64), failed: &[u64]) {
        let uncertain = failed.iter().filter(|sequence| (from..=to).contains(*sequence)).count() as u64;
        self.settled.uncertain += uncertain;
        self.settled.lost += (to - from + 1).saturating_sub(uncertain);
    }
}

#[cfg(test)]
mod tests {
    use super::Arrival::*;
    use super::*;

    fn checker(due_from: u64, arrivals: &[u64]) -> (Checker, Vec<Arrival>) {
        let mut checker = Checker::default();
        checker.confirmed(due_from);
        let seen = arrivals.iter().map(|&sequence| checker.arrived(sequence)).collect();
        (checker, seen)
    }

    #[test]
    fn a_whole_sequence_has_nothing_to_report() {
        let (checker, seen) = checker(1, &[1, 2, 3, 4]);
        assert_eq!(seen, [InOrder; 4]);
        assert_eq!(checker.missing(4), 0);
        assert_eq!(checker.finish(4, &[]), Verdict::default());
    }

    #[test]
    fn holes_at_the_start_the_middle_and_the_end_are_lost() {
        let (checker, seen) = checker(1, &[3, 4, 7]);
        assert_eq!(seen, [InOrder; 3]);
        assert_eq!(checker.missing(10), 2 + 2 + 3);
        let verdict = checker.finish(10, &[]);
        assert_eq!((verdict.lost, verdict.lost_at_end), (7, 3));
    }

    #[test]
    fn a_subscription_that_gets_nothing_has_lost_everything_it_was_owed() {
        assert_eq!(checker(1, &[]).0.finish(5, &[]).lost, 5);
        assert_eq!(checker(4, &[]).0.finish(5, &[]).lost, 2);
        assert_eq!(checker(6, &[]).0.finish(5, &[]).lost, 0);
    }

    #[test]
    fn a_latecomer_is_reordered_and_no_longer_lost() {
        let (checker, seen) = checker(1, &[1, 2, 6, 4, 3, 5]);
        assert_eq!(seen, [InOrder, InOrder, InOrder, Reordered, Reordered, Reordered]);
        assert_eq!(checker.finish(6, &[]), Verdict::default());
    }

    #[test]
    fn what_comes_twice_is_a_duplicate_each_further_time() {
        let (checker, seen) = checker(1, &[1, 1, 2, 1, 2, 3]);
        assert_eq!(seen, [InOrder, Duplicate, InOrder, Duplicate, Duplicate, InOrder]);
        assert_eq!(checker.finish(3, &[]).lost, 0);
    }

    #[test]
    fn what_was_published_before_the_confirmation_may_come_or_not() {
        let (early, seen) = checker(5, &[3, 4, 5]);
        assert_eq!(seen, [InOrder; 3]);
        assert_eq!(early.finish(5, &[]).lost, 0);
        let (swapped, seen) = checker(5, &[4, 3, 5, 3]);
        assert_eq!(seen, [InOrder, Reordered, InOrder, Duplicate]);
        assert_eq!(swapped.finish(5, &[]).lost, 0);
    }

    #[test]
    fn once_one_has_come_all_that_follow_must() {
        assert_eq!(checker(6, &[3, 6]).0.finish(6, &[]).lost, 2);
    }

    #[test]
    fn a_publication_that_failed_is_uncertain_when_missing() {
        let (checker, _) = checker(1, &[1, 4]);
        assert_eq!(
            checker.finish(6, &[3, 6, 9]),
            Verdict { lost: 2, lost_at_end: 1, uncertain: 2, missed_away: 0 }
        );
    }

    #[test]
    fn a_new_life_without_recovery_counts_what_was_missed_away_and_still_sees_duplicates() {
        let (mut checker, _) = checker(1, &[1, 3]);
        checker.confirmed_anew(8, &[]);
        assert_eq!(checker.arrived(7), InOrder);
        assert_eq!(checker.arrived(3), Duplicate);
        assert_eq!(checker.arrived(8), InOrder);
        assert_eq!(checker.finish(9, &[]), Verdict { lost: 2, lost_at_end: 1, uncertain: 0, missed_away: 3 });
    }

    #[test]
    fn more_holes_than_are_kept_are_lost_all_the_same() {
        let mut checker = Checker::default();
        checker.confirmed(1);
        for index in 1..=HOLES_MAX as u64 + 10 {
            checker.arrived(index * 2);
        }
        assert_eq!(checker.holes.len(), HOLES_MAX);
        assert_eq!(checker.arrived(1), Duplicate);
        assert_eq!(checker.finish(HOLES_MAX as u64 * 2 + 20, &[]).lost, HOLES_MAX as u64 + 10);
    }
}
