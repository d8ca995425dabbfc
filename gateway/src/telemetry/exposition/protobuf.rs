//! The messages of `io.prometheus.client` (prometheus/client_model 0.3), as far as the gateway uses them. The numbers
//! of fields are those of the wire format.

use prometheus::proto::{self, MetricType};
use prost::Message;

use super::{Details, detail_of};
use crate::telemetry::latency::{self, Detail, FIRST_BUCKET};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) help: Option<String>,
    #[prost(enumeration = "Kind", optional, tag = "3")]
    pub(crate) kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) metric: Vec<Metric>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Kind {
    Counter = 0,
    Gauge = 1,
    Summary = 2,
    Untyped = 3,
    Histogram = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub(crate) label: Vec<Label>,
    #[prost(message, optional, tag = "2")]
    pub(crate) gauge: Option<ValueMessage>,
    #[prost(message, optional, tag = "3")]
    pub(crate) counter: Option<ValueMessage>,
    #[prost(message, optional, tag = "7")]
    pub(crate) histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Label {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) value: Option<String>,
}

/// The value of a gauge or a counter.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ValueMessage {
    #[prost(double, optional, tag = "1")]
    pub(crate) value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(crate) sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) bucket: Vec<BucketMessage>,
    #[prost(sint32, optional, tag = "5")]
    pub(crate) schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    pub(crate) zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    pub(crate) zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) positive_span: Vec<Span>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    pub(crate) positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BucketMessage {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(crate) upper_bound: Option<f64>,
    #[prost(message, optional, tag = "3")]
    pub(crate) exemplar: Option<ExemplarMessage>,
}

/// A run of buckets that are not empty, `offset` buckets behind the run before.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Span {
    #[prost(sint32, optional, tag = "1")]
    pub(crate) offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub(crate) length: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExemplarMessage {
    #[prost(message, repeated, tag = "1")]
    pub(crate) label: Vec<Label>,
    #[prost(double, optional, tag = "2")]
    pub(crate) value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    pub(crate) timestamp: Option<Timestamp>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

pub(super) fn write(families: &[proto::MetricFamily], details: &Details, out: &mut Vec<u8>) {
    for family in families {
        let message = family_of(family, details);
        message.encode_length_delimited(out).expect("a vector takes all that is written to it");
    }
}

/// Decodes all families of a response. Returns `None` if it is invalid.
pub(crate) fn read(mut body: &[u8]) -> Option<Vec<MetricFamily>> {
    let mut families = Vec::new();
    while !body.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut body).ok()?);
    }
    Some(families)
}

fn family_of(family: &proto::MetricFamily, details: &Details) -> MetricFamily {
    let kind = match family.get_field_type() {
        MetricType::COUNTER => Kind::Counter,
        MetricType::GAUGE => Kind::Gauge,
        MetricType::HISTOGRAM => Kind::Histogram,
        MetricType::SUMMARY | MetricType::UNTYPED => Kind::Untyped,
    };
    let metric = |metric: &proto::Metric| Metric {
        label: metric.get_label().iter().map(|label| label_of(label.name(), label.value())).collect(),
        gauge: (kind == Kind::Gauge).then(|| ValueMessage { value: Some(metric.get_gauge().get_value()) }),
        counter: (kind == Kind::Counter)
            .then(|| ValueMessage { value: Some(metric.get_counter().get_value()) }),
        histogram: (kind == Kind::Histogram)
            .then(|| histogram_of(metric.get_histogram(), detail_of(details, family, metric))),
    };
    MetricFamily {
        name: Some(family.name().to_owned()),
        help: Some(family.help().to_owned()),
        kind: Some(kind as i32),
        metric: family.get_metric().iter().map(metric).collect(),
    }
}

fn label_of(name: &str, value: &str) -> Label {
    Label { name: Some(name.to_owned()), value: Some(value.to_owned()) }
}

fn histogram_of(histogram: &proto::Histogram, detail: Option<&Detail>) -> Histogram {
    let mut made = Histogram {
        sample_count: Some(histogram.get_sample_count()),
        sample_sum: Some(histogram.get_sample_sum()),
        ..Histogram::default()
    };
    if let Some(detail) = detail {
        add_fine_buckets(detail, &mut made);
    }
    // Counting goes on while both are read: the plain buckets must not add up to more than the fine ones.
    let count = made.sample_count.unwrap_or_default();
    let exemplar = |at: usize| detail?.exemplars.get(at).copied().flatten().map(exemplar_of);
    let bucket = |(at, bucket): (usize, &proto::Bucket)| BucketMessage {
        cumulative_count: Some(bucket.cumulative_count().min(count)),
        upper_bound: Some(bucket.upper_bound()),
        exemplar: exemplar(at),
    };
    made.bucket = histogram.get_bucket().iter().enumerate().map(bucket).collect();
    if made.bucket.last().and_then(|bucket| bucket.upper_bound) != Some(f64::INFINITY) {
        let exemplar = exemplar(made.bucket.len());
        let (cumulative_count, upper_bound) = (Some(count), Some(f64::INFINITY));
        made.bucket.push(BucketMessage { cumulative_count, upper_bound, exemplar });
    }
    made
}

/// Adds the native histogram: runs of buckets that are not empty, each count as the difference to the one before.
fn add_fine_buckets(detail: &Detail, made: &mut Histogram) {
    made.schema = Some(latency::SCHEMA);
    made.zero_threshold = Some(latency::ZERO_SECONDS);
    made.zero_count = Some(detail.zero);
    made.sample_count = Some(detail.zero + detail.fine.iter().sum::<u64>());
    let (mut end, mut before) = (0, 0);
    for (index, count) in (FIRST_BUCKET..).zip(&detail.fine).filter(|(_, count)| **count > 0) {
        match made.positive_span.last_mut() {
            Some(span) if index == end => span.length = span.length.map(|length| length + 1),
            _ => made.positive_span.push(Span { offset: Some(index - end), length: Some(1) }),
        }
        end = index + 1;
        made.positive_delta.push(*count as i64 - before);
        before = *count as i64;
    }
    // Without a span the histogram would not be recognized as native.
    if made.positive_span.is_empty() {
        made.positive_span.push(Span { offset: Some(0), length: Some(0) });
    }
}

fn exemplar_of(exemplar: latency::Exemplar) -> ExemplarMessage {
    ExemplarMessage {
        label: vec![label_of("trace_id", &format!("{:032x}", exemplar.trace))],
        value: Some(exemplar.seconds),
        timestamp: Some(Timestamp { seconds: exemplar.at as i64, nanos: (exemplar.at.fract() * 1e9) as i32 }),
    }
}
