//! Limits that a run must keep, and whether it did.

use crate::arguments::{StormArguments, ThresholdArguments};
use crate::report::{Report, StormReport, Threshold};

/// Holds a report against every threshold that was given.
pub fn check(arguments: &ThresholdArguments, report: &Report) -> Vec<Threshold> {
    let latency = &report.deliveries.latency;
    let timed = |milliseconds| (latency.count > 0).then_some(milliseconds);
    let count = |count: u64| Some(count as f64);
    let limit = |limit: Option<u64>| limit.map(|limit| limit as f64);
    let server = report.server.as_ref();

    let most = [
        ("max-p50-ms", arguments.max_p50_ms, timed(latency.p50)),
        ("max-p99-ms", arguments.max_p99_ms, timed(latency.p99)),
        ("max-p999-ms", arguments.max_p999_ms, timed(latency.p999)),
        ("max-lost", limit(arguments.max_lost), count(report.deliveries.lost)),
        ("max-duplicated", limit(arguments.max_duplicated), count(report.deliveries.duplicated)),
        ("max-reordered", limit(arguments.max_reordered), count(report.deliveries.reordered)),
        ("max-failures", limit(arguments.max_failures), count(report.connections.failed)),
        ("max-publish-failures", limit(arguments.max_publish_failures), count(report.publications.failed)),
        ("max-disconnects", limit(arguments.max_disconnects), count(report.connections.disconnects)),
        (
            "max-cpu-per-million",
            arguments.max_cpu_per_million,
            server.and_then(|server| server.seconds_per_million),
        ),
        (
            "max-kib-per-connection",
            arguments.max_kib_per_connection,
            server.and_then(|server| server.resident_bytes_per_connection).map(|bytes| bytes / 1024.0),
        ),
        ("max-idle-cpu", arguments.max_idle_cpu, server.and_then(|server| server.idle_cpu_percent)),
        ("max-memory-after", arguments.max_memory_after, server.map(|server| server.memory_after_percent)),
    ];
    let least = [(
        "min-deliveries-per-second",
        arguments.min_deliveries_per_second,
        Some(report.deliveries.per_second),
    )];
    let most = most.into_iter().filter_map(|(name, limit, measured)| Some(at_most(name, limit?, measured)));
    let least =
        least.into_iter().filter_map(|(name, limit, measured)| Some(at_least(name, limit?, measured)));
    most.chain(least).collect()
}

/// Holds a storm against its own thresholds.
pub fn check_storm(arguments: &StormArguments, storm: &StormReport) -> Vec<Threshold> {
    let unrecovered = (storm.unrecovered + storm.not_back) as f64;
    let all = [
        ("max-unrecovered", Some(arguments.max_unrecovered as f64), Some(unrecovered)),
        ("max-storm-seconds", arguments.max_storm_seconds, Some(storm.seconds_to_last)),
        ("max-reconnect-micros", arguments.max_reconnect_micros, storm.cpu_micros_each),
    ];
    all.into_iter().filter_map(|(name, limit, measured)| Some(at_most(name, limit?, measured))).collect()
}

/// A threshold that holds up to its limit, and not if nothing was measured.
pub fn at_most(name: &str, limit: f64, measured: Option<f64>) -> Threshold {
    let held = measured.is_some_and(|measured| measured <= limit);
    Threshold { name: name.to_owned(), limit, measured, held }
}

/// A threshold that holds from its limit on, and not if nothing was measured.
pub fn at_least(name: &str, limit: f64, measured: Option<f64>) -> Threshold {
    let held = measured.is_some_and(|measured| measured >= limit);
    Threshold { name: name.to_owned(), limit, measured, held }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(arguments: ThresholdArguments, report: &Report) -> Vec<(String, bool)> {
        check(&arguments, report).into_iter().map(|one| (one.name, one.held)).collect()
    }

    #[test]
    fn nothing_is_checked_that_was_not_asked_for() {
        assert!(check(&ThresholdArguments::default(), &Report::default()).is_empty());
    }

    #[test]
    fn a_limit_itself_still_holds() {
        let mut report = Report::default();
        report.deliveries.lost = 3;
        report.deliveries.per_second = 1_000.0;
        let limits = |lost, rate| ThresholdArguments {
            max_lost: Some(lost),
            min_deliveries_per_second: Some(rate),
            ..ThresholdArguments::default()
        };
        let both = |lost, rate| {
            verdicts(limits(lost, rate), &report).into_iter().map(|(_, held)| held).collect::<Vec<_>>()
        };
        assert_eq!(both(3, 1_000.0), [true, true]);
        assert_eq!(both(2, 1_000.5), [false, false]);
    }

    #[test]
    fn what_could_not_be_measured_does_not_hold() {
        let limits = ThresholdArguments {
            max_p99_ms: Some(1e9),
            max_cpu_per_million: Some(1e9),
            ..ThresholdArguments::default()
        };
        let expected = [("max-p99-ms", false), ("max-cpu-per-million", false)];
        assert_eq!(
            verdicts(limits, &Report::default()),
            expected.map(|(name, held)| (name.to_owned(), held))
        );
    }
}
