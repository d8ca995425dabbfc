//! Tests that every listed metric exists, and that counts are shown.

use shared::disconnect::{Disconnect, SlowCause};
use shared::error::ErrorCode;

use super::*;
use crate::telemetry::labels::Handshake;

#[test]
fn every_metric_of_the_list_exists_with_its_labels_and_no_other() {
    let metrics = Metrics::new();
    metrics.connected(ProtocolId::RAW);
    metrics.command("publish");
    metrics.refused(Some(NamespaceId::DEFAULT), &Refusal::of(ErrorCode::PermissionDenied));
    metrics.publication_in(NamespaceId::UNKNOWN, PublicationSource::Api);
    metrics.publication_refused(NamespaceId::UNKNOWN, "timeout");
    metrics.recovery(NamespaceId::DEFAULT, true);
    metrics.worker(3).busy_seconds_total.inc_by(0.5);
    metrics.broker.seconds.with_label_values(&["publish"]).observe(0.001);
    metrics.broker.errors_total.with_label_values(&["timeout"]).inc();
    metrics.broker.link_up.with_label_values(&["command"]).set(1);
    metrics.shards.name_one();
    metrics.broker.reconnects_total.with_label_values(&["command"]).inc();
    metrics.broker.evictions_total.with_label_values(&["key"]).inc();
    metrics.api_request("publish", 200, Duration::from_millis(1));
    metrics.tls_reload(true);
    metrics.token("connection", "accepted");
    metrics.jwks_fetch(true);
    metrics.node_request("answered");
    metrics.socketio.entered("/", 1);
    metrics.emitters().message("event", "sent", 1);
    metrics.feed("orders").lag(Some(0), None);
    metrics.graphql_operation("refused");
    let hook = metrics.hook("connect", &["timeout"]);
    hook.seconds.observe(0.1);
    metrics.events().failed("timeout");
    metrics.webhooks().failed("timeout");
    metrics.disconnected(ProtocolId::RAW, Disconnect::SLOW.label(), Duration::from_secs(3));
    let families = metrics.registry.gather();
    let found: Vec<&str> = families.iter().map(prometheus::proto::MetricFamily::name).collect();
    let mut listed: Vec<&str> =
        names::ALL.iter().flat_map(|(_, metrics)| *metrics).map(|metric| metric.name).collect();
    listed.sort_unstable();
    assert_eq!(found, listed);
    for family in &families {
        let name = names::ALL
            .iter()
            .flat_map(|(_, metrics)| *metrics)
            .find(|metric| metric.name == family.name())
            .unwrap();
        let mut labels = name.label_names();
        labels.sort_unstable();
        for metric in family.get_metric() {
            let given: Vec<&str> = metric.get_label().iter().map(|label| label.name()).collect();
            assert_eq!(given, labels, "{}", name.name);
        }
    }
}

#[test]
fn what_is_counted_is_shown() {
    let metrics = Metrics::new();
    metrics.connected(ProtocolId::CENTRIFUGE_JSON);
    metrics.handshake(Handshake::Origin);
    metrics.publication_in(NamespaceId::DEFAULT, PublicationSource::Client);
    metrics.dropped(Drop::OutboxFull, 3);
    metrics.disconnected(ProtocolId::CENTRIFUGE_JSON, Disconnect::SLOW.label(), Duration::from_secs(1));
    metrics.slow_consumer(SlowCause::WriteTimeout);
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    for line in [
        "tidegate_connections{protocol=\"centrifuge_json\"} 0",
        "tidegate_connections_total{protocol=\"centrifuge_json\"} 1",
        "tidegate_handshakes_total{result=\"origin\"} 1",
        "tidegate_publications_in_total{source=\"client\"} 1",
        "tidegate_drops_total{reason=\"outbox_full\"} 3",
        "tidegate_closes_total{reason=\"slow\"} 1",
        "tidegate_slow_consumers_total{cause=\"write_timeout\"} 1",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in:\n{text}");
    }
}
