//! The command: read the arguments, run, report, and say by the exit status how it went.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_loadtest::arguments::{Arguments, HandshakeArguments, TellingArguments};
use tidegate_loadtest::command_line::{self, MillionRun, NewestRun, RedisRun, Scenario, SlowRun, StormRun};
use tidegate_loadtest::compare::{self, CompareArguments, CompareError};
use tidegate_loadtest::floor;
use tidegate_loadtest::million::{self, room::Room};
use tidegate_loadtest::newest;
use tidegate_loadtest::plan::{Plan, PlanError, duration};
use tidegate_loadtest::plot::{self, PlotError};
use tidegate_loadtest::process::{ProcessError, Usage};
use tidegate_loadtest::progress::Progress;
use tidegate_loadtest::redis;
use tidegate_loadtest::report::{Findings, html, json, text};
use tidegate_loadtest::scenario::{self, Cut, CutShort};
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
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error(transparent)]
    Plot(#[from] PlotError),
    #[error("the run could not begin: {0}")]
    Begin(io::Error),
    #[error("{path} could not be written: {error}")]
    Write { path: String, error: io::Error },
}

fn main() -> ExitCode {
    let descriptors = raise_descriptors();
    let line = command_line::parse(descriptors);
    let ended = match line.scenario {
        None => plain(line.plain, descriptors, Ok),
        Some(Scenario::FanOut(arguments) | Scenario::Channels(arguments) | Scenario::Idle(arguments)) => {
            plain(*arguments, descriptors, Ok)
        }
        Some(Scenario::Storm(arguments)) => {
            let StormRun { storm, mut run } = *arguments;
            // Without their positions, nobody could recover.
            run.connections.reconnect = true;
            plain(run, descriptors, |plan| plan.with_storm(storm))
        }
        Some(Scenario::Compare(arguments)) => compare(*arguments, descriptors),
        Some(Scenario::Plot(arguments)) => {
            plot::run(&arguments).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
        Some(Scenario::Handshakes(arguments)) => handshakes(&arguments, descriptors),
        Some(Scenario::SlowReaders(arguments)) => slow_readers(&arguments, descriptors),
        Some(Scenario::NewestValues(arguments)) => newest_values(&arguments),
        Some(Scenario::Million(arguments)) => million(&arguments, descriptors),
        Some(Scenario::Redis(arguments)) => redis(&arguments),
        Some(Scenario::Hold(arguments)) => {
            million::holder::run(&arguments).map(|()| ExitCode::SUCCESS).map_err(Failure::Begin)
        }
        Some(Scenario::Floor(arguments)) => {
            floor::run(&arguments).map(|()| ExitCode::SUCCESS).map_err(Failure::Begin)
        }
    };
    ended.unwrap_or_else(|failure| {
        say(&mut io::stderr(), &format!("tidegate-loadtest: {failure}\n"));
        ExitCode::from(NO_RUN)
    })
}

/// One run, with all that belongs to it.
fn plain(
    arguments: Arguments,
    descriptors: u64,
    extend: impl FnOnce(Plan) -> Result<Plan, PlanError>,
) -> Result<ExitCode, Failure> {
    let measuring = arguments.measuring.clone();
    let plan = extend(Plan::new(arguments, rand::random(), descriptors)?)?;
    for &pid in &measuring.pids {
        Usage::of(pid)?;
    }
    let outcome = run(&measuring.telling, async |cut| {
        let progress = if measuring.telling.quiet {
            Progress::hidden()
        } else {
            Progress::new(plan.arguments.connections.connections.into(), plan.publications)
        };
        scenario::run(plan, cut, progress).await
    })?;
    let report = outcome.into_report();
    if let Some(path) = &measuring.html {
        html::write(&report, path).map_err(|error| cannot_write(path, error))?;
    }
    conclude(&report, &measuring.telling)
}

/// The same load on several servers, in turns.
fn compare(arguments: CompareArguments, descriptors: u64) -> Result<ExitCode, Failure> {
    let telling = arguments.telling.clone();
    let preparation = compare::prepare(arguments, descriptors)?;
    let comparison = run(&telling, async |cut| Ok(compare::run(&preparation, cut).await))??;
    conclude(&comparison, &telling)
}

fn handshakes(arguments: &HandshakeArguments, descriptors: u64) -> Result<ExitCode, Failure> {
    let plan = Plan::new(arguments.as_run(), rand::random(), descriptors)?;
    for &pid in &arguments.pids {
        Usage::of(pid)?;
    }
    let report = run(&arguments.telling, async |cut| scenario::handshakes::run(arguments, plan, cut).await)?;
    conclude(&report, &arguments.telling)
}

fn slow_readers(arguments: &SlowRun, descriptors: u64) -> Result<ExitCode, Failure> {
    let SlowRun { slow, run: each } = arguments;
    let measuring = &each.measuring;
    for &pid in &measuring.pids {
        Usage::of(pid)?;
    }
    let make = |arguments| Plan::new(arguments, rand::random(), descriptors);
    make(each.clone())?;
    let report = run(&measuring.telling, async |cut| {
        let made = scenario::slow_readers::run(slow, each, make, cut).await;
        made.unwrap_or_else(|error| Err(io::Error::other(error)))
    })?;
    conclude(&report, &measuring.telling)
}

fn newest_values(arguments: &NewestRun) -> Result<ExitCode, Failure> {
    let NewestRun { newest: arguments, telling } = arguments;
    for &pid in &arguments.pids {
        Usage::of(pid)?;
    }
    let report = run(telling, async |cut| newest::run(arguments, telling, cut).await)?;
    conclude(&report, telling)
}

fn million(arguments: &MillionRun, descriptors: u64) -> Result<ExitCode, Failure> {
    let MillionRun { million, telling } = arguments;
    let room = Room::look(descriptors).map_err(Failure::Begin)?;
    let report = run(telling, async |cut| {
        let progress =
            if telling.quiet { Progress::hidden() } else { Progress::new(million.connections.into(), 0) };
        million::run(million, &telling.title, room, cut, &progress).await
    })?;
    conclude(&report, telling)
}

fn redis(arguments: &RedisRun) -> Result<ExitCode, Failure> {
    let RedisRun { redis, telling } = arguments;
    let report = run(telling, async |cut| {
        let progress = if telling.quiet { Progress::hidden() } else { Progress::new(0, 0) };
        redis::run(redis, &telling.title, cut, &progress).await
    })?;
    conclude(&report, telling)
}

/// Runs a scenario on a runtime of its own, which it must leave when it is told to.
fn run<T>(telling: &TellingArguments, work: impl AsyncFnOnce(&Cut) -> io::Result<T>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Begin)?;
    let worked = runtime.block_on(async {
        let (cutter, cut) = Cut::new();
        tokio::spawn(watch_the_end(cutter, duration(telling.time_limit)));
        work(&cut).await
    });
    worked.map_err(Failure::Begin)
}

/// Tells what was found, and how it went.
fn conclude(findings: &impl Findings, telling: &TellingArguments) -> Result<ExitCode, Failure> {
    if let Some(path) = &telling.json {
        json::write(findings, path).map_err(|error| cannot_write(path, error))?;
    }
    let broken: Vec<_> = findings.thresholds().iter().filter(|threshold| !threshold.held).collect();
    if telling.quiet {
        for threshold in &broken {
            let measured = threshold.measured.map_or("not measured".to_owned(), text::number);
            say(&mut io::stderr(), &format!("{} broken: {measured}\n", threshold.name));
        }
    } else {
        say(&mut io::stdout(), &text::render(findings));
    }
    Ok(if findings.cut_short().is_some() {
        ExitCode::from(INTERRUPTED)
    } else if !broken.is_empty() {
        ExitCode::from(BROKEN_THRESHOLD)
    } else {
        ExitCode::SUCCESS
    })
}

fn cannot_write(path: &Path, error: io::Error) -> Failure {
    Failure::Write { path: path.display().to_string(), error }
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
