//! OpenMetrics 1.0, as text.

use std::fmt::{self, Display, Write};

use prometheus::proto::{Bucket, LabelPair, Metric, MetricFamily, MetricType};

use super::{Details, detail_of};
use crate::telemetry::latency::Exemplar;

pub(super) fn write(families: &[MetricFamily], details: &Details, out: &mut Vec<u8>) {
    let mut text = String::with_capacity(32 * 1024);
    for family in families {
        write_family(family, families, details, &mut text).expect("a String takes all that is written to it");
    }
    text.push_str("# EOF\n");
    out.extend_from_slice(text.as_bytes());
}

fn write_family(
    family: &MetricFamily,
    families: &[MetricFamily],
    details: &Details,
    text: &mut String,
) -> fmt::Result {
    let name = family.name();
    let (of, kind) = match family.get_field_type() {
        MetricType::COUNTER => match name.strip_suffix("_total") {
            // Two families cannot have the same name, and some counters differ from a gauge only in this suffix.
            Some(short) if families.iter().all(|other| other.name() != short) => (short, "counter"),
            _ => (name, "unknown"),
        },
        MetricType::GAUGE => (name, "gauge"),
        MetricType::HISTOGRAM => (name, "histogram"),
        MetricType::SUMMARY | MetricType::UNTYPED => (name, "unknown"),
    };
    writeln!(text, "# HELP {of} {}", Escaped(family.help()))?;
    writeln!(text, "# TYPE {of} {kind}")?;
    for metric in family.get_metric() {
        let labels = metric.get_label();
        match family.get_field_type() {
            MetricType::COUNTER => {
                writeln!(
                    text,
                    "{name}{} {}",
                    Labels(labels, None),
                    Number(metric.get_counter().get_value())
                )?;
            }
            MetricType::HISTOGRAM => write_histogram(family, metric, details, text)?,
            _ => writeln!(text, "{name}{} {}", Labels(labels, None), Number(metric.get_gauge().get_value()))?,
        }
    }
    Ok(())
}

fn write_histogram(
    family: &MetricFamily,
    metric: &Metric,
    details: &Details,
    text: &mut String,
) -> fmt::Result {
    let (name, labels, histogram) = (family.name(), metric.get_label(), metric.get_histogram());
    let exemplars = detail_of(details, family, metric).map_or(&[][..], |detail| &detail.exemplars);
    let count = histogram.get_sample_count();
    let ends = histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let has_last = histogram.get_bucket().last().map(Bucket::upper_bound) == Some(f64::INFINITY);
    let last = (!has_last).then_some((f64::INFINITY, count));
    for (at, (end, so_many)) in ends.chain(last).enumerate() {
        write!(text, "{name}_bucket{} {so_many}", Labels(labels, Some(end)))?;
        if let Some(Some(Exemplar { trace, seconds, at })) = exemplars.get(at) {
            write!(text, " # {{trace_id=\"{trace:032x}\"}} {} {at:.3}", Number(*seconds))?;
        }
        text.push('\n');
    }
    writeln!(text, "{name}_sum{} {}", Labels(labels, None), Number(histogram.get_sample_sum()))?;
    writeln!(text, "{name}_count{} {count}", Labels(labels, None))
}

/// Labels in braces, with the upper bound of a bucket if there is one.
struct Labels<'a>(&'a [LabelPair], Option<f64>);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(labels, end) = self;
        if labels.is_empty() && end.is_none() {
            return Ok(());
        }
        f.write_char('{')?;
        for (at, label) in labels.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{}=\"{}\"", label.name(), Escaped(label.value()))?;
        }
        if let Some(end) = end {
            let comma = if labels.is_empty() { "" } else { "," };
            write!(f, "{comma}le=\"{}\"", Number(*end))?;
        }
        f.write_char('}')
    }
}

/// A number as OpenMetrics writes it: `1.0`, `0.25`, `+Inf`, and `5e-05` as Prometheus itself does, so that labels `le`
/// are the same in all formats.
struct Number(f64);

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            number if number == f64::INFINITY => f.write_str("+Inf"),
            number if number == f64::NEG_INFINITY => f.write_str("-Inf"),
            number if number.is_nan() => f.write_str("NaN"),
            number => {
                let text = format!("{number:?}");
                match text.split_once("e-") {
                    Some((digits, exponent)) => write!(f, "{digits}e-{exponent:0>2}"),
                    None => f.write_str(&text),
                }
            }
        }
    }
}

/// A text with its quotes, line breaks and backslashes escaped.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' => f.write_str("\\\"")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_prometheus_writes_them() {
        let cases = [
            (1.0, "1.0"),
            (0.25, "0.25"),
            (0.000_1, "0.0001"),
            (0.000_05, "5e-05"),
            (1.5e-10, "1.5e-10"),
            (f64::INFINITY, "+Inf"),
        ];
        for (number, text) in cases {
            assert_eq!(Number(number).to_string(), text);
        }
    }
}
