//! Every scenario, small, against the gateway itself: it must come to its end with figures that make sense.

use crate::gateway::Gateway;
use tidegate_loadtest::report::Report;

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
        let (status, report): (_, Report) = gateway.load_as(scheme, &line).await;
        assert_eq!(status, 0, "{scheme} {trust}: {:#?}", report.connections);
        assert_eq!(report.connections.ready, 40, "the first wave is not counted");
        let server = report.server.unwrap();
        assert!(server.idle_cpu_percent.is_some() && server.memory_after_percent > 50.0);
        let stages: Vec<_> = report.stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(stages[..3], ["first wave", "rest", "connect"]);
    }
    let untrusted = "idle -n 2 --wave 0 -d 0.1 --rest 0 --quiet --channel-prefix prices:idle";
    let (_, report): (_, Report) = secure.load_as("wss", untrusted).await;
    assert_eq!(report.connections.failed, 2, "nobody has signed that certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_storm_everyone_is_back_and_has_everything() {
    let gateway = Gateway::start(&[]).await;
    let line = "storm -n 60 --ramp 1000 --calm 0.3 --away 0.2 --rate 50 --duration 1.5 --api-key demo --settle 0 \
                --rest 0 --quiet --channel-prefix prices:storm --channels 3";
    let line = format!("{line} --pid {} --metrics {}", gateway.pid(), gateway.internal());
    let (status, report): (_, Report) = gateway.load(&line).await;
    assert_eq!(status, 0, "{:#?}", report.thresholds);
    let storm = report.storm.unwrap();
    assert_eq!((storm.cut_off, storm.reconnected, storm.not_back), (60, 60, 0));
    assert_eq!((storm.recovered, storm.unrecovered, storm.to_recovered.count), (60, 0, 60));
    assert!(storm.recovered_publications > 0 && storm.per_second > 0.0);
    assert_eq!(storm.refused_handshakes, Some(0.0));
    assert_eq!((report.deliveries.received, report.deliveries.lost), (75 * 20, 0));
}
