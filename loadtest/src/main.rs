//! The command: reads the arguments, runs, reports, and ends with the exit status of the run.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_loadtest::command_line::{self, Task};
use tidegate_loadtest::floor;
use tidegate_loadtest::plan::{Plan, PlanError};
use tidegate_loadtest::report::{Report, RunInfo};
use tidegate_loadtest::scenario::{self, Cut};

const BROKEN_THRESHOLD: u8 = 1;
const NO_RUN: u8 = 2;
const INTERRUPTED: u8 = 130;
/// How long a run that was cut short may take to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("the run could not begin: {0}")]
    Begin(#[from] io::Error),
    #[error("{path} could not be written: {error}")]
    Write { path: String, error: io::Error },
}

fn main() -> ExitCode {
    let descriptors = raise_descriptors();
    run(command_line::parse(descriptors), descriptors).unwrap_or_else(|failure| {
        say(&mut io::stderr(), &format!("tidegate-loadtest: {failure}\n"));
        ExitCode::from(NO_RUN)
    })
}

fn run(task: Task, descriptors: u64) -> Result<ExitCode, Failure> {
    let arguments = match task {
        Task::Run(arguments) => *arguments,
        Task::Floor(arguments) => return Ok(floor::run(&arguments).map(|()| ExitCode::SUCCESS)?),
    };
    let (reporting, thresholds) = (arguments.reporting.clone(), arguments.thresholds.clone());
    let run = arguments.publications.run.unwrap_or_else(rand::random);
    let plan = Plan::new(arguments, run, descriptors)?;
    let mut run = RunInfo::new(&reporting.title, SystemTime::now());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = runtime.block_on(async {
        let cut = Cut::default();
        tokio::spawn(watch_the_end(cut.clone(), reporting.time_limit.duration()));
        let findings = scenario::run(plan, &cut).await;
        run.cut_short = cut.reason();
        findings
    })?;
    let report = Report::new(run, &findings, &thresholds)?;
    let write = |path: &Path, text: &str| {
        fs::write(path, text).map_err(|error| Failure::Write { path: path.display().to_string(), error })
    };
    if let Some(path) = &reporting.json {
        write(path, &report.json)?;
    }
    if let Some(path) = &reporting.html {
        write(path, &report.page()?)?;
    }
    if !reporting.quiet {
        let coloured = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        say(&mut io::stdout(), &report.text(coloured));
    } else if report.is_broken() {
        say(&mut io::stderr(), &format!("{}\n", report.failures().join("\n")));
    }
    Ok(if report.run.cut_short.is_some() {
        ExitCode::from(INTERRUPTED)
    } else if report.is_broken() {
        ExitCode::from(BROKEN_THRESHOLD)
    } else {
        ExitCode::SUCCESS
    })
}

/// Cuts the run short at the first Ctrl-C or SIGTERM or when its time is up, and ends the process at the second.
async fn watch_the_end(cut: Cut, limit: Duration) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    cut.cut(tokio::select! {
        _ = interrupt.recv() => "interrupted",
        _ = terminate.recv() => "interrupted",
        () = tokio::time::sleep(limit) => "the time limit was reached",
    });
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = tokio::time::sleep(LAST_WORDS) => {}
    }
    std::process::exit(i32::from(INTERRUPTED));
}

/// Raises the limit of open files to the hard one. Returns how many this process may open.
fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // If this is refused, the present limit stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Prints something, or nothing if the other end is closed.
fn say(to: &mut impl Write, words: &str) {
    let _ = to.write_all(words.as_bytes()).and_then(|()| to.flush());
}
