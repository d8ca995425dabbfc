//! Events that ask clients of Socket.IO for acknowledgements: the clients of this node are sent it, and their answers collected
//! until all have come or the time is over.

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

/// Longest time that answers are waited for.
pub(crate) const ASK_CLIENTS_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// The most clients of a node that one event asks.
const CLIENTS_MAX: usize = 1_000;
/// The most bytes of answers of one node to one event: what nodes tell each other has a bound.
const ANSWERS_BYTES_MAX: usize = 640 * 1024;
/// The most acknowledgements that one node's clients are waited for, at the same time.
const PENDING_MAX: usize = 16_384;

/// What clients are asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AskClients {
    /// The name of their namespace.
    pub namespace: Box<str>,
    pub event: Box<str>,
    /// Its arguments: a JSON array.
    pub arguments: Tagged,
    pub timeout: Duration,
}

/// What came of asking one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AskOutcome {
    /// What it says: a JSON array.
    Answered(Tagged),
    /// It has not answered in time.
    Timeout,
    /// Its connection has ended, or it has left.
    Gone,
    /// It was not asked: too many answers are waited for, of it or of all.
    TooMany,
    /// There was no room for its answer beside those of others.
    TooLong,
}

impl AskOutcome {
    /// A word for labels, and for whoever asks.
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
    heard: mpsc::UnboundedSender<(ClientId, ClientReply)>,
    /// How many more clients may be asked.
    left: AtomicUsize,
    /// For all events.
    pending: Arc<Semaphore>,
}

#[derive(Debug)]
enum ClientReply {
    /// It was sent the event, and is waited for with this: whoever asks has that back when its time is over.
    Sent(OwnedSemaphorePermit),
    Ended(AskOutcome),
}

/// A client is waited for. When this is gone without an answer, so is the client.
#[derive(Debug)]
pub(crate) struct AwaitedClient {
    client: ClientId,
    heard: mpsc::UnboundedSender<(ClientId, ClientReply)>,
    is_answered: bool,
}

/// What has come of asking so far. When this is gone nobody waits for more, and those who have not answered are told so.
struct CollectedReplies<'n> {
    node: &'n Node,
    hear: mpsc::UnboundedReceiver<(ClientId, ClientReply)>,
    ended: FxHashMap<ClientId, AskOutcome>,
    waiting: FxHashMap<ClientId, OwnedSemaphorePermit>,
    bytes: usize,
}

impl ClientsRequest {
    /// Whether one client more may be asked. It is told of as sent then, or as not asked.
    pub(crate) fn begin(&self, client: ClientId) -> Option<AwaitedClient> {
        let took = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let permit = took.ok().and_then(|_| self.pending.clone().try_acquire_owned().ok());
        let Some(permit) = permit else {
            self.refuse(client);
            return None;
        };
        let _ = self.heard.send((client, ClientReply::Sent(permit)));
        Some(AwaitedClient { client, heard: self.heard.clone(), is_answered: false })
    }

    /// It is asked for so much already that it is not asked.
    pub(crate) fn refuse(&self, client: ClientId) {
        // Whoever asked may have given up.
        let _ = self.heard.send((client, ClientReply::Ended(AskOutcome::TooMany)));
    }
}

impl AwaitedClient {
    /// The client has said this. Returns whether anybody still waits for it.
    pub(crate) fn answer(mut self, arguments: Tagged) -> bool {
        self.is_answered = true;
        self.heard.send((self.client, ClientReply::Ended(AskOutcome::Answered(arguments)))).is_ok()
    }

    /// Nobody waits for it any more.
    pub(crate) fn is_given_up(&self) -> bool {
        self.heard.is_closed()
    }
}

impl Drop for AwaitedClient {
    fn drop(&mut self) {
        if !self.is_answered {
            let _ = self.heard.send((self.client, ClientReply::Ended(AskOutcome::Gone)));
        }
    }
}

/// What this node's clients are asked, all in all.
#[derive(Debug)]
pub(super) struct PendingAcks(Arc<Semaphore>);

impl Default for PendingAcks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PENDING_MAX)))
    }
}

impl Node {
    /// How many clients of this node are waited for.
    pub(crate) fn clients_awaited(&self) -> usize {
        PENDING_MAX - self.client_requests.0.available_permits()
    }

    /// Asks those of these clients that are here.
    pub(super) async fn ask_clients(&self, among: Among, ask: AskClients) -> Vec<(ClientId, AskOutcome)> {
        let timeout = ask.timeout.min(ASK_CLIENTS_TIMEOUT_MAX);
        let (heard, hear) = mpsc::unbounded_channel();
        let left = AtomicUsize::new(CLIENTS_MAX);
        let asking = Arc::new(ClientsRequest { ask, heard, left, pending: self.client_requests.0.clone() });
        let mut collected = CollectedReplies {
            node: self,
            hear,
            ended: FxHashMap::default(),
            waiting: FxHashMap::default(),
            bytes: 0,
        };
        let target = Arc::new(ControlTarget { among: Some(Box::new(among)), ..ControlTarget::default() });
        self.tell_workers(&target, || WorkerEvent::AskClients(target.clone(), asking.clone()));
        drop(asking);
        // What has not come by then does not come.
        let _ = tokio::time::timeout(timeout, collected.collect()).await;
        let outcomes = collected.take();
        for (_, ended) in &outcomes {
            self.metrics.socketio.ask_ended(ended.label());
        }
        outcomes
    }
}

impl CollectedReplies<'_> {
    /// Until all have answered or are gone: then nobody is left who could tell more.
    async fn collect(&mut self) {
        while let Some((client, heard)) = self.hear.recv().await {
            let ended = match heard {
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
        // First: clients look whether anybody still hears them.
        self.hear.close();
        for (client, permit) in std::mem::take(&mut self.waiting) {
            drop(permit);
            let target = Arc::new(ControlTarget { client: Some(client), ..ControlTarget::default() });
            self.node.tell_workers(&target, || WorkerEvent::ForgetAsks(target.clone()));
        }
    }
}
