//! Counts the other nodes for monitoring: how many there are, and how many are gone without having said so.
//!
//! Where scrape targets come from discovery, a node that dies takes its own metrics along. The metrics of the others remain.

use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use shared::moment::Moment;

use crate::node::Node;
use crate::node::control::NodeInfo;

/// A node whose announcement is absent for this long, at every look, is lost. A node that was only cut off from its broker
/// for a moment has announced itself again by then.
const MISSED_MAX: Duration = Duration::from_secs(10);

/// After this long without a look, nothing is known of other nodes any more.
const BLIND_MAX: Duration = Duration::from_secs(10);

/// The most nodes that are remembered. Further ones are counted while they are announced, but not missed.
const REMEMBERED_MAX: usize = 4_096;

/// The longest id of a run, in bytes. Ids are 36 bytes long.
const UID_BYTES_MAX: usize = 64;

/// The other nodes, by the id of each run.
#[derive(Debug, Default)]
pub(super) struct OtherNodeCounts(Mutex<SeenNodes>);

#[derive(Debug, Default)]
struct SeenNodes {
    seen: FxHashMap<Box<str>, SeenNode>,
    looked: Moment,
}

#[derive(Debug, Default)]
struct SeenNode {
    name: Box<str>,
    missed_since: Option<Moment>,
    has_retired: bool,
}

impl OtherNodeCounts {
    /// Updates from the nodes announced now. Returns the names of those found lost.
    fn look(&self, announced: &[NodeInfo], now: Moment) -> Vec<Box<str>> {
        let SeenNodes { seen, looked } = &mut *self.0.lock();
        *looked = now;
        let mut missing: FxHashMap<Box<str>, SeenNode> = std::mem::take(seen);
        for node in announced.iter().take(REMEMBERED_MAX) {
            let has_retired = missing.remove(&node.uid).is_some_and(|before| before.has_retired);
            let here = SeenNode { name: node.name.clone(), missed_since: None, has_retired };
            seen.insert(node.uid.clone(), here);
        }
        let mut lost = Vec::new();
        for (uid, mut gone) in missing {
            let since = *gone.missed_since.get_or_insert(now);
            if gone.has_retired {
                continue;
            }
            if now.since(since) >= MISSED_MAX {
                lost.push(gone.name);
            } else if seen.len() < REMEMBERED_MAX {
                seen.insert(uid, gone);
            }
        }
        lost
    }

    /// Records that announcements could not be read: nodes missed until now may only have been unable to announce
    /// themselves. Returns whether this has lasted so long that nothing is known of other nodes.
    fn look_failed(&self, now: Moment) -> bool {
        let SeenNodes { seen, looked } = &mut *self.0.lock();
        seen.values_mut().for_each(|node| node.missed_since = None);
        now.since(*looked) >= BLIND_MAX
    }

    /// Records that a node leaves in an orderly way, before its announcement is gone or after.
    fn retired(&self, uid: &str) {
        let seen = &mut self.0.lock().seen;
        if let Some(node) = seen.get_mut(uid) {
            node.has_retired = true;
        } else if seen.len() < REMEMBERED_MAX && uid.len() <= UID_BYTES_MAX {
            // A look that began earlier may still find its announcement.
            seen.insert(uid.into(), SeenNode { has_retired: true, ..SeenNode::default() });
        }
    }
}

impl Node {
    /// Records the other nodes that are announced. `announced` holds each of them once.
    pub(super) fn count_others(&self, announced: &[NodeInfo]) {
        let lost = self.others.look(announced, self.clock.now());
        self.metrics.cluster.nodes.set(announced.len() as i64 + 1);
        self.metrics.cluster.nodes_lost_total.inc_by(lost.len() as u64);
        for name in lost {
            tracing::warn!(node = %name, "another node is lost: it ended without a sign-off, or cannot reach the broker");
        }
    }

    /// Records that the announcements of other nodes could not be read.
    pub(super) fn others_unknown(&self) {
        if self.others.look_failed(self.clock.now()) {
            self.metrics.cluster.nodes.set(1);
        }
    }

    /// Records that a node leaves in an orderly way.
    pub(super) fn other_retired(&self, uid: &str) {
        self.others.retired(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[&str]) -> Vec<NodeInfo> {
        let node =
            |name: &&str| NodeInfo { uid: (*name).into(), name: (*name).into(), ..NodeInfo::default() };
        names.iter().map(node).collect()
    }

    fn at(second: u64) -> Moment {
        Moment(second * 1_000)
    }

    /// Checks every three seconds within this range, and returns the lost nodes with the times.
    fn watch(others: &OtherNodeCounts, seconds: std::ops::Range<u64>, names: &[&str]) -> Vec<(u64, String)> {
        let looks = seconds.step_by(3);
        looks
            .flat_map(|second| {
                let lost = others.look(&nodes(names), at(second));
                lost.into_iter().map(move |name| (second, name.into()))
            })
            .collect()
    }

    #[test]
    fn a_node_that_is_missed_for_long_is_lost_once() {
        let others = OtherNodeCounts::default();
        assert_eq!(watch(&others, 0..6, &["a", "b"]), []);
        assert_eq!(watch(&others, 6..120, &["a"]), [(18, "b".to_owned())]);
        assert_eq!(watch(&others, 120..123, &["a", "b"]), [], "it is there again");
        assert_eq!(watch(&others, 123..200, &["a"]), [(135, "b".to_owned())]);
    }

    #[test]
    fn a_node_that_is_back_soon_or_said_that_it_leaves_is_not_lost() {
        let others = OtherNodeCounts::default();
        watch(&others, 0..3, &["a", "b", "c"]);
        watch(&others, 3..12, &["a"]);
        assert_eq!(watch(&others, 12..30, &["a", "b", "c"]), []);
        others.retired("b");
        assert_eq!(watch(&others, 30..60, &["a", "c"]), []);
        others.retired("d");
        assert_eq!(watch(&others, 60..63, &["a", "c", "d"]), [], "a look that was late");
        assert_eq!(watch(&others, 63..120, &["a", "c"]), []);
        assert_eq!(others.0.lock().seen.len(), 2, "who has left is forgotten");
    }

    #[test]
    fn who_is_missed_while_redis_is_away_has_time_to_come_back() {
        let others = OtherNodeCounts::default();
        watch(&others, 0..3, &["a", "b"]);
        watch(&others, 3..9, &[]);
        assert!(!others.look_failed(at(9)));
        assert!(others.look_failed(at(40)), "nobody was seen for long");
        assert_eq!(watch(&others, 41..47, &[]), []);
        assert_eq!(watch(&others, 47..90, &["a"]), [(53, "b".to_owned())]);
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let others = OtherNodeCounts::default();
        let many: Vec<String> = (0..REMEMBERED_MAX + 5).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        others.look(&nodes(&many), at(0));
        others.retired("another");
        assert_eq!(others.0.lock().seen.len(), REMEMBERED_MAX);
    }
}
