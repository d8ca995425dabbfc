//! The plain scenario: open all connections, publish on the schedule, wait for the last delivery, close.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::{Cut, storm};
use crate::arguments::{Arguments, Seconds};
use crate::clock::{now_ns, seconds};
use crate::counts::{Absorb, Verdict};
use crate::findings::{Findings, Outcome};
use crate::lane::{self, Handover, LaneHandle, Order, Phase};
use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::publish;
use crate::record::{Recorder, Window};
use crate::schedule::Schedule;
use crate::subscriber::Shared;

/// Time for the first publication to be prepared before it is due.
const LEAD_NS: u64 = 50_000_000;
const POLL: Duration = Duration::from_millis(10);
/// How long a thread may take to settle its accounts.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long slow readers may take to read what is there for them.
const WAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs it. An error means that it could not be begun; whatever happens later is part of the outcome.
pub async fn run(plan: Plan, cut: &Cut) -> io::Result<Findings> {
    let Arguments { connections, publications, measuring, reporting, .. } = plan.arguments.clone();
    let rest = measuring.rest.duration();
    if !plan.internals.is_empty() {
        // Better told now than missed at the end.
        Metrics::of(&plan.internals).await.map_err(io::Error::other)?;
    }
    let closed_ns = publications.in_flight.map(|_| publications.duration.duration().as_nanos() as u64);
    let wanted = if closed_ns.is_some() { 0 } else { plan.publications };
    let progress = Progress::new(connections.connections.into(), wanted, reporting.quiet);
    let (mut recorder, collector) = Recorder::new(measuring.pids.clone(), progress);
    if measuring.wave > 0 {
        let wave = open_and_close(&plan, measuring.wave);
        recorder.stage("first wave", cut.unless(wave)).await.transpose()?;
        recorder.stage("rest", cut.unless(sleep(rest))).await;
    }
    let shared = Arc::new(Shared::new(plan));
    let before = recorder.reading();

    let ramp_start_ns = now_ns();
    let lanes = start_lanes(&shared, ramp_start_ns, &collector)?;
    recorder.stage("connect", cut.unless(all_settled(&shared))).await;
    let ramp_seconds = seconds(now_ns() - ramp_start_ns);
    recorder.stage("settle", pause(cut, measuring.settle, &lanes)).await;
    let ready = recorder.reading();

    let schedule = Schedule {
        start_ns: now_ns() + LEAD_NS,
        rate: publications.rate,
        burst: publications.burst,
        total: shared.plan.publications,
        closed_ns,
        channels: shared.ledger.channels(),
    };
    let warmup_ns = publications.warmup.duration().as_nanos() as u64;
    shared.timed_from_ns.store(schedule.start_ns + warmup_ns, Ordering::Relaxed);
    let mut storm = None;
    if shared.plan.publications == 0 {
        recorder.stage("hold", pause(cut, publications.duration, &lanes)).await;
    } else if cut.reason().is_none() {
        let publishing = publish::start(shared.clone(), schedule, collector.clone())?;
        let drain = measuring.drain.duration();
        let latest = Duration::from_nanos(schedule.end_ns().saturating_sub(now_ns())) + drain;
        if let Some(calm) = shared.plan.arguments.storm.calm {
            storm = Some(storm::break_out(calm, &shared, &lanes, &mut recorder, cut).await);
        }
        let finished = timeout(latest, publishing.finished());
        recorder.stage("publish", cut.unless(finished)).await;
        publishing.stop();
        recorder
            .stage("drain", async {
                publishing.finished().await;
                let drained = timeout(drain, all_arrived(&lanes));
                cut.unless(drained).await
            })
            .await;
        publishing.join();
    }
    let done = recorder.reading();
    if shared.dozing.load(Ordering::Relaxed) > 0 {
        recorder.stage("wake", cut.unless(timeout(WAKE_TIMEOUT, wake(&shared, &lanes)))).await;
    }

    let verdict = recorder.stage("close", finish(lanes)).await;
    recorder.closed = true;
    if !measuring.pids.is_empty() {
        recorder.stage("rest", cut.unless(sleep(rest))).await;
    }
    let closed = recorder.reading();
    recorder.close_point();
    let memory = [before.memory, ready.memory, done.memory, closed.memory];
    let outcome = Outcome {
        ramp_seconds,
        schedule,
        verdict,
        memory,
        connecting: Window::between(&before, &ready),
        publishing: Window::between(&ready, &done),
        storm,
        recorder,
        shared,
    };
    Ok(outcome.conclude())
}

fn start_lanes(
    shared: &Arc<Shared>,
    start_ns: u64,
    collector: &mpsc::Sender<Handover>,
) -> io::Result<Vec<LaneHandle>> {
    let threads = 0..shared.plan.arguments.connections.threads;
    threads.map(|number| lane::start(shared.clone(), number, start_ns, collector.clone())).collect()
}

/// Waits, and then until everything that was counted meanwhile is with the recorder.
async fn pause(cut: &Cut, lasts: Seconds, lanes: &[LaneHandle]) {
    cut.unless(sleep(lasts.duration())).await;
    storm::hand_over(lanes).await;
}

/// Lets slow readers read on, until all have seen what became of them.
async fn wake(shared: &Shared, lanes: &[LaneHandle]) {
    storm::turn(lanes, Phase::Awake).await;
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
    let lanes = start_lanes(&shared, now_ns(), &collector)?;
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
