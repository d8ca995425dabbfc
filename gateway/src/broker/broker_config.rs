//! Which broker a node uses.

use serde::{Deserialize, Serialize};

use super::memory;
use crate::setting::Faults;

/// `[broker]`
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// `memory`: this node alone. `redis`: all nodes over the Redis of `[redis]` behave as one. `nats`: all nodes over the NATS of
    /// `[nats]` do, which needs JetStream.
    pub kind: BrokerKind,
    /// Bounds of the memory broker.
    pub memory: memory::MemoryBrokerConfig,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerKind {
    #[default]
    Memory,
    Redis,
    Nats,
}

impl BrokerConfig {
    pub fn check(&self, faults: &mut Faults) {
        self.memory.check(faults);
    }
}
