//! What other threads send to a worker: one bounded queue, swapped out whole.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gateway_core::effect::{Outcome, Renewal, ServerSubscription};
use gateway_core::hub::Prepared;
use http::Response;
use http_body_util::Full;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use shared::channel::Channel;
use shared::command::Since;
use shared::disconnect::Disconnect;
use shared::id::ClientId;
use shared::moment::Moment;
use shared::position::StreamPosition;
use tokio::sync::{Notify, oneshot};

use crate::client::ClientKey;
use crate::client::open::NewClient;
use crate::client::read::CommandOutcome;
use crate::node::control::ControlTarget;
use crate::node::node_message::ConnectionsWanted;
use crate::node::{ClientsRequest, SessionId};
use crate::transport::task_pipe::PipeReadiness;
use crate::worker::Contexts;
use crate::worker::callers::{CallerKey, NewCaller};
use crate::worker::list_connections::WorkerConnections;
use crate::worker::rebalance::RebalanceRequest;

/// An event for a worker.
#[derive(Debug)]
pub(crate) enum WorkerEvent {
    /// A client that has been admitted: its socket is this worker's from now on.
    Open(Box<NewClient>),
    Publication(Arc<Prepared>),
    /// An update of a key of a polled channel.
    News(Arc<KeyUpdate>),
    /// The versions of this polled channel start anew: its subscribers have to return.
    Anew(Channel),
    /// Publications of this channel up to the position that have not arrived will not arrive.
    Lost(Channel, StreamPosition),
    Outcome(ClientKey, Outcome),
    /// A kept connection of an application server, to be served here.
    Call(Box<NewCaller>),
    /// The answer to a request on such a connection.
    Answered(CallerKey, Box<Response<Full<Bytes>>>),
    /// A client's pipe has become readable or writable.
    Turned(ClientKey, PipeReadiness),
    /// A message that a client sends apart from its stream, and the sender to which the outcome is reported.
    Message(SessionId, Bytes, oneshot::Sender<CommandOutcome>),
    /// Close the selected clients on this worker.
    Disconnect(Arc<ControlTarget>, Disconnect, ActTally),
    /// Close this client: its session now belongs to another connection.
    Displaced(ClientKey),
    /// End a subscription of the selected clients on this worker.
    Unsubscribe(Arc<ControlTarget>, Channel, ActTally),
    /// Close the user's clients on this worker except this one, and except those whose command comes later.
    CloseOthers(Arc<str>, ClientId),
    /// Subscribe the selected clients on this worker. It is done once the subscriptions are live.
    Subscribe(Arc<ControlTarget>, Arc<(ServerSubscription, Option<Since>)>, ActTally),
    /// Send the selected clients on this worker an event that asks for acknowledgements.
    AskClients(Arc<ControlTarget>, Arc<ClientsRequest>),
    /// Forget acknowledgements of the selected clients on this worker that nobody waits for any more.
    ForgetAsks(Arc<ControlTarget>),
    /// Set the expiry of the selected clients' connections.
    Refresh(Arc<ControlTarget>, Renewal, ActTally),
    /// Return the number of subscribers that these channels have on this worker.
    Count(Arc<[Channel]>, oneshot::Sender<Vec<u32>>),
    /// List at most this many connections, from this place on.
    List(Arc<ConnectionsWanted>, u32, usize, oneshot::Sender<WorkerConnections>),
    /// Close this many of the worker's clients, which then return to other nodes.
    Rebalance(RebalanceRequest),
    /// End the plan: close no more clients.
    StopRebalancing,
    /// Look for debtors to close, because the node is short of memory.
    Shed,
    /// Apply a new configuration.
    Renew(Contexts),
    /// Close every client by `until`, evenly spread.
    Drain {
        until: Moment,
    },
    Stop,
}

/// An update of a key, for the clients that track it.
#[derive(Debug)]
pub(crate) struct KeyUpdate {
    pub(crate) prepared: Arc<Prepared>,
    pub(crate) key: Arc<str>,
    /// Clients that have this version or a newer one are not sent the update.
    pub(crate) version: u64,
    /// Whether the key was removed.
    pub(crate) removed: bool,
}

/// Counts the clients to which workers have applied a command. Reports the result when all clones are dropped: then every
/// worker is done, or never will be.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActTally(Option<Arc<ActCount>>);

#[derive(Debug)]
struct ActCount {
    clients: AtomicU32,
    failed: AtomicU32,
    full: AtomicU32,
    done: Option<oneshot::Sender<ActResult>>,
}

/// The outcome of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ActResult {
    /// The number of selected clients.
    pub(crate) clients: u32,
    /// How many of these it failed for.
    pub(crate) failed: u32,
    /// How many of the failures are of clients that may have no more channels.
    pub(crate) full: u32,
}

impl ActTally {
    pub(crate) fn new() -> (Self, oneshot::Receiver<ActResult>) {
        let (done, result) = oneshot::channel();
        let none = || AtomicU32::new(0);
        let count = ActCount { clients: none(), failed: none(), full: none(), done: Some(done) };
        (Self(Some(Arc::new(count))), result)
    }

    /// A tally whose result nobody waits for.
    pub(crate) fn unawaited() -> Self {
        Self(None)
    }

    pub(crate) fn add(&self, clients: u32) {
        if let Some(count) = &self.0 {
            count.clients.fetch_add(clients, Ordering::Relaxed);
        }
    }

    /// Counts a failure for one of the counted clients.
    pub(crate) fn fail(&self) {
        if let Some(count) = &self.0 {
            count.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a failure for a client that may have no more channels.
    pub(crate) fn fail_full(&self) {
        self.fail();
        if let Some(count) = &self.0 {
            count.full.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for ActCount {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            // The requester may have given up.
            let _ = done.send(ActResult {
                clients: self.clients.load(Ordering::Relaxed),
                failed: self.failed.load(Ordering::Relaxed),
                full: self.full.load(Ordering::Relaxed),
            });
        }
    }
}

/// The most payload bytes that wait for a worker, however large its share of memory is.
const BYTES_MAX: usize = 64 << 20;

/// Publishers on this node wait while a worker has more waiting than its bound divided by this.
const HIGH: usize = 4;

#[derive(Debug)]
pub(crate) struct Inbox {
    /// The most publications that wait. Beyond it a publication is not queued: its channel is marked lost instead, and its
    /// subscribers are told of the gap.
    publications_max: usize,
    /// The bound in payload bytes.
    bytes_max: usize,
    queue: Mutex<InboxQueue>,
    waker: mio::Waker,
    /// Whether the worker has been woken and has not looked yet. One wake-up serves all events pushed before it.
    woken: AtomicBool,
    /// Publications pushed and not yet served, whether or not the worker has taken them.
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    room: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct InboxQueue {
    pub(crate) events: VecDeque<WorkerEvent>,
    /// The position of the last publication that did not fit, by channel.
    pub(crate) lost: FxHashMap<Channel, Option<StreamPosition>>,
    /// Whether the worker has stopped. Later events are dropped, which closes the sockets among them.
    closed: bool,
}

impl Inbox {
    pub(crate) fn new(waker: mio::Waker, publications_max: usize, bytes_max: usize) -> Self {
        Self {
            publications_max,
            bytes_max: bytes_max.min(BYTES_MAX),
            queue: Mutex::default(),
            waker,
            woken: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            room: Notify::new(),
        }
    }

    /// Queues any event but a publication. The number of these events is bounded by their causes: one for each connection,
    /// effect, or waiting request.
    pub(crate) fn push(&self, event: WorkerEvent) {
        {
            let mut queue = self.queue.lock();
            if queue.closed {
                return;
            }
            queue.events.push_back(event);
        }
        self.wake();
    }

    /// Queues a publication, or marks its channel lost if there is no room. Returns whether there was room.
    pub(crate) fn push_publication(&self, prepared: Arc<Prepared>) -> bool {
        let fits = {
            let mut queue = self.queue.lock();
            let fits = self.take_room(&queue, prepared.bytes());
            if fits {
                queue.events.push_back(WorkerEvent::Publication(prepared));
            } else {
                // A join has no position, so one that does not fit after a publication leaves the recorded position.
                let lost = queue.lost.entry(prepared.channel().clone()).or_default();
                *lost = prepared.position().or(*lost);
            }
            fits
        };
        self.wake();
        fits
    }

    /// Queues an update of a key. Returns whether there was room. A removal is always queued: it has no payload, there is at
    /// most one for each key, and no later poll would report it.
    pub(crate) fn push_news(&self, news: Arc<KeyUpdate>) -> bool {
        {
            let mut queue = self.queue.lock();
            if news.removed && !queue.closed {
                self.count_in(news.prepared.bytes());
            } else if !self.take_room(&queue, news.prepared.bytes()) {
                return false;
            }
            queue.events.push_back(WorkerEvent::News(news));
        }
        self.wake();
        true
    }

    /// Counts one more publication, if there is room for it.
    fn take_room(&self, queue: &InboxQueue, bytes: usize) -> bool {
        let fits = !queue.closed
            && self.waiting.load(Ordering::Relaxed) < self.publications_max
            && self.waiting_bytes.load(Ordering::Relaxed) + bytes <= self.bytes_max;
        if fits {
            self.count_in(bytes);
        }
        fits
    }

    fn count_in(&self, bytes: usize) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Suppresses wake-ups: the worker is awake, and takes further events before it sleeps again.
    pub(crate) fn stay_awake(&self) {
        self.woken.store(true, Ordering::SeqCst);
    }

    /// Wakes the worker, whatever it was about to do.
    pub(crate) fn look_again(&self) {
        self.woken.store(false, Ordering::SeqCst);
        self.wake();
    }

    /// Takes all events that wait. `into` must be empty; its capacity is reused. Taken publications count as waiting until
    /// they are served: otherwise the queue would hide from publishers that the worker is behind.
    pub(crate) fn take(&self, into: &mut InboxQueue) {
        // Cleared first: an event pushed after this wakes the worker again.
        self.woken.store(false, Ordering::SeqCst);
        std::mem::swap(&mut *self.queue.lock(), into);
    }

    /// Counts taken publications as served.
    pub(crate) fn served(&self, publications: usize, bytes: usize) {
        let waited = self.waiting.fetch_sub(publications, Ordering::SeqCst);
        let bytes_waited = self.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst);
        // The call that makes a count fall to its mark notifies the publishers that wait.
        let fell = |before: usize, by: usize, mark: usize| before > mark && before - by <= mark;
        if fell(waited, publications, self.publications_max / HIGH)
            || fell(bytes_waited, bytes, self.bytes_max / HIGH)
        {
            self.room.notify_waiters();
        }
    }

    /// Closes the queue and drops the events that wait.
    pub(crate) fn close(&self) {
        let left = {
            let mut queue = self.queue.lock();
            queue.closed = true;
            std::mem::take(&mut queue.events)
        };
        let waiting = left.iter().filter_map(|event| match event {
            WorkerEvent::Publication(prepared) => Some(prepared.bytes()),
            WorkerEvent::News(news) => Some(news.prepared.bytes()),
            _ => None,
        });
        let (publications, bytes) = waiting.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
        self.served(publications, bytes);
        self.room.notify_waiters();
        drop(left);
    }

    /// Returns how many publications wait or are being served.
    pub(crate) fn depth(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits until the worker has caught up far enough, at most until the deadline. Returns whether it has.
    pub(crate) async fn wait_for_room(&self, deadline: Duration) -> bool {
        if !self.is_high() {
            return true;
        }
        let wait = async {
            loop {
                let notified = self.room.notified();
                if !self.is_high() {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(deadline, wait).await.is_ok()
    }

    pub(crate) fn is_high(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > self.publications_max / HIGH
            || self.waiting_bytes.load(Ordering::Relaxed) > self.bytes_max / HIGH
    }

    fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            // Cannot happen while the worker's poll lives. A later push tries again.
            self.woken.store(false, Ordering::SeqCst);
            tracing::error!(%error, "a worker could not be woken");
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::hub::Variants;
    use gateway_core::namespace_id::NamespaceId;
    use shared::position::Epoch;
    use shared::publication::{Payload, Publication};

    use super::*;

    fn publication(channel: &str, offset: u64) -> Arc<Prepared> {
        let mut publication = Publication::new(Payload::text("x"));
        publication.position = Some(StreamPosition { offset, epoch: Epoch::from_random(1) });
        let channel = Channel::parse(channel, 255).unwrap();
        Prepared::new(channel, NamespaceId::DEFAULT, publication, 0, &Arc::new(Variants::default()))
    }

    #[test]
    fn what_does_not_fit_is_told_by_channel_up_to_its_last_position() {
        let poll = mio::Poll::new().unwrap();
        let inbox = Inbox::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap(), 2, BYTES_MAX);
        let fits: Vec<bool> = [("a", 1), ("b", 1), ("a", 2), ("a", 3), ("b", 2)]
            .map(|(channel, offset)| inbox.push_publication(publication(channel, offset)))
            .into();
        assert_eq!(fits, [true, true, false, false, false]);
        let mut queue = InboxQueue::default();
        inbox.take(&mut queue);
        assert_eq!(queue.events.len(), 2);
        let mut lost: Vec<(&str, u64)> = Vec::new();
        for (channel, position) in &queue.lost {
            lost.push((channel.as_str(), position.unwrap().offset));
        }
        lost.sort_unstable();
        assert_eq!(lost, [("a", 3), ("b", 2)]);

        assert!(!inbox.push_publication(publication("c", 1)), "what was taken has not been served");
        inbox.served(2, 2);
        assert_eq!(inbox.depth(), 0);
        assert!(inbox.push_publication(publication("a", 4)));
    }

    #[test]
    fn what_has_no_place_in_a_stream_hides_no_publication_that_was_lost_before_it() {
        let poll = mio::Poll::new().unwrap();
        let inbox = Inbox::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap(), 0, BYTES_MAX);
        let join = Prepared::new(
            Channel::parse("a", 255).unwrap(),
            NamespaceId::DEFAULT,
            Publication::new(Payload::text("x")),
            0,
            &Arc::new(Variants::default()),
        );
        inbox.push_publication(join.clone());
        inbox.push_publication(publication("a", 3));
        inbox.push_publication(join);
        let mut queue = InboxQueue::default();
        inbox.take(&mut queue);
        assert_eq!(queue.lost["a"].map(|position| position.offset), Some(3));
    }

    #[test]
    fn a_removal_of_a_followed_key_finds_room_where_its_content_does_not() {
        let poll = mio::Poll::new().unwrap();
        let inbox = Inbox::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap(), 0, BYTES_MAX);
        let news = |removed| {
            Arc::new(KeyUpdate { prepared: publication("a", 1), key: "k".into(), version: 1, removed })
        };
        assert!(!inbox.push_news(news(false)));
        assert!(inbox.push_news(news(true)));
        assert_eq!(inbox.depth(), 1);
        inbox.close();
        assert!(!inbox.push_news(news(true)));
        assert_eq!(inbox.depth(), 0);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let poll = mio::Poll::new().unwrap();
        let inbox = Inbox::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap(), 100, BYTES_MAX);
        let large = Publication::new(Payload::binary(vec![0; BYTES_MAX / 2 + 1]));
        let large =
            Prepared::new(Channel::parse("a", 255).unwrap(), NamespaceId::DEFAULT, large, 0, &Arc::default());
        assert!(inbox.push_publication(large.clone()));
        assert!(!inbox.push_publication(large));
        assert!(inbox.push_publication(publication("a", 1)), "there is room for a small one");
    }

    #[tokio::test]
    async fn publishers_wait_for_a_worker_that_is_behind_and_not_for_ever() {
        let poll = mio::Poll::new().unwrap();
        let inbox =
            Arc::new(Inbox::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap(), 8, BYTES_MAX));
        for offset in 1..=3 {
            assert!(inbox.wait_for_room(Duration::from_secs(1)).await);
            inbox.push_publication(publication("a", offset));
        }
        assert!(!inbox.wait_for_room(Duration::from_millis(20)).await, "nobody takes anything");
        let waiting = tokio::spawn({
            let inbox = inbox.clone();
            async move { inbox.wait_for_room(Duration::from_secs(30)).await }
        });
        tokio::task::yield_now().await;
        inbox.take(&mut InboxQueue::default());
        inbox.served(3, 3);
        assert!(waiting.await.unwrap());
    }
}
