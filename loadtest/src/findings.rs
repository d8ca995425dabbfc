//! The findings of a run, as they stand in its report: what was counted and measured, and figures derived from that.

use std::sync::Arc;

use serde::Serialize;

use crate::arguments::Arguments;
use crate::clock::seconds;
use crate::common::Shared;
use crate::counts::{ConnectionCounts, DeliveryCounts, Published, Verdict};
use crate::latencies::Latencies;
use crate::process::{self, Usage};
use crate::record::{Recorder, Window};
use crate::schedule::Schedule;

pub const MICROS_PER_SECOND: f64 = 1e6;
const MILLION: f64 = 1e6;
/// The shortest time that something is divided by.
const SECONDS_MIN: f64 = 1e-3;

#[derive(Serialize, Debug)]
pub struct Findings {
    pub settings: Arguments,
    pub connections: Connections,
    pub publications: Publications,
    pub deliveries: Deliveries,
    /// Only after a storm.
    pub storm: Option<StormFindings>,
    /// Only where connections are closed as soon as they are ready.
    pub handshakes: Option<HandshakeFindings>,
    /// Only with `--pid`.
    pub server: Option<Server>,
    pub load_tester: LoadTester,
    pub stages: Vec<Stage>,
    pub series: Vec<Point>,
}

#[derive(Serialize, Debug)]
pub struct Connections {
    pub requested: u32,
    /// Connections that became ready a second, while they were opened.
    pub ready_per_second: f64,
    pub failed: u64,
    pub disconnects: u64,
    /// Connections that stopped reading.
    pub slow: usize,
    /// Connections that were there when the accounts were settled.
    pub open_at_end: u64,
    #[serde(flatten)]
    pub counts: ConnectionCounts,
}

#[derive(Serialize, Debug)]
pub struct Publications {
    pub scheduled: u64,
    /// Publications a second, from the first that was due to the last answer.
    pub per_second: f64,
    pub payload_bytes: usize,
    pub failed: u64,
    #[serde(flatten)]
    pub counts: Published,
}

#[derive(Serialize, Debug)]
pub struct Deliveries {
    /// Deliveries a second, from the first publication that was due to the last delivery.
    pub per_second: f64,
    #[serde(flatten)]
    pub verdict: Verdict,
    #[serde(flatten)]
    pub counts: DeliveryCounts,
    /// The whole distribution: percentile and milliseconds.
    pub percentiles: Vec<(f64, f64)>,
}

/// All connections were cut at once, and came back at once.
#[derive(Serialize, Debug)]
pub struct StormFindings {
    pub cut_off: u64,
    pub reconnected: u64,
    /// Attempts to come back that failed; each was made again.
    pub failed: u64,
    /// Connections that were not back in time.
    pub not_back: u64,
    pub per_second: f64,
    /// Until the last connection had recovered.
    pub seconds_to_last: f64,
    /// From the moment when all were let go until a connection had recovered.
    pub to_recovered: Latencies,
    /// CPU of the server meanwhile, for each connection that came back; only with `--pid`.
    pub cpu_micros_each: Option<f64>,
    /// Subscriptions that recovered everything, and subscriptions that did not.
    pub recovered: u64,
    pub unrecovered: u64,
    pub recovered_publications: u64,
    /// How often history was read, and handshakes that were refused, both by the server's metrics.
    pub history_reads: Option<f64>,
    pub refused_handshakes: Option<f64>,
}

/// Connections were opened and closed over and over.
#[derive(Serialize, Debug)]
pub struct HandshakeFindings {
    pub seconds: f64,
    pub done: u64,
    pub per_second: f64,
    /// CPU of the server for each handshake, and its cores in use; only with `--pid`.
    pub cpu_micros_each: Option<f64>,
    pub server_cores: Option<f64>,
}

#[derive(Serialize, Debug)]
pub struct Server {
    pub processes: Vec<Process>,
    /// CPU seconds while publications went on, from the first until nothing was missing.
    pub user_seconds: f64,
    pub system_seconds: f64,
    /// The length of that time.
    pub window_seconds: f64,
    /// `None` without deliveries.
    pub user_seconds_per_million: Option<f64>,
    pub system_seconds_per_million: Option<f64>,
    pub seconds_per_million: Option<f64>,
    /// CPU microseconds for each connection that was opened; `None` where connections are opened over and over.
    pub connect_micros: Option<f64>,
    pub memory_before: Memory,
    /// With all connections ready and nothing published.
    pub memory_ready: Memory,
    pub memory_after_publishing: Memory,
    /// After all connections were closed and a rest.
    pub memory_after_closing: Memory,
    /// Growth of the memory from before to ready, divided by the connections.
    pub resident_bytes_per_connection: Option<f64>,
    pub proportional_bytes_per_connection: Option<f64>,
    /// CPU while connections were only held, in percent of one core; `None` where something was published.
    pub idle_cpu_percent: Option<f64>,
    /// Resident memory after all connections were closed, in percent of the memory before the first.
    pub memory_after_percent: f64,
}

#[derive(Serialize, Debug)]
pub struct Process {
    pub pid: u32,
    pub name: String,
}

#[derive(Serialize, Clone, Copy, Debug)]
pub struct Memory {
    pub resident_bytes: u64,
    pub proportional_bytes: Option<u64>,
}

/// What the load tester itself used while publications went on. As `cores` nears the cores of the host, the run measures the
/// load tester.
#[derive(Serialize, Debug)]
pub struct LoadTester {
    #[serde(flatten)]
    pub usage: Usage,
    /// Cores in use on average while publications went on.
    pub cores: f64,
}

/// A part of the run, in seconds from its start.
#[derive(Serialize, Debug)]
pub struct Stage {
    pub name: String,
    pub from: f64,
    pub to: f64,
}

/// The run at one moment. Rates and latencies are those of the interval that ends here.
#[derive(Serialize, Debug)]
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

/// The raw results of a run.
#[derive(Debug)]
pub struct Outcome {
    pub ramp_seconds: f64,
    pub schedule: Schedule,
    pub verdict: Verdict,
    /// Before the first connection, with all of them, after publishing, and after closing.
    pub memory: [Memory; 4],
    pub connecting: Window,
    pub publishing: Window,
    pub storm: Option<StormFindings>,
    pub recorder: Recorder,
    pub shared: Arc<Shared>,
}

impl Outcome {
    pub fn conclude(self) -> Findings {
        let Arguments { connections, measuring, .. } = &self.shared.plan.arguments;
        let own = self.publishing.own;
        Findings {
            connections: self.connections(),
            publications: self.publications(),
            deliveries: self.deliveries(),
            handshakes: connections.churn.then(|| self.handshakes()),
            server: (!measuring.pids.is_empty()).then(|| self.server()),
            load_tester: LoadTester {
                usage: own,
                cores: own.cpu_seconds() / self.publishing.seconds.max(SECONDS_MIN),
            },
            settings: self.shared.plan.arguments.clone(),
            storm: self.storm,
            stages: self.recorder.stages,
            series: self.recorder.points,
        }
    }

    /// Returns how many connections became ready, each counted once.
    fn first_ready(&self) -> u64 {
        let counts = &self.recorder.received.connections;
        counts.ready.saturating_sub(counts.reconnects)
    }

    fn connections(&self) -> Connections {
        let plan = &self.shared.plan;
        let requested = plan.arguments.connections.connections;
        let counts = self.recorder.received.connections.clone();
        Connections {
            requested,
            ready_per_second: self.first_ready() as f64 / self.ramp_seconds.max(SECONDS_MIN),
            failed: counts.failures.total(),
            disconnects: counts.disconnect_reasons.total(),
            slow: (0..requested).filter(|connection| plan.is_slow(*connection)).count(),
            open_at_end: counts.ready.saturating_sub(counts.ended),
            counts,
        }
    }

    fn publications(&self) -> Publications {
        let counts = self.recorder.published.clone();
        // Publishing lasts as long as scheduled, or longer where it falls behind.
        let scheduled = seconds(self.schedule.end_ns() - self.schedule.start_ns);
        let published = self.recorder.stages.iter().find(|stage| stage.name == "publish");
        let took = published.map_or(scheduled, |stage| (stage.to - stage.from).max(scheduled));
        Publications {
            scheduled: if self.schedule.closed_ns.is_some() { counts.sent } else { self.schedule.total },
            per_second: if counts.sent == 0 { 0.0 } else { counts.sent as f64 / took.max(SECONDS_MIN) },
            payload_bytes: self.shared.plan.arguments.publications.payload,
            failed: counts.failures.total(),
            counts,
        }
    }

    fn deliveries(&self) -> Deliveries {
        let counts = self.recorder.received.deliveries.clone();
        let span = seconds(counts.last_ns.0.saturating_sub(self.schedule.start_ns));
        Deliveries {
            per_second: if span > 0.0 { counts.received as f64 / span } else { 0.0 },
            verdict: self.verdict.clone(),
            percentiles: counts.latency.percentiles(),
            counts,
        }
    }

    fn handshakes(&self) -> HandshakeFindings {
        let (took, done) = (self.publishing.seconds.max(SECONDS_MIN), self.publishing.ready);
        let used = self.publishing.server.cpu_seconds();
        let is_measured = !self.shared.plan.arguments.measuring.pids.is_empty();
        HandshakeFindings {
            seconds: took,
            done,
            per_second: done as f64 / took,
            cpu_micros_each: (is_measured && done > 0).then(|| used * MICROS_PER_SECOND / done as f64),
            server_cores: is_measured.then(|| used / took),
        }
    }

    fn server(&self) -> Server {
        let pids = &self.shared.plan.arguments.measuring.pids;
        let Usage { user_seconds, system_seconds, .. } = self.publishing.server;
        let millions = self.recorder.received.deliveries.received as f64 / MILLION;
        let per_million = |seconds: f64| (millions > 0.0).then(|| seconds / millions);
        let connected = self.first_ready() as f64;
        let each = |amount: f64| (connected > 0.0).then(|| amount / connected);
        let churns = self.shared.plan.arguments.connections.churn;
        let [before, ready, after_publishing, after_closing] = self.memory;
        let growth = |from: u64, to: u64| to as f64 - from as f64;
        let proportional = before.proportional_bytes.zip(ready.proportional_bytes);
        Server {
            processes: pids.iter().map(|&pid| Process { pid, name: process::name(pid) }).collect(),
            user_seconds,
            system_seconds,
            window_seconds: self.publishing.seconds,
            user_seconds_per_million: per_million(user_seconds),
            system_seconds_per_million: per_million(system_seconds),
            seconds_per_million: per_million(user_seconds + system_seconds),
            connect_micros: each(self.connecting.server.cpu_seconds() * MICROS_PER_SECOND)
                .filter(|_| !churns),
            memory_before: before,
            memory_ready: ready,
            memory_after_publishing: after_publishing,
            memory_after_closing: after_closing,
            resident_bytes_per_connection: each(growth(before.resident_bytes, ready.resident_bytes)),
            proportional_bytes_per_connection: proportional.and_then(|(from, to)| each(growth(from, to))),
            idle_cpu_percent: (self.schedule.total == 0 && !churns)
                .then(|| (user_seconds + system_seconds) / self.publishing.seconds.max(SECONDS_MIN) * 100.0),
            memory_after_percent: after_closing.resident_bytes as f64
                / (before.resident_bytes as f64).max(1.0)
                * 100.0,
        }
    }
}
