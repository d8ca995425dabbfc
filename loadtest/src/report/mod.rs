//! What came of a run: one structure, which is the JSON file, and from which the page and the text are made.

mod figures;
mod load;
pub mod page;
pub mod text;

use std::fs;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use load::{
    Connections, Deliveries, LoadFindings, LoadTester, Memory, Point, Process, Publications, Server,
    Settings, Stage,
};

use crate::latencies::Latencies;

const NANOS_PER_MS: f64 = 1e6;
/// Options whose values are not for a report.
const SECRETS: [&str; 3] = ["--api-key", "--token", "--token-secret"];
const MASK: &str = "***";

/// A report of any run; as JSON, one object that holds the fields of both.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Report<F> {
    #[serde(flatten)]
    pub run: RunInfo,
    #[serde(flatten)]
    pub findings: F,
}

/// What every run says of itself.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct RunInfo {
    pub title: String,
    /// Version of this program.
    pub version: String,
    /// When it began: in seconds since 1970, and for people, in UTC.
    pub started_unix: u64,
    pub started: String,
    /// The words of its command line, with secrets masked.
    pub command_line: Vec<String>,
    /// Why it ended before its time, if it did.
    pub cut_short: Option<String>,
    pub host: Host,
    pub thresholds: Vec<Threshold>,
}

/// What a kind of run finds out.
pub trait Findings: Serialize {
    /// All figures, in the order in which they are read.
    fn groups(&self) -> Vec<Group> {
        figures::groups(self)
    }

    /// What should have been nothing, and how many there were of it.
    fn faults(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// One group of figures: a heading, and what with its value.
#[derive(Serialize, Debug)]
pub struct Group {
    pub heading: String,
    pub rows: Vec<(String, String)>,
}

/// The machine that this runs on.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Host {
    pub cores: usize,
    pub cpu: String,
    pub kernel: String,
    pub memory_bytes: u64,
}

/// Milliseconds.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
pub struct Latency {
    pub count: u64,
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// A limit that a run must keep, and whether it did.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Threshold {
    pub name: String,
    pub limit: f64,
    /// `None` where there was nothing to measure, which breaks the threshold.
    pub measured: Option<f64>,
    pub held: bool,
}

/// A figure's limit: its name, the limit if there is one, and what was measured. The name says in its first word which
/// way: `max-lost` or `min-per-second`.
pub type Limit = (&'static str, Option<f64>, Option<f64>);

/// Holds figures against their limits, where there are any. A limit itself still holds.
pub fn check(limits: impl IntoIterator<Item = Limit>) -> Vec<Threshold> {
    let check = |(name, limit, measured): Limit| {
        let limit = limit?;
        let keeps =
            |measured: f64| if name.starts_with("min-") { measured >= limit } else { measured <= limit };
        Some(Threshold { name: name.to_owned(), limit, measured, held: measured.is_some_and(keeps) })
    };
    limits.into_iter().filter_map(check).collect()
}

/// A report has the fields of what was found, as its JSON has.
impl<F> Deref for Report<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.findings
    }
}

impl<F: Findings> Report<F> {
    pub fn write_json(&self, path: &Path) -> io::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        fs::write(path, bytes)
    }

    /// What did not go well, the worst first.
    pub fn failures(&self) -> Vec<String> {
        let cut_short = self.run.cut_short.iter().map(|reason| format!("cut short: {reason}"));
        let broken = self.run.thresholds.iter().filter(|threshold| !threshold.held).map(|threshold| {
            let measured = threshold.measured.map_or("not measured".to_owned(), text::number);
            format!("{} broken: {measured} (limit {})", threshold.name, text::number(threshold.limit))
        });
        let faults = self.findings.faults().into_iter().filter(|(_, times)| *times > 0);
        let faults = faults.map(|(what, times)| format!("{} {what}", text::count(times)));
        cut_short.chain(broken).chain(faults).collect()
    }
}

impl RunInfo {
    /// When it was, on what machine, and by which version of this program.
    pub fn described(&self) -> String {
        let Host { cores, cpu, kernel, memory_bytes } = &self.host;
        let (memory, version) = (text::bytes(*memory_bytes as f64), &self.version);
        format!(
            "{} · {cores} × {cpu} · {memory} · Linux {kernel} · tidegate-loadtest {version}",
            self.started
        )
    }

    /// Of this process, whose run began at `started`.
    pub fn new(title: &str, started: SystemTime) -> Self {
        Self {
            title: title.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix: started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            started: httpdate::fmt_http_date(started),
            command_line: masked(std::env::args()),
            cut_short: None,
            host: Host::this(),
            thresholds: Vec::new(),
        }
    }
}

impl Host {
    pub fn this() -> Self {
        let pages = rustix::system::sysinfo();
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(field, _)| field.trim() == "model name");
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu: model.map_or("", |(_, model)| model.trim()).to_owned(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            memory_bytes: pages.totalram as u64 * u64::from(pages.mem_unit),
        }
    }
}

impl Latency {
    pub fn of(latencies: &Latencies) -> Self {
        let Some(histogram) = latencies.histogram() else { return Self::default() };
        let at = |quantile| milliseconds(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            min: milliseconds(histogram.min()),
            mean: histogram.mean() / NANOS_PER_MS,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: milliseconds(histogram.max()),
        }
    }
}

/// The distribution in steps that get finer towards the end, where it matters. The largest value stands where half a
/// value more would: at 99.95 % of a thousand.
pub fn percentiles(latencies: &Latencies) -> Vec<(f64, f64)> {
    let Some(histogram) = latencies.histogram() else { return Vec::new() };
    let last = 1.0 - 0.5 / histogram.len().max(1) as f64;
    histogram
        .iter_quantiles(8)
        .map(|step| (step.quantile_iterated_to().min(last) * 100.0, milliseconds(step.value_iterated_to())))
        .collect()
}

pub fn milliseconds(nanos: u64) -> f64 {
    nanos as f64 / NANOS_PER_MS
}

/// A command line without its secrets: values of the options that have them, and what stands before the @ of an address.
fn masked(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_secret = false;
    let mask = |word: String| {
        if std::mem::take(&mut is_secret) {
            return MASK.to_owned();
        }
        is_secret = SECRETS.contains(&word.as_str());
        if let Some((option, _)) = word.split_once('=').filter(|(option, _)| SECRETS.contains(option)) {
            return format!("{option}={MASK}");
        }
        match word.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
            Some((scheme, rest)) => format!("{scheme}://{MASK}@{rest}"),
            None => word,
        }
    };
    let mut masked: Vec<String> = words.map(mask).collect();
    // Where the program is says nothing of the run.
    if let Some(program) = masked.first_mut() {
        *program = program.rsplit('/').next().unwrap_or_default().to_owned();
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_checked_that_has_no_limit_and_a_limit_itself_still_holds() {
        let held = |lost, rate| {
            let figures = [("max-lost", lost, Some(3.0)), ("min-rate", rate, Some(1_000.0))];
            check(figures).into_iter().map(|one| one.held).collect::<Vec<_>>()
        };
        assert!(held(None, None).is_empty());
        assert_eq!(held(Some(3.0), Some(1_000.0)), [true, true]);
        assert_eq!(held(Some(2.0), Some(1_000.5)), [false, false]);
    }

    #[test]
    fn what_could_not_be_measured_does_not_hold() {
        let checked = check([("max-p99-ms", Some(1e9), None), ("min-rate", Some(0.0), None)]);
        assert!(checked.len() == 2 && checked.iter().all(|threshold| !threshold.held));
    }

    #[test]
    fn a_command_line_is_told_without_its_secrets() {
        let line = "/some/where/loadtest --api-key k --token=t -n 5 --redis redis://user:pw@host:1 --url ws://h/?a@b";
        let told = masked(line.split(' ').map(str::to_owned)).join(" ");
        let expected = "loadtest --api-key *** --token=*** -n 5 --redis redis://***@host:1 --url ws://***@b";
        assert_eq!(told, expected);
    }
}
