//! The storm: every connection is cut at the same moment, and all come back at once and recover what they missed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Cut;
use super::steady::Reading;
use crate::arguments::StormArguments;
use crate::clock::{now_ns, seconds};
use crate::lane::{LaneHandle, Order, Phase};
use crate::outcome::Window;
use crate::plan::duration;
use crate::record::Recorder;
use crate::report::{Latency, StormReport};
use crate::subscriber::Shared;

const POLL: Duration = Duration::from_millis(2);
const MICROS_PER_SECOND: f64 = 1e6;

/// Lets it come while publications go on, and sees everyone back.
pub(super) async fn break_out(
    arguments: &StormArguments,
    shared: &Shared,
    lanes: &[LaneHandle],
    recorder: &mut Recorder,
    cut: &Cut,
) -> StormReport {
    recorder.stage("calm", cut.unless(sleep(duration(arguments.calm)))).await;
    let metrics_before = recorder.stage("calm", shared.plan.metrics()).await;
    recorder.stage("cut", turn(lanes, Phase::Away)).await;
    let gone = async {
        sleep(duration(arguments.away)).await;
        hand_over(lanes).await;
    };
    recorder.stage("away", cut.unless(gone)).await;
    let cut_off = shared.away.load(Ordering::Relaxed);
    // What is counted from here on belongs to the storm.
    let calm = std::mem::take(&mut recorder.received);
    let before = Reading::take(recorder);

    let at_ns = now_ns();
    let all_back = async {
        turn(lanes, Phase::Back { at_ns }).await;
        while shared.away.load(Ordering::Relaxed) > 0 {
            sleep(POLL).await;
        }
    };
    let back = timeout(duration(arguments.storm_timeout), all_back);
    recorder.stage("storm", cut.unless(back)).await;
    let after = Reading::take(recorder);
    recorder.stage("storm", hand_over(lanes)).await;
    let storm = std::mem::replace(&mut recorder.received, calm);
    let metrics_after = recorder.stage("storm", shared.plan.metrics()).await;

    let used = Window::between(&before, &after).server;
    let reconnected = storm.tally.reconnects;
    let last_ms = storm.ready.histogram().map(|times| times.max());
    let took = last_ms.map_or(seconds(after.at_ns - at_ns), seconds);
    let grown = |name, labels: &[(&str, &str)]| {
        let (before, after) = (metrics_before.as_ref()?, metrics_after.as_ref()?);
        after.growth(before, name, labels)
    };
    let report = StormReport {
        cut_off,
        reconnected,
        failed: storm.tally.failures.total(),
        not_back: shared.away.load(Ordering::Relaxed),
        per_second: reconnected as f64 / took.max(1e-3),
        seconds_to_last: took,
        to_recovered: Latency::of(&storm.ready),
        cpu_micros_each: (!shared.plan.arguments.measuring.pids.is_empty() && reconnected > 0)
            .then(|| (used.user_seconds + used.system_seconds) * MICROS_PER_SECOND / reconnected as f64),
        recovered: storm.tally.recovered,
        unrecovered: storm.tally.unrecovered,
        recovered_publications: storm.tally.recovered_publications,
        history_reads: grown("tidegate_broker_seconds_count", &[("operation", "history")]),
        refused_handshakes: metrics_before.as_ref().zip(metrics_after.as_ref()).and_then(
            |(before, after)| {
                let all = after.growth(before, "tidegate_handshakes_total", &[])?;
                Some(all - after.growth(before, "tidegate_handshakes_total", &[("result", "accepted")])?)
            },
        ),
    };
    recorder.received.absorb(storm);
    report
}

async fn turn(lanes: &[LaneHandle], phase: Phase) {
    for lane in lanes {
        // A thread that is gone has panicked, and printed why.
        let _ = lane.orders.send(Order::Turn(phase)).await;
    }
}

/// Waits until everything that was counted so far is with the recorder.
async fn hand_over(lanes: &[LaneHandle]) {
    for lane in lanes {
        let (answer, answered) = oneshot::channel();
        if lane.orders.send(Order::HandOver(answer)).await.is_ok() {
            // No answer means a panic, which was printed.
            let _ = answered.await;
        }
    }
}
