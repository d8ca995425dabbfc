//! Single plans, their sums, and several nodes that carry out their plans at the same time.

use proptest::prelude::*;

use super::*;

const OVER: Duration = Duration::from_secs(60);

fn load(clients: u32) -> NodeLoad {
    NodeLoad { clients, ..NodeLoad::default() }
}

/// The plan of each node, made from the same numbers.
fn plans(counts: &[u32], tolerance_percent: u32) -> Vec<ShedPlan> {
    let plan = |at: usize| {
        let others = counts.iter().enumerate().filter(|(other, _)| *other != at);
        let others: Vec<NodeLoad> = others.map(|(_, clients)| load(*clients)).collect();
        ShedPlan::new(counts[at], &others, tolerance_percent, OVER)
    };
    (0..counts.len()).map(plan).collect()
}

fn to_close(counts: &[u32], tolerance_percent: u32) -> Vec<u32> {
    plans(counts, tolerance_percent).iter().map(|plan| plan.to_close).collect()
}

#[test]
fn nodes_close_what_they_have_above_the_mean() {
    assert_eq!(to_close(&[333, 334, 333, 0, 0], 10), [133, 134, 133, 0, 0]);
    assert_eq!(to_close(&[500, 500, 2], 10), [166, 166, 0]);
    assert_eq!(to_close(&[2, 1, 0], 10), [1, 0, 0]);
    assert_eq!(to_close(&[1, 0], 10), [0, 0], "the mean is rounded up");
    assert_eq!(to_close(&[1000], 0), [0], "alone");
    assert_eq!(to_close(&[0, 0], 0), [0, 0]);
}

#[test]
fn what_is_within_the_tolerance_stays() {
    assert_eq!(to_close(&[110, 90], 10), [0, 0]);
    assert_eq!(to_close(&[111, 89], 10), [11, 0], "beyond it, all that is above the mean goes");
    assert_eq!(to_close(&[111, 89], 0), [11, 0]);
}

#[test]
fn a_node_that_stops_takes_nobody_and_its_clients_are_about_to_come() {
    let stops = NodeLoad { draining: true, ..load(300) };
    let plan = ShedPlan::new(300, &[load(0), stops], 10, OVER);
    assert_eq!((plan.mean, plan.to_close), (300, 0), "600 are two nodes' in the end");
    let plan = ShedPlan::new(900, &[load(0), stops], 10, OVER);
    assert_eq!((plan.mean, plan.to_close), (600, 300));
    assert_eq!(
        ShedPlan::new(900, &[NodeLoad { draining: true, ..load(0) }], 10, OVER).to_close,
        0,
        "nobody is left"
    );
}

#[test]
fn no_more_go_than_the_others_have_room_for_and_no_faster_than_they_accept() {
    let narrow = NodeLoad { room: Some(30), ..load(0) };
    assert_eq!(ShedPlan::new(400, &[narrow], 10, OVER).to_close, 30);
    // Two nodes are above the mean. Each gets its part of what the third accepts.
    let plan = ShedPlan::new(600, &[load(300), narrow], 0, OVER);
    assert_eq!((plan.mean, plan.to_close), (300, 30));
    assert_eq!(ShedPlan::new(450, &[load(450), narrow], 0, OVER).to_close, 15);
    let slow = NodeLoad { accepts_per_s: 2, ..load(0) };
    let plan = ShedPlan::new(400, &[slow], 10, OVER);
    assert_eq!((plan.to_close, plan.over), (200, Duration::from_secs(100)));
    assert_eq!(ShedPlan::new(400, &[slow, load(0)], 10, OVER).over, OVER, "one of them takes any number");
    // Two nodes close clients at the same time for one that accepts two a second: 200 clients take 100 seconds.
    let full = NodeLoad { accepts_per_s: 1000, ..load(300) };
    let plan = ShedPlan::new(300, &[full, slow], 0, OVER);
    assert_eq!((plan.to_close, plan.over), (100, Duration::from_secs(100)));
}

#[test]
fn a_drain_takes_as_long_as_the_others_need_and_may_last() {
    let second = Duration::from_secs;
    let slow = NodeLoad { accepts_per_s: 100, ..load(0) };
    assert_eq!(drain_time(1000, &[load(0)], second(20), second(60)), (second(20), None));
    assert_eq!(drain_time(6000, &[slow, slow], second(20), second(60)), (second(30), None));
    assert_eq!(drain_time(6000, &[slow, slow], second(20), second(0)), (second(20), Some(second(30))));
    // An operator who knows that all clients go to one node sets the time that this node needs.
    assert_eq!(drain_time(6000, &[slow, slow], second(60), second(0)), (second(60), None));
    // A second node stops, too, and uses half of what the third accepts.
    let stops = NodeLoad { draining: true, accepts_per_s: 100, ..load(500) };
    assert_eq!(drain_time(1000, &[slow, stops], second(5), second(60)), (second(20), None));
    assert_eq!(drain_time(1000, &[], second(5), second(60)), (second(5), None), "nobody else is there");
    assert_eq!(homeless(100, &[NodeLoad { room: Some(30), ..load(0) }]), 70);
    assert_eq!(homeless(100, &[load(0)]), 0);
}

#[test]
fn a_plan_ends_early_when_the_mean_has_risen_or_clients_have_left() {
    let plan = ShedPlan::new(200, &[load(0)], 10, OVER);
    let mut shedding = ShedRun::new(Moment(0), plan);
    assert_eq!(shedding.due(Moment(0), 200), 1, "the first goes at once");
    assert_eq!(shedding.due(Moment(30_000), 200), 51);
    shedding.note_closed(51);
    shedding.update(149, &[load(60), load(0)]);
    assert!(!shedding.is_over(149), "clients on their way do not lower the mean");
    assert_eq!(shedding.due(Moment(60_000), 149), 49);
    assert!(
        shedding.is_over(100) && shedding.due(Moment(60_000), 100) == 0,
        "others have left by themselves"
    );
    shedding.update(149, &[load(54)]);
    assert!(!shedding.is_over(102), "who moved between two announcements is counted twice");
    shedding.update(149, &[load(149)]);
    assert!(shedding.is_over(149), "the other has as many by now");
}

proptest! {
    #[test]
    fn no_plan_goes_below_the_mean_and_all_together_are_what_others_lack(
        counts in prop::collection::vec(0_u32..5000, 1..12), tolerance_percent in 0_u32..50,
    ) {
        let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        let lacking: u64 = counts.iter()
            .map(|count| total.div_ceil(counts.len() as u64).saturating_sub(u64::from(*count))).sum();
        let plans = plans(&counts, tolerance_percent);
        let mut closed = 0;
        for (plan, count) in plans.iter().zip(&counts) {
            prop_assert_eq!(plan.before, *count);
            prop_assert!(u64::from(count - plan.to_close) * counts.len() as u64 >= total || plan.to_close == 0);
            closed += u64::from(plan.to_close);
        }
        prop_assert!(closed <= lacking, "{} closed, {} lacking", closed, lacking);
        if tolerance_percent == 0 {
            for (plan, count) in plans.iter().zip(&counts) {
                prop_assert!(count - plan.to_close <= plan.mean, "nothing is left above the mean");
            }
        }
    }

    /// All nodes begin at once, know each other's numbers as of up to three seconds ago, and their clients come back after
    /// a while to the node with the fewest.
    #[test]
    fn nodes_that_shed_at_the_same_time_meet_at_the_mean(
        counts in prop::collection::vec(0_u32..400, 2..6), over_s in 1_u64..20, delay in 1_usize..30, lag in 1_usize..30,
    ) {
        let total: u32 = counts.iter().sum();
        let nodes = counts.len();
        let mean = total.div_ceil(nodes as u32);
        let mut now: Vec<u32> = counts.clone();
        let mut announced = counts.clone();
        let over = Duration::from_secs(over_s);
        let others = |numbers: &[u32], at: usize| -> Vec<NodeLoad> {
            numbers.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, count)| load(*count)).collect()
        };
        let mut shedding: Vec<ShedRun> = (0..nodes)
            .map(|at| ShedRun::new(Moment(0), ShedPlan::new(counts[at], &others(&counts, at), 0, over)))
            .collect();
        let mut moving = vec![0_u32; delay];
        // A step is a tenth of a second.
        for step in 0..(over_s as usize * 10 + 2 * delay + 1) {
            if step % lag == 0 {
                announced.clone_from(&now);
                for at in 0..nodes {
                    shedding[at].update(now[at], &others(&announced, at));
                }
            }
            let back = moving.remove(0);
            for _ in 0..back {
                let fewest = (0..nodes).min_by_key(|at| now[*at]).unwrap_or_default();
                now[fewest] += 1;
            }
            let mut closed = 0;
            for at in 0..nodes {
                let due = shedding[at].due(Moment(step as u64 * 100), now[at]);
                shedding[at].note_closed(due);
                now[at] -= due;
                closed += due;
                if due > 0 {
                    prop_assert!(now[at] >= total / nodes as u32, "{:?} below {}", now, mean);
                }
            }
            moving.push(closed);
        }
        prop_assert_eq!(now.iter().sum::<u32>() + moving.iter().sum::<u32>(), total, "nobody is lost");
        prop_assert_eq!(moving.iter().sum::<u32>(), 0, "it ends");
        prop_assert!(now.iter().all(|count| *count <= mean), "{:?} above {}", now, mean);
        for (one, count) in shedding.iter().zip(&now) {
            prop_assert!(one.is_over(*count));
        }
    }

    /// The clients closed in any second differ from the rate by at most one, which is at most five percent from twenty a
    /// second on.
    #[test]
    fn clients_are_closed_at_the_rate_that_was_set(clients in 1_u32..30_000, over_s in 5_u64..60) {
        let over = Duration::from_secs(over_s);
        let pacing = Pacing::new(clients as usize, over);
        let rate = f64::from(clients) / over_s as f64;
        for second in 0..over_s - 1 {
            let at = |ms: u64| pacing.closed_by(Duration::from_millis(ms));
            for offset in [0, 333, 999] {
                let from = second * 1000 + offset;
                let closed = (at(from + 1000) - at(from)) as f64;
                prop_assert!((closed - rate).abs() <= f64::max(1.0, rate * 0.05), "{} at {}: {}", closed, from, rate);
            }
        }
    }
}
