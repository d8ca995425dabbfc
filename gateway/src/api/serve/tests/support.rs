//! A node over a memory broker, and what its broker delivers.

use std::sync::Arc;

use bytes::Bytes;
use gateway_core::channel_rules::ChannelRules;
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::id::NodeId;
use shared::publication::{ClientInfo, Publication};

use crate::broker::memory::{Config, MemoryBroker};
use crate::broker::{Broker, BrokerEvents};
use crate::clock::Clock;
use crate::node::control::ControlCommand;
use crate::node::{Node, Parts};
use crate::presence::memory::MemoryPresence;

/// The broker delivers these to the node.
const DELIVERED: [&str; 10] =
    ["a", "c", "kept:a", "kept:b", "kept:0", "kept:1", "kept:2", "kept:3", "kept:4", "kept:5"];

pub(super) async fn node(rules: ChannelRules) -> (Arc<Node>, Arc<Received>) {
    let received = Arc::new(Received::default());
    let broker = MemoryBroker::start(&Config::default(), received.clone(), Arc::default());
    let channels = DELIVERED.iter().map(|name| Channel::parse(name, 255).unwrap()).collect();
    broker.subscribe(channels).await.unwrap();
    let node = Node::start(Parts {
        id: NodeId("test".into()),
        name: "test".into(),
        clock: Clock::start(),
        rules: Arc::new(rules),
        metrics: Arc::default(),
        variants: Arc::default(),
        broker,
        presence: Arc::new(MemoryPresence::new()),
        inboxes: Vec::new(),
        from_broker: Arc::default(),
        user_connections_max: 0,
        memory: crate::memory::Memory::new(0, 1),
    });
    (node, received)
}

/// Shows a client in a channel's presence.
pub(super) async fn enter(node: &Node, channel: Channel, info: ClientInfo) {
    node.enter_presence(channel, info).wait().await.unwrap();
}

#[derive(Debug, Default)]
pub(super) struct Received {
    publications: Mutex<Vec<(String, Bytes)>>,
    commands: Mutex<Vec<ControlCommand>>,
}

impl Received {
    pub(super) fn publications(&self) -> Vec<(String, Bytes)> {
        self.publications.lock().clone()
    }

    pub(super) fn commands(&self) -> Vec<ControlCommand> {
        self.commands.lock().clone()
    }
}

impl BrokerEvents for Received {
    fn publication(&self, channel: &str, publication: Publication) {
        self.publications.lock().push((channel.to_owned(), publication.data.bytes));
    }

    fn control(&self, message: Bytes) {
        self.commands.lock().push(ControlCommand::decode(&message).unwrap());
    }

    fn told(&self, _: Bytes) {}

    fn resumed(&self) {}
}
