//! Presence of a single node. It ends with the process, so no lease is needed.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use gateway_core::effect::PresenceStats;
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::id::{ClientId, UserId};
use shared::publication::ClientInfo;

use super::Presence;
use super::room::{PresenceRoom, RoomMember};
use crate::broker::{BrokerError, Effective};

/// Locks the channels are spread over.
const SHARDS: usize = 32;

#[derive(Debug)]
pub struct MemoryPresence {
    shards: Vec<Mutex<Rooms>>,
    hasher: RandomState,
}

type Rooms = HashMap<Channel, PresenceRoom<ClientInfo>>;

impl RoomMember for ClientInfo {
    fn client(&self) -> ClientId {
        self.client
    }

    fn user(&self) -> &UserId {
        &self.user
    }
}

impl MemoryPresence {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    fn shard(&self, channel: &Channel) -> &Mutex<Rooms> {
        &self.shards[self.hasher.hash_one(channel) as usize % SHARDS]
    }
}

impl Default for MemoryPresence {
    fn default() -> Self {
        Self::new()
    }
}

impl Presence for MemoryPresence {
    fn add(&self, channel: Channel, info: ClientInfo) -> Effective {
        self.shard(&channel).lock().entry(channel).or_default().add(info);
        Effective::Now
    }

    fn remove(&self, channel: Channel, client: ClientId) {
        let mut shard = self.shard(&channel).lock();
        if let Some(room) = shard.get_mut(&channel) {
            room.remove(client);
            if room.is_empty() {
                shard.remove(&channel);
            }
        }
    }

    fn clients(
        &self,
        channel: Channel,
    ) -> BoxFuture<'_, Result<BTreeMap<ClientId, ClientInfo>, BrokerError>> {
        let shard = self.shard(&channel).lock();
        let clients = shard.get(&channel).into_iter().flat_map(PresenceRoom::members);
        ready(Ok(clients.map(|info| (info.client, info.clone())).collect())).boxed()
    }

    fn stats(&self, channel: Channel) -> BoxFuture<'_, Result<PresenceStats, BrokerError>> {
        let shard = self.shard(&channel).lock();
        let stats = shard.get(&channel).map(|room| {
            let (clients, users) = room.counts();
            PresenceStats { clients: clients as u32, users: users as u32 }
        });
        ready(Ok(stats.unwrap_or_default())).boxed()
    }

    fn lease(&self) -> Duration {
        Duration::ZERO
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        ready(Ok(())).boxed()
    }

    fn retire(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        for shard in &self.shards {
            shard.lock().clear();
        }
        ready(Ok(())).boxed()
    }
}
