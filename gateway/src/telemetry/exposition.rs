//! The formats in which Prometheus reads metrics, and the choice between them.
//!
//! The library gathers families and writes the oldest format. The other two are written here, because the library knows
//! neither exemplars nor native histograms: decision 36.

mod open_metrics;
pub(crate) mod protobuf;

use prometheus::proto::MetricFamily;
use prometheus::{Encoder, TextEncoder};

use super::latency::Detail;

/// A format of metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExpositionFormat {
    /// Prometheus' text, version 0.0.4.
    Text,
    /// OpenMetrics 1.0: the same with exemplars.
    OpenMetrics,
    /// `io.prometheus.client.MetricFamily`, each behind its length: with exemplars and native histograms.
    Protobuf,
}

impl ExpositionFormat {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// Returns the format that an `Accept` header prefers (RFC 9110, section 12.5.1), the first of equally preferred
    /// ones. Text if the header is absent or names no known format.
    pub fn wanted(accept: Option<&str>) -> Self {
        let mut best = (Self::Text, 0.0);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters: Vec<(String, &str)> = parts
                .filter_map(|part| part.split_once('='))
                .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"')))
                .collect();
            let says = |name: &str, known: &str| {
                parameters.iter().find(|(given, _)| given == name).is_none_or(|(_, value)| *value == known)
            };
            let format = match &*media {
                "text/plain" if says("version", "0.0.4") => Self::Text,
                "text/*" | "*/*" => Self::Text,
                "application/openmetrics-text" if says("version", "1.0.0") => Self::OpenMetrics,
                "application/vnd.google.protobuf"
                    if says("proto", "io.prometheus.client.MetricFamily")
                        && says("encoding", "delimited") =>
                {
                    Self::Protobuf
                }
                _ => continue,
            };
            let quality = parameters.iter().find(|(name, _)| name == "q");
            let quality = quality.map_or(Ok(1.0), |(_, value)| value.parse::<f64>()).unwrap_or(0.0);
            if quality > best.1 {
                best = (format, quality);
            }
        }
        best.0
    }
}

/// The details of latencies, by family and label `stage`.
pub(super) type Details = [(&'static str, Option<&'static str>, Detail)];

pub(super) fn write(
    format: ExpositionFormat,
    families: &[MetricFamily],
    details: &Details,
) -> Result<Vec<u8>, prometheus::Error> {
    let mut out = Vec::with_capacity(32 * 1024);
    match format {
        ExpositionFormat::Text => TextEncoder::new().encode(families, &mut out)?,
        ExpositionFormat::OpenMetrics => open_metrics::write(families, details, &mut out),
        ExpositionFormat::Protobuf => protobuf::write(families, details, &mut out),
    }
    Ok(out)
}

/// Returns the details beyond the buckets of a histogram, if its family and labels have any.
fn detail_of<'d>(
    details: &'d Details,
    family: &MetricFamily,
    metric: &prometheus::proto::Metric,
) -> Option<&'d Detail> {
    let stage = metric.get_label().iter().find(|label| label.name() == "stage").map(|label| label.value());
    let found = details.iter().find(|(name, of, _)| *name == family.name() && *of == stage);
    found.map(|(_, _, detail)| detail)
}

#[cfg(test)]
mod tests;
