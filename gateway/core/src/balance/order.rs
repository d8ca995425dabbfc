//! The order in which clients are closed, and how many each worker closes.

use shared::moment::Moment;

/// Returns the clients in the order in which they are closed: within each wire the longest connected first, and all wires
/// side by side, each in proportion to its clients.
///
/// The longest connected go first, so that a client that has just been moved is the last to be moved again. Wires go side
/// by side because their clients reconnect differently: a run of one wire alone would come back at another rate than
/// intended, and would hit one kind of application alone.
pub fn closing_order<W: Ord, K>(clients: impl IntoIterator<Item = (W, Moment, K)>) -> Vec<K> {
    let mut clients: Vec<(W, Moment, K)> = clients.into_iter().collect();
    clients.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    let mut placed: Vec<(u64, K)> = Vec::with_capacity(clients.len());
    let mut clients = clients.into_iter().peekable();
    while let Some(first) = clients.next() {
        let wire = first.0;
        let mut row = vec![first.2];
        while let Some((_, _, key)) = clients.next_if(|next| next.0 == wire) {
            row.push(key);
        }
        let length = row.len() as u64;
        // The middle of the k-th of n parts of the whole, so that a wire with one client has its turn half-way.
        let place = |at: usize| u64::MAX / 2 / length * (2 * at as u64 + 1);
        placed.extend(row.into_iter().enumerate().map(|(at, key)| (place(at), key)));
    }
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, key)| key).collect()
}

/// Divides the clients to close among the workers, in proportion to what each had at the beginning.
///
/// Counts come in small steps, most of them 1. What was assigned to each worker is remembered, so that all shrink side by
/// side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkerShares {
    had: Vec<u32>,
    assigned: Vec<u64>,
}

impl WorkerShares {
    /// `had`: the clients of each worker.
    pub fn new(had: Vec<u32>) -> Self {
        let assigned = vec![0; had.len()];
        Self { had, assigned }
    }

    /// Takes `left` as the initial count of workers that had not reported one when the others did. From here on they shrink
    /// side by side with the others.
    pub fn fill_in(&mut self, left: &[u32]) {
        let total: u64 = self.had.iter().map(|had| u64::from(*had)).sum();
        let before: u64 = self.assigned.iter().sum();
        for ((had, assigned), left) in
            self.had.iter_mut().zip(&mut self.assigned).zip(left).filter(|((had, _), _)| **had == 0)
        {
            *had = *left;
            *assigned = (u64::from(*left) * before).checked_div(total).unwrap_or(0);
        }
    }

    /// Divides the next `count` among the workers, which have `left` clients each. The parts add up to `count`, unless the
    /// workers have fewer altogether.
    pub fn next(&mut self, count: u32, left: &[u32]) -> Vec<u32> {
        let total: i128 = self.had.iter().map(|had| i128::from(*had)).sum();
        let before: i128 = self.assigned.iter().map(|assigned| i128::from(*assigned)).sum();
        let mut parts = vec![0_u32; self.had.len()];
        for step in 1..=i128::from(count) {
            let assigned = before + step;
            // The worker that is furthest behind its part of the total is next.
            let behind =
                |at: &usize| i128::from(self.had[*at]) * assigned - i128::from(self.assigned[*at]) * total;
            let has_more = |at: &usize| left.get(*at).is_some_and(|left| parts[*at] < *left);
            let next =
                (0..parts.len()).filter(has_more).max_by_key(|at| (behind(at), std::cmp::Reverse(*at)));
            let Some(next) = next else { break };
            parts[next] += 1;
            self.assigned[next] += 1;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wires_leave_side_by_side_and_the_longest_connected_first() {
        let clients =
            [("a", 5, 1), ("a", 1, 2), ("a", 3, 3), ("a", 2, 4), ("b", 9, 5), ("b", 8, 6), ("c", 0, 7)];
        let order = closing_order(clients.map(|(wire, opened, key)| (wire, Moment(opened), key)));
        // a at 1/8, 3/8, 5/8 and 7/8, b at 1/4 and 3/4, c at 1/2.
        assert_eq!(order, [2, 6, 4, 7, 3, 5, 1]);
    }

    proptest! {
        #[test]
        fn a_part_of_the_order_has_its_part_of_every_wire(counts in prop::collection::vec(0_usize..40, 1..6)) {
            let clients = counts.iter().enumerate().flat_map(|(wire, count)| (0..*count).map(move |at| (wire, at)));
            let order = closing_order(clients.map(|(wire, at)| (wire, Moment(at as u64), (wire, at))));
            let all = order.len();
            prop_assert_eq!(all, counts.iter().sum::<usize>());
            for upto in 0..=all {
                for (wire, count) in counts.iter().enumerate() {
                    let gone = order[..upto].iter().filter(|(of, _)| *of == wire).count();
                    // Off by less than two, whatever the mixture.
                    let expected = *count as f64 * upto as f64 / all.max(1) as f64;
                    prop_assert!((gone as f64 - expected).abs() < 2.0 * counts.len() as f64, "{gone} of {count} at {upto}/{all}");
                }
            }
        }

        #[test]
        fn shares_are_the_whole_and_nobody_has_more_than_it_has(
            whole in 0_u32..200, each in prop::collection::vec(0_u32..50, 0..8),
        ) {
            let parts = WorkerShares::new(each.clone()).next(whole, &each);
            let total: u32 = each.iter().sum();
            prop_assert_eq!(parts.iter().sum::<u32>(), whole.min(total));
            for (part, have) in parts.iter().zip(&each) {
                prop_assert!(part <= have, "{:?} of {:?}", parts, each);
            }
        }

        /// A worker that answers late does not close its clients last.
        #[test]
        fn a_worker_that_answers_late_comes_down_beside_the_others(had in 10_u32..1_000, before in 0_u32..10) {
            let mut shares = WorkerShares::new(vec![had, 0]);
            prop_assert_eq!(shares.next(before, &[had, 0]), vec![before, 0]);
            shares.fill_in(&[had - before, had]);
            let parts = shares.next(had / 2, &[had - before, had]);
            prop_assert!(parts[0].abs_diff(parts[1]) <= 2, "{:?}", parts);
        }

        /// However small the steps are, all workers shrink together.
        #[test]
        fn workers_close_side_by_side(
            had in prop::collection::vec(0_u32..80, 1..9), steps in prop::collection::vec(0_u32..4, 0..80),
        ) {
            let mut shares = WorkerShares::new(had.clone());
            let mut left = had.clone();
            let total: f64 = had.iter().map(|had| f64::from(*had)).sum();
            for step in steps {
                let parts = shares.next(step, &left);
                for (left, part) in left.iter_mut().zip(parts) {
                    *left -= part;
                }
                let closed: u32 = had.iter().zip(&left).map(|(had, left)| had - left).sum();
                for (had, left) in had.iter().zip(&left) {
                    let expected = f64::from(closed) * f64::from(*had) / total.max(1.0);
                    prop_assert!((f64::from(had - left) - expected).abs() < 2.0, "{left} left of {had} after {closed}");
                }
            }
        }
    }
}
