//! The plain scenario: open all connections, publish on the schedule, wait for the last delivery, close.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::{Controls, storm};
use crate::clock::{now_ns, seconds};
use crate::lane::{self, LaneHandle, Order, Phase};
use crate::metrics::Metrics;
use crate::outcome::{PlainOutcome, Window};
use crate::plan::Plan;
use crate::process::Usage;
use crate::publish;
use crate::record::Recorder;
use crate::report::Memory;
use crate::schedule::Schedule;
use crate::sequence::Verdict;
use crate::subscriber::Shared;

/// Time for the first publication to be prepared before it is due.
const LEAD_NS: u64 = 50_000_000;
const POLL: Duration = Duration::from_millis(10);
/// How long a thread may take to settle its accounts.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long slow readers may take to read what is there for them.
const WAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs it. An error means that it could not be begun; whatever happens later is part of the outcome.
pub async fn run(plan: Plan, Controls { cut, progress }: &Controls) -> io::Result<PlainOutcome> {
    let arguments = plan.arguments.clone();
    if !plan.internals.is_empty() {
        // Better told now than missed at the end.
        Metrics::of(&plan.internals).await.map_err(io::Error::other)?;
    }
    let publications = if arguments.publications.in_flight.is_some() { 0 } else { plan.publications };
    progress.aim_at(arguments.connections.connections.into(), publications);
    let (mut recorder, collector) = Recorder::new(arguments.measuring.pids.clone(), progress.clone());
    if arguments.measuring.wave > 0 {
        let wave = open_and_close(&plan, arguments.measuring.wave);
        recorder.stage("first wave", cut.unless(wave)).await.transpose()?;
        recorder.stage("rest", cut.unless(sleep(arguments.measuring.rest))).await;
    }
    let shared = Arc::new(Shared::new(plan));
    let before = Reading::take(&recorder);

    let ramp_start_ns = now_ns();
    let lanes: Vec<LaneHandle> = (0..shared.plan.threads)
        .map(|number| lane::start(shared.clone(), number, ramp_start_ns, collector.clone()))
        .collect::<io::Result<_>>()?;
    recorder.stage("connect", cut.unless(all_settled(&shared))).await;
    let ramp_seconds = seconds(now_ns() - ramp_start_ns);
    recorder.stage("settle", cut.unless(sleep(arguments.measuring.settle))).await;
    let ready = Reading::take(&recorder);

    let duration_ns = arguments.publications.duration.as_nanos() as u64;
    let schedule = Schedule {
        start_ns: now_ns() + LEAD_NS,
        rate: arguments.publications.rate,
        burst: arguments.publications.burst,
        total: shared.plan.publications,
        closed_ns: arguments.publications.in_flight.is_some().then_some(duration_ns),
        channels: shared.ledger.channels(),
    };
    let warmup_ns = arguments.publications.warmup.as_nanos() as u64;
    shared.timed_from_ns.store(schedule.start_ns + warmup_ns, Ordering::Relaxed);
    let mut storm = None;
    if shared.plan.publications == 0 {
        recorder.stage("hold", cut.unless(sleep(arguments.publications.duration))).await;
    } else if cut.reason().is_none() {
        let publishing = publish::start(shared.clone(), schedule, collector.clone())?;
        let latest =
            Duration::from_nanos(schedule.end_ns().saturating_sub(now_ns())) + arguments.measuring.drain;
        if let Some(arguments) = &shared.plan.storm {
            storm = Some(storm::break_out(arguments, &shared, &lanes, &mut recorder, cut).await);
        }
        let finished = timeout(latest, publishing.finished());
        recorder.stage("publish", cut.unless(finished)).await;
        publishing.stop();
        recorder
            .stage("drain", async {
                publishing.finished().await;
                let drained = timeout(arguments.measuring.drain, all_arrived(&lanes));
                cut.unless(drained).await
            })
            .await;
        publishing.join();
    }
    let done = Reading::take(&recorder);
    if shared.dozing.load(Ordering::Relaxed) > 0 {
        recorder.stage("wake", cut.unless(timeout(WAKE_TIMEOUT, wake(&shared, &lanes)))).await;
    }

    let verdict = recorder.stage("close", finish(lanes)).await;
    recorder.note_closed();
    if !arguments.measuring.pids.is_empty() {
        recorder.stage("rest", cut.unless(sleep(arguments.measuring.rest))).await;
    }
    let closed = recorder.memory();
    recorder.finish();
    let memory = [before.memory, ready.memory, done.memory, closed];
    Ok(PlainOutcome {
        ramp_seconds,
        schedule,
        verdict,
        memory,
        connecting: Window::between(&before, &ready),
        publishing: Window::between(&ready, &done),
        storm,
        recorder,
        shared,
    })
}

/// The state of all measured processes at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub at_ns: u64,
    pub server: Usage,
    pub own: Usage,
    pub memory: Memory,
}

impl Reading {
    pub(super) fn take(recorder: &Recorder) -> Self {
        Self { at_ns: now_ns(), server: recorder.usage(), own: Usage::own(), memory: recorder.memory() }
    }
}

/// Lets slow readers read on, until all have seen what became of them.
async fn wake(shared: &Shared, lanes: &[LaneHandle]) {
    for lane in lanes {
        // A thread that is gone has panicked, and printed why.
        let _ = lane.orders.send(Order::Turn(Phase::Awake)).await;
    }
    while shared.dozing.load(Ordering::Relaxed) > 0 {
        sleep(POLL).await;
    }
}

/// Opens some connections and closes them again, of which nothing is counted. A process allocates some things once for
/// all connections; they shall not be taken for the cost of those that are counted.
async fn open_and_close(plan: &Plan, connections: u32) -> io::Result<()> {
    let mut plan = plan.clone();
    plan.arguments.connections.connections = connections;
    let shared = Arc::new(Shared::new(plan));
    let (collector, _) = mpsc::channel(1);
    let start_ns = now_ns();
    let lanes = (0..shared.plan.threads)
        .map(|number| lane::start(shared.clone(), number, start_ns, collector.clone()))
        .collect::<io::Result<_>>()?;
    all_settled(&shared).await;
    finish(lanes).await;
    Ok(())
}

async fn all_settled(shared: &Shared) {
    let wanted = u64::from(shared.plan.arguments.connections.connections);
    while shared.settled.load(Ordering::Relaxed) < wanted {
        sleep(POLL).await;
    }
}

/// Waits until nothing that was published is missing on a live subscription.
async fn all_arrived(lanes: &[LaneHandle]) {
    loop {
        let mut missing = 0;
        for lane in lanes {
            let (answer, answered) = oneshot::channel();
            if lane.orders.send(Order::Missing(answer)).await.is_ok() {
                missing += answered.await.unwrap_or(0);
            }
        }
        if missing == 0 {
            return;
        }
        sleep(POLL).await;
    }
}

async fn finish(lanes: Vec<LaneHandle>) -> Verdict {
    let mut sum = Verdict::default();
    let mut answers = Vec::new();
    for lane in &lanes {
        let (answer, answered) = oneshot::channel();
        if lane.orders.send(Order::Finish(answer)).await.is_ok() {
            answers.push(answered);
        }
    }
    for answered in answers {
        // A thread that does not answer has panicked, and printed why.
        if let Ok(Ok(verdict)) = timeout(SETTLE_TIMEOUT, answered).await {
            sum.absorb(verdict);
        }
    }
    // Joining waits for the goodbyes, which takes time but no handovers.
    let joined = tokio::task::spawn_blocking(move || lanes.into_iter().for_each(LaneHandle::join));
    // A thread's panic was taken note of when it was joined.
    let _ = joined.await;
    sum
}
