//! Passes on the events of one server with the number of its shard, and messages that come over several servers once.

use std::sync::Arc;

use bytes::Bytes;
use gateway_core::repeats::{Arrival, Repeats};
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::publication::Publication;
use shared::push::OwnedEvent;

use super::shard_message;
use crate::broker::BrokerEvents;
use crate::telemetry::LogLimiter;

pub(in crate::broker) struct ShardEvents {
    shard: usize,
    events: Arc<dyn BrokerEvents>,
    received: Arc<ShardMessages>,
}

/// The messages between nodes that arrived over all servers, to drop repeats.
#[derive(Debug, Default)]
pub(in crate::broker) struct ShardMessages {
    repeats: Mutex<Repeats>,
    unread_log: LogLimiter,
    late_log: LogLimiter,
}

impl ShardEvents {
    pub(in crate::broker) fn new(
        shard: usize,
        events: Arc<dyn BrokerEvents>,
        received: Arc<ShardMessages>,
    ) -> Self {
        Self { shard, events, received }
    }
}

impl ShardMessages {
    /// Hands a message on if it arrives for the first time. Holds the lock meanwhile, so that a later message does not
    /// overtake it.
    fn once(&self, written: Bytes, hand_on: impl FnOnce(Bytes)) {
        let Some((sender, number, message)) = shard_message::read(written) else {
            if let Some(suppressed) = self.unread_log.admit() {
                tracing::warn!(
                    suppressed,
                    "a message of another node cannot be read: that node has one Redis where this node has \
                     several, or runs another release"
                );
            }
            return;
        };
        let mut repeats = self.repeats.lock();
        match repeats.arrived(sender, number) {
            Arrival::First => hand_on(message),
            Arrival::Again => {}
            Arrival::Late => {
                if let Some(suppressed) = self.late_log.admit() {
                    tracing::warn!(
                        suppressed,
                        "a message of another node is dropped: it arrived so late that it may be a duplicate"
                    );
                }
            }
        }
    }
}

impl BrokerEvents for ShardEvents {
    fn publication(&self, channel: &str, publication: Publication) {
        self.events.publication(channel, publication);
    }

    fn event(&self, channel: &str, event: OwnedEvent) {
        self.events.event(channel, event);
    }

    fn control(&self, message: Bytes) {
        self.received.once(message, |message| self.events.control(message));
    }

    fn node_message(&self, message: Bytes) {
        self.received.once(message, |message| self.events.node_message(message));
    }

    fn resumed(&self, _part: usize) {
        self.events.resumed(self.shard);
    }

    fn moved(&self, part: usize, channels: Vec<Channel>) {
        self.events.moved(part, channels);
    }
}
