//! How much the memory broker may hold.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SHARDS;

/// `[broker.memory]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most channels whose position or history is kept. Past it, the one left alone longest is forgotten and its
    /// subscribers start anew. Default 200000.
    pub channels_max: usize,
    /// Most bytes of history kept, over all channels. Past it, the history that would expire first is dropped.
    /// Default 268435456 (256 MiB).
    pub history_bytes_max: usize,
    /// Seconds for which an unused channel's offset and epoch are remembered. Default 86400 (a day).
    pub position_ttl_s: u64,
    /// Most idempotency keys remembered. Past it, the one that would expire first is forgotten. Default 200000.
    pub idempotency_keys_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            channels_max: 200_000,
            history_bytes_max: 256 << 20,
            position_ttl_s: 86_400,
            idempotency_keys_max: 200_000,
        }
    }
}

impl Config {
    /// Adds a sentence for each mistake.
    pub fn validate(&self, mistakes: &mut Vec<String>) {
        if self.channels_max < SHARDS {
            mistakes.push(format!("broker.memory.channels_max must be at least {SHARDS}"));
        }
        if self.idempotency_keys_max < SHARDS {
            mistakes.push(format!("broker.memory.idempotency_keys_max must be at least {SHARDS}"));
        }
        if self.position_ttl_s == 0 {
            mistakes.push("broker.memory.position_ttl_s must be at least 1".into());
        }
    }

    pub(super) fn position_ttl(&self) -> Duration {
        Duration::from_secs(self.position_ttl_s)
    }
}
