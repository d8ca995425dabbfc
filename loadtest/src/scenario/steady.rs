//! The course of every run: open all connections, publish on the schedule, wait for the last delivery, close.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Cut, storm, wait_until};
use crate::arguments::Arguments;
use crate::clock::{now_ns, seconds};
use crate::common::{Phase, Shared};
use crate::findings::{Findings, Outcome};
use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::publish;
use crate::record::{Recorder, Window};
use crate::schedule::Schedule;
use crate::threads::hold_connections;

/// Time for the first publication to be prepared before it is due.
const LEAD_NS: u64 = 50_000_000;
/// How long slow readers may take to read what has come for them.
const WAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the plan. An error means that the run could not begin; later failures are part of the findings.
pub async fn run(plan: Plan, cut: &Cut) -> io::Result<Findings> {
    let Arguments { connections, publications, measuring, reporting, .. } = plan.arguments.clone();
    let rest = measuring.rest.duration();
    if !plan.internals.is_empty() {
        // A wrong address is an error now, and not a missing figure at the end.
        Metrics::of(&plan.internals).await.map_err(io::Error::other)?;
    }
    let closed_ns = publications.in_flight.map(|_| publications.duration.duration().as_nanos() as u64);
    let wanted = if closed_ns.is_some() { 0 } else { plan.publications };
    let progress = Progress::new(connections.connections.into(), wanted, reporting.quiet);
    let shared = Arc::new(Shared::new(plan));
    let mut recorder = Recorder::new(shared.clone(), progress);
    if measuring.wave > 0 {
        let wave = open_and_close(&shared.plan, measuring.wave);
        recorder.stage("first wave", cut.unless(wave)).await.transpose()?;
        recorder.stage("rest", cut.unless(sleep(rest))).await;
    }
    let before = recorder.reading();

    let ramp_start_ns = now_ns();
    let threads = hold_connections(&shared, ramp_start_ns)?;
    recorder.stage("connect", cut.unless(all_settled(&shared))).await;
    let ramp_seconds = seconds(now_ns() - ramp_start_ns);
    recorder.stage("settle", cut.unless(sleep(measuring.settle.duration()))).await;
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
        recorder.stage("hold", cut.unless(sleep(publications.duration.duration()))).await;
    } else if cut.reason().is_none() {
        let publishing = publish::start(shared.clone(), schedule)?;
        let drain = measuring.drain.duration();
        let latest = Duration::from_nanos(schedule.end_ns().saturating_sub(now_ns())) + drain;
        if let Some(calm) = shared.plan.arguments.storm.calm {
            storm = Some(storm::break_out(calm, &shared, &mut recorder, cut).await);
        }
        let finished = timeout(latest, publishing.finished());
        recorder.stage("publish", cut.unless(finished)).await;
        publishing.stop();
        recorder
            .stage("drain", async {
                publishing.finished().await;
                let drained = timeout(drain, wait_until(|| shared.missing() == 0));
                cut.unless(drained).await
            })
            .await;
    }
    let done = recorder.reading();
    let dozing = || shared.dozing.load(Ordering::Relaxed);
    if dozing() > 0 {
        // Slow readers read on, until all know how their connections ended.
        shared.enter(Phase::Awake);
        let awake = timeout(WAKE_TIMEOUT, wait_until(|| dozing() == 0));
        recorder.stage("wake", cut.unless(awake)).await;
    }

    // Accounts are settled before the first goodbye, so that closing cannot be taken for a loss.
    let verdict = recorder.settle();
    shared.enter(Phase::Stopping);
    recorder.stage("close", threads.wait()).await;
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

/// Opens some connections and closes them again, without counting anything. A server allocates some memory once for all
/// connections, which must not count as memory of those that are measured.
async fn open_and_close(plan: &Plan, connections: u32) -> io::Result<()> {
    let mut plan = plan.clone();
    plan.arguments.connections.connections = connections;
    let shared = Arc::new(Shared::new(plan));
    let threads = hold_connections(&shared, now_ns())?;
    all_settled(&shared).await;
    shared.enter(Phase::Stopping);
    threads.wait().await;
    Ok(())
}

async fn all_settled(shared: &Shared) {
    let wanted = u64::from(shared.plan.arguments.connections.connections);
    wait_until(|| shared.settled.load(Ordering::Relaxed) >= wanted).await;
}
