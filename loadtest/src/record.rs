//! Collects what the threads hand over, reads the processes, and keeps the course of the run.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::clock::{now_ns, seconds};
use crate::counts::{Absorb, Published, Received};
use crate::findings::{Memory, Point, Stage};
use crate::lane::{HANDOVERS_MAX, Handover};
use crate::latencies::{Latencies, milliseconds};
use crate::process::{Usage, proportional_bytes};
use crate::progress::Progress;

/// How often a point of the course is taken.
const POINT_EVERY: Duration = Duration::from_millis(250);
/// After so many points, and after each further so many, they are taken half as often.
const POINTS_OF_A_STRIDE: usize = 1_200;

/// Everything measured so far.
#[derive(Debug)]
pub struct Recorder {
    pub received: Received,
    pub published: Published,
    pub points: Vec<Point>,
    pub stages: Vec<Stage>,
    start_ns: u64,
    pids: Vec<u32>,
    progress: Progress,
    handovers: mpsc::Receiver<Handover>,
    tick: Interval,
    /// Ticks that make one point, and those that are in the one being made.
    stride: u32,
    ticks: u32,
    open: OpenPoint,
    /// All connections have been closed by us, which no thread counts.
    pub closed: bool,
}

/// The state of all measured processes at one moment, and the connections that have become ready by then.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub at_ns: u64,
    pub server: Usage,
    pub own: Usage,
    pub memory: Memory,
    ready: u64,
}

/// What was used, and how many connections became ready, between two moments.
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

/// Between two points.
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
    pub fn new(pids: Vec<u32>, progress: Progress) -> (Self, mpsc::Sender<Handover>) {
        let (sender, handovers) = mpsc::channel(HANDOVERS_MAX);
        let mut tick = interval(POINT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let start_ns = now_ns();
        let open = OpenPoint::new(start_ns, Usage::sum(&pids), Usage::own());
        let recorder = Self {
            received: Received::default(),
            published: Published::default(),
            points: Vec::new(),
            stages: Vec::new(),
            start_ns,
            pids,
            progress,
            handovers,
            tick,
            stride: 1,
            ticks: 0,
            open,
            closed: false,
        };
        (recorder, sender)
    }

    /// Goes on recording until something is done, as the stage of this name.
    pub async fn stage<T>(&mut self, name: &str, work: impl Future<Output = T>) -> T {
        self.progress.enter(name);
        let from = self.elapsed();
        let mut work = pin!(work);
        let result = loop {
            tokio::select! {
                Some(handover) = self.handovers.recv() => self.take(handover),
                _ = self.tick.tick() => self.take_tick(),
                result = &mut work => break result,
            }
        };
        // What was handed over before the work was done belongs to it.
        while let Ok(handover) = self.handovers.try_recv() {
            self.take(handover);
        }
        self.stages.push(Stage { name: name.to_owned(), from, to: self.elapsed() });
        result
    }

    pub fn reading(&self) -> Reading {
        let server = Usage::sum(&self.pids);
        let proportional_bytes = if self.pids.is_empty() { None } else { proportional_bytes(&self.pids) };
        let memory = Memory { resident_bytes: server.resident_bytes, proportional_bytes };
        Reading { at_ns: now_ns(), server, own: Usage::own(), memory, ready: self.received.connections.ready }
    }

    pub fn elapsed(&self) -> f64 {
        seconds(now_ns() - self.start_ns)
    }

    fn take(&mut self, handover: Handover) {
        match handover {
            Handover::Received(books) => {
                self.open.deliveries += books.deliveries.received;
                self.open.latency.merge(&books.deliveries.latency);
                self.received.absorb(*books);
            }
            Handover::Published(books) => {
                self.open.publications += books.sent;
                self.published.absorb(*books);
            }
        }
    }

    fn take_tick(&mut self) {
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
        if self.closed { 0 } else { connections.ready.saturating_sub(connections.ended) }
    }

    /// Takes a point of what was since the last one.
    pub fn close_point(&mut self) {
        let now = now_ns();
        let (server, own) = (Usage::sum(&self.pids), Usage::own());
        let open = std::mem::replace(&mut self.open, OpenPoint::new(now, server, own));
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
    use super::*;

    fn handover(deliveries: u64, latency_ns: u64) -> Handover {
        let mut books = Box::<Received>::default();
        books.deliveries.received = deliveries;
        books.connections.ready = 1;
        for _ in 0..deliveries {
            books.deliveries.latency.record(latency_ns);
        }
        Handover::Received(books)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_threads_hand_over_adds_up_and_makes_the_course() {
        let (mut recorder, sender) = Recorder::new(vec![std::process::id()], Progress::new(0, 0, true));
        recorder
            .stage("publish", async {
                sender.send(handover(3, 1_000_000)).await.unwrap();
                sender.send(handover(2, 2_000_000)).await.unwrap();
            })
            .await;
        recorder.close_point();
        assert_eq!((recorder.received.deliveries.received, recorder.received.connections.ready), (5, 2));
        assert_eq!(recorder.received.deliveries.latency.histogram().unwrap().len(), 5);
        let seen: f64 = recorder.points.iter().filter_map(|point| point.max).fold(0.0, f64::max);
        assert!((1.9..2.1).contains(&seen), "{seen}");
        assert_eq!(recorder.points.last().unwrap().connections, 2);
        assert!(recorder.points.iter().all(|point| point.server_resident_bytes > 0));
        assert_eq!(recorder.stages[0].name, "publish");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_long_run_has_ever_fewer_points_a_second() {
        let (mut recorder, _sender) = Recorder::new(Vec::new(), Progress::new(0, 0, true));
        for _ in 0..POINTS_OF_A_STRIDE * 7 {
            recorder.take_tick();
        }
        assert_eq!((recorder.points.len(), recorder.stride), (POINTS_OF_A_STRIDE * 3, 8));
    }
}
