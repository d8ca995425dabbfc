//! The broker of several nodes: one Redis orders, keeps and carries.
//!
//! Three connections: one [`link`] for commands, one for reads that may be long, and [`listen`] for what arrives. All
//! are opened again for ever; every call ends by its deadline whatever Redis does. Which server they end at, [`access`]
//! knows: the one there is, or the master that [`sentinel`] follows.

mod access;
mod address;
mod asked;
mod calls;
mod canary;
mod config;
mod control;
mod dial;
mod epochs;
pub(crate) mod follow;
mod history;
pub(crate) mod hold;
pub(crate) mod keys;
mod keys_of_maps;
pub(crate) mod link;
mod listen;
mod mode;
mod nodes;
mod publications;
mod publish;
mod requests;
mod resp;
mod route;
pub(crate) mod script;
mod sentinel;
pub(crate) mod server;
mod stream;
mod subscriptions;
mod tls;
mod turn;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gateway_core::history::{HistoryFilter, HistoryPage, Retention};
use gateway_core::map::{Changed, Keeping, StateFilter, StatePage};
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use shared::push::OwnedEvent;
use tokio::sync::Semaphore;

pub use config::{Config, RedisUrl};
pub use dial::DialError;
pub(crate) use dial::{Dialer, Plain, is_for_want_of_a_right};
pub use mode::Mode;
pub(crate) use tls::{client_config, tls_connector};

use self::access::Access;
use self::canary::Canaries;
use self::epochs::KnownEpochs;
use self::hold::State;
use self::keys::Keys;
use self::link::{Link, Purpose};
use self::listen::Listener;
use self::publications::Publications;
use self::route::Router;
use super::measure::BrokerMetrics;
use super::{Broker, BrokerError, BrokerEvents, ChangeRequest, PublishRequest, Published, Taking, Turn};

/// Pages of history that are read at once. Whoever reads another waits for its turn, under its deadline.
const READING_MAX: usize = 16;

/// Long histories that are read at once: each is in memory as a whole until its reader has it.
const LONG_READS_MAX: usize = 4;

/// What Redis said first, taken out of the buffer: for [`crate::readers`].
pub(crate) fn read_in_words(buffer: &mut BytesMut) -> Result<Option<String>, String> {
    let said = resp::take(buffer).map_err(|malformed| malformed.to_string())?;
    Ok(said.map(|said| match said {
        resp::Said::Message(message) => {
            format!("{:?} {:?}", Bytes::copy_from_slice(message.name()), message.data())
        }
        said => format!("{said:?}"),
    }))
}

/// Which process keeps which data set. In another one, what was kept may be lost or old.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Generation {
    run: Arc<str>,
    data_set: Arc<str>,
    /// A Redis that does not tell its run may be another one on each connection.
    connection: u64,
}

#[derive(Debug)]
pub struct RedisBroker {
    keys: Keys,
    link: Arc<Link>,
    reads: Arc<Link>,
    reading: Semaphore,
    long_reads: Semaphore,
    canaries: Arc<Canaries>,
    publications: Publications,
    epochs: Arc<KnownEpochs>,
    listener: Listener,
    router: Arc<Router>,
    timeout: Duration,
    position_ttl_ms: u64,
    metrics: Arc<BrokerMetrics>,
}

impl RedisBroker {
    /// Begins to connect and returns at once: an unreachable Redis is told by each call, and by the canary. `node`
    /// is unique to this process. Must be called within a tokio runtime.
    pub fn start(
        config: &Config,
        node: &str,
        events: Arc<dyn BrokerEvents>,
        metrics: Arc<BrokerMetrics>,
    ) -> Result<Arc<Self>, DialError> {
        let name = |what: &str| format!("{}:{node}:{what}", config.prefix);
        let access = Arc::new(Access::new(config, &name("sentinel"), &metrics)?);
        let keys = Keys::new(&config.prefix, access.login.db());
        let link = |purpose: Purpose| {
            let dialer = Dialer::new(config, &access, name(purpose.word()));
            Link::start(config, purpose, dialer, events.clone(), metrics.clone())
        };
        let (link, reads) = (link(Purpose::Commands), link(Purpose::Reads));
        let canaries = Arc::new(Canaries::new(&keys, node));
        let router = Arc::new(Router {
            keys: keys.clone(),
            control: keys.control(),
            own: keys.node(node),
            canaries: canaries.clone(),
            events: events.clone(),
            metrics: metrics.clone(),
            heard: AtomicU64::new(0),
        });
        let dialer = Dialer::new(config, &access, name("subscriptions"));
        let listener = Listener::start(config, dialer, router.clone());
        let link = Arc::new(link);
        Ok(Arc::new(Self {
            keys,
            publications: Publications::start(link.clone(), config.timeout(), metrics.clone()),
            epochs: Arc::default(),
            link,
            reads: Arc::new(reads),
            reading: Semaphore::new(READING_MAX),
            long_reads: Semaphore::new(LONG_READS_MAX),
            canaries,
            listener,
            router,
            timeout: config.timeout(),
            position_ttl_ms: config.position_ttl_s.saturating_mul(1000),
            metrics,
        }))
    }

    /// The connection for commands, for others that keep things in the same Redis.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The connection for what may be answered at length.
    pub(crate) fn reads(&self) -> &Arc<Link> {
        &self.reads
    }

    /// Where this node tries out whether it can do its work: its own channel, and keys that are no client's.
    pub(crate) fn trial(&self) -> (&Keys, &Channel) {
        (&self.canaries.keys, &self.canaries.channel)
    }

    /// What Redis is at this moment, for who keeps things there that others must not lose.
    pub(crate) fn generation(&self) -> Result<Generation, BrokerError> {
        let up = match &*self.link.watch().borrow() {
            State::Up(up) => up.clone(),
            State::Opening => return Err(BrokerError::Unreachable("not connected yet".into())),
            State::Down(reason) => return Err(BrokerError::Unreachable(reason.clone())),
        };
        let connection = if up.server.run.is_empty() { up.number } else { 0 };
        let (run, data_set) = (up.server.run.clone(), up.server.data_set.clone());
        Ok(Generation { run, data_set, connection })
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn metrics(&self) -> &Arc<BrokerMetrics> {
        &self.metrics
    }
}

impl Broker for RedisBroker {
    fn publish(&self, request: PublishRequest) -> BoxFuture<'_, Result<Published, BrokerError>> {
        self.publish_once(request).boxed()
    }

    fn publish_event(&self, channel: Channel, event: OwnedEvent) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.send_event(&channel, &event).boxed()
    }

    fn subscribe(&self, channels: Vec<Channel>) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.listener.subscribe(channels).boxed()
    }

    fn unsubscribe(&self, channels: Vec<Channel>) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.listener.unsubscribe(channels).boxed()
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

    fn change_key(&self, request: ChangeRequest) -> BoxFuture<'_, Result<Changed, BrokerError>> {
        self.change_one_key(request).boxed()
    }

    fn read_state(
        &self,
        channel: Channel,
        filter: StateFilter,
        keeping: Keeping,
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
        async move { self.publish_control(&self.router.control, &message).await }.boxed()
    }

    fn tell_node(&self, node: &str, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>> {
        let name = self.keys.node(node);
        async move { self.publish_control(&name, &message).await }.boxed()
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
