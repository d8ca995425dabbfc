//! What other nodes announce about the broker: whether they place channels as this one does, and which parts they can use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::broker::PARTS_MAX;
use crate::node::Node;
use crate::node::control::NodeInfo;
use crate::telemetry::{LogLimiter, Neighbors};

/// The most names listed of each kind. Others are only counted.
const NAMES_MAX: usize = 3;

#[derive(Debug)]
pub(super) struct NeighborsCell {
    /// `None` until the first announcements have been read.
    latest: Mutex<Option<Arc<Neighbors>>>,
    /// Bit N: this node cannot use part N of the broker, or has yet to confirm that it can.
    lacks: AtomicU64,
    /// Whether all other nodes understand stamps.
    read_stamps: AtomicBool,
    apart_log: LogLimiter,
}

impl Default for NeighborsCell {
    /// All parts count as unusable until they are confirmed, because other nodes rely on what this one announces.
    fn default() -> Self {
        Self {
            latest: Mutex::default(),
            lacks: AtomicU64::new(u64::MAX),
            read_stamps: AtomicBool::new(false),
            apart_log: LogLimiter::default(),
        }
    }
}

impl NeighborsCell {
    fn set_usable(&self, part: usize, is_usable: bool) {
        let bit = 1_u64.checked_shl(part as u32).unwrap_or(0);
        if is_usable {
            self.lacks.fetch_and(!bit, Ordering::Relaxed);
        } else {
            self.lacks.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Whether publications may carry stamps. Nodes of earlier releases take stamps for tags, which their clients would see.
    pub(super) fn read_stamps(&self) -> bool {
        self.read_stamps.load(Ordering::Relaxed)
    }

    /// Returns which of the broker's parts this node cannot use.
    fn lacking(&self, parts: usize) -> impl Iterator<Item = usize> {
        let lacks = self.lacks.load(Ordering::Relaxed);
        (0..parts.min(PARTS_MAX)).filter(move |part| lacks >> part & 1 == 1)
    }
}

impl Node {
    /// Returns what the other nodes announce about the broker. `None` before the first announcements have been read.
    pub(crate) fn neighbors(&self) -> Option<Arc<Neighbors>> {
        self.neighbors.latest.lock().clone()
    }

    /// Sets whether this node can use a part of the broker, as announced to others.
    pub(crate) fn set_usable(&self, part: usize, is_usable: bool) {
        self.neighbors.set_usable(part, is_usable);
    }

    /// Returns the names of the parts that this node cannot use.
    pub(super) fn lacks(&self) -> Vec<Box<str>> {
        let lacking = self.neighbors.lacking(self.broker.parts());
        let names = lacking.map(|part| self.broker.part_name(part)).filter(|name| !name.is_empty());
        names.map(|name| Box::from(&*name)).collect()
    }

    /// Whether this node can use every part of the broker.
    pub(super) fn uses_all_parts(&self) -> bool {
        self.neighbors.lacking(self.broker.parts()).next().is_none()
    }

    /// Records the announcements of all nodes.
    pub(super) fn receive_neighbors(&self, descriptions: &[Bytes]) {
        let infos = descriptions.iter().filter_map(|description| NodeInfo::decode(description).ok());
        let mut others: Vec<NodeInfo> = infos.filter(|info| *info.uid != *self.id.0).collect();
        keep_latest(&mut others);
        self.neighbors.read_stamps.store(others.iter().all(|node| node.stamps), Ordering::Relaxed);
        self.count_others(&others);
        self.receive_loads(&others);
        let names: Vec<Arc<str>> = (0..self.broker.parts()).map(|part| self.broker.part_name(part)).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let neighbors = read(&others, self.broker.layout(), &names);
        if !neighbors.apart.is_empty()
            && let Some(suppressed) = self.neighbors.apart_log.admit()
        {
            tracing::error!(
                suppressed,
                "{}: publications may not arrive between them and this node; all nodes must have the same servers in \
                 redis.addresses, and with redis.mode = \"cluster\" the same redis.cluster_partitions",
                neighbors.apart
            );
        }
        self.metrics.shards.nodes_apart.set(neighbors.apart_count as i64);
        *self.neighbors.latest.lock() = Some(Arc::new(neighbors));
    }
}

/// Keeps the latest of several announcements of one node.
pub(super) fn keep_latest(nodes: &mut Vec<NodeInfo>) {
    nodes.sort_by(|a, b| (&a.uid, b.uptime).cmp(&(&b.uid, a.uptime)));
    nodes.dedup_by(|later, earlier| later.uid == earlier.uid);
}

fn read(others: &[NodeInfo], layout: &str, parts: &[&str]) -> Neighbors {
    let (alike, apart): (Vec<&NodeInfo>, Vec<&NodeInfo>) =
        others.iter().partition(|node| *node.layout == *layout);
    let users = parts.iter().map(|part| {
        let uses = |node: &&&NodeInfo| !node.lacks.iter().any(|lacking| **lacking == **part);
        alike.iter().find(uses).map(|node| node.name.clone())
    });
    let uses = users.collect();
    let mut named: Vec<&str> = apart.iter().map(|node| &*node.name).collect();
    named.sort_unstable();
    named.truncate(NAMES_MAX);
    let words = match (named.len(), apart.len()) {
        (0, _) => String::new(),
        (1, 1) => format!("node {} distributes channels differently", named[0]),
        (listed, all) if listed == all => {
            format!("nodes {} distribute channels differently", named.join(", "))
        }
        (listed, all) => {
            format!("nodes {} and {} more distribute channels differently", named.join(", "), all - listed)
        }
    };
    Neighbors { apart: words, apart_count: apart.len(), uses }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, layout: &str, lacks: &[&str]) -> NodeInfo {
        let lacks = lacks.iter().map(|part| Box::from(*part)).collect();
        NodeInfo { uid: name.into(), name: name.into(), layout: layout.into(), lacks, ..NodeInfo::default() }
    }

    #[test]
    fn nodes_with_another_list_are_named_and_many_are_counted() {
        let apart = |names: &[&str]| {
            let nodes: Vec<NodeInfo> = names.iter().map(|name| node(name, "theirs", &[])).collect();
            read(&nodes, "ours", &["r1"]).apart
        };
        assert_eq!(apart(&[]), "");
        assert_eq!(apart(&["a"]), "node a distributes channels differently");
        assert_eq!(apart(&["a", "b"]), "nodes a, b distribute channels differently");
        assert_eq!(
            apart(&["a", "b", "c", "d", "e"]),
            "nodes a, b, c and 2 more distribute channels differently"
        );
        assert_eq!(read(&[node("a", "ours", &[])], "ours", &["r1"]).apart, "");
    }

    #[test]
    fn who_uses_a_part_is_one_that_has_the_same_and_does_not_say_otherwise() {
        let others = [node("a", "ours", &["r1"]), node("b", "theirs", &[]), node("c", "ours", &["r1", "r2"])];
        let neighbors = read(&others, "ours", &["r1", "r2", "r3"]);
        assert_eq!(neighbors.uses, [None, Some("a".into()), Some("a".into())]);
    }

    #[test]
    fn a_node_can_use_no_part_until_it_has_seen_that_it_can() {
        let neighborhood = NeighborsCell::default();
        let lacking = || neighborhood.lacking(3).collect::<Vec<_>>();
        assert_eq!(lacking(), [0, 1, 2], "whoever has just started has seen nothing");
        assert_eq!(neighborhood.lacking(PARTS_MAX).count(), PARTS_MAX);
        neighborhood.set_usable(1, true);
        assert_eq!(lacking(), [0, 2]);
        neighborhood.set_usable(0, true);
        neighborhood.set_usable(1, false);
        assert_eq!(lacking(), [1, 2]);
        neighborhood.set_usable(PARTS_MAX, true);
        assert_eq!(lacking(), [1, 2], "there is no such part");
    }

    #[test]
    fn of_a_node_that_is_there_twice_what_it_said_last_counts() {
        let at = |uptime| NodeInfo { uptime, num_clients: uptime as u32, ..node("a", "", &[]) };
        let mut nodes = vec![at(3), node("b", "", &[]), at(7), at(5)];
        keep_latest(&mut nodes);
        let kept: Vec<_> = nodes.iter().map(|node| (&*node.name, node.num_clients)).collect();
        assert_eq!(kept, [("a", 7), ("b", 0)]);
    }
}
