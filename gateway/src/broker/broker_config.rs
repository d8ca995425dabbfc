//! Which broker a node uses.

use serde::{Deserialize, Serialize};

use super::memory;
use crate::setting::Faults;

/// The broker that connects the nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// `memory`: no broker, one node on its own. `redis`: all nodes that use the Redis of `[redis]` form a cluster.
    /// `nats`: all nodes that use the NATS of `[nats]` form a cluster; needs JetStream.
    pub kind: BrokerKind,
    /// Limits of the memory broker.
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
