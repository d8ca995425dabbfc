//! The section `api`: who may use the server API, and how much of it at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::secret::Secret;
use crate::setting::Faults;

/// Longest API key, in bytes: it must fit into a header.
const KEY_BYTES_MAX: usize = 1_024;

#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Address and port of the API alone, such as `127.0.0.1:8002`. With one, `/api/` is not served where clients
    /// connect. Port 0 takes a free one.
    #[serde(deserialize_with = "crate::setting::address_if_any")]
    pub listen: Option<SocketAddr>,
    /// Connections that only the API gets: beyond `limits.connections_max` where clients connect, so that they cannot
    /// lock it out; all there are at an address of its own.
    pub connections_max: u32,
    /// The keys that open the API; any of them does. None: the API is closed.
    pub keys: Vec<Secret>,
    /// A file with further keys, one a line.
    pub keys_file: Option<PathBuf>,
    /// For development only: no key is asked for.
    pub insecure: bool,
    /// Longest body of a request, in bytes.
    pub body_bytes_max: usize,
    /// Largest payload of one publication, in bytes.
    pub publication_bytes_max: usize,
    /// The most channels of one broadcast.
    pub broadcast_channels_max: usize,
    /// The most commands of one batch.
    pub batch_commands_max: usize,
    /// The most publications of one answer to `history`, asked for or not.
    pub history_limit_max: u32,
    /// Bytes that one answer tells of history, presence, lists and calls, roughly. A longer history comes in part, and
    /// questions of a batch that come after so much are refused with error 106.
    pub answer_bytes_max: u32,
    /// The most channels or connections of one answer that lists them, asked for or not.
    pub list_limit_max: u32,
    /// How errors are told where a request does not say it itself: `body`, with status 200 and an `error` in the body, or
    /// `transport`, with the status that fits and the error as the body.
    pub error_mode: ErrorMode,
    /// How long an idempotency key is remembered, in seconds.
    pub idempotency_ttl_s: u64,
    /// A request must have arrived in this time, in milliseconds. What it asks for is begun in this time or refused.
    pub deadline_ms: u64,
    /// Requests served at once. Others are told to come back.
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
