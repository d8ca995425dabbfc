//! What a gateway says of itself: its metrics, fetched once and looked up by name and label.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use tokio::time::timeout;

use crate::http::HttpConnection;
use crate::plan::Target;

const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The samples of one or several nodes at one moment, in the text format.
#[derive(Clone, Debug, Default)]
pub struct Metrics(String);

impl Metrics {
    pub async fn of(targets: &[Target]) -> Result<Self, String> {
        let mut samples = String::new();
        for target in targets {
            let fetched = timeout(FETCH_TIMEOUT, fetch(target)).await;
            let text = fetched.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            let address = target.address;
            samples +=
                &text.map_err(|problem| format!("the metrics of {address} cannot be had: {problem}"))?;
        }
        Ok(Self(samples))
    }

    /// The sum of a metric's samples with this label, as it stands there; any of an empty one. `None` if there is no
    /// such sample. Values of labels with commas in them are not told apart, which the gateway has none of.
    pub fn sum(&self, name: &str, label: &str) -> Option<f64> {
        let values = self.0.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (metric, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((series, ""));
            let fits = metric == name && (label.is_empty() || labels.split(',').any(|one| one == label));
            value.parse::<f64>().ok().filter(|_| fits)
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// How much such a sum has grown since another moment.
    pub fn growth(&self, since: &Self, name: &str, label: &str) -> Option<f64> {
        Some(self.sum(name, label)? - since.sum(name, label).unwrap_or(0.0))
    }
}

async fn fetch(target: &Target) -> Result<String, String> {
    let path = if target.path.is_empty() { "/metrics" } else { &target.path };
    let request = Request::get(path).header(HOST, &target.authority).body(Full::new(Bytes::new()));
    let request = request.map_err(|error| error.to_string())?;
    let (status, body) = HttpConnection::open(target).await?.ask(request).await?;
    match status {
        StatusCode::OK => String::from_utf8(body.to_vec()).map_err(|error| error.to_string()),
        status => Err(format!("HTTP {}", status.as_u16())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(text: &str) -> Metrics {
        Metrics(text.to_owned())
    }

    #[test]
    fn samples_are_added_up_by_name_and_label() {
        let text = "# HELP a b\n# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab 5\nnonsense";
        let metrics = metrics(text);
        assert_eq!((metrics.sum("a", ""), metrics.sum("a", "y=\"3\"")), (Some(7.0), Some(4.0)));
        assert_eq!((metrics.sum("a", "x=\"2\""), metrics.sum("ab", "")), (None, Some(5.0)));
    }

    #[test]
    fn what_is_new_has_grown_from_nothing() {
        let (before, after) = (metrics("a 3"), metrics("a 5\nb 2"));
        let grown = ["a", "b", "c"].map(|name| after.growth(&before, name, ""));
        assert_eq!(grown, [Some(2.0), Some(2.0), None]);
    }
}
