//! A report of a run: one structure, which is the JSON file, and from which the page and the text are made.

mod figures;
mod page;
mod text;

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use crate::findings::Findings;
use crate::thresholds::{Threshold, Thresholds};
use figures::{Group, bytes, number};

/// Options whose values are not for a report.
const SECRETS: [&str; 3] = ["--api-key", "--token", "--token-secret"];
const MASK: &str = "***";
/// What should be nothing, and where it stands.
const FAULTS: [(&str, &str); 6] = [
    ("lost", "/deliveries/lost"),
    ("duplicated", "/deliveries/duplicated"),
    ("reordered", "/deliveries/reordered"),
    ("connections failed", "/connections/failed"),
    ("publications failed", "/publications/failed"),
    ("disconnects", "/connections/disconnects"),
];

/// A report, and how it is told to people.
#[derive(Debug)]
pub struct Report {
    pub run: RunInfo,
    /// As JSON has it, with the fields of the run and of what was found side by side.
    json: String,
    /// What did not go well, the worst first.
    failures: Vec<String>,
    groups: Vec<Group>,
}

/// What every run says of itself.
#[derive(Serialize, Clone, Debug)]
pub struct RunInfo {
    pub title: String,
    /// Version of this program.
    pub version: &'static str,
    /// When it began: in seconds since 1970, and for people, in UTC.
    pub started_unix: u64,
    pub started: String,
    /// The words of its command line, with secrets masked.
    pub command_line: Vec<String>,
    /// Why it ended before its time, if it did.
    pub cut_short: Option<&'static str>,
    pub host: Host,
    pub thresholds: Vec<Threshold>,
}

/// The machine that this runs on.
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

    pub fn write_json(&self, path: &Path) -> io::Result<()> {
        fs::write(path, &self.json)
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
    /// Of this process, whose run began at `started`.
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

    /// When it was, on what machine, and by which version of this program.
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
        masked_url(&word)
    };
    let mut masked: Vec<String> = words.map(mask).collect();
    // Where the program is says nothing of the run.
    if let Some(program) = masked.first_mut() {
        *program = program.rsplit('/').next().unwrap_or_default().to_owned();
    }
    masked
}

/// An address without what stands before its @, and anything else as it is.
pub(crate) fn masked_url(word: &str) -> String {
    match word.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, rest)) => format!("{scheme}://{MASK}@{rest}"),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a run that lost three.
    pub(super) fn report(title: &str) -> Report {
        let json = serde_json::json!({"title": title}).to_string();
        let run = RunInfo::new(title, SystemTime::UNIX_EPOCH);
        Report { run, json, failures: vec!["3 lost".to_owned()], groups: Vec::new() }
    }

    #[test]
    fn a_command_line_is_told_without_its_secrets() {
        let line = "/some/where/loadtest --api-key k --token=t -n 5 --redis redis://user:pw@host:1 --url ws://h/?a@b";
        let told = masked(line.split(' ').map(str::to_owned)).join(" ");
        let expected = "loadtest --api-key *** --token=*** -n 5 --redis redis://***@host:1 --url ws://***@b";
        assert_eq!(told, expected);
    }
}
