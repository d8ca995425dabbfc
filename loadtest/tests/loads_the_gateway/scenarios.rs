//! Every scenario, small, against the gateway itself: it must come to its end with figures that make sense.

use crate::gateway::{Gateway, build, run};
use tidegate_loadtest::million::MillionFindings;
use tidegate_loadtest::redis::RedisFindings;
use tidegate_loadtest::report::{LoadFindings, Report};
use tidegate_loadtest::scenario::{HandshakeFindings, SlowFindings};

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
        "slow-readers -n 20 --slow-percent 10 --turns 1 --ramp 1000 --rate 50 -d 4 --payload 60000 --warmup 0 \
         --drain 30 --settle 0 --rest 0 --api-key demo --channel-prefix prices:slow --quiet --pid {}",
        gateway.pid()
    );
    let (status, report): (_, Report<SlowFindings>) = gateway.load(&line).await;
    assert_eq!(status, 0, "{:#?}", report.run.thresholds);
    assert_eq!((report.without.deliveries, report.with.deliveries), (20 * 200, 18 * 200));
    assert_eq!((report.with.slow, report.with.slow_ends.values().sum::<u64>()), (2, 2));
    assert!(
        !report.with.slow_ends.contains_key("still open"),
        "12 MB fit nowhere: {:?}",
        report.with.slow_ends
    );
    assert!(report.p999_ratio().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_held_against_bare_connections_to_the_same_redis() {
    let program = build();
    let line = format!("redis -d 0.4 --turns 2 -r 500 --batch 50 --quiet --tidegate {}", program.display());
    let (status, report): (_, Report<RedisFindings>) = run(&line).await;
    assert_eq!(status, 0, "{:#?}", report.run.thresholds);
    assert_eq!((report.rows.len(), report.failed(), report.received_over_needed), (20, 0, Some(1.0)));
    assert!(report.rows.iter().all(|row| row.published > 0 && row.per_second > 0.0), "{:#?}", report.rows);
    assert!(report.link_ratio().is_some() && report.api_per_second().is_some());
    let timed = report.rows.iter().filter_map(|row| row.latency);
    assert_eq!(timed.map(|latency| latency.count).collect::<Vec<_>>(), [200; 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_publication_reaches_every_holder_over_several_nodes() {
    let program = build();
    let line = format!("million -n 60 --per-node 25 --ramp 500 --quiet --tidegate {}", program.display());
    let (status, report): (_, Report<MillionFindings>) = run(&line).await;
    assert_eq!(status, 0, "{:#?}", report.run.thresholds);
    assert_eq!((report.connections_ready, report.nodes.len(), report.publications.len()), (60, 3, 3));
    assert!(report.publications.iter().all(|publication| (publication.reached, publication.of) == (60, 60)));
    assert!(report.nodes.iter().all(|node| node.connections == 20 && node.received == 20));
    for node in &report.nodes {
        let pid = rustix::process::Pid::from_raw(node.pid as i32).unwrap();
        let gone = rustix::process::test_kill_process(pid).is_err();
        assert!(gone, "node {} was left behind", node.pid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_does_not_fit_says_so_before_it_starts_anything() {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidegate-loadtest"))
        .args(["million", "-n", "4000000000", "--per-node", "10000000"])
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{printed}");
    assert!(printed.contains("file descriptors"), "{printed}");
}
