//! The broker of several nodes over NATS: core subjects deliver publications, and JetStream orders and stores them.
//!
//! There are three connections, as to Redis: a [`nats_link`] for commands, one for reads, and one for subscriptions. Each
//! is reopened for ever, and every call ends by its deadline, whatever a server does. Decision 32 describes how channels
//! get positions that name one publication for ever.

mod append;
mod block;
mod conditional;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod fetch_messages;
mod idempotency;
mod lanes;
pub(crate) mod ledger_log;
mod maps;
pub(crate) mod moment;
mod nats_canary;
pub(crate) mod nats_config;
mod nats_control;
mod nats_dial;
mod nats_history;
mod nats_lease;
pub(crate) mod nats_link;
mod nats_listen;
pub(crate) mod nats_names;
mod nats_nodes;
mod present;
mod send_passing;
mod server_clock;
pub(crate) mod stored;
mod streams;
mod tops;

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gateway_core::history::{HistoryFilter, HistoryPage, KeysBeside, Retention};
use gateway_core::map::{ChangedKey, MapRetention, StateFilter, StatePage};
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use shared::push::OwnedEvent;
use shared::record::{encode_event, encode_position, encode_record};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::maps::read_map_in_words;
pub use nats_config::{NatsConfig, NatsConnectError, NatsUrl, Storage};
pub(crate) use nats_dial::NatsDialer;
pub(crate) use nats_lease::acquire_lease_at;

use self::append::AppendRequest;
use self::block::Block;
use self::lanes::{LaneTask, Lanes};
use self::maps::{CachedMaps, MapRequest};
use self::nats_canary::Canary;
use self::nats_link::{NatsLink, NatsLinkPurpose};
use self::nats_listen::{FollowedSubjects, NatsRouter};
use self::nats_names::NatsNames;
use self::nats_nodes::NodeRegistration;
use self::server_clock::ServerClock;
use self::stored::JetStream;
use self::streams::Streams;
use self::tops::ChannelTops;
use super::measure::BrokerMetrics;
use super::{
    Broker, BrokerError, BrokerEvents, ChangeRequest, LeaseOutcome, LeaseRequest, PublishRequest, Published,
};
use crate::telemetry::LogLimiter;

/// Returns a block in words, its encoding, and whether its publications can be decoded: for [`crate::readers`].
pub(crate) fn read_block_in_words(bytes: Bytes) -> Result<(String, Bytes, bool), String> {
    let block = Block::decode(bytes).map_err(|error| error.to_string())?;
    let can_be_read = block.publications().all(|publication| publication.is_ok());
    Ok((format!("{block:?}"), block.encode(), can_be_read))
}

/// The most histories read at once. Other readers wait for their turn, under their deadline.
const READING_MAX: usize = 16;

#[derive(Debug)]
pub struct NatsBroker {
    this: Weak<Self>,
    node: Arc<str>,
    names: NatsNames,
    jetstream: JetStream,
    streams: Streams,
    link: Arc<NatsLink>,
    reads: Arc<NatsLink>,
    listener: Arc<NatsLink>,
    reading: Semaphore,
    lanes: Lanes,
    tops: Arc<ChannelTops>,
    maps: Arc<CachedMaps>,
    clock: Arc<ServerClock>,
    map_bytes_max: usize,
    position_ttl: Duration,
    unshortened_log: LogLimiter,
    listening: FollowedSubjects,
    router: Arc<NatsRouter>,
    canary: Canary,
    registered: NodeRegistration,
    lease: Duration,
    timeout: Duration,
    metrics: Arc<BrokerMetrics>,
    tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
}

impl NatsBroker {
    /// Begins to connect and returns soon: if NATS is unreachable, each call and the canary fail. `node` is unique to
    /// this process. Must be called within a tokio runtime.
    pub async fn start(
        config: &NatsConfig,
        node: &str,
        events: Arc<dyn BrokerEvents>,
        metrics: Arc<BrokerMetrics>,
    ) -> Result<Arc<Self>, NatsConnectError> {
        let dialer = NatsDialer::new(config)?;
        let open = async |purpose: NatsLinkPurpose| {
            let overflowed = events.clone();
            let overflowed = Box::new(move || overflowed.resumed(0));
            let options = dialer.options(&format!("{}:{node}:{}", config.prefix, purpose.word()))?;
            let metrics = metrics.clone();
            let link =
                NatsLink::start(dialer.servers(), options, purpose, config.timeout(), metrics, overflowed);
            link.await.map(Arc::new)
        };
        let link = open(NatsLinkPurpose::Commands).await?;
        let reads = open(NatsLinkPurpose::Reads).await?;
        let listener = open(NatsLinkPurpose::Subscriptions).await?;
        let names = NatsNames::new(&config.prefix);
        let jetstream = JetStream::new(&config.domain, config.replicas == 1);
        let tops: Arc<ChannelTops> = Arc::default();
        let maps = Arc::new(CachedMaps::new(config.maps_memory_bytes_max));
        let clock: Arc<ServerClock> = Arc::default();
        let router = NatsRouter {
            names: names.clone(),
            events: events.clone(),
            metrics: metrics.clone(),
            tops: tops.clone(),
            maps: maps.clone(),
            clock: clock.clone(),
        };
        let canary = Canary::start(&listener, &names, node).await?;
        let (lanes, outlet) = Lanes::new();
        let tasks = vec![
            nats_control::listen(listener.clone(), names.control(), events.clone(), |events, message| {
                events.control(message);
            })
            .await?,
            nats_control::listen(
                listener.clone(),
                names.node_messages(node),
                events.clone(),
                |events, message| {
                    events.node_message(message);
                },
            )
            .await?,
        ];
        let broker = Arc::new_cyclic(|this: &Weak<Self>| Self {
            this: this.clone(),
            node: node.into(),
            streams: Streams::new(config, names.clone(), jetstream.clone(), link.clone()),
            names,
            jetstream,
            link,
            reads,
            listener,
            reading: Semaphore::new(READING_MAX),
            lanes,
            tops,
            maps,
            clock,
            map_bytes_max: config.map_bytes_max,
            position_ttl: Duration::from_secs(config.position_ttl_s),
            unshortened_log: LogLimiter::default(),
            listening: FollowedSubjects::default(),
            router: Arc::new(router),
            canary,
            registered: NodeRegistration::new(node),
            lease: config.presence_ttl(),
            timeout: config.timeout(),
            metrics,
            tasks: Mutex::new(tasks),
        });
        let run = |task: BoxFuture<'static, ()>| {
            broker.tasks.lock().push(AbortOnDropHandle::new(tokio::spawn(task)));
        };
        for link in [&broker.link, &broker.listener] {
            run(nats_listen::report_losses(link.clone(), events.clone()).boxed());
        }
        run(send_passing::send_passing(Arc::downgrade(&broker), outlet).boxed());
        run(nats_nodes::keep_lease(Arc::downgrade(&broker)).boxed());
        Ok(broker)
    }

    /// Returns the connection for commands, for other parts that keep things in NATS.
    pub(crate) fn link(&self) -> &Arc<NatsLink> {
        &self.link
    }

    pub(crate) fn metrics(&self) -> &Arc<BrokerMetrics> {
        &self.metrics
    }

    fn own(&self) -> Arc<Self> {
        self.this.upgrade().expect("whoever calls holds it")
    }
}

impl Broker for NatsBroker {
    fn publish(&self, request: PublishRequest) -> BoxFuture<'_, Result<Published, BrokerError>> {
        let task = if !request.retention.keeps_history() {
            let mut message = BytesMut::with_capacity(request.publication.data.bytes.len() + 16);
            encode_position(None, &mut message);
            encode_record(&request.publication, &mut message);
            match request.idempotency {
                Some(idempotency) => LaneTask::Once(message.freeze(), idempotency),
                None => LaneTask::Pass(message.freeze()),
            }
        } else if request.retention.beside == KeysBeside::None {
            LaneTask::Append(AppendRequest::new(&request), request.idempotency)
        } else {
            let channel = request.channel.clone();
            let task = LaneTask::Change(MapRequest::publish(request));
            return self.push(channel, task).map(|answer| answer.map(published)).boxed();
        };
        self.push(request.channel, task).map(|answer| answer.map(published)).boxed()
    }

    fn publish_event(&self, channel: Channel, event: OwnedEvent) -> BoxFuture<'_, Result<(), BrokerError>> {
        let mut message = BytesMut::new();
        encode_position(None, &mut message);
        encode_event(&event, &mut message);
        let answer = self.push(channel, LaneTask::Tell(message.freeze()));
        async move { answer.await.map(drop) }.boxed()
    }

    fn subscribe(&self, channels: Vec<Channel>) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.listen_to(channels).boxed()
    }

    fn unsubscribe(&self, channels: Vec<Channel>) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.leave_all(&channels);
        futures_util::future::ready(Ok(())).boxed()
    }

    fn history(
        &self,
        channel: Channel,
        filter: HistoryFilter,
        retention: Retention,
    ) -> BoxFuture<'_, Result<HistoryPage, BrokerError>> {
        self.read_history(channel, filter, retention).boxed()
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
        let channel = request.channel.clone();
        self.push(channel, LaneTask::Change(MapRequest::change(request))).boxed()
    }

    fn read_state(
        &self,
        channel: Channel,
        filter: StateFilter,
        keeping: MapRetention,
    ) -> BoxFuture<'_, Result<StatePage, BrokerError>> {
        self.read_map(channel, filter, keeping).boxed()
    }

    fn takes_out_expired(&self) -> bool {
        false
    }

    fn count_keys(&self, channel: Channel) -> BoxFuture<'_, Result<u64, BrokerError>> {
        self.count_map(channel).boxed()
    }

    fn clear_state(&self, channel: Channel) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.clear_map(channel).boxed()
    }

    fn send_control(&self, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>> {
        self.send_to_all_nodes(message).boxed()
    }

    fn tell_node(&self, node: &str, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>> {
        let node = node.to_owned();
        async move { self.send_to_node(&node, message).await }.boxed()
    }

    fn canary(&self) -> BoxFuture<'_, Result<Duration, BrokerError>> {
        self.send_canary().boxed()
    }

    fn acquire_lease<'a>(
        &'a self,
        taking: LeaseRequest<'a>,
    ) -> BoxFuture<'a, Result<LeaseOutcome, BrokerError>> {
        self.acquire_nats_lease(taking).boxed()
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

fn published(changed: ChangedKey) -> Published {
    Published { position: changed.position, duplicate: changed.suppressed.is_some() }
}
