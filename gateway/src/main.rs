//! The program: arguments, configuration, telemetry, a node, a signal, a drain, an exit code.

mod allocator;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tidegate::app::App;
use tidegate::auth;
use tidegate::cli::{Check, Cli, ConfigArgs, Verb};
use tidegate::config::{Config, Loaded, Mistakes, Sources};
use tidegate::health;
use tidegate::inspect::{self, GatewayAddress, GatewayArgs, ListCommand};
use tidegate::publisher;
use tidegate::telemetry::logs;
use tidegate::top::{self, TopArgs};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The conventional exit code of a wrong call (sysexits.h, EX_USAGE).
const EXIT_USAGE: u8 = 64;

/// The longest that the runtime's last tasks may take after the drain.
const LAST_TASKS: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Serve(serve) => {
            let sources = serve.settings.sources();
            match or_exit_code(Config::load_to_serve(&sources), &sources) {
                Ok(config) => {
                    let advice = config.advice(&sources);
                    serve_until_signalled(config, serve.settings.clone(), &advice).unwrap_or_else(|error| {
                        eprintln!("tidegate: {error}");
                        ExitCode::FAILURE
                    })
                }
                Err(code) => code,
            }
        }
        Verb::Check(check) => {
            let sources = check.settings.sources();
            match or_exit_code(Config::load_with_origins(&sources), &sources) {
                Ok(loaded) => show(&loaded, &check, &loaded.config.advice(&sources)),
                Err(code) => code,
            }
        }
        Verb::Publish(publish) => publisher::command(&publish),
        Verb::Channels(args) => list(ListCommand::Channels(&args), &args.via),
        Verb::Connections(args) => list(ListCommand::Connections(&args), &args.via),
        Verb::Shed(args) => over_the_api(args.config.as_ref(), |of| inspect::shed(&args, of)),
        Verb::Top(args) => show_top(&args),
        Verb::Health(args) => health::command(&args),
        Verb::Completions(args) => args.print(),
        Verb::Man(args) => args.print(),
        Verb::Token(token) => {
            let settings = ConfigArgs { config: token.config().cloned(), ..ConfigArgs::default() };
            let sources = settings.sources();
            match or_exit_code(Config::load(&sources), &sources) {
                Ok(config) => auth::command(&token, &config.auth),
                Err(code) => code,
            }
        }
    }
}

/// Lists what a running cluster has, over the API that the configuration or the flags name.
fn list(listing: ListCommand<'_>, via: &GatewayArgs) -> ExitCode {
    over_the_api(via.config.as_ref(), |of| inspect::command(listing, of))
}

fn over_the_api(config: Option<&PathBuf>, command: impl FnOnce(GatewayAddress<'_>) -> ExitCode) -> ExitCode {
    let settings = ConfigArgs { config: config.cloned(), ..ConfigArgs::default() };
    let sources = settings.sources();
    match or_exit_code(Config::load(&sources), &sources) {
        Ok(config) => {
            let of =
                GatewayAddress { api: &config.api, server: config.server.listen, tls: config.tls.is_on() };
            command(of)
        }
        Err(code) => code,
    }
}

/// Watches running nodes, which the configuration or the flags name.
fn show_top(args: &TopArgs) -> ExitCode {
    let settings = ConfigArgs { config: args.config.clone(), ..ConfigArgs::default() };
    let sources = settings.sources();
    match or_exit_code(Config::load(&sources), &sources) {
        Ok(config) => {
            let of =
                GatewayAddress { api: &config.api, server: config.server.listen, tls: config.tls.is_on() };
            top::command(args, of, config.internal.listen)
        }
        Err(code) => code,
    }
}

fn or_exit_code<T>(loaded: Result<T, Mistakes>, sources: &Sources<'_>) -> Result<T, ExitCode> {
    loaded.map_err(|mistakes| {
        eprintln!("{mistakes}");
        for line in sources.advice() {
            eprintln!("note: {line}");
        }
        ExitCode::from(EXIT_USAGE)
    })
}

fn serve_until_signalled(
    config: Config,
    settings: ConfigArgs,
    advice: &[String],
) -> Result<ExitCode, Box<dyn Error>> {
    let runtime = Builder::new_multi_thread().enable_all().thread_name("io").build()?;
    let entered = runtime.enter();
    let traces = logs::init(&config.telemetry)?;
    drop(entered);
    for line in advice {
        tracing::warn!("{line}");
    }

    // Watched from the beginning, so that no signal is missed between two steps.
    let mut signals = runtime.block_on(async { Signals::new() })?;
    let load = Box::new(move || Config::load_to_serve(&settings.sources()));
    let app = App::start(config, Some(load), runtime.handle().clone())?;
    runtime.block_on(signals.next());
    let second = runtime.spawn(async move { signals.next().await });
    let drained = std::thread::spawn(move || app.drain());
    // A second signal ends the process without waiting for the drain.
    while !drained.is_finished() && !second.is_finished() {
        std::thread::sleep(Duration::from_millis(10));
    }
    if let Some(traces) = traces {
        runtime.block_on(traces.flush());
    }
    runtime.shutdown_timeout(LAST_TASKS);
    Ok(ExitCode::SUCCESS)
}

/// The signals by which an operator stops the node.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Prints a valid configuration, as TOML that can be read again: origins and advice are comments.
#[expect(clippy::print_stdout, reason = "this is what the command is for")]
fn show(loaded: &Loaded, check: &Check, advice: &[String]) -> ExitCode {
    if check.json {
        let sets = loaded.sets().into_iter().filter(|set| !check.changed || !set.is_default);
        let sets: Vec<_> = sets.collect();
        println!("{}", serde_json::to_string_pretty(&sets).expect("a list of keys is JSON"));
        advice.iter().for_each(|line| eprintln!("note: {line}"));
        return ExitCode::SUCCESS;
    }
    let count = loaded.config.changed().1;
    println!("{}", loaded.to_toml(check.changed));
    for line in advice {
        println!("# note: {line}");
    }
    let keys = if count == 1 { "1 key differs" } else { &format!("{count} keys differ") };
    println!("# the configuration is valid; {keys} from the defaults");
    ExitCode::SUCCESS
}
