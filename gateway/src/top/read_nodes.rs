//! Reads the metrics of nodes, and keeps track of nodes that do not answer.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::ACCEPT;
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::exchange::exchange;
use crate::inspect::CliError;
use crate::telemetry::exposition::ExpositionFormat;
use crate::telemetry::exposition::protobuf::{self, MetricFamily};

/// The timeout for one node. It delays the others on the page.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// The number of readings that are kept. Quantiles cover the time between the oldest and the newest.
const READINGS_MAX: usize = 11;

/// All metrics of a node at one time, by name.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) families: HashMap<String, MetricFamily>,
}

#[derive(Debug)]
pub(super) struct WatchedNode {
    url: Uri,
    /// The node's own name, if its metrics carry it, or else its address.
    pub(super) name: String,
    /// The newest reading last.
    pub(super) readings: VecDeque<Reading>,
    /// Since when, and why, the node does not answer.
    pub(super) gone: Option<(Instant, String)>,
}

pub(super) struct MetricsReader {
    client: Client<HttpConnector, Full<Bytes>>,
    nodes: Vec<WatchedNode>,
}

impl MetricsReader {
    pub(super) fn new(urls: &[String]) -> Result<Self, CliError> {
        let node = |url: &String| {
            let metrics = format!("{}/metrics", url.trim_end_matches('/').trim_end_matches("/metrics"));
            let parsed: Uri = metrics.parse().map_err(|_| CliError::InternalUrl(url.clone()))?;
            let authority = parsed.authority().filter(|_| parsed.scheme_str() == Some("http"));
            let authority = authority.ok_or_else(|| CliError::InternalUrl(url.clone()))?;
            // The user part of the URL is never shown: it can be a password.
            let port = authority.port().map_or(String::new(), |port| format!(":{port}"));
            let name = format!("{}{port}", authority.host());
            Ok(WatchedNode { url: parsed, name, readings: VecDeque::new(), gone: None })
        };
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { client, nodes: urls.iter().map(node).collect::<Result<_, CliError>>()? })
    }

    pub(super) fn nodes(&self) -> &[WatchedNode] {
        &self.nodes
    }

    /// Reads all nodes concurrently.
    pub(super) async fn read(&mut self) {
        let client = &self.client;
        let requests = self.nodes.iter().map(|node| async move {
            tokio::time::timeout(ANSWER_TIMEOUT, ask(client, &node.url))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))
        });
        let answers = join_all(requests).await;
        for (node, answer) in self.nodes.iter_mut().zip(answers) {
            match answer {
                Ok(reading) => node.take(reading),
                Err(problem) => {
                    let since = node.gone.as_ref().map_or_else(Instant::now, |(since, _)| *since);
                    node.gone = Some((since, problem));
                }
            }
        }
    }
}

impl WatchedNode {
    #[cfg(test)]
    pub(super) fn of(name: &str, readings: VecDeque<Reading>) -> Self {
        Self { url: Uri::default(), name: name.to_owned(), readings, gone: None }
    }

    fn take(&mut self, reading: Reading) {
        self.gone = None;
        let started = |reading: &Reading| super::figures::sum(reading, "tidegate_process_start_time_seconds");
        // The counters of a restarted node begin at zero.
        if self.readings.back().is_some_and(|last| started(last) != started(&reading)) {
            self.readings.clear();
        }
        if let Some(name) = super::figures::node_label(&reading) {
            self.name = name;
        }
        self.readings.push_back(reading);
        if self.readings.len() > READINGS_MAX {
            self.readings.pop_front();
        }
    }
}

async fn ask(client: &Client<HttpConnector, Full<Bytes>>, url: &Uri) -> Result<Reading, String> {
    let request = Request::get(url).header(ACCEPT, ExpositionFormat::Protobuf.content_type());
    let request = request.body(Full::default()).map_err(|error| error.to_string())?;
    let (status, body) = exchange(client, request, ANSWER_BYTES_MAX).await?;
    if status != StatusCode::OK {
        return Err(format!("it answers {status}"));
    }
    let families =
        protobuf::read(&body).ok_or("its metrics cannot be read: does it run an earlier release?")?;
    let families = families.into_iter().map(|family| (family.name().to_owned(), family));
    Ok(Reading { at: Instant::now(), families: families.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_by_where_it_is_and_its_path_need_not_be_spelled_out() {
        let urls = [
            "http://10.0.0.7:8001",
            "http://10.0.0.7:8001/",
            "http://10.0.0.7:8001/metrics",
            "http://me:secret@10.0.0.7:8001",
        ];
        for node in MetricsReader::new(&urls.map(str::to_owned)).unwrap().nodes() {
            assert_eq!((&*node.name, node.url.path()), ("10.0.0.7:8001", "/metrics"));
        }
        for none in ["", "10.0.0.7:8001", "https://a", "/metrics"] {
            assert!(MetricsReader::new(&[none.to_owned()]).is_err(), "{none}");
        }
    }
}
