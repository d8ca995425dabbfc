//! The command against a server whose every mistake is planned: what it reports must be exactly that.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something is wrong")]

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Behaviour, Fate, Scratch, Server, command, read, run};

/// 10 connections, 2 channels, 200 publications: 100 of each channel to 5 subscribers each.
const SMALL: &str =
    "--connections 10 --ramp 1000 --channels 2 --rate 400 --duration 0.5 --drain 1 --settle 0";

#[tokio::test(flavor = "multi_thread")]
async fn a_faultless_server_has_nothing_lost_duplicated_or_reordered() {
    let server = Server::start(Behaviour { api_key: Some("key"), ..Behaviour::default() }).await;
    for (name, via) in
        [("api", "--publish-via api --api-key key"), ("client", "--publish-via client --publishers 2")]
    {
        let limits =
            "--max-lost 0 --max-duplicated 0 --max-reordered 0 --max-failures 0 --max-publish-failures 0";
        let (status, report, printed) =
            run(name, &server.url(), &format!("{SMALL} {via} {limits} --max-p99-ms 5000")).await;
        assert_eq!(status, 0, "{printed}");
        assert_eq!((report.connections.ready, report.publications.confirmed), (10, 200));
        assert_eq!((report.deliveries.received, report.deliveries.latency.count), (1_000, 1_000));
        assert!(report.deliveries.latency.p50 > 0.0 && report.publications.answered.count == 200);
        assert!(
            report.run.thresholds.iter().all(|threshold| threshold.held) && report.run.thresholds.len() == 6
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planned_mistake_is_counted_once_for_each_subscriber() {
    // Of each 10 publications of a channel: the 3rd is lost, the 5th comes twice, the 7th after the 8th.
    fn fate(number: u64) -> Fate {
        match number % 10 {
            3 => Fate::Lose,
            5 => Fate::Twice,
            7 => Fate::Late,
            _ => Fate::Deliver,
        }
    }
    let server = Server::start(Behaviour { fate, ..Behaviour::default() }).await;
    let (status, report, printed) = run(
        "faults",
        &server.url(),
        &format!("{SMALL} --publish-via client --max-lost 99 --max-duplicated 100"),
    )
    .await;
    let deliveries = &report.deliveries;
    assert_eq!((deliveries.lost, deliveries.duplicated, deliveries.reordered), (100, 100, 100), "{printed}");
    assert_eq!((deliveries.received, deliveries.latency.count), (1_000, 900));
    assert_eq!(status, 1, "the limit of 99 is broken by 100: {printed}");
    assert_eq!(report.run.thresholds.iter().map(|one| one.held).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_sequence_is_missed_too() {
    let fate = |number| if number > 97 { Fate::Lose } else { Fate::Deliver };
    let server = Server::start(Behaviour { fate, ..Behaviour::default() }).await;
    let (_, report, _) = run("tail", &server.url(), &format!("{SMALL} --publish-via client")).await;
    assert_eq!((report.deliveries.lost, report.deliveries.received), (30, 970));
    assert_eq!(report.deliveries.lost_at_end, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_publication_is_a_failure_of_the_publisher_and_not_a_loss() {
    let fate = |number| if number % 20 == 0 { Fate::Refuse } else { Fate::Deliver };
    let server = Server::start(Behaviour { fate, ..Behaviour::default() }).await;
    for (name, via, reason) in [
        ("refused-client", "client", "publish: error 103 permission denied"),
        ("refused-api", "api", "error 100 internal server error"),
    ] {
        let prefix = format!("--channel-prefix {name}-");
        let line = format!("{SMALL} --publish-via {via} {prefix} --max-publish-failures 9");
        let (status, report, printed) = run(name, &server.url(), &line).await;
        assert_eq!(report.publications.failures.get(reason), Some(&10), "{printed}");
        assert_eq!((report.deliveries.lost, report.deliveries.uncertain), (0, 50), "{printed}");
        assert_eq!(status, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bare_endpoint_is_measured_in_the_same_way() {
    let fate = |number| if number % 50 == 0 { Fate::Lose } else { Fate::Deliver };
    let server = Server::start(Behaviour { fate, token: Some("secret"), ..Behaviour::default() }).await;
    let line = format!(
        "{SMALL} --protocol raw --channel-prefix bare- --token secret --publish-via client --publishers 2"
    );
    let (status, report, printed) = run("raw", &server.url(), &line).await;
    assert_eq!(status, 0, "{printed}");
    assert_eq!((report.deliveries.received, report.deliveries.lost), (980, 20), "{printed}");
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
async fn a_server_that_a_file_describes_is_measured_in_the_same_way() {
    let fate = |number| if number % 50 == 0 { Fate::Lose } else { Fate::Deliver };
    let behaviour = Behaviour { fate, token: Some("secret"), api_key: Some("key"), ..Behaviour::default() };
    let server = Server::start(behaviour).await;
    let scratch = Scratch::new("description");
    let file = scratch.file("server.toml");
    std::fs::write(&file, DESCRIPTION).unwrap();
    let line = format!("{SMALL} --template {}", file.display());
    let (status, report, printed) = run("described", &server.url(), &line).await;
    assert_eq!(status, 0, "{printed}");
    assert_eq!((report.deliveries.received, report.deliveries.lost), (980, 20), "{printed}");
    assert_eq!((report.publications.confirmed, report.settings.protocol.as_str()), (200, "server"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_loop_publishes_as_fast_as_everyone_takes_it_and_goes_on_after_a_loss() {
    let fate = |number| if number == 20 { Fate::Lose } else { Fate::Deliver };
    let server = Server::start(Behaviour { fate, ..Behaviour::default() }).await;
    let line = "--connections 10 --ramp 2000 --in-flight 1 --duration 4 --settle 0 --rest 0 --quiet";
    let (status, report, printed) = run("closed", &server.url(), line).await;
    assert_eq!(status, 0, "{printed}");
    let publications = &report.publications;
    assert!(publications.sent > 20, "{printed}");
    assert_eq!((publications.scheduled, publications.confirmed), (publications.sent, publications.sent));
    assert_eq!((report.deliveries.lost, report.deliveries.received), (10, publications.sent * 10 - 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_connections_are_counted_by_reason() {
    let server = Server::start(Behaviour { admit: |number| number % 4 != 0, ..Behaviour::default() }).await;
    let line = "--connections 40 --ramp 2000 --rate 0 --duration 0.1 --max-failures 9";
    let (status, report, printed) = run("refused", &server.url(), line).await;
    assert_eq!(report.connections.failures.get("HTTP 503 in place of the upgrade"), Some(&10), "{printed}");
    assert_eq!((report.connections.ready, status), (30, 1));

    let server = Server::start(Behaviour { token: Some("right"), ..Behaviour::default() }).await;
    let line = "--connections 5 --rate 0 --duration 0.1 --token wrong";
    let (_, report, printed) = run("token", &server.url(), line).await;
    assert_eq!(report.connections.failures.get("connect: error 109 token expired"), Some(&5), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_gateways_and_source_addresses_take_turns() {
    let (first, second) =
        (Server::start(Behaviour::default()).await, Server::start(Behaviour::default()).await);
    let line = "--connections 20 --rate 0 --duration 0.1 --sources 3 --threads 2";
    let (_, report, printed) = run("turns", &first.url(), &format!("{line} --url {}", second.url())).await;
    assert_eq!((first.upgrades(), second.upgrades(), report.connections.ready), (10, 10, 20), "{printed}");
    let sources: Vec<_> = first.peers().into_iter().map(|peer| peer.ip().to_string()).collect();
    for address in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        assert!(sources.iter().any(|source| source == address), "{sources:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_come_back_and_recover_without_a_hole() {
    let fate = |number| if number == 40 { Fate::CloseAll(3008) } else { Fate::Deliver };
    let server = Server::start(Behaviour { fate, ..Behaviour::default() }).await;
    let line = format!(
        "{SMALL} --publish-via client --reconnect --reconnect-min-ms 10 --reconnect-max-ms 50 --drain 5"
    );
    let (_, report, printed) = run("recover", &server.url(), &line).await;
    let connections = &report.connections;
    assert_eq!(
        connections.disconnect_reasons.get("closed by the server with 3008 as planned"),
        Some(&10),
        "{printed}"
    );
    assert_eq!(
        (connections.reconnects, connections.recovered, connections.unrecovered),
        (10, 10, 0),
        "{printed}"
    );
    assert_eq!((report.deliveries.lost, report.deliveries.received), (0, 1_000), "{printed}");
    assert!(connections.recovered_publications >= 10);
    assert_eq!(report.deliveries.latency.count + connections.recovered_publications, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_recovered_is_missed_away() {
    let fate = |number| if number == 40 { Fate::CloseAll(3008) } else { Fate::Deliver };
    let server = Server::start(Behaviour { fate, remembers: false, ..Behaviour::default() }).await;
    let line = format!(
        "{SMALL} --publish-via client --reconnect --reconnect-min-ms 10 --reconnect-max-ms 50 --drain 5"
    );
    let (_, report, printed) = run("forget", &server.url(), &line).await;
    assert_eq!((report.connections.recovered, report.connections.unrecovered), (0, 10), "{printed}");
    let deliveries = &report.deliveries;
    assert!(
        deliveries.missed_away >= 10,
        "the one that closed everyone, and whatever came before the return"
    );
    assert_eq!((deliveries.lost, deliveries.received + deliveries.missed_away), (0, 1_000), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stays_away_has_lost_nothing_but_missed_the_rest() {
    // 3503 tells clients not to come back.
    let fate = |number| if number == 40 { Fate::CloseAll(3503) } else { Fate::Deliver };
    let server = Server::start(Behaviour { fate, ..Behaviour::default() }).await;
    let (_, report, printed) =
        run("away", &server.url(), &format!("{SMALL} --publish-via client --reconnect")).await;
    assert_eq!((report.connections.disconnects, report.connections.reconnects), (10, 0), "{printed}");
    assert_eq!((report.deliveries.received, report.deliveries.missed_away), (390, 610), "{printed}");
    assert_eq!(report.deliveries.lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_still_reports() {
    let server = Server::start(Behaviour::default()).await;
    let scratch = Scratch::new("interrupt");
    let (json, html) = (scratch.file("report.json"), scratch.file("report.html"));
    let own = std::process::id();
    let mut child = command("--connections 5 --rate 50 --duration 600 --publish-via client --pid")
        .arg(own.to_string())
        .args(["--title", "cut & short", "--rest", "0", "--url", &server.url()])
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
    let pid = rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().await.unwrap();
    let printed = support::printed(&output);
    assert_eq!(output.status.code(), Some(130), "{printed}");
    let report = read(&json, &printed);
    assert_eq!(report.run.cut_short.as_deref(), Some("interrupted"));
    assert_eq!(report.connections.ready, 5);
    assert!(report.publications.sent > 0 && report.deliveries.received > 0, "{printed}");
    assert!(report.deliveries.lost <= 5, "at most what was on its way: {printed}");
    assert_eq!(report.server.as_ref().unwrap().processes[0].pid, own);
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("\"cut & short\"") && page.contains("cut short: interrupted"), "{printed}");
    assert!(printed.contains("✗ cut short: interrupted") && printed.contains(" GMT · "), "{printed}");
    assert!(report.run.command_line.iter().any(|word| word == "--publish-via"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_at_its_time_limit() {
    let server = Server::start(Behaviour::default()).await;
    let line = "--connections 2 --rate 0 --duration 600 --time-limit 0.5 --max-failures 0";
    let (status, report, printed) = run("limit", &server.url(), line).await;
    assert_eq!(report.run.cut_short.as_deref(), Some("the time limit was reached"), "{printed}");
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
        let output = command(line).output().await.unwrap();
        let printed = support::printed(&output);
        assert_eq!(output.status.code(), Some(2), "{line}: {printed}");
        assert!(printed.contains(reason), "{line}: {printed}");
    }
}
