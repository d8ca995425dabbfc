//! A model of a client library: it connects to any node, subscribes, recovers and reconnects, and passes everything it gets
//! to the checkers.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use shared::channel::Channel;
use shared::command::{Command, Connect, FilterNode, Request, Subscribe};
use shared::id::ClientId;
use shared::protocol::centrifuge::json::client::{ClientResult, Received, decode_frame, encode_command};

use crate::broker::{Broker, TAG};
use crate::checkers::{Checkers, Kind};
use crate::map::{Map, MapKind};
use crate::network::{ClientEvent, Event, Net, NodeEvent, trace};
use crate::polls::{Follower, POLLED};
use crate::subscription::{State, Subscription};

/// The command that a reply will answer.
#[derive(Debug)]
pub(crate) enum SentCommand {
    /// With the positions where it stopped reading the server's subscriptions.
    Connect {
        from: BTreeMap<Channel, (String, u64)>,
    },
    Subscribe {
        channel: Channel,
        from: Option<(String, u64)>,
    },
    Unsubscribe {
        channel: Channel,
    },
    /// Asks for a page of a channel's keys, or to go live.
    Map {
        channel: Channel,
    },
    UnsubscribeMap {
        channel: Channel,
    },
    SubscribePolled,
    Track,
    Publish,
}

#[derive(Debug)]
pub(crate) struct Client {
    index: usize,
    pub(crate) wire: Option<u64>,
    connected: bool,
    leaving: bool,
    next_id: u32,
    sent_commands: BTreeMap<u32, SentCommand>,
    subscriptions: BTreeMap<Channel, Subscription>,
    pub(crate) maps: BTreeMap<Channel, Map>,
    pub(crate) follower: Option<Follower>,
}

impl Client {
    pub(crate) fn new(
        index: usize,
        wants: impl IntoIterator<Item = (Channel, Kind)>,
        maps: impl IntoIterator<Item = (Channel, MapKind)>,
        follower: Option<Follower>,
        net: &mut Net,
    ) -> Self {
        let subscription = |(channel, kind): (Channel, Kind)| {
            if kind == Kind::Served {
                net.served.entry(index).or_default().push(channel.clone());
            }
            let is_told_who_comes = index.is_multiple_of(2) || kind == Kind::Served;
            (channel.clone(), Subscription::new(channel, kind, is_told_who_comes))
        };
        let subscriptions = wants.into_iter().map(subscription).collect();
        let client = Self {
            index,
            wire: None,
            connected: false,
            leaving: false,
            next_id: 0,
            sent_commands: BTreeMap::new(),
            subscriptions,
            maps: maps
                .into_iter()
                .map(|(channel, kind)| (channel.clone(), Map::new(channel, kind)))
                .collect(),
            follower,
        };
        client.later(0..1000, ClientEvent::Connect, net);
        client.later(500..3000, ClientEvent::Churn, net);
        client
    }

    /// Handles a new connection to a node.
    pub(crate) fn open(&mut self, wire: u64, net: &mut Net) {
        self.wire = Some(wire);
        let mut frame = BytesMut::new();
        let mut from = BTreeMap::new();
        let mut connect = Connect::default();
        for (channel, subscription) in &mut self.subscriptions {
            if subscription.kind != Kind::Served {
                continue;
            }
            subscription.state = State::Requested;
            let position = subscription.reader.position.clone();
            let (epoch, offset) = position.clone().unwrap_or_default();
            let subscribe = Subscribe {
                recover: position.is_some(),
                epoch: epoch.into(),
                offset,
                ..Subscribe::default()
            };
            connect.subs.insert(channel.as_str().into(), subscribe);
            from.extend(position.map(|position| (channel.clone(), position)));
        }
        self.command(Request::Connect(Box::new(connect)), SentCommand::Connect { from }, &mut frame);
        let channels: Vec<_> = self.subscriptions.keys().cloned().collect();
        for channel in channels {
            self.ask_to_subscribe(&channel, &mut frame);
        }
        let maps: Vec<_> = self.maps.keys().cloned().collect();
        for channel in maps {
            self.ask_for_map(&channel, &mut frame);
        }
        self.ask_for_polled(&mut frame);
        self.send(frame, net);
    }

    pub(crate) fn handle(
        &mut self,
        what: ClientEvent,
        broker: &mut Broker,
        net: &mut Net,
        checkers: &Checkers,
    ) {
        match what {
            ClientEvent::Connect => {}
            ClientEvent::Reads { wire, message } => {
                if let Some(wire) = net.wires.get_mut(&wire) {
                    wire.bytes_on_their_way -= message.len();
                }
                if self.wire == Some(wire) && !net.wires[&wire].cut {
                    self.read(&message, broker, net, checkers);
                }
            }
            ClientEvent::Closed { wire, code } => {
                if self.wire == Some(wire) {
                    trace(net.now, || format!("client {} is closed: {code}", self.index));
                    if code == 3010 {
                        self.check_need(wire, broker, net);
                    } else {
                        assert!([1006, 3008, 3012].contains(&code), "closed with {code}");
                    }
                    self.disconnected();
                    self.later(100..2000, ClientEvent::Connect, net);
                }
            }
            ClientEvent::Subscribe(channel) => {
                let mut frame = BytesMut::new();
                if let Some(subscription) = self.subscriptions.get_mut(&channel) {
                    subscription.wanted = true;
                }
                if let Some(map) = self.maps.get_mut(&channel) {
                    map.wanted = true;
                }
                self.ask_to_subscribe(&channel, &mut frame);
                self.ask_for_map(&channel, &mut frame);
                if channel.as_str() == POLLED {
                    self.ask_for_polled(&mut frame);
                }
                self.send(frame, net);
            }
            ClientEvent::Follow(key) => self.follow_again(key, net),
            ClientEvent::Churn => self.churn(broker, net),
        }
    }

    /// Returns to the subscriptions it had at first, and to no others.
    pub(crate) fn settle(&mut self, net: &mut Net) {
        let subscriptions = self.subscriptions.iter().map(|(channel, one)| (channel, one.wanted));
        let maps = self.maps.iter().map(|(channel, map)| (channel, map.wanted));
        for (channel, _) in subscriptions.chain(maps).filter(|(_, wanted)| !wanted) {
            self.later(0..100, ClientEvent::Subscribe(channel.clone()), net);
        }
    }

    pub(crate) fn leave(&mut self, net: &mut Net) {
        self.leaving = true;
        if let Some(wire) = self.wire {
            net.up(wire, |wire| NodeEvent::Closed { wire });
        }
        self.disconnected();
    }

    pub(crate) fn wants_to_connect(&self) -> bool {
        self.wire.is_none() && !self.leaving
    }

    /// Iterates over the channels to which it is subscribed, with its client id.
    pub(crate) fn memberships(&self) -> impl Iterator<Item = (Channel, String)> {
        let name = self.wire.map(|wire| ClientId::from_random(u128::from(wire)).to_string());
        let on = self.subscriptions.iter().filter(|(_, one)| one.state == State::On);
        on.filter_map(move |(channel, _)| Some((channel.clone(), name.clone()?)))
    }

    pub(crate) fn check_end(&self, broker: &mut Broker, net: &mut Net, checkers: &Checkers) {
        assert!(self.connected, "client {} did not come back", self.index);
        for (channel, subscription) in &self.subscriptions {
            let state = subscription.state;
            let wire = self.wire.expect("it is connected");
            if subscription.kind == Kind::Served && net.ended.contains(&(wire, channel.clone())) {
                assert_eq!(state, State::Off, "client {} was not told of the end of {channel}", self.index);
                continue;
            }
            assert_eq!(state, State::On, "client {} did not come back to {channel}", self.index);
            if let Some(members) = subscription.members.as_ref().filter(|_| checkers.all_are_announced) {
                let since = net.told_since[&(wire, channel.clone())];
                members.check_end(channel, since, checkers);
                net.stats.count("member lists compared");
            }
            subscription.reader.check_end(broker.top(channel, net), checkers);
        }
        for (channel, map) in &self.maps {
            map.check_end(&broker.truth(channel), net);
        }
        if let Some(follower) = &self.follower {
            follower.check_end(&broker.application, net);
        }
    }

    fn read(&mut self, message: &[u8], broker: &mut Broker, net: &mut Net, checkers: &Checkers) {
        let frame = std::str::from_utf8(message).expect("text");
        trace(net.now, || format!("client {} reads {}", self.index, frame.replace('\n', "⏎")));
        for received in decode_frame(frame) {
            match received.expect("the gateway speaks its protocol") {
                Received::Ping => net.up(self.wire.expect("it reads"), |wire| NodeEvent::Reads {
                    wire,
                    message: Bytes::from_static(b"{}"),
                }),
                Received::Publication { channel, publication } if *channel == *POLLED => {
                    self.on_polled_news(&publication, net);
                }
                Received::Unsubscribed { channel, code } if *channel == *POLLED => {
                    self.on_polled_ended(code, net)
                }
                Received::Publication { channel, publication } if !publication.key.is_empty() => {
                    self.map(&channel).get(&publication, net);
                }
                Received::Publication { channel, publication } => {
                    let subscription =
                        self.subscriptions.get_mut(&*channel).expect("only what was asked for");
                    assert_eq!(
                        subscription.state,
                        State::On,
                        "a publication in {channel} without a subscription"
                    );
                    subscription.get(&publication, net, checkers);
                }
                Received::Joined { channel, client } => {
                    net.stats.count("joins told");
                    let (channel, subscription) = self.subscription(&channel);
                    let members = subscription.members.as_mut().expect("it asked who comes");
                    assert_eq!(subscription.state, State::On, "a join in {channel} without a subscription");
                    members.joined(&channel, &client, checkers);
                }
                Received::Left { channel, client } => {
                    net.stats.count("leaves told");
                    let (channel, subscription) = self.subscription(&channel);
                    let members = subscription.members.as_mut().expect("it asked who goes");
                    assert_eq!(subscription.state, State::On, "a leave in {channel} without a subscription");
                    members.left(&client);
                }
                Received::Subscribed { channel, result } => {
                    net.stats.count("subscriptions made by the server");
                    let (channel, subscription) = self.subscription(&channel);
                    assert_eq!(subscription.kind, Kind::Served, "{channel} was to be its own");
                    assert_eq!(subscription.state, State::Off, "{channel} begins anew");
                    // This says nothing about the past.
                    subscription.begin(None, result, net, checkers);
                }
                Received::Unsubscribed { channel, code: 2000 } => {
                    net.stats.count("subscriptions ended by the server");
                    let (channel, subscription) = self.subscription(&channel);
                    assert_eq!(subscription.kind, Kind::Served, "{channel} was its own");
                    assert_eq!(subscription.state, State::On, "the end of {channel} before its beginning");
                    subscription.state = State::Off;
                }
                Received::Unsubscribed { channel, code } if self.has_map(&channel) => {
                    assert_eq!(code, 2500, "nothing else ends a subscription here");
                    self.on_map_ended(&channel, broker, net);
                }
                Received::Unsubscribed { channel, code } => {
                    assert_eq!(code, 2500, "nothing else ends a subscription here");
                    let wire = self.wire.expect("it reads");
                    let (channel, subscription) = self.subscription(&channel);
                    assert_ne!(subscription.kind, Kind::Served, "it cannot come back to {channel} alone");
                    assert_eq!(subscription.state, State::On, "the end of {channel} before its beginning");
                    subscription.state = State::Off;
                    let excused =
                        net.excused.remove(&(wire, channel.clone())) || broker.epochs_overlap(net.now);
                    if let Some((epoch, offset)) = subscription.reader.position.clone() {
                        let served = broker.could_serve(&channel, &epoch, offset, net);
                        assert!(excused || !served, "{channel} ended at {offset} without need");
                    }
                    self.later(50..500, ClientEvent::Subscribe(channel), net);
                }
                Received::Reply { id, outcome } => {
                    let command = self.sent_commands.remove(&id).expect("a reply answers a command, once");
                    match outcome {
                        Ok(answer) => self.on_answer(command, answer, broker, net, checkers),
                        // The subscription has ended meanwhile, and the client was told.
                        Err(refusal) if matches!(command, SentCommand::Track) => {
                            assert_eq!(refusal.code, 103)
                        }
                        Err(refusal) if matches!(command, SentCommand::Map { .. }) => {
                            self.on_map_refused(command, refusal.code, net);
                        }
                        Err(refusal) => {
                            assert_eq!(refusal.code, 100, "{command:?}: {refusal:?}");
                            if matches!(command, SentCommand::Connect { .. }) {
                                net.stats.count("connects refused");
                                let wire = self.wire.expect("it reads");
                                net.up(wire, |wire| NodeEvent::Closed { wire });
                                self.disconnected();
                                return self.later(100..2000, ClientEvent::Connect, net);
                            }
                            let SentCommand::Subscribe { channel, .. } = command else {
                                panic!("{command:?} failed")
                            };
                            let (_, subscription) = self.subscription(channel.as_str());
                            subscription.state = State::Off;
                            net.stats.count("subscribes refused");
                            self.later(200..1500, ClientEvent::Subscribe(channel), net);
                        }
                    }
                }
                Received::Other => panic!("{frame} is of no kind that a gateway sends"),
            }
        }
    }

    fn on_answer(
        &mut self,
        command: SentCommand,
        answer: ClientResult<'_>,
        broker: &mut Broker,
        net: &mut Net,
        checkers: &Checkers,
    ) {
        match (command, answer) {
            (SentCommand::Connect { from }, ClientResult::Connect(mut result)) => {
                self.connected = true;
                let wire = self.wire.expect("it reads");
                for (channel, subscription) in &mut self.subscriptions {
                    if subscription.kind != Kind::Served {
                        continue;
                    }
                    subscription.state = State::Off;
                    let Some(result) = result.subs.remove(channel.as_str()) else {
                        // The subscription was ended before the connect was answered, and may have been begun anew by now.
                        let place = (wire, channel.clone());
                        let is_told_apart = net.ended.contains(&place) || net.begun_anew.contains(&place);
                        assert!(is_told_apart, "{channel} was forgotten");
                        continue;
                    };
                    let from = from.get(channel);
                    if subscription.begin(from, result, net, checkers) {
                        net.stats.count("told at the connect that recovery failed");
                        let (epoch, offset) = from.expect("only who asks is told");
                        let served = broker.could_serve(channel, epoch, *offset, net);
                        assert!(!served, "{channel} could have been recovered from {offset}");
                    } else if from.is_some() {
                        net.stats.count("recoveries at the connect");
                    }
                }
                assert!(result.subs.is_empty(), "only what the server was to subscribe it to");
            }
            (SentCommand::Subscribe { channel, from }, ClientResult::Subscribe(result)) => {
                let (_, subscription) = self.subscription(channel.as_str());
                assert_eq!(subscription.state, State::Requested);
                if subscription.begin(from.as_ref(), result, net, checkers) {
                    net.stats.count("told that recovery failed");
                    // History only loses publications with time: what it could serve now it could serve then.
                    let (epoch, offset) = from.as_ref().expect("only who asks is told");
                    let served = broker.could_serve(&channel, epoch, *offset, net);
                    assert!(!served, "{channel} could have been recovered from {offset}");
                } else if from.is_some() {
                    net.stats.count("recoveries");
                    if self.subscriptions[&channel].kind == Kind::Filtered {
                        net.stats.count("recoveries through a filter");
                    }
                }
            }
            (SentCommand::Unsubscribe { channel }, ClientResult::Other) => {
                let (channel, subscription) = self.subscription(channel.as_str());
                // The node may have ended it first, and then the client has asked for it again already.
                if subscription.state == State::On {
                    subscription.state = State::Off;
                }
                self.later(300..3000, ClientEvent::Subscribe(channel), net);
            }
            (SentCommand::Map { channel }, ClientResult::Subscribe(result)) => {
                let next = self.map(channel.as_str()).on_answer(result, net);
                if let Some(next) = next {
                    self.ask_at_once(Request::Subscribe(next), SentCommand::Map { channel }, net);
                }
            }
            (SentCommand::UnsubscribeMap { channel }, ClientResult::Other) => {
                let map = self.map(channel.as_str());
                if map.state == State::On {
                    map.state = State::Off;
                }
                self.later(300..3000, ClientEvent::Subscribe(channel), net);
            }
            (SentCommand::SubscribePolled, ClientResult::Subscribe(result)) => {
                self.on_polled_begun(&result.epoch, net)
            }
            (SentCommand::Track, ClientResult::Other) => net.stats.count("keys followed"),
            (SentCommand::Publish, ClientResult::Other) => net.stats.count("publications by clients"),
            (command, answer) => panic!("{answer:?} does not answer {command:?}"),
        }
    }

    /// Gives up a subscription for a while, or publishes something, now and then.
    fn churn(&mut self, broker: &mut Broker, net: &mut Net) {
        if !net.plan.churn {
            return;
        }
        self.later(500..3000, ClientEvent::Churn, net);
        if net.dice.chance(400) && self.connected {
            return self.churn_maps(net);
        }
        let at = net.dice.index(self.subscriptions.len());
        let (channel, subscription) = self.subscriptions.iter_mut().nth(at).expect("an index within");
        let channel = channel.clone();
        if !self.connected {
            return;
        }
        if net.dice.chance(60) {
            net.stats.count("clients gone for a while");
            let wire = self.wire.expect("it is connected");
            net.up(wire, |wire| NodeEvent::Closed { wire });
            self.disconnected();
            return self.later(0..1500, ClientEvent::Connect, net);
        }
        let mut frame = BytesMut::new();
        if net.dice.chance(300) {
            let data = Broker::payload(&channel, broker.number());
            let request = Request::Publish { channel: channel.as_str().into(), data };
            self.command(request, SentCommand::Publish, &mut frame);
        } else if subscription.state == State::On && subscription.wanted && subscription.kind != Kind::Served
        {
            subscription.wanted = false;
            let request = Request::Unsubscribe { channel: channel.as_str().into() };
            self.command(request, SentCommand::Unsubscribe { channel }, &mut frame);
        }
        self.send(frame, net);
    }

    fn ask_to_subscribe(&mut self, channel: &Channel, frame: &mut BytesMut) {
        let Some(subscription) = self.subscriptions.get_mut(channel) else { return };
        let is_servers = subscription.kind == Kind::Served;
        if is_servers || !subscription.wanted || subscription.state != State::Off || self.wire.is_none() {
            return;
        }
        subscription.state = State::Requested;
        let filtered = subscription.kind == Kind::Filtered;
        let patched = subscription.kind == Kind::Patched;
        let recoverable = filtered || patched || subscription.kind == Kind::Recoverable;
        let (key, val) = TAG;
        let filter =
            FilterNode { key: key.into(), cmp: "eq".into(), val: val.into(), ..FilterNode::default() };
        let from = subscription.reader.position.clone().filter(|_| recoverable);
        let (epoch, offset) = from.clone().unwrap_or_default();
        let subscribe = Subscribe {
            channel: channel.as_str().into(),
            recover: from.is_some(),
            epoch: epoch.into(),
            offset,
            recoverable,
            positioned: subscription.kind == Kind::Positioned,
            filter: filtered.then(|| Box::new(filter)),
            delta: if patched { "fossil".into() } else { Box::default() },
            join_leave: subscription.members.is_some(),
            ..Subscribe::default()
        };
        let command = SentCommand::Subscribe { channel: channel.clone(), from };
        self.command(Request::Subscribe(subscribe), command, frame);
    }

    /// Has the application end a subscription it made for the client, or begin one anew.
    pub(crate) fn server_acts(&self, net: &mut Net) {
        let Some(wire) = self.wire else { return };
        let served = net.served.get(&self.index).cloned().unwrap_or_default();
        for channel in served {
            let subscribes = net.ended.contains(&(wire, channel.clone()));
            let (node, life) = (net.wires[&wire].node, net.wires[&wire].life);
            net.send_to_node(node, life, 0..100, NodeEvent::ServerActs { wire, channel, subscribes });
        }
    }

    /// Checks that a connection which was closed for a gap in a server's subscription did have a gap.
    fn check_need(&self, wire: u64, broker: &mut Broker, net: &mut Net) {
        net.stats.count("closed for a hole in a subscription of the server's");
        let served = self.subscriptions.iter().filter(|(_, one)| one.kind == Kind::Served);
        let needed = served.into_iter().any(|(channel, subscription)| {
            let position = subscription.reader.position.clone();
            net.excused.contains(&(wire, channel.clone()))
                || position.is_some_and(|(epoch, offset)| !broker.could_serve(channel, &epoch, offset, net))
        });
        assert!(needed || broker.epochs_overlap(net.now), "wire {wire} was closed without need");
    }

    pub(crate) fn command(&mut self, request: Request, command: SentCommand, frame: &mut BytesMut) {
        self.next_id += 1;
        self.sent_commands.insert(self.next_id, command);
        if !frame.is_empty() {
            frame.put_u8(b'\n');
        }
        encode_command(&Command { id: self.next_id, request }, frame);
    }

    pub(crate) fn send(&mut self, frame: BytesMut, net: &mut Net) {
        let Some(wire) = self.wire.filter(|_| !frame.is_empty()) else { return };
        trace(net.now, || format!("client {} writes {frame:?}", self.index));
        net.up(wire, |wire| NodeEvent::Reads { wire, message: frame.freeze() });
    }

    fn disconnected(&mut self) {
        self.wire = None;
        self.connected = false;
        self.sent_commands.clear();
        for subscription in self.subscriptions.values_mut() {
            subscription.state = State::Off;
        }
        for map in self.maps.values_mut() {
            map.state = State::Off;
        }
        if let Some(follower) = &mut self.follower {
            follower.state = State::Off;
        }
    }

    fn subscription(&mut self, channel: &str) -> (Channel, &mut Subscription) {
        let channel = Channel::parse(channel, 255).expect("a channel");
        let subscription = self.subscriptions.get_mut(&channel).expect("only what was asked for");
        (channel, subscription)
    }

    pub(crate) fn later(&self, delay: std::ops::Range<u64>, what: ClientEvent, net: &mut Net) {
        net.after(delay, Event::Client { client: self.index, what });
    }
}
