//! The command against a server whose every mistake is planned: what it reports must be exactly that.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::faulty_server::{Behaviour, Fate, Server};
use crate::run::{command, counts, printed, read, run, scratch};

/// 10 connections, 2 channels, 200 publications: 100 of each channel to 5 subscribers each.
const SMALL: &str =
    "--connections 10 --ramp 1000 --channels 2 --rate 400 --duration 0.5 --drain 1 --settle 0";
const RECONNECT: &str =
    "--publish-via client --reconnect --reconnect-min-ms 10 --reconnect-max-ms 50 --drain 5";
const RECEIVED_AND_LOST: [&str; 2] = ["/deliveries/received", "/deliveries/lost"];

/// A server that does so with publications, and a run against it.
async fn small_run(behaviour: Behaviour, line: &str) -> (i32, Value, String) {
    let server = Server::start(behaviour).await;
    run(&format!("{SMALL} {line} --url {}", server.url())).await
}

fn by_fate(fate: fn(u64) -> Fate) -> Behaviour {
    Behaviour { fate, ..Behaviour::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faultless_server_has_nothing_lost_duplicated_or_reordered() {
    for via in ["--publish-via api --api-key key", "--publish-via client --publishers 2"] {
        let limits =
            "--max-lost 0 --max-duplicated 0 --max-reordered 0 --max-failures 0 --max-publish-failures 0";
        let behaviour = Behaviour { api_key: Some("key"), ..Behaviour::default() };
        let (status, report, printed) =
            small_run(behaviour, &format!("{via} {limits} --max-p99-ms 5000")).await;
        assert_eq!(status, 0, "{printed}");
        let places = ["/connections/ready", "/publications/confirmed", "/publications/answered/count"];
        assert_eq!(counts(&report, places), [10, 200, 200]);
        let places = ["/deliveries/received", "/deliveries/latency/count"];
        assert_eq!(counts(&report, places), [1_000, 1_000]);
        assert!(report["deliveries"]["latency"]["p50"].as_f64() > Some(0.0));
        let thresholds = report["thresholds"].as_array().unwrap();
        assert!(thresholds.len() == 6 && thresholds.iter().all(|one| one["held"] == true));
        assert!(printed.contains("Thresholds that held\n  max-p99-ms"), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planned_mistake_is_counted_once_for_each_subscriber() {
    // Of each 10 publications of a channel: the 3rd is lost, the 5th comes twice, the 7th after the 8th.
    let behaviour = by_fate(|number| match number % 10 {
        3 => Fate::Lose,
        5 => Fate::Twice,
        7 => Fate::Late,
        _ => Fate::Deliver,
    });
    let line = "--publish-via client --max-lost 99 --max-duplicated 100";
    let (status, report, printed) = small_run(behaviour, line).await;
    let places = ["/deliveries/lost", "/deliveries/duplicated", "/deliveries/reordered"];
    assert_eq!(counts(&report, places), [100, 100, 100], "{printed}");
    assert_eq!(counts(&report, ["/deliveries/received", "/deliveries/latency/count"]), [1_000, 900]);
    assert_eq!(status, 1, "the limit of 99 is broken by 100: {printed}");
    let held: Vec<_> = report["thresholds"].as_array().unwrap().iter().map(|one| &one["held"]).collect();
    assert_eq!(held, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_sequence_is_missed_too() {
    let behaviour = by_fate(|number| if number > 97 { Fate::Lose } else { Fate::Deliver });
    let (_, report, _) = small_run(behaviour, "--publish-via client").await;
    let places = ["/deliveries/lost", "/deliveries/lost_at_end", "/deliveries/received"];
    assert_eq!(counts(&report, places), [30, 30, 970]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_publication_is_a_failure_of_the_publisher_and_not_a_loss() {
    for (via, reason) in
        [("client", "publish: error 103 permission denied"), ("api", "error 100 internal server error")]
    {
        let behaviour = by_fate(|number| if number % 20 == 0 { Fate::Refuse } else { Fate::Deliver });
        let line = format!("--publish-via {via} --max-publish-failures 9");
        let (status, report, printed) = small_run(behaviour, &line).await;
        assert_eq!(report["publications"]["failures"][reason], 10, "{printed}");
        assert_eq!(counts(&report, ["/deliveries/lost", "/deliveries/uncertain"]), [0, 50], "{printed}");
        assert_eq!(status, 1);
    }
}

const DESCRIPTION: &str = r#"
[subscribe]
path = "/connection/websocket"
open = ['{"id":1,"connect":{"token":"secret"}}']
welcome = '{"connect"'
send = ['{"id":2,"subscribe":{"channel":"{channel}"}}']
confirmed = '{"id":2,"subscribe"'
ping = '{}'
pong = '{}'
[publish]
path = "/anywhere/{channel}"
headers = { "x-api-key" = "key" }
body = '{"channel":"{channel}","data":{payload_string}}'
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_bare_endpoint_and_what_a_file_describes_are_measured_in_the_same_way() {
    let scratch = scratch();
    let file = scratch.path().join("server.toml");
    std::fs::write(&file, DESCRIPTION).unwrap();
    let bare = "--protocol raw --channel-prefix bare- --token secret --publish-via client --publishers 2";
    for line in [bare.to_owned(), format!("--template {}", file.display())] {
        let fate = |number| if number % 50 == 0 { Fate::Lose } else { Fate::Deliver };
        let behaviour =
            Behaviour { fate, token: Some("secret"), api_key: Some("key"), ..Behaviour::default() };
        let (status, report, printed) = small_run(behaviour, &line).await;
        assert_eq!(status, 0, "{printed}");
        assert_eq!(counts(&report, RECEIVED_AND_LOST), [980, 20], "{printed}");
        assert_eq!(report["publications"]["confirmed"], 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_loop_publishes_as_fast_as_everyone_takes_it_and_goes_on_after_a_loss() {
    let behaviour = by_fate(|number| if number == 20 { Fate::Lose } else { Fate::Deliver });
    let server = Server::start(behaviour).await;
    let line = "--connections 10 --ramp 2000 --in-flight 1 --duration 4 --settle 0 --rest 0 --quiet";
    let (status, report, printed) = run(&format!("{line} --url {}", server.url())).await;
    assert_eq!(status, 0, "{printed}");
    let places = ["/publications/sent", "/publications/scheduled", "/publications/confirmed"];
    let [sent, scheduled, confirmed] = counts(&report, places);
    assert!(sent > 20, "{printed}");
    assert_eq!((scheduled, confirmed), (sent, sent));
    assert_eq!(counts(&report, RECEIVED_AND_LOST), [sent * 10 - 10, 10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_connections_are_counted_by_reason() {
    let server = Server::start(Behaviour { admit: |number| number % 4 != 0, ..Behaviour::default() }).await;
    let line = "--connections 40 --ramp 2000 --rate 0 --duration 0.1 --max-failures 9 --url";
    let (status, report, printed) = run(&format!("{line} {}", server.url())).await;
    let failures = &report["connections"]["failures"];
    assert_eq!(failures["HTTP 503 in place of the upgrade"], 10, "{printed}");
    assert_eq!((counts(&report, ["/connections/ready"]), status), ([30], 1));

    let server = Server::start(Behaviour { token: Some("right"), ..Behaviour::default() }).await;
    let line = "--connections 5 --rate 0 --duration 0.1 --token wrong --url";
    let (_, report, printed) = run(&format!("{line} {}", server.url())).await;
    let failures = &report["connections"]["failures"];
    assert_eq!(failures["connect: error 109 token expired"], 5, "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_gateways_and_source_addresses_take_turns() {
    let (first, second) =
        (Server::start(Behaviour::default()).await, Server::start(Behaviour::default()).await);
    let line = "--connections 20 --rate 0 --duration 0.1 --sources 3 --threads 2";
    let (_, report, printed) = run(&format!("{line} --url {} --url {}", first.url(), second.url())).await;
    assert_eq!((first.upgrades(), second.upgrades()), (10, 10), "{printed}");
    assert_eq!(report["connections"]["ready"], 20, "{printed}");
    let sources: Vec<_> = first.peers().into_iter().map(|peer| peer.ip().to_string()).collect();
    for address in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        assert!(sources.iter().any(|source| source == address), "{sources:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_come_back_and_recover_without_a_hole() {
    let behaviour = by_fate(|number| if number == 40 { Fate::CloseAll(3008) } else { Fate::Deliver });
    let (_, report, printed) = small_run(behaviour, RECONNECT).await;
    let reasons = &report["connections"]["disconnect_reasons"];
    assert_eq!(reasons["closed by the server with 3008 as planned"], 10, "{printed}");
    let places = ["/connections/reconnects", "/connections/recovered", "/connections/unrecovered"];
    assert_eq!(counts(&report, places), [10, 10, 0], "{printed}");
    assert_eq!(counts(&report, RECEIVED_AND_LOST), [1_000, 0], "{printed}");
    let places = ["/connections/recovered_publications", "/deliveries/latency/count"];
    let [recovered, timed] = counts(&report, places);
    assert!(recovered >= 10 && timed + recovered == 1_000, "{printed}");
    // The example of a deployment reads rows of this report by their names.
    let script = include_str!("../../../deploy/try");
    let names: Vec<_> = script.split("$(field ").skip(1).map(|rest| rest.trim_start_matches('"')).collect();
    assert!(names.len() > 5);
    for name in names.iter().filter_map(|rest| rest.split_once(['"', '$'])).map(|(name, _)| name.trim()) {
        assert!(printed.contains(&format!("\n  {name}  ")), "no row {name}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_recovered_is_missed_away() {
    let fate = |number| if number == 40 { Fate::CloseAll(3008) } else { Fate::Deliver };
    let behaviour = Behaviour { fate, remembers: false, ..Behaviour::default() };
    let (_, report, printed) = small_run(behaviour, RECONNECT).await;
    let places = ["/connections/recovered", "/connections/unrecovered", "/deliveries/lost"];
    assert_eq!(counts(&report, places), [0, 10, 0], "{printed}");
    let [missed, received] = counts(&report, ["/deliveries/missed_away", "/deliveries/received"]);
    assert!(missed >= 10, "the one that closed everyone, and whatever came before the return");
    assert_eq!(received + missed, 1_000, "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stays_away_has_lost_nothing_but_missed_the_rest() {
    // 3503 tells clients not to come back.
    let behaviour = by_fate(|number| if number == 40 { Fate::CloseAll(3503) } else { Fate::Deliver });
    let (_, report, printed) = small_run(behaviour, "--publish-via client --reconnect").await;
    let places = ["/connections/disconnects", "/connections/reconnects", "/deliveries/missed_away"];
    assert_eq!(counts(&report, places), [10, 0, 610], "{printed}");
    assert_eq!(counts(&report, RECEIVED_AND_LOST), [390, 0], "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_still_reports() {
    let server = Server::start(Behaviour::default()).await;
    let scratch = scratch();
    let (json, html) = (scratch.path().join("report.json"), scratch.path().join("report.html"));
    let own = std::process::id();
    let line = format!(
        "--connections 5 --rate 50 --duration 600 --publish-via client --rest 0 --pid {own} --url {}",
        server.url()
    );
    let mut child = command(&line)
        .args(["--title", "cut & short"])
        .arg("--json")
        .arg(&json)
        .arg("--html")
        .arg(&html)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Two seconds of publishing may be more or less, but it is running by then or the report says so.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    kill_process(Pid::from_raw(child.id().unwrap() as i32).unwrap(), Signal::INT).unwrap();
    let output = child.wait_with_output().await.unwrap();
    let (printed, report) = (printed(&output), read(&json));
    assert_eq!(output.status.code(), Some(130), "{printed}");
    assert_eq!(report["cut_short"], "interrupted");
    assert_eq!(
        (&report["connections"]["ready"], &report["server"]["processes"][0]["pid"]),
        (&5.into(), &own.into())
    );
    let [sent, received, lost] =
        counts(&report, ["/publications/sent", "/deliveries/received", "/deliveries/lost"]);
    assert!(sent > 0 && received > 0, "{printed}");
    assert!(lost <= 5, "at most what was on its way: {printed}");
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("\"cut & short\"") && page.contains("cut short: interrupted"), "{printed}");
    assert!(printed.contains("✗ cut short: interrupted") && printed.contains(" GMT · "), "{printed}");
    let words = report["command_line"].as_array().unwrap();
    assert!(words.iter().any(|word| word == "--publish-via"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_at_its_time_limit() {
    let server = Server::start(Behaviour::default()).await;
    let line = "--connections 2 --rate 0 --duration 600 --time-limit 0.5 --max-failures 0 --url";
    let (status, report, printed) = run(&format!("{line} {}", server.url())).await;
    assert_eq!(report["cut_short"], "the time limit was reached", "{printed}");
    assert_eq!(status, 130);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_cannot_be_made_says_why() {
    for (line, reason) in [
        ("--url ws://192.0.2.1:1", "--allow-remote"),
        ("--connections 0", "--connections"),
        ("--pid 4294967295", "process 4294967295 cannot be measured"),
        ("--connections 4000000", "more file descriptors"),
        ("--template /nowhere.toml", "/nowhere.toml cannot be read"),
        ("--in-flight 2 --batch 3", "--batch must be at most --in-flight"),
    ] {
        let (status, report, printed) = run(line).await;
        assert_eq!((status, report), (2, Value::Null), "{line}: {printed}");
        assert!(printed.contains(reason), "{line}: {printed}");
    }
}
