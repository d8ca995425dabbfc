//! The storm: every connection is cut at the same moment, and all come back at once and recover what they missed.

use std::sync::atomic::Ordering;

use tokio::time::{sleep, timeout};

use super::{Cut, wait_until};
use crate::arguments::Seconds;
use crate::clock::{self, now_ns};
use crate::common::{Phase, Shared};
use crate::counts::Absorb;
use crate::findings::{MICROS_PER_SECOND, StormFindings};
use crate::record::{Recorder, Window};

/// Cuts all connections while publications go on, and waits until all are back.
pub(super) async fn break_out(
    calm: Seconds,
    shared: &Shared,
    recorder: &mut Recorder,
    cut: &Cut,
) -> StormFindings {
    let arguments = &shared.plan.arguments.storm;
    recorder.stage("calm", cut.unless(sleep(calm.duration()))).await;
    let metrics_before = recorder.stage("calm", shared.plan.metrics()).await;
    shared.enter(Phase::Away);
    recorder.stage("away", cut.unless(sleep(arguments.away.duration()))).await;
    let cut_off = shared.away.load(Ordering::Relaxed);
    // What is counted from here on belongs to the storm.
    let calm = std::mem::take(&mut recorder.received);
    let before = recorder.reading();

    let at_ns = now_ns();
    shared.enter(Phase::Back { at_ns });
    let all_back = wait_until(|| shared.away.load(Ordering::Relaxed) == 0);
    let back = timeout(arguments.storm_timeout.duration(), all_back);
    recorder.stage("storm", cut.unless(back)).await;
    let after = recorder.reading();
    let storm = std::mem::replace(&mut recorder.received, calm);
    let metrics_after = recorder.stage("storm", shared.plan.metrics()).await;

    let used = Window::between(&before, &after).server;
    let counts = &storm.connections;
    let reconnected = counts.reconnects;
    let last_ns = counts.to_ready.histogram().map(|times| times.max());
    let took = clock::seconds(last_ns.unwrap_or(after.at_ns - at_ns));
    let grown = |name, labels: &str| metrics_after.as_ref()?.growth(metrics_before.as_ref()?, name, labels);
    let handshakes = |labels| grown("tidegate_handshakes_total", labels);
    let found = StormFindings {
        cut_off,
        reconnected,
        failed: counts.failures.total(),
        not_back: shared.away.load(Ordering::Relaxed),
        per_second: reconnected as f64 / took.max(1e-3),
        seconds_to_last: took,
        to_recovered: counts.to_ready.clone(),
        cpu_micros_each: (!shared.plan.arguments.measuring.pids.is_empty() && reconnected > 0)
            .then(|| used.cpu_seconds() * MICROS_PER_SECOND / reconnected as f64),
        recovered: counts.recovered,
        unrecovered: counts.unrecovered,
        recovered_publications: counts.recovered_publications,
        history_reads: grown("tidegate_broker_seconds_count", "operation=\"history\""),
        refused_handshakes: handshakes("")
            .zip(handshakes("result=\"accepted\""))
            .map(|(all, accepted)| all - accepted),
    };
    recorder.received.absorb(storm);
    found
}
