//! A report of a run, as a JSON file, as a page and as text for a terminal.

mod figures;
mod page;

use std::fmt::Write;
use std::fs;
use std::io;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use crate::findings::Findings;
use crate::thresholds::{Threshold, Thresholds};
use figures::{Group, bytes, number};

const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";
/// Options whose values are masked.
const SECRETS: [&str; 3] = ["--api-key", "--token", "--token-secret"];
const MASK: &str = "***";
/// Figures that should be zero, and where each stands in the report.
const FAULTS: [(&str, &str); 6] = [
    ("lost", "/deliveries/lost"),
    ("duplicated", "/deliveries/duplicated"),
    ("reordered", "/deliveries/reordered"),
    ("connections failed", "/connections/failed"),
    ("publications failed", "/publications/failed"),
    ("disconnects", "/connections/disconnects"),
];

/// A report of one run.
#[derive(Debug)]
pub struct Report {
    pub run: RunInfo,
    /// The JSON, with the fields of the run and of the findings side by side.
    pub json: String,
    /// What went wrong, the worst first.
    failures: Vec<String>,
    groups: Vec<Group>,
}

/// When, where and how a run was made.
#[derive(Serialize, Clone, Debug)]
pub struct RunInfo {
    pub title: String,
    /// Version of this program.
    pub version: &'static str,
    /// When the run began: in seconds since 1970, and as a date in UTC.
    pub started_unix: u64,
    pub started: String,
    /// The words of its command line, with secrets masked.
    pub command_line: Vec<String>,
    /// Why the run ended before its time, if it did.
    pub cut_short: Option<&'static str>,
    pub host: Host,
    pub thresholds: Vec<Threshold>,
}

/// The machine of the load tester.
#[derive(Serialize, Clone, Debug)]
pub struct Host {
    pub cores: usize,
    pub cpu: String,
    pub kernel: String,
    pub memory_bytes: u64,
}

impl Report {
    pub fn new(mut run: RunInfo, findings: &Findings, thresholds: &Thresholds) -> io::Result<Self> {
        let found = serde_json::to_value(findings)?;
        run.thresholds = thresholds.check(&found);
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            run: &'a RunInfo,
            #[serde(flatten)]
            findings: &'a Findings,
        }
        let json = serde_json::to_string_pretty(&Whole { run: &run, findings })? + "\n";
        let groups = figures::groups(&serde_json::to_string(findings)?);
        Ok(Self { failures: failures(&run, &found), run, json, groups })
    }

    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    pub fn is_broken(&self) -> bool {
        self.run.thresholds.iter().any(|threshold| !threshold.held)
    }

    /// Returns the report for a terminal. What went wrong stands on top, in red if `coloured`.
    pub fn text(&self, coloured: bool) -> String {
        let (red, plain) = if coloured { (RED, PLAIN) } else { ("", "") };
        let run = &self.run;
        let mut text = format!("{}\n{}\n{}\n", run.title, run.described(), run.command_line.join(" "));
        // Writing to a string cannot fail, here and below.
        for failure in &self.failures {
            let _ = writeln!(text, "{red}✗ {failure}{plain}");
        }
        for group in &self.groups {
            let _ = writeln!(text, "\n{}", group.heading);
            for (what, value) in &group.rows {
                let _ = writeln!(text, "  {what:<36} {value}");
            }
        }
        for (place, threshold) in run.thresholds.iter().filter(|threshold| threshold.held).enumerate() {
            let heading = if place == 0 { "\nThresholds that held\n" } else { "" };
            let [measured, limit] = [threshold.measured.unwrap_or_default(), threshold.limit].map(number);
            let _ = writeln!(text, "{heading}  {:<36} {measured} (limit {limit})", threshold.name);
        }
        text
    }
}

fn failures(run: &RunInfo, found: &Value) -> Vec<String> {
    let cut_short = run.cut_short.iter().map(|reason| format!("cut short: {reason}"));
    let broken = run.thresholds.iter().filter(|threshold| !threshold.held).map(|threshold| {
        let measured = threshold.measured.map_or("not measured".to_owned(), number);
        format!("{} broken: {measured} (limit {})", threshold.name, number(threshold.limit))
    });
    let faults = FAULTS.iter().filter_map(|(what, figure)| {
        let times = found.pointer(figure)?.as_f64().filter(|times| *times > 0.0)?;
        Some(format!("{} {what}", number(times)))
    });
    cut_short.chain(broken).chain(faults).collect()
}

impl RunInfo {
    /// Describes this process, whose run began at `started`.
    pub fn new(title: &str, started: SystemTime) -> Self {
        Self {
            title: title.to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            started_unix: started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            started: httpdate::fmt_http_date(started),
            command_line: masked(std::env::args()),
            cut_short: None,
            host: Host::this(),
            thresholds: Vec::new(),
        }
    }

    /// Returns the date, the machine and the version of this program in one line.
    fn described(&self) -> String {
        let Host { cores, cpu, kernel, memory_bytes } = &self.host;
        let (memory, version) = (bytes(*memory_bytes as f64), &self.version);
        format!(
            "{} · {cores} × {cpu} · {memory} · Linux {kernel} · tidegate-loadtest {version}",
            self.started
        )
    }
}

impl Host {
    fn this() -> Self {
        let pages = rustix::system::sysinfo();
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mut fields = cpus.lines().filter_map(|line| line.split_once(':'));
        let model = fields.find(|(field, _)| field.trim() == "model name");
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu: model.map_or("", |(_, model)| model.trim()).to_owned(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            memory_bytes: pages.totalram as u64 * u64::from(pages.mem_unit),
        }
    }
}

/// Masks the secrets of a command line: values of secret options, and what stands before the @ of an address.
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
        masked_url(&word)
    };
    let mut masked: Vec<String> = words.map(mask).collect();
    // The program's folder says nothing about the run.
    if let Some(program) = masked.first_mut() {
        *program = program.rsplit('/').next().unwrap_or_default().to_owned();
    }
    masked
}

/// Masks what stands before the @ of an address. Other words are returned as they are.
pub(crate) fn masked_url(word: &str) -> String {
    match word.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, rest)) => format!("{scheme}://{MASK}@{rest}"),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_told_without_its_secrets() {
        let line = "/some/where/loadtest --api-key k --token=t -n 5 --redis redis://user:pw@host:1 --url ws://h/?a@b";
        let told = masked(line.split(' ').map(str::to_owned)).join(" ");
        let expected = "loadtest --api-key *** --token=*** -n 5 --redis redis://***@host:1 --url ws://***@b";
        assert_eq!(told, expected);
    }
}
