//! Routes pushes from Redis to their receivers.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use shared::push::OwnedEvent;
use shared::record::{decode_event_message, decode_message};

use super::redis_canary::Canaries;
use super::redis_keys::RedisKeys;
use super::redis_listen::MigratingChannels;
use super::resp::RedisMessage;
use super::subscriptions::ReceiveMessage;
use crate::broker::BrokerEvents;
use crate::broker::measure::BrokerMetrics;

/// The receivers of pushes. Runs on the connection's task, which reads nothing else meanwhile: must not wait.
pub(super) struct PushRouter {
    pub(super) keys: RedisKeys,
    pub(super) control: String,
    /// The pub/sub channel of messages for this node alone.
    pub(super) own: String,
    pub(super) canaries: Arc<Canaries>,
    /// Set in a cluster, which uses sharded pub/sub.
    pub(super) leaving: Option<MigratingChannels>,
    pub(super) events: Arc<dyn BrokerEvents>,
    pub(super) metrics: Arc<BrokerMetrics>,
    /// Grows with everything that arrives.
    pub(super) received: AtomicU64,
}

impl ReceiveMessage for PushRouter {
    fn receive(&self, message: &RedisMessage) {
        self.route(message);
    }

    fn left(&self, name: &[u8]) {
        if let (Some(leaving), Some(channel)) = (&self.leaving, self.keys.channel_of(name)) {
            leaving.left(channel);
            self.metrics.subscribed_channels.set(leaving.wanted.lock().len() as u64);
        }
    }

    fn received(&self) -> &AtomicU64 {
        &self.received
    }
}

impl PushRouter {
    fn route(&self, message: &RedisMessage) {
        let name = message.name();
        let message = message.data();
        if let Some(channel) = self.keys.channel_of(name) {
            self.metrics.received_bytes.add(message.len() as u64);
            match decode_event_message(message) {
                Ok(OwnedEvent::Publication(publication)) => {
                    self.metrics.received.increment();
                    self.events.publication(channel, publication);
                }
                Ok(event) => self.events.event(channel, event),
                Err(error) => {
                    self.metrics.undecodable.increment();
                    let count = self.metrics.undecodable.get();
                    // Logged ever more rarely: a publisher of unreadable messages may publish many.
                    if count.is_power_of_two() {
                        tracing::warn!(channel, %error, count, "publications from Redis cannot be read");
                    }
                }
            }
        } else if name == self.control.as_bytes() {
            self.events.control(message);
        } else if name == self.own.as_bytes() {
            self.events.node_message(message);
        } else if name == self.canaries.canary_channel().name.as_bytes()
            && let Ok(publication) = decode_message(message)
        {
            self.canaries.received(&publication);
        }
    }

    /// Whether channels are subscribed with sharded pub/sub.
    pub(super) fn is_sharded(&self) -> bool {
        self.leaving.is_some()
    }

    /// Returns the names that this node always listens to, without those of sharded pub/sub.
    pub(super) fn own_names(&self) -> Vec<String> {
        let canary = (!self.is_sharded()).then(|| self.canaries.canary_channel().name.clone());
        [self.control.clone(), self.own.clone()].into_iter().chain(canary).collect()
    }
}

impl std::fmt::Debug for PushRouter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushRouter").field("canaries", &self.canaries).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl PushRouter {
    /// One whose messages nobody takes.
    pub(super) fn to_nobody() -> Arc<Self> {
        let keys = RedisKeys::new("test", 0);
        Arc::new(Self {
            control: keys.control(),
            own: keys.node("test"),
            canaries: Arc::new(Canaries::new(keys.of_canaries(), "test")),
            keys,
            leaving: None,
            events: Arc::new(crate::node::FromBroker::default()),
            metrics: Arc::default(),
            received: AtomicU64::new(0),
        })
    }
}
