//! A node over a memory broker that records what the broker delivers.

use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use gateway_core::channel_rules::ChannelRules;
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::id::NodeId;
use shared::publication::{ClientInfo, Publication};
use shared::push::OwnedEvent;

use crate::broker::memory::{MemoryBroker, MemoryBrokerConfig};
use crate::broker::{Broker, BrokerEvents};
use crate::clock::Clock;
use crate::node::control::ControlTarget;
use crate::node::node_message::ClientCommand;
use crate::node::{Node, NodeParts};
use crate::presence::memory::MemoryPresence;
use crate::worker::inbox::{Inbox, InboxQueue, WorkerEvent};

/// The channels that the broker delivers to the node.
const DELIVERED: [&str; 11] =
    ["poll:a", "a", "c", "kept:a", "kept:b", "kept:0", "kept:1", "kept:2", "kept:3", "kept:4", "kept:5"];

pub(super) async fn node(rules: ChannelRules) -> (Arc<Node>, Arc<Received>, Told) {
    let told = Told::start();
    let received = Arc::new(Received::default());
    let broker = MemoryBroker::start(&MemoryBrokerConfig::default(), received.clone(), Arc::default());
    let channels = DELIVERED.iter().map(|name| Channel::parse(name, 255).unwrap()).collect();
    broker.subscribe(channels).await.unwrap();
    let node = Node::start(NodeParts {
        id: NodeId("test".into()),
        name: "test".into(),
        clock: Clock::start(),
        rules: Arc::new(rules),
        metrics: Arc::default(),
        variants: Arc::default(),
        broker,
        presence: Arc::new(MemoryPresence::new()),
        inboxes: vec![told.inbox.clone()],
        from_broker: Arc::default(),
        user_connections_max: 0,
        backend: None,
        apps: None,
        webhooks: None,
        memory: crate::memory_budget::Memory::new(0, 1),
        engine_io: Arc::new(crate::engine_io::EngineIo::new(
            &crate::socketio::SocketioConfig::default(),
            "node",
        )),
        takes_in_at: None,
        shared_poll: crate::poll::PollConfig::default(),
        sessions: crate::sessions::SessionKeeper::new(Arc::new(
            crate::sessions::memory::MemorySessions::default(),
        )),
    });
    (node, received, told)
}

/// Shows a client in a channel's presence.
pub(super) async fn enter(node: &Node, channel: Channel, info: ClientInfo) {
    node.enter_presence(channel, info).wait().await.unwrap();
}

#[derive(Debug, Default)]
pub(super) struct Received {
    publications: Mutex<Vec<(String, Bytes)>>,
}

impl Received {
    pub(super) fn publications(&self) -> Vec<(String, Bytes)> {
        self.publications.lock().clone()
    }
}

impl BrokerEvents for Received {
    fn publication(&self, channel: &str, publication: Publication) {
        self.publications.lock().push((channel.to_owned(), publication.data.bytes));
    }

    fn event(&self, _: &str, _: OwnedEvent) {}

    fn control(&self, _: Bytes) {}

    fn node_message(&self, _: Bytes) {}

    fn resumed(&self, _part: usize) {}
}

/// Stands in for a worker: has no clients, and records the commands for them.
#[derive(Debug)]
pub(super) struct Told {
    inbox: Arc<Inbox>,
    acts: Arc<Mutex<Vec<(ControlTarget, ClientCommand)>>>,
    worker: Option<JoinHandle<()>>,
}

impl Told {
    fn start() -> Self {
        let mut poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let (inbox, acts) = (Arc::new(Inbox::new(waker, 1_000, 1 << 20)), Arc::<Mutex<Vec<_>>>::default());
        let (told, received) = (inbox.clone(), acts.clone());
        let worker = std::thread::spawn(move || {
            let mut events = mio::Events::with_capacity(1);
            loop {
                poll.poll(&mut events, None).unwrap();
                let mut queue = InboxQueue::default();
                told.take(&mut queue);
                for event in queue.events {
                    match event {
                        WorkerEvent::Disconnect(target, disconnect, _) => {
                            received.lock().push(((*target).clone(), ClientCommand::Disconnect(disconnect)));
                        }
                        WorkerEvent::Unsubscribe(target, channel, _) => {
                            received.lock().push(((*target).clone(), ClientCommand::Unsubscribe(channel)));
                        }
                        WorkerEvent::Stop => return,
                        _ => {}
                    }
                }
            }
        });
        Self { inbox, acts, worker: Some(worker) }
    }

    pub(super) fn acts(&self) -> Vec<(ControlTarget, ClientCommand)> {
        self.acts.lock().clone()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.inbox.push(WorkerEvent::Stop);
        self.worker.take().unwrap().join().unwrap();
    }
}
