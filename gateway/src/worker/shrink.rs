//! Frees memory after many clients have left: a worker's tables have grown to the most clients it ever had.

use super::Worker;

/// Tables with fewer connections are not worth shrinking.
const SHRINK_FROM: usize = 256;

/// Decides when to shrink. Shrinking visits the tables, so it happens at a quarter of the maximum, then at each half of
/// that, and once more when no client is left: a table can only be cut behind its last occupied place, which may be
/// anywhere.
#[derive(Debug, Default)]
pub(super) struct ShrinkPolicy {
    /// The most connections since there were none.
    most: usize,
    /// Shrink when there are fewer connections than this.
    below: usize,
}

impl ShrinkPolicy {
    pub(super) fn opened(&mut self, connections: usize) {
        self.most = self.most.max(connections);
        self.below = self.below.max(connections / 4);
    }

    /// Records a close. Returns whether to shrink now.
    pub(super) fn closed(&mut self, connections: usize) -> bool {
        if connections == 0 {
            self.below = 0;
            return std::mem::take(&mut self.most) >= SHRINK_FROM;
        }
        if connections >= self.below || self.below < SHRINK_FROM / 4 {
            return false;
        }
        self.below = connections / 2;
        true
    }
}

impl Worker {
    pub(super) fn shrink(&mut self) {
        match self.clients.is_empty() {
            // The emptied table would keep its list of free places.
            true => self.clients = slab::Slab::new(),
            false => self.clients.shrink_to_fit(),
        }
        self.local.hub.shrink();
        let keys = self.clients.iter().next_back().map_or(0, |(last, _)| last + 1);
        self.local.wheel.shrink(keys);
        self.local.directory.shrink(keys);
        // The generations stay, because a place must never be taken for an earlier client's. The flags are equally small.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_at_a_quarter_of_the_most_and_at_each_half_after_that() {
        let mut shrink_policy = ShrinkPolicy::default();
        for count in 1..=10_000 {
            shrink_policy.opened(count);
        }
        let shrunk: Vec<usize> = (0..10_000).rev().filter(|&count| shrink_policy.closed(count)).collect();
        assert_eq!(shrunk, [2_499, 1_248, 623, 310, 154, 76, 0]);
    }

    #[test]
    fn a_few_who_come_and_go_cost_nothing() {
        let mut shrink_policy = ShrinkPolicy::default();
        for count in (1..SHRINK_FROM).chain((1..SHRINK_FROM).rev()) {
            shrink_policy.opened(count);
            assert!(!shrink_policy.closed(count - 1));
        }
    }
}
