//! What came of a large run.

use serde::{Deserialize, Serialize};

use crate::report::text::{Group, bytes, number};
use crate::report::{Findings, Host, Threshold};

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct MillionReport {
    pub title: String,
    pub version: String,
    pub cut_short: Option<String>,
    pub host: Host,
    pub connections_requested: u32,
    pub connections_ready: u64,
    /// Attempts that failed, and connections that were given up or lost.
    pub failed: u64,
    pub gone: u64,
    pub connect_seconds: f64,
    pub connect_per_second: f64,
    /// CPU of all nodes while connections were opened, for each of them.
    pub connect_micros: f64,
    pub before: Memory,
    pub ready: Memory,
    /// After the publications.
    pub after: Memory,
    pub nodes: Vec<NodeReport>,
    pub publications: Vec<PublicationReport>,
    pub thresholds: Vec<Threshold>,
}

/// Bytes at one moment.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
pub struct Memory {
    /// What the whole machine could still give away: the kernel's part of every connection is missing from it too.
    pub available: u64,
    pub nodes_resident: u64,
    pub nodes_proportional: Option<u64>,
    pub holders_resident: u64,
    pub holders_proportional: Option<u64>,
    pub redis_resident: u64,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
pub struct NodeReport {
    pub pid: u32,
    pub connections: u32,
    pub resident_bytes: u64,
    /// How many of this node's have the last publication.
    pub received: u32,
}

/// One publication that was to reach everyone.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
pub struct PublicationReport {
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

impl MillionReport {
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

    /// The machine's memory for each connection.
    pub fn bytes_per_connection(&self) -> Option<f64> {
        self.cost().map(|cost| cost.total)
    }
}

impl Findings for MillionReport {
    fn title(&self) -> &str {
        &self.title
    }

    fn cut_short(&self) -> Option<&str> {
        self.cut_short.as_deref()
    }

    fn groups(&self) -> Vec<Group> {
        let count = |value: u64| number(value as f64);
        let row = |what: &str, value: String| (what.to_owned(), value);
        let least = self.nodes.iter().map(|node| node.connections).min().unwrap_or(0);
        let most = self.nodes.iter().map(|node| node.connections).max().unwrap_or(0);
        let connections = vec![
            row(
                "ready / requested",
                format!("{} / {}", count(self.connections_ready), count(self.connections_requested.into())),
            ),
            row(
                "nodes",
                format!("{}, with {} to {} each", self.nodes.len(), count(least.into()), count(most.into())),
            ),
            row("time to connect", format!("{} s", number(self.connect_seconds))),
            row("ready per second", number(self.connect_per_second)),
            row("nodes' CPU per connection opened", format!("{} µs", number(self.connect_micros))),
            row("failed attempts", count(self.failed)),
            row("given up or lost", count(self.gone)),
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

    fn thresholds(&self) -> &[Threshold] {
        &self.thresholds
    }
}
