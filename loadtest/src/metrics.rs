//! What a gateway says of itself: its metrics, fetched once and looked up by name and labels.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use tokio::time::timeout;

use crate::http::call;
use crate::plan::Target;

const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The samples of one or several nodes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    /// As they stand between the braces.
    labels: String,
    value: f64,
}

#[derive(Debug, thiserror::Error)]
#[error("the metrics of {address} cannot be had: {problem}")]
pub struct MetricsError {
    address: SocketAddr,
    problem: String,
}

impl Metrics {
    pub async fn of(targets: &[Target]) -> Result<Self, MetricsError> {
        let mut samples = Vec::new();
        for target in targets {
            let fetched = timeout(FETCH_TIMEOUT, fetch(target)).await;
            let text = fetched
                .unwrap_or_else(|_| Err("no answer in time".to_owned()))
                .map_err(|problem| MetricsError { address: target.address, problem })?;
            samples.extend(text.lines().filter_map(parse));
        }
        Ok(Self { samples })
    }

    /// The sum of a metric's samples that have all of these labels. `None` if there is no such sample.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let fits = |sample: &&Sample| {
            sample.name == name && wanted.iter().all(|one| sample.labels.split(',').any(|has| has == one))
        };
        self.samples
            .iter()
            .filter(fits)
            .map(|sample| sample.value)
            .fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// How much such a sum has grown since another moment.
    pub fn growth(&self, since: &Self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        Some(self.sum(name, labels)? - since.sum(name, labels).unwrap_or(0.0))
    }
}

async fn fetch(target: &Target) -> Result<String, String> {
    let path = if target.path.is_empty() { "/metrics" } else { &target.path };
    let bytes = call(target.address, Method::GET, path, Bytes::new()).await?;
    String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())
}

/// A line of the text format, unless it is a comment. Values of labels with commas in them are not told apart, which
/// the gateway has none of.
fn parse(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    Some(Sample { name: name.to_owned(), labels: labels.to_owned(), value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(text: &str) -> Metrics {
        Metrics { samples: text.lines().filter_map(parse).collect() }
    }

    #[test]
    fn samples_are_added_up_by_name_and_labels() {
        let text = "# HELP a b\n# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab 5\nnonsense";
        let metrics = metrics(text);
        assert_eq!(metrics.sum("a", &[]), Some(7.0));
        assert_eq!(metrics.sum("a", &[("x", "1"), ("y", "3")]), Some(4.0));
        assert_eq!((metrics.sum("a", &[("x", "2")]), metrics.sum("ab", &[])), (None, Some(5.0)));
    }

    #[test]
    fn what_is_new_has_grown_from_nothing() {
        let (before, after) = (metrics("a 3"), metrics("a 5\nb 2"));
        assert_eq!(after.growth(&before, "a", &[]), Some(2.0));
        assert_eq!(after.growth(&before, "b", &[]), Some(2.0));
        assert_eq!(after.growth(&before, "c", &[]), None);
    }
}
