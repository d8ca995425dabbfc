//! The command against the gateway itself: small loads in every way that both of them know, and nothing may be lost.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something is wrong")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tidegate_loadtest::report::Report;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const START: Duration = Duration::from_secs(30);
/// Nothing may be lost, and nobody refused; a machine that is busy with other tests may still be slow.
const FLAWLESS: &str = "--max-lost 0 --max-duplicated 0 --max-reordered 0 --max-failures 0 --max-publish-failures 0 \
                        --max-disconnects 0 --drain 30 --connect-timeout 30 --settle 0 --quiet";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_in_any_way_of_publishing_and_listening() {
    let gateway = Gateway::start().await;
    let load = "--connections 40 --ramp 1000 --channels 4 --rate 200 --duration 1";
    for (name, line, deliveries) in [
        ("fan-out", "--api-key demo --channel-prefix prices:a --channels 1", 8_000),
        ("several channels", "--api-key demo --channel-prefix prices:b --per-connection 3", 6_000),
        ("bursts", "--api-key demo --channel-prefix prices:c --burst 8", 2_000),
        ("batches", "--api-key demo --channel-prefix prices:j --burst 8 --batch 8", 2_000),
        ("client publishes", "--publish-via client --publishers 2 --channel-prefix chat:d", 2_000),
        ("positions", "--api-key demo --channel-prefix prices:e --reconnect", 2_000),
        ("bare", "--api-key demo --channel-prefix prices:f --protocol raw", 2_000),
        (
            "bare publishes",
            "--protocol raw --publish-via client --publishers 4 --channel-prefix chat:g",
            2_000,
        ),
        ("compressed", "--api-key demo --channel-prefix prices:h --compression --payload 1000", 2_000),
        (
            "bare, compressed",
            "--api-key demo --channel-prefix prices:i --compression --protocol raw --payload 1000",
            2_000,
        ),
    ] {
        let pid = gateway.process.id().unwrap();
        let (status, report) = gateway.load(&format!("{load} {line} {FLAWLESS} --rest 0 --pid {pid}")).await;
        assert_eq!(status, 0, "{name}: {:#?}", report.thresholds);
        assert_eq!((report.connections.ready, report.publications.confirmed), (40, 200), "{name}");
        assert_eq!((report.deliveries.received, report.deliveries.malformed), (deliveries, 0), "{name}");
        assert_eq!(report.connections.compressed, if name.contains("compressed") { 40 } else { 0 }, "{name}");
        let server = report.server.unwrap();
        assert!(
            server.seconds_per_million.unwrap() > 0.0 && server.memory_ready.resident_bytes > 0,
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_refusals_are_told_by_their_reason() {
    let gateway = Gateway::start().await;
    let line = "--connections 5 --rate 50 --duration 0.2 --api-key wrong --channel-prefix nowhere:x --quiet";
    let (_, report) = gateway.load(line).await;
    let failures = &report.connections.failures;
    assert_eq!(failures.get("subscribe: error 102 unknown channel"), Some(&5), "{failures:?}");
    assert_eq!(report.publications.failures.get("HTTP 401"), Some(&10), "{:?}", report.publications.failures);
}

struct Gateway {
    process: Child,
    address: String,
}

impl Gateway {
    async fn start() -> Self {
        let mut process = Command::new(build())
            .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--internal-listen", "127.0.0.1:0"])
            .env("RUST_LOG", "info")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = timeout(START, async {
            loop {
                let line = lines.next_line().await.unwrap().expect("the gateway says where it listens");
                if let Some((_, rest)) = line.split_once("client_address=") {
                    break rest.split_whitespace().next().unwrap().to_owned();
                }
            }
        });
        let address = address.await.expect("the gateway starts in time");
        // Someone must go on reading, or the gateway would one day wait for it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { process, address }
    }

    async fn load(&self, line: &str) -> (i32, Report) {
        let scratch = std::env::temp_dir();
        let name =
            format!("tidegate-loadtest-{}-{}.json", std::process::id(), self.address.replace(':', "-"));
        let json = scratch.join(name);
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate-loadtest"))
            .args(line.split_whitespace())
            .args(["--url", &format!("ws://{}", self.address), "--json"])
            .arg(&json)
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let bytes = std::fs::read(&json).unwrap_or_else(|error| {
            panic!("no report ({error}): {}", String::from_utf8_lossy(&output.stderr));
        });
        std::fs::remove_file(&json).unwrap();
        (output.status.code().unwrap(), serde_json::from_slice(&bytes).unwrap())
    }
}

/// The gateway's program, brought up to date: Cargo names a crate's programs only to that crate's own tests.
fn build() -> PathBuf {
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
