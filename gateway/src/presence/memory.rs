//! The presence of a single node. It ends with the process, so no lease is needed.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use gateway_core::effect::PresenceStats;
use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};
use shared::channel::Channel;
use shared::id::{ClientId, UserId};
use shared::publication::ClientInfo;

use super::Presence;
use super::room::{PresenceRoom, RoomMember};
use crate::broker::{BrokerError, Effective};

/// The number of locks that channels are spread over.
const SHARDS: usize = 32;

#[derive(Debug)]
pub struct MemoryPresence {
    shards: Vec<Mutex<RoomTable>>,
    hasher: RandomState,
}

/// The rooms of one shard by channel. The table holds boxes: there can be as many rooms as subscriptions, and a free
/// slot costs no more than a pointer.
#[derive(Debug, Default)]
struct RoomTable(HashTable<Box<ChannelRoom>>);

#[derive(Debug)]
struct ChannelRoom {
    channel: Channel,
    room: PresenceRoom<PresentClient>,
}

const _: () =
    assert!(size_of::<ChannelRoom>() <= 64, "there is one for each subscription to a channel of one's own");

/// A client that is present in a channel. Fields that few clients have are boxed.
#[derive(Debug)]
struct PresentClient {
    /// [`ClientId::bits`] in halves: a `u128` would need an alignment of 16 bytes.
    client: [u64; 2],
    user: UserId,
    infos: Option<Box<PresentInfos>>,
}

#[derive(Debug)]
struct PresentInfos {
    conn_info: Option<Bytes>,
    chan_info: Option<Bytes>,
}

impl From<ClientInfo> for PresentClient {
    fn from(info: ClientInfo) -> Self {
        let ClientInfo { client, user, conn_info, chan_info } = info;
        let has_any = conn_info.is_some() || chan_info.is_some();
        let client = [(client.bits() >> 64) as u64, client.bits() as u64];
        Self { client, user, infos: has_any.then(|| Box::new(PresentInfos { conn_info, chan_info })) }
    }
}

impl PresentClient {
    fn info(&self) -> ClientInfo {
        let (conn_info, chan_info) = match self.infos.as_deref() {
            Some(PresentInfos { conn_info, chan_info }) => (conn_info.clone(), chan_info.clone()),
            None => (None, None),
        };
        ClientInfo { client: self.client(), user: self.user.clone(), conn_info, chan_info }
    }
}

impl RoomMember for PresentClient {
    fn client(&self) -> ClientId {
        let [high, low] = self.client.map(u128::from);
        ClientId::from_bits(high << 64 | low)
    }

    fn user(&self) -> &UserId {
        &self.user
    }
}

/// Tables with a smaller capacity keep their memory.
const SHRINK_FROM: usize = 64;

impl RoomTable {
    fn get(&self, hash: u64, channel: &Channel) -> Option<&PresenceRoom<PresentClient>> {
        self.0.find(hash, |one| one.channel == *channel).map(|one| &one.room)
    }

    fn add(&mut self, hasher: &RandomState, channel: Channel, client: PresentClient) {
        let hash = |channel: &Channel| hasher.hash_one(channel);
        let entry = self.0.entry(hash(&channel), |one| one.channel == channel, |one| hash(&one.channel));
        let new = || Box::new(ChannelRoom { channel: channel.clone(), room: PresenceRoom::default() });
        entry.or_insert_with(new).get_mut().room.add(client);
    }

    fn remove(&mut self, hasher: &RandomState, channel: &Channel, client: ClientId) {
        let found = self.0.find_entry(hasher.hash_one(channel), |one| one.channel == *channel);
        let Ok(mut entry) = found else { return };
        entry.get_mut().room.remove(client);
        if !entry.get().room.is_empty() {
            return;
        }
        entry.remove();
        // Gives memory back after many have left.
        let (length, capacity) = (self.0.len(), self.0.capacity());
        if capacity >= SHRINK_FROM && length < capacity / 8 {
            self.0.shrink_to(length * 2, |one| hasher.hash_one(&one.channel));
        }
    }
}

impl MemoryPresence {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    fn hash(&self, channel: &Channel) -> u64 {
        self.hasher.hash_one(channel)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, RoomTable> {
        // The bits in the middle: the tables themselves use those at both ends.
        self.shards[(hash >> 32) as usize % SHARDS].lock()
    }
}

impl Default for MemoryPresence {
    fn default() -> Self {
        Self::new()
    }
}

impl Presence for MemoryPresence {
    fn add(&self, channel: Channel, info: ClientInfo) -> Effective {
        self.shard(self.hash(&channel)).add(&self.hasher, channel, info.into());
        Effective::Now
    }

    fn remove(&self, channel: Channel, client: ClientId) {
        self.shard(self.hash(&channel)).remove(&self.hasher, &channel, client);
    }

    fn clients(
        &self,
        channel: Channel,
    ) -> BoxFuture<'_, Result<BTreeMap<ClientId, ClientInfo>, BrokerError>> {
        let hash = self.hash(&channel);
        let shard = self.shard(hash);
        let clients = shard.get(hash, &channel).into_iter().flat_map(PresenceRoom::members);
        ready(Ok(clients.map(|one| (one.client(), one.info())).collect())).boxed()
    }

    fn stats(&self, channel: Channel) -> BoxFuture<'_, Result<PresenceStats, BrokerError>> {
        let hash = self.hash(&channel);
        let shard = self.shard(hash);
        let stats = shard.get(hash, &channel).map(|room| {
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
            *shard.lock() = RoomTable::default();
        }
        ready(Ok(())).boxed()
    }
}
