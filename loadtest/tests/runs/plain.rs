//! The command against the gateway itself: small loads in every way that both of them know, and nothing may be lost.

use std::path::Path;

use crate::gateway::Gateway;
use crate::run::counts;

/// Nothing may be lost, and nobody refused; a machine that is busy with other tests may still be slow.
const FLAWLESS: &str = "--max-lost 0 --max-duplicated 0 --max-reordered 0 --max-failures 0 --max-publish-failures 0 \
                        --max-disconnects 0 --drain 30 --connect-timeout 30 --settle 0 --quiet";

const ALL_COUNTS: [&str; 4] =
    ["/connections/ready", "/publications/confirmed", "/deliveries/received", "/deliveries/malformed"];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_in_any_way_of_publishing_and_listening() {
    let gateway = Gateway::start(&[]).await;
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
        ("event streams", "--api-key demo --channel-prefix prices:k --transport sse", 2_000),
        (
            "HTTP streams",
            "--api-key demo --channel-prefix prices:l --transport http_stream --reconnect",
            2_000,
        ),
        ("compressed", "--api-key demo --channel-prefix prices:h --compression --payload 1000", 2_000),
        (
            "bare, compressed",
            "--api-key demo --channel-prefix prices:i --compression --protocol raw --payload 1000",
            2_000,
        ),
    ] {
        let pid = gateway.pid();
        let (status, report) = gateway.load(&format!("{load} {line} {FLAWLESS} --rest 0 --pid {pid}")).await;
        assert_eq!(status, 0, "{name}: {:#}", report["thresholds"]);
        assert_eq!(counts(&report, ALL_COUNTS), [40, 200, deliveries, 0], "{name}");
        let compressed = if name.contains("compressed") { 40 } else { 0 };
        assert_eq!(report["connections"]["compressed"], compressed, "{name}");
        assert!(report["server"]["seconds_per_million"].as_f64() > Some(0.0), "{name}");
        assert!(counts(&report, ["/server/memory_ready/resident_bytes"]) > [0], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wire_that_a_file_describes_is_spoken() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("compare");
    let settings = [("TIDEGATE_SSE__ENABLED", "true"), ("TIDEGATE_MERCURE__ENABLED", "true")];
    let gateway = Gateway::start_with(&settings, Some(&directory.join("tidegate-socketio.conf"))).await;
    for (name, prefix, transport) in [
        ("tidegate-pusher", "demo:a", "websocket"),
        ("tidegate-socketio", "socketio:a", "websocket"),
        ("tidegate-event-source", "prices:a", "events"),
        ("tidegate-event-source-three", "prices:b", "events"),
        ("tidegate-mercure", "mercure:a", "events"),
    ] {
        let file = directory.join(name).with_extension("toml");
        let line = format!(
            "--template {} --channel-prefix {prefix} --api-key demo --connections 40 --ramp 1000 --channels 4 --rate 200 \
             --duration 1 {FLAWLESS} --rest 0",
            file.display()
        );
        let (status, report) = gateway.load(&line).await;
        assert_eq!(status, 0, "{name}: {:#}", report["thresholds"]);
        assert_eq!(report["settings"]["transport"], transport, "{name}");
        assert_eq!(counts(&report, ALL_COUNTS), [40, 200, 2_000, 0], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_beside_a_stream() {
    let settings =
        [("TIDEGATE_SESSION__PING_INTERVAL_MS", "1000"), ("TIDEGATE_SESSION__PONG_TIMEOUT_MS", "900")];
    let gateway = Gateway::start(&settings).await;
    for transport in ["sse", "http_stream"] {
        let line = format!(
            "--connections 10 --ramp 1000 --rate 0 --duration 3 --channel-prefix prices:x --transport {transport} \
             {FLAWLESS} --rest 0"
        );
        let (status, report) = gateway.load(&line).await;
        assert_eq!(status, 0, "{transport}: {:#}", report["thresholds"]);
        // Whoever does not answer a ping is closed.
        assert_eq!(
            counts(&report, ["/connections/ready", "/connections/disconnects"]),
            [10, 0],
            "{transport}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_stream_ends_is_told_by_the_close_code() {
    let gateway =
        Gateway::start(&[("TIDEGATE_AUTH__HMAC_SECRET", "a secret of at least thirty-two bytes")]).await;
    let line = "--connections 3 --rate 0 --duration 1 --channel-prefix prices:x --transport sse --token wrong --quiet";
    let (_, report) = gateway.load(line).await;
    let failures = report["connections"]["failures"].as_object().unwrap();
    let told = failures
        .iter()
        .find(|(reason, _)| reason.starts_with("closed by the server with 3500 invalid token"));
    assert_eq!(told.map(|(_, count)| count), Some(&3.into()), "{failures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_refusals_are_told_by_their_reason() {
    let gateway = Gateway::start(&[]).await;
    let line = "--connections 5 --rate 50 --duration 0.2 --api-key wrong --channel-prefix nowhere:x --quiet";
    let (_, report) = gateway.load(line).await;
    assert_eq!(report["connections"]["failures"]["subscribe: error 102 unknown channel"], 5, "{report:#}");
    assert_eq!(report["publications"]["failures"]["HTTP 401"], 10, "{report:#}");
}
