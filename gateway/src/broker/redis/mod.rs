//! The broker of several nodes over Redis, which orders, stores and delivers publications.
//!
//! There are three connections to a server ([`master`]): a [`redis_link`] for commands, one for reads that may be long,
//! and [`redis_listen`] for subscriptions. All are reopened for ever, and every call ends by its deadline, whatever Redis
//! does. [`access`] knows the server to connect to: the only one, or the master that [`sentinel`] follows. With several
//! masters, [`cluster`] knows the slots of each.

mod access;
mod byte_stream;
mod calls;
mod cluster;
mod epochs;
pub(crate) mod follow_patterns;
mod keys_of_maps;
mod master;
mod mode;
mod pending_requests;
mod publications;
mod publish_script;
mod redis_address;
mod redis_canary;
mod redis_config;
mod redis_control;
mod redis_dial;
mod redis_history;
pub(crate) mod redis_keys;
mod redis_lease;
pub(crate) mod redis_link;
mod redis_listen;
mod redis_nodes;
mod redis_tls;
mod requests;
mod resp;
mod route_pushes;
pub(crate) mod script;
mod sentinel;
pub(crate) mod server;
mod subscriptions;
pub(crate) mod supervise;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gateway_core::history::{HistoryFilter, HistoryPage, Retention};
use gateway_core::map::{ChangedKey, MapRetention, StateFilter, StatePage};
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use shared::push::OwnedEvent;
use tokio::sync::Semaphore;

pub use mode::RedisMode;
pub use redis_config::{RedisConfig, RedisUrl};
pub use redis_dial::DialError;
pub(crate) use redis_dial::{PlainConnection, RedisDialer, is_for_want_of_a_right};
pub(crate) use redis_tls::{client_config, tls_connector};

pub(crate) use self::cluster::{Commands, MakeMetrics};
use self::cluster::{RedisCluster, ReplySize};
use self::epochs::KnownEpochs;
use self::master::Master;
use self::publish_script::OutgoingPublication;
use self::redis_keys::RedisKeys;
use self::redis_link::OpenLink;
use self::supervise::ConnectionState;
use super::measure::BrokerMetrics;
use super::{
    Broker, BrokerError, BrokerEvents, ChangeRequest, LeaseOutcome, LeaseRequest, PublishRequest, Published,
};

/// The most pages of history read at once. Other readers wait for their turn, under their deadline.
const READING_MAX: usize = 16;

/// The most long histories read at once. Each is in memory as a whole until its reader has it.
const LONG_READS_MAX: usize = 4;

/// Takes the first reply out of the buffer, for [`crate::readers`].
pub(crate) fn read_in_words(buffer: &mut BytesMut) -> Result<Option<String>, String> {
    let reply = resp::take(buffer).map_err(|malformed| malformed.to_string())?;
    Ok(reply.map(|reply| match reply {
        resp::RespReply::Message(message) => {
            format!("{:?} {:?}", Bytes::copy_from_slice(message.name()), message.data())
        }
        reply => format!("{reply:?}"),
    }))
}

/// The process and the data set at the other end. If either changes, keys may have been lost or be outdated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ServerGeneration {
    run: Arc<str>,
    data_set: Arc<str>,
    /// Stands in for the run: a Redis that does not tell its run may be another one on each connection.
    connection: u64,
}

#[derive(Debug)]
pub struct RedisBroker {
    keys: RedisKeys,
    ways: RedisTargets,
    link: Commands,
    reads: Commands,
    reading: Semaphore,
    long_reads: Semaphore,
    epochs: Arc<KnownEpochs>,
    timeout: Duration,
    position_ttl_ms: u64,
    metrics: Arc<BrokerMetrics>,
}

/// The servers that publications and subscriptions go to.
#[derive(Debug)]
enum RedisTargets {
    One(Master),
    /// In a cluster, the master of the channel's slot.
    Many(Arc<RedisCluster>),
}

impl RedisTargets {
    /// Publishes. The publications of a channel are made in the order of the calls.
    fn push(
        &self,
        outgoing: OutgoingPublication,
    ) -> impl Future<Output = Result<redis::Value, BrokerError>> + Send + use<> {
        match self {
            Self::One(master) => master.publications.push(outgoing, None).left_future(),
            Self::Many(cluster) => cluster.push(outgoing).right_future(),
        }
    }
}

impl RedisBroker {
    /// Begins to connect and returns at once: if Redis is unreachable, each call and the canary fail. `node` is unique to
    /// this process. Must be called within a tokio runtime.
    pub fn start(
        config: &RedisConfig,
        node: &str,
        events: Arc<dyn BrokerEvents>,
        metrics: Arc<BrokerMetrics>,
    ) -> Result<Arc<Self>, DialError> {
        let database = match config.mode {
            RedisMode::Single => redis_address::parse(&config.url)?.1.db(),
            RedisMode::Sentinel | RedisMode::Shards | RedisMode::Cluster => config.database.into(),
        };
        let keys = RedisKeys::new(&config.prefix, database);
        let master = Master::start(config, node, keys.clone(), &events, metrics.clone(), None)?;
        let (link, reads) = (master.link.clone(), master.reads.clone());
        let links = (Commands::Server(link), Commands::Server(reads));
        Ok(Self::with(config, keys, RedisTargets::One(master), links, metrics))
    }

    /// Does the same over the masters of a cluster, each of which has counters of its own. `metrics` returns the counters
    /// of a master by name; the empty name is for counts of no master.
    pub fn start_in_cluster(
        config: &RedisConfig,
        node: &str,
        events: Arc<dyn BrokerEvents>,
        metrics: impl Fn(&str) -> Arc<BrokerMetrics> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, DialError> {
        let keys = RedisKeys::of_cluster(&config.prefix, config.cluster_partitions);
        let common = metrics("");
        let cluster =
            RedisCluster::start(config, node, keys.clone(), events, Box::new(metrics) as MakeMetrics)?;
        let links =
            [ReplySize::Short, ReplySize::Long].map(|reads| Commands::Cluster(cluster.clone(), reads));
        Ok(Self::with(config, keys, RedisTargets::Many(cluster), links.into(), common))
    }

    fn with(
        config: &RedisConfig,
        keys: RedisKeys,
        ways: RedisTargets,
        (link, reads): (Commands, Commands),
        metrics: Arc<BrokerMetrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            keys,
            ways,
            link,
            reads,
            epochs: Arc::default(),
            reading: Semaphore::new(READING_MAX),
            long_reads: Semaphore::new(LONG_READS_MAX),
            timeout: config.timeout(),
            position_ttl_ms: config.position_ttl_s.saturating_mul(1000),
            metrics,
        })
    }

    /// Returns the connection for commands, for other parts that keep things in the same Redis.
    pub(crate) fn link(&self) -> &Commands {
        &self.link
    }

    /// Returns the connection for reads whose answers may be long.
    pub(crate) fn reads(&self) -> &Commands {
        &self.reads
    }

    /// Returns the keys and the channel with which this node tests whether it can do its work in a part. No client uses
    /// them. `None` if there is no such part at the moment.
    pub(crate) fn trial(&self, part: usize) -> Option<(RedisKeys, Channel)> {
        let canary_channel = match &self.ways {
            RedisTargets::One(master) => Some(master.canaries.canary_channel()),
            RedisTargets::Many(cluster) => cluster.trial(part),
        };
        canary_channel.map(|canary_channel| (canary_channel.keys.clone(), canary_channel.channel.clone()))
    }

    /// Tries each right by itself. Otherwise a missing right that is rarely needed would only show when it is, in an
    /// error of a script that names a line. The error names all missing rights.
    pub(crate) async fn look_at_rights(&self, part: usize) -> Result<(), BrokerError> {
        match &self.ways {
            RedisTargets::One(master) => master.look_at_rights().await,
            RedisTargets::Many(cluster) => cluster.look_at_rights(part).await,
        }
    }

    /// Returns the present generation of Redis, for callers whose keys must not be lost there. In a cluster it covers all
    /// masters.
    pub(crate) fn generation(&self) -> Result<ServerGeneration, BrokerError> {
        match &self.ways {
            RedisTargets::One(master) => {
                let up = match &*master.link.watch().borrow() {
                    ConnectionState::Up(up) => up.clone(),
                    ConnectionState::Opening => {
                        return Err(BrokerError::Unreachable("not connected yet".into()));
                    }
                    ConnectionState::Down(reason) => return Err(BrokerError::Unreachable(reason.clone())),
                };
                Ok(ServerGeneration::of(&up))
            }
            RedisTargets::Many(cluster) => Ok(ServerGeneration {
                run: "".into(),
                data_set: "".into(),
                connection: cluster.generation()?,
            }),
        }
    }

    /// Returns the present generation of the server that has `key`.
    pub(crate) fn generation_of(&self, key: &str) -> Result<ServerGeneration, BrokerError> {
        match &self.ways {
            RedisTargets::One(_) => self.generation(),
            RedisTargets::Many(cluster) => {
                let slot = cluster::slots::of_key(key.as_bytes());
                Ok(ServerGeneration::of(&cluster.up_of(slot)?))
            }
        }
    }

    /// Publishes a message for all nodes, or for one.
    async fn publish_message(&self, name: &str, message: &[u8]) -> Result<u32, BrokerError> {
        match &self.ways {
            RedisTargets::One(master) => master.publish_control(name, message).await,
            RedisTargets::Many(cluster) => cluster.publish_message(name, message).await,
        }
    }

    /// Returns the counters for a channel: those of its master, or the common ones.
    fn metrics_of(&self, channel: &Channel) -> Arc<BrokerMetrics> {
        let of_master = match &self.ways {
            RedisTargets::One(_) => None,
            RedisTargets::Many(cluster) => cluster.metrics_of(self.keys.slot(channel)),
        };
        of_master.unwrap_or_else(|| self.metrics.clone())
    }

    pub(crate) fn keys(&self) -> &RedisKeys {
        &self.keys
    }

    pub(crate) fn metrics(&self) -> &Arc<BrokerMetrics> {
        &self.metrics
    }
}

impl ServerGeneration {
    fn of(up: &OpenLink) -> Self {
        let connection = if up.server.run.is_empty() { up.number } else { 0 };
        Self { run: up.server.run.clone(), data_set: up.server.data_set.clone(), connection }
    }
}

impl Broker for RedisBroker {
    fn parts(&self) -> usize {
        match &self.ways {
            RedisTargets::One(_) => 1,
            RedisTargets::Many(cluster) => cluster.parts(),
        }
    }

    fn part_of(&self, channel: &Channel) -> usize {
        match &self.ways {
            RedisTargets::One(_) => 0,
            RedisTargets::Many(cluster) => cluster.part_of(self.keys.slot(channel)),
        }
    }

    fn part_name(&self, part: usize) -> Arc<str> {
        match &self.ways {
            RedisTargets::One(_) => "".into(),
            RedisTargets::Many(cluster) => cluster.part_name(part),
        }
    }

    fn has_part(&self, part: usize) -> bool {
        match &self.ways {
            RedisTargets::One(_) => true,
            RedisTargets::Many(cluster) => cluster.has_part(part),
        }
    }

    fn layout(&self) -> &str {
        match &self.ways {
            RedisTargets::One(_) => "",
            RedisTargets::Many(cluster) => cluster.layout(),
        }
    }

    fn publish(&self, request: PublishRequest) -> BoxFuture<'_, Result<Published, BrokerError>> {
        self.publish_once(request).boxed()
    }

    fn publish_event(&self, channel: Channel, event: OwnedEvent) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.send_event(&channel, &event).boxed()
    }

    fn subscribe(&self, channels: Vec<Channel>) -> BoxFuture<'_, Result<(), BrokerError>> {
        match &self.ways {
            RedisTargets::One(master) => master.listener.subscribe(channels).boxed(),
            RedisTargets::Many(cluster) => cluster.subscribe(channels).boxed(),
        }
    }

    fn unsubscribe(&self, channels: Vec<Channel>) -> BoxFuture<'_, Result<(), BrokerError>> {
        match &self.ways {
            RedisTargets::One(master) => master.listener.unsubscribe(channels).boxed(),
            RedisTargets::Many(cluster) => cluster.unsubscribe(channels).boxed(),
        }
    }

    fn history(
        &self,
        channel: Channel,
        filter: HistoryFilter,
        _retention: Retention,
    ) -> BoxFuture<'_, Result<HistoryPage, BrokerError>> {
        self.read_history(channel, filter).boxed()
    }

    fn positions(
        &self,
        channels: Vec<(Channel, Retention)>,
    ) -> BoxFuture<'_, Result<Vec<StreamPosition>, BrokerError>> {
        self.read_positions(channels).boxed()
    }

    fn leave_epoch(
        &self,
        channel: Channel,
        epoch: Epoch,
    ) -> BoxFuture<'_, Result<StreamPosition, BrokerError>> {
        self.leave(channel, epoch).boxed()
    }

    fn remove_history(&self, channel: Channel) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.forget_history(channel).boxed()
    }

    fn change_key(&self, request: ChangeRequest) -> BoxFuture<'_, Result<ChangedKey, BrokerError>> {
        self.change_one_key(request).boxed()
    }

    fn read_state(
        &self,
        channel: Channel,
        filter: StateFilter,
        keeping: MapRetention,
    ) -> BoxFuture<'_, Result<StatePage, BrokerError>> {
        self.read_keys(channel, filter, keeping).boxed()
    }

    fn count_keys(&self, channel: Channel) -> BoxFuture<'_, Result<u64, BrokerError>> {
        self.count_all_keys(channel).boxed()
    }

    fn clear_state(&self, channel: Channel) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.clear_keys(channel).boxed()
    }

    fn takes_out_expired(&self) -> bool {
        false
    }

    fn send_control(&self, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>> {
        async move { self.publish_message(&self.keys.control(), &message).await }.boxed()
    }

    fn tell_node(&self, node: &str, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>> {
        let name = self.keys.node(node);
        async move { self.publish_message(&name, &message).await }.boxed()
    }

    fn canary(&self) -> BoxFuture<'_, Result<Duration, BrokerError>> {
        match &self.ways {
            RedisTargets::One(master) => master.send_canary().boxed(),
            RedisTargets::Many(cluster) => cluster.send_all_canaries().boxed(),
        }
    }

    fn canary_of(&self, part: usize) -> BoxFuture<'_, Result<Duration, BrokerError>> {
        match &self.ways {
            RedisTargets::One(master) => master.send_canary().boxed(),
            RedisTargets::Many(cluster) => cluster.send_canary(part).boxed(),
        }
    }

    fn acquire_lease<'a>(
        &'a self,
        taking: LeaseRequest<'a>,
    ) -> BoxFuture<'a, Result<LeaseOutcome, BrokerError>> {
        self.acquire_redis_lease(taking).boxed()
    }

    fn announce(
        &self,
        node: &str,
        description: Bytes,
        lease: Duration,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, BrokerError>> {
        let node = node.to_owned();
        async move { self.announce_node(&node, description, lease).await }.boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<Bytes>, BrokerError>> {
        self.read_nodes().boxed()
    }

    fn retire(&self, node: &str) -> BoxFuture<'_, Result<(), BrokerError>> {
        let node = node.to_owned();
        async move { self.retire_node(&node).await }.boxed()
    }
}
