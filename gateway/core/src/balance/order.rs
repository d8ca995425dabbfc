//! Who is closed before whom, and which worker closes how many.

use shared::moment::Moment;

/// The order in which clients are closed: of each wire those first that have been connected for longest, and all wires side
/// by side, each in proportion to its clients.
///
/// Longest first, because whoever has just been moved is then the last to be moved again. All wires side by side, because
/// each has another way back: a row of one wire alone would come back otherwise than the rate says, and one kind of
/// application would have all of it.
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

/// Divides a number in proportion to what each has. The parts are the whole, unless all of them have less.
pub fn shares(whole: u32, each: &[u32]) -> Vec<u32> {
    let total: u64 = each.iter().map(|have| u64::from(*have)).sum();
    let whole = u64::from(whole).min(total);
    let mut before = 0_u64;
    let mut given = 0_u64;
    let share = |have: &u32| {
        before += u64::from(*have);
        // What all up to here have together, without what was given to those before.
        let upto = if total == 0 { 0 } else { (whole * before).div_ceil(total) };
        let part = upto - given;
        given = upto;
        u32::try_from(part).unwrap_or(u32::MAX)
    };
    each.iter().map(share).collect()
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
            let parts = shares(whole, &each);
            let total: u32 = each.iter().sum();
            prop_assert_eq!(parts.iter().sum::<u32>(), whole.min(total));
            for (part, have) in parts.iter().zip(&each) {
                prop_assert!(part <= have, "{:?} of {:?}", parts, each);
            }
        }
    }
}
