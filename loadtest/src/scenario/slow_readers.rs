//! Slow readers: what the others notice of those who stop reading. The same run is made with and without them, in
//! turns, so that both see the same machine.

use std::io;

use super::Cut;
use crate::arguments::{Arguments, SlowArguments};
use crate::latencies::Latencies;
use crate::outcome::host;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::{Latency, SlowReport, SlowSide};
use crate::threshold::at_most;

/// One side of the comparison, over all of its turns.
#[derive(Default)]
struct Side {
    latency: Latencies,
    report: SlowSide,
}

/// Makes the runs. `make` checks a plan and gives each run a number of its own.
pub async fn run<E>(
    arguments: &SlowArguments,
    run: &Arguments,
    make: impl Fn(Arguments) -> Result<Plan, E>,
    cut: &Cut,
) -> Result<io::Result<SlowReport>, E> {
    let [mut without, mut with] = [Side::default(), Side::default()];
    for _ in 0..arguments.turns {
        for (side, percent) in [(&mut without, 0.0), (&mut with, arguments.slow_percent)] {
            if cut.reason().is_some() {
                continue;
            }
            let plan = make(run.clone())?.with_slow_readers(percent);
            let slow = (0..run.connections.connections).filter(|number| plan.is_slow(*number)).count();
            match super::run(plan, cut, Progress::hidden()).await {
                Ok(outcome) => side.add(outcome, slow as u64),
                Err(error) => return Ok(Err(error)),
            }
        }
    }
    let mut report = SlowReport {
        title: run.measuring.telling.title.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cut_short: cut.reason().map(|cut| cut.describe().to_owned()),
        host: host(),
        connections: run.connections.connections,
        rate_per_second: run.publications.rate,
        payload_bytes: run.publications.payload,
        slow_percent: arguments.slow_percent,
        turns: arguments.turns,
        without: without.finish(),
        with: with.finish(),
        thresholds: Vec::new(),
    };
    let ratio = report.p999_ratio();
    let lost = report.without.lost + report.with.lost;
    let disconnected = report.without.disconnects + report.with.disconnects;
    report.thresholds = vec![
        at_most("max-others-lost", arguments.max_others_lost as f64, Some(lost as f64)),
        at_most(
            "max-others-disconnected",
            arguments.max_others_disconnected as f64,
            Some(disconnected as f64),
        ),
    ];
    report.thresholds.extend(arguments.max_p999_ratio.map(|limit| at_most("max-p999-ratio", limit, ratio)));
    Ok(Ok(report))
}

impl Side {
    fn add(&mut self, outcome: crate::outcome::Outcome, slow: u64) {
        self.latency.merge(&outcome.recorder.received.latency);
        let ends = outcome.recorder.received.tally.slow_ends.clone().into_map();
        let run = outcome.into_report();
        let side = &mut self.report;
        side.runs += 1;
        side.slow += slow;
        side.deliveries += run.deliveries.received;
        side.lost += run.deliveries.lost;
        side.disconnects += run.connections.disconnects;
        side.publications_late_ms_max = side.publications_late_ms_max.max(run.publications.late_ms_max);
        for (reason, count) in ends {
            *side.slow_ends.entry(reason).or_default() += count;
        }
        if let Some(server) = run.server {
            side.server_cpu_seconds += server.user_seconds + server.system_seconds;
            let [ready, after] = [server.memory_ready, server.memory_after_publishing];
            side.memory_ready_max = side.memory_ready_max.max(ready.resident_bytes);
            side.memory_after_max = side.memory_after_max.max(after.resident_bytes);
        }
    }

    fn finish(self) -> SlowSide {
        SlowSide { latency: Latency::of(&self.latency), ..self.report }
    }
}
