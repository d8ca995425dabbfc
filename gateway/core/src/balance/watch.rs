//! Decides when a node closes clients by itself: after it has had too many for a while, and less often if that does not
//! help.

use std::time::Duration;

use rustc_hash::FxHashMap;
use shared::moment::Moment;

use super::{BalanceConfig, NodeLoad, ShedPlan};

/// How long after its last new announcement a node is considered stale. It may be gone, and then the mean is unknown.
const STALE: Duration = Duration::from_secs(7);

/// How often the wait until the next time may double when closing clients has not helped.
const DOUBLINGS_MAX: u32 = 6;

/// Another node, as it last announced itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeenNode {
    pub node: Box<str>,
    /// Seconds since it started, as it reports. Tells how old the rest is.
    pub uptime_s: u64,
    pub load: NodeLoad,
}

/// When each of the other nodes last announced something new.
#[derive(Debug, Default)]
pub struct NodeFreshness {
    received: FxHashMap<Box<str>, (u64, Moment)>,
}

impl NodeFreshness {
    /// Takes in the announcements of the other nodes. Returns whether all of them are recent.
    pub fn update(&mut self, now: Moment, others: &[SeenNode]) -> bool {
        self.received.retain(|node, _| others.iter().any(|other| other.node == *node));
        let mut is_fresh = true;
        for other in others {
            let received = self.received.entry(other.node.clone()).or_insert((other.uptime_s, now));
            if received.0 != other.uptime_s {
                *received = (other.uptime_s, now);
            }
            is_fresh &= now.since(received.1) < STALE;
        }
        is_fresh
    }
}

/// How long this node has been above the mean, and whether closing clients has helped.
#[derive(Debug, Default)]
pub struct ImbalanceWatch {
    above_since: Option<Moment>,
    balanced_since: Option<Moment>,
    /// How many clients were above the mean when clients were last closed.
    tried: Option<u32>,
    doublings: u32,
}

impl ImbalanceWatch {
    /// Looks at the load of all nodes. `others` is `None` where it is not known, or where this node should do nothing.
    /// Returns a plan if clients are to be closed.
    pub fn look(
        &mut self,
        now: Moment,
        own: u32,
        others: Option<&[NodeLoad]>,
        settings: &BalanceConfig,
    ) -> Option<ShedPlan> {
        let Some(loads) = others.filter(|_| settings.auto) else {
            self.above_since = None;
            return None;
        };
        // A stopping node is about to pass its clients to the others, and a new one has none yet.
        let is_moving = loads.iter().any(|load| load.draining);
        let over = Duration::from_secs(settings.over_s);
        let plan = ShedPlan::new(own, loads, settings.tolerance_percent, over);
        if is_moving || plan.to_close == 0 {
            self.above_since = None;
            // Right after clients were closed they are on no node: only a balance that lasts counts.
            let since = *self.balanced_since.get_or_insert(now);
            if !is_moving && now.since(since) >= Duration::from_secs(settings.auto_after_s) {
                (self.tried, self.doublings) = (None, 0);
            }
            return None;
        }
        self.balanced_since = None;
        let excess = own.saturating_sub(plan.mean);
        let since = *self.above_since.get_or_insert_with(|| {
            // The closed clients have come back to this node, or the other nodes have taken none.
            let in_vain = self.tried.take().is_some_and(|before| u64::from(excess) * 2 >= before.into());
            self.doublings = if in_vain { (self.doublings + 1).min(DOUBLINGS_MAX) } else { 0 };
            now
        });
        let patience = Duration::from_secs(settings.auto_after_s.saturating_mul(1 << self.doublings));
        if now.since(since) < patience {
            return None;
        }
        (self.above_since, self.tried) = (None, Some(excess));
        Some(plan)
    }

    /// Starts the wait anew, because clients were closed or the closing was stopped.
    pub fn begin_anew(&mut self) {
        self.above_since = None;
    }

    /// Whether closing clients has not helped so far.
    pub fn is_in_vain(&self) -> bool {
        self.doublings > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: BalanceConfig =
        BalanceConfig { auto: true, auto_after_s: 60, tolerance_percent: 10, over_s: 60 };

    fn load(clients: u32) -> NodeLoad {
        NodeLoad { clients, ..NodeLoad::default() }
    }

    /// Looks once a second. Returns the seconds at which there was a plan.
    fn times(watch: &mut ImbalanceWatch, from: u64, until: u64, own: u32, other: u32) -> Vec<u64> {
        let look =
            |second: &u64| watch.look(Moment(second * 1000), own, Some(&[load(other)]), &SETTINGS).is_some();
        (from..until).filter(look).collect()
    }

    #[test]
    fn a_node_acts_when_it_has_had_too_many_for_long_enough() {
        let mut watch = ImbalanceWatch::default();
        assert!(times(&mut watch, 0, 50, 150, 50).is_empty());
        assert!(times(&mut watch, 50, 51, 100, 100).is_empty(), "a moment without begins anew");
        assert_eq!(times(&mut watch, 51, 120, 150, 50), [111]);
        assert!(
            times(&mut ImbalanceWatch::default(), 0, 500, 109, 91).is_empty(),
            "within what is tolerated"
        );
    }

    #[test]
    fn after_somebody_had_clients_let_go_a_node_waits_as_long_as_ever() {
        let mut watch = ImbalanceWatch::default();
        assert!(times(&mut watch, 0, 59, 150, 50).is_empty());
        watch.begin_anew();
        assert_eq!(times(&mut watch, 59, 150, 150, 50), [119]);
    }

    #[test]
    fn nothing_is_done_while_others_are_unknown_or_stopping() {
        let mut watch = ImbalanceWatch::default();
        let stopping = [NodeLoad { draining: true, ..load(50) }, load(10)];
        let off = BalanceConfig { auto: false, ..SETTINGS };
        for second in 0..300 {
            let now = Moment(second * 1000);
            assert_eq!(watch.look(now, 150, None, &SETTINGS), None, "the others are not known");
        }
        for second in 300..600 {
            assert_eq!(watch.look(Moment(second * 1000), 150, Some(&stopping), &SETTINGS), None);
        }
        for second in 600..900 {
            assert_eq!(watch.look(Moment(second * 1000), 150, Some(&[load(50)]), &off), None);
        }
    }

    #[test]
    fn a_node_that_repeats_itself_is_stale_until_it_says_something_new() {
        let mut freshness = NodeFreshness::default();
        let mut update = |second: u64, uptimes: &[u64]| {
            let seen = |(at, uptime_s): (usize, &u64)| SeenNode {
                node: at.to_string().into(),
                uptime_s: *uptime_s,
                load: NodeLoad::default(),
            };
            let others: Vec<SeenNode> = uptimes.iter().enumerate().map(seen).collect();
            freshness.update(Moment(second * 1000), &others)
        };
        assert!(update(0, &[1, 1]) && update(6, &[7, 1]));
        assert!(!update(7, &[8, 1]), "the second has said the same for 7 s");
        assert!(update(8, &[9, 2]));
        assert!(!update(15, &[16, 2]));
        assert!(update(16, &[17]), "one that is gone is missed no more");
    }

    #[test]
    fn what_does_not_help_is_done_less_and_less_often() {
        let mut watch = ImbalanceWatch::default();
        // A load balancer that sends everybody back to where they were.
        let acted = times(&mut watch, 0, 20_000, 150, 50);
        let pauses: Vec<u64> = acted.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(pauses[..3], [121, 241, 481]);
        assert_eq!(pauses.last(), Some(&3841));
        assert!(watch.is_in_vain());
        assert!(times(&mut watch, 20_000, 20_061, 100, 100).is_empty());
        assert_eq!(times(&mut watch, 20_061, 20_122, 150, 50), [20_121], "once it was well, as at first");
    }

    #[test]
    fn clients_that_are_on_their_way_back_are_no_success() {
        let mut watch = ImbalanceWatch::default();
        assert_eq!(times(&mut watch, 0, 61, 150, 50), [60]);
        assert!(times(&mut watch, 61, 64, 100, 100).is_empty(), "they are nowhere yet");
        assert_eq!(times(&mut watch, 64, 200, 150, 50), [184], "and then where they were: twice as long");
    }
}
