//! Runs the program as a process of a test, on free ports.

use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The deadline of every wait, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is not started yet, made by [`program`].
#[derive(Debug)]
pub(crate) struct Program {
    command: Command,
}

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Serving {
    child: Child,
    /// The address for clients and publishers.
    pub(crate) address: String,
    /// The address for health checks and metrics.
    pub(crate) internal: String,
    /// The log lines since the gateway began to serve.
    log: Arc<Mutex<Vec<serde_json::Value>>>,
}

/// Describes a process of the gateway with an empty environment.
pub(crate) fn program() -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.env_clear().kill_on_drop(true);
    Program { command }
}

impl Program {
    pub(crate) fn env(mut self, name: &str, text: impl AsRef<str>) -> Self {
        self.command.env(name, text.as_ref());
        self
    }

    /// Runs the program to its end.
    pub(crate) async fn run(mut self, arguments: &[&str]) -> Output {
        let ended = self.command.args(arguments).output();
        tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap()
    }

    /// Starts a gateway that serves the demo's channels and drains quickly.
    pub(crate) async fn serve(mut self) -> Serving {
        let mut child = self
            .command
            .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--internal-listen", "127.0.0.1:0"])
            .env("TIDEGATE_DEMO__FEED", "false")
            .env("TIDEGATE_TELEMETRY__LOG_FORMAT", "json")
            .env("TIDEGATE_DRAIN__NOTICE_MS", "0")
            .env("TIDEGATE_DRAIN__GRACE_MS", "10")
            .env("TIDEGATE_DRAIN__LINGER_MS", "100")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let serving = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let line: serde_json::Value = serde_json::from_str(&line).unwrap();
                if line["message"] == "serving" {
                    let text = |field: &str| line[field].as_str().unwrap().to_owned();
                    return (text("client_address"), text("internal_address"));
                }
            }
            panic!("the gateway ended before it served");
        };
        let (address, internal) = tokio::time::timeout(PATIENCE, serving).await.unwrap();
        // A full pipe must not block the gateway's logging.
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().extend(serde_json::from_str::<serde_json::Value>(&line));
            }
        });
        Serving { child, address, internal, log }
    }
}

impl Serving {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("the gateway has not been waited for");
        kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
    }

    /// Waits for a log line with this message, and returns it.
    pub(crate) async fn logs(&self, message: &str) -> serde_json::Value {
        let logged = async {
            loop {
                if let Some(line) = self.log.lock().iter().find(|line| line["message"] == message) {
                    return line.clone();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, logged).await.unwrap()
    }

    /// Stops the gateway, and waits for its exit.
    pub(crate) async fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap()
    }
}
