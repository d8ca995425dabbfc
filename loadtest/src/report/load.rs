//! The report of a plain run, and of what is made of plain runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::text::{bytes, count, latency, milliseconds, number, reasons, row};
use super::{Findings, Group, Latency};
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
        let mut groups = vec![connections(self)];
        if self.publications.scheduled > 0 {
            groups.extend([publications(self), deliveries(self)]);
        }
        groups.extend(self.storm.as_ref().map(StormFindings::group));
        groups.extend(server(self));
        groups.push(load_tester(self));
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

fn connections(report: &LoadFindings) -> Group {
    let connections = &report.connections;
    let mut rows = vec![
        row(
            "ready / requested",
            format!("{} / {}", count(connections.ready), count(connections.requested.into())),
        ),
        row("ready per second", number(connections.ready_per_second)),
        row("time to open", latency(&connections.open)),
        row("time to ready", latency(&connections.to_ready)),
    ];
    if report.settings.compression {
        rows.push(row("agreed on compression", count(connections.compressed)));
    }
    rows.push(row("failed", count(connections.failed)));
    rows.extend(reasons(&connections.failures));
    rows.push(row("disconnects", count(connections.disconnects)));
    rows.extend(reasons(&connections.disconnect_reasons));
    if report.settings.reconnect {
        rows.push(row("reconnects", count(connections.reconnects)));
        rows.push(row(
            "subscriptions recovered / not",
            format!("{} / {}", count(connections.recovered), count(connections.unrecovered)),
        ));
        rows.push(row("publications recovered", count(connections.recovered_publications)));
        rows.push(row("open at the end", count(connections.open_at_end)));
    }
    if connections.unsubscribed > 0 {
        rows.push(row("unsubscribed by the server", count(connections.unsubscribed)));
    }
    Group { heading: "Connections", rows }
}

fn publications(report: &LoadFindings) -> Group {
    let publications = &report.publications;
    let mut rows = vec![
        row("sent / scheduled", format!("{} / {}", count(publications.sent), count(publications.scheduled))),
        row("sent per second", number(publications.per_second)),
        row("confirmed", count(publications.confirmed)),
        row("failed", count(publications.failed)),
    ];
    rows.extend(reasons(&publications.failures));
    rows.push(row("time to confirmation", latency(&publications.answered)));
    rows.push(row("latest after its due time", milliseconds(publications.late_ms_max)));
    Group { heading: "Publications", rows }
}

fn deliveries(report: &LoadFindings) -> Group {
    let deliveries = &report.deliveries;
    let mut rows = vec![
        row("received", count(deliveries.received)),
        row("received per second", number(deliveries.per_second)),
        row("latency", latency(&deliveries.latency)),
        row("lost", lost(deliveries)),
        row("duplicated", count(deliveries.duplicated)),
        row("reordered", count(deliveries.reordered)),
    ];
    // These are nothing in an ordinary run, and then only in the way.
    for (what, value) in [
        ("missing, publisher got an error", deliveries.uncertain),
        ("missed while away", deliveries.missed_away),
        ("not of this run", deliveries.foreign),
        ("not understood", deliveries.malformed),
    ] {
        if value > 0 {
            rows.push(row(what, count(value)));
        }
    }
    Group { heading: "Deliveries", rows }
}

fn lost(deliveries: &Deliveries) -> String {
    match deliveries.lost_at_end {
        0 => count(deliveries.lost),
        at_end => format!(
            "{}, of which {} at the end (perhaps still on their way; see --drain)",
            count(deliveries.lost),
            count(at_end)
        ),
    }
}

fn server(report: &LoadFindings) -> Option<Group> {
    let server = report.server.as_ref()?;
    let mut rows: Vec<(String, String)> = server
        .processes
        .iter()
        .map(|process| row("process", format!("{} {}", process.pid, process.name)))
        .collect();
    let share = (server.user_seconds + server.system_seconds) / server.window_seconds.max(1e-3);
    rows.push(row(
        if report.publications.scheduled > 0 { "CPU while publishing" } else { "CPU while holding" },
        format!(
            "{:.2} s user + {:.2} s system in {:.2} s, {:.1} % of a core",
            server.user_seconds,
            server.system_seconds,
            server.window_seconds,
            share * 100.0
        ),
    ));
    let parts =
        (server.user_seconds_per_million, server.system_seconds_per_million, server.seconds_per_million);
    if let (Some(user), Some(system), Some(both)) = parts {
        rows.push(row(
            "CPU s per million deliveries",
            format!("{} ({} user + {} system)", number(both), number(user), number(system)),
        ));
    }
    if let Some(micros) = server.connect_micros {
        rows.push(row("CPU per connection opened", format!("{} µs", number(micros))));
    }
    for (what, memory) in [
        ("memory before", server.memory_before),
        ("memory with all connections", server.memory_ready),
        ("memory after publishing", server.memory_after_publishing),
        ("memory after closing", server.memory_after_closing),
    ] {
        let resident = bytes(memory.resident_bytes as f64);
        let value = match memory.proportional_bytes {
            Some(proportional) => format!("{resident} RSS, {} PSS", bytes(proportional as f64)),
            None => format!("{resident} RSS"),
        };
        rows.push(row(what, value));
    }
    if let Some(resident) = server.resident_bytes_per_connection {
        let value = match server.proportional_bytes_per_connection {
            Some(proportional) => format!("{} RSS, {} PSS", bytes(resident), bytes(proportional)),
            None => format!("{} RSS", bytes(resident)),
        };
        rows.push(row("memory per connection", value));
    }
    rows.push(row("memory after / before", format!("{} %", number(server.memory_after_percent))));
    Some(Group { heading: "Server", rows })
}

fn load_tester(report: &LoadFindings) -> Group {
    let own = &report.load_tester;
    let rows = vec![
        row("cores in use meanwhile", number(own.cores)),
        row("memory", format!("{} RSS", bytes(own.resident_bytes as f64))),
    ];
    Group { heading: "Load tester itself", rows }
}
