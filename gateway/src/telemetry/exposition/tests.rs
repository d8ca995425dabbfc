//! Tests the content of each format, and the choice between them.

use std::collections::BTreeSet;

use shared::stamp::TraceContext;

use super::protobuf::{self, Kind, Span};
use super::*;
use crate::telemetry::Metrics;
use crate::telemetry::labels::Stage;

const TRACE: TraceContext = TraceContext { trace: 0xabc, span: 1 };

#[test]
fn the_format_is_the_one_that_is_liked_best() {
    let protobuf =
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    let open = "application/openmetrics-text;version=1.0.0";
    // The headers of Prometheus: without and with native histograms.
    let plain = format!(
        "{open},application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    );
    let native = format!("{protobuf},{open};q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1");
    for (accept, format) in [
        (None, ExpositionFormat::Text),
        (Some(""), ExpositionFormat::Text),
        (Some("*/*"), ExpositionFormat::Text),
        (Some("text/html,application/xhtml+xml,*/*;q=0.8"), ExpositionFormat::Text),
        (Some(&*plain), ExpositionFormat::OpenMetrics),
        (Some(&native), ExpositionFormat::Protobuf),
        (
            Some("text/plain;version=0.0.4;q=0.9, Application/OpenMetrics-Text; version=1.0.0; q=0.95"),
            ExpositionFormat::OpenMetrics,
        ),
        (Some("application/openmetrics-text;version=0.0.1"), ExpositionFormat::Text),
        (Some("application/openmetrics-text;version=1.0.0;q=0"), ExpositionFormat::Text),
        (Some("application/vnd.google.protobuf;proto=other;encoding=delimited"), ExpositionFormat::Text),
        (Some("application/vnd.google.protobuf;encoding=text"), ExpositionFormat::Text),
        (Some(";;q=x,=,"), ExpositionFormat::Text),
    ] {
        assert_eq!(ExpositionFormat::wanted(accept), format, "{accept:?}");
    }
}

#[test]
fn open_metrics_have_exemplars_and_every_family_once() {
    let metrics = Metrics::new();
    metrics.stages.observe(Stage::Broker, 3_000, Some(TRACE));
    metrics.stages.observe(Stage::Broker, 40_000_000, Some(TRACE));
    let text = String::from_utf8(metrics.render_as(ExpositionFormat::OpenMetrics).unwrap()).unwrap();
    let line = |begins: &str| {
        text.lines().find(|line| line.starts_with(begins)).unwrap_or_else(|| panic!("{begins}\n{text}"))
    };
    let exemplar = line("tidegate_stage_seconds_bucket{stage=\"broker\",le=\"0.005\"}");
    let begins = "tidegate_stage_seconds_bucket{stage=\"broker\",le=\"0.005\"} 1 # {trace_id=\"00000000000000000000000000000abc\"} 0.003 ";
    assert!(exemplar.starts_with(begins), "{exemplar}");
    assert!(line("tidegate_stage_seconds_bucket{stage=\"broker\",le=\"+Inf\"}").contains(" 2 # {trace_id="));
    assert!(line("tidegate_stage_seconds_bucket{stage=\"broker\",le=\"1.0\"}").ends_with("} 1"));
    line("# TYPE tidegate_bytes_in counter");
    line("tidegate_bytes_in_total 0");
    // There is a gauge with the same name without the suffix.
    line("# TYPE tidegate_connections gauge");
    line("# TYPE tidegate_connections_total unknown");
    assert!(text.ends_with("\n# EOF\n"));
    let mut seen = BTreeSet::new();
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        assert!(seen.insert(name.split(' ').next()), "{name} is there twice");
    }
}

#[test]
fn protobuf_has_native_histograms_beside_exemplars() {
    let metrics = Metrics::new();
    for micros in [1_000, 1_000, 1_100, 2_000_000, 0] {
        metrics.stages.observe(Stage::Socket, micros, (micros == 2_000_000).then_some(TRACE));
    }
    let families = protobuf::read(&metrics.render_as(ExpositionFormat::Protobuf).unwrap()).unwrap();
    let family = families.iter().find(|family| family.name() == "tidegate_stage_seconds").unwrap();
    assert_eq!(family.kind(), Kind::Histogram);
    let has_stage = |metric: &&protobuf::Metric| metric.label.iter().any(|label| label.value() == "socket");
    let histogram = family.metric.iter().find(has_stage).unwrap().histogram.clone().unwrap();
    assert_eq!((histogram.schema, histogram.zero_count, histogram.sample_count), (Some(3), Some(1), Some(5)));
    // 1 ms is 2^-9.97: in the bucket that ends at 2^(-79/8); 1.1 ms is in the next one, and 2 s ends one.
    let span = |offset, length| Span { offset: Some(offset), length: Some(length) };
    assert_eq!(histogram.positive_span, [span(-79, 2), span(85, 1)]);
    assert_eq!(histogram.positive_delta, [2, -1, 0]);
    let counts: Vec<_> = histogram.bucket.iter().map(|bucket| bucket.cumulative_count.unwrap()).collect();
    assert!(counts.is_sorted() && counts.last() == Some(&5), "{counts:?}");
    let exemplars: Vec<_> = histogram.bucket.iter().filter_map(|bucket| bucket.exemplar.as_ref()).collect();
    assert_eq!(exemplars.len(), 1);
    assert_eq!(exemplars[0].label[0].value(), "00000000000000000000000000000abc");
    // Plain metrics are included as well.
    let up = families.iter().find(|family| family.name() == "tidegate_build_info").unwrap();
    assert_eq!((up.kind(), up.metric[0].gauge.unwrap().value()), (Kind::Gauge, 1.0));
}
