//! Presence over several nodes in Redis: each node writes its own clients under its own lease, in batches, in the background.
//!
//! Per channel there is a set of nodes, and per channel and node a hash of clients and a set of users. A node's clients
//! count as long as the node's lease is valid, which costs one command every few seconds however many clients there
//! are. A name whose lease has expired is never used again: the node takes another one and writes everything again, so
//! readers can remove entries that they find without a lease.

mod flush;
mod local;
mod probe_presence;
mod read_presence;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use gateway_core::effect::PresenceStats;
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::id::ClientId;
use shared::publication::ClientInfo;
use tokio::sync::{Notify, oneshot};
use tokio_util::task::AbortOnDropHandle;

use self::flush::Flusher;
use self::local::{RedisPresenceTable, RedisPresenceWaiter};
use self::read_presence::LiveNodes;
use super::Presence;
use crate::broker::redis::{RedisBroker, RedisConfig};
use crate::broker::{Broker, BrokerError, Effective};

#[derive(Debug)]
pub struct RedisPresence {
    broker: Arc<RedisBroker>,
    shared: Arc<RedisPresenceShared>,
    live: LiveNodes,
    timeout: Duration,
    lease: Duration,
    _flusher: AbortOnDropHandle<()>,
}

/// State shared by the callers that add and remove, and the task that writes.
#[derive(Debug)]
struct RedisPresenceShared {
    local: Mutex<RedisPresenceTable>,
    changed: Notify,
    /// Asks the task to end, and receives its result.
    retiring: Mutex<Option<RedisPresenceWaiter>>,
}

impl RedisPresence {
    /// Starts the writing task. `node` is unique to this process. Must be called within a tokio runtime.
    pub fn start(config: &RedisConfig, node: &str, broker: Arc<RedisBroker>) -> Arc<Self> {
        let shared = Arc::new(RedisPresenceShared {
            local: Mutex::default(),
            changed: Notify::new(),
            retiring: Mutex::new(None),
        });
        let flusher = Flusher::new(node, config.presence_ttl(), broker.clone(), shared.clone());
        Arc::new(Self {
            broker,
            shared,
            live: LiveNodes::new(config.presence_ttl()),
            timeout: config.timeout(),
            lease: config.presence_ttl(),
            _flusher: AbortOnDropHandle::new(tokio::spawn(flusher.run())),
        })
    }

    fn deadline(
        &self,
        done: oneshot::Receiver<Result<(), BrokerError>>,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send + use<> {
        let timeout = self.timeout;
        async move {
            match tokio::time::timeout(timeout, done).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(BrokerError::Unreachable(
                    "presence is being written again, or the node is stopping".into(),
                )),
                Err(_) => Err(BrokerError::Timeout(timeout)),
            }
        }
    }
}

impl Presence for RedisPresence {
    fn add(&self, channel: Channel, info: ClientInfo) -> Effective {
        let (waiter, written) = oneshot::channel();
        self.shared.local.lock().add(channel, info, waiter);
        self.shared.changed.notify_one();
        Effective::Later(self.deadline(written).boxed())
    }

    fn remove(&self, channel: Channel, client: ClientId) {
        self.shared.local.lock().remove(channel, client);
        self.shared.changed.notify_one();
    }

    fn clients(
        &self,
        channel: Channel,
    ) -> BoxFuture<'_, Result<BTreeMap<ClientId, ClientInfo>, BrokerError>> {
        self.live.read_clients(&self.broker, channel).boxed()
    }

    fn stats(&self, channel: Channel) -> BoxFuture<'_, Result<PresenceStats, BrokerError>> {
        self.live.read_stats(&self.broker, channel).boxed()
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        let parts = (0..self.broker.parts()).filter(|part| self.broker.has_part(*part));
        let all: Vec<_> = parts.map(|part| probe_presence::try_out(&self.broker, part)).collect();
        async move { join_all(all).await.into_iter().collect() }.boxed()
    }

    fn probe_of(&self, part: usize) -> BoxFuture<'_, Result<(), BrokerError>> {
        probe_presence::try_out(&self.broker, part).boxed()
    }

    fn retire(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        let (done, retired) = oneshot::channel();
        *self.shared.retiring.lock() = Some(done);
        self.shared.changed.notify_one();
        self.deadline(retired).boxed()
    }
}
