//! What a node tells of itself, in which form and to whom.

use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// Logs and traces.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `json`: one object a line; `text`: for people.
    pub log_format: LogFormat,
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or by module: `info,tidegate::broker=debug`.
    pub log_level: String,
    /// Where traces are sent to, as OTLP in protobuf over HTTP: `http://collector:4318/v1/traces`. Not set: no
    /// traces.
    pub otlp_endpoint: Option<String>,
    /// The share of publications that are traced, from 0 to 1.
    pub trace_ratio: f64,
    /// The name this service has in traces.
    pub service_name: String,
    /// How long traces may take to be sent when the node stops, in milliseconds.
    pub flush_timeout_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
            otlp_endpoint: None,
            trace_ratio: 0.01,
            service_name: "tidegate".to_owned(),
            flush_timeout_ms: 3000,
        }
    }
}

impl Config {
    pub fn check(&self, faults: &mut Faults) {
        if let Err(error) = self.log_level.parse::<tracing_subscriber::filter::Targets>() {
            faults.add("log_level", format!("is no log filter: {error}"));
        }
        if let Some(endpoint) = &self.otlp_endpoint {
            let uri = endpoint.parse::<::http::Uri>();
            if !uri.is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some()) {
                faults.add("otlp_endpoint", "must be a URL such as http://127.0.0.1:4318/v1/traces");
            }
        }
        if !(0.0..=1.0).contains(&self.trace_ratio) {
            faults.add("trace_ratio", format!("is {}, must be from 0 to 1", self.trace_ratio));
        }
        faults.outside("flush_timeout_ms", self.flush_timeout_ms, 0..=60_000);
    }
}
