//! The report of a plain run, and of what is made of plain runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Findings, Group, Latency, figures};
use crate::scenario::StormFindings;

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct LoadFindings {
    pub settings: Settings,
    pub connections: Connections,
    pub publications: Publications,
    pub deliveries: Deliveries,
    /// Only in the scenario of that name.
    pub storm: Option<StormFindings>,
    /// Only with `--pid`.
    pub server: Option<Server>,
    /// What the load tester itself used while publications went on: near the cores of the host it measures itself.
    pub load_tester: LoadTester,
    pub stages: Vec<Stage>,
    pub series: Vec<Point>,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Settings {
    pub urls: Vec<String>,
    pub protocol: String,
    #[serde(default)]
    pub transport: String,
    pub compression: bool,
    pub connections: u32,
    pub ramp_per_second: f64,
    pub channels: u32,
    pub channels_per_connection: u32,
    pub reconnect: bool,
    pub publish_via: String,
    pub publishers: u32,
    pub rate_per_second: f64,
    /// In place of a rate, in a closed loop.
    #[serde(default)]
    pub in_flight: Option<u32>,
    #[serde(default)]
    pub batch: usize,
    pub burst: u64,
    pub duration_seconds: f64,
    pub warmup_seconds: f64,
    pub payload_bytes: usize,
    pub threads: u16,
    pub source_addresses: u8,
    pub read_buffer_bytes: usize,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Connections {
    pub requested: u32,
    /// Attempts that became ready to receive; with reconnects there may be more than requested.
    pub ready: u64,
    pub failed: u64,
    pub failures: BTreeMap<String, u64>,
    /// Ready connections a second while they were opened.
    pub ready_per_second: f64,
    /// From the moment a connection was due until its WebSocket was open.
    pub open: Latency,
    /// From the moment a connection was due until its last subscription was confirmed.
    pub to_ready: Latency,
    /// Of all opened, those that agreed on compression.
    pub compressed: u64,
    pub disconnects: u64,
    pub disconnect_reasons: BTreeMap<String, u64>,
    pub reconnects: u64,
    /// Subscriptions that came back without a hole, and those that could not.
    pub recovered: u64,
    pub unrecovered: u64,
    pub recovered_publications: u64,
    /// Subscriptions that the server ended by itself.
    pub unsubscribed: u64,
    /// Connections that stopped reading, and what they found when they read on at last.
    #[serde(default)]
    pub slow: usize,
    #[serde(default)]
    pub slow_ends: BTreeMap<String, u64>,
    /// Connections that were there when the accounts were settled.
    #[serde(default)]
    pub open_at_end: u64,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Publications {
    pub scheduled: u64,
    pub sent: u64,
    pub confirmed: u64,
    pub failed: u64,
    pub failures: BTreeMap<String, u64>,
    /// Sent a second, from the first that was due to the last answer.
    pub per_second: f64,
    pub payload_bytes: usize,
    /// From the moment a publication was due until the server confirmed it.
    pub answered: Latency,
    /// The longest that one left after it was due.
    pub late_ms_max: f64,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Deliveries {
    pub received: u64,
    /// From the first publication that was due to the last delivery.
    pub per_second: f64,
    pub payload_bytes: u64,
    /// Should have come to a live subscription, and did not.
    pub lost: u64,
    /// Of the lost, those after everything else that came: perhaps on their way still when waiting ended.
    pub lost_at_end: u64,
    pub duplicated: u64,
    pub reordered: u64,
    /// Missing, but their publisher got an error, so they may never have been published.
    pub uncertain: u64,
    /// Published while their subscriber was away, and not recovered.
    pub missed_away: u64,
    /// Not of this run.
    pub foreign: u64,
    /// Messages that could not be understood.
    pub malformed: u64,
    /// From the moment a publication was due to its delivery.
    pub latency: Latency,
    /// The whole distribution: percentile and milliseconds.
    pub percentiles: Vec<(f64, f64)>,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Server {
    pub processes: Vec<Process>,
    /// CPU seconds while publications went on, from the first until nothing was missing.
    pub user_seconds: f64,
    pub system_seconds: f64,
    /// How long that was.
    pub window_seconds: f64,
    /// `None` without deliveries.
    pub user_seconds_per_million: Option<f64>,
    pub system_seconds_per_million: Option<f64>,
    pub seconds_per_million: Option<f64>,
    /// CPU microseconds for each connection that was opened.
    pub connect_micros: Option<f64>,
    pub memory_before: Memory,
    /// With all connections ready and nothing published.
    pub memory_ready: Memory,
    pub memory_after_publishing: Memory,
    /// After all connections were closed and a rest.
    pub memory_after_closing: Memory,
    /// Growth from before to ready, divided by the connections.
    pub resident_bytes_per_connection: Option<f64>,
    pub proportional_bytes_per_connection: Option<f64>,
    /// CPU while connections were only held, as a share of one core; `None` where something was published.
    pub idle_cpu_percent: Option<f64>,
    /// Resident memory after all connections were closed, against before the first.
    pub memory_after_percent: f64,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Process {
    pub pid: u32,
    pub name: String,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
pub struct Memory {
    pub resident_bytes: u64,
    pub proportional_bytes: Option<u64>,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
pub struct LoadTester {
    pub user_seconds: f64,
    pub system_seconds: f64,
    /// Cores in use on average while publications went on.
    pub cores: f64,
    pub resident_bytes: u64,
}

/// A part of the run, in seconds from its start.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Stage {
    pub name: String,
    pub from: f64,
    pub to: f64,
}

/// The run at one moment; rates and latencies are those of the interval that ends here.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
pub struct Point {
    pub seconds: f64,
    pub connections: u64,
    pub publications_per_second: f64,
    pub deliveries_per_second: f64,
    /// Milliseconds; `None` where nothing was delivered.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
    /// Cores in use by the server, and its memory; 0 without `--pid`.
    pub server_user: f64,
    pub server_system: f64,
    pub server_resident_bytes: u64,
    /// Cores in use by the load tester.
    pub own_cores: f64,
}

impl Findings for LoadFindings {
    fn groups(&self) -> Vec<Group> {
        let mut groups = figures::groups(self);
        if self.publications.scheduled == 0 {
            groups.retain(|group| !["Publications", "Deliveries"].contains(&group.heading.as_str()));
        }
        groups
    }

    fn faults(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("lost", self.deliveries.lost),
            ("duplicated", self.deliveries.duplicated),
            ("reordered", self.deliveries.reordered),
            ("connections failed", self.connections.failed),
            ("publications failed", self.publications.failed),
            ("disconnects", self.connections.disconnects),
        ]
    }
}
