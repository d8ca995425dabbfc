//! The subcommand: runs on its own runtime, prints complaints on standard error and the report on standard output.

use std::io::Write;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::run_publisher::{PublishArgs, publish};

/// Publishes until the end or until interrupted. Fails if anything could not be published.
pub fn command(args: &PublishArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tidegate publish cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let interrupted = async {
        tokio::select! {
            () = signalled(SignalKind::interrupt()) => {}
            () = signalled(SignalKind::terminate()) => {}
        }
    };
    let (report, result) = runtime.block_on(publish(args, interrupted, |complaint| eprintln!("{complaint}")));
    // Reading may still block; it ends with the process.
    runtime.shutdown_background();
    if let Err(error) = &result {
        eprintln!("tidegate publish stops: {error}");
    }
    if let Err(error) = writeln!(std::io::stdout(), "{report}") {
        eprintln!("the report cannot be written: {error}");
    }
    if result.is_ok() && report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits for a signal. If it cannot be handled, its default action still ends the process. The first process of a
/// container has no default actions, so SIGTERM, which stops containers, is handled as well.
async fn signalled(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}
