//! Connects to the broker that the configuration names, with its presence, ledger and sessions.

use std::sync::Arc;

use crate::broker::export_broker_metrics::{shown_by_shard, shown_in};
use crate::broker::memory::MemoryBroker;
use crate::broker::nats::{self, NatsBroker};
use crate::broker::redis::{DialError, RedisBroker, RedisMode};
use crate::broker::shards::ShardedBroker;
use crate::broker::{Broker, BrokerEvents, BrokerKind};
use crate::config::Config;
use crate::ledger::Ledger;
use crate::ledger::memory::MemoryLedger;
use crate::ledger::nats::NatsLedger;
use crate::ledger::redis::RedisLedger;
use crate::ledger::shards::ShardedLedger;
use crate::presence::Presence;
use crate::presence::memory::MemoryPresence;
use crate::presence::nats::NatsPresence;
use crate::presence::redis::RedisPresence;
use crate::presence::shards::ShardedPresence;
use crate::sessions::SessionStore;
use crate::sessions::memory::MemorySessions;
use crate::sessions::nats::NatsSessions;
use crate::sessions::redis::RedisSessions;
use crate::sessions::shards::ShardedSessions;
use crate::telemetry::Metrics;

/// A broker, and the stores beside it.
pub(crate) struct Connected {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) presence: Arc<dyn Presence>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) sessions: Arc<dyn SessionStore>,
}

/// Why the broker cannot be connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerConnectError {
    #[error(transparent)]
    Redis(#[from] DialError),
    #[error(transparent)]
    Nats(#[from] nats::NatsConnectError),
}

/// Connects the broker that the configuration names, and the stores beside it. `node` is unique to this run of the
/// node. Must be called within a tokio runtime.
pub(crate) async fn connect(
    config: &Config,
    node: &str,
    events: Arc<dyn BrokerEvents>,
    metrics: &Metrics,
) -> Result<Connected, BrokerConnectError> {
    Ok(match config.broker.kind {
        BrokerKind::Memory => {
            let broker = MemoryBroker::start(&config.broker.memory, events, shown_in(metrics, false));
            let (presence, ledger) = (Arc::new(MemoryPresence::new()), Arc::new(MemoryLedger::default()));
            let sessions = Arc::new(MemorySessions::default());
            Connected { broker, presence, ledger, sessions }
        }
        BrokerKind::Redis if config.redis.mode == RedisMode::Shards => {
            let broker = ShardedBroker::start(&config.redis, node, events, shown_by_shard(metrics))?;
            let shards = broker.shards();
            let presence = ShardedPresence::new(shards.map(|shard| {
                RedisPresence::start(&config.redis, node, shard.broker.clone()) as Arc<dyn Presence>
            }));
            let ledger = ShardedLedger::new(shards.map(|shard| {
                Arc::new(RedisLedger::new(&config.redis, shard.broker.clone())) as Arc<dyn Ledger>
            }));
            let sessions =
                ShardedSessions::new(shards.map(|shard| {
                    Arc::new(RedisSessions::new(shard.broker.clone())) as Arc<dyn SessionStore>
                }));
            let (presence, ledger, sessions) = (Arc::new(presence), Arc::new(ledger), Arc::new(sessions));
            Connected { broker, presence, ledger, sessions }
        }
        BrokerKind::Redis => {
            let broker = match config.redis.mode {
                RedisMode::Cluster => {
                    RedisBroker::start_in_cluster(&config.redis, node, events, shown_by_shard(metrics))?
                }
                _ => RedisBroker::start(&config.redis, node, events, shown_in(metrics, true))?,
            };
            let presence = RedisPresence::start(&config.redis, node, broker.clone());
            let ledger = Arc::new(RedisLedger::new(&config.redis, broker.clone()));
            let sessions = Arc::new(RedisSessions::new(broker.clone()));
            Connected { broker, presence, ledger, sessions }
        }
        BrokerKind::Nats => {
            let broker = NatsBroker::start(&config.nats, node, events, shown_in(metrics, true)).await?;
            let presence = NatsPresence::start(broker.clone(), config.nats.presence_ttl());
            let ledger = Arc::new(NatsLedger::new(&config.nats, broker.clone()));
            let sessions = Arc::new(NatsSessions::new(broker.clone()));
            Connected { broker, presence, ledger, sessions }
        }
    })
}
