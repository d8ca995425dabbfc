//! Metrics of a gateway, fetched once and looked up by name and label.

use std::time::Duration;

use hyper::StatusCode;
use tokio::time::timeout;

use crate::connect::Dialer;
use crate::failure::Failure;
use crate::plan::Target;

const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The samples of one or several nodes at one moment, in Prometheus' text format.
#[derive(Clone, Debug, Default)]
pub struct Metrics(String);

impl Metrics {
    pub async fn of(targets: &[Target]) -> Result<Self, String> {
        let mut samples = String::new();
        for target in targets {
            let fetched = timeout(FETCH_TIMEOUT, fetch(target)).await;
            let text = fetched.unwrap_or_else(|_| Err("no answer in time".into()));
            let address = target.address;
            samples +=
                &text.map_err(|problem| format!("the metrics of {address} cannot be had: {problem}"))?;
        }
        Ok(Self(samples))
    }

    /// Returns the sum of a metric's samples with this label, written as in the text format; all samples if it is empty. `None`
    /// if there is no such sample. Values of labels must not hold commas, and those of the gateway do not.
    pub fn sum(&self, name: &str, label: &str) -> Option<f64> {
        let values = self.0.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (metric, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((series, ""));
            let fits = metric == name && (label.is_empty() || labels.split(',').any(|one| one == label));
            value.parse::<f64>().ok().filter(|_| fits)
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// Returns how much such a sum has grown since an earlier moment.
    pub fn growth(&self, since: &Self, name: &str, label: &str) -> Option<f64> {
        Some(self.sum(name, label)? - since.sum(name, label).unwrap_or(0.0))
    }
}

async fn fetch(target: &Target) -> Result<String, Failure> {
    let dialer = Dialer::to(target);
    let path = if target.path.is_empty() { "/metrics" } else { &target.path };
    let (status, body) = dialer.open().await?.ask(dialer.request("GET", path), "").await?;
    match status {
        StatusCode::OK => Ok(String::from_utf8_lossy(&body).into_owned()),
        status => Err(Failure(format!("HTTP {}", status.as_u16()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_added_up_by_name_and_label() {
        let text = "# HELP a b\n# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab 5\nnonsense";
        let metrics = Metrics(text.to_owned());
        assert_eq!((metrics.sum("a", ""), metrics.sum("a", "y=\"3\"")), (Some(7.0), Some(4.0)));
        assert_eq!((metrics.sum("a", "x=\"2\""), metrics.sum("ab", "")), (None, Some(5.0)));
    }
}
