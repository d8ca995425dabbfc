//! Turns what a scenario recorded into the report.

use std::sync::Arc;

use crate::arguments::{Arguments, ThresholdArguments};
use crate::clock::seconds;
use crate::plan::Plan;
use crate::process::{self, Usage};
use crate::record::Recorder;
use crate::report::{
    self, Connections, Deliveries, Latency, Limit, LoadFindings, LoadTester, Memory, Process, Publications,
    Server, Settings, Threshold, check, percentiles,
};
use crate::scenario::{Reading, StormFindings};
use crate::schedule::Schedule;
use crate::sequence::Verdict;
use crate::subscriber::Shared;

const MICROS_PER_SECOND: f64 = 1e6;
const MILLION: f64 = 1e6;

/// Everything that a run has found out.
#[derive(Debug)]
pub struct PlainOutcome {
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

/// What was used between two readings.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub seconds: f64,
    pub server: Usage,
    pub own: Usage,
}

impl Window {
    pub fn between(from: &Reading, to: &Reading) -> Self {
        Self {
            seconds: seconds(to.at_ns - from.at_ns),
            server: to.server.since(from.server),
            own: to.own.since(from.own),
        }
    }
}

impl PlainOutcome {
    /// What was found, and whether the run's own thresholds and those of its storm held.
    pub fn conclude(&self) -> (LoadFindings, Vec<Threshold>) {
        let Plan { arguments, storm, .. } = &self.shared.plan;
        let own = self.publishing.own;
        let findings = LoadFindings {
            settings: self.settings(),
            connections: self.connections(),
            publications: self.publications(),
            deliveries: self.deliveries(),
            storm: self.storm.clone(),
            server: (!arguments.measuring.pids.is_empty()).then(|| self.server()),
            load_tester: LoadTester {
                user_seconds: own.user_seconds,
                system_seconds: own.system_seconds,
                cores: own.cpu_seconds() / self.publishing.seconds.max(1e-3),
                resident_bytes: own.resident_bytes,
            },
            stages: self.recorder.stages.clone(),
            series: self.recorder.points.clone(),
        };
        let mut thresholds = check(limits(&arguments.thresholds, &findings));
        if let Some((storm, found)) = storm.as_ref().zip(findings.storm.as_ref()) {
            thresholds.extend(check(storm.limits(found)));
        }
        (findings, thresholds)
    }

    fn settings(&self) -> Settings {
        let plan = &self.shared.plan;
        let Arguments { access, connections, publications, .. } = &plan.arguments;
        Settings {
            urls: access.urls.clone(),
            protocol: match &access.template {
                Some(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
                None => format!("{:?}", access.protocol).to_lowercase(),
            },
            transport: plan.dialect.transport(access.transport).name().to_owned(),
            compression: access.compression,
            connections: connections.connections,
            ramp_per_second: connections.ramp,
            channels: connections.channels,
            channels_per_connection: connections.per_connection,
            reconnect: connections.reconnect,
            publish_via: format!("{:?}", publications.publish_via).to_lowercase(),
            publishers: publications.publishers,
            // What a closed loop takes for its rate is a result.
            rate_per_second: if publications.in_flight.is_some() { 0.0 } else { publications.rate },
            in_flight: publications.in_flight,
            batch: publications.batch,
            burst: publications.burst,
            duration_seconds: publications.duration.as_secs_f64(),
            warmup_seconds: publications.warmup.as_secs_f64(),
            payload_bytes: publications.payload,
            threads: plan.threads,
            source_addresses: plan.sources,
            read_buffer_bytes: connections.read_buffer,
        }
    }

    fn connections(&self) -> Connections {
        let books = &self.recorder.received;
        let tally = &books.tally;
        let first_ready = tally.ready.saturating_sub(tally.reconnects);
        Connections {
            requested: self.shared.plan.arguments.connections.connections,
            ready: tally.ready,
            failed: tally.failures.total(),
            failures: tally.failures.clone().into_map(),
            ready_per_second: first_ready as f64 / self.ramp_seconds.max(1e-3),
            open: Latency::of(&books.open),
            to_ready: Latency::of(&books.ready),
            compressed: tally.compressed,
            disconnects: tally.disconnects.total(),
            disconnect_reasons: tally.disconnects.clone().into_map(),
            reconnects: tally.reconnects,
            recovered: tally.recovered,
            unrecovered: tally.unrecovered,
            recovered_publications: tally.recovered_publications,
            unsubscribed: tally.unsubscribed,
            slow: (0..self.shared.plan.arguments.connections.connections)
                .filter(|connection| self.shared.plan.is_slow(*connection))
                .count(),
            slow_ends: tally.slow_ends.clone().into_map(),
            open_at_end: tally.ready.saturating_sub(tally.ended),
        }
    }

    fn publications(&self) -> Publications {
        let books = &self.recorder.published;
        let tally = &books.tally;
        // A run that keeps its schedule takes as long as it says, one that falls behind as long as it took.
        let scheduled = seconds(self.schedule.end_ns() - self.schedule.start_ns);
        let published = self.recorder.stages.iter().find(|stage| stage.name == "publish");
        let took = published.map_or(scheduled, |stage| (stage.to - stage.from).max(scheduled)).max(1e-3);
        Publications {
            scheduled: if self.schedule.closed_ns.is_some() { tally.sent } else { self.schedule.total },
            sent: tally.sent,
            confirmed: tally.confirmed,
            failed: tally.failures.total(),
            failures: tally.failures.clone().into_map(),
            per_second: if tally.sent == 0 { 0.0 } else { tally.sent as f64 / took },
            payload_bytes: self.shared.plan.arguments.publications.payload,
            answered: Latency::of(&books.answered),
            late_ms_max: report::milliseconds(tally.late_ns_max),
        }
    }

    fn deliveries(&self) -> Deliveries {
        let books = &self.recorder.received;
        let tally = &books.tally;
        let span = seconds(tally.last_delivery_ns.saturating_sub(self.schedule.start_ns));
        Deliveries {
            received: tally.deliveries,
            per_second: if span > 0.0 { tally.deliveries as f64 / span } else { 0.0 },
            payload_bytes: tally.delivered_bytes,
            lost: self.verdict.lost,
            lost_at_end: self.verdict.lost_at_end,
            duplicated: tally.duplicated,
            reordered: tally.reordered,
            uncertain: self.verdict.uncertain,
            missed_away: self.verdict.missed_away,
            foreign: tally.foreign,
            malformed: tally.malformed,
            latency: Latency::of(&books.latency),
            percentiles: percentiles(&books.latency),
        }
    }

    fn server(&self) -> Server {
        let pids = &self.shared.plan.arguments.measuring.pids;
        let tally = &self.recorder.received.tally;
        let Usage { user_seconds, system_seconds, .. } = self.publishing.server;
        let millions = tally.deliveries as f64 / MILLION;
        let per_million = |seconds: f64| (millions > 0.0).then(|| seconds / millions);
        let connected = tally.ready.saturating_sub(tally.reconnects) as f64;
        let each = |amount: f64| (connected > 0.0).then(|| amount / connected);
        let [before, ready, after_publishing, after_closing] = self.memory;
        let growth = |from: u64, to: u64| to as f64 - from as f64;
        let connect_seconds = self.connecting.server.cpu_seconds();
        Server {
            processes: pids.iter().map(|&pid| Process { pid, name: process::name(pid) }).collect(),
            user_seconds,
            system_seconds,
            window_seconds: self.publishing.seconds,
            user_seconds_per_million: per_million(user_seconds),
            system_seconds_per_million: per_million(system_seconds),
            seconds_per_million: per_million(user_seconds + system_seconds),
            connect_micros: each(connect_seconds * MICROS_PER_SECOND),
            memory_before: before,
            memory_ready: ready,
            memory_after_publishing: after_publishing,
            memory_after_closing: after_closing,
            resident_bytes_per_connection: each(growth(before.resident_bytes, ready.resident_bytes)),
            proportional_bytes_per_connection: before
                .proportional_bytes
                .zip(ready.proportional_bytes)
                .and_then(|(from, to)| each(growth(from, to))),
            idle_cpu_percent: (self.schedule.total == 0)
                .then(|| (user_seconds + system_seconds) / self.publishing.seconds.max(1e-3) * 100.0),
            memory_after_percent: after_closing.resident_bytes as f64
                / (before.resident_bytes as f64).max(1.0)
                * 100.0,
        }
    }
}

/// The thresholds of a plain run.
fn limits(arguments: &ThresholdArguments, found: &LoadFindings) -> impl IntoIterator<Item = Limit> {
    let LoadFindings { connections, publications, deliveries, .. } = found;
    let server = found.server.as_ref();
    let latency = &deliveries.latency;
    let timed = |milliseconds| (latency.count > 0).then_some(milliseconds);
    let limit = |limit: Option<u64>| limit.map(|limit| limit as f64);
    let count = |count: u64| Some(count as f64);
    let kib_each = server.and_then(|server| server.resident_bytes_per_connection).map(|bytes| bytes / 1024.0);
    [
        ("max-p50-ms", arguments.max_p50_ms, timed(latency.p50)),
        ("max-p99-ms", arguments.max_p99_ms, timed(latency.p99)),
        ("max-p999-ms", arguments.max_p999_ms, timed(latency.p999)),
        ("max-lost", limit(arguments.max_lost), count(deliveries.lost)),
        ("max-duplicated", limit(arguments.max_duplicated), count(deliveries.duplicated)),
        ("max-reordered", limit(arguments.max_reordered), count(deliveries.reordered)),
        ("max-failures", limit(arguments.max_failures), count(connections.failed)),
        ("max-publish-failures", limit(arguments.max_publish_failures), count(publications.failed)),
        ("max-disconnects", limit(arguments.max_disconnects), count(connections.disconnects)),
        (
            "max-cpu-per-million",
            arguments.max_cpu_per_million,
            server.and_then(|one| one.seconds_per_million),
        ),
        ("max-kib-per-connection", arguments.max_kib_per_connection, kib_each),
        ("max-idle-cpu", arguments.max_idle_cpu, server.and_then(|one| one.idle_cpu_percent)),
        ("max-memory-after", arguments.max_memory_after, server.map(|one| one.memory_after_percent)),
        ("min-deliveries-per-second", arguments.min_deliveries_per_second, Some(deliveries.per_second)),
    ]
}
