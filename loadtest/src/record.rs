//! Collects what the threads hand over, reads the processes, and keeps the course of the run.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::clock::{now_ns, seconds};
use crate::lane::{HANDOVERS_MAX, Handover};
use crate::latencies::Latencies;
use crate::process::{Usage, proportional_bytes};
use crate::progress::Progress;
use crate::publish::PublishBooks;
use crate::report::{Memory, Point, Stage, milliseconds};
use crate::subscriber::Books;

/// How often a point of the course is taken.
const POINT_EVERY: Duration = Duration::from_millis(250);
/// Points that are kept. When there are more, each two become one and points are taken half as often.
const POINTS_MAX: usize = 1_200;

/// Everything measured so far.
#[derive(Debug)]
pub struct Recorder {
    pub received: Books,
    pub published: PublishBooks,
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
    closed: bool,
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
            received: Books::default(),
            published: PublishBooks::default(),
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

    pub fn usage(&self) -> Usage {
        Usage::sum(&self.pids)
    }

    pub fn memory(&self) -> Memory {
        let proportional_bytes = if self.pids.is_empty() { None } else { proportional_bytes(&self.pids) };
        Memory { resident_bytes: self.usage().resident_bytes, proportional_bytes }
    }

    /// All connections have been closed by us, which no thread counts.
    pub fn note_closed(&mut self) {
        self.closed = true;
    }

    /// Takes the last point.
    pub fn finish(&mut self) {
        self.close_point();
    }

    pub fn elapsed(&self) -> f64 {
        seconds(now_ns() - self.start_ns)
    }

    fn take(&mut self, handover: Handover) {
        match handover {
            Handover::Received(books) => {
                self.open.deliveries += books.tally.deliveries;
                self.open.latency.merge(&books.latency);
                self.received.absorb(*books);
            }
            Handover::Published(books) => {
                self.open.publications += books.tally.sent;
                self.published.answered.merge(&books.answered);
                self.published.tally.absorb(books.tally);
            }
        }
    }

    fn take_tick(&mut self) {
        self.progress.show(self.connections(), &self.received.tally, &self.published.tally);
        self.ticks += 1;
        if self.ticks < self.stride {
            return;
        }
        self.ticks = 0;
        self.close_point();
        if self.points.len() == POINTS_MAX {
            self.points = self.points.chunks(2).map(|pair| join(pair[0], pair[pair.len() - 1])).collect();
            self.stride *= 2;
        }
    }

    fn connections(&self) -> u64 {
        if self.closed {
            return 0;
        }
        self.received.tally.ready.saturating_sub(self.received.tally.ended)
    }

    fn close_point(&mut self) {
        let now = now_ns();
        let (server, own) = (self.usage(), Usage::own());
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

/// One point for two intervals of the same length: means of rates, the worse of latencies.
fn join(first: Point, second: Point) -> Point {
    let mean = |a: f64, b: f64| f64::midpoint(a, b);
    let worse = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    Point {
        seconds: second.seconds,
        connections: second.connections,
        publications_per_second: mean(first.publications_per_second, second.publications_per_second),
        deliveries_per_second: mean(first.deliveries_per_second, second.deliveries_per_second),
        p50: worse(first.p50, second.p50),
        p99: worse(first.p99, second.p99),
        max: worse(first.max, second.max),
        server_user: mean(first.server_user, second.server_user),
        server_system: mean(first.server_system, second.server_system),
        server_resident_bytes: second.server_resident_bytes,
        own_cores: mean(first.own_cores, second.own_cores),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handover(deliveries: u64, latency_ns: u64) -> Handover {
        let mut books = Box::<Books>::default();
        books.tally.deliveries = deliveries;
        books.tally.ready = 1;
        for _ in 0..deliveries {
            books.latency.record(latency_ns);
        }
        Handover::Received(books)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_threads_hand_over_adds_up_and_makes_the_course() {
        let (mut recorder, sender) = Recorder::new(vec![std::process::id()], Progress::hidden());
        recorder
            .stage("publish", async {
                sender.send(handover(3, 1_000_000)).await.unwrap();
                sender.send(handover(2, 2_000_000)).await.unwrap();
            })
            .await;
        recorder.finish();
        assert_eq!((recorder.received.tally.deliveries, recorder.received.tally.ready), (5, 2));
        assert_eq!(recorder.received.latency.histogram().unwrap().len(), 5);
        let seen: f64 = recorder.points.iter().filter_map(|point| point.max).fold(0.0, f64::max);
        assert!((1.9..2.1).contains(&seen), "{seen}");
        assert_eq!(recorder.points.last().unwrap().connections, 2);
        assert!(recorder.points.iter().all(|point| point.server_resident_bytes > 0));
        assert_eq!(recorder.stages[0].name, "publish");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_long_run_keeps_a_bounded_course() {
        let (mut recorder, _sender) = Recorder::new(Vec::new(), Progress::hidden());
        for _ in 0..POINTS_MAX * 3 {
            recorder.take_tick();
        }
        assert!(recorder.points.len() <= POINTS_MAX);
        assert_eq!(recorder.stride, 4);
    }
}
