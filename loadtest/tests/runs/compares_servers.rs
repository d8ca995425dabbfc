//! The comparison, on servers that it starts and ends by itself, and what is drawn of it.

use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use crate::run::{counts, finish, printed, scratch};

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

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn script(name: &str) -> Command {
    let mut command = Command::new(folder().join(name));
    command.env("TIDEGATE_BIN_DIR", Path::new(env!("CARGO_BIN_EXE_tidegate-loadtest")).parent().unwrap());
    command.kill_on_drop(true);
    command
}

/// Exit status, the comparison if there is one, and what was printed.
async fn compare(servers: &[&str], options: &str) -> (i32, Value, String) {
    finish(script("compare/run"), &format!("{} {options}", servers.join(" "))).await
}

fn figure<'a>(server: &'a Value, key: &str) -> &'a Value {
    server["figures"].as_array().unwrap().iter().find(|figure| figure["key"] == key).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_take_turns_as_fresh_processes_and_are_held_against_the_first() {
    let scratch = scratch();
    let file = |name: &str| scratch.path().join(name);
    let described = file("described.toml");
    std::fs::write(&described, DESCRIBED).unwrap();
    std::fs::write(file("note"), "the port is {port}").unwrap();
    let options = format!("--rounds 2 --max-cpu-ratio 1000000 -- {LOAD}");
    let (status, comparison, printed) = compare(&["floor", described.to_str().unwrap()], &options).await;
    assert_eq!(status, 0, "{printed}");
    assert!(printed.contains("Latency p99, ms") && printed.contains("described"), "{printed}");
    let turns = comparison["turns"].as_array().unwrap();
    let order: Vec<[u64; 2]> = turns.iter().map(|turn| counts(turn, ["/server", "/round"])).collect();
    assert_eq!(order, [[0, 0], [1, 0], [0, 1], [1, 1]]);
    let mut pids = Vec::new();
    for report in turns.iter().map(|turn| &turn["report"]) {
        assert_eq!(counts(report, ["/deliveries/received", "/connections/ready"]), [1_000, 20]);
        pids.push(report["server"]["processes"][0]["pid"].as_u64().unwrap());
    }
    for pid in &pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is still there");
    }
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 4, "every turn has a process of its own");
    for server in comparison["servers"].as_array().unwrap() {
        assert_eq!(counts(server, ["/rounds", "/lost", "/connections_failed"]), [2, 0, 0]);
        let latency = figure(server, "latency_p50_ms");
        assert!(
            latency["median"].as_f64().unwrap() > 0.0 && latency["values"].as_array().unwrap().len() == 2
        );
        let [least, middle, most] =
            ["min", "median", "max"].map(|part| latency["ratio"][part].as_f64().unwrap());
        assert!(least <= middle && middle <= most);
    }
    assert_eq!(figure(&comparison["servers"][0], "latency_p50_ms")["ratio"]["median"], 1.0);
    assert_eq!(comparison["thresholds"].as_array().unwrap().len(), 1);

    let (table, json) = (file("table.md"), file("comparison.json"));
    std::fs::write(&json, comparison.to_string()).unwrap();
    let mut plot = script("plot");
    plot.arg("table").arg(&json).args(["--name", "twice", "--figure", "latency_p50_ms", "--out"]).arg(&table);
    assert!(plot.status().await.unwrap().success());
    let table = std::fs::read_to_string(&table).unwrap();
    assert!(
        table.starts_with("| load | server | Latency p50, ms |\n| --- | --- | --- |\n| twice | floor | "),
        "{table}"
    );
    assert!(table.contains(" (1.00 ×) |\n| twice | described | "), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_published_in_batches_in_a_closed_loop() {
    let load = "--rounds 1 --quiet -- -n 20 --ramp 1000 --in-flight 16 --batch 8 -d 0.5 --settle 0 --rest 0";
    let (status, comparison, printed) = compare(&["floor", "floor"], load).await;
    assert_eq!((status, printed.as_str()), (0, ""));
    for report in comparison["turns"].as_array().unwrap().iter().map(|turn| &turn["report"]) {
        let sent = report["publications"]["sent"].as_u64().unwrap();
        assert!(sent >= 16 && sent.is_multiple_of(8), "{sent}");
        assert_eq!(counts(report, ["/deliveries/received", "/deliveries/lost"]), [sent * 20, 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_compared_says_why() {
    let scratch = scratch();
    let broken = scratch.path().join("broken.toml");
    std::fs::write(
        &broken,
        "name='broken'\nurl='ws://127.0.0.1:{port}'\n[start]\ncommand=['sh','-c','echo no luck']",
    )
    .unwrap();
    for (second, load, reason) in [
        ("/nowhere.toml", LOAD, "/nowhere.toml cannot be read"),
        (broken.to_str().unwrap(), LOAD, "broken: it ended before it listened: no luck"),
        ("floor", "--url ws://127.0.0.1:1", "--url belongs to the description"),
        ("floor", "--connections 0", "--connections"),
    ] {
        let (status, _, printed) = compare(&["floor", second], &format!("--rounds 1 -- {load}")).await;
        assert_eq!(status, 2, "{printed}");
        assert!(printed.contains(reason), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_medians_and_ratios_of_the_same_round() {
    for module in ["comparison.py", "fleet.py"] {
        let mut checked = Command::new("python3");
        checked.args(["-B", "-m", "doctest"]).arg(folder().join(module));
        let output = checked.output().await.unwrap();
        assert!(output.status.success(), "{module}: {}", printed(&output));
    }
}

#[test]
fn every_description_of_a_server_can_be_read() {
    for entry in folder().join("compare").read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let described: toml::Table = toml::from_str(&text).unwrap();
        assert!(described["start"]["command"].as_array().is_some_and(|words| !words.is_empty()), "{path:?}");
        if described.contains_key("subscribe") || described.contains_key("publish") {
            tidegate_loadtest::dialect::Template::read(&path).unwrap();
        }
    }
}
