//! From the configuration to a broker and the presence beside it.

use std::sync::Arc;

use super::measure::BrokerMetrics;
use super::memory::MemoryBroker;
use super::{Broker, BrokerEvents};
use crate::config::Config;
use crate::presence::Presence;
use crate::presence::memory::MemoryPresence;
use crate::telemetry::Metrics;

/// What a broker is given by the node it is for.
pub(crate) struct Parts<'a> {
    /// Unique to this run of the node.
    pub(crate) id: &'a str,
    pub(crate) events: Arc<dyn BrokerEvents>,
    pub(crate) metrics: &'a Arc<Metrics>,
}

/// The broker that the configuration names. Must be called within a tokio runtime.
pub(crate) fn connect(config: &Config, parts: Parts<'_>) -> (Arc<dyn Broker>, Arc<dyn Presence>) {
    let metrics = Arc::new(BrokerMetrics::default());
    (MemoryBroker::start(&config.broker.memory, parts.events, metrics), Arc::new(MemoryPresence::new()))
}
