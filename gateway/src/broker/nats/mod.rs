//! The broker of several nodes over NATS: core subjects carry, and JetStream orders and keeps.
//!
//! Three connections, as to Redis: one [`link`] for what is published, one for reads, and one for what is heard. Each is opened
//! again for ever, and every call ends by its deadline whatever a server does. How channels get positions that name one
//! publication for ever is told in decision 32.

mod append;
mod block;
mod canary;
mod control;
mod dial;
mod gather;
mod history;
mod lanes;
pub(crate) mod link;
mod listen;
pub(crate) mod moment;
pub(crate) mod names;
pub(crate) mod nats_config;
mod nodes;
mod once;
mod present;
pub(crate) mod stored;
mod streams;
mod tops;
mod turn;

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gateway_core::history::{HistoryFilter, HistoryPage, Retention};
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use shared::push::OwnedEvent;
use shared::record::{encode_event, encode_position, encode_record};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use dial::Dialer;
pub use nats_config::{ConnectError, NatsConfig, NatsUrl, Storage};
pub(crate) use turn::take_turn_in;

use self::append::Addition;
use self::canary::Canary;
use self::lanes::{Lanes, Task};
use self::link::{Link, Purpose};
use self::listen::{Listening, Router};
use self::names::Names;
use self::nodes::Registered;
use self::stored::JetStream;
use self::streams::Streams;
use self::tops::Tops;
use super::measure::BrokerMetrics;
use super::{Broker, BrokerError, BrokerEvents, PublishRequest, Published, Taking, Turn};

/// Histories that are read at once. Whoever reads another waits for its turn, under its deadline.
const READING_MAX: usize = 16;

#[derive(Debug)]
pub struct NatsBroker {
    this: Weak<Self>,
    node: Arc<str>,
    names: Names,
    jetstream: JetStream,
    streams: Streams,
    link: Arc<Link>,
    reads: Arc<Link>,
    listener: Arc<Link>,
    reading: Semaphore,
    lanes: Lanes,
    tops: Arc<Tops>,
    listening: Listening,
    router: Arc<Router>,
    canary: Canary,
    registered: Registered,
    lease: Duration,
    timeout: Duration,
    metrics: Arc<BrokerMetrics>,
    tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
}

impl NatsBroker {
    /// Begins to connect and returns soon: a NATS that cannot be reached is told by each call, and by the canary. `node`
    /// is unique to this process. Must be called within a tokio runtime.
    pub async fn start(
        config: &NatsConfig,
        node: &str,
        events: Arc<dyn BrokerEvents>,
        metrics: Arc<BrokerMetrics>,
    ) -> Result<Arc<Self>, ConnectError> {
        let dialer = Dialer::new(config)?;
        let open = async |purpose: Purpose| {
            let overflowed = events.clone();
            let overflowed = Box::new(move || overflowed.resumed(0));
            let options = dialer.options(&format!("{}:{node}:{}", config.prefix, purpose.word()))?;
            let metrics = metrics.clone();
            let link = Link::start(dialer.servers(), options, purpose, config.timeout(), metrics, overflowed);
            link.await.map(Arc::new)
        };
        let link = open(Purpose::Commands).await?;
        let reads = open(Purpose::Reads).await?;
        let listener = open(Purpose::Subscriptions).await?;
        let names = Names::new(&config.prefix);
        let jetstream = JetStream::new(&config.domain, config.replicas == 1);
        let tops: Arc<Tops> = Arc::default();
        let router = Router { events: events.clone(), metrics: metrics.clone(), tops: tops.clone() };
        let canary = Canary::start(&listener, &names, node).await?;
        let (lanes, outlet) = Lanes::new();
        let tasks = vec![
            control::hear(listener.clone(), names.control(), events.clone(), |events, message| {
                events.control(message);
            })
            .await?,
            control::hear(listener.clone(), names.told(node), events.clone(), |events, message| {
                events.told(message);
            })
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
            listening: Listening::default(),
            router: Arc::new(router),
            canary,
            registered: Registered::new(node),
            lease: config.presence_ttl(),
            timeout: config.timeout(),
            metrics,
            tasks: Mutex::new(tasks),
        });
        let run = |task: BoxFuture<'static, ()>| {
            broker.tasks.lock().push(AbortOnDropHandle::new(tokio::spawn(task)));
        };
        for link in [&broker.link, &broker.listener] {
            run(listen::tell_of_losses(link.clone(), events.clone()).boxed());
        }
        run(lanes::send_passing(Arc::downgrade(&broker), outlet).boxed());
        run(nodes::keep_lease(Arc::downgrade(&broker)).boxed());
        Ok(broker)
    }

    /// For what is kept beside it: the connection for commands, the one for reads, and what is there.
    pub(crate) fn link(&self) -> &Arc<Link> {
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
        let task = if request.retention.keeps_history() {
            Task::Append(Addition::new(&request), request.idempotency)
        } else {
            let mut message = BytesMut::with_capacity(request.publication.data.bytes.len() + 16);
            encode_position(None, &mut message);
            encode_record(&request.publication, &mut message);
            match request.idempotency {
                Some(idempotency) => Task::Once(message.freeze(), idempotency),
                None => Task::Pass(message.freeze()),
            }
        };
        self.push(request.channel, task).boxed()
    }

    fn publish_event(&self, channel: Channel, event: OwnedEvent) -> BoxFuture<'_, Result<(), BrokerError>> {
        let mut message = BytesMut::new();
        encode_position(None, &mut message);
        encode_event(&event, &mut message);
        let answer = self.push(channel, Task::Tell(message.freeze()));
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

    fn send_control(&self, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>> {
        self.tell_all(message).boxed()
    }

    fn tell_node(&self, node: &str, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>> {
        let node = node.to_owned();
        async move { self.tell_one(&node, message).await }.boxed()
    }

    fn canary(&self) -> BoxFuture<'_, Result<Duration, BrokerError>> {
        self.sing().boxed()
    }

    fn take_turn<'a>(&'a self, taking: Taking<'a>) -> BoxFuture<'a, Result<Turn, BrokerError>> {
        self.take_one_turn(taking).boxed()
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
