//! The storm: every connection is cut at the same moment, and all come back at once and recover what they missed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Cut;
use crate::arguments::Seconds;
use crate::clock::{self, now_ns};
use crate::counts::Absorb;
use crate::findings::{MICROS_PER_SECOND, StormFindings};
use crate::lane::{LaneHandle, Order, Phase};
use crate::record::{Recorder, Window};
use crate::subscriber::Shared;

const POLL: Duration = Duration::from_millis(2);

/// Lets it come while publications go on, and sees everyone back.
pub(super) async fn break_out(
    calm: Seconds,
    shared: &Shared,
    lanes: &[LaneHandle],
    recorder: &mut Recorder,
    cut: &Cut,
) -> StormFindings {
    let arguments = &shared.plan.arguments.storm;
    recorder.stage("calm", cut.unless(sleep(calm.duration()))).await;
    let metrics_before = recorder.stage("calm", shared.plan.metrics()).await;
    recorder.stage("cut", turn(lanes, Phase::Away)).await;
    let gone = async {
        sleep(arguments.away.duration()).await;
        hand_over(lanes).await;
    };
    recorder.stage("away", cut.unless(gone)).await;
    let cut_off = shared.away.load(Ordering::Relaxed);
    // What is counted from here on belongs to the storm.
    let calm = std::mem::take(&mut recorder.received);
    let before = recorder.reading();

    let at_ns = now_ns();
    let all_back = async {
        turn(lanes, Phase::Back { at_ns }).await;
        while shared.away.load(Ordering::Relaxed) > 0 {
            sleep(POLL).await;
        }
    };
    let back = timeout(arguments.storm_timeout.duration(), all_back);
    recorder.stage("storm", cut.unless(back)).await;
    let after = recorder.reading();
    recorder.stage("storm", hand_over(lanes)).await;
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

/// Tells all threads what their connections are to do.
pub(super) async fn turn(lanes: &[LaneHandle], phase: Phase) {
    for lane in lanes {
        // A thread that is gone has panicked, and printed why.
        let _ = lane.orders.send(Order::Turn(phase)).await;
    }
}

/// Waits until everything that was counted so far is with the recorder.
pub(super) async fn hand_over(lanes: &[LaneHandle]) {
    for lane in lanes {
        let (answer, answered) = oneshot::channel();
        if lane.orders.send(Order::HandOver(answer)).await.is_ok() {
            // No answer means a panic, which was printed.
            let _ = answered.await;
        }
    }
}
