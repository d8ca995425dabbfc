//! Every scenario, small, against the gateway itself: it must come to its end with figures that make sense.

use std::path::Path;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::gateway::{Gateway, build};
use tidegate_loadtest::report::{LoadFindings, Report};
use tidegate_loadtest::scenario::HandshakeFindings;

/// The longest that a script may take here.
const SCRIPT: Duration = Duration::from_secs(180);
/// How long one may take to start its processes, and to end them when it is told to.
const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Runs a script around load testers, and reads what it has found.
async fn script(name: &str, line: &str) -> (i32, String, Value) {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("found.json");
    let child = command(name).arg("--json").arg(&json).args(line.split_whitespace()).spawn().unwrap();
    let pid = pid(&child);
    let mut ended = pin!(child.wait_with_output());
    let in_time = timeout(SCRIPT, &mut ended).await;
    let Ok(output) = in_time else {
        // Before it is killed, so that it can end what it has started.
        kill_process(pid, Signal::TERM).unwrap();
        let output = timeout(END, ended).await;
        panic!("{name} did not end by itself: {output:?}");
    };
    let output = output.unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    let found = std::fs::read(&json).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
    (output.status.code().unwrap(), printed, found)
}

fn command(name: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(name));
    command.env("TIDEGATE_BIN_DIR", build().parent().unwrap());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
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
async fn idle_connections_are_weighed_with_and_without_tls() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("certificate.pem"), directory.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let plain = Gateway::start(&[]).await;
    let settings = [("TIDEGATE_TLS__CERTIFICATE_FILE", certificate), ("TIDEGATE_TLS__KEY_FILE", key)];
    let secure = Gateway::start(&settings).await;
    for (gateway, scheme, trust) in [
        (&plain, "ws", String::new()),
        (&secure, "wss", "--insecure".to_owned()),
        (&secure, "wss", format!("--ca {certificate}")),
        (&secure, "wss", format!("--ca {certificate} --compression")),
    ] {
        let line = "idle -n 40 --ramp 500 -d 0.3 --rest 0.1 --wave 5 --settle 0 --connect-timeout 30 --quiet \
                    --max-failures 0 --channel-prefix prices:idle";
        let line = format!("{line} {trust} --pid {}", gateway.pid());
        let (status, report): (_, Report<LoadFindings>) = gateway.load_as(scheme, &line).await;
        assert_eq!(status, 0, "{scheme} {trust}: {:#?}", report.connections);
        assert_eq!(report.connections.ready, 40, "the first wave is not counted");
        let server = report.server.as_ref().unwrap();
        assert!(server.idle_cpu_percent.is_some() && server.memory_after_percent > 50.0);
        let stages: Vec<_> = report.stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(stages[..3], ["first wave", "rest", "connect"]);
    }
    let untrusted = "idle -n 2 --wave 0 -d 0.1 --rest 0 --quiet --channel-prefix prices:idle";
    let (_, report): (_, Report<LoadFindings>) = secure.load_as("wss", untrusted).await;
    assert_eq!(report.connections.failed, 2, "nobody has signed that certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_storm_everyone_is_back_and_has_everything() {
    let gateway = Gateway::start(&[]).await;
    for transport in ["websocket", "sse"] {
        let line = "storm -n 60 --ramp 1000 --calm 0.3 --away 0.2 --rate 50 --duration 1.5 --api-key demo --settle 0 \
                    --rest 0 --quiet --channels 3";
        let line = format!(
            "{line} --transport {transport} --channel-prefix prices:{transport} --pid {} --metrics {}",
            gateway.pid(),
            gateway.internal()
        );
        let (status, report): (_, Report<LoadFindings>) = gateway.load(&line).await;
        assert_eq!(status, 0, "{transport}: {:#?}", report.run.thresholds);
        let storm = report.storm.as_ref().unwrap();
        assert_eq!((storm.cut_off, storm.reconnected, storm.not_back), (60, 60, 0), "{transport}");
        assert_eq!(
            (storm.recovered, storm.unrecovered, storm.to_recovered.count),
            (60, 0, 60),
            "{transport}"
        );
        assert!(storm.recovered_publications > 0 && storm.per_second > 0.0);
        assert_eq!(storm.refused_handshakes, Some(0.0), "{transport}");
        assert_eq!((report.deliveries.received, report.deliveries.lost), (75 * 20, 0), "{transport}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_counted_and_timed() {
    let gateway = Gateway::start(&[]).await;
    let line = format!("handshakes --in-flight 8 -d 0.5 --quiet --pid {}", gateway.pid());
    let (status, report): (_, Report<HandshakeFindings>) = gateway.load(&line).await;
    assert_eq!((status, report.failed), (0, 0), "{:?}", report.failures);
    assert!(report.done >= 8 && report.times.count == report.done && report.per_second > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_read_lose_nothing_to_those_who_do_not() {
    let gateway = Gateway::start(&[("TIDEGATE_WEBSOCKET__OUTBOX_BYTES_MAX", "1048576")]).await;
    let line = format!(
        "--slow-percent 10 --turns 1 --quiet -- -n 20 --ramp 1000 --rate 50 -d 4 --payload 60000 --warmup 0 --drain 30 \
         --settle 0 --rest 0 --api-key demo --channel-prefix prices:slow --url ws://{} --pid {}",
        gateway.address(),
        gateway.pid()
    );
    let (status, printed, found) = script("slow-readers", &line).await;
    assert_eq!((status, printed.as_str()), (0, ""));
    let (without, with) = (&found["without"], &found["with"]);
    assert_eq!((&without["deliveries"], &with["deliveries"]), (&(20 * 200).into(), &(18 * 200).into()));
    let ends = with["slow_ends"].as_object().unwrap();
    assert_eq!(
        (&with["slow"], ends.values().map(|times| times.as_u64().unwrap()).sum::<u64>()),
        (&2.into(), 2)
    );
    assert!(!ends.contains_key("still open"), "12 MB fit nowhere: {ends:?}");
    assert!(with["latency"]["p999"].as_f64() > Some(0.0) && with["memory_ready_max"].as_u64() > Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_publication_reaches_every_holder_over_several_nodes() {
    let (status, printed, found) =
        script("million", "-n 60 --per-node 25 --ramp 500 --connect-timeout 60 --quiet").await;
    assert_eq!((status, printed.as_str()), (0, ""));
    assert_eq!(
        (&found["connections_ready"], &found["received"], &found["missing"]),
        (&60.into(), &180.into(), &0.into())
    );
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
    let (status, printed, found) = script("rolling", line).await;
    let faults: Vec<_> = printed.lines().filter(|line| line.starts_with('✗')).collect();
    match (status, &faults[..]) {
        (0, []) => {}
        // So few come back too fast for a rate.
        (1, [fault]) if fault.contains("clients came back at") => {}
        _ => panic!("{status}: {printed}"),
    }
    for (figure, value) in [
        ("open_at_end", 240),
        ("unrecovered", 0),
        ("lost", 0),
        ("duplicated", 0),
        ("reordered", 0),
        ("missed_away", 0),
        ("uncertain", 0),
        ("publications_failed", 0),
        ("flaps", 0),
        ("users_least", 240),
        ("users_most", 240),
    ] {
        assert_eq!(found[figure], value, "{figure}: {printed}");
    }
    let moves = found["moves"].as_u64().unwrap();
    assert!(moves >= 240 && found["recovered"] == moves && found["leaves"] == moves, "{found:#}");
    assert!(found["recovered_publications"].as_u64().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_script_has_started_ends_with_it_whichever_way_it_ends() {
    for (signal, status) in [(Signal::TERM, Some(130)), (Signal::HUP, Some(130)), (Signal::KILL, None)] {
        // What it keeps in files stays behind when it is killed.
        let directory = tempfile::tempdir().unwrap();
        // So slow to connect that it waits with everything started.
        let line = "-n 20 --per-node 10 --ramp 0.1 --connect-timeout 120";
        let mut million = command("million");
        million.args(line.split_whitespace()).env("TMPDIR", directory.path());
        let mut child = million.spawn().unwrap();
        let of = pid(&child);
        let started = timeout(START, async {
            loop {
                // Redis, two nodes, and a holder for each.
                let found = children(of);
                if found.len() == 5 {
                    break found;
                }
                sleep(POLL).await;
            }
        });
        let started = started.await.expect("it starts them in time");
        kill_process(of, signal).unwrap();
        let ended = timeout(END, child.wait()).await.expect("it ends when it is told to").unwrap();
        assert_eq!(ended.code(), status, "{signal:?}");
        let gone = timeout(END, async {
            // Nobody may be there to ask how one ended whose parent was killed: it is a zombie then.
            let runs = |pid: &String| state_and_parent(pid).is_some_and(|(state, _)| state != "Z");
            while started.iter().any(runs) {
                sleep(POLL).await;
            }
        });
        assert!(gone.await.is_ok(), "{signal:?} left some of {started:?} behind");
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
        let (status, printed, _) = script(name, line).await;
        assert!(status == 2 && printed.contains(problem), "{status}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_held_against_bare_connections_to_the_same_redis() {
    let (status, printed, found) = script("redis", "-d 0.4 --turns 2 -r 500 --batch 50 --quiet").await;
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
    let (status, printed, found) = script("newest-values", &line).await;
    assert_eq!((status, printed.as_str()), (0, ""));
    assert_eq!((&found["published"], &found["not_last"]), (&1_600.into(), &0.into()));
    let (received, superseded) = (found["received"].as_u64().unwrap(), found["superseded"].as_u64().unwrap());
    assert!(
        received >= 40 && superseded > 0,
        "a reader of 4,000 bytes a second cannot have all of them: {found}"
    );
    for side in ["without", "with"] {
        let others = found[side]["others"]["count"].as_u64().unwrap();
        assert!(others >= 5 * 40, "{side}: {others}");
        assert!(found[side]["memory_after"].as_u64() > Some(0));
    }
}
