//! Runs the subcommands that call a server API.

use std::future::Future;
use std::io;
use std::process::ExitCode;

use super::call::CallError;

/// Why a subcommand has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the key cannot be read: {0}")]
    Key(#[from] crate::secret::SecretFileError),
    #[error("the output cannot be written: {0}")]
    Write(#[from] io::Error),
    #[error("the answer contains no {0}")]
    Answer(&'static str),
    #[error("{0:?} is not a URL of an internal listener, such as http://127.0.0.1:8001")]
    InternalUrl(String),
}

/// Runs the command on its own runtime, and prints an error on standard error.
pub(crate) fn run_cli(name: &str, command: impl Future<Output = Result<ExitCode, CliError>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tidegate {name} cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(command) {
        Ok(code) => code,
        // The reader has closed the pipe: it has seen enough.
        Err(CliError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate {name}: {error}");
            ExitCode::FAILURE
        }
    }
}
