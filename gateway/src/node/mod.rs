//! The node: what its workers and its API ask of the broker, and what the broker sends to its workers.
//!
//! One file for each verb: [`publish`], [`subscribe`], [`deliver`], [`query`], [`control`].

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use gateway_core::channel_rules::ChannelRules;
use gateway_core::hub::Variants;
use parking_lot::RwLock;
use shared::id::NodeId;
use tokio::runtime::{EnterGuard, Handle};
use tokio_util::task::TaskTracker;

use crate::backend::Backend;
use crate::bodies::Bodies;
use crate::broker::{Broker, PARTS_MAX};
use crate::clock::Clock;
use crate::engine_io::EngineIo;
use crate::memory_budget::Memory;
use crate::presence::Presence;
use crate::pusher::Apps;
use crate::sessions::SessionKeeper;
use crate::telemetry::labels::PanicSite;
use crate::telemetry::metrics::catch_up;
use crate::telemetry::{LogLimiter, Metrics};
use crate::webhooks::Webhooks;
use crate::worker::inbox::Inbox;

mod among_all_topics;
mod announce;
mod answer;
mod ask;
mod ask_clients;
mod balance;
mod catch_up;
mod client_ids;
mod close_other_connections;
mod closes;
pub mod control;
mod count_by_namespace;
mod counts;
mod deliver;
mod departures;
mod describe;
mod emit;
mod expire;
pub mod glob;
mod interest;
mod keep_keys;
mod keep_polling;
mod list_channels;
mod lost_nodes;
mod map_commands;
mod members;
mod neighbors;
pub mod node_config;
pub mod node_message;
mod peers;
mod pending_copies;
mod per_part;
mod place_codec;
mod poll;
mod poll_remote;
mod publish;
mod query;
mod read_newest;
mod receive_control;
mod repair;
mod resume;
mod session_ids;
mod stamp;
mod subscribe;
mod users;
mod wire_target;

pub(crate) use among_all_topics::of_topic;
pub use ask::{ASK_TIMEOUT, AskError};
pub(crate) use ask_clients::{ASK_CLIENTS_TIMEOUT_MAX, AwaitedClient, ClientsRequest};
pub(crate) use client_ids::ClientIds;
pub use closes::{CloseRecord, ClosesWanted};
pub(crate) use deliver::FromBroker;
pub(crate) use departures::ClientTraces;
pub(crate) use list_channels::ChannelsEverywhere;
pub(crate) use resume::{ResumableSession, ResumeRequest};
pub use session_ids::SessionId;
pub(crate) use users::UserPermit;

use announce::Announcements;
use balance::Balancing;
use closes::RecentCloses;
use control::ControlCommand;
use counts::ChangedCounts;
use departures::Departures;
use interest::Interest;
use keep_keys::KeptKeys;
use lost_nodes::OtherNodeCounts;
use members::MembersMissed;
use neighbors::NeighborsCell;
use peers::Peers;
use pending_copies::PendingCopies;
use per_part::PerPart;
use poll::Polls;
use poll_remote::Addresses;
use read_newest::NewestReads;
use repair::Repairs;
use session_ids::SessionIds;
use subscribe::SubscribeQueue;
use users::Users;

/// How long a channel stays subscribed after its last subscriber has left: a page reload comes back sooner.
const LINGER: Duration = Duration::from_secs(2);

/// A publisher on this node waits at most this long for workers to catch up before its publication is refused.
const ROOM_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Node {
    pub(crate) id: NodeId,
    /// The configured name, shown to people.
    pub(crate) name: Arc<str>,
    pub(crate) clock: Clock,
    rules: RwLock<Arc<ChannelRules>>,
    pub(crate) metrics: Arc<Metrics>,
    variants: Arc<Variants>,
    broker: Arc<dyn Broker>,
    presence: Arc<dyn Presence>,
    inboxes: Vec<Arc<Inbox>>,
    interest: Interest,
    subscribe_queues: PerPart<SubscribeQueue>,
    users: Users,
    /// The application's own servers, if any hook is configured.
    pub(crate) backend: Option<Arc<Backend>>,
    /// The apps of Pusher clients, if there are any.
    apps: Option<Arc<Apps>>,
    pub(crate) webhooks: Option<Arc<Webhooks>>,
    /// Channels of type `shared_poll`, whose keys are polled from the backend.
    polls: Polls,
    asking: ask::PendingNodeRequests,
    client_requests: ask_clients::PendingAcks,
    pub(crate) client_ids: ClientIds,
    /// The clients that were closed recently, and why.
    pub(crate) closes: RecentCloses,
    pub(crate) session_ids: SessionIds,
    announcements: PerPart<Announcements>,
    members_missed: MembersMissed,
    peers: Peers,
    counts: ChangedCounts,
    showing: PerPart<KeptKeys>,
    memory: Arc<Memory>,
    /// The sessions of clients that use Engine.IO's polling.
    pub(crate) engine_io: Arc<EngineIo>,
    takes_in_at: Option<Box<str>>,
    /// The addresses at which other nodes accept carried WebSockets.
    addresses: Addresses,
    /// Sessions that clients may resume.
    pub(crate) sessions: SessionKeeper,
    runtime: Handle,
    repairs: PerPart<Repairs>,
    neighbors: NeighborsCell,
    others: OtherNodeCounts,
    balancing: Balancing,
    departures: Departures,
    newest_reads: NewestReads,
    pending_copies: PendingCopies,
    /// Limits a log that could have an entry for every channel and every subscriber.
    unmended_log: LogLimiter,
    went_back_log: LogLimiter,
    unsubscribed_log: LogLimiter,
    not_alone_log: LogLimiter,
    /// Serializes handing the commands of `close_other_connections` to the workers.
    keeping_only: parking_lot::Mutex<()>,
    pub(crate) absent_log: LogLimiter,
    tasks: TaskTracker,
}

/// The parts that a node is made of.
#[derive(Debug)]
pub(crate) struct NodeParts {
    pub(crate) id: NodeId,
    pub(crate) name: Arc<str>,
    pub(crate) clock: Clock,
    pub(crate) rules: Arc<ChannelRules>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) variants: Arc<Variants>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) presence: Arc<dyn Presence>,
    pub(crate) inboxes: Vec<Arc<Inbox>>,
    /// The receiver of the broker's events, with which the broker was built.
    pub(crate) from_broker: Arc<FromBroker>,
    /// The most connections of one user on this node. 0 means any number.
    pub(crate) user_connections_max: u32,
    pub(crate) backend: Option<Arc<Backend>>,
    pub(crate) apps: Option<Arc<Apps>>,
    pub(crate) webhooks: Option<Arc<Webhooks>>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) engine_io: Arc<EngineIo>,
    /// The host and port at which this node accepts WebSockets that other nodes carry to it.
    pub(crate) takes_in_at: Option<Box<str>>,
    pub(crate) shared_poll: crate::poll::PollConfig,
    pub(crate) sessions: SessionKeeper,
}

/// The pause before a task that panicked is restarted.
const RESTART_DELAY: Duration = Duration::from_millis(100);

/// Runs a task of the node to its end. A task that panics is restarted after [`RESTART_DELAY`].
async fn keep_running<F: Future<Output = ()>>(node: Arc<Node>, task: impl Fn(Arc<Node>) -> F) {
    while AssertUnwindSafe(task(node.clone())).catch_unwind().await.is_err() {
        node.metrics.panicked(PanicSite::Delivery);
        tracing::error!("a task of the node panicked; it is restarted");
        tokio::time::sleep(RESTART_DELAY).await;
    }
}

impl Node {
    /// Starts a node. Its tasks run on the tokio runtime inside which this is called.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub(crate) fn start(parts: NodeParts) -> Arc<Self> {
        let of_broker = parts.broker.parts().clamp(1, PARTS_MAX);
        let node = Arc::new(Self {
            id: parts.id,
            name: parts.name,
            clock: parts.clock,
            rules: RwLock::new(parts.rules),
            metrics: parts.metrics,
            variants: parts.variants,
            broker: parts.broker,
            presence: parts.presence,
            inboxes: parts.inboxes,
            interest: Interest::new(),
            subscribe_queues: PerPart::new(of_broker),
            users: Users::new(parts.user_connections_max),
            backend: parts.backend,
            apps: parts.apps,
            webhooks: parts.webhooks,
            polls: Polls::new(&parts.shared_poll),
            asking: ask::PendingNodeRequests::default(),
            client_requests: ask_clients::PendingAcks::default(),
            client_ids: ClientIds::default(),
            closes: RecentCloses::default(),
            session_ids: SessionIds::default(),
            announcements: PerPart::new(of_broker),
            members_missed: MembersMissed::default(),
            peers: Peers::default(),
            counts: ChangedCounts::default(),
            showing: PerPart::new(of_broker),
            memory: parts.memory,
            engine_io: parts.engine_io,
            takes_in_at: parts.takes_in_at,
            addresses: Addresses::default(),
            sessions: parts.sessions,
            runtime: Handle::current(),
            repairs: PerPart::new(of_broker),
            neighbors: NeighborsCell::default(),
            others: OtherNodeCounts::default(),
            balancing: Balancing::default(),
            departures: Departures::default(),
            newest_reads: NewestReads::default(),
            pending_copies: PendingCopies::default(),
            unmended_log: LogLimiter::default(),
            went_back_log: LogLimiter::default(),
            unsubscribed_log: LogLimiter::default(),
            not_alone_log: LogLimiter::default(),
            keeping_only: parking_lot::Mutex::default(),
            absent_log: LogLimiter::default(),
            tasks: TaskTracker::new(),
        });
        parts.from_broker.connect(&node);
        node.pass_polls_on();
        for part in 0..of_broker {
            node.tasks.spawn(keep_running(node.clone(), move |node| subscribe::keep_subscribed(node, part)));
            node.tasks.spawn(keep_running(node.clone(), move |node| repair::compare_all(node, part)));
            node.tasks.spawn(keep_running(node.clone(), move |node| announce::keep_announcing(node, part)));
            node.tasks.spawn(keep_running(node.clone(), move |node| keep_keys::keep_showing(node, part)));
        }
        node.tasks.spawn(keep_running(node.clone(), repair::check_positions));
        node.tasks.spawn(keep_running(node.clone(), describe::keep_announced));
        node.tasks.spawn(keep_running(node.clone(), expire::keep_expiring));
        node.tasks.spawn(keep_running(node.clone(), members::keep_members));
        node.tasks.spawn(keep_running(node.clone(), balance::keep_balanced));
        node.tasks.spawn(keep_running(node.clone(), departures::keep_departing));
        node.tasks.spawn(keep_running(node.clone(), counts::keep_counting));
        node.tasks.spawn(keep_running(node.clone(), counts::keep_recounting));
        node.tasks.spawn(keep_running(node.clone(), peers::keep_looking));
        node.tasks.spawn(keep_running(node.clone(), pending_copies::keep_copying));
        node.tasks.spawn(keep_running(node.clone(), |node| async move { node.keep_sessions().await }));
        let shown = Arc::downgrade(&node);
        node.metrics.refresh_with(move |metrics| {
            let channels = shown.upgrade().map_or(0, |node| node.interest.channels());
            metrics.channels.set(channels as i64);
            let sessions = shown.upgrade().map_or(0, |node| node.sessions.count());
            metrics.socketio.sessions.set(sessions as i64);
            let awaited = shown.upgrade().map_or(0, |node| node.clients_awaited());
            metrics.socketio.asks_pending.set(awaited as i64);
            let used = shown.upgrade().map_or(0, |node| node.memory.used());
            metrics.client_buffer_bytes.set(used as i64);
            if let Some(node) = shown.upgrade() {
                metrics.bodies_bytes.set(node.bodies().held_bytes() as i64);
                catch_up(&metrics.bodies_refused_total, node.bodies().refused());
            }
            let (channels, keys) = shown.upgrade().map_or((0, 0), |node| node.polls.count());
            metrics.poll_channels.set(channels as i64);
            metrics.poll_keys.set(keys as i64);
        });
        node
    }

    /// Returns the current rules. An operation calls this once and uses the same rules to its end.
    pub fn rules(&self) -> Arc<ChannelRules> {
        self.rules.read().clone()
    }

    /// Sets the rules for operations that begin from now on.
    pub(crate) fn set_rules(&self, rules: Arc<ChannelRules>) {
        *self.rules.write() = rules.clone();
        self.recount_channels(&rules);
    }

    /// Returns the budget for the bodies of requests.
    pub(crate) fn bodies(&self) -> &Arc<Bodies> {
        &self.memory.bodies
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Enters the node's runtime on this thread for as long as the guard is held.
    pub(crate) fn enter_runtime(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Spawns a task on the node's runtime. Workers use this for everything that has to wait.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Returns the display names of the broker's parts. A broker with one part has one name, which is empty.
    pub(crate) fn broker_parts(&self) -> Vec<Arc<str>> {
        (0..self.broker.parts().clamp(1, PARTS_MAX)).map(|part| self.broker.part_name(part)).collect()
    }

    /// Returns the display name of a part of the broker. `None` if there is no such part at the moment.
    pub(crate) fn broker_part(&self, part: usize) -> Option<Arc<str>> {
        self.broker.has_part(part).then(|| self.broker.part_name(part))
    }

    /// Returns the part of the broker that holds a channel.
    pub(crate) fn part_of(&self, channel: &shared::channel::Channel) -> usize {
        self.broker.part_of(channel)
    }

    pub(crate) fn parts(&self) -> usize {
        self.broker.parts()
    }

    /// Checks that this node can use a part of the broker and of presence. Returns how long a message through the broker to
    /// this node takes.
    pub(crate) async fn canary(&self, part: usize) -> Result<Duration, crate::broker::BrokerError> {
        let (canary, probed) = tokio::join!(self.broker.canary_of(part), self.presence.probe_of(part));
        let took = canary?;
        probed.map(|()| took)
    }

    /// Withdraws this node's presence and announcement. Its tasks end with the runtime.
    pub(crate) async fn retire(&self) {
        self.settle_sessions().await;
        if let Err(error) = self.presence.retire().await {
            tracing::warn!(%error, "the presence of this node's clients could not be removed; it expires by itself");
        }
        if let Err(error) = self.broker.retire(&self.id.0).await {
            tracing::warn!(%error, "this node's announcement could not be removed; it expires by itself");
        }
        // Nodes that miss the announcement from now on know why.
        if let Err(error) = self.control(ControlCommand::Retired { node: (*self.id.0).into() }).await {
            tracing::warn!(%error, "other nodes could not be told that this node leaves; they will report it as lost");
        }
    }
}
