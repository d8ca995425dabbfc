//! The metrics of requests to the server API.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGauge, Registry};

use super::Metrics;
use super::metrics::FAST_BUCKETS;
use super::names;
use super::register::{counters, gauge, histograms};

#[derive(Debug)]
pub struct ApiMetrics {
    pub(crate) connections_on_workers: IntGauge,
    requests_total: IntCounterVec,
    seconds: HistogramVec,
}

impl ApiMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            connections_on_workers: gauge(r, names::API_CONNECTIONS_ON_WORKERS),
            requests_total: counters(r, names::API_REQUESTS_TOTAL),
            seconds: histograms(r, names::API_SECONDS, FAST_BUCKETS),
        }
    }
}

impl Metrics {
    /// Counts an answered request. `method` is the name of a method or `unknown`, never text from the request.
    pub fn api_request(&self, method: &'static str, status: u16, took: Duration) {
        self.api.requests_total.with_label_values(&[method, status_label(status)]).inc();
        self.api.seconds.with_label_values(&[method]).observe(took.as_secs_f64());
    }
}

/// Returns the label of a status: known ones by themselves, others by class.
fn status_label(status: u16) -> &'static str {
    const KNOWN: [(u16, &str); 14] = [
        (200, "200"),
        (400, "400"),
        (401, "401"),
        (403, "403"),
        (404, "404"),
        (405, "405"),
        (408, "408"),
        (411, "411"),
        (413, "413"),
        (415, "415"),
        (429, "429"),
        (500, "500"),
        (503, "503"),
        (504, "504"),
    ];
    let known = KNOWN.iter().find(|(known, _)| *known == status).map(|(_, label)| *label);
    known.unwrap_or(match status / 100 {
        2 => "2xx",
        4 => "4xx",
        _ => "5xx",
    })
}
