//! The section `api`: who may use the server API, and how much of it at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::secret::Secret;
use crate::setting::Faults;

/// Longest API key, in bytes: it must fit into a header.
const KEY_BYTES_MAX: usize = 1_024;

/// The server API, which the application's servers use.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Address and port for the API alone, such as `127.0.0.1:8002`. If set, the client listener does not serve
    /// `/api/`. Port 0: a free port.
    #[serde(deserialize_with = "crate::setting::address_if_any")]
    pub listen: Option<SocketAddr>,
    /// Connections reserved for the API. On the client listener they come on top of `limits.connections_max`, so that
    /// clients cannot lock the API out. With `api.listen`, this is the most connections there.
    pub connections_max: u32,
    /// The API keys; each of them gives full access. Without a key, the API refuses all requests.
    pub keys: Vec<Secret>,
    /// A file with more keys, one per line.
    pub keys_file: Option<PathBuf>,
    /// For development only: serves the API without a key.
    pub insecure: bool,
    /// The longest body of a request, in bytes.
    pub body_bytes_max: usize,
    /// The largest payload of one publication, in bytes.
    pub publication_bytes_max: usize,
    /// The most channels of one broadcast.
    pub broadcast_channels_max: usize,
    /// The most commands of one batch.
    pub batch_commands_max: usize,
    /// The most publications that one `history` command returns, whatever limit it asks for.
    pub history_limit_max: u32,
    /// The approximate limit of one response's history, presence, lists and RPC results, in bytes. A longer history
    /// is returned in part. Once a batch has used it up, its remaining queries are refused with error 106.
    pub answer_bytes_max: u32,
    /// The most channels or connections that one response lists, whatever limit the request asks for.
    pub list_limit_max: u32,
    /// How errors are reported unless a request chooses: `body`, with status 200 and an `error` in the body; or
    /// `transport`, with the matching HTTP status and the error as the body.
    pub error_mode: ErrorMode,
    /// Time that idempotency keys are remembered, in seconds.
    pub idempotency_ttl_s: u64,
    /// Time limit for a request to arrive, in milliseconds. Commands that have not begun by then are refused.
    pub deadline_ms: u64,
    /// The most requests served at once. Further ones are refused and may be retried.
    pub requests_max: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorMode {
    #[default]
    Body,
    Transport,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            listen: None,
            connections_max: 128,
            keys: Vec::new(),
            keys_file: None,
            insecure: false,
            body_bytes_max: 1024 * 1024,
            publication_bytes_max: 256 * 1024,
            broadcast_channels_max: 10_000,
            batch_commands_max: 10_000,
            history_limit_max: 1_000,
            answer_bytes_max: 64 * 1024 * 1024,
            list_limit_max: 10_000,
            error_mode: ErrorMode::Body,
            idempotency_ttl_s: 300,
            deadline_ms: 10_000,
            requests_max: 1_024,
        }
    }
}

impl ApiConfig {
    pub fn check(&self, faults: &mut Faults) {
        for key in &self.keys {
            let text = key.reveal();
            if text.is_empty()
                || text.len() > KEY_BYTES_MAX
                || !text.bytes().all(|byte| byte.is_ascii_graphic())
            {
                faults.add("keys", format!("each must be 1 to {KEY_BYTES_MAX} printable ASCII characters"));
            }
        }
        faults.outside("connections_max", self.connections_max, 1..=65_535);
        faults.outside("body_bytes_max", self.body_bytes_max, 1_024..=64 * 1024 * 1024);
        faults.outside("publication_bytes_max", self.publication_bytes_max, 1..=self.body_bytes_max);
        faults.outside("broadcast_channels_max", self.broadcast_channels_max, 1..=1_000_000);
        faults.outside("batch_commands_max", self.batch_commands_max, 1..=1_000_000);
        faults.outside("history_limit_max", self.history_limit_max, 1..=1_000_000);
        faults.outside("answer_bytes_max", self.answer_bytes_max, 1_024..=u32::MAX);
        faults.outside("list_limit_max", self.list_limit_max, 1..=1_000_000);
        faults.outside("idempotency_ttl_s", self.idempotency_ttl_s, 1..=86_400);
        faults.outside("deadline_ms", self.deadline_ms, 100..=300_000);
        faults.outside("requests_max", self.requests_max, 1..=1_000_000);
    }

    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    pub fn idempotency_ttl(&self) -> Duration {
        Duration::from_secs(self.idempotency_ttl_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty_keys(config: &ApiConfig) -> Vec<String> {
        let mut faults = Faults::default();
        config.check(&mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(faulty_keys(&ApiConfig::default()), Vec::<String>::new());
    }

    #[test]
    fn keys_that_no_header_can_carry_are_told() {
        for bad in ["", "two words", "é", "line\n"] {
            let config =
                ApiConfig { keys: vec![Secret::new("good"), Secret::new(bad)], ..ApiConfig::default() };
            assert_eq!(faulty_keys(&config), ["keys"], "{bad:?}");
        }
    }
}
