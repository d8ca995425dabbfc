//! What came of a large run.

use serde::{Deserialize, Serialize};

use crate::report::text::{bytes, count, number, row};
use crate::report::{Findings, Group};

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct MillionFindings {
    pub connections_requested: u32,
    pub connections_ready: u64,
    /// Attempts that failed, and connections that were ready and are lost.
    pub failed: u64,
    pub gone: u64,
    pub connect_seconds: f64,
    pub connect_per_second: f64,
    /// CPU of all nodes while connections were opened, for each of them.
    pub connect_micros: f64,
    pub before: MachineMemory,
    pub ready: MachineMemory,
    /// After the publications.
    pub after: MachineMemory,
    pub nodes: Vec<NodeShare>,
    pub publications: Vec<PublicationReach>,
}

/// Bytes at one moment.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
pub struct MachineMemory {
    /// What the whole machine could still give away: the kernel's part of every connection is missing from it too.
    pub available: u64,
    pub nodes_resident: u64,
    pub nodes_proportional: Option<u64>,
    pub holders_resident: u64,
    pub holders_proportional: Option<u64>,
    pub redis_resident: u64,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
pub struct NodeShare {
    pub pid: u32,
    pub connections: u64,
    pub resident_bytes: u64,
    /// How many of this node's have the last publication.
    pub received: u64,
}

/// One publication that was to reach everyone.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
pub struct PublicationReach {
    pub reached: u64,
    pub of: u64,
    /// From before it was sent until its publisher had the answer, and until the last connection had it.
    pub confirmed_ms: f64,
    pub last_ms: f64,
    /// CPU of all nodes meanwhile.
    pub nodes_cpu_seconds: f64,
}

/// What a connection costs, by who pays.
#[derive(Clone, Copy, Debug)]
struct Cost {
    total: f64,
    node: f64,
    holder: f64,
    /// Both ends: what is missing from the machine's memory and is with no process.
    kernel: f64,
}

impl MillionFindings {
    fn cost(&self) -> Option<Cost> {
        let connections = self.connections_ready as f64;
        let grown = |to: u64, from: u64| (to as f64 - from as f64) / connections;
        let (before, ready) = (&self.before, &self.ready);
        let total = grown(before.available, ready.available);
        let node = grown(
            ready.nodes_proportional.unwrap_or(ready.nodes_resident),
            before.nodes_proportional.unwrap_or(before.nodes_resident),
        );
        let holder = grown(
            ready.holders_proportional.unwrap_or(ready.holders_resident),
            before.holders_proportional.unwrap_or(before.holders_resident),
        );
        let redis = grown(ready.redis_resident, before.redis_resident);
        (connections > 0.0).then_some(Cost { total, node, holder, kernel: total - node - holder - redis })
    }

    pub fn unready(&self) -> u64 {
        u64::from(self.connections_requested).saturating_sub(self.connections_ready)
    }

    /// Connections that a publication did not reach, over all publications.
    pub fn missing(&self) -> u64 {
        self.publications.iter().map(|one| one.of.saturating_sub(one.reached)).sum()
    }

    /// The machine's memory for each connection.
    pub fn bytes_per_connection(&self) -> Option<f64> {
        self.cost().map(|cost| cost.total)
    }
}

impl Findings for MillionFindings {
    fn groups(&self) -> Vec<Group> {
        let least = self.nodes.iter().map(|node| node.connections).min().unwrap_or(0);
        let most = self.nodes.iter().map(|node| node.connections).max().unwrap_or(0);
        let connections = vec![
            row(
                "ready / requested",
                format!("{} / {}", count(self.connections_ready), count(self.connections_requested.into())),
            ),
            row("nodes", format!("{}, with {} to {} each", self.nodes.len(), count(least), count(most))),
            row("time to connect", format!("{} s", number(self.connect_seconds))),
            row("ready per second", number(self.connect_per_second)),
            row("nodes' CPU per connection opened", format!("{} µs", number(self.connect_micros))),
            row("failed attempts", count(self.failed)),
            row("lost", count(self.gone)),
        ];
        let mut memory = Vec::new();
        for (when, at) in
            [("before", &self.before), ("with all", &self.ready), ("after publishing", &self.after)]
        {
            let nodes = at.nodes_proportional.unwrap_or(at.nodes_resident) as f64;
            let holders = at.holders_proportional.unwrap_or(at.holders_resident) as f64;
            memory.push(row(
                when,
                format!(
                    "{} available · nodes {} · holders {} · Redis {}",
                    bytes(at.available as f64),
                    bytes(nodes),
                    bytes(holders),
                    bytes(at.redis_resident as f64)
                ),
            ));
        }
        if let Some(cost) = self.cost() {
            memory.push(row(
                "each connection",
                format!(
                    "{} in all: node {} · kernel, both ends {} · holder {}",
                    bytes(cost.total),
                    bytes(cost.node),
                    bytes(cost.kernel),
                    bytes(cost.holder)
                ),
            ));
        }
        let mut groups = vec![
            Group { heading: "Connections", rows: connections },
            Group { heading: "Memory", rows: memory },
        ];
        let publications = self.publications.iter().enumerate().map(|(index, publication)| {
            let value = format!(
                "reached {} / {} · last after {} ms · confirmed after {} ms · nodes' CPU {} s",
                count(publication.reached),
                count(publication.of),
                number(publication.last_ms),
                number(publication.confirmed_ms),
                number(publication.nodes_cpu_seconds)
            );
            (format!("publication {}", index + 1), value)
        });
        groups.push(Group { heading: "Publications to everyone", rows: publications.collect() });
        groups
    }

    fn faults(&self) -> Vec<(&'static str, u64)> {
        vec![("connections not ready", self.unready()), ("not reached by a publication", self.missing())]
    }
}
