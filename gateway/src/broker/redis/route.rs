//! What arrives from Redis, and to whom it goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use shared::record::decode_message;
use tokio::sync::oneshot;

use super::keys::Keys;
use super::resp::Message;
use crate::broker::BrokerEvents;
use crate::broker::measure::BrokerMetrics;

/// Where pushes go. Runs on the connection's task, which reads nothing else meanwhile: must not wait.
pub(super) struct Router {
    pub(super) keys: Keys,
    pub(super) control: String,
    pub(super) canary: String,
    pub(super) canaries: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    pub(super) events: Arc<dyn BrokerEvents>,
    pub(super) metrics: Arc<BrokerMetrics>,
    /// Grows with whatever arrives.
    pub(super) heard: AtomicU64,
}

impl Router {
    pub(super) fn route(&self, message: &Message) {
        let name = message.name();
        let message = message.data();
        if let Some(channel) = self.keys.channel_of(name) {
            self.metrics.received_bytes.add(message.len() as u64);
            match decode_message(message) {
                Ok(publication) => {
                    self.metrics.received.increment();
                    self.events.publication(channel, publication);
                }
                Err(error) => {
                    self.metrics.undecodable.increment();
                    let count = self.metrics.undecodable.get();
                    // Whoever writes such things may write many.
                    if count.is_power_of_two() {
                        tracing::warn!(channel, %error, count, "publications from Redis cannot be read");
                    }
                }
            }
        } else if name == self.control.as_bytes() {
            self.events.control(message);
        } else if name == self.canary.as_bytes() {
            let number = std::str::from_utf8(&message).ok().and_then(|text| text.parse().ok());
            if let Some(waiting) = number.and_then(|number: u64| self.canaries.lock().remove(&number)) {
                // Whoever waited may have given up this very moment.
                let _ = waiting.send(());
            }
        }
    }

    /// The names this node always listens to.
    pub(super) fn own_names(&self) -> [String; 2] {
        [self.control.clone(), self.canary.clone()]
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("canary", &self.canary).finish_non_exhaustive()
    }
}
