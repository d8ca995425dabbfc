//! The broker of a single node: everything in this process's memory, within bounds.

mod expiry_queue;
mod idempotency_cache;
mod memory_broker_config;
mod shard;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use gateway_core::history::{HistoryFilter, HistoryPage, Retention};
use gateway_core::map::{ChangedKey, MapRetention, StateFilter, StatePage};
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::publication::Publication;
use shared::push::OwnedEvent;

pub use memory_broker_config::MemoryBrokerConfig;

use self::shard::{MemoryShard, ShardLimits};
use super::measure::BrokerMetrics;
use super::{Broker, BrokerError, BrokerEvents, ChangeRequest, PublishRequest, Published};

/// The number of shards, each with a lock of its own, that channels are spread over.
const SHARDS: usize = 32;

/// How often expired entries are looked for.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Most entries swept while one lock is held.
const SWEEP_BATCH: usize = 256;

/// Delivers under the lock of the channel's shard. That keeps the channel's order and costs little, because events are
/// only pushed to inboxes.
pub struct MemoryBroker {
    shards: Vec<Mutex<MemoryShard>>,
    hasher: RandomState,
    nodes: Mutex<HashMap<Box<str>, (Bytes, Moment)>>,
    events: Arc<dyn BrokerEvents>,
    metrics: Arc<BrokerMetrics>,
    origin: Instant,
}

impl MemoryBroker {
    /// Starts the broker. Must be called within a tokio runtime, whose timer drives the sweep for as long as the broker lives.
    pub fn start(
        config: &MemoryBrokerConfig,
        events: Arc<dyn BrokerEvents>,
        metrics: Arc<BrokerMetrics>,
    ) -> Arc<Self> {
        let limits = ShardLimits {
            channels_max: config.channels_max.div_ceil(SHARDS),
            keys_max: config.idempotency_keys_max.div_ceil(SHARDS),
            position_ttl: config.position_ttl(),
            bytes_max: config.history_bytes_max,
            bytes: Arc::new(AtomicUsize::new(0)),
            map_keys_max: config.keys_max,
            keys: Arc::new(AtomicUsize::new(0)),
            state_bytes_max: config.state_bytes_max,
            state_bytes: Arc::new(AtomicUsize::new(0)),
        };
        let broker = Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::new(MemoryShard::new(limits.clone()))).collect(),
            hasher: RandomState::new(),
            nodes: Mutex::default(),
            events,
            metrics,
            origin: Instant::now(),
        });
        tokio::spawn(sweep(Arc::downgrade(&broker)));
        broker
    }

    fn shard(&self, channel: &Channel) -> &Mutex<MemoryShard> {
        &self.shards[self.hasher.hash_one(channel) as usize % SHARDS]
    }

    fn now(&self) -> Moment {
        Moment::ZERO + self.origin.elapsed()
    }

    /// Must be called under the lock of the channel's shard.
    fn deliver(&self, channel: &Channel, publication: Publication) {
        self.metrics.received.increment();
        self.metrics.received_bytes.add(publication.data.bytes.len() as u64);
        self.events.publication(channel.as_str(), publication);
    }
}

impl Broker for MemoryBroker {
    fn publish(&self, request: PublishRequest) -> BoxFuture<'_, Result<Published, BrokerError>> {
        let channel = request.channel.clone();
        let mut shard = self.shard(&channel).lock();
        let (published, wanted) = shard.publish(self.now(), request, &self.metrics);
        if let Some(publication) = wanted {
            self.deliver(&channel, publication);
        }
        ready(Ok(published)).boxed()
    }

    fn publish_event(&self, channel: Channel, event: OwnedEvent) -> BoxFuture<'_, Result<(), BrokerError>> {
        let shard = self.shard(&channel).lock();
        if shard.is_subscribed(&channel) {
            self.events.event(channel.as_str(), event);
        }
        ready(Ok(())).boxed()
    }

    fn subscribe(&self, channels: Vec<Channel>) -> BoxFuture<'_, Result<(), BrokerError>> {
        for channel in channels {
            self.subscribe_at_once(&channel);
        }
        ready(Ok(())).boxed()
    }

    fn subscribe_at_once(&self, channel: &Channel) -> bool {
        if self.shard(channel).lock().subscribe(channel.clone()) {
            self.metrics.subscribed_channels.increment();
        }
        true
    }

    fn unsubscribe(&self, channels: Vec<Channel>) -> BoxFuture<'_, Result<(), BrokerError>> {
        for channel in channels {
            if self.shard(&channel).lock().unsubscribe(&channel) {
                self.metrics.subscribed_channels.subtract(1);
            }
        }
        ready(Ok(())).boxed()
    }

    fn history(
        &self,
        channel: Channel,
        filter: HistoryFilter,
        _retention: Retention,
    ) -> BoxFuture<'_, Result<HistoryPage, BrokerError>> {
        let mut shard = self.shard(&channel).lock();
        let page = shard.history(self.now(), &channel, filter, &self.metrics);
        ready(Ok(page)).boxed()
    }

    fn position_now(&self, channel: &Channel) -> Option<StreamPosition> {
        Some(self.shard(channel).lock().position(self.now(), channel, &self.metrics))
    }

    /// Appending and delivering both happen under the lock of the channel's shard.
    fn hands_out_at_once(&self) -> bool {
        true
    }

    fn positions(
        &self,
        channels: Vec<(Channel, Retention)>,
    ) -> BoxFuture<'_, Result<Vec<StreamPosition>, BrokerError>> {
        let positions = channels.iter().map(|(channel, _)| {
            let mut shard = self.shard(channel).lock();
            shard.position(self.now(), channel, &self.metrics)
        });
        ready(Ok(positions.collect())).boxed()
    }

    fn leave_epoch(
        &self,
        channel: Channel,
        epoch: Epoch,
    ) -> BoxFuture<'_, Result<StreamPosition, BrokerError>> {
        let mut shard = self.shard(&channel).lock();
        shard.leave_epoch(self.now(), &channel, epoch);
        ready(Ok(shard.position(self.now(), &channel, &self.metrics))).boxed()
    }

    fn remove_history(&self, channel: Channel) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.shard(&channel).lock().remove_history(&channel);
        ready(Ok(())).boxed()
    }

    fn change_key(&self, request: ChangeRequest) -> BoxFuture<'_, Result<ChangedKey, BrokerError>> {
        let channel = request.channel.clone();
        let mut shard = self.shard(&channel).lock();
        let (changed, publications) = shard.change_key(self.now(), request, &self.metrics);
        publications.into_iter().for_each(|publication| self.deliver(&channel, publication));
        ready(changed).boxed()
    }

    fn read_state(
        &self,
        channel: Channel,
        filter: StateFilter,
        keeping: MapRetention,
    ) -> BoxFuture<'_, Result<StatePage, BrokerError>> {
        let mut shard = self.shard(&channel).lock();
        let (page, publications) = shard.read_state(self.now(), &channel, &filter, &keeping, &self.metrics);
        publications.into_iter().for_each(|publication| self.deliver(&channel, publication));
        ready(Ok(page)).boxed()
    }

    fn count_keys(&self, channel: Channel) -> BoxFuture<'_, Result<u64, BrokerError>> {
        ready(Ok(self.shard(&channel).lock().count_keys(&channel))).boxed()
    }

    fn clear_state(&self, channel: Channel) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.shard(&channel).lock().clear_state(&channel);
        ready(Ok(())).boxed()
    }

    fn send_control(&self, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>> {
        self.events.control(message);
        ready(Ok(1)).boxed()
    }

    /// Delivers to this node, the only one, if it has announced itself with this name.
    fn tell_node(&self, node: &str, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>> {
        let is_known = self.nodes.lock().contains_key(node);
        if is_known {
            self.events.node_message(message);
        }
        ready(Ok(u32::from(is_known))).boxed()
    }

    /// Takes each lock once: nothing else can hold up a publication here.
    fn canary(&self) -> BoxFuture<'_, Result<Duration, BrokerError>> {
        let start = Instant::now();
        for shard in &self.shards {
            drop(shard.lock());
        }
        let took = start.elapsed();
        self.metrics.canary_micros.set(took.as_micros() as u64);
        ready(Ok(took)).boxed()
    }

    fn announce(
        &self,
        node: &str,
        description: Bytes,
        lease: Duration,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, BrokerError>> {
        let now = self.now();
        let mut nodes = self.nodes.lock();
        nodes.retain(|_, (_, expires)| *expires > now);
        nodes.insert(node.into(), (description, now + lease));
        ready(Ok(nodes.values().map(|(description, _)| description.clone()).collect())).boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<Bytes>, BrokerError>> {
        let now = self.now();
        let nodes = self.nodes.lock();
        let live = nodes.values().filter(|(_, expires)| *expires > now);
        ready(Ok(live.map(|(description, _)| description.clone()).collect())).boxed()
    }

    fn retire(&self, node: &str) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.nodes.lock().remove(node);
        ready(Ok(())).boxed()
    }
}

impl std::fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBroker").field("metrics", &self.metrics).finish_non_exhaustive()
    }
}

/// Holds the broker only while sweeping, so that the task ends with the broker.
async fn sweep(broker: Weak<MemoryBroker>) {
    loop {
        tokio::time::sleep(SWEEP_PERIOD).await;
        for shard in 0..SHARDS {
            loop {
                let Some(broker) = broker.upgrade() else { return };
                let more = {
                    let (mut shard, now) = (broker.shards[shard].lock(), broker.now());
                    let tell = |channel: &Channel, publication| broker.deliver(channel, publication);
                    let more_keys = shard.sweep_keys(now, SWEEP_BATCH, tell);
                    shard.sweep(now, SWEEP_BATCH) || more_keys
                };
                if !more {
                    break;
                }
                drop(broker);
                tokio::task::yield_now().await;
            }
        }
    }
}
