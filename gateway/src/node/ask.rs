//! Asks other nodes questions. Each has a number, a deadline and one answer, and the number of open questions is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{Semaphore, oneshot};

use crate::broker::BrokerError;
use crate::node::Node;
use crate::node::control::{Among, NodeInfo};
use crate::node::node_message::{
    AskClients, NodeMessage, NodeMessageError, NodeRequest, NodeRequestError, NodeResponse,
    RemotePollRequest, VERSION,
};
use crate::telemetry::LogLimiter;

/// How long an answer may take, unless the question says otherwise.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// The most questions of this node that may be waiting for an answer.
const OPEN_MAX: usize = 6_144;

/// The most questions of other nodes that this node answers at once. It refuses further ones as busy.
const ANSWERING_MAX: usize = 1_024;

/// The most requests of this node that may wait for packets of sessions on other nodes.
const FETCHING_MAX: usize = OPEN_MAX / 3;

/// The most questions to other nodes that may wait for answers of clients.
const CLIENT_REQUESTS_MAX: usize = OPEN_MAX / 3;

/// The most requests of other nodes that may wait for packets of sessions on this node. They do not count towards
/// `ANSWERING_MAX`.
const FETCHED_MAX: usize = 4_096;

/// The most nodes asked the same question at once.
const NODES_AT_ONCE: usize = 64;

/// Longest name of a node, in bytes. Names are UUIDs, but clients can send any.
const NODE_BYTES_MAX: usize = 64;

/// Why there is no answer. The other node may have carried out the request, except where the variant says that nothing
/// was done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AskError {
    /// Nothing was done.
    #[error("there is no such node")]
    UnknownNode,
    /// Nothing was done: the node announced itself a moment ago but is not listening now.
    #[error("the node does not receive requests")]
    Deaf,
    #[error("the node has not answered within {} ms", .0.as_millis())]
    Late(Duration),
    /// Nothing was done.
    #[error("this node already waits for {OPEN_MAX} answers of other nodes")]
    TooMany,
    /// Nothing was done.
    #[error("the node is busy")]
    Busy,
    /// Nothing was done: the node runs an earlier release.
    #[error("the node runs an earlier release, which does not know this request")]
    NotUnderstood,
    /// Nothing was done.
    #[error("the request cannot be sent to the node: {0}")]
    Unsendable(Arc<NodeMessageError>),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// The questions in flight, both those that this node has asked and those that it answers.
#[derive(Debug)]
pub(super) struct PendingNodeRequests {
    open: Mutex<FxHashMap<u64, oneshot::Sender<Result<NodeResponse, NodeRequestError>>>>,
    next: AtomicU64,
    answering: Arc<Semaphore>,
    /// Permits for requests of this node that wait for packets of sessions elsewhere.
    pub(super) fetching: Semaphore,
    fetched: Arc<Semaphore>,
    /// Permits for questions to clients that this node sends to other nodes.
    pub(super) client_requests: Semaphore,
    answering_for_clients: Arc<Semaphore>,
    /// Permits for replies that say this node is busy.
    refusing: Arc<Semaphore>,
    unanswered_log: LogLimiter,
    unreadable_log: LogLimiter,
}

impl Default for PendingNodeRequests {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            next: AtomicU64::new(1),
            answering: Arc::new(Semaphore::new(ANSWERING_MAX)),
            fetching: Semaphore::new(FETCHING_MAX),
            fetched: Arc::new(Semaphore::new(FETCHED_MAX)),
            client_requests: Semaphore::new(CLIENT_REQUESTS_MAX),
            answering_for_clients: Arc::new(Semaphore::new(ANSWERING_MAX)),
            refusing: Arc::new(Semaphore::new(ANSWERING_MAX)),
            unanswered_log: LogLimiter::default(),
            unreadable_log: LogLimiter::default(),
        }
    }
}

/// A question in flight. Dropping it gives up the wait.
struct PendingNodeRequest<'a> {
    asking: &'a PendingNodeRequests,
    id: u64,
    answer: oneshot::Receiver<Result<NodeResponse, NodeRequestError>>,
}

impl Drop for PendingNodeRequest<'_> {
    fn drop(&mut self) {
        self.asking.open.lock().remove(&self.id);
    }
}

impl PendingNodeRequests {
    fn open(&self) -> Result<PendingNodeRequest<'_>, AskError> {
        let (sender, answer) = oneshot::channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.lock();
        if open.len() >= OPEN_MAX {
            return Err(AskError::TooMany);
        }
        open.insert(id, sender);
        Ok(PendingNodeRequest { asking: self, id, answer })
    }
}

impl Node {
    /// Asks one node, which may be this one, and waits for its answer as long as the question allows.
    pub async fn ask(&self, node: &str, question: NodeRequest) -> Result<NodeResponse, AskError> {
        let patience = question.patience();
        let answer = async {
            if *node == *self.id.0 {
                return Ok(self.answer(question).await?);
            }
            if node.is_empty() || node.len() > NODE_BYTES_MAX {
                return Err(AskError::UnknownNode);
            }
            let mut open = self.asking.open()?;
            let message =
                NodeMessage::Question { id: open.id, from: (*self.id.0).into(), question: Some(question) };
            let message = message.encode().map_err(|error| AskError::Unsendable(Arc::new(error)))?;
            if self.broker.tell_node(node, message).await? == 0 {
                let is_announced = self.nodes().await?.iter().any(|known| *known.uid == *node);
                return Err(if is_announced { AskError::Deaf } else { AskError::UnknownNode });
            }
            match (&mut open.answer).await {
                Ok(answer) => Ok(answer?),
                // Unreachable: the sender is kept until the question is answered.
                Err(_) => Err(AskError::Late(patience)),
            }
        };
        let answer = tokio::time::timeout(patience, answer).await;
        let answer = answer.unwrap_or(Err(AskError::Late(patience)));
        self.metrics.node_request(answer.as_ref().map_or_else(AskError::label, |_| "answered"));
        answer
    }

    /// Has every node ask the clients that `among` selects. Fails if too many such questions are open, or if the broker
    /// fails.
    pub(crate) async fn ask_clients_everywhere(
        &self,
        among: Among,
        ask: AskClients,
    ) -> Result<Vec<(NodeInfo, Result<NodeResponse, AskError>)>, AskError> {
        let nodes = u32::try_from(self.nodes().await?.len()).unwrap_or(u32::MAX);
        let _permits = self.asking.client_requests.try_acquire_many(nodes).map_err(|_| AskError::TooMany)?;
        Ok(self.ask_all(NodeRequest::AskClients(Box::new((among, ask)))).await?)
    }

    /// Asks every known node at the same time. A node that does not answer does not hold up the answers of the others.
    pub async fn ask_all(
        &self,
        question: NodeRequest,
    ) -> Result<Vec<(NodeInfo, Result<NodeResponse, AskError>)>, BrokerError> {
        let requests = self.nodes().await?.into_iter().map(|node| {
            let question = question.clone();
            async move {
                // A node whose release predates questions does not listen for them.
                let answer = if node.questions == 0 {
                    Err(AskError::NotUnderstood)
                } else {
                    self.ask(&node.uid, question).await
                };
                (node, answer)
            }
        });
        // Collected before they are run: a stream of closures would borrow for too long.
        let requests: Vec<_> = requests.collect();
        Ok(futures_util::stream::iter(requests).buffered(NODES_AT_ONCE).collect().await)
    }

    /// Handles a message sent to this node alone. It runs where the broker delivers messages, so it leaves the work to
    /// other tasks.
    pub(super) fn receive_node_message(self: &Arc<Self>, message: Bytes) {
        match NodeMessage::decode(&message) {
            Ok(NodeMessage::Answer { id, answer }) => {
                // The asker may have given up.
                if let Some(open) = self.asking.open.lock().remove(&id) {
                    let _ = open.send(answer);
                }
            }
            Ok(NodeMessage::Question { id, from, question }) => self.receive_question(id, from, question),
            Err(error) => {
                if let Some(suppressed) = self.asking.unreadable_log.admit() {
                    tracing::warn!(%error, suppressed, "a message of another node cannot be read");
                }
            }
        }
    }

    fn receive_question(self: &Arc<Self>, id: u64, from: Box<str>, question: Option<NodeRequest>) {
        let waits =
            matches!(question, Some(NodeRequest::Poll { polled: RemotePollRequest::Fetch { .. }, .. }));
        let permits = match question {
            _ if waits => &self.asking.fetched,
            Some(NodeRequest::AskClients(_)) => &self.asking.answering_for_clients,
            _ => &self.asking.answering,
        };
        let permit = permits.clone().try_acquire_owned();
        let refusal = permit.is_err().then(|| self.asking.refusing.clone().try_acquire_owned());
        if let Some(Err(_)) = refusal {
            if let Some(suppressed) = self.asking.unanswered_log.admit() {
                tracing::warn!(
                    suppressed,
                    "too many requests of other nodes: some are dropped without an answer"
                );
            }
            return;
        }
        let node = self.clone();
        self.runtime.spawn(async move {
            let answer = match (&permit, question) {
                (Err(_), _) => Err(NodeRequestError::Busy),
                (_, None) => Err(NodeRequestError::NotUnderstood),
                (Ok(_), Some(question)) => tokio::time::timeout(question.patience(), node.answer(question))
                    .await
                    .unwrap_or(Err(NodeRequestError::Late)),
            };
            if let Err(error) = node.reply(id, &from, answer).await {
                tracing::debug!(%error, "an answer did not reach the node that asked");
            }
            drop((permit, refusal));
        });
    }

    async fn reply(
        &self,
        id: u64,
        to: &str,
        answer: Result<NodeResponse, NodeRequestError>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let message = NodeMessage::Answer { id, answer }.encode()?;
        // None if the node that asked has gone meanwhile.
        self.broker.tell_node(to, message).await?;
        Ok(())
    }
}

/// The version of questions that this node answers, as announced to others. 0 means none.
pub(super) const QUESTIONS: u32 = VERSION;

impl AskError {
    /// Returns the value of the metric's label.
    fn label(&self) -> &'static str {
        match self {
            Self::UnknownNode => "unknown_node",
            Self::Deaf => "deaf",
            Self::Late(_) => "late",
            Self::TooMany => "too_many",
            Self::Busy => "busy",
            Self::NotUnderstood => "not_understood",
            Self::Unsendable(_) => "unsendable",
            Self::Broker(_) => "broker",
        }
    }
}

impl From<NodeRequestError> for AskError {
    fn from(unanswered: NodeRequestError) -> Self {
        match unanswered {
            NodeRequestError::NotUnderstood => Self::NotUnderstood,
            NodeRequestError::Busy => Self::Busy,
            NodeRequestError::Late => Self::Late(ASK_TIMEOUT),
        }
    }
}
