//! The settings of a namespace for its polled channels.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::poller::PollerSettings;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1_024;

/// Polling of channels of the type `shared_poll`. `[namespaces.NAME.shared_poll]` has the same keys.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PollOptions {
    /// The section of `backend.polls` that says where keys are polled. Required for the type `shared_poll`.
    pub backend: Box<str>,
    /// How changes are detected. `versioned`: the backend gives each value a version, and a higher version is newer.
    /// `versionless`: the node compares the contents.
    pub mode: PollMode,
    /// Interval between two polls of all followed keys, in milliseconds.
    pub refresh_interval_ms: u32,
    /// The most keys of one request. If a poll needs several requests, they are spread over the interval.
    pub refresh_batch_size: u32,
    /// The most keys of one channel that one connection can follow. Further ones are refused with 106.
    pub keys_per_connection_max: u32,
    /// The most keys of one channel that are followed on one node. Further ones are refused with 106.
    pub keys_per_channel_max: u32,
    /// Time that a channel is remembered after its last key was unfollowed, in milliseconds.
    pub linger_ms: u32,
    /// Allows the server API to publish newer content (`shared_poll_publish`) without waiting for the next poll. Only
    /// with the mode `versioned`.
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
