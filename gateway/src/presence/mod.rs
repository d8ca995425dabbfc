//! Who is subscribed to a channel, over all nodes.

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

/// Presence is held under a lease: what a node added is gone a bounded time after the node is.
pub trait Presence: Send + Sync + std::fmt::Debug {
    /// Adds or replaces. Keeps the entry alive until it is removed, or this node dies and the lease runs out.
    /// An error means that others cannot see it yet: it will be shown as soon as that is possible, unless it is
    /// removed.
    /// What is added and removed takes effect in the order of calls: the answer only tells when others can see it.
    fn add(&self, channel: Channel, info: ClientInfo) -> Effective;

    /// Does not wait for others to see it.
    fn remove(&self, channel: Channel, client: ClientId);

    fn clients(&self, channel: Channel)
    -> BoxFuture<'_, Result<BTreeMap<ClientId, ClientInfo>, BrokerError>>;

    /// Counted where the entries are, without carrying them here.
    fn stats(&self, channel: Channel) -> BoxFuture<'_, Result<PresenceStats, BrokerError>>;

    /// How long what a node added can outlive the node.
    fn lease(&self) -> Duration;

    /// Writes and reads something of no meaning: whether presence can be kept.
    fn probe(&self) -> BoxFuture<'_, Result<(), BrokerError>>;

    /// The same in one part of the broker alone.
    fn probe_of(&self, _part: usize) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.probe()
    }

    /// Takes back everything this node added, at once. For a node that ends; nothing is added after it.
    fn retire(&self) -> BoxFuture<'_, Result<(), BrokerError>>;
}
