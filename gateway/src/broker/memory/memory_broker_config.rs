//! How much the memory broker may hold.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SHARDS;
use crate::setting::Faults;

/// A year: longer is a mistake in the unit.
const TTL_S_MAX: u64 = 31_536_000;

/// Limits of the memory broker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryBrokerConfig {
    /// The most channels whose stream position or history is kept. Beyond it, the channel unused for longest is
    /// forgotten, and its subscribers start anew.
    pub channels_max: usize,
    /// The most bytes of history over all channels. Beyond it, the history that would expire first is dropped.
    pub history_bytes_max: usize,
    /// The most keys over all maps. Beyond it, publications of new keys are refused with 106, because unlike history
    /// the state of a map cannot be dropped.
    pub keys_max: usize,
    /// The most bytes of these keys. Beyond it, publications of new keys are refused with 106.
    pub state_bytes_max: usize,
    /// Time that an unused channel's offset and epoch are remembered, in seconds.
    pub position_ttl_s: u64,
    /// The most idempotency keys remembered. Beyond it, the key that would expire first is forgotten.
    pub idempotency_keys_max: usize,
}

impl Default for MemoryBrokerConfig {
    fn default() -> Self {
        Self {
            channels_max: 200_000,
            history_bytes_max: 256 << 20,
            keys_max: 1_000_000,
            state_bytes_max: 256 << 20,
            position_ttl_s: 86_400,
            idempotency_keys_max: 200_000,
        }
    }
}

impl MemoryBrokerConfig {
    pub(in crate::broker) fn check(&self, faults: &mut Faults) {
        faults.outside("memory.channels_max", self.channels_max, SHARDS..=100_000_000);
        faults.outside("memory.history_bytes_max", self.history_bytes_max, 0..=usize::MAX / 2);
        faults.outside("memory.keys_max", self.keys_max, 1..=100_000_000);
        faults.outside("memory.state_bytes_max", self.state_bytes_max, 0..=usize::MAX / 2);
        faults.outside("memory.position_ttl_s", self.position_ttl_s, 1..=TTL_S_MAX);
        faults.outside("memory.idempotency_keys_max", self.idempotency_keys_max, SHARDS..=100_000_000);
    }

    pub(super) fn position_ttl(&self) -> Duration {
        Duration::from_secs(self.position_ttl_s)
    }
}
