//! The command line: the plain run, the scenarios with the defaults of each, and the floor.

use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches};

use crate::arguments::Arguments;
use crate::floor::FloorArguments;

/// Scripts that make several runs.
const SCRIPTS: &str = "Slow readers in turns, newest values, what one Redis carries, a million connections and nodes replaced in \
    turn are scripts in loadtest/ of the repository: slow-readers, newest-values, redis, million and rolling.";

/// A scenario: its name, its description, and its defaults where they differ from those of the plain run.
const SCENARIOS: &[(&str, &str, &str)] = &[
    ("fan-out", "One channel that everyone listens to", "connections=1000 ramp=2000 rate=50 warmup=1"),
    (
        "channels",
        "As many channels as connections, with one listener each",
        "connections=1000 ramp=2000 channels=1000 rate=2000 publishers=4 warmup=1",
    ),
    (
        "idle",
        "Connections that only listen: what each costs in memory, and all together in CPU",
        "connections=10000 ramp=4000 rate=0 duration=30 rest=5 wave=500",
    ),
    (
        "storm",
        "Every connection is cut at once while publications go on, and all come back at once and recover",
        // Enough source addresses that a gateway's limits for one address are not met.
        "connections=full ramp=4000 opening_max=19000 sources=40 connect_timeout=60 channels=10 rate=20 drain=30 \
         reconnect=true calm=2 max-lost=0 max-failures=0 max-unrecovered=0",
    ),
    (
        "handshakes",
        "Opens, connects and closes, over and over: handshakes a second, and what each costs",
        // Many source addresses, since a closed connection keeps its port for a while.
        "connections=64 ramp=64000 sources=200 rate=0 duration=5 settle=0 rest=0 churn=true max-failures=0",
    ),
    (
        "slow-readers",
        "One channel, and some of its subscribers stop reading: what the others notice of them",
        "connections=1000 ramp=2000 rate=40 duration=15 payload=1024 warmup=1 rest=1 slow_percent=1",
    ),
];
const FLOOR: &str = "floor";

/// As many connections as one process can hold, up to the number below.
const FULL: &str = "full";
const FULL_CONNECTIONS: u64 = 19_000;
/// Descriptors that are left for everything else.
const FULL_SPARE: u64 = 200;

/// The task of this process.
#[derive(Clone, Debug)]
pub enum Task {
    Run(Box<Arguments>),
    Floor(FloorArguments),
}

/// Returns the command with the defaults of every scenario, as the help shows them. `descriptors` is how many files this
/// process may open.
pub fn command(descriptors: u64) -> Command {
    // The text lives as long as the command, which lives as long as the process.
    let full: &str = FULL_CONNECTIONS.min(descriptors.saturating_sub(FULL_SPARE)).to_string().leak();
    let floor = FloorArguments::augment_args(Command::new(FLOOR))
        .about("Serves instead of loading: the bare `send()` loop that other servers are held against");
    let scenarios = SCENARIOS.iter().map(|(name, about, defaults)| {
        let command = Arguments::augment_args(Command::new(*name)).about(*about).long_about(*about);
        let defaults = defaults.split_whitespace().filter_map(|preset| preset.split_once('='));
        defaults.chain([("title", *name)]).fold(command, |command, (option, default)| {
            let default = if default == FULL { full } else { default };
            command.mut_arg(option, |arg| arg.default_value(default))
        })
    });
    Arguments::command().subcommands(scenarios).subcommand(floor).after_help(SCRIPTS)
}

/// Reads the arguments of this process, or ends it with a message on what is wrong with them.
pub fn parse(descriptors: u64) -> Task {
    let mut command = command(descriptors);
    let matches = command.get_matches_mut();
    read(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

fn read(matches: &ArgMatches) -> Result<Task, clap::Error> {
    match matches.subcommand() {
        Some((FLOOR, own)) => FloorArguments::from_arg_matches(own).map(Task::Floor),
        Some((_, own)) => Arguments::from_arg_matches(own).map(|run| Task::Run(run.into())),
        None => Arguments::from_arg_matches(matches).map(|run| Task::Run(run.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Seconds;

    fn run_of(descriptors: u64, words: &str) -> Result<Arguments, clap::Error> {
        let words = std::iter::once("tidegate-loadtest").chain(words.split_whitespace());
        match read(&command(descriptors).try_get_matches_from(words)?)? {
            Task::Run(arguments) => Ok(*arguments),
            Task::Floor(_) => panic!("the floor makes no run"),
        }
    }

    fn run(words: &str) -> Result<Arguments, clap::Error> {
        run_of(20_000, words)
    }

    #[test]
    fn without_a_name_it_is_the_plain_run() {
        let plain = run("-n 7 -r 3 -n 8").unwrap();
        assert_eq!((plain.connections.connections, plain.publications.rate), (8, 3.0));
        assert_eq!((plain.storm.calm, plain.connections.churn), (None, false));
    }

    #[test]
    fn a_scenario_has_defaults_of_its_own_which_options_overrule() {
        let channels = run("channels -r 30 -r 40").unwrap();
        assert_eq!((channels.connections.channels, channels.publications.rate), (1_000, 40.0));
        assert_eq!(channels.reporting.title, "channels");
        let idle = run("idle").unwrap();
        assert_eq!((idle.publications.rate, idle.measuring.rest), (0.0, Seconds(5.0)));
        let storm = run("storm --calm 3").unwrap();
        assert!(storm.connections.reconnect && storm.storm.calm == Some(Seconds(3.0)));
    }

    #[test]
    fn a_full_process_takes_what_its_descriptors_allow() {
        let of = |descriptors| run_of(descriptors, "storm").unwrap().connections.connections;
        assert_eq!([1_024, 20_000, 1 << 20].map(of), [824, 19_000, 19_000]);
    }

    #[test]
    fn options_before_a_scenario_are_refused_since_they_would_not_count() {
        assert!(run("-n 7 idle").is_err());
        assert!(run("nothing-of-this-name").is_err());
    }

    #[test]
    fn a_value_that_makes_no_sense_is_refused_with_the_name_of_its_option() {
        let options = "--connections 0, --ramp 0, --ramp NaN, --rate inf, --duration inf, --duration 90000, --payload 10, \
                       --channels 16777216, --window 0, --batch 10001, --max-lost NaN";
        for words in options.split(", ") {
            let error = run(words).unwrap_err();
            assert!(error.to_string().contains(words.split(' ').next().unwrap()), "{words}: {error}");
        }
    }

    #[test]
    fn the_command_is_one_that_its_parser_accepts() {
        command(20_000).debug_assert();
    }
}
