//! A gateway of the test's own, and the command under test against it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::run::run;

const START: Duration = Duration::from_secs(30);

pub(crate) struct Gateway {
    process: Child,
    address: String,
    internal: String,
}

impl Gateway {
    /// Settings are variables of its environment.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_with(settings, None).await
    }

    /// With what a file says, too.
    pub(crate) async fn start_with(settings: &[(&str, &str)], file: Option<&Path>) -> Self {
        let mut process = Command::new(build())
            .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--internal-listen", "127.0.0.1:0"])
            .args(file.iter().flat_map(|file| [Path::new("--config"), file]))
            .env("RUST_LOG", "info")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let addresses = timeout(START, async {
            loop {
                let line = lines.next_line().await.unwrap().expect("the gateway says where it listens");
                let after = |key| {
                    line.split_once(key).map(|(_, rest): (_, &str)| rest.split_whitespace().next().unwrap())
                };
                if let Some((address, internal)) = after("client_address=").zip(after("internal_address=")) {
                    break (address.to_owned(), internal.to_owned());
                }
            }
        });
        let (address, internal) = addresses.await.expect("the gateway starts in time");
        // Someone must go on reading, or the gateway would one day wait for it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { process, address, internal }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id().unwrap()
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Where it tells its metrics.
    pub(crate) fn internal(&self) -> String {
        format!("http://{}", self.internal)
    }

    /// Runs the command against it, by default without TLS.
    pub(crate) async fn load(&self, line: &str) -> (i32, Value) {
        self.load_as("ws", line).await
    }

    pub(crate) async fn load_as(&self, scheme: &str, line: &str) -> (i32, Value) {
        let (status, report, printed) = run(&format!("{line} --url {scheme}://{}", self.address)).await;
        assert!(!report.is_null(), "no report: {printed}");
        (status, report)
    }
}

/// The gateway's program: of the folder TIDEGATE_BIN_DIR, or brought up to date. Cargo names a crate's programs only to that
/// crate's own tests.
pub(crate) fn build() -> PathBuf {
    if let Some(folder) = std::env::var_os("TIDEGATE_BIN_DIR") {
        return Path::new(&folder).join("tidegate");
    }
    let loadtest = Path::new(env!("CARGO_BIN_EXE_tidegate-loadtest"));
    let profile_directory = loadtest.parent().unwrap();
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "tidegate", "--bin", "tidegate"]);
    cargo.arg("--target-dir").arg(profile_directory.parent().unwrap());
    if profile_directory.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "the gateway does not build");
    profile_directory.join("tidegate")
}
