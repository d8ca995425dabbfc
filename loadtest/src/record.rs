//! Collects what the threads have counted, measures the processes, and records the course of the run.

use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::clock::{now_ns, seconds};
use crate::common::{Accounts, Shared};
use crate::counts::{Absorb, Published, Received, Verdict};
use crate::findings::{Memory, Point, Stage};
use crate::latencies::{Latencies, milliseconds};
use crate::process::{Usage, proportional_bytes};
use crate::progress::Progress;

/// How often counts are collected, and a point of the course is taken.
const POINT_EVERY: Duration = Duration::from_millis(250);
/// After this many points, and again after each further this many, points are taken half as often.
const POINTS_OF_A_STRIDE: usize = 1_200;

/// Everything measured so far.
#[derive(Debug)]
pub struct Recorder {
    pub received: Received,
    pub published: Published,
    pub points: Vec<Point>,
    pub stages: Vec<Stage>,
    shared: Arc<Shared>,
    start_ns: u64,
    progress: Progress,
    tick: Interval,
    /// Ticks of one point, and ticks since the last point.
    stride: u32,
    ticks: u32,
    open: OpenPoint,
    /// Whether the accounts are settled: nothing counts any more, and all connections are being closed.
    settled: bool,
}

/// The usage of all measured processes at one moment, and the number of connections that had become ready.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub at_ns: u64,
    pub server: Usage,
    pub own: Usage,
    pub memory: Memory,
    ready: u64,
}

/// The usage of the processes between two moments, and how many connections became ready.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub seconds: f64,
    pub server: Usage,
    pub own: Usage,
    pub ready: u64,
}

impl Window {
    pub fn between(from: &Reading, to: &Reading) -> Self {
        Self {
            seconds: seconds(to.at_ns - from.at_ns),
            server: to.server.since(from.server),
            own: to.own.since(from.own),
            ready: to.ready.saturating_sub(from.ready),
        }
    }
}

/// What has been collected since the last point.
#[derive(Debug)]
struct OpenPoint {
    since_ns: u64,
    latency: Latencies,
    deliveries: u64,
    publications: u64,
    server: Usage,
    own: Usage,
}

impl Recorder {
    /// Must be called inside a runtime with time enabled.
    pub fn new(shared: Arc<Shared>, progress: Progress) -> Self {
        let mut tick = interval(POINT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let start_ns = now_ns();
        let server = Usage::sum(&shared.plan.arguments.measuring.pids);
        Self {
            received: Received::default(),
            published: Published::default(),
            points: Vec::new(),
            stages: Vec::new(),
            shared,
            start_ns,
            progress,
            tick,
            stride: 1,
            ticks: 0,
            open: OpenPoint::new(start_ns, server, Usage::own()),
            settled: false,
        }
    }

    /// Records a stage of this name until `work` is done. Everything that was counted by then belongs to the stage.
    pub async fn stage<T>(&mut self, name: &str, work: impl Future<Output = T>) -> T {
        self.progress.enter(name);
        let from = self.elapsed();
        let mut work = pin!(work);
        let result = loop {
            tokio::select! {
                _ = self.tick.tick() => self.take_tick(),
                result = &mut work => break result,
            }
        };
        self.collect();
        self.stages.push(Stage { name: name.to_owned(), from, to: self.elapsed() });
        result
    }

    /// Settles all accounts. What arrives from now on does not count.
    pub fn settle(&mut self) -> Verdict {
        self.collect();
        self.settled = true;
        let mut verdict = Verdict::default();
        let shared = self.shared.clone();
        for accounts in &shared.accounts {
            let Accounts { subscribers, counted } = &mut *accounts.lock();
            self.take(mem::take(counted));
            for subscriber in subscribers {
                verdict.absorb(mem::take(subscriber).finish(&shared.ledger));
            }
        }
        verdict
    }

    pub fn reading(&self) -> Reading {
        let pids = self.pids();
        let server = Usage::sum(pids);
        let proportional_bytes = if pids.is_empty() { None } else { proportional_bytes(pids) };
        let memory = Memory { resident_bytes: server.resident_bytes, proportional_bytes };
        Reading { at_ns: now_ns(), server, own: Usage::own(), memory, ready: self.received.connections.ready }
    }

    pub fn elapsed(&self) -> f64 {
        seconds(now_ns() - self.start_ns)
    }

    fn pids(&self) -> &[u32] {
        &self.shared.plan.arguments.measuring.pids
    }

    /// Adds what the threads have counted since the last time.
    fn collect(&mut self) {
        if self.settled {
            return;
        }
        let shared = self.shared.clone();
        for accounts in &shared.accounts {
            let counted = mem::take(&mut accounts.lock().counted);
            self.take(counted);
        }
        let published = mem::take(&mut *shared.published.lock());
        self.open.publications += published.sent;
        self.published.absorb(published);
    }

    fn take(&mut self, counted: Received) {
        self.open.deliveries += counted.deliveries.received;
        self.open.latency.merge(&counted.deliveries.latency);
        self.received.absorb(counted);
    }

    fn take_tick(&mut self) {
        self.collect();
        self.progress.show(self.connections(), &self.received, &self.published);
        self.ticks += 1;
        if self.ticks == self.stride {
            self.ticks = 0;
            self.close_point();
            if self.points.len().is_multiple_of(POINTS_OF_A_STRIDE) {
                self.stride *= 2;
            }
        }
    }

    fn connections(&self) -> u64 {
        let connections = &self.received.connections;
        if self.settled { 0 } else { connections.ready.saturating_sub(connections.ended) }
    }

    /// Takes a point of the course.
    pub fn close_point(&mut self) {
        let now = now_ns();
        let (server, own) = (Usage::sum(self.pids()), Usage::own());
        let open = mem::replace(&mut self.open, OpenPoint::new(now, server, own));
        let span = seconds(now - open.since_ns).max(1e-3);
        let timed = |quantile| {
            open.latency.histogram().map(|histogram| milliseconds(histogram.value_at_quantile(quantile)))
        };
        let (server_used, own_used) = (server.since(open.server), own.since(open.own));
        self.points.push(Point {
            seconds: seconds(now - self.start_ns),
            connections: self.connections(),
            publications_per_second: open.publications as f64 / span,
            deliveries_per_second: open.deliveries as f64 / span,
            p50: timed(0.5),
            p99: timed(0.99),
            max: timed(1.0),
            server_user: server_used.user_seconds / span,
            server_system: server_used.system_seconds / span,
            server_resident_bytes: server.resident_bytes,
            own_cores: own_used.cpu_seconds() / span,
        });
    }
}

impl OpenPoint {
    fn new(since_ns: u64, server: Usage, own: Usage) -> Self {
        Self { since_ns, latency: Latencies::default(), deliveries: 0, publications: 0, server, own }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::Arguments;
    use crate::plan::Plan;

    fn recorder() -> Recorder {
        let pid = std::process::id().to_string();
        let arguments = Arguments::try_parse_from(["", "--threads", "2", "--pid", &pid]).unwrap();
        let shared = Shared::new(Plan::new(arguments, 1, 20_000).unwrap());
        Recorder::new(shared.into(), Progress::new(0, 0, true))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_threads_count_adds_up_and_makes_the_course() {
        let mut recorder = recorder();
        let shared = recorder.shared.clone();
        let count = async {
            for (accounts, latency_ns) in shared.accounts.iter().zip([1_000_000, 2_000_000]) {
                let counted = &mut accounts.lock().counted;
                counted.deliveries.received += 3;
                counted.deliveries.latency.record(latency_ns);
                counted.connections.ready += 1;
            }
        };
        recorder.stage("publish", count).await;
        recorder.close_point();
        assert_eq!((recorder.received.deliveries.received, recorder.received.connections.ready), (6, 2));
        assert_eq!(recorder.received.deliveries.latency.histogram().unwrap().len(), 2);
        let seen: f64 = recorder.points.iter().filter_map(|point| point.max).fold(0.0, f64::max);
        assert!((1.9..2.1).contains(&seen), "{seen}");
        assert_eq!(recorder.points.last().unwrap().connections, 2);
        assert!(recorder.points.iter().all(|point| point.server_resident_bytes > 0));
        assert_eq!(recorder.stages[0].name, "publish");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_long_run_has_ever_fewer_points_a_second() {
        let mut recorder = recorder();
        for _ in 0..POINTS_OF_A_STRIDE * 7 {
            recorder.take_tick();
        }
        assert_eq!((recorder.points.len(), recorder.stride), (POINTS_OF_A_STRIDE * 3, 8));
    }
}
