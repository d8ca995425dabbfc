//! A whole cluster under one seed: three nodes, a broker, clients, and what goes wrong between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_core::channel_rules::{ChannelOptions, ChannelRules, DeltaType, SubscriptionType};
use gateway_core::hub::{Encoding, Variants};
use gateway_core::map::{MapMode, MapOptions};
use gateway_core::poll::{PollMode, PollOptions};
use gateway_core::session::{Application, Context, NoObserver, SessionSettings};
use shared::channel::Channel;
use shared::protocol::centrifuge::json::CentrifugeJson;

use crate::broker::Broker;
use crate::checkers::{Checkers, Kind};
use crate::client::Client;
use crate::map::MapKind;
use crate::network::{ClientEvent, Event, Holes, Net, NodeEvent, Plan, Stats, trace};
use crate::node::{Common, Node};
use crate::polls::{Follower, POLLED};
use crate::worker::Lines;

const NODES: usize = 3;
const CLIENTS: usize = 9;
const CHANNELS: [&str; 4] = ["plain", "stream:a", "stream:b", "short:c"];
/// The channels that keep state by key: without a stream, once with a long expiry and once with one so short that all keys
/// are gone in the end; and with a stream.
const MAPS: [&str; 4] = ["brief:a", "fading:b", "map:c", "tiny:d"];

/// How many publications one read returns to a client that comes back. Fewer than streams keep, so that some clients are
/// too far behind.
pub(crate) const RECOVERY_LIMIT: u32 = 30;

/// Milliseconds in which things happen.
const BUSY: u64 = 15_000;
/// Milliseconds after that in which everything must recover: a lost link is restored within three seconds, a silent client
/// is found within six, and positions are checked every three.
const CALM: u64 = 20_000;
/// Milliseconds in which everything is cleaned up after the last client left.
const AFTERMATH: u64 = 5_000;

struct Cluster {
    net: Net,
    broker: Broker,
    nodes: Vec<Option<Node>>,
    clients: Vec<Client>,
    checkers: Checkers,
    common: Common,
    channels: Vec<Channel>,
    maps: Vec<Channel>,
}

/// Runs one seed. Panics if a promise is broken.
pub(crate) fn run(seed: u64) -> Stats {
    let plan = plan(seed);
    let mut net = Net::new(seed, plan);
    let rules = rules();
    let protocol = Arc::new(CentrifugeJson::default());
    let mut variants = Variants::default();
    variants.add(Encoding { protocol: protocol.clone(), framing: Arc::new(Lines) }).expect("there is room");
    let settings = SessionSettings {
        ping_interval_ms: 4_000,
        pong_timeout_ms: 1_500,
        // A few publications fill a piece.
        reply_bytes_max: 600,
        recovery_limit_max: RECOVERY_LIMIT,
        ..SessionSettings::default()
    };
    let context = Context {
        settings,
        rules: rules.clone(),
        insecure: true,
        application: Application::default(),
        node: "simulated".into(),
        version: "0",
        observer: Arc::new(NoObserver),
    };
    let common = Common { context: Arc::new(context), protocol, variants: Arc::new(variants) };
    let nodes = (0..NODES).map(|node| Some(Node::new(node, 0, &common, &mut net))).collect();
    let channels: Vec<_> = CHANNELS.iter().map(|name| Channel::parse(name, 255).expect("valid")).collect();
    let maps: Vec<_> = MAPS.iter().map(|name| Channel::parse(name, 255).expect("valid")).collect();
    let polled = Channel::parse(POLLED, 255).expect("valid");
    let clients = (0..CLIENTS).map(|index| {
        let kinds =
            [Kind::Recoverable, Kind::Positioned, Kind::Filtered, Kind::Patched, Kind::Served, Kind::Plain];
        let offset = net.dice.index(kinds.len());
        let wants = channels.iter().enumerate().map(|(at, channel)| {
            let kind = kinds[(at + offset) % kinds.len()];
            (channel.clone(), kind)
        });
        let wants: Vec<_> = wants.filter(|_| net.dice.chance(800)).collect();
        let wants = if wants.is_empty() { vec![(channels[1].clone(), kinds[offset])] } else { wants };
        let map_kinds = [MapKind::Plain, MapKind::Filtered, MapKind::Patched];
        let wanted_maps = maps.iter().enumerate().filter(|_| net.dice.chance(400));
        let wanted_maps = wanted_maps.map(|(at, channel)| (channel.clone(), map_kinds[(at + index) % 3]));
        let wanted_maps: Vec<_> = wanted_maps.collect();
        let follower = net.dice.chance(700).then(|| Follower::new(polled.clone(), &mut net));
        Client::new(index, wants, wanted_maps, follower, &mut net)
    });
    let clients = clients.collect();
    let mut checkers = Checkers::default();
    checkers.nothing_is_lost = plan.holes == Holes::None;
    checkers.all_are_announced = plan.holes != Holes::Anywhere;
    net.at(0, Event::Publish);
    net.at(0, Event::ChangeKey);
    net.at(500, Event::ExpireKeys);
    net.at(0, Event::ChangePolled);
    net.at(1000, Event::Fault);
    net.at(1000, Event::ServerActs);
    let broker = Broker::new(rules, NODES, &mut net);
    let mut cluster = Cluster { net, broker, nodes, clients, checkers, common, channels, maps };

    cluster.until(BUSY);
    cluster.calm_down();
    cluster.until(BUSY + CALM);
    for client in &cluster.clients {
        client.check_end(&mut cluster.broker, &mut cluster.net, &cluster.checkers);
    }
    if cluster.checkers.all_are_announced {
        cluster.checkers.check_members(cluster.clients.iter().flat_map(Client::memberships));
    }
    for client in &mut cluster.clients {
        client.leave(&mut cluster.net);
    }
    cluster.until(BUSY + CALM + AFTERMATH);
    for node in &cluster.nodes {
        node.as_ref().expect("all have come back").check_empty();
    }
    assert_eq!(cluster.broker.subscriptions(), 0, "channels nobody listens to");
    cluster.net.stats
}

/// Of eight seeds, one has no faults, and one only faults that can be repaired.
fn plan(seed: u64) -> Plan {
    let mut dice = crate::network::Dice(!seed);
    let mut pick = |choices: [u64; 3]| choices[dice.index(3)];
    match seed % 8 {
        0 => Plan { churn: true, inbox: usize::MAX, ..Plan::default() },
        1 => Plan {
            dropped_publications: 50,
            churn: true,
            inbox: usize::MAX,
            holes: Holes::InShortHistories,
            ..Plan::default()
        },
        _ => Plan {
            dropped_publications: pick([0, 10, 100]),
            failed_reads: pick([0, 0, 150]),
            slow_clients: pick([0, 0, 400]),
            churn: pick([0, 1, 1]) == 1,
            faults: pick([0, 1, 1]) == 1,
            inbox: pick([3, 64, 64]) as usize,
            holes: Holes::Anywhere,
        },
    }
}

fn rules() -> ChannelRules {
    let stream = |history_size| ChannelOptions {
        history_size,
        history_ttl_s: 3600,
        allow_tags_filter: true,
        allowed_delta_types: vec![DeltaType::Fossil],
        delta_publish: true,
        join_leave: true,
        allow_join_leave: true,
        ..ChannelOptions::default()
    };
    let keys = |mode, key_ttl_s, stream_size| ChannelOptions {
        subscription_type: SubscriptionType::Map,
        map: MapOptions { mode, key_ttl_s, stream_size, stream_ttl_s: 3600, ..MapOptions::default() },
        allow_tags_filter: true,
        allowed_delta_types: vec![DeltaType::Fossil],
        delta_publish: true,
        ..ChannelOptions::default()
    };
    let shared_poll = PollOptions {
        backend: "simulated".into(),
        mode: PollMode::Versioned,
        refresh_interval_ms: 500,
        refresh_batch_size: 3,
        linger_ms: 500,
        publish_enabled: true,
        ..PollOptions::default()
    };
    let polled = ChannelOptions {
        subscription_type: SubscriptionType::SharedPoll,
        shared_poll,
        ..ChannelOptions::default()
    };
    ChannelRules {
        namespaces: BTreeMap::from([
            ("stream".into(), Arc::new(stream(100))),
            ("short".into(), Arc::new(stream(3))),
            ("brief".into(), Arc::new(keys(MapMode::Ephemeral, 3600, 0))),
            ("fading".into(), Arc::new(keys(MapMode::Ephemeral, 4, 0))),
            ("map".into(), Arc::new(keys(MapMode::Recoverable, 3600, 100))),
            ("tiny".into(), Arc::new(keys(MapMode::Persistent, 0, 3))),
            ("poll".into(), Arc::new(polled)),
        ]),
        default: Arc::new(ChannelOptions {
            allow_tags_filter: true,
            join_leave: true,
            allow_join_leave: true,
            ..ChannelOptions::default()
        }),
        ..ChannelRules::default()
    }
}

impl Cluster {
    fn until(&mut self, end: u64) {
        while let Some(event) = self.net.next(end) {
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Broker(ask) => self.broker.handle(ask, &mut self.net, &mut self.checkers),
            Event::Node { node, life, what } => {
                let wire = match &what {
                    NodeEvent::Opened { wire } | NodeEvent::Reads { wire, .. } => Some(wire),
                    _ => None,
                };
                if wire.is_some_and(|wire| self.net.wires[wire].cut) {
                    return;
                }
                if let Some(node) = self.nodes[node].as_mut().filter(|node| node.life == life) {
                    let link = self.broker.links[node.index].number;
                    node.handle(what, link, &mut self.net);
                }
            }
            Event::Client { client, what: ClientEvent::Connect } => self.connect(client),
            Event::Client { client, what } => {
                self.clients[client].handle(what, &mut self.broker, &mut self.net, &self.checkers);
            }
            Event::Publish if self.net.now.0 < BUSY => {
                let channel = self.channels[self.net.dice.index(self.channels.len())].clone();
                let burst = if self.net.dice.chance(100) { 8 } else { 1 };
                for _ in 0..burst {
                    self.broker.publish(&channel, &mut self.net, &mut self.checkers);
                }
                self.net.after(0..160, Event::Publish);
            }
            Event::ChangeKey if self.net.now.0 < BUSY => {
                let channel = self.maps[self.net.dice.index(self.maps.len())].clone();
                let burst = if self.net.dice.chance(100) { 8 } else { 1 };
                for _ in 0..burst {
                    self.broker.change_any_key(&channel, &mut self.net);
                }
                self.net.after(0..200, Event::ChangeKey);
            }
            Event::ChangePolled if self.net.now.0 < BUSY => {
                let channel = Channel::parse(POLLED, 255).expect("valid");
                self.broker.change_polled(&channel, &mut self.net);
                self.net.after(0..300, Event::ChangePolled);
            }
            Event::ExpireKeys => {
                for channel in &self.maps {
                    self.broker.expire_keys(channel, &mut self.net);
                }
                if self.net.now.0 < BUSY + CALM / 2 {
                    self.net.after(500..501, Event::ExpireKeys);
                }
            }
            Event::Fault if self.net.now.0 < BUSY => {
                if self.net.plan.faults {
                    self.strike();
                }
                self.net.after(200..2500, Event::Fault);
            }
            Event::ServerActs if self.net.now.0 < BUSY => {
                if self.net.plan.churn {
                    let client = self.net.dice.index(CLIENTS);
                    self.clients[client].server_acts(&mut self.net);
                }
                self.net.after(100..600, Event::ServerActs);
            }
            Event::Publish | Event::ChangeKey | Event::ChangePolled | Event::Fault | Event::ServerActs => {}
            Event::LinkUp { node } => {
                if !self.broker.links[node].up {
                    trace(self.net.now, || format!("the link of node {node} is back"));
                    self.broker.restore_link(node, &mut self.net);
                }
            }
            Event::Restart { node } => {
                let life = self.broker.links[node].node_life;
                trace(self.net.now, || format!("node {node} is back"));
                self.nodes[node] = Some(Node::new(node, life, &self.common, &mut self.net));
            }
        }
    }

    fn connect(&mut self, client: usize) {
        let node = self.net.dice.index(NODES);
        if !self.clients[client].wants_to_connect() {
            return;
        }
        match &self.nodes[node] {
            Some(node) => {
                let wire = self.net.open_wire(client, node.index, node.life);
                self.clients[client].open(wire, &mut self.net);
            }
            None => {
                self.net.after(100..1000, Event::Client { client, what: ClientEvent::Connect });
            }
        }
    }

    fn strike(&mut self) {
        let net = &mut self.net;
        let node = net.dice.index(NODES);
        match net.dice.within(0..12) {
            0..4 => {
                let client = net.dice.index(CLIENTS);
                let Some(wire) = self.clients[client].wire else { return };
                net.stats.count("connections cut");
                trace(net.now, || format!("the connection of client {client} is cut"));
                cut(wire, net);
                // Often the node notices only because no pong comes.
                if net.dice.chance(500) {
                    let (node, life) = (net.wires[&wire].node, net.wires[&wire].life);
                    net.send_to_node(node, life, 0..3000, NodeEvent::Closed { wire });
                }
            }
            4..7 => {
                if self.broker.links[node].up {
                    net.stats.count("links lost");
                    trace(net.now, || format!("the link of node {node} is lost"));
                    self.broker.lose_link(node);
                    net.after(300..3000, Event::LinkUp { node });
                }
            }
            7 => {
                let Some(crashed) = self.nodes[node].take() else { return };
                net.stats.count("nodes crashed");
                trace(net.now, || format!("node {node} is gone"));
                let life = crashed.life + 1;
                self.broker.forget_node(node, life);
                let wires: Vec<_> = net
                    .wires
                    .iter()
                    .filter(|(_, wire)| wire.node == node && wire.life < life && !wire.cut)
                    .map(|(&wire, _)| wire)
                    .collect();
                wires.into_iter().for_each(|wire| cut(wire, net));
                net.after(200..3000, Event::Restart { node });
            }
            8 => {
                net.stats.count("streams reset");
                trace(net.now, || "the broker forgets everything".to_owned());
                self.broker.flush(net.now);
            }
            10 => self.broker.application.restart(net),
            9 => {
                net.stats.count("maps cleared");
                let channel = self.maps[net.dice.index(self.maps.len())].clone();
                trace(net.now, || format!("{channel} is cleared"));
                self.broker.clear_state(&channel, net.now);
                self.broker.have_compared(&channel, net);
            }
            _ => {
                net.stats.count("histories removed");
                trace(net.now, || "the broker removes all history".to_owned());
                self.broker.clear_history();
            }
        }
    }

    /// Ends all faults.
    fn calm_down(&mut self) {
        trace(self.net.now, || "calm".to_owned());
        self.net.plan = Plan { inbox: usize::MAX, holes: self.net.plan.holes, ..Plan::default() };
        for wire in self.net.wires.values_mut() {
            wire.drag = 0;
        }
        for client in &mut self.clients {
            client.settle(&mut self.net);
        }
    }
}

/// Cuts a connection. The client notices before long.
fn cut(wire: u64, net: &mut Net) {
    let Some(cut) = net.wires.get_mut(&wire) else { return };
    cut.cut = true;
    let client = cut.client;
    net.after(0..2000, Event::Client { client, what: ClientEvent::Closed { wire, code: 1006 } });
}
