//! Slow readers: what the others notice of those who stop reading. The same run is made with and without them, in
//! turns, so that both see the same machine.

use std::collections::BTreeMap;
use std::io;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{Controls, Outcome};
use crate::arguments::{Arguments, not_negative};
use crate::latencies::Latencies;
use crate::outcome::PlainOutcome;
use crate::plan::Plan;
use crate::report::text::{bytes, count, number, reasons, row};
use crate::report::{Findings, Group, Latency, check};

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Slow readers")]
pub struct SlowArguments {
    /// Subscribers, of a hundred, that stop reading once they have subscribed.
    #[arg(long, value_name = "PERCENT", default_value = "1", value_parser = not_negative)]
    pub slow_percent: f64,
    /// Times that the run is made without them and with them.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub turns: u32,
    /// Threshold: publications lost by those who read.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_others_lost: u64,
    /// Threshold: disconnects of those who read.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_others_disconnected: u64,
    /// Threshold: p99.9 of those who read, with slow ones against without.
    #[arg(long, value_name = "RATIO")]
    pub max_p999_ratio: Option<f64>,
}

/// The same load with and without slow readers.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct SlowFindings {
    pub connections: u32,
    pub rate_per_second: f64,
    pub payload_bytes: usize,
    pub slow_percent: f64,
    pub turns: u32,
    pub without: SlowSide,
    pub with: SlowSide,
}

/// All runs of one kind. What is counted is counted of those who read.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct SlowSide {
    pub runs: u32,
    /// Slow readers, over all runs.
    pub slow: u64,
    pub latency: Latency,
    pub deliveries: u64,
    pub lost: u64,
    pub disconnects: u64,
    pub publications_late_ms_max: f64,
    /// What the slow ones found when they read on at last.
    pub slow_ends: BTreeMap<String, u64>,
    /// Only with `--pid`; memory is resident, and the largest of all runs.
    pub server_cpu_seconds: f64,
    pub memory_ready_max: u64,
    pub memory_after_max: u64,
}

impl SlowFindings {
    /// Publications that those who read have lost, and how many of them were disconnected.
    fn faults_of_readers(&self) -> (u64, u64) {
        let (without, with) = (&self.without, &self.with);
        (without.lost + with.lost, without.disconnects + with.disconnects)
    }

    pub fn p999_ratio(&self) -> Option<f64> {
        let (without, with) = (self.without.latency, self.with.latency);
        (without.count > 0 && with.count > 0 && without.p999 > 0.0).then(|| with.p999 / without.p999)
    }
}

/// One side of the comparison, over all of its turns.
#[derive(Default)]
struct Side {
    latency: Latencies,
    report: SlowSide,
}

/// Makes the runs, all of them as planned but for the slow readers.
pub async fn run(
    arguments: &SlowArguments,
    planned: &Plan,
    controls: &Controls,
) -> io::Result<Outcome<SlowFindings>> {
    let [mut without, mut with] = [Side::default(), Side::default()];
    let Arguments { connections, publications, .. } = &planned.arguments;
    for _ in 0..arguments.turns {
        for (side, slow_percent) in [(&mut without, 0.0), (&mut with, arguments.slow_percent)] {
            if controls.cut.reason().is_some() {
                continue;
            }
            // Each has a number of its own, so that nothing of one is taken for the other's.
            let plan = Plan { slow_percent, run: rand::random(), ..planned.clone() };
            let slow = (0..connections.connections).filter(|number| plan.is_slow(*number)).count();
            side.add(&super::run(plan, controls).await?, slow as u64);
        }
    }
    let found = SlowFindings {
        connections: connections.connections,
        rate_per_second: publications.rate,
        payload_bytes: publications.payload,
        slow_percent: arguments.slow_percent,
        turns: arguments.turns,
        without: without.finish(),
        with: with.finish(),
    };
    let (lost, disconnected) = found.faults_of_readers();
    let thresholds = check([
        ("max-others-lost", Some(arguments.max_others_lost as f64), Some(lost as f64)),
        (
            "max-others-disconnected",
            Some(arguments.max_others_disconnected as f64),
            Some(disconnected as f64),
        ),
        ("max-p999-ratio", arguments.max_p999_ratio, found.p999_ratio()),
    ]);
    Ok((found, thresholds))
}

impl Side {
    fn add(&mut self, outcome: &PlainOutcome, slow: u64) {
        self.latency.merge(&outcome.recorder.received.latency);
        let ends = outcome.recorder.received.tally.slow_ends.clone().into_map();
        let (run, _) = outcome.conclude();
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

impl Findings for SlowFindings {
    fn groups(&self) -> Vec<Group> {
        let (without, with) = (&self.without, &self.with);
        let sides = |of: fn(&SlowSide) -> String| format!("{:<14} {}", of(without), of(with));
        let mut rows = vec![
            row("", format!("{:<14} {} % slow", "none slow", number(self.slow_percent))),
            row("runs", sides(|side| side.runs.to_string())),
            row("p50 of those who read", sides(|side| format!("{} ms", number(side.latency.p50)))),
            row("p99", sides(|side| format!("{} ms", number(side.latency.p99)))),
            row("p99.9", sides(|side| format!("{} ms", number(side.latency.p999)))),
            row("max", sides(|side| format!("{} ms", number(side.latency.max)))),
            row("deliveries", sides(|side| count(side.deliveries))),
            row("lost", sides(|side| count(side.lost))),
            row("disconnects", sides(|side| count(side.disconnects))),
        ];
        if without.memory_ready_max > 0 {
            rows.push(row("server's CPU", sides(|side| format!("{} s", number(side.server_cpu_seconds)))));
            rows.push(row("memory, all ready", sides(|side| bytes(side.memory_ready_max as f64))));
            rows.push(row("memory, after publishing", sides(|side| bytes(side.memory_after_max as f64))));
        }
        if let Some(ratio) = self.p999_ratio() {
            rows.push(row("p99.9 with / without", number(ratio)));
        }
        let mut slow = vec![row("slow readers, over all runs", count(with.slow))];
        slow.extend(reasons(&with.slow_ends));
        vec![Group { heading: "Those who read", rows }, Group { heading: "Those who do not", rows: slow }]
    }

    fn faults(&self) -> Vec<(&'static str, u64)> {
        let (lost, disconnects) = self.faults_of_readers();
        vec![("lost by those who read", lost), ("disconnects of those who read", disconnects)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_compared_only_where_both_sides_have_one() {
        let side = |count, p999| SlowSide {
            latency: Latency { count, p999, ..Latency::default() },
            ..SlowSide::default()
        };
        let found = |without, with| SlowFindings { without, with, ..SlowFindings::default() };
        assert_eq!(found(side(9, 2.0), side(9, 3.0)).p999_ratio(), Some(1.5));
        assert_eq!(found(side(9, 2.0), side(0, 0.0)).p999_ratio(), None);
        assert_eq!(found(side(0, 0.0), side(9, 3.0)).p999_ratio(), None);
    }
}
