//! Who is subscribed to a channel, over all nodes.

pub mod memory;

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use gateway_core::effect::PresenceStats;
use shared::channel::Channel;
use shared::id::ClientId;
use shared::publication::ClientInfo;

use crate::broker::BrokerError;

/// Presence is held under a lease: what a node added is gone a bounded time after the node is.
pub trait Presence: Send + Sync + std::fmt::Debug {
    /// Adds or replaces. Keeps the entry alive until it is removed, or this node dies and the lease runs out.
    fn add(&self, channel: Channel, info: ClientInfo) -> BoxFuture<'_, Result<(), BrokerError>>;

    fn remove(&self, channel: Channel, client: ClientId) -> BoxFuture<'_, Result<(), BrokerError>>;

    fn clients(&self, channel: Channel)
    -> BoxFuture<'_, Result<BTreeMap<ClientId, ClientInfo>, BrokerError>>;

    fn stats(&self, channel: Channel) -> BoxFuture<'_, Result<PresenceStats, BrokerError>>;
}
