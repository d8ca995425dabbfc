//! From the configuration to a broker and the presence beside it.

use std::sync::Arc;

use crate::broker::memory::MemoryBroker;
use crate::broker::redis::{DialError, RedisBroker};
use crate::broker::show::shown_in;
use crate::broker::{Broker, BrokerEvents, BrokerKind};
use crate::config::Config;
use crate::presence::Presence;
use crate::presence::memory::MemoryPresence;
use crate::presence::redis::RedisPresence;
use crate::telemetry::Metrics;

/// A broker, and the presence that it keeps or that is kept beside it.
pub(crate) type Connected = (Arc<dyn Broker>, Arc<dyn Presence>);

/// The broker that the configuration names, and its presence. `node` is unique to this run of the node. Must be
/// called within a tokio runtime.
pub(crate) fn connect(
    config: &Config,
    node: &str,
    events: Arc<dyn BrokerEvents>,
    metrics: &Metrics,
) -> Result<Connected, DialError> {
    Ok(match config.broker.kind {
        BrokerKind::Memory => {
            let broker = MemoryBroker::start(&config.broker.memory, events, shown_in(metrics, false));
            (broker, Arc::new(MemoryPresence::new()))
        }
        BrokerKind::Redis => {
            let broker = RedisBroker::start(&config.redis, node, events, shown_in(metrics, true))?;
            let presence = RedisPresence::start(&config.redis, node, broker.clone());
            (broker, presence)
        }
    })
}
