//! From the configuration to a broker and the presence beside it.

use std::sync::Arc;

use crate::broker::memory::MemoryBroker;
use crate::broker::redis::{DialError, RedisBroker};
use crate::broker::show::shown_in;
use crate::broker::{Broker, BrokerEvents, BrokerKind};
use crate::config::Config;
use crate::ledger::Ledger;
use crate::ledger::memory::MemoryLedger;
use crate::ledger::redis::RedisLedger;
use crate::presence::Presence;
use crate::presence::memory::MemoryPresence;
use crate::presence::redis::RedisPresence;
use crate::sessions::SessionStore;
use crate::sessions::memory::MemorySessions;
use crate::sessions::redis::RedisSessions;
use crate::telemetry::Metrics;

/// A broker, and what is kept beside it.
pub(crate) struct Connected {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) presence: Arc<dyn Presence>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) sessions: Arc<dyn SessionStore>,
}

/// The broker that the configuration names, and what belongs to it. `node` is unique to this run of the node. Must be
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
            let (presence, ledger) = (Arc::new(MemoryPresence::new()), Arc::new(MemoryLedger::default()));
            let sessions = Arc::new(MemorySessions::default());
            Connected { broker, presence, ledger, sessions }
        }
        BrokerKind::Redis => {
            let broker = RedisBroker::start(&config.redis, node, events, shown_in(metrics, true))?;
            let presence = RedisPresence::start(&config.redis, node, broker.clone());
            let ledger = Arc::new(RedisLedger::new(&config.redis, broker.clone()));
            let sessions = Arc::new(RedisSessions::new(broker.clone()));
            Connected { broker, presence, ledger, sessions }
        }
    })
}
