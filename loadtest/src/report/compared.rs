//! Reports of scenarios that are more than one plain run, or none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::text::{Group, bytes, latency, number};
use super::{Findings, Host, Latency, Threshold};

/// Handshakes and nothing else.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct HandshakesReport {
    pub title: String,
    pub version: String,
    pub cut_short: Option<String>,
    pub host: Host,
    pub in_flight: u32,
    pub seconds: f64,
    pub done: u64,
    pub per_second: f64,
    pub failed: u64,
    pub failures: BTreeMap<String, u64>,
    /// From the first byte on the way until the goodbye was sent.
    pub times: Latency,
    /// CPU of the server for each, and its cores in use; only with `--pid`.
    pub cpu_micros_each: Option<f64>,
    pub server_cores: Option<f64>,
    pub own_cores: f64,
    pub thresholds: Vec<Threshold>,
}

/// The same load with and without slow readers.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct SlowReport {
    pub title: String,
    pub version: String,
    pub cut_short: Option<String>,
    pub host: Host,
    pub connections: u32,
    pub rate_per_second: f64,
    pub payload_bytes: usize,
    pub slow_percent: f64,
    pub turns: u32,
    pub without: SlowSide,
    pub with: SlowSide,
    pub thresholds: Vec<Threshold>,
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

impl SlowReport {
    pub fn p999_ratio(&self) -> Option<f64> {
        let (without, with) = (self.without.latency, self.with.latency);
        (without.count > 0 && with.count > 0 && without.p999 > 0.0).then(|| with.p999 / without.p999)
    }
}

impl Findings for HandshakesReport {
    fn title(&self) -> &str {
        &self.title
    }

    fn cut_short(&self) -> Option<&str> {
        self.cut_short.as_deref()
    }

    fn groups(&self) -> Vec<Group> {
        let mut rows = vec![
            row("done", format!("{} in {} s", number(self.done as f64), number(self.seconds))),
            row("per second", number(self.per_second)),
            row("under way at once", number(self.in_flight.into())),
            row("time for each", latency(&self.times)),
            row("failed", number(self.failed as f64)),
        ];
        rows.extend(self.failures.iter().map(|(why, times)| row(&format!("· {why}"), number(*times as f64))));
        if let Some((micros, cores)) = self.cpu_micros_each.zip(self.server_cores) {
            rows.push(row("server's CPU for each", format!("{} µs", number(micros))));
            rows.push(row("handshakes a second and core", number(1e6 / micros.max(1e-3))));
            rows.push(row("server's cores in use", number(cores)));
        }
        rows.push(row(
            "load tester's cores in use",
            format!("{} of {}", number(self.own_cores), self.host.cores),
        ));
        vec![Group { heading: "Handshakes", rows }]
    }

    fn thresholds(&self) -> &[Threshold] {
        &self.thresholds
    }
}

impl Findings for SlowReport {
    fn title(&self) -> &str {
        &self.title
    }

    fn cut_short(&self) -> Option<&str> {
        self.cut_short.as_deref()
    }

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
            row("deliveries", sides(|side| number(side.deliveries as f64))),
            row("lost", sides(|side| number(side.lost as f64))),
            row("disconnects", sides(|side| number(side.disconnects as f64))),
        ];
        if without.memory_ready_max > 0 {
            rows.push(row("server's CPU", sides(|side| format!("{} s", number(side.server_cpu_seconds)))));
            rows.push(row("memory, all ready", sides(|side| bytes(side.memory_ready_max as f64))));
            rows.push(row("memory, after publishing", sides(|side| bytes(side.memory_after_max as f64))));
        }
        if let Some(ratio) = self.p999_ratio() {
            rows.push(row("p99.9 with / without", number(ratio)));
        }
        let mut slow = vec![row("slow readers, over all runs", number(with.slow as f64))];
        slow.extend(
            with.slow_ends.iter().map(|(end, times)| row(&format!("· {end}"), number(*times as f64))),
        );
        vec![Group { heading: "Those who read", rows }, Group { heading: "Those who do not", rows: slow }]
    }

    fn thresholds(&self) -> &[Threshold] {
        &self.thresholds
    }
}

fn row(what: &str, value: String) -> (String, String) {
    (what.to_owned(), value)
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
        let report = |without, with| SlowReport { without, with, ..SlowReport::default() };
        assert_eq!(report(side(9, 2.0), side(9, 3.0)).p999_ratio(), Some(1.5));
        assert_eq!(report(side(9, 2.0), side(0, 0.0)).p999_ratio(), None);
        assert_eq!(report(side(0, 0.0), side(9, 3.0)).p999_ratio(), None);
    }
}
