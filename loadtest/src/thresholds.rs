//! Limits that a run must keep: the option of each, and the figures of the report that it limits.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};
use serde::Serialize;
use serde_json::Value;

use crate::arguments::not_negative;

const HEADING: &str = "Thresholds (exit status 1 when one is broken)";
const BYTES_PER_KIB: f64 = 1024.0;

/// The option, the unit of its value, what is limited, and where the figures stand in a report; several figures are added
/// up. The option's first word says whether it is a maximum or a minimum.
type Limit = (&'static str, &'static str, &'static str, &'static [&'static str]);

const LIMITS: &[Limit] = &[
    ("max-p50-ms", "MS", "Median latency", &["/deliveries/latency/p50"]),
    ("max-p99-ms", "MS", "Latency of 99 %", &["/deliveries/latency/p99"]),
    ("max-p999-ms", "MS", "Latency of 99.9 %", &["/deliveries/latency/p999"]),
    ("max-lost", "N", "Publications lost, over all subscriptions", &["/deliveries/lost"]),
    ("max-duplicated", "N", "Publications that came again", &["/deliveries/duplicated"]),
    ("max-reordered", "N", "Publications that came after a later one", &["/deliveries/reordered"]),
    ("max-failures", "N", "Connection attempts that failed", &["/connections/failed"]),
    ("max-publish-failures", "N", "Publications with an error or no answer", &["/publications/failed"]),
    (
        "max-disconnects",
        "N",
        "Connections that the server closed or that broke",
        &["/connections/disconnects"],
    ),
    ("min-deliveries-per-second", "RATE", "Deliveries a second", &["/deliveries/per_second"]),
    ("max-cpu-per-million", "SECONDS", "Server's CPU a million deliveries", &["/server/seconds_per_million"]),
    ("max-kib-per-connection", "KIB", "Server's growth", &["/server/resident_bytes_per_connection"]),
    ("max-idle-cpu", "PERCENT", "Server's CPU of a core, with --rate 0", &["/server/idle_cpu_percent"]),
    ("max-memory-after", "PERCENT", "Server's memory after / before", &["/server/memory_after_percent"]),
    ("max-unrecovered", "N", "Back with a hole or never", &["/storm/unrecovered", "/storm/not_back"]),
    ("max-storm-seconds", "SECONDS", "Until the last is back and has all", &["/storm/seconds_to_last"]),
    ("max-reconnect-micros", "MICROS", "Server's CPU for each that came back", &["/storm/cpu_micros_each"]),
    ("min-per-second", "RATE", "Handshakes a second", &["/handshakes/per_second"]),
    ("max-micros", "MICROS", "Server's CPU for each handshake", &["/handshakes/cpu_micros_each"]),
];

/// The limits that were given, each with its value.
#[derive(Clone, Debug, Default)]
pub struct Thresholds(Vec<(&'static Limit, f64)>);

/// A limit, and whether a run kept it.
#[derive(Serialize, Clone, Debug)]
pub struct Threshold {
    pub name: String,
    pub limit: f64,
    /// `None` where there was nothing to measure, which breaks the threshold.
    pub measured: Option<f64>,
    pub held: bool,
}

impl Thresholds {
    /// Compares findings with the limits. A figure that equals its limit is within it.
    pub fn check(&self, found: &Value) -> Vec<Threshold> {
        let check = |&(&(name, unit, _, figures), limit): &(&Limit, f64)| {
            let sum: Option<f64> = figures.iter().map(|figure| measured(found, figure)).sum();
            let measured = sum.map(|sum| if unit == "KIB" { sum / BYTES_PER_KIB } else { sum });
            let keeps = |one| if name.starts_with("min-") { one >= limit } else { one <= limit };
            Threshold { name: name.to_owned(), limit, measured, held: measured.is_some_and(keeps) }
        };
        self.0.iter().map(check).collect()
    }
}

/// Returns a figure, unless it is a percentile of no values.
fn measured(found: &Value, figure: &str) -> Option<f64> {
    let (beside, _) = figure.rsplit_once('/')?;
    let is_empty = found.pointer(beside)?.get("count").is_some_and(|count| *count == 0);
    found.pointer(figure)?.as_f64().filter(|_| !is_empty)
}

impl Args for Thresholds {
    fn augment_args(command: Command) -> Command {
        LIMITS.iter().fold(command.next_help_heading(HEADING), |command, (name, unit, what, _)| {
            command.arg(Arg::new(*name).long(*name).value_name(*unit).help(*what).value_parser(not_negative))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Thresholds {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = |limit: &'static Limit| Some((limit, *matches.get_one::<f64>(limit.0)?));
        Ok(Self(LIMITS.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        Self::from_arg_matches(matches).map(|given| *self = given)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(line: &str, found: &Value) -> Vec<(Option<f64>, bool)> {
        let command = Thresholds::augment_args(Command::new("x").no_binary_name(true));
        let matches = command.get_matches_from(line.split_whitespace());
        let thresholds = Thresholds::from_arg_matches(&matches).unwrap();
        thresholds.check(found).into_iter().map(|one| (one.measured, one.held)).collect()
    }

    #[test]
    fn nothing_is_checked_that_has_no_limit_and_a_limit_itself_still_holds() {
        let found = json!({"deliveries": {"lost": 3, "per_second": 1_000.0}});
        assert!(checked("", &found).is_empty());
        let held = checked("--max-lost 3 --min-deliveries-per-second 1000", &found);
        assert_eq!(held, [(Some(3.0), true), (Some(1_000.0), true)]);
        let broken = checked("--max-lost 2 --min-deliveries-per-second 1000.5", &found);
        assert_eq!(broken, [(Some(3.0), false), (Some(1_000.0), false)]);
    }

    #[test]
    fn units_are_those_of_the_options_and_what_could_not_be_measured_does_not_hold() {
        let found = json!({"server": {"resident_bytes_per_connection": 1_536.0}, "storm": {"unrecovered": 1, "not_back": 2}});
        let held = checked("--max-kib-per-connection 1.5 --max-unrecovered 2", &found);
        assert_eq!(held, [(Some(1.5), true), (Some(3.0), false)]);
        let found = json!({"deliveries": {"latency": {"count": 0, "p99": 0.0}}, "server": null});
        assert_eq!(checked("--max-p99-ms 1e9 --max-idle-cpu 100", &found), [(None, false), (None, false)]);
    }
}
