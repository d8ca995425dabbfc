//! Asks clients of Socket.IO for acknowledgements of an event: sends the event to this node's clients and collects their
//! answers until all have come or the timeout has passed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustc_hash::FxHashMap;
use shared::id::ClientId;
use shared::publication::Tagged;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::node::Node;
use crate::node::control::{Among, ControlTarget};
use crate::worker::inbox::WorkerEvent;

/// Longest time to wait for answers.
pub(crate) const ASK_CLIENTS_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// The most clients of a node that one event asks.
const CLIENTS_MAX: usize = 1_000;
/// The most bytes of one node's answers to one event, because messages between nodes are bounded.
const ANSWERS_BYTES_MAX: usize = 640 * 1024;
/// The most acknowledgements of one node's clients that may be outstanding at the same time.
const PENDING_MAX: usize = 16_384;

/// An event that asks clients for an acknowledgement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AskClients {
    /// The clients' namespace.
    pub namespace: Box<str>,
    pub event: Box<str>,
    /// The event's arguments: a JSON array.
    pub arguments: Tagged,
    pub timeout: Duration,
}

/// The outcome for one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AskOutcome {
    /// The client's answer: a JSON array.
    Answered(Tagged),
    /// The client has not answered in time.
    Timeout,
    /// The client's connection has ended, or it has left.
    Gone,
    /// The client was not asked: too many acknowledgements are outstanding, of this client or of all.
    TooMany,
    /// The client's answer did not fit beside those of other clients.
    TooLong,
}

impl AskOutcome {
    /// Returns the outcome's name, for the metric's label and for the API.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Answered(_) => "answered",
            Self::Timeout => "timeout",
            Self::Gone => "gone",
            Self::TooMany => "too_many",
            Self::TooLong => "too_long",
        }
    }
}

/// One event on its way to the clients of all workers.
#[derive(Debug)]
pub(crate) struct ClientsRequest {
    pub(crate) ask: AskClients,
    sender: mpsc::UnboundedSender<(ClientId, ClientReply)>,
    /// How many more clients may be asked.
    left: AtomicUsize,
    /// Permits shared by the events of all requests.
    pending: Arc<Semaphore>,
}

#[derive(Debug)]
enum ClientReply {
    /// The client was sent the event. The requester holds this permit until the client answers or the timeout passes.
    Sent(OwnedSemaphorePermit),
    Ended(AskOutcome),
}

/// A client whose acknowledgement is outstanding. Dropping this without an answer reports the client as gone.
#[derive(Debug)]
pub(crate) struct AwaitedClient {
    client: ClientId,
    sender: mpsc::UnboundedSender<(ClientId, ClientReply)>,
    is_answered: bool,
}

/// The answers collected so far. Dropping this stops the wait and has the workers forget the clients that have not
/// answered.
struct CollectedReplies<'n> {
    node: &'n Node,
    receiver: mpsc::UnboundedReceiver<(ClientId, ClientReply)>,
    ended: FxHashMap<ClientId, AskOutcome>,
    waiting: FxHashMap<ClientId, OwnedSemaphorePermit>,
    bytes: usize,
}

impl ClientsRequest {
    /// Counts one more client as asked, and reports that it is sent the event. If a limit is met, reports the client as not
    /// asked and returns `None`.
    pub(crate) fn begin(&self, client: ClientId) -> Option<AwaitedClient> {
        let took = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let permit = took.ok().and_then(|_| self.pending.clone().try_acquire_owned().ok());
        let Some(permit) = permit else {
            self.refuse(client);
            return None;
        };
        let _ = self.sender.send((client, ClientReply::Sent(permit)));
        Some(AwaitedClient { client, sender: self.sender.clone(), is_answered: false })
    }

    /// Reports that the client was not asked, because too many acknowledgements are outstanding.
    pub(crate) fn refuse(&self, client: ClientId) {
        // The requester may have given up.
        let _ = self.sender.send((client, ClientReply::Ended(AskOutcome::TooMany)));
    }
}

impl AwaitedClient {
    /// Passes the client's answer on. Returns whether the requester still waits for it.
    pub(crate) fn answer(mut self, arguments: Tagged) -> bool {
        self.is_answered = true;
        self.sender.send((self.client, ClientReply::Ended(AskOutcome::Answered(arguments)))).is_ok()
    }

    /// Whether the requester has stopped waiting.
    pub(crate) fn is_given_up(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Drop for AwaitedClient {
    fn drop(&mut self) {
        if !self.is_answered {
            let _ = self.sender.send((self.client, ClientReply::Ended(AskOutcome::Gone)));
        }
    }
}

/// The permits for acknowledgements outstanding on this node.
#[derive(Debug)]
pub(super) struct PendingAcks(Arc<Semaphore>);

impl Default for PendingAcks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PENDING_MAX)))
    }
}

impl Node {
    /// Returns how many clients of this node have an outstanding acknowledgement.
    pub(crate) fn clients_awaited(&self) -> usize {
        PENDING_MAX - self.client_requests.0.available_permits()
    }

    /// Asks this node's clients that `among` selects.
    pub(super) async fn ask_clients(&self, among: Among, ask: AskClients) -> Vec<(ClientId, AskOutcome)> {
        let timeout = ask.timeout.min(ASK_CLIENTS_TIMEOUT_MAX);
        let (sender, receiver) = mpsc::unbounded_channel();
        let left = AtomicUsize::new(CLIENTS_MAX);
        let asking = Arc::new(ClientsRequest { ask, sender, left, pending: self.client_requests.0.clone() });
        let mut collected = CollectedReplies {
            node: self,
            receiver,
            ended: FxHashMap::default(),
            waiting: FxHashMap::default(),
            bytes: 0,
        };
        let target = Arc::new(ControlTarget { among: Some(Box::new(among)), ..ControlTarget::default() });
        self.notify_workers(&target, || WorkerEvent::AskClients(target.clone(), asking.clone()));
        drop(asking);
        // Answers that have not come by then are left out.
        let _ = tokio::time::timeout(timeout, collected.collect()).await;
        let outcomes = collected.take();
        for (_, ended) in &outcomes {
            self.metrics.socketio.ask_ended(ended.label());
        }
        outcomes
    }
}

impl CollectedReplies<'_> {
    /// Collects answers until every client has answered or is gone: then no sender is left.
    async fn collect(&mut self) {
        while let Some((client, reply)) = self.receiver.recv().await {
            let ended = match reply {
                ClientReply::Sent(permit) => {
                    self.waiting.insert(client, permit);
                    continue;
                }
                ClientReply::Ended(AskOutcome::Answered(arguments)) => self.keep(arguments),
                ClientReply::Ended(ended) => ended,
            };
            self.waiting.remove(&client);
            self.ended.insert(client, ended);
        }
    }

    fn keep(&mut self, arguments: Tagged) -> AskOutcome {
        let more = arguments.data.bytes.len() + arguments.tags.values().map(|tag| tag.len()).sum::<usize>();
        if self.bytes + more > ANSWERS_BYTES_MAX {
            return AskOutcome::TooLong;
        }
        self.bytes += more;
        AskOutcome::Answered(arguments)
    }

    fn take(mut self) -> Vec<(ClientId, AskOutcome)> {
        let mut outcomes: Vec<_> = std::mem::take(&mut self.ended).into_iter().collect();
        outcomes.extend(self.waiting.keys().map(|client| (*client, AskOutcome::Timeout)));
        outcomes
    }
}

impl Drop for CollectedReplies<'_> {
    fn drop(&mut self) {
        // Closed first: workers check whether the requester still listens.
        self.receiver.close();
        for (client, permit) in std::mem::take(&mut self.waiting) {
            drop(permit);
            let target = Arc::new(ControlTarget { client: Some(client), ..ControlTarget::default() });
            self.node.notify_workers(&target, || WorkerEvent::ForgetAsks(target.clone()));
        }
    }
}
