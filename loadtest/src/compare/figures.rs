//! The figures that servers are compared by: a median over the rounds for each, and how many times the first one's.

use serde::{Deserialize, Serialize};

use crate::report::Report;

/// A figure of one run. Less is better in all of them but those of a second.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    pub key: &'static str,
    pub label: &'static str,
    pub of: fn(&Report) -> Option<f64>,
}

pub(super) const CPU_PER_MILLION: &str = "cpu_seconds_per_million";

pub const FIGURES: [Measure; 12] = [
    Measure {
        key: CPU_PER_MILLION,
        label: "CPU s per million deliveries",
        of: |report| report.server.as_ref()?.seconds_per_million,
    },
    Measure {
        key: "deliveries_per_second",
        label: "Deliveries a second",
        of: |report| delivered(report).then_some(report.deliveries.per_second),
    },
    Measure {
        key: "deliveries_per_cpu_second",
        label: "Deliveries a CPU second",
        of: |report| Some(1e6 / report.server.as_ref()?.seconds_per_million.filter(|cpu| *cpu > 0.0)?),
    },
    Measure {
        key: "latency_p50_ms",
        label: "Latency p50, ms",
        of: |report| delivered(report).then_some(report.deliveries.latency.p50),
    },
    Measure {
        key: "latency_p99_ms",
        label: "Latency p99, ms",
        of: |report| delivered(report).then_some(report.deliveries.latency.p99),
    },
    Measure {
        key: "latency_p999_ms",
        label: "Latency p99.9, ms",
        of: |report| delivered(report).then_some(report.deliveries.latency.p999),
    },
    Measure {
        key: "publish_answer_p50_ms",
        label: "Time to a publisher's answer p50, ms",
        of: |report| delivered(report).then_some(report.publications.answered.p50),
    },
    Measure {
        key: "resident_bytes_per_connection",
        label: "Memory (RSS) per connection, bytes",
        of: |report| report.server.as_ref()?.resident_bytes_per_connection,
    },
    Measure {
        key: "proportional_bytes_per_connection",
        label: "Memory (PSS) per connection, bytes",
        of: |report| report.server.as_ref()?.proportional_bytes_per_connection,
    },
    Measure {
        key: "connect_micros",
        label: "CPU per connection opened, µs",
        of: |report| report.server.as_ref()?.connect_micros,
    },
    Measure {
        key: "idle_cpu_percent",
        label: "CPU while connections are only held, % of a core",
        of: |report| report.server.as_ref()?.idle_cpu_percent,
    },
    Measure {
        key: "load_tester_cores",
        label: "Cores that the load tester took",
        of: |report| Some(report.load_tester.cores),
    },
];

/// One figure of one server.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
pub struct Figure {
    pub key: String,
    pub label: String,
    pub median: Option<f64>,
    /// By round.
    pub values: Vec<Option<f64>>,
    /// To the first server's in the same round.
    pub ratio: Option<Ratio>,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug, Default)]
pub struct Ratio {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

/// A server's figure from its value and the first server's in each round.
pub(super) fn compare(measure: &Measure, values: Vec<Option<f64>>, first: &[Option<f64>]) -> Figure {
    let ratios = values.iter().zip(first).filter_map(|(own, first)| {
        let (own, first) = ((*own)?, (*first)?);
        // Against next to nothing there is no ratio to speak of.
        (first > 0.0 && own >= 0.0).then(|| own / first)
    });
    Figure {
        key: measure.key.to_owned(),
        label: measure.label.to_owned(),
        median: median(values.iter().flatten().copied()),
        ratio: spread(ratios),
        values,
    }
}

fn spread(ratios: impl Iterator<Item = f64>) -> Option<Ratio> {
    let ratios: Vec<f64> = ratios.collect();
    Some(Ratio {
        median: median(ratios.iter().copied())?,
        min: ratios.iter().copied().fold(f64::MAX, f64::min),
        max: ratios.iter().copied().fold(f64::MIN, f64::max),
    })
}

/// The middle one, or halfway between the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

fn delivered(report: &Report) -> bool {
    report.deliveries.received > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_of_the_same_round_and_the_median_of_all() {
        let first = [Some(2.0), Some(4.0), Some(8.0)];
        let figure = compare(&FIGURES[0], vec![Some(3.0), Some(4.0), Some(24.0)], &first);
        assert_eq!(figure.median, Some(4.0));
        assert_eq!(figure.ratio, Some(Ratio { median: 1.5, min: 1.0, max: 3.0 }));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), Some(2.5));
    }

    #[test]
    fn what_was_not_measured_has_no_ratio() {
        let figure = compare(&FIGURES[0], vec![None, Some(1.0)], &[Some(1.0), Some(0.0)]);
        assert_eq!((figure.median, figure.ratio), (Some(1.0), None));
        let lone = compare(&FIGURES[0], vec![Some(1.0)], &[]);
        assert_eq!(lone.ratio, None);
    }
}
