//! The same load on several servers, in turns: A B C A B C …, so that whatever else the machine does meets all of them,
//! and what is told is how many times the first one's figure each of the others has.
//!
//! ```text
//! definition (a file for each server) ─► start (a fresh process for each turn) ─► scenario (the load)
//!                                                                 report ◄─ figures (medians, ratios)
//! ```

mod definition;
pub(crate) mod figures;
mod report;
mod start;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, CommandFactory, FromArgMatches, parser::ValueSource};

use crate::arguments::{Arguments, TellingArguments};
use crate::outcome::host;
use crate::plan::{Plan, PlanError};
use crate::process::ProcessError;
use crate::progress::Progress;
use crate::report::Report;
use crate::scenario::{self, Cut};
pub use definition::{Definition, DefinitionError};
pub use figures::{FIGURES, Figure, Ratio};
pub use report::{Compared, Comparison, Turn};
pub use start::{StartError, Started};

/// What belongs to a server's definition, and not to the load.
const NOT_OF_A_LOAD: [(&str, &str); 6] = [
    ("urls", "url"),
    ("protocol", "protocol"),
    ("template", "template"),
    ("api_urls", "api-url"),
    ("pids", "pid"),
    ("html", "html"),
];

#[derive(Args, Clone, Debug)]
pub struct CompareArguments {
    /// Files that describe the servers; the first is what the others are held against.
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    pub servers: Vec<PathBuf>,
    /// Turns of each server.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Processors for the servers that are started here, as taskset has them (0 or 0,2-3). Put `taskset` before this
    /// command to choose its own.
    #[arg(long, value_name = "LIST")]
    pub server_cpus: Option<String>,
    /// Most times the first server's CPU per delivery that any other may take, as a median over the rounds; beyond it
    /// the exit status is 1.
    #[arg(long, value_name = "RATIO")]
    pub max_cpu_ratio: Option<f64>,
    #[command(flatten)]
    pub telling: TellingArguments,
    /// The load: options of the plain run.
    #[arg(last = true, value_name = "LOAD")]
    pub load: Vec<OsString>,
}

#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("the load makes no sense: {0}")]
    Load(#[from] clap::Error),
    #[error("--{0} belongs to the description of a server, and not to the load")]
    NotOfALoad(&'static str),
    #[error("{name}: {error}")]
    Start { name: String, error: StartError },
    #[error("the run could not begin: {0}")]
    Begin(#[from] io::Error),
}

/// Everything that is known before the first server is started.
#[derive(Debug)]
pub struct Preparation {
    definitions: Vec<Definition>,
    arguments: CompareArguments,
    descriptors: u64,
}

/// Reads the descriptions and tries the load on each, without opening anything.
pub fn prepare(arguments: CompareArguments, descriptors: u64) -> Result<Preparation, CompareError> {
    let definitions: Vec<Definition> =
        arguments.servers.iter().map(|path| Definition::read(path)).collect::<Result<_, _>>()?;
    for definition in &definitions {
        // The port is not known yet; any will do to see whether the rest is in order.
        load(&arguments.load, definition, &definition.url_at(1))
            .and_then(|load| Ok(Plan::new(load, 0, descriptors)?))?;
    }
    Ok(Preparation { definitions, arguments, descriptors })
}

/// Takes the turns. One that was cut short does not count.
pub async fn run(preparation: &Preparation, cut: &Cut) -> Result<Comparison, CompareError> {
    let Preparation { definitions, arguments, .. } = preparation;
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut turns = Vec::new();
    'rounds: for round in 0..arguments.rounds {
        for (server, definition) in definitions.iter().enumerate() {
            if cut.reason().is_some() {
                break 'rounds;
            }
            let report = turn(preparation, definition, round, cut).await?;
            if report.cut_short.is_none() {
                turns.push(Turn { server, round, report });
            }
        }
    }
    let names = definitions.iter().map(|definition| definition.name.clone()).collect();
    let load = arguments.load.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let mut comparison = Comparison::of(names, turns);
    comparison.title = arguments.telling.title.clone();
    comparison.started_unix = started.as_secs();
    comparison.cut_short = cut.reason().map(|reason| reason.describe().to_owned());
    comparison.load = load;
    comparison.server_cpus = arguments.server_cpus.clone();
    comparison.host = host();
    comparison.check(arguments.max_cpu_ratio);
    Ok(comparison)
}

async fn turn(
    preparation: &Preparation,
    definition: &Definition,
    round: u32,
    cut: &Cut,
) -> Result<Report, CompareError> {
    let Preparation { arguments, descriptors, .. } = preparation;
    let failed = |error| CompareError::Start { name: definition.name.clone(), error };
    let server = Started::start(definition, arguments.server_cpus.as_deref()).await.map_err(failed)?;
    let mut load = load(&arguments.load, definition, &server.url)?;
    load.measuring.pids = server.pids();
    load.measuring.telling.title = format!("{}, round {}", definition.name, round + 1);
    let (connections, quiet) = (load.connections.connections, arguments.telling.quiet);
    let plan = Plan::new(load, rand::random(), *descriptors)?;
    let progress = if quiet {
        Progress::hidden()
    } else {
        let publications =
            if plan.arguments.publications.in_flight.is_some() { 0 } else { plan.publications };
        Progress::new(connections.into(), publications)
    };
    let outcome = scenario::run(plan, cut, progress).await;
    server.stop().await;
    Ok(outcome?.into_report())
}

/// The load's own words after those of the server.
fn load(words: &[OsString], definition: &Definition, url: &str) -> Result<Arguments, CompareError> {
    let own = definition.arguments.iter().map(OsString::from);
    let line = std::iter::once(OsString::from("load")).chain(own).chain(words.iter().cloned());
    let matches = Arguments::command().try_get_matches_from(line)?;
    for (name, option) in NOT_OF_A_LOAD {
        // What a definition says of its own server is its own affair.
        let is_own = name == "protocol" && definition.arguments.iter().any(|word| word == "--protocol");
        if matches.value_source(name) == Some(ValueSource::CommandLine) && !is_own {
            return Err(CompareError::NotOfALoad(option));
        }
    }
    let mut arguments = Arguments::from_arg_matches(&matches)?;
    arguments.connections.urls = vec![url.to_owned()];
    arguments.connections.template = definition.template();
    arguments.publications.api_urls = definition.api_urls(url);
    Ok(arguments)
}
