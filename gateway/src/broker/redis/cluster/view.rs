//! Finds out which master has which slots. Each node answers CLUSTER NODES with what it has heard; if two masters claim a
//! slot, the one with the later configuration epoch has it, which is the cluster's own rule.

use std::collections::HashMap;

use super::slots::SLOTS;

/// What one node knows of all nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct ClusterView {
    pub(super) nodes: Vec<ClusterNode>,
}

/// One node of a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct ClusterNode {
    pub(super) id: Box<str>,
    /// The host, as the cluster calls it.
    pub(super) host: Box<str>,
    /// The host name that the node announces, if that is not its address.
    pub(super) name: Box<str>,
    pub(super) port: u16,
    pub(super) is_master: bool,
    /// Whether the node is known to have failed.
    pub(super) has_failed: bool,
    epoch: u64,
    /// Ranges of slots, both ends included.
    slots: Vec<(u16, u16)>,
}

/// The masters that have slots, and the owner of each slot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Layout {
    pub(super) masters: Vec<ClusterNode>,
    /// The index in `masters` of each slot's owner.
    pub(super) owners: Vec<Option<usize>>,
    /// Every node that can be asked.
    pub(super) known: Vec<(Box<str>, u16)>,
}

impl ClusterView {
    /// Reads the answer to CLUSTER NODES. `asked_host` is the host that gave it: a node may not know its own.
    pub(super) fn read(answer: &str, asked_host: &str) -> Self {
        Self { nodes: answer.lines().filter_map(|line| ClusterNode::read(line, asked_host)).collect() }
    }
}

impl ClusterNode {
    /// Reads `id host:port@bus[,name[,…]] flags master ping pong epoch link slots…`.
    fn read(line: &str, asked_host: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (id, address, flags) = (words.next()?, words.next()?, words.next()?);
        let epoch = words.nth(3)?.parse().ok()?;
        let _link = words.next();
        let mut parts = address.split(',');
        let (place, name) = (parts.next()?, parts.next().unwrap_or_default());
        let (host, port) = place.split('@').next()?.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host = if host.is_empty() { asked_host } else { host };
        let has = |flag: &str| flags.split(',').any(|has| has == flag);
        if has("noaddr") || has("handshake") {
            return None;
        }
        let range = |word: &str| {
            let (from, to) = word.split_once('-').unwrap_or((word, word));
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            (from <= to && to < SLOTS).then_some((from, to))
        };
        // Slots that are being moved stand in brackets.
        let slots = words.filter(|word| !word.starts_with('[')).filter_map(range).collect();
        Some(Self {
            id: id.into(),
            host: host.into(),
            name: name.into(),
            port,
            is_master: has("master"),
            has_failed: has("fail"),
            epoch,
            slots,
        })
    }

    /// Whether a redirection to this address means this node.
    pub(super) fn is_at(&self, host: &str, port: u16) -> bool {
        self.port == port && (*self.host == *host || (!self.name.is_empty() && *self.name == *host))
    }
}

impl Layout {
    /// Combines the answers of several nodes.
    pub(super) fn decide(views: &[ClusterView]) -> Self {
        let mut latest: HashMap<&str, &ClusterNode> = HashMap::new();
        let mut claims: Vec<Option<(u64, &str)>> = vec![None; usize::from(SLOTS)];
        let mut known = Vec::new();
        for node in views.iter().flat_map(|view| &view.nodes) {
            if !node.has_failed && !known.contains(&(node.host.clone(), node.port)) {
                known.push((node.host.clone(), node.port));
            }
            if !node.is_master {
                continue;
            }
            let last = latest.entry(&node.id).or_insert(node);
            if node.epoch > last.epoch {
                *last = node;
            }
            for (from, to) in &node.slots {
                for claim in &mut claims[usize::from(*from)..=usize::from(*to)] {
                    if claim.is_none_or(|(epoch, _)| epoch < node.epoch) {
                        *claim = Some((node.epoch, &node.id));
                    }
                }
            }
        }
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut masters: Vec<ClusterNode> = Vec::new();
        let owners = claims.into_iter().map(|claim| {
            let (_, id) = claim?;
            let place = *places.entry(id).or_insert(masters.len());
            if place == masters.len() {
                masters.push((*latest.get(id)?).clone());
            }
            Some(place)
        });
        let owners = owners.collect();
        Self { masters, owners, known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "\
a1 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-5460 [5461-<-b2]\n\
b2 127.0.0.1:7001@17001,two.example master - 0 1 2 connected 5461-10922 16383\n\
c3 :7002@17002 master - 0 1 3 connected 10923-16382\n\
d4 127.0.0.1:7003@17003,,shard-id=x slave b2 0 1 2 connected\n\
e5 :0@0 master,noaddr - 0 1 0 disconnected\n\
f6 ::1:7005@17005 master,fail - 0 1 0 connected\n\
nonsense\n";

    #[test]
    fn what_a_node_says_is_read() {
        let view = ClusterView::read(NODES, "10.0.0.9");
        let read: Vec<_> = view.nodes.iter().map(|node| (&*node.id, &*node.host, node.port)).collect();
        assert_eq!(
            read,
            [
                ("a1", "127.0.0.1", 7000),
                ("b2", "127.0.0.1", 7001),
                ("c3", "10.0.0.9", 7002),
                ("d4", "127.0.0.1", 7003),
                ("f6", "::1", 7005)
            ]
        );
        assert!(view.nodes[1].is_at("two.example", 7001) && view.nodes[1].is_at("127.0.0.1", 7001));
        assert!(!view.nodes[1].is_at("", 7001) && !view.nodes[1].is_at("127.0.0.1", 7000));
        let layout = Layout::decide(&[view]);
        let ids: Vec<_> = layout.masters.iter().map(|master| &*master.id).collect();
        assert_eq!(ids, ["a1", "b2", "c3"]);
        let owner = |slot: usize| layout.owners[slot].map(|owner| &*layout.masters[owner].id);
        assert_eq!(
            [owner(0), owner(5461), owner(16382), owner(16383)],
            [Some("a1"), Some("b2"), Some("c3"), Some("b2")]
        );
        assert_eq!(layout.known.len(), 4, "one has failed");
    }

    #[test]
    fn the_later_epoch_has_a_slot_whoever_says_so() {
        let before = ClusterView::read(
            "a h:1@2 master - 0 0 1 connected 0-10\nb h:2@3 master - 0 0 2 connected 11",
            "h",
        );
        let after =
            ClusterView::read("a h:1@2 slave b 0 0 5 connected\nb h:2@3 master - 0 0 5 connected 5-11", "h");
        for views in [[before.clone(), after.clone()], [after, before]] {
            let layout = Layout::decide(&views);
            let owner = |slot: usize| layout.owners[slot].map(|owner| &*layout.masters[owner].id);
            assert_eq!([owner(4), owner(5), owner(11), owner(12)], [Some("a"), Some("b"), Some("b"), None]);
        }
    }
}
