//! A broker with one stream per channel. It sends what it appends to every node that has subscribed to the channel, and
//! some of that is lost.

use std::collections::{BTreeMap, BTreeSet};

use gateway_core::channel_rules::ChannelRules;
use gateway_core::history::{HistoryFilter, HistoryPage, Retention};
use gateway_core::map::MapState;
use gateway_core::recovery::is_recovered;
use gateway_core::stream::Stream;
use shared::channel::Channel;
use shared::command::Since;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::publication::{Payload, Publication};
use shared::push::OwnedEvent;

use crate::checkers::Checkers;
use crate::cluster::RECOVERY_LIMIT;
use crate::network::{BrokerRequest, Event, Lane, Net, NodeEvent, Question, trace};
use crate::polls::Application;

/// More bytes than any stream here has.
pub(crate) const STREAM_BYTES_MAX: usize = 1 << 20;

/// The tag of a third of the application's publications.
pub(crate) const TAG: (&str, &str) = ("third", "yes");

/// Publications of this channel are long enough for deltas.
const PADDED: &str = "stream:b";

/// The link from the broker to one node.
#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) up: bool,
    /// The number of this link: what was on an earlier one does not arrive.
    pub(crate) number: u32,
    pub(crate) node_life: u32,
    lane: Lane,
    /// The channels that the node has asked for, whether or not the link is up.
    wanted: BTreeSet<Channel>,
    /// The channels that the broker delivers over the current link.
    subscribed: BTreeSet<Channel>,
}

#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) rules: ChannelRules,
    pub(crate) streams: BTreeMap<Channel, Stream>,
    /// The states of channels that keep state by key.
    pub(crate) states: BTreeMap<Channel, MapState>,
    pub(crate) links: Vec<Link>,
    next_number: u64,
    /// When all streams started anew.
    flushed_at: Option<Moment>,
    /// When each channel was cleared last.
    pub(crate) cleared_at: BTreeMap<Channel, Moment>,
    /// The application that is asked for the keys of the polled channel.
    pub(crate) application: Application,
}

/// How long nodes take to notice that streams have started anew, each by itself, in milliseconds. Until then some of them
/// deliver what was left of the old ones.
const EPOCHS_OVERLAP: u64 = 5_000;

impl Broker {
    pub(crate) fn new(rules: ChannelRules, nodes: usize, net: &mut Net) -> Self {
        let links = (0..nodes).map(|_| Link { up: true, ..Link::default() }).collect();
        Self {
            rules,
            streams: BTreeMap::new(),
            states: BTreeMap::new(),
            links,
            next_number: 0,
            flushed_at: None,
            cleared_at: BTreeMap::new(),
            application: Application::new(net),
        }
    }

    /// Returns a payload that no other publication has.
    pub(crate) fn payload(channel: &Channel, number: u64) -> Payload {
        Payload::json(match channel.as_str() {
            PADDED => format!("{{\"n\":{number},\"pad\":\"{:>60}\"}}", number % 5),
            _ => format!("{{\"n\":{number}}}"),
        })
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(crate) fn publish(&mut self, channel: &Channel, net: &mut Net, checkers: &mut Checkers) {
        let number = self.number();
        let mut publication = Publication { delta: true, ..Publication::new(Self::payload(channel, number)) };
        if number.is_multiple_of(3) {
            publication.tags.insert(TAG.0.into(), TAG.1.into());
        }
        self.append(channel, publication, net, checkers);
    }

    pub(crate) fn handle(&mut self, ask: BrokerRequest, net: &mut Net, checkers: &mut Checkers) {
        let BrokerRequest { node, life, what } = ask;
        let Some(link) = self.links.get_mut(node).filter(|link| link.node_life == life) else { return };
        match what {
            Question::Subscribe(channel) => {
                link.wanted.insert(channel.clone());
                if link.up {
                    link.subscribe(node, channel, net);
                }
            }
            Question::Unsubscribe(channel) => {
                link.wanted.remove(&channel);
                link.subscribed.remove(&channel);
            }
            Question::History(channel, filter, purpose) => {
                let failed = net.dice.chance(net.plan.failed_reads);
                let page = (!failed).then(|| self.page(&channel, filter, net));
                net.send_to_node(node, life, 1..30, NodeEvent::History { channel, page, purpose });
            }
            Question::Positions(channels, look) => {
                let mut tops = Vec::new();
                for (channel, before) in channels {
                    let top = self.page(&channel, HistoryFilter::default(), net).top;
                    tops.push((channel, before, top));
                }
                net.send_to_node(node, life, 1..30, NodeEvent::Positions { look, tops });
            }
            Question::LeaveEpoch(channel, epoch) => {
                if self.stream(&channel, net).position().epoch == epoch {
                    self.clear_state(&channel, net.now);
                }
                let top = self.stream(&channel, net).position();
                net.send_to_node(node, life, 1..30, NodeEvent::LeftEpoch { channel, top });
            }
            Question::Publish(channel, publication, wire, ticket) => {
                self.append(&channel, publication, net, checkers);
                net.send_to_node(node, life, 1..30, NodeEvent::Published { wire, ticket });
            }
            Question::ChangeKey(channel, change, wire, ticket) => {
                self.change_key(&channel, change, net);
                net.send_to_node(node, life, 1..30, NodeEvent::Published { wire, ticket });
            }
            Question::State(channel, filter, wire, ticket) => {
                let failed = net.dice.chance(net.plan.failed_reads);
                let page = (!failed).then(|| self.read_state(&channel, &filter, net));
                net.send_to_node(node, life, 1..30, NodeEvent::State { channel, page, wire, ticket });
            }
            Question::Poll(channel, requested) => {
                let failed = net.dice.chance(net.plan.failed_reads);
                let answer = (!failed).then(|| self.application.answer(&requested));
                net.send_to_node(node, life, 1..120, NodeEvent::Polled { channel, requested, answer });
            }
            Question::Announce(channel, event) => self.announce(&channel, &event, net, checkers),
        }
    }

    /// Takes a node's link down, with everything that is on it.
    pub(crate) fn lose_link(&mut self, node: usize) {
        let link = &mut self.links[node];
        link.up = false;
        link.number += 1;
        link.subscribed.clear();
    }

    /// Restores a link, over which everything is asked for again.
    pub(crate) fn restore_link(&mut self, node: usize, net: &mut Net) {
        let link = &mut self.links[node];
        link.up = true;
        for channel in link.wanted.clone() {
            link.subscribe(node, channel, net);
        }
        let time = link.lane.arrival(net.now, 5);
        net.at(time, Event::Node { node, life: link.node_life, what: NodeEvent::Resumed });
    }

    /// Forgets a node that is gone. The next node with this number starts a new life.
    pub(crate) fn forget_node(&mut self, node: usize, life: u32) {
        let link = &mut self.links[node];
        *link = Link { up: link.up, number: link.number + 1, node_life: life, ..Link::default() };
    }

    /// Restarts the broker, which has lost everything.
    pub(crate) fn flush(&mut self, now: Moment) {
        self.streams.clear();
        self.states.clear();
        self.flushed_at = Some(now);
    }

    /// Whether there may still be two streams of one name, of which nobody can tell the order.
    pub(crate) fn epochs_overlap(&self, now: Moment) -> bool {
        self.flushed_at.is_some_and(|at| now.0 < at.0 + EPOCHS_OVERLAP)
    }

    /// Changes a polled key. The change is published, or found when the key is next asked for.
    pub(crate) fn change_polled(&mut self, channel: &Channel, net: &mut Net) {
        let Some((key, version, epoch)) = self.application.change(net) else { return };
        for (node, link) in self.links.iter_mut().enumerate() {
            if !link.subscribed.contains(channel) || net.dice.chance(net.plan.dropped_publications) {
                continue;
            }
            let latency = net.dice.within(1..60);
            let time = link.lane.arrival(net.now, latency);
            let (channel, key) = (channel.clone(), key.clone());
            let what = NodeEvent::PolledPublished { link: link.number, channel, key, version, epoch };
            net.at(time, Event::Node { node, life: link.node_life, what });
        }
    }

    /// Has nodes compare a channel's position, as far as they can be reached.
    pub(crate) fn have_compared(&mut self, channel: &Channel, net: &mut Net) {
        for (node, link) in self.links.iter_mut().enumerate().filter(|(_, link)| link.up) {
            let latency = net.dice.within(1..60);
            let time = link.lane.arrival(net.now, latency);
            let what = NodeEvent::Compare { link: link.number, channel: channel.clone() };
            net.at(time, Event::Node { node, life: link.node_life, what });
        }
    }

    /// Whether there may still be two streams of this channel.
    pub(crate) fn epochs_of_overlap(&self, channel: &Channel, now: Moment) -> bool {
        let cleared = self.cleared_at.get(channel).is_some_and(|at| now.0 < at.0 + EPOCHS_OVERLAP);
        cleared || self.epochs_overlap(now)
    }

    /// Removes the history of every channel. Offsets continue.
    pub(crate) fn clear_history(&mut self) {
        self.streams.values_mut().for_each(Stream::clear);
    }

    /// Returns where a channel's stream ends; `None` if it has none.
    pub(crate) fn top(&mut self, channel: &Channel, net: &mut Net) -> Option<StreamPosition> {
        self.retention(channel).keeps_history().then(|| self.page(channel, HistoryFilter::default(), net).top)
    }

    /// Whether history has everything after a position.
    pub(crate) fn could_serve(&mut self, channel: &Channel, epoch: &str, offset: u64, net: &mut Net) -> bool {
        if !self.retention(channel).keeps_history() {
            return false;
        }
        let filter =
            HistoryFilter { since: Some(offset), limit: RECOVERY_LIMIT, reverse: false, enough_bytes: None };
        is_recovered(&Since { offset, epoch: epoch.into() }, &self.page(channel, filter, net))
    }

    /// Returns how many channel subscriptions the nodes have.
    pub(crate) fn subscriptions(&self) -> usize {
        self.links.iter().map(|link| link.wanted.len()).sum()
    }

    pub(crate) fn retention(&self, channel: &Channel) -> Retention {
        self.rules.options(channel).expect("only channels with options are used").retention()
    }

    fn append(
        &mut self,
        channel: &Channel,
        mut publication: Publication,
        net: &mut Net,
        checkers: &mut Checkers,
    ) {
        let retention = self.retention(channel);
        if retention.keeps_history() {
            let now = net.now;
            self.stream(channel, net).append(now, &mut publication, retention, STREAM_BYTES_MAX);
        }
        checkers.published(channel, &publication);
        self.send_on(channel, &publication, net);
    }

    /// Sends a publication to all nodes that are subscribed, as far as it gets there.
    pub(crate) fn send_on(&mut self, channel: &Channel, publication: &Publication, net: &mut Net) {
        trace(net.now, || format!("published {channel} {:?}", publication.position));
        for (node, link) in self.links.iter_mut().enumerate() {
            if !link.subscribed.contains(channel) {
                continue;
            }
            if net.dice.chance(net.plan.dropped_publications) {
                net.stats.count("publications dropped");
                trace(net.now, || format!("  dropped on the way to node {node}"));
                continue;
            }
            let latency = net.dice.within(1..60);
            let time = link.lane.arrival(net.now, latency);
            let (channel, publication) = (channel.clone(), publication.clone());
            let what = NodeEvent::Publication { link: link.number, channel, publication };
            net.at(time, Event::Node { node, life: link.node_life, what });
        }
    }

    /// Sends a join or a leave. They have no stream, so nobody would be told of a lost one: none is.
    fn announce(&mut self, channel: &Channel, event: &OwnedEvent, net: &mut Net, checkers: &mut Checkers) {
        checkers.announced(channel, event, net.now);
        for (node, link) in self.links.iter_mut().enumerate() {
            if link.subscribed.contains(channel) {
                let latency = net.dice.within(1..60);
                let time = link.lane.arrival(net.now, latency);
                let (channel, event) = (channel.clone(), event.clone());
                let what = NodeEvent::Told { link: link.number, channel, event };
                net.at(time, Event::Node { node, life: link.node_life, what });
            }
        }
    }

    fn page(&mut self, channel: &Channel, filter: HistoryFilter, net: &mut Net) -> HistoryPage {
        self.stream(channel, net).page(filter)
    }

    pub(crate) fn state_and_stream(&mut self, channel: &Channel) -> (&mut MapState, &mut Stream) {
        let stream = self.streams.get_mut(channel).expect("it was looked at");
        (self.states.entry(channel.clone()).or_default(), stream)
    }

    pub(crate) fn stream(&mut self, channel: &Channel, net: &mut Net) -> &mut Stream {
        let epoch = || Stream::new(Epoch::from_random(net.dice.roll()));
        self.streams.entry(channel.clone()).or_insert_with(epoch)
    }
}

impl Link {
    fn subscribe(&mut self, node: usize, channel: Channel, net: &mut Net) {
        self.subscribed.insert(channel.clone());
        let latency = net.dice.within(1..30);
        let time = self.lane.arrival(net.now, latency);
        let what = NodeEvent::Subscribed { link: self.number, channel };
        net.at(time, Event::Node { node, life: self.node_life, what });
    }
}
