//! The settings of a namespace for its polled channels.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::poller::PollerSettings;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1_024;

/// How channels of the type `shared_poll` are asked for. `[namespaces.NAME.shared_poll]` has the same keys.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PollOptions {
    /// Which section of `backend.polls` says where the keys are asked for. Required for the type `shared_poll`.
    pub backend: Box<str>,
    /// Whether the backend numbers what it answers, so that the higher number is the newer content (`versioned`), or
    /// the gateway has to see from the content what has changed (`versionless`).
    pub mode: PollMode,
    /// Milliseconds from one round over all followed keys to the next.
    pub refresh_interval_ms: u32,
    /// The most keys of one request. A round of several requests is spread over the interval.
    pub refresh_batch_size: u32,
    /// The most keys of one channel that one connection follows. More are refused with 106.
    pub keys_per_connection_max: u32,
    /// The most keys of one channel that are followed on one node. More are refused with 106.
    pub keys_per_channel_max: u32,
    /// Milliseconds for which a channel is remembered when nobody follows any of its keys.
    pub linger_ms: u32,
    /// Let the server API publish newer content (`shared_poll_publish`), which then need not wait for the next round.
    /// Only with the mode `versioned`.
    pub publish_enabled: bool,
}

/// How newer content is recognized.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PollMode {
    /// By different content.
    #[default]
    Versionless,
    /// By a higher version.
    Versioned,
}

impl Default for PollOptions {
    fn default() -> Self {
        Self {
            backend: "".into(),
            mode: PollMode::Versionless,
            refresh_interval_ms: 10_000,
            refresh_batch_size: 1_000,
            keys_per_connection_max: 5_000,
            keys_per_channel_max: 100_000,
            linger_ms: 1_000,
            publish_enabled: false,
        }
    }
}

impl PollOptions {
    pub fn settings(&self) -> PollerSettings {
        PollerSettings {
            versioned: self.mode == PollMode::Versioned,
            interval: Duration::from_millis(self.refresh_interval_ms.into()),
            batch: self.refresh_batch_size as usize,
            keys_max: self.keys_per_channel_max as usize,
            linger: Duration::from_millis(self.linger_ms.into()),
        }
    }
}
