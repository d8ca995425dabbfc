//! The storm: every connection is cut at the same moment, and all come back at once and recover what they missed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Cut;
use super::steady::Reading;
use crate::arguments::seconds;
use crate::clock::{self, now_ns};
use crate::lane::{LaneHandle, Order, Phase};
use crate::outcome::Window;
use crate::record::Recorder;
use crate::report::{Latency, Limit};
use crate::subscriber::Shared;

const POLL: Duration = Duration::from_millis(2);
const MICROS_PER_SECOND: f64 = 1e6;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Storm")]
pub struct StormArguments {
    /// How long to publish before every connection is cut.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub calm: Duration,
    /// How long all stay away, while publications go on.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub away: Duration,
    /// Longest time for all to come back.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub storm_timeout: Duration,
    /// Threshold: subscriptions that came back with a hole, and connections that did not come back.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_unrecovered: u64,
    /// Threshold: seconds until the last had come back and recovered.
    #[arg(long, value_name = "SECONDS")]
    pub max_storm_seconds: Option<f64>,
    /// Threshold: CPU microseconds of the server for each that came back.
    #[arg(long, value_name = "MICROS")]
    pub max_reconnect_micros: Option<f64>,
}

/// All connections were cut at once, and came back at once.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct StormFindings {
    pub cut_off: u64,
    pub reconnected: u64,
    /// Attempts to come back that failed; each was made again.
    pub failed: u64,
    /// Connections that were not back in time.
    pub not_back: u64,
    pub per_second: f64,
    /// Until the last connection had all it missed.
    pub seconds_to_last: f64,
    /// From the moment they were let go until each had all it missed.
    pub to_recovered: Latency,
    /// CPU of the server meanwhile, for each that came back; only with `--pid`.
    pub cpu_micros_each: Option<f64>,
    /// Subscriptions that came back without a hole, and with one.
    pub recovered: u64,
    pub unrecovered: u64,
    pub recovered_publications: u64,
    /// By the server's metrics: times it asked Redis for history, and handshakes that it refused.
    pub history_reads: Option<f64>,
    pub refused_handshakes: Option<f64>,
}

impl StormArguments {
    /// Its own thresholds.
    pub(crate) fn limits(&self, found: &StormFindings) -> [Limit; 3] {
        let unrecovered = (found.unrecovered + found.not_back) as f64;
        [
            ("max-unrecovered", Some(self.max_unrecovered as f64), Some(unrecovered)),
            ("max-storm-seconds", self.max_storm_seconds, Some(found.seconds_to_last)),
            ("max-reconnect-micros", self.max_reconnect_micros, found.cpu_micros_each),
        ]
    }
}

/// Lets it come while publications go on, and sees everyone back.
pub(super) async fn break_out(
    arguments: &StormArguments,
    shared: &Shared,
    lanes: &[LaneHandle],
    recorder: &mut Recorder,
    cut: &Cut,
) -> StormFindings {
    recorder.stage("calm", cut.unless(sleep(arguments.calm))).await;
    let metrics_before = recorder.stage("calm", shared.plan.metrics()).await;
    recorder.stage("cut", turn(lanes, Phase::Away)).await;
    let gone = async {
        sleep(arguments.away).await;
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
    let back = timeout(arguments.storm_timeout, all_back);
    recorder.stage("storm", cut.unless(back)).await;
    let after = Reading::take(recorder);
    recorder.stage("storm", hand_over(lanes)).await;
    let storm = std::mem::replace(&mut recorder.received, calm);
    let metrics_after = recorder.stage("storm", shared.plan.metrics()).await;

    let used = Window::between(&before, &after).server;
    let reconnected = storm.tally.reconnects;
    let last_ms = storm.ready.histogram().map(|times| times.max());
    let took = last_ms.map_or(clock::seconds(after.at_ns - at_ns), clock::seconds);
    let grown = |name, labels: &[(&str, &str)]| {
        let (before, after) = (metrics_before.as_ref()?, metrics_after.as_ref()?);
        after.growth(before, name, labels)
    };
    let report = StormFindings {
        cut_off,
        reconnected,
        failed: storm.tally.failures.total(),
        not_back: shared.away.load(Ordering::Relaxed),
        per_second: reconnected as f64 / took.max(1e-3),
        seconds_to_last: took,
        to_recovered: Latency::of(&storm.ready),
        cpu_micros_each: (!shared.plan.arguments.measuring.pids.is_empty() && reconnected > 0)
            .then(|| used.cpu_seconds() * MICROS_PER_SECOND / reconnected as f64),
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
