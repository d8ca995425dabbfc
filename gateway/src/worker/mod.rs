//! A worker: one thread with its connections, its part of the hub and its own poll.
//!
//! A worker never waits for anything but its poll. Sockets, timers and the [`inbox`] wake it; in each [`turn`] it reads,
//! handles, delivers and writes, in that order, so that everything one turn produces for a client leaves in one write.
//! [`sweep`] is the fan-out. [`callers`] are the connections that publish over HTTP.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use bytes::BytesMut;
use gateway_core::flush_windows::FlushWindows;
use gateway_core::hub::{HoldLimits, Hub, Prepared};
use gateway_core::poll::Trackers;
use gateway_core::session::Context;
use gateway_core::timer_wheel::TimerWheel;
use rustc_hash::FxHashSet;
use shared::channel::Channel;
use shared::disconnect::SlowCause;
use shared::framing::websocket::{Inflater, Limits};
use shared::id::ClientId;
use shared::moment::Moment;
use shared::protocol::graphql::Selected;
use slab::Slab;

use crate::auth::Authenticator;
use crate::client::Client;
use crate::client::client_config::WebSocketConfig;
use crate::clock::Clock;
use crate::memory_budget::{Memory, SharedFrames};
use crate::node::Node;
use crate::telemetry::{LogLimiter, Metrics, WorkerMetrics};
use crate::transport::encodings::Encodings;
use crate::transport::{Direct, SendBatch};

mod among;
mod await_subscriptions;
pub(crate) mod callers;
pub(crate) mod change_delivery;
mod deliver_key_updates;
mod directory;
mod drain;
mod gather;
pub(crate) mod inbox;
mod list_connections;
mod measured;
mod quarantine;
pub(crate) mod read_call;
pub(crate) mod rebalance;
mod renew;
mod report;
mod shed;
mod shrink;
mod single_connection;
mod sweep;
mod sweep_newest;
mod sweep_together;
mod take;
mod tally;
mod tally_namespaces;
mod turn;
pub mod worker_config;

pub(crate) use renew::Contexts;
pub(crate) use tally::Tally;

use directory::Directory;
use inbox::{Inbox, InboxQueue};

/// The poll's token for the inbox. The token of a connection is its place in the table.
const INBOX: mio::Token = mio::Token(usize::MAX);

/// The size of the worker's only read buffer, in bytes: the most that one read of one client takes.
const READ_BYTES: usize = 64 << 10;

/// The state that a worker's clients share.
#[derive(Debug)]
pub(crate) struct WorkerLocal {
    pub(crate) index: usize,
    pub(crate) clock: Clock,
    pub(crate) now: Moment,
    pub(crate) hub: Hub,
    pub(crate) node: Arc<Node>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) context: Arc<Context>,
    /// The context of sessions over Engine.IO.
    engine_io: Arc<Context>,
    /// Whether the configuration has been reloaded, so that options may have changed since a client joined.
    renewed: bool,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) encodings: Arc<Encodings>,
    pub(crate) limits: Limits,
    /// The limits for packets of Engine.IO.
    pub(crate) packet_limits: Limits,
    pub(crate) websocket: Arc<WebSocketConfig>,
    pub(crate) inflater: Inflater,
    /// The buffer in which control frames are encoded before they are queued.
    pub(crate) scratch: BytesMut,
    /// Results of GraphQL selections shared by clients, for the duration of a sweep.
    pub(crate) selected: Selected,
    pub(crate) tally: Tally,
    pub(crate) wheel: TimerWheel,
    pub(crate) directory: Directory,
    pub(crate) given_up_log: LogLimiter,
    /// Clients present in a channel whose options keep no presence for others.
    pub(crate) shown: FxHashSet<(ClientId, Channel)>,
    /// Clients whose command to close their user's other connections is in flight.
    pub(crate) pending_connections: single_connection::PendingConnections,
    /// Subscriptions made by the server whose requester waits.
    awaited: await_subscriptions::PendingSubscriptions,
    pub(crate) refusals_log: LogLimiter,
    /// Limits the log of clients that were too slow: one for each [`SlowCause`], in the order of [`SlowCause::ALL`].
    pub(crate) slow_logs: [LogLimiter; SlowCause::ALL.len()],
    /// The clients that track keys of polled channels, by key.
    pub(crate) trackers: Trackers,
    pub(crate) memory: Arc<Memory>,
    shared_frames: SharedFrames,
    /// One for each place in the table of clients.
    flags: Vec<ClientFlags>,
    /// Connections with bytes in their outbox for which no write has been tried yet.
    unwritten: Vec<u32>,
    /// Connections that have more to read without a further edge from the poll.
    pub(crate) unread: Vec<u32>,
    /// Subscribers whose delivery changes at the end of the turn.
    pub(crate) delivery_changes: Vec<change_delivery::DeliveryChange>,
}

/// How deliveries reach one client. Packed densely beside the hub's tables, because a sweep looks at one for each
/// subscriber.
#[derive(Debug, Default)]
struct ClientFlags {
    /// Sends straight to the socket, without touching the client. `None` if the stream does not allow it.
    direct: Option<Direct>,
    /// Whether bytes wait in the outbox: further ones have to wait behind them.
    waiting: bool,
    /// Whether the client is listed to be written to at the end of the turn.
    listed: bool,
    /// Whether the client is about to be ended, so that nothing more is written to it.
    closing: bool,
    /// Whether newest values wait in the client's lanes, or are counted there. Further ones take the same way.
    lanes: bool,
    /// The last turn in which several channels were delivered and one of them was this client's.
    turn: u32,
}

/// The parts that a worker is made of.
#[derive(Debug)]
pub(crate) struct WorkerParts {
    pub(crate) index: usize,
    pub(crate) clock: Clock,
    pub(crate) node: Arc<Node>,
    pub(crate) contexts: Contexts,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) encodings: Arc<Encodings>,
    pub(crate) websocket: Arc<WebSocketConfig>,
    /// Longest message over Engine.IO, in bytes.
    pub(crate) packet_bytes_max: usize,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) io_uring: worker_config::IoUring,
}

/// A worker's poll and inbox, made before the node that pushes into the inbox.
#[derive(Debug)]
pub(crate) struct WorkerSeat {
    poll: mio::Poll,
    pub(crate) inbox: Arc<Inbox>,
}

impl WorkerSeat {
    pub(crate) fn new(config: &worker_config::WorkerConfig, memory: &Memory) -> std::io::Result<Self> {
        let poll = mio::Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), INBOX)?;
        Ok(Self { poll, inbox: Arc::new(Inbox::new(waker, config.inbox_max, memory.inbox_bytes_max())) })
    }
}

/// A thread that holds connections: its poll, their table, and the hub with their subscriptions.
#[derive(Debug)]
pub(crate) struct Worker {
    poll: mio::Poll,
    clock: Clock,
    /// The connections, each in its own allocation: the table stays small, grows without moving them, and a connection that
    /// closes frees its memory. A sweep does not touch them.
    clients: Slab<Box<Client>>,
    /// How many connections each place in the table has had.
    generations: Vec<u32>,
    shrink_policy: shrink::ShrinkPolicy,
    local: WorkerLocal,
    metrics: Arc<Metrics>,
    own_metrics: WorkerMetrics,
    reported: report::ReportedTotals,
    /// Whether any namespace has a flush interval.
    paced: bool,
    windows: FlushWindows<Arc<Prepared>>,
    /// Counts the turns that deliver to more than one channel.
    turn: u32,
    /// Events taken from the inbox. Kept between turns for its capacity.
    taken: InboxQueue,
    /// Whether the last turn had no time to look into the inbox.
    untaken: bool,
    gathered: gather::GatheredPublications,
    /// Updates of keys that some followers have yet to be sent.
    key_updates: VecDeque<deliver_key_updates::KeyUpdateInFlight>,
    share: take::TurnBudget,
    io_uring: worker_config::IoUring,
    /// Sends to many sockets at once, if the kernel allows it.
    together: Option<SendBatch>,
    after_sweep: Vec<sweep::AfterSweep>,
    measured: measured::Measured,
    due: Vec<u32>,
    shedding: shed::SheddingState,
    rebalancing: Option<rebalance::Rebalancing>,
    drain: Option<drain::WorkerDrain>,
    callers: callers::Callers,
    hold_limits: HoldLimits,
    stopping: bool,
}

impl Worker {
    /// Starts the thread. It ends after [`inbox::WorkerEvent::Stop`].
    pub(crate) fn spawn(seat: WorkerSeat, parts: WorkerParts) -> std::io::Result<thread::JoinHandle<()>> {
        let name = format!("worker-{}", parts.index);
        let mut worker = Self::new(seat, parts);
        thread::Builder::new().name(name).spawn(move || {
            let node = worker.local.node.clone();
            let _runtime = node.enter_runtime();
            while !worker.stopping {
                let ran = catch_unwind(AssertUnwindSafe(|| worker.run()));
                let goes_on = match ran {
                    Ok(()) => worker.stopping,
                    Err(_) => catch_unwind(AssertUnwindSafe(|| worker.begin_anew())).is_ok(),
                };
                if !goes_on {
                    // Without one of its workers the node would look alive but not serve its clients: aborting gets it
                    // restarted.
                    tracing::error!("a worker failed and cannot recover; the node stops");
                    std::process::abort();
                }
            }
        })
    }

    fn new(seat: WorkerSeat, parts: WorkerParts) -> Self {
        let now = parts.clock.now();
        let limits = Limits {
            message_bytes_max: parts.websocket.message_bytes_max,
            frame_bytes_max: parts.websocket.message_bytes_max,
            fragments_max: parts.websocket.fragments_max as u32,
        };
        let packet_limits = Limits {
            message_bytes_max: parts.packet_bytes_max,
            frame_bytes_max: parts.packet_bytes_max,
            ..limits
        };
        let defaults = HoldLimits::default();
        let bytes_total = defaults.bytes_total.min(parts.memory.held_bytes_max());
        let hold_limits = HoldLimits { bytes: defaults.bytes.min(bytes_total), bytes_total, ..defaults };
        let rules = &parts.contexts.usual.rules;
        let paced = rules.all().any(|options| options.flush_interval_ms > 0);
        Self {
            poll: seat.poll,
            clock: parts.clock,
            clients: Slab::new(),
            generations: Vec::new(),
            shrink_policy: shrink::ShrinkPolicy::default(),
            local: WorkerLocal {
                index: parts.index,
                clock: parts.clock,
                now,
                hub: Hub::new(hold_limits),
                node: parts.node,
                metrics: parts.metrics.clone(),
                inbox: seat.inbox,
                context: parts.contexts.usual,
                engine_io: parts.contexts.engine_io,
                renewed: false,
                authenticator: parts.authenticator,
                encodings: parts.encodings,
                limits,
                packet_limits,
                inflater: Inflater::new(),
                websocket: parts.websocket,
                scratch: BytesMut::new(),
                selected: Selected::default(),
                tally: Tally::default(),
                wheel: TimerWheel::new(now),
                directory: Directory::default(),
                given_up_log: LogLimiter::default(),
                shown: FxHashSet::default(),
                pending_connections: single_connection::PendingConnections::default(),
                awaited: await_subscriptions::PendingSubscriptions::default(),
                refusals_log: LogLimiter::default(),
                slow_logs: Default::default(),
                trackers: Trackers::default(),
                shared_frames: SharedFrames::new(parts.memory.clone()),
                memory: parts.memory,
                flags: Vec::new(),
                unwritten: Vec::new(),
                unread: Vec::new(),
                delivery_changes: Vec::new(),
            },
            own_metrics: parts.metrics.worker(parts.index),
            metrics: parts.metrics,
            reported: report::ReportedTotals::default(),
            paced,
            windows: FlushWindows::default(),
            turn: 0,
            taken: InboxQueue::default(),
            untaken: false,
            gathered: gather::GatheredPublications::default(),
            key_updates: VecDeque::new(),
            share: take::TurnBudget::default(),
            io_uring: parts.io_uring,
            together: None,
            after_sweep: Vec::new(),
            measured: measured::Measured::default(),
            due: Vec::new(),
            shedding: shed::SheddingState::default(),
            rebalancing: None,
            drain: None,
            callers: callers::Callers::default(),
            hold_limits,
            stopping: false,
        }
    }
}

impl WorkerLocal {
    /// Lists the client to be written to at the end of the turn, because bytes wait in its outbox.
    pub(crate) fn mark_unwritten(&mut self, index: u32) {
        let flags = &mut self.flags[index as usize];
        flags.waiting = true;
        if !flags.listed {
            flags.listed = true;
            self.unwritten.push(index);
        }
    }

    /// Marks the client's outbox as empty: deliveries may go straight to the socket again.
    pub(crate) fn mark_written(&mut self, index: u32) {
        self.flags[index as usize].waiting = false;
    }

    /// Sets whether newest values for this client have to go through its lanes.
    pub(crate) fn note_lanes(&mut self, index: u32, needed: bool) {
        self.flags[index as usize].lanes = needed;
    }

    /// Schedules the client's next timer.
    pub(crate) fn schedule(&mut self, client: &Client) {
        if let Some(at) = client.poll_timeout(self.websocket.write_timeout()) {
            self.wheel.schedule(client.key.index, at);
        }
    }

    /// Takes a client out of one channel, and releases the channel if it has no subscribers left on this worker.
    pub(crate) fn leave(&mut self, index: u32, client: ClientId, channel: &Channel) {
        let unfollowed = self.trackers.leave(channel.as_str(), index);
        self.node.unfollow(self.index, channel, &unfollowed);
        let left = self.hub.leave(channel.as_str(), index);
        if left.is_some() {
            self.note_unsubscribed(channel);
        }
        if let Some(left) = left
            && self.left(client, channel, left.last)
        {
            self.node.leave_presence(channel.clone(), client);
        }
    }

    /// Takes a client out of all its channels. Returns those in which the client may be present.
    pub(crate) fn leave_all(&mut self, index: u32, client: ClientId) -> Vec<Channel> {
        self.awaited.forget(index);
        self.pending_connections.forget(index);
        for (channel, unfollowed) in self.trackers.remove_all(index) {
            self.node.unfollow(self.index, &channel, &unfollowed);
        }
        let mut channels = Vec::new();
        self.hub.remove_all(index, |channel, left| channels.push((channel.clone(), left.last)));
        for (channel, _) in &channels {
            self.note_unsubscribed(channel);
        }
        channels.retain(|(channel, last)| self.left(client, channel, *last));
        channels.into_iter().map(|(channel, _)| channel).collect()
    }

    fn note_unsubscribed(&mut self, channel: &Channel) {
        let namespace = self.context.rules.namespace_id(channel.as_str());
        self.tally.namespaces.of(namespace).subscriptions -= 1;
    }

    /// Releases the channel after its last subscriber. Returns whether the client may be in the channel's presence.
    fn left(&mut self, client: ClientId, channel: &Channel, last: bool) -> bool {
        if last {
            self.node.release(self.index, channel);
        }
        let by_override = !self.shown.is_empty() && self.shown.remove(&(client, channel.clone()));
        // A client that joined under earlier options may still be present.
        let keeps_presence = self.context.rules.options(channel).is_some_and(|options| options.presence);
        by_override || self.renewed || keeps_presence
    }
}
