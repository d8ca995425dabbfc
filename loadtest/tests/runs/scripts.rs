//! The scripts around several load testers, small: each must come to its end with figures that make sense.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::gateway::{Gateway, build};
use crate::run::{counts, finish};

/// How long one may take to start its processes, and to end them when it is told to.
const START: Duration = Duration::from_secs(60);
/// Longer than `million` waits for a process that holds connections before it ends it itself.
const END: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);

/// Runs a script around load testers, and reads what it has found.
async fn script(name: &str, line: &str) -> (i32, Value, String) {
    finish(command(name), line).await
}

pub(crate) fn command(name: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(name));
    command.env("TIDEGATE_BIN_DIR", build().parent().unwrap());
    command
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap()
}

/// State and parent of a process that is still there.
fn state_and_parent(pid: &str) -> Option<(String, String)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which may have spaces in it, stands in brackets.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
}

/// The processes that one has started itself.
fn children(parent: Pid) -> Vec<String> {
    let parent = parent.as_raw_pid().to_string();
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    pids.filter(|pid| state_and_parent(pid).is_some_and(|(_, found)| found == parent)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_read_lose_nothing_to_those_who_do_not() {
    // With room for those who read to be behind for a second and more, on a machine that is busy with other things.
    let gateway = Gateway::start(&[("TIDEGATE_WEBSOCKET__OUTBOX_BYTES_MAX", "4194304")]).await;
    let line = format!(
        "--slow-percent 10 --turns 1 --quiet -- -n 20 --ramp 1000 --rate 50 -d 4 --payload 60000 --warmup 0 --drain 30 \
         --settle 0 --rest 0 --api-key demo --channel-prefix prices:slow --url ws://{} --pid {}",
        gateway.address(),
        gateway.pid()
    );
    let (status, found, printed) = script("slow-readers", &line).await;
    assert_eq!((status, printed.as_str()), (0, ""));
    let with = &found["with"];
    assert_eq!(counts(&found, ["/without/deliveries", "/with/deliveries", "/with/slow"]), [4_000, 3_600, 2]);
    let ends = with["slow_ends"].as_object().unwrap();
    assert_eq!(ends.values().filter_map(Value::as_u64).sum::<u64>(), 2);
    assert!(!ends.contains_key("still open"), "12 MB fit nowhere: {ends:?}");
    assert!(with["latency"]["p999"].as_f64() > Some(0.0) && with["memory_ready_max"].as_u64() > Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_publication_reaches_every_holder_over_several_nodes() {
    let (status, found, printed) =
        script("million", "-n 60 --per-node 25 --ramp 500 --connect-timeout 60 --quiet").await;
    assert_eq!((status, printed.as_str()), (0, ""));
    assert_eq!(counts(&found, ["/connections_ready", "/received", "/missing"]), [60, 180, 0]);
    assert!(found["latency_max_ms"].as_f64().unwrap() > 0.0);
    let (nodes, publications) =
        (found["nodes"].as_array().unwrap(), found["publications"].as_array().unwrap());
    assert!(
        publications.len() == 3 && publications.iter().all(|one| one["reached"] == 60 && one["of"] == 60)
    );
    assert!(nodes.len() == 3 && nodes.iter().all(|node| node["connections"] == 20));
    for node in nodes {
        let pid = node["pid"].as_u64().unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "node {pid} was left behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_nodes_that_are_replaced_in_turn_lose_nothing_and_are_never_seen_to_leave() {
    let line = "--clients 240 --holders 2 --channels 3 --rate 120 --publications 60 --notice-ms 100 --linger-ms 4000 \
                --hold-ms 4000 --margin 15 --max-deviation 1000 --quiet";
    let (status, found, printed) = script("rolling", line).await;
    let faults: Vec<_> = printed.lines().filter(|line| line.starts_with('✗')).collect();
    match (status, &faults[..]) {
        (0, []) => {}
        // So few come back too fast for a rate.
        (1, [fault]) if fault.contains("clients came back at") => {}
        _ => panic!("{status}: {printed}"),
    }
    let places = ["/open_at_end", "/users_least", "/users_most"];
    assert_eq!(counts(&found, places), [240; 3], "{printed}");
    let faults = ["/unrecovered", "/lost", "/duplicated", "/reordered", "/missed_away", "/uncertain"];
    assert_eq!(counts(&found, faults), [0; 6], "{printed}");
    assert_eq!(counts(&found, ["/publications_failed", "/flaps"]), [0; 2], "{printed}");
    let moves = found["moves"].as_u64().unwrap();
    assert!(moves >= 240 && found["recovered"] == moves && found["leaves"] == moves, "{found:#}");
    assert!(found["recovered_publications"].as_u64().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_script_has_started_ends_with_it_whichever_way_it_ends() {
    // So slow to connect that they wait with everything started: Redis, two nodes and a holder for each; a server and the
    // load on it.
    let million = ("million", "-n 20 --per-node 10 --ramp 0.1 --connect-timeout 120", 5);
    let compare = ("compare/run", "floor floor --quiet -- -n 20 --ramp 0.1", 2);
    let signals = [(Signal::TERM, Some(130)), (Signal::HUP, Some(130)), (Signal::KILL, None)];
    for ((name, line, processes), (signal, status)) in
        [million, compare].into_iter().flat_map(|script| signals.map(|signal| (script, signal)))
    {
        // What it keeps in files stays behind when it is killed.
        let directory = tempfile::tempdir().unwrap();
        let mut script = command(name);
        script.args(line.split_whitespace()).env("TMPDIR", directory.path()).kill_on_drop(true);
        script.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = script.spawn().unwrap();
        let of = pid(&child);
        let started = timeout(START, async {
            loop {
                let found = children(of);
                if found.len() == processes {
                    break found;
                }
                sleep(POLL).await;
            }
        });
        let started = started.await.expect("it starts them in time");
        kill_process(of, signal).unwrap();
        let ended = timeout(END, child.wait()).await.expect("it ends when it is told to").unwrap();
        assert_eq!(ended.code(), status, "{name}: {signal:?}");
        let gone = timeout(END, async {
            // Nobody may be there to ask how one ended whose parent was killed: it is a zombie then.
            let runs = |pid: &String| state_and_parent(pid).is_some_and(|(state, _)| state != "Z");
            while started.iter().any(runs) {
                sleep(POLL).await;
            }
        });
        assert!(gone.await.is_ok(), "{name}: {signal:?} left some of {started:?} behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_does_not_fit_says_so_before_it_starts_anything() {
    for (name, line, problem) in [
        ("million", "-n 4000000000 --per-node 10000000", "file descriptors"),
        ("rolling", "--clients 7", "multiple of --holders"),
        ("rolling", "--nodes 1", "two nodes"),
        ("redis", "--batch 0", "batches"),
        ("slow-readers", "-- --payload 1", "--payload"),
    ] {
        let (status, _, printed) = script(name, line).await;
        assert!(status == 2 && printed.contains(problem), "{status}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_held_against_bare_connections_to_the_same_redis() {
    let (status, found, printed) = script("redis", "-d 0.4 --turns 2 -r 500 --batch 50 --quiet").await;
    assert_eq!((status, printed.as_str()), (0, ""));
    let rows = found["rows"].as_array().unwrap();
    assert_eq!((rows.len(), found["received_over_needed"].as_f64()), (20, Some(1.0)));
    for row in rows {
        assert!(
            row["published"].as_u64() > Some(0)
                && row["failed"] == 0
                && row["per_second"].as_f64() > Some(0.0),
            "{row}"
        );
    }
    let timed = rows.iter().filter_map(|row| row["latency"]["count"].as_u64());
    assert_eq!(timed.collect::<Vec<_>>(), [200; 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_of_the_newest_values_has_the_last_of_each_key_in_the_end() {
    let gateway = Gateway::start(&[]).await;
    let line = format!(
        "--address {} --api-key demo --pid {} --keys 40 --rate 20 --bits 32000 --others 5 -d 1 --max-age-p99-ms 60000 --quiet",
        gateway.address(),
        gateway.pid()
    );
    let (status, found, printed) = script("newest-values", &line).await;
    assert_eq!((status, printed.as_str()), (0, ""));
    assert_eq!(counts(&found, ["/published", "/not_last"]), [1_600, 0]);
    let [received, superseded] = counts(&found, ["/received", "/superseded"]);
    assert!(received >= 40 && superseded > 0, "4,000 bytes a second are too few for all of them: {found}");
    for others in counts(&found, ["/without/others/count", "/with/others/count"]) {
        assert!(others >= 5 * 40, "{found}");
    }
    assert!(counts(&found, ["/without/memory_after", "/with/memory_after"]).iter().all(|bytes| *bytes > 0));
}
