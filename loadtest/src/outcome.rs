//! Turns what a scenario recorded into the report.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::arguments::Arguments;
use crate::clock::seconds;
use crate::process::{self, Usage};
use crate::record::Recorder;
use crate::report::{
    Connections, Deliveries, Host, Latency, LoadTester, Memory, Process, Publications, Report, Server,
    Settings, StormReport, percentiles,
};
use crate::scenario::{CutShort, Reading};
use crate::schedule::Schedule;
use crate::sequence::Verdict;
use crate::subscriber::Shared;
use crate::{report, threshold};

const MICROS_PER_SECOND: f64 = 1e6;
const MILLION: f64 = 1e6;

/// Everything that a run has found out.
#[derive(Debug)]
pub struct Outcome {
    pub cut_short: Option<CutShort>,
    pub ramp_seconds: f64,
    pub schedule: Schedule,
    pub verdict: Verdict,
    /// Before the first connection, with all of them, after publishing, and after closing.
    pub memory: [Memory; 4],
    pub connecting: Window,
    pub publishing: Window,
    pub storm: Option<StormReport>,
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
        let used = |from: Usage, to: Usage| Usage {
            user_seconds: (to.user_seconds - from.user_seconds).max(0.0),
            system_seconds: (to.system_seconds - from.system_seconds).max(0.0),
            resident_bytes: to.resident_bytes,
        };
        Self {
            seconds: seconds(to.at_ns - from.at_ns),
            server: used(from.server, to.server),
            own: used(from.own, to.own),
        }
    }
}

impl Outcome {
    pub fn into_report(self) -> Report {
        let arguments = &self.shared.plan.arguments;
        let mut report = Report {
            title: arguments.measuring.telling.title.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix: self.started().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            cut_short: self.cut_short.map(|cut| cut.describe().to_owned()),
            settings: self.settings(),
            host: host(),
            connections: self.connections(),
            publications: self.publications(),
            deliveries: self.deliveries(),
            storm: self.storm.clone(),
            server: (!arguments.measuring.pids.is_empty()).then(|| self.server()),
            load_tester: LoadTester {
                user_seconds: self.publishing.own.user_seconds,
                system_seconds: self.publishing.own.system_seconds,
                cores: (self.publishing.own.user_seconds + self.publishing.own.system_seconds)
                    / self.publishing.seconds.max(1e-3),
                resident_bytes: self.publishing.own.resident_bytes,
            },
            thresholds: Vec::new(),
            stages: self.recorder.stages.clone(),
            series: self.recorder.points.clone(),
        };
        report.thresholds = threshold::check(&arguments.thresholds, &report);
        if let Some((limits, storm)) = self.shared.plan.storm.as_ref().zip(self.storm.as_ref()) {
            report.thresholds.extend(threshold::check_storm(limits, storm));
        }
        report
    }

    fn started(&self) -> SystemTime {
        let elapsed = Duration::try_from_secs_f64(self.recorder.elapsed()).unwrap_or_default();
        SystemTime::now().checked_sub(elapsed).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn settings(&self) -> Settings {
        let plan = &self.shared.plan;
        let Arguments { connections, publications, .. } = &plan.arguments;
        Settings {
            urls: connections.urls.clone(),
            protocol: match &connections.template {
                Some(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
                None => format!("{:?}", connections.protocol).to_lowercase(),
            },
            transport: plan.dialect.transport(connections.transport).name().to_owned(),
            compression: connections.compression,
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
            duration_seconds: publications.duration,
            warmup_seconds: publications.warmup,
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
        let connect_seconds = self.connecting.server.user_seconds + self.connecting.server.system_seconds;
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

/// The machine that this runs on.
pub fn host() -> Host {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let pages = rustix::system::sysinfo();
    Host {
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        kernel,
        memory_bytes: pages.totalram as u64 * u64::from(pages.mem_unit),
    }
}
