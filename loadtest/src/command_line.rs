//! The whole command: the plain run, and the named scenarios with what each takes for granted.

use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::arguments::{Arguments, ReportingArguments};
use crate::floor::FloorArguments;
use crate::scenario::{HandshakeArguments, StormArguments};

/// What is around several runs.
const SCRIPTS: &str = "Slow readers in turns, newest values, what one Redis carries, a million connections and nodes replaced in \
    turn are scripts in loadtest/ of the repository: slow-readers, newest-values, redis, million and rolling.";

/// Opens many connections to a gateway, publishes on a fixed schedule, and checks and times what arrives.
///
/// Without a scenario's name it makes a plain run, as the options below say. A scenario has options of its own:
/// `tidegate-loadtest SCENARIO --help`.
///
/// Exit status: 0 when every threshold held, 1 when one did not, 2 when the run could not be made, 130 when it was
/// cut short by Ctrl-C or by its time limit (it still reports what it has).
#[derive(Parser, Clone, Debug)]
#[command(
    name = "tidegate-loadtest",
    version,
    max_term_width = 110,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    subcommand_help_heading = "Scenarios",
    subcommand_value_name = "SCENARIO",
    after_help = SCRIPTS
)]
pub struct CommandLine {
    #[command(subcommand)]
    pub scenario: Option<Scenario>,
    #[command(flatten)]
    pub plain: Arguments,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Scenario {
    /// One channel that everyone listens to.
    FanOut(Box<Arguments>),
    /// As many channels as connections, with one listener each.
    Channels(Box<Arguments>),
    /// Connections that only listen: what each costs in memory, and all together in CPU.
    Idle(Box<Arguments>),
    /// Serves instead of loading: the bare `send()` loop that other servers are held against.
    Floor(FloorArguments),
    /// Every connection is cut at once while publications go on, and all come back at once and recover.
    Storm(Box<Extended<StormArguments>>),
    /// Opens, connects and closes, over and over: handshakes a second, and what each costs.
    Handshakes(Box<Extended<HandshakeArguments, ReportingArguments>>),
    /// One channel, and some of its subscribers stop reading: what the others notice of them.
    SlowReaders(Box<Arguments>),
}

/// A scenario's own options, and those that it shares with others.
#[derive(Args, Clone, Debug)]
pub struct Extended<A: Args, S: Args = Arguments> {
    #[command(flatten)]
    pub own: A,
    #[command(flatten)]
    pub shared: S,
}

/// What scenarios take for granted where the plain run takes something else.
const PRESETS: &[(&str, &str)] = &[
    ("fan-out", "connections=1000 ramp=2000 rate=50 warmup=1"),
    ("channels", "connections=1000 ramp=2000 channels=1000 rate=2000 publishers=4 warmup=1"),
    ("idle", "connections=10000 ramp=4000 rate=0 duration=30 rest=5 wave=500"),
    // Closed connections keep their ports for a while.
    ("handshakes", "sources=200"),
    (
        "slow-readers",
        "connections=1000 ramp=2000 rate=40 duration=15 payload=1024 warmup=1 rest=1 slow_percent=1",
    ),
    // Everybody at once, from as many addresses as keep a gateway's limits for each from standing in the way.
    (
        "storm",
        "ramp=4000 opening_max=19000 sources=40 connect_timeout=60 channels=10 rate=20 drain=30 max_lost=0 max_failures=0",
    ),
];

/// Scenarios that take as many connections as one process can hold, up to this.
const FULL: &[&str] = &["storm"];
const FULL_CONNECTIONS: u64 = 19_000;
/// Descriptors that those leave for everything else.
const FULL_SPARE: u64 = 200;

/// The command with every scenario's own defaults, as its help shows them. `descriptors` is how many files this
/// process may open.
pub fn command(descriptors: u64) -> Command {
    let command = PRESETS.iter().fold(CommandLine::command(), |command, (scenario, defaults)| {
        let defaults = defaults.split_whitespace().filter_map(|preset| preset.split_once('='));
        command.mut_subcommand(scenario, |subcommand| {
            defaults.chain([("title", *scenario)]).fold(subcommand, |subcommand, (option, default)| {
                subcommand.mut_arg(option, |arg| arg.default_value(default))
            })
        })
    });
    // It lives as long as the command, which is as long as the process.
    let full: &str = FULL_CONNECTIONS.min(descriptors.saturating_sub(FULL_SPARE)).to_string().leak();
    FULL.iter().fold(command, |command, scenario| {
        command.mut_subcommand(scenario, |subcommand| {
            subcommand.mut_arg("connections", |arg| arg.default_value(full))
        })
    })
}

/// Reads the process's own arguments, or ends the process with what is wrong with them.
pub fn parse(descriptors: u64) -> CommandLine {
    let mut command = command(descriptors);
    let matches = command.get_matches_mut();
    read(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

fn read(matches: &ArgMatches) -> Result<CommandLine, clap::Error> {
    CommandLine::from_arg_matches(matches)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(words: &str) -> Result<CommandLine, clap::Error> {
        let words = std::iter::once("tidegate-loadtest").chain(words.split_whitespace());
        read(&command(20_000).try_get_matches_from(words)?)
    }

    #[test]
    fn without_a_name_it_is_the_plain_run() {
        let line = line("-n 7 -r 3 -n 8").unwrap();
        assert!(line.scenario.is_none());
        assert_eq!((line.plain.connections.connections, line.plain.publications.rate), (8, 3.0));
    }

    #[test]
    fn a_scenario_has_defaults_of_its_own_which_options_overrule() {
        let Some(Scenario::Channels(arguments)) = line("channels -r 30 -r 40").unwrap().scenario else {
            panic!("another scenario");
        };
        assert_eq!((arguments.connections.channels, arguments.publications.rate), (1_000, 40.0));
        assert_eq!(arguments.reporting.title, "channels");
        let Some(Scenario::Idle(arguments)) = line("idle").unwrap().scenario else {
            panic!("another scenario");
        };
        assert_eq!((arguments.publications.rate, arguments.measuring.rest), (0.0, Duration::from_secs(5)));
    }

    #[test]
    fn a_full_process_takes_what_its_descriptors_allow() {
        let of = |descriptors| {
            let matches = command(descriptors).try_get_matches_from(["tidegate-loadtest", "storm"]).unwrap();
            let Some(Scenario::Storm(storm)) = read(&matches).unwrap().scenario else {
                panic!("another scenario");
            };
            storm.shared.connections.connections
        };
        assert_eq!([1_024, 20_000, 1 << 20].map(of), [824, 19_000, 19_000]);
    }

    #[test]
    fn options_before_a_scenario_are_refused_since_they_would_not_count() {
        assert!(line("-n 7 idle").is_err());
        assert!(line("nothing-of-this-name").is_err());
    }

    #[test]
    fn a_value_that_makes_no_sense_is_refused_with_the_name_of_its_option() {
        for words in [
            "--connections 0",
            "--ramp 0",
            "--ramp NaN",
            "--rate inf",
            "--duration inf",
            "--duration 90000",
            "--payload 10",
            "--channels 16777216",
            "--window 0",
            "--read-buffer 1",
            "--batch 10001",
        ] {
            let error = line(words).unwrap_err();
            assert!(error.to_string().contains(words.split(' ').next().unwrap()), "{words}: {error}");
        }
    }

    #[test]
    fn the_command_is_one_that_its_parser_accepts() {
        command(20_000).debug_assert();
    }
}
