//! Generates completions for shells and the manual from the definition of the command line.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// Print a completion script for a shell.
#[derive(Clone, Copy, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell that runs the script.
    pub shell: Shell,
}

/// Print the manual page, for `man -l -`, or write a manual page for each command.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// Write `tidegate.1`, `tidegate-serve.1` and so on to this existing folder.
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
}

impl CompletionsArgs {
    pub fn print(self) -> ExitCode {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tidegate", &mut script);
        ended("completions", io::stdout().write_all(&script))
    }
}

impl ManArgs {
    pub fn print(&self) -> ExitCode {
        let printed = match &self.dir {
            Some(folder) => write_pages(folder),
            None => page().and_then(|page| io::stdout().write_all(&page)),
        };
        ended("man", printed)
    }
}

fn page() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(Cli::command()).render(&mut page)?;
    Ok(page)
}

fn write_pages(folder: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), folder)
}

/// A reader that stops early, such as a pager, is no error.
fn ended(command: &str, printed: io::Result<()>) -> ExitCode {
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("tidegate {command}: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_command_has_a_page_and_is_completed_in_every_shell() {
        let folder = tempfile::tempdir().unwrap();
        write_pages(folder.path()).unwrap();
        let command = Cli::command();
        let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        assert!(names.len() > 6, "{names:?}");
        for name in &names {
            let page = std::fs::read_to_string(folder.path().join(format!("tidegate-{name}.1"))).unwrap();
            assert!(page.contains(".SH OPTIONS"), "{name}: {page}");
        }
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "tidegate", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in names.iter().copied().chain(["internal-listen"]) {
                assert!(script.contains(word), "{shell} does not complete {word}");
            }
        }
    }
}
