//! The command: read the arguments, run, report, and say by the exit status how it went.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_loadtest::arguments::{Arguments, ReportingArguments};
use tidegate_loadtest::command_line::{self, CommandLine, Extended, Scenario};
use tidegate_loadtest::floor;
use tidegate_loadtest::plan::{Plan, PlanError};
use tidegate_loadtest::report::{Findings, Report, RunInfo, page, text};
use tidegate_loadtest::scenario::{self, Controls, Cut, CutShort, Outcome};
use tokio::sync::watch;

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

fn run(CommandLine { scenario, plain }: CommandLine, descriptors: u64) -> Result<ExitCode, Failure> {
    let plan = |arguments: &Arguments| {
        let run = arguments.publications.run.unwrap_or_else(rand::random);
        Plan::new(arguments.clone(), run, descriptors)
    };
    let load = |plan: Plan| {
        let reporting = plan.arguments.reporting.clone();
        report(&reporting, async |controls| Ok(scenario::run(plan, controls).await?.conclude()))
    };
    match scenario {
        None => load(plan(&plain)?),
        Some(
            Scenario::FanOut(arguments)
            | Scenario::Channels(arguments)
            | Scenario::Idle(arguments)
            | Scenario::SlowReaders(arguments),
        ) => load(plan(&arguments)?),
        Some(Scenario::Storm(arguments)) => {
            let Extended { own, mut shared } = *arguments;
            // Without their positions, nobody could recover.
            shared.connections.reconnect = true;
            load(plan(&shared)?.with_storm(own)?)
        }
        Some(Scenario::Handshakes(arguments)) => {
            let Extended { own, shared } = *arguments;
            let plan = plan(&own.as_run())?;
            report(&shared, async |controls| scenario::handshakes(&own, plan, controls).await)
        }
        Some(Scenario::Floor(arguments)) => Ok(floor::run(&arguments).map(|()| ExitCode::SUCCESS)?),
    }
}

/// Runs a scenario, which must end when it is told to, and tells what it has found.
fn report<F: Findings>(
    reporting: &ReportingArguments,
    work: impl AsyncFnOnce(&Controls) -> io::Result<Outcome<F>>,
) -> Result<ExitCode, Failure> {
    let mut run = RunInfo::new(&reporting.title, SystemTime::now());
    let (findings, thresholds) = runtime()?.block_on(async {
        let (cutter, cut) = Cut::new();
        let controls = Controls::new(cut, reporting.quiet);
        tokio::spawn(watch_the_end(cutter, reporting.time_limit));
        let outcome = work(&controls).await;
        controls.progress.finish();
        run.cut_short = controls.cut.reason().map(|reason| reason.describe().to_owned());
        outcome
    })?;
    run.thresholds = thresholds;
    conclude(&Report { run, findings }, reporting)
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Tells what was found, and how it went.
fn conclude<F: Findings>(report: &Report<F>, reporting: &ReportingArguments) -> Result<ExitCode, Failure> {
    let written = |path: &Path, written: io::Result<()>| {
        written.map_err(|error| Failure::Write { path: path.display().to_string(), error })
    };
    if let Some(path) = &reporting.json {
        written(path, report.write_json(path))?;
    }
    if let Some(path) = &reporting.html {
        written(path, page::write(report, path))?;
    }
    let is_broken = report.run.thresholds.iter().any(|threshold| !threshold.held);
    if !reporting.quiet {
        let coloured = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        say(&mut io::stdout(), &text::render(report, coloured));
    } else if is_broken {
        say(&mut io::stderr(), &format!("{}\n", report.failures().join("\n")));
    }
    Ok(if report.run.cut_short.is_some() {
        ExitCode::from(INTERRUPTED)
    } else if is_broken {
        ExitCode::from(BROKEN_THRESHOLD)
    } else {
        ExitCode::SUCCESS
    })
}

/// Cuts the run short at the first Ctrl-C or SIGTERM or when its time is up, and ends the process at the second.
async fn watch_the_end(cutter: watch::Sender<Option<CutShort>>, limit: Duration) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    let reason = tokio::select! {
        _ = interrupt.recv() => CutShort::Interrupted,
        _ = terminate.recv() => CutShort::Interrupted,
        () = tokio::time::sleep(limit) => CutShort::TimeLimit,
    };
    // An error means that the run has ended by itself just now.
    let _ = cutter.send(Some(reason));
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
    // Where it is refused, what is allowed now is what counts.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A closed pipe at the other end is no reason to fail.
fn say(to: &mut impl Write, words: &str) {
    let _ = to.write_all(words.as_bytes()).and_then(|()| to.flush());
}
