//! Presence over several servers: the entries of a channel are kept where the channel is, under a lease of this node on
//! each server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use gateway_core::effect::PresenceStats;
use shared::channel::Channel;
use shared::id::ClientId;
use shared::publication::ClientInfo;

use super::Presence;
use crate::broker::shards::Shards;
use crate::broker::{BrokerError, Effective};

#[derive(Debug)]
pub struct ShardedPresence {
    shards: Shards<Arc<dyn Presence>>,
    lease: Duration,
}

impl ShardedPresence {
    pub fn new(shards: Shards<Arc<dyn Presence>>) -> Self {
        let lease = shards.iter().map(|shard| shard.lease()).max().unwrap_or_default();
        Self { shards, lease }
    }

    fn of(&self, channel: &Channel) -> &dyn Presence {
        &**self.shards.of(channel.as_str())
    }
}

impl Presence for ShardedPresence {
    fn add(&self, channel: Channel, info: ClientInfo) -> Effective {
        self.of(&channel).add(channel, info)
    }

    fn remove(&self, channel: Channel, client: ClientId) {
        self.of(&channel).remove(channel, client);
    }

    fn clients(
        &self,
        channel: Channel,
    ) -> BoxFuture<'_, Result<BTreeMap<ClientId, ClientInfo>, BrokerError>> {
        self.of(&channel).clients(channel)
    }

    fn stats(&self, channel: Channel) -> BoxFuture<'_, Result<PresenceStats, BrokerError>> {
        self.of(&channel).stats(channel)
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        let all: Vec<_> = self.shards.iter().map(|shard| shard.probe()).collect();
        async move { join_all(all).await.into_iter().collect() }.boxed()
    }

    fn probe_of(&self, part: usize) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.shards.get(part).map_or_else(|| self.probe(), |shard| shard.probe())
    }

    fn retire(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        let all: Vec<_> = self.shards.iter().map(|shard| shard.retire()).collect();
        async move { join_all(all).await.into_iter().collect() }.boxed()
    }
}
