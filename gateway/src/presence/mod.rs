//! Presence: the clients that are subscribed to a channel, over all nodes.

pub mod memory;
pub mod nats;
pub mod redis;
pub mod shards;

mod room;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use gateway_core::effect::PresenceStats;
use shared::channel::Channel;
use shared::id::ClientId;
use shared::publication::ClientInfo;

use crate::broker::{BrokerError, Effective};

/// Stores presence. Entries are held under a lease, so those of a dead node disappear within a bounded time.
pub trait Presence: Send + Sync + std::fmt::Debug {
    /// Adds or replaces an entry, and keeps it alive until it is removed, or this node dies and the lease expires. An
    /// error means that others cannot see the entry yet: it will be written as soon as that is possible, unless it is
    /// removed. Calls to add and remove take effect in order; the result only tells when others can see the entry.
    fn add(&self, channel: Channel, info: ClientInfo) -> Effective;

    /// Removes an entry. Does not wait until others see that.
    fn remove(&self, channel: Channel, client: ClientId);

    fn clients(&self, channel: Channel)
    -> BoxFuture<'_, Result<BTreeMap<ClientId, ClientInfo>, BrokerError>>;

    /// Returns the counts. The store computes them, so entries are not transferred.
    fn stats(&self, channel: Channel) -> BoxFuture<'_, Result<PresenceStats, BrokerError>>;

    /// Returns how long the entries of a node can outlive the node.
    fn lease(&self) -> Duration;

    /// Checks that presence can be stored, by writing and reading a probe.
    fn probe(&self) -> BoxFuture<'_, Result<(), BrokerError>>;

    /// The same for one part of the broker alone.
    fn probe_of(&self, _part: usize) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.probe()
    }

    /// Removes all entries of this node at once. For a node that ends; nothing is added after it.
    fn retire(&self) -> BoxFuture<'_, Result<(), BrokerError>>;
}
