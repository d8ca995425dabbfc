//! The program: arguments, configuration, telemetry, a node, a signal, a drain, an exit code.

use std::process::ExitCode;

use clap::Parser;
use tidegate::app::App;
use tidegate::cli::{Cli, Settings, Verb};
use tidegate::config::Config;
use tokio::signal::unix::{SignalKind, signal};

/// What the system's conventions call a mistake in how a program was called (sysexits.h, EX_USAGE).
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Serve(serve) => match load(&serve.settings) {
            Ok(config) => run(config),
            Err(code) => code,
        },
        Verb::Check(settings) => match load(&settings) {
            Ok(config) => print(&config.to_toml()),
            Err(code) => code,
        },
    }
}

fn load(settings: &Settings) -> Result<Config, ExitCode> {
    Config::load(&settings.sources()).map_err(|mistakes| {
        eprintln!("{mistakes}");
        ExitCode::from(EXIT_USAGE)
    })
}

fn run(config: Config) -> ExitCode {
    let app = match App::start(config) {
        Ok(app) => app,
        Err(error) => {
            eprintln!("tidegate cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let signalled = app.runtime().block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok::<_, std::io::Error>(())
    });
    if let Err(error) = signalled {
        eprintln!("tidegate cannot wait for signals: {error}");
        return ExitCode::FAILURE;
    }
    app.drain();
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
fn print(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}
