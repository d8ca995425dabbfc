//! The program under test and the scripts around it: a run, its report, and what was printed.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

/// The longest that a run may take here.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) fn command(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-loadtest"));
    command.args(line.split_whitespace()).kill_on_drop(true);
    command
}

pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Runs the command. Returns its exit status, its report if there is one, and what it printed.
pub(crate) async fn run(line: &str) -> (i32, Value, String) {
    finish(command(""), line).await
}

/// Runs what writes a report where it is told to, with these words; what stands behind `--` is for something else.
pub(crate) async fn finish(mut command: Command, line: &str) -> (i32, Value, String) {
    let directory = scratch();
    let json = directory.path().join("report.json");
    let words: Vec<_> = line.split_whitespace().collect();
    let own = words.iter().position(|word| *word == "--").unwrap_or(words.len());
    command.args(&words[..own]).arg("--json").arg(&json).args(&words[own..]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().unwrap();
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("it ends by itself").unwrap();
    (output.status.code().unwrap(), read(&json), printed(&output))
}

pub(crate) fn read(json: &Path) -> Value {
    std::fs::read(json).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
}

pub(crate) fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Counts of a report, by where they stand in it.
pub(crate) fn counts<const N: usize>(report: &Value, places: [&str; N]) -> [u64; N] {
    let count = |place| report.pointer(place).and_then(Value::as_u64);
    places.map(|place| count(place).unwrap_or_else(|| panic!("no {place} in {report:#}")))
}
