//! Every scenario, small, against the gateway itself: it must come to its end with figures that make sense.

use crate::gateway::Gateway;
use crate::run::counts;

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
        (&secure, "wss", format!("--ca {certificate}")),
        (&secure, "wss", format!("--ca {certificate} --compression")),
    ] {
        let line = "idle -n 40 --ramp 500 -d 0.3 --rest 0.1 --wave 5 --settle 0 --connect-timeout 30 --quiet \
                    --max-failures 0 --channel-prefix prices:idle";
        let line = format!("{line} {trust} --pid {}", gateway.pid());
        let (status, report) = gateway.load_as(scheme, &line).await;
        assert_eq!(status, 0, "{scheme} {trust}: {:#}", report["connections"]);
        assert_eq!(report["connections"]["ready"], 40, "the first wave is not counted");
        let server = &report["server"];
        assert!(server["idle_cpu_percent"].is_f64() && server["memory_after_percent"].as_f64() > Some(50.0));
        let stages: Vec<_> =
            report["stages"].as_array().unwrap().iter().map(|stage| &stage["name"]).collect();
        assert_eq!(stages[..3], ["first wave", "rest", "connect"]);
    }
    let untrusted = "idle -n 2 --wave 0 -d 0.1 --rest 0 --quiet --channel-prefix prices:idle";
    let (_, report) = secure.load_as("wss", untrusted).await;
    assert_eq!(report["connections"]["failed"], 2, "nobody has signed that certificate");
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
        let (status, report) = gateway.load(&line).await;
        assert_eq!(status, 0, "{transport}: {:#}", report["thresholds"]);
        let places = ["/storm/cut_off", "/storm/reconnected", "/storm/not_back", "/deliveries/lost"];
        assert_eq!(counts(&report, places), [60, 60, 0, 0], "{transport}");
        let places = ["/storm/recovered", "/storm/unrecovered", "/storm/to_recovered/count"];
        assert_eq!(counts(&report, places), [60, 0, 60], "{transport}");
        let storm = &report["storm"];
        assert!(
            storm["recovered_publications"].as_u64() > Some(0) && storm["per_second"].as_f64() > Some(0.0)
        );
        assert_eq!(storm["refused_handshakes"], 0.0, "{transport}");
        assert_eq!(report["deliveries"]["received"], 75 * 20, "{transport}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_counted_and_timed() {
    let gateway = Gateway::start(&[]).await;
    for protocol in ["centrifuge", "raw --channel-prefix prices:x"] {
        let line = format!("handshakes -n 8 -d 0.5 --quiet --protocol {protocol} --pid {}", gateway.pid());
        let (status, report) = gateway.load(&line).await;
        let places = ["/connections/failed", "/connections/disconnects", "/deliveries/malformed"];
        assert_eq!((status, counts(&report, places)), (0, [0; 3]), "{report:#}");
        let [done, ready, timed] =
            counts(&report, ["/handshakes/done", "/connections/ready", "/connections/to_ready/count"]);
        assert!(done >= 8 && timed == ready && ready >= done, "{report:#}");
        let handshakes = &report["handshakes"];
        assert!(
            ["per_second", "cpu_micros_each"].iter().all(|figure| handshakes[figure].as_f64() > Some(0.0))
        );
    }
}
