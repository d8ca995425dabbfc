//! The comparison, on servers that it starts and ends by itself.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something is wrong")]

#[path = "support/command.rs"]
mod support;

use std::path::{Path, PathBuf};

use support::{Scratch, command, printed};
use tidegate_loadtest::compare::Comparison;

const LOAD: &str = "-n 20 --ramp 1000 -r 100 -d 0.5 --settle 0 --rest 0";

/// The floor as a server that only a file knows.
const DESCRIBED: &str = r#"
name = "described"
url = "ws://127.0.0.1:{port}"
[start]
command = ["{bin}/tidegate-loadtest", "floor", "--listen", "127.0.0.1:{port}"]
env = { UNUSED = "{scratch} {here} {fetched}" }
render = ["note"]
[subscribe]
path = "/connection/websocket"
open = ['{"id":1,"connect":{}}']
welcome = '{"id":1,"connect"'
send = ['{"id":2,"subscribe":{"channel":"{channel}"}}']
confirmed = '{"id":2,"subscribe"'
[publish]
path = "/api/publish"
body = '{"channel":"{channel}","data":{payload_string}}'
"#;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compare").join(name)
}

async fn compare(files: &[PathBuf], options: &str, json: &Path) -> (i32, String) {
    let output =
        command("compare").args(files).arg("--json").arg(json).args(options.split_whitespace()).output();
    let output = output.await.unwrap();
    (output.status.code().unwrap(), printed(&output))
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_take_turns_as_fresh_processes_and_are_held_against_the_first() {
    let scratch = Scratch::new("compare");
    let (described, json) = (scratch.file("described.toml"), scratch.file("comparison.json"));
    std::fs::write(&described, DESCRIBED).unwrap();
    std::fs::write(scratch.file("note"), "the port is {port}").unwrap();
    let files = [shipped("floor.toml"), described];
    let options = format!("--rounds 2 --max-cpu-ratio 1000000 -- {LOAD}");
    let (status, printed) = compare(&files, &options, &json).await;
    assert_eq!(status, 0, "{printed}");
    assert!(printed.contains("Latency p99, ms") && printed.contains("described"), "{printed}");
    let comparison: Comparison = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let order: Vec<(usize, u32)> = comparison.turns.iter().map(|turn| (turn.server, turn.round)).collect();
    assert_eq!(order, [(0, 0), (1, 0), (0, 1), (1, 1)]);
    let mut pids = Vec::new();
    for turn in &comparison.turns {
        let report = &turn.report;
        assert_eq!((report.deliveries.received, report.connections.ready), (1_000, 20), "{printed}");
        pids.push(report.server.as_ref().unwrap().processes[0].pid);
    }
    for pid in &pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is still there");
    }
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 4, "every turn has a process of its own");
    for server in &comparison.servers {
        assert_eq!((server.rounds, server.lost, server.connections_failed), (2, 0, 0));
        let latency = server.figure("latency_p50_ms").unwrap();
        assert!(latency.median.unwrap() > 0.0 && latency.values.len() == 2);
        let ratio = latency.ratio.unwrap();
        assert!(ratio.min <= ratio.median && ratio.median <= ratio.max);
    }
    assert_eq!(comparison.servers[0].figure("latency_p50_ms").unwrap().ratio.unwrap().median, 1.0);
    assert_eq!(comparison.thresholds.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_published_in_batches_in_a_closed_loop() {
    let scratch = Scratch::new("compare-closed");
    let json = scratch.file("comparison.json");
    let files = [shipped("floor.toml"), shipped("floor.toml")];
    let load = "--rounds 1 -- -n 20 --ramp 1000 --in-flight 16 --batch 8 -d 0.5 --settle 0 --rest 0";
    let (status, printed) = compare(&files, load, &json).await;
    assert_eq!(status, 0, "{printed}");
    let comparison: Comparison = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    for turn in &comparison.turns {
        let (sent, deliveries) = (turn.report.publications.sent, &turn.report.deliveries);
        assert!(sent >= 16 && sent % 8 == 0, "{printed}");
        assert_eq!((deliveries.received, deliveries.lost), (sent * 20, 0), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_compared_says_why() {
    let scratch = Scratch::new("compare-wrong");
    let (json, broken) = (scratch.file("comparison.json"), scratch.file("broken.toml"));
    std::fs::write(
        &broken,
        "name='broken'\nurl='ws://127.0.0.1:{port}'\n[start]\ncommand=['sh','-c','echo no luck']",
    )
    .unwrap();
    let floor = || shipped("floor.toml");
    for (files, load, reason) in [
        ([floor(), PathBuf::from("/nowhere.toml")], LOAD, "/nowhere.toml cannot be read"),
        ([floor(), broken], LOAD, "broken: it ended before it listened: no luck"),
        ([floor(), floor()], "--url ws://127.0.0.1:1", "--url belongs to the description"),
        ([floor(), floor()], "--connections 0", "--connections must be at least 1"),
    ] {
        let (status, printed) = compare(&files, &format!("--rounds 1 -- {load}"), &json).await;
        assert_eq!(status, 2, "{printed}");
        assert!(printed.contains(reason), "{printed}");
    }
}
