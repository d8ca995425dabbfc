//! One worker, wired as in a gateway: connections with their sessions, a hub, a timer wheel and an inbox.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use gateway_core::effect::{
    DeliveryTerms, Effect, GoLive, Identity, Join, Outcome, OutcomeResult, Overrides, ServerSubscription,
    Ticket, Verified,
};
use gateway_core::history::HistoryFilter;
use gateway_core::hub::{
    Bundles, EncodingId, HoldLimits, Hub, Interest, KnownPosition, Prepared, PushFraming, Sink, Subscriber,
    Variant,
};
use gateway_core::map::{MapChange, StateFilter};
use gateway_core::poll::Trackers;
use gateway_core::session::{ConnectionKind, Opening, Session};
use gateway_core::timer_wheel::TimerWheel;
use shared::channel::Channel;
use shared::command::TrackBatch;
use shared::disconnect::Disconnect;
use shared::framing::{Message, MessageKind};
use shared::id::ClientId;
use shared::position::StreamPosition;
use shared::publication::Publication;
use shared::push::{OwnedEvent, UnsubscribeCode};
use slab::Slab;

use crate::network::{Net, NodeEvent, trace};
use crate::node::Common;
use crate::polling::{News, named};

/// What a worker asks of its node.
#[derive(Debug)]
pub(crate) enum WorkerRequest {
    Listen(Channel),
    Forget(Channel),
    Join(u64, Join),
    Publish(u64, Ticket, Channel, Publication),
    ChangeKey(u64, Ticket, Channel, MapChange),
    State(u64, Ticket, Channel, Box<StateFilter>),
    History(u64, Ticket, Channel, HistoryFilter),
    Follow(Channel, Vec<(Box<str>, u64)>),
    Unfollow(Channel, Vec<Box<str>>),
    Announce(Channel, OwnedEvent),
    /// An outcome that is known at once.
    Outcome(u64, Outcome),
    /// The connection is gone.
    Gone(u64),
}

/// A line break ends a message. It also separates the parts of one, so clients need not tell them apart.
#[derive(Debug)]
pub(crate) struct Lines;

impl PushFraming for Lines {
    fn headroom(&self) -> usize {
        0
    }

    fn seal(&self, _: MessageKind, buffer: &mut BytesMut) -> usize {
        buffer.put_u8(b'\n');
        0
    }

    fn deflate(&self, _: MessageKind, _: &[u8]) -> Option<Bytes> {
        None
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) wire: u64,
    pub(crate) session: Session,
}

#[derive(Debug)]
pub(crate) enum Item {
    Publication(Arc<Prepared>),
    Lost(Channel, StreamPosition),
    News(News),
    /// The versions of this polled channel start anew.
    Anew(Channel),
}

#[derive(Debug)]
pub(crate) struct Worker {
    node: usize,
    life: u32,
    index: usize,
    common: Common,
    hub: Hub,
    wheel: TimerWheel,
    pub(crate) connections: Slab<Connection>,
    pub(crate) trackers: Trackers,
    pub(crate) inbox: Vec<Item>,
    /// The position up to which its node has delivered each channel, to any worker.
    pub(crate) handed_out: BTreeMap<Channel, StreamPosition>,
    /// The position of the last publication of each channel that did not fit into the inbox.
    overflow: BTreeMap<Channel, StreamPosition>,
    /// Whether subscribers are being told of such an overflow.
    overflowing: bool,
    is_to_run: bool,
    wakes_at: Option<u64>,
    pub(crate) requests: VecDeque<WorkerRequest>,
}

impl Worker {
    pub(crate) fn new(
        node: usize,
        life: u32,
        index: usize,
        common: &Common,
        now: shared::moment::Moment,
        limits: HoldLimits,
    ) -> Self {
        Self {
            node,
            life,
            index,
            common: common.clone(),
            // Channels here have so few subscribers that even two are many.
            hub: Hub::new(limits).with_sweep_piece(1),
            wheel: TimerWheel::new(now),
            connections: Slab::new(),
            trackers: Trackers::default(),
            inbox: Vec::new(),
            handed_out: BTreeMap::new(),
            overflow: BTreeMap::new(),
            overflowing: false,
            is_to_run: false,
            wakes_at: None,
            requests: VecDeque::new(),
        }
    }

    pub(crate) fn open(&mut self, wire: u64, net: &mut Net) -> u32 {
        let opening = Opening {
            client: ClientId::from_random(u128::from(wire)),
            protocol: self.common.protocol.clone(),
            context: self.common.context.clone(),
            connection_kind: ConnectionKind::Bidirectional,
            connect: None,
            seed: net.dice.roll(),
        };
        let session = Session::open(net.now, opening);
        let key = self.connections.insert(Connection { wire, session }) as u32;
        self.follow_up(key, net);
        key
    }

    pub(crate) fn read(&mut self, key: u32, message: &[u8], net: &mut Net) {
        let Some(connection) = self.connections.get_mut(key as usize) else { return };
        connection.session.handle_message(net.now, Message { kind: MessageKind::Text, data: message });
        self.follow_up(key, net);
    }

    pub(crate) fn outcome(&mut self, key: u32, outcome: Outcome, net: &mut Net) {
        let Some(connection) = self.connections.get_mut(key as usize) else { return };
        connection.session.handle_outcome(net.now, outcome);
        self.follow_up(key, net);
    }

    /// Has the application end a subscription of the client, or begin one.
    pub(crate) fn server_acts(&mut self, key: u32, channel: &Channel, subscribes: bool, net: &mut Net) {
        let Some(connection) = self.connections.get_mut(key as usize) else { return };
        let place = (connection.wire, channel.clone());
        if subscribes {
            let subscription = server_subscription(channel);
            if connection.session.handle_subscribe(net.now, subscription, None).is_ok() {
                net.ended.remove(&place);
                net.begun_anew.insert(place);
            }
        } else {
            if connection.session.subscriptions().any(|known| known == channel) {
                net.ended.insert(place);
            }
            connection.session.handle_unsubscribe(channel, UnsubscribeCode::Server);
        }
        self.follow_up(key, net);
    }

    /// Removes a connection with all its subscriptions.
    pub(crate) fn remove(&mut self, key: u32) {
        let Some(mut connection) = self.connections.try_remove(key as usize) else { return };
        let announced = connection.session.take_announced();
        let requests = &mut self.requests;
        self.hub.remove_all(key, |channel, left| {
            if left.last {
                requests.push_back(WorkerRequest::Forget(channel.clone()));
            }
        });
        let unfollowed = self.trackers.remove_all(key).into_iter();
        requests.extend(unfollowed.map(|(channel, keys)| WorkerRequest::Unfollow(channel, named(keys))));
        let left = |(channel, info)| WorkerRequest::Announce(channel, OwnedEvent::Left(info));
        self.requests.extend(announced.into_iter().map(left));
        let requests = &mut self.requests;
        self.wheel.remove(key);
        requests.push_back(WorkerRequest::Gone(connection.wire));
    }

    pub(crate) fn push(&mut self, prepared: &Arc<Prepared>, net: &mut Net) {
        if self.inbox.len() < net.plan.inbox {
            self.inbox.push(Item::Publication(prepared.clone()));
        } else {
            net.stats.count("inbox overflows");
            if let Some(position) = prepared.position() {
                self.overflow.insert(prepared.channel().clone(), position);
            }
        }
        self.wake(net);
    }

    pub(crate) fn push_lost(&mut self, channel: &Channel, position: StreamPosition, net: &mut Net) {
        self.inbox.push(Item::Lost(channel.clone(), position));
        self.wake(net);
    }

    /// Takes everything in the inbox, by channel.
    pub(crate) fn run(&mut self, net: &mut Net) {
        self.is_to_run = false;
        let mut by_channel: BTreeMap<Channel, Vec<Arc<Prepared>>> = BTreeMap::new();
        for item in std::mem::take(&mut self.inbox) {
            match item {
                Item::Publication(prepared) => {
                    by_channel.entry(prepared.channel().clone()).or_default().push(prepared);
                }
                Item::Lost(channel, position) => {
                    let before = by_channel.remove(&channel).unwrap_or_default();
                    self.with_hub(net, |hub, writer| {
                        hub.deliver(channel.as_str(), &before, writer);
                        hub.lost(channel.as_str(), position, writer);
                    });
                }
                Item::News(news) => self.tell_news(&news, net),
                Item::Anew(channel) => self.tell_anew(&channel, net),
            }
        }
        for (channel, publications) in by_channel {
            self.with_hub(net, |hub, writer| hub.deliver(channel.as_str(), &publications, writer));
        }
        self.overflowing = true;
        for (channel, position) in std::mem::take(&mut self.overflow) {
            self.with_hub(net, |hub, writer| hub.lost(channel.as_str(), position, writer));
        }
        self.overflowing = false;
        if self.hub.is_sweeping() {
            net.stats.count("sweeps gone on with");
            self.with_hub(net, |hub, writer| hub.sweep_on(writer));
            self.wake(net);
        }
    }

    pub(crate) fn on_timer(&mut self, net: &mut Net) {
        self.wakes_at = None;
        let mut due = Vec::new();
        self.wheel.take_due(net.now, &mut due);
        for key in due {
            if let Some(connection) = self.connections.get_mut(key as usize) {
                connection.session.handle_timeout(net.now);
                self.follow_up(key, net);
            }
        }
        self.schedule_timer(net);
    }

    pub(crate) fn check_empty(&self) {
        assert_eq!(self.hub.interest(), Interest::default(), "a hub of node {} is not empty", self.node);
        assert!(self.connections.is_empty(), "node {} keeps connections", self.node);
        assert!(self.inbox.is_empty() && self.overflow.is_empty());
        assert_eq!(self.trackers.count(), 0, "node {} keeps followers", self.node);
    }

    pub(crate) fn wake(&mut self, net: &mut Net) {
        if !self.is_to_run {
            self.is_to_run = true;
            let what = NodeEvent::WorkerRuns { worker: self.index };
            net.send_to_node(self.node, self.life, 0..20, what);
        }
    }

    /// Runs an action on the hub, and then handles the subscribers that were told of a gap or could not be written to.
    fn with_hub(&mut self, net: &mut Net, act: impl FnOnce(&mut Hub, &mut Writer<'_>)) {
        let mut writer = Writer::new(&self.connections, net);
        act(&mut self.hub, &mut writer);
        let Writer { told, slow, .. } = writer;
        for (key, channel) in told {
            if let Some(connection) = self.connections.get_mut(key as usize) {
                net.told(&channel, connection.wire, self.overflowing);
                connection.session.handle_unsubscribe(&channel, UnsubscribeCode::InsufficientState);
                self.follow_up(key, net);
            }
        }
        for key in slow {
            self.disconnect(key, Disconnect::SLOW, net);
        }
    }

    pub(crate) fn disconnect(&mut self, key: u32, disconnect: Disconnect, net: &mut Net) {
        if let Some(connection) = self.connections.get_mut(key as usize) {
            connection.session.handle_disconnect(disconnect);
            self.follow_up(key, net);
        }
    }

    /// Carries out the effects of a session, until there are none.
    pub(crate) fn follow_up(&mut self, key: u32, net: &mut Net) {
        while let Some(connection) = self.connections.get_mut(key as usize) {
            let Some(effect) = connection.session.poll_effect() else {
                if let Some(at) = connection.session.poll_timeout() {
                    self.wheel.schedule(key, at);
                }
                self.schedule_timer(net);
                break;
            };
            let wire = connection.wire;
            let answer = |ticket, result| WorkerRequest::Outcome(wire, Outcome { ticket, result });
            trace(net.now, || format!("node {} wire {wire}: {effect:?}", self.node));
            match effect {
                Effect::Send(message) => {
                    if !net.down(wire, message.data) {
                        net.stats.count("slow clients closed");
                        self.disconnect(key, Disconnect::SLOW, net);
                    }
                }
                Effect::Close(disconnect) => {
                    if disconnect == Disconnect::NO_PONG {
                        net.stats.count("silent clients closed");
                    }
                    net.close(wire, disconnect.code);
                    self.remove(key);
                }
                Effect::Authenticate { ticket, .. } => {
                    let served = net.served.get(&net.wires[&wire].client).cloned().unwrap_or_default();
                    let subs = served.iter().map(server_subscription).collect();
                    let identity = Identity { subs, ..Identity::default() };
                    self.requests.push_back(answer(ticket, OutcomeResult::Authenticated(Ok(identity))));
                }
                Effect::Join(join) => {
                    let subscriber = subscriber(key, &join.terms);
                    if self.hub.join(&join.channel, subscriber, join.terms.filter.clone()).first {
                        self.requests.push_back(WorkerRequest::Listen(join.channel.clone()));
                    }
                    self.requests.push_back(WorkerRequest::Join(wire, *join));
                }
                Effect::GoLive(go_live) => self.go_live(key, &go_live, net),
                Effect::AwaitRoom { ticket } => {
                    let delay = if net.dice.chance(500) { 0..1 } else { 0..400 };
                    let what = NodeEvent::Room { wire, ticket };
                    net.send_to_node(self.node, self.life, delay, what);
                }
                Effect::Verify { ticket, batches, .. } => {
                    let verified = |batch: TrackBatch| Verified { items: batch.items, expires: None };
                    let verified = Ok(batches.into_iter().map(verified).collect());
                    self.requests.push_back(answer(ticket, OutcomeResult::Verified(verified)));
                }
                Effect::Follow { channel, keys } => {
                    let subscriber = Subscriber::new(key, Variant::plain(EncodingId::default()));
                    for (name, version) in &keys {
                        self.trackers.track(&channel, name, subscriber, *version);
                    }
                    self.requests.push_back(WorkerRequest::Follow(channel, keys));
                }
                Effect::Unfollow { channel, keys } => {
                    let last =
                        keys.into_iter().filter(|name| self.trackers.untrack(channel.as_str(), name, key));
                    let last = last.collect();
                    self.requests.push_back(WorkerRequest::Unfollow(channel, last));
                }
                Effect::Leave { channel, .. } => {
                    let unfollowed = named(self.trackers.leave(channel.as_str(), key));
                    self.requests.push_back(WorkerRequest::Unfollow(channel.clone(), unfollowed));
                    if self.hub.leave(channel.as_str(), key).is_some_and(|left| left.last) {
                        self.requests.push_back(WorkerRequest::Forget(channel));
                    }
                }
                Effect::Publish { ticket, channel, publication, .. } => {
                    self.requests.push_back(WorkerRequest::Publish(wire, ticket, channel, *publication));
                }
                Effect::ChangeKey { ticket, channel, change, .. } => {
                    self.requests.push_back(WorkerRequest::ChangeKey(wire, ticket, channel, *change));
                }
                Effect::ReadState { ticket, channel, filter, .. } => {
                    self.requests.push_back(WorkerRequest::State(wire, ticket, channel, filter));
                }
                Effect::History { ticket, channel, filter, .. } => {
                    self.requests.push_back(WorkerRequest::History(wire, ticket, channel, filter));
                }
                Effect::AnnounceJoined { channel, info } => {
                    self.requests.push_back(WorkerRequest::Announce(channel, OwnedEvent::Joined(*info)));
                }
                Effect::AnnounceLeft { channel, info } => {
                    self.requests.push_back(WorkerRequest::Announce(channel, OwnedEvent::Left(*info)));
                }
                other => panic!("no client here asks for {other:?}"),
            }
        }
    }

    /// Goes live. If what was held back does not join on, or finds no room, the session reads it from history.
    fn go_live(&mut self, key: u32, go_live: &GoLive, net: &mut Net) {
        let is_full = go_live.can_read_on() && net.dice.chance(50);
        let mut writer = Writer { is_full, ..Writer::new(&self.connections, net) };
        let is_handed_out = go_live.position.is_some_and(|position| {
            let handed_out = self.handed_out.get(&go_live.channel);
            handed_out.is_some_and(|at| at.epoch == position.epoch && position.offset <= at.offset)
        });
        let knows = KnownPosition { position: go_live.position, has_last: go_live.has_last, is_handed_out };
        self.hub.go_live(go_live.channel.as_str(), key, knows, &mut writer);
        let Writer { told, slow, .. } = writer;
        for (key, channel) in told {
            let Some(connection) = self.connections.get_mut(key as usize) else { continue };
            if connection.session.handle_gap(go_live) {
                net.stats.count("holes read from history");
            } else {
                net.told_at_once(&channel, connection.wire);
                connection.session.handle_unsubscribe(&channel, UnsubscribeCode::InsufficientState);
            }
        }
        for key in slow {
            self.disconnect(key, Disconnect::SLOW, net);
        }
    }

    fn schedule_timer(&mut self, net: &mut Net) {
        let Some(due) = self.wheel.next_due() else { return };
        if self.wakes_at.is_none_or(|at| at > due.0) {
            self.wakes_at = Some(due.0);
            let delay = due.since(net.now).as_millis() as u64;
            let what = NodeEvent::WorkerTimer { worker: self.index };
            net.send_to_node(self.node, self.life, delay..delay + 1, what);
        }
    }
}

/// The subscription that the application makes for clients.
fn server_subscription(channel: &Channel) -> ServerSubscription {
    let overrides =
        Overrides { force_recovery: Some(true), force_push_join_leave: Some(true), ..Overrides::default() };
    ServerSubscription { channel: channel.as_str().into(), overrides, ..ServerSubscription::default() }
}

fn subscriber(key: u32, terms: &DeliveryTerms) -> Subscriber {
    let variant = Variant::plain(EncodingId::default());
    let variant = if terms.patches { variant.with_patches() } else { variant };
    Subscriber::new(key, variant).positioned(terms.positioned).joins_and_leaves(terms.joins_and_leaves)
}

/// Writes what the hub delivers.
pub(crate) struct Writer<'a> {
    connections: &'a Slab<Connection>,
    net: &'a mut Net,
    told: Vec<(u32, Channel)>,
    pub(crate) slow: Vec<u32>,
    /// Whether the client has no room for what was held back for it.
    is_full: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(connections: &'a Slab<Connection>, net: &'a mut Net) -> Self {
        Self { connections, net, told: Vec::new(), slow: Vec::new(), is_full: false }
    }
}

impl Sink for Writer<'_> {
    fn catch_up(&mut self, subscriber: Subscriber, bundles: &mut Bundles) -> bool {
        if self.is_full {
            self.net.stats.count("held back without room");
        } else {
            self.deliver(&[subscriber], bundles);
        }
        !self.is_full
    }

    fn deliver(&mut self, subscribers: &[Subscriber], bundles: &mut Bundles) {
        for subscriber in subscribers {
            let wire = self.connections[subscriber.key as usize].wire;
            let count = bundles.publications().len();
            let bundle = bundles.get(subscriber.variant);
            assert_eq!(bundle.publications as usize, count, "every payload here has a JSON form");
            for write in &bundle.writes {
                self.net.stats.count("writes");
                if !self.slow.contains(&subscriber.key) && !self.net.down(wire, write.clone()) {
                    self.net.stats.count("slow clients closed");
                    self.slow.push(subscriber.key);
                }
            }
        }
    }

    fn insufficient(&mut self, key: u32, channel: &Channel) {
        self.told.push((key, channel.clone()));
    }
}
