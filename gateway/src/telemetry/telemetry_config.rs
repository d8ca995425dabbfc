//! The section `telemetry`: logs, traces and the labels of metrics.

use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// Logs, metrics and traces.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// `text`, for people, or `json`, one object per line.
    pub log_format: LogFormat,
    /// The level of the log: `error`, `warn`, `info`, `debug`, `trace` or `off`, also per module:
    /// `info,tidegate::broker=debug`.
    pub log_level: String,
    /// The collector of traces, which are sent as OTLP in protobuf over HTTP: `http://collector:4318`, or with a
    /// path, `http://collector:4318/v1/traces`. Not set: no traces.
    pub otlp_endpoint: Option<String>,
    /// The share of publications that are traced, from 0 to 1.
    pub trace_ratio: f64,
    /// The name of this service in traces.
    pub service_name: String,
    /// Adds a label `node` with the node's name (`node.name`) to every metric. For a Prometheus that knows nodes by
    /// address only.
    pub node_label: bool,
    /// The number of publications per second whose way from publisher to socket this node measures
    /// (`tidegate_stage_seconds`). They are sampled evenly from the publications of this node. At most 10000. 0:
    /// none.
    pub stage_samples_per_second: u32,
    /// Time limit for sending the remaining traces when the node stops, in milliseconds.
    pub flush_timeout_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
            otlp_endpoint: None,
            trace_ratio: 0.01,
            service_name: "tidegate".to_owned(),
            node_label: false,
            stage_samples_per_second: 50,
            flush_timeout_ms: 3000,
        }
    }
}

impl TelemetryConfig {
    pub fn check(&self, faults: &mut Faults) {
        if let Err(error) = self.log_level.parse::<tracing_subscriber::filter::Targets>() {
            faults.add("log_level", format!("is not a log filter: {error}"));
        } else if let Some(word) = no_level(&self.log_level) {
            faults.add(
                "log_level",
                format!(
                    "\"{word}\" is not a level: use off, error, warn, info, debug, trace, or MODULE=LEVEL"
                ),
            );
        }
        if let Some(Err(problem)) = self.otlp_endpoint.as_deref().map(full_endpoint) {
            faults.add("otlp_endpoint", problem);
        }
        if !(0.0..=1.0).contains(&self.trace_ratio) {
            faults.add("trace_ratio", format!("is {}, must be from 0 to 1", self.trace_ratio));
        }
        faults.outside("stage_samples_per_second", self.stage_samples_per_second, 0..=10_000);
        faults.outside("flush_timeout_ms", self.flush_timeout_ms, 0..=60_000);
    }
}

/// Returns the first word that stands alone and is no level. A filter takes it for the name of a module, of which
/// everything is logged, and nothing of any other: a node with the level `warning` would be silent.
fn no_level(filter: &str) -> Option<&str> {
    let words = filter.split(',').map(str::trim).filter(|word| !word.contains('='));
    words.into_iter().find(|word| word.parse::<tracing::level_filters::LevelFilter>().is_err())
}

/// The path at which collectors accept traces.
const TRACES_PATH: &str = "/v1/traces";

/// Returns the address that traces are sent to. The base address of a collector, as its other clients need it, is
/// completed by the path.
pub(super) fn full_endpoint(endpoint: &str) -> Result<String, &'static str> {
    let uri: ::http::Uri = endpoint.parse().map_err(|_| "must be a URL such as http://127.0.0.1:4318")?;
    match uri.scheme_str() {
        Some("http") if uri.host().is_some_and(|host| !host.is_empty()) => {}
        Some("https") => {
            return Err(
                "https is not supported: send to a collector over http, on this machine or in its network",
            );
        }
        _ => return Err("must be a URL such as http://127.0.0.1:4318"),
    }
    if uri.query().is_some() {
        return Err("must not have a query (after a question mark)");
    }
    Ok(match uri.path() {
        "" | "/" => format!("{}{TRACES_PATH}", endpoint.trim_end_matches('/')),
        _ => endpoint.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_address_of_a_collector_is_completed_and_a_path_is_kept() {
        for base in ["http://host:4318", "http://host:4318/"] {
            assert_eq!(full_endpoint(base).unwrap(), "http://host:4318/v1/traces");
        }
        for full in ["http://host:4318/v1/traces", "http://host/otlp/v1/traces", "http://[::1]:1/x"] {
            assert_eq!(full_endpoint(full).unwrap(), full);
        }
    }

    #[test]
    fn a_word_that_is_no_level_does_not_silence_the_node() {
        let is_refused = |level: &str| {
            let mut faults = Faults::default();
            TelemetryConfig { log_level: level.to_owned(), ..TelemetryConfig::default() }.check(&mut faults);
            !faults.into_inner().is_empty()
        };
        for bad in ["warning", "loud", "info,verbose", "tidegate", "info,tidegate=loud"] {
            assert!(is_refused(bad), "{bad:?}");
        }
        for good in ["off", "WARN", "info,tidegate::broker=debug", "tidegate=trace", "warn, tidegate=info"] {
            assert!(!is_refused(good), "{good:?}");
        }
    }

    #[test]
    fn what_traces_cannot_be_sent_to_is_refused_in_words() {
        assert!(full_endpoint("https://host:4318").unwrap_err().contains("https"));
        for bad in ["", "host:4318", "grpc://host:4317", "http://", "/v1/traces", "http://host?x"] {
            assert!(full_endpoint(bad).is_err(), "{bad}");
        }
    }
}
