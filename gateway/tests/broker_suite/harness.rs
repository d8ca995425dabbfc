//! Provides nodes for tests of brokers; each records the events of its broker.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway_core::history::{HistoryFilter, Retention};
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::publication::{Payload, Publication};
use shared::push::OwnedEvent;
use tidegate::broker::measure::BrokerMetrics;
use tidegate::broker::memory::{self, MemoryBroker};
use tidegate::broker::nats::{self, NatsBroker, NatsUrl};
use tidegate::broker::redis::{self, RedisBroker, RedisMode, RedisUrl};
use tidegate::broker::shards::ShardedBroker;
use tidegate::broker::{Broker, BrokerEvents, PublishRequest, Published};
use tidegate::ledger::Ledger;
use tidegate::ledger::memory::MemoryLedger;
use tidegate::ledger::nats::NatsLedger;
use tidegate::ledger::redis::RedisLedger;
use tidegate::ledger::shards::ShardedLedger;
use tidegate::presence::Presence;
use tidegate::presence::memory::MemoryPresence;
use tidegate::presence::nats::NatsPresence;
use tidegate::presence::redis::RedisPresence;
use tidegate::presence::shards::ShardedPresence;
use tidegate::sessions::SessionStore;
use tidegate::sessions::memory::MemorySessions;
use tidegate::sessions::nats::NatsSessions;
use tidegate::sessions::redis::RedisSessions;
use tidegate::sessions::shards::ShardedSessions;
use tokio::runtime::Handle;

use crate::nats_server::NatsServer;
use crate::redis_cluster::RedisCluster;
use crate::redis_server::RedisServer;

/// The deadline of every wait.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const KEPT: Retention = Retention::new(100, Duration::from_secs(60));
pub const NOT_KEPT: Retention = Retention::new(0, Duration::ZERO);
pub const ALL: HistoryFilter = HistoryFilter { since: None, limit: 1000, reverse: false, enough_bytes: None };

/// Creates nodes, and keeps the servers that they share until it is dropped.
pub trait Backend {
    fn new() -> Self;
    fn node(&self) -> Node;
}

#[derive(Debug)]
pub struct Node {
    pub broker: Arc<dyn Broker>,
    pub presence: Arc<dyn Presence>,
    pub ledger: Arc<dyn Ledger>,
    /// The ledger over NATS, where each node derives its own table from the log.
    pub nats_ledger: Option<Arc<NatsLedger>>,
    pub sessions: Arc<dyn SessionStore>,
    pub heard: Arc<Heard>,
    pub metrics: Arc<BrokerMetrics>,
    /// The metrics of each server, if there are several.
    pub by_server: Vec<Arc<BrokerMetrics>>,
    /// The metrics by the name of the server, where servers come and go. An empty name stands for what belongs to no server.
    pub by_name: Arc<Mutex<BTreeMap<String, Arc<BrokerMetrics>>>>,
}

/// Everything that a node received from its broker.
#[derive(Debug, Default)]
pub struct Heard {
    publications: Mutex<HashMap<String, Vec<Publication>>>,
    events: Mutex<Vec<(String, OwnedEvent)>>,
    control: Mutex<Vec<Bytes>>,
    node_messages: Mutex<Vec<Bytes>>,
    resumed: AtomicU64,
    resumed_parts: Mutex<Vec<usize>>,
    moved: Mutex<Vec<Channel>>,
}

impl BrokerEvents for Heard {
    fn publication(&self, channel: &str, publication: Publication) {
        self.publications.lock().entry(channel.to_owned()).or_default().push(publication);
    }

    fn event(&self, channel: &str, event: OwnedEvent) {
        self.events.lock().push((channel.to_owned(), event));
    }

    fn control(&self, message: Bytes) {
        self.control.lock().push(message);
    }

    fn node_message(&self, message: Bytes) {
        self.node_messages.lock().push(message);
    }

    fn resumed(&self, part: usize) {
        self.resumed_parts.lock().push(part);
        self.resumed.fetch_add(1, Ordering::SeqCst);
    }

    fn moved(&self, _part: usize, channels: Vec<Channel>) {
        self.moved.lock().extend(channels);
    }
}

impl Heard {
    /// Returns the joins and leaves, by channel.
    pub fn events(&self) -> Vec<(String, OwnedEvent)> {
        self.events.lock().clone()
    }

    pub fn in_channel(&self, channel: &Channel) -> Vec<Publication> {
        self.publications.lock().get(channel.as_str()).cloned().unwrap_or_default()
    }

    pub fn texts(&self, channel: &Channel) -> Vec<String> {
        texts(&self.in_channel(channel))
    }

    pub fn control(&self) -> Vec<Bytes> {
        self.control.lock().clone()
    }

    pub fn node_messages(&self) -> Vec<Bytes> {
        self.node_messages.lock().clone()
    }

    pub fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::SeqCst)
    }

    /// Returns the channels that moved to another part of the broker, in the order of the events.
    pub fn moved(&self) -> Vec<Channel> {
        self.moved.lock().clone()
    }

    /// Returns the parts of the broker that resumed, in the order of the events.
    pub fn resumed_parts(&self) -> Vec<usize> {
        self.resumed_parts.lock().clone()
    }
}

impl Node {
    /// Creates a node whose broker has one server, or none.
    fn of_one(
        broker: Arc<dyn Broker>,
        presence: Arc<dyn Presence>,
        ledger: Arc<dyn Ledger>,
        sessions: Arc<dyn SessionStore>,
        heard: Arc<Heard>,
        metrics: Arc<BrokerMetrics>,
    ) -> Self {
        let (by_server, by_name) = (Vec::new(), Arc::default());
        Self { broker, presence, ledger, nats_ledger: None, sessions, heard, metrics, by_server, by_name }
    }

    /// Returns the sum of the broker's metrics over all servers.
    pub fn counted(&self) -> BrokerMetrics {
        let by_name = self.by_name.lock();
        let is_alone = self.by_server.is_empty() && by_name.is_empty();
        let all = if is_alone { vec![&*self.metrics] } else { vec![] };
        let several = self.by_server.iter().chain(by_name.values());
        BrokerMetrics::together(all.into_iter().chain(several.map(|metrics| &**metrics)))
    }

    pub async fn publish(&self, channel: &Channel, text: impl ToString) -> Published {
        self.broker.publish(request(channel, text)).await.expect("published")
    }

    /// Waits until messages to this node arrive.
    pub async fn listens(&self) {
        eventually("the node listens", async || self.broker.canary().await.is_ok()).await;
    }

    pub async fn subscribe(&self, channel: &Channel) {
        self.broker.subscribe(vec![channel.clone()]).await.expect("subscribed");
    }

    pub async fn history(&self, channel: &Channel, filter: HistoryFilter) -> Vec<String> {
        self.history_kept(channel, filter, KEPT).await
    }

    /// Reads the history of a channel with this retention.
    pub async fn history_kept(
        &self,
        channel: &Channel,
        filter: HistoryFilter,
        retention: Retention,
    ) -> Vec<String> {
        texts(&self.broker.history(channel.clone(), filter, retention).await.expect("history").publications)
    }
}

#[derive(Debug)]
pub struct Memory;

impl Backend for Memory {
    fn new() -> Self {
        Self
    }

    fn node(&self) -> Node {
        let (heard, metrics) = (Arc::new(Heard::default()), Arc::new(BrokerMetrics::default()));
        let broker =
            MemoryBroker::start(&memory::MemoryBrokerConfig::default(), heard.clone(), metrics.clone());
        let (presence, ledger) = (Arc::new(MemoryPresence::new()), Arc::new(MemoryLedger::default()));
        let sessions = Arc::new(MemorySessions::default());
        Node::of_one(broker, presence, ledger, sessions, heard, metrics)
    }
}

impl Redis {
    /// Starts a server with these options of the `redis-server` command line.
    pub fn with(options: &[&str]) -> Self {
        let server = RedisServer::start_with(options);
        let url = RedisUrl::new(server.url());
        Self {
            server,
            config: redis::RedisConfig { url, ..redis::RedisConfig::default() },
            nodes: AtomicU64::new(0),
        }
    }
}

#[derive(Debug)]
pub struct Redis {
    pub server: RedisServer,
    pub config: redis::RedisConfig,
    nodes: AtomicU64,
}

impl Backend for Redis {
    fn new() -> Self {
        Self::with(&[])
    }

    fn node(&self) -> Node {
        let (heard, metrics) = (Arc::new(Heard::default()), Arc::new(BrokerMetrics::default()));
        let name = format!("node-{}", self.nodes.fetch_add(1, Ordering::SeqCst));
        let broker =
            RedisBroker::start(&self.config, &name, heard.clone(), metrics.clone()).expect("a valid address");
        let presence = RedisPresence::start(&self.config, &name, broker.clone());
        let ledger = Arc::new(RedisLedger::new(&self.config, broker.clone()));
        let sessions = Arc::new(RedisSessions::new(broker.clone()));
        Node::of_one(broker, presence, ledger, sessions, heard, metrics)
    }
}

/// Three servers that do not know of each other.
#[derive(Debug)]
pub struct Shards {
    pub servers: Vec<RedisServer>,
    pub config: redis::RedisConfig,
    nodes: AtomicU64,
}

impl Shards {
    /// Starts the servers with these options of the `redis-server` command line.
    pub fn with(options: &[&str]) -> Self {
        let servers: Vec<_> = (0..3).map(|_| RedisServer::start_with(options)).collect();
        let addresses = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        let config =
            redis::RedisConfig { mode: RedisMode::Shards, addresses, ..redis::RedisConfig::default() };
        Self { servers, config, nodes: AtomicU64::new(0) }
    }

    pub fn node_with(&self, config: &redis::RedisConfig) -> Node {
        let heard = Arc::new(Heard::default());
        let name = format!("node-{}", self.nodes.fetch_add(1, Ordering::SeqCst));
        let metrics = |_: &str| Arc::<BrokerMetrics>::default();
        let broker =
            ShardedBroker::start(config, &name, heard.clone(), metrics).expect("addresses are valid");
        let shards = broker.shards();
        let presence = ShardedPresence::new(
            shards
                .map(|shard| RedisPresence::start(config, &name, shard.broker.clone()) as Arc<dyn Presence>),
        );
        let ledger = ShardedLedger::new(
            shards.map(|shard| Arc::new(RedisLedger::new(config, shard.broker.clone())) as Arc<dyn Ledger>),
        );
        let by_server: Vec<_> = shards.iter().map(|shard| shard.metrics.clone()).collect();
        let sessions = ShardedSessions::new(
            shards.map(|shard| Arc::new(RedisSessions::new(shard.broker.clone())) as Arc<dyn SessionStore>),
        );
        let metrics = by_server[0].clone();
        let (presence, ledger, sessions) = (Arc::new(presence), Arc::new(ledger), Arc::new(sessions));
        Node { by_server, ..Node::of_one(broker, presence, ledger, sessions, heard, metrics) }
    }
}

impl Backend for Shards {
    fn new() -> Self {
        Self::with(&[])
    }

    fn node(&self) -> Node {
        self.node_with(&self.config)
    }
}

/// A NATS server with JetStream.
#[derive(Debug)]
pub struct Nats {
    pub server: NatsServer,
    pub config: nats::NatsConfig,
    nodes: AtomicU64,
}

impl Nats {
    /// Starts a server with further lines of configuration; `login` is what the test itself connects with.
    pub fn with(settings: &str, login: &str) -> Self {
        let server = NatsServer::start_with(settings, login);
        let config = nats::NatsConfig { url: NatsUrl::new(server.url()), ..nats::NatsConfig::default() };
        Self::of(server, config)
    }

    /// Creates nodes with these settings.
    pub fn of(server: NatsServer, config: nats::NatsConfig) -> Self {
        Self { server, config, nodes: AtomicU64::new(0) }
    }

    pub fn node_with(&self, config: &nats::NatsConfig) -> Node {
        let (heard, metrics) = (Arc::new(Heard::default()), Arc::new(BrokerMetrics::default()));
        let name = format!("node-{}", self.nodes.fetch_add(1, Ordering::SeqCst));
        let starting = NatsBroker::start(config, &name, heard.clone(), metrics.clone());
        let broker =
            tokio::task::block_in_place(|| Handle::current().block_on(starting)).expect("valid settings");
        let presence = NatsPresence::start(broker.clone(), Duration::from_secs(config.presence_ttl_s));
        let ledger = Arc::new(NatsLedger::new(config, broker.clone()));
        let sessions = Arc::new(NatsSessions::new(broker.clone()));
        let nats_ledger = Some(ledger.clone());
        Node { nats_ledger, ..Node::of_one(broker, presence, ledger, sessions, heard, metrics) }
    }
}

impl Nats {
    /// Nodes that hear what is sent to them.
    pub async fn listening<const COUNT: usize>(&self) -> [Node; COUNT] {
        let nodes = std::array::from_fn(|_| self.node());
        for node in &nodes {
            node.listens().await;
        }
        nodes
    }

    /// Nodes that have subscribed to a channel.
    pub async fn following<const COUNT: usize>(&self, channel: &Channel) -> [Node; COUNT] {
        let nodes = self.listening().await;
        for node in &nodes {
            node.subscribe(channel).await;
        }
        nodes
    }
}

/// No outage of a cluster takes this long: it has to notice one, and to choose another leader of each stream.
pub const OUTAGE_MAX: Duration = Duration::from_secs(90);

/// A cluster of three servers of NATS with three replicas of everything, and nodes over it that have subscribed to channels.
#[derive(Debug)]
pub struct NatsCluster {
    pub servers: Vec<NatsServer>,
    pub nodes: Arc<Vec<Node>>,
}

impl NatsCluster {
    pub async fn start(nodes: usize, channels: &[Channel]) -> Self {
        let mut servers = NatsServer::start_cluster(3);
        let urls: Vec<String> = servers.iter().map(NatsServer::url).collect();
        let url = NatsUrl::new(urls.join(","));
        let config = nats::NatsConfig { url, replicas: 3, ..nats::NatsConfig::default() };
        let starter = Nats::of(servers.remove(0), config);
        let nodes: Vec<Node> = (0..nodes).map(|_| starter.node()).collect();
        let Nats { server, .. } = starter;
        servers.insert(0, server);
        for node in &nodes {
            let works = async || node.broker.canary().await.is_ok();
            eventually_within(OUTAGE_MAX, "the cluster works", works).await;
            node.broker.subscribe(channels.to_vec()).await.expect("subscribed");
        }
        Self { servers, nodes: Arc::new(nodes) }
    }

    /// Kills each server in turn while each node makes so many publications, and starts it again when they have gone on
    /// without it.
    pub async fn kill_in_turn(&mut self, each: usize) {
        let metrics = &self.nodes[0].metrics;
        // A publication that is made again because nobody confirmed it counts as a duplicate.
        let confirmed = || metrics.published.get() + metrics.duplicates.get();
        for (at, server) in self.servers.iter_mut().enumerate() {
            let before = (at as u64 + 1) * 25;
            eventually_within(OUTAGE_MAX, "publishing goes on", async || confirmed() >= before).await;
            server.kill();
            let without = (confirmed() + 5).min(each as u64);
            eventually_within(OUTAGE_MAX, "the others go on", async || confirmed() >= without).await;
            server.restart();
        }
    }
}

impl Backend for Nats {
    fn new() -> Self {
        Self::with("", "")
    }

    fn node(&self) -> Node {
        self.node_with(&self.config)
    }
}

/// A cluster of three masters, which several tests may share: each uses a key prefix of its own.
#[derive(Debug)]
pub struct Cluster {
    pub servers: Arc<RedisCluster>,
    pub config: redis::RedisConfig,
    nodes: AtomicU64,
}

/// The shared cluster, which lives as long as a test uses it.
static SHARED: Mutex<Weak<RedisCluster>> = Mutex::new(Weak::new());
/// The number of key prefixes that were given out.
static PREFIXES: AtomicU64 = AtomicU64::new(0);

impl Cluster {
    /// Uses a cluster that belongs to one test.
    pub fn of(servers: RedisCluster) -> Self {
        Self::over(Arc::new(servers))
    }

    fn over(servers: Arc<RedisCluster>) -> Self {
        let prefix = format!("t{}", PREFIXES.fetch_add(1, Ordering::SeqCst));
        let addresses = servers.addresses();
        let config = redis::RedisConfig {
            mode: RedisMode::Cluster,
            addresses,
            prefix,
            ..redis::RedisConfig::default()
        };
        Self { servers, config, nodes: AtomicU64::new(0) }
    }

    pub fn node_with(&self, config: &redis::RedisConfig) -> Node {
        let heard = Arc::new(Heard::default());
        let name = format!("node-{}", self.nodes.fetch_add(1, Ordering::SeqCst));
        let by_name = Arc::new(Mutex::new(BTreeMap::<String, Arc<BrokerMetrics>>::new()));
        let made = by_name.clone();
        let metrics = move |name: &str| made.lock().entry(name.to_owned()).or_default().clone();
        let broker = RedisBroker::start_in_cluster(config, &name, heard.clone(), metrics)
            .expect("addresses are valid");
        let presence = RedisPresence::start(config, &name, broker.clone());
        let ledger = Arc::new(RedisLedger::new(config, broker.clone()));
        let sessions = Arc::new(RedisSessions::new(broker.clone()));
        let metrics = by_name.lock()[""].clone();
        Node { by_name, ..Node::of_one(broker, presence, ledger, sessions, heard, metrics) }
    }
}

impl Backend for Cluster {
    fn new() -> Self {
        let mut shared = SHARED.lock();
        let servers = shared.upgrade().unwrap_or_else(|| {
            let servers = Arc::new(RedisCluster::start(3, 0));
            *shared = Arc::downgrade(&servers);
            servers
        });
        drop(shared);
        Self::over(servers)
    }

    fn node(&self) -> Node {
        self.node_with(&self.config)
    }
}

pub fn channel(name: &str) -> Channel {
    Channel::parse(name, 255).expect("a channel name")
}

pub fn request(channel: &Channel, text: impl ToString) -> PublishRequest {
    PublishRequest {
        channel: channel.clone(),
        publication: Publication::new(Payload::text(text.to_string())),
        retention: KEPT,
        idempotency: None,
        version: None,
    }
}

pub fn texts(publications: &[Publication]) -> Vec<String> {
    let text = |publication: &Publication| String::from_utf8_lossy(&publication.data.bytes).into_owned();
    publications.iter().map(text).collect()
}

/// Polls `holds` until it returns true, and panics after `PATIENCE`.
pub async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    eventually_within(PATIENCE, what, holds).await;
}

async fn eventually_within(patience: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < patience, "{what}: not within {patience:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
