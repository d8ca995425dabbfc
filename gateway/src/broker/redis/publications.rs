//! Publications on their way to Redis. All that wait leave as one pipeline, and the next pipeline does not wait for the
//! answers. A publisher with many publications in flight thus pays for one round trip, and they arrive in the order they
//! were pushed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::unconstrained;
use tokio_util::task::AbortOnDropHandle;

use super::calls;
use super::cluster::{FlowTicket, Redirect};
use super::publish_script::OutgoingPublication;
use super::redis_link::{OpenLink, RedisLink, explain, is_no_script};
use super::script;
use crate::broker::BrokerError;
use crate::broker::measure::{BrokerMetrics, Operation};

/// The most publications of a pipeline.
const PIPELINE_MAX: usize = 512;
/// The most bytes of a pipeline, unless a single publication has more.
const PIPELINE_BYTES_MAX: usize = 1 << 20;
/// The most pipelines in flight: enough that Redis always has work.
const PIPELINES_MAX: usize = 4;
/// Kibibytes of unanswered publications, each counted as one more than it has. Further publications wait for a place,
/// under their deadline.
const PLACES: usize = 65_536;

#[derive(Debug)]
pub(super) struct Publications {
    queue: Arc<PublicationQueue>,
    places: Arc<Semaphore>,
    /// Held by the publication that waits for a place. The others wait for the lock in their order.
    line: Arc<Mutex<()>>,
    /// The number of publications that wait for a place, or will when they are polled.
    behind: Arc<AtomicUsize>,
    timeout: Duration,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct PublicationQueue {
    waiting: parking_lot::Mutex<WaitingPublications>,
    added: Notify,
}

#[derive(Debug, Default)]
struct WaitingPublications {
    list: VecDeque<QueuedPublication>,
}

/// A publication that waits to be sent, or for its answer.
#[derive(Debug)]
pub(super) struct QueuedPublication {
    pub(super) outgoing: OutgoingPublication,
    pub(super) begun: Instant,
    reply: oneshot::Sender<Result<Value, BrokerError>>,
    /// In a cluster, the publication's place in the flow of its slot.
    pub(super) ticket: Option<FlowTicket>,
    /// Whether it is sent to the server that imports its slot, behind ASKING.
    pub(super) asks: bool,
    /// How often it has been redirected.
    pub(super) redirected: u32,
    _place: OwnedSemaphorePermit,
}

impl QueuedPublication {
    /// Returns the queued publication and the receiver of its answer.
    pub(super) fn new(
        outgoing: OutgoingPublication,
        begun: Instant,
        place: OwnedSemaphorePermit,
    ) -> (Self, PendingReply) {
        let (reply, answer) = oneshot::channel();
        (Self { outgoing, begun, reply, ticket: None, asks: false, redirected: 0, _place: place }, answer)
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    pub(super) fn answer(self, answer: Result<Value, BrokerError>) {
        // The caller may have given up.
        let _ = self.reply.send(answer);
    }
}

/// Returns the number of places that this publication takes.
pub(super) fn places_of(outgoing: &OutgoingPublication) -> u32 {
    1 + u32::try_from(outgoing.bytes() / 1024).unwrap_or(u32::MAX).min(PLACES as u32 - 1)
}

impl Publications {
    pub(super) fn start(link: Arc<RedisLink>, timeout: Duration, metrics: Arc<BrokerMetrics>) -> Self {
        let queue = Arc::new(PublicationQueue::default());
        // Unconstrained, here and below: tasks that yield because their budget is used up are woken last in, first out,
        // and pipelines would overtake each other. The awaited futures bound the work well enough.
        let task = PublicationSender { queue: queue.clone(), link, timeout, metrics };
        let places = Arc::new(Semaphore::new(PLACES));
        Self {
            queue,
            places,
            line: Arc::default(),
            behind: Arc::default(),
            timeout,
            _task: AbortOnDropHandle::new(tokio::spawn(unconstrained(task.run()))),
        }
    }

    /// Queues a publication before returning if there is a place. Otherwise the future waits for a place from its first
    /// poll on, and no later call gets ahead of it.
    pub(super) fn push(
        &self,
        outgoing: OutgoingPublication,
        ticket: Option<FlowTicket>,
    ) -> impl Future<Output = Result<Value, BrokerError>> + Send + use<> {
        let begun = Instant::now();
        let places = places_of(&outgoing);
        if self.behind.load(Ordering::SeqCst) == 0
            && let Ok(place) = self.places.clone().try_acquire_many_owned(places)
        {
            let (one, answer) = QueuedPublication::new(outgoing, begun, place);
            self.queue.push(QueuedPublication { ticket, ..one });
            return wait(answer).left_future();
        }
        let (queue, line, timeout) = (self.queue.clone(), self.line.clone(), self.timeout);
        let (all, behind) = (self.places.clone(), QueuePlace::join(&self.behind));
        let push = async move {
            let in_line = unconstrained(async {
                let _first = line.lock().await;
                let place = all.acquire_many_owned(places).await.ok()?;
                let (one, answer) = QueuedPublication::new(outgoing, begun, place);
                queue.push(QueuedPublication { ticket, ..one });
                drop(behind);
                Some(answer)
            });
            match tokio::time::timeout(timeout, in_line).await {
                Ok(Some(answer)) => wait(answer).await,
                _ => Err(BrokerError::Timeout(timeout)),
            }
        };
        push.right_future()
    }
}

impl Publications {
    /// Queues a publication that has its place already, after it was redirected to another master, or to this one later.
    pub(super) fn push_again(&self, one: QueuedPublication) {
        self.queue.push(one);
    }
}

/// Counts a publication that waits for a place, polled or not.
struct QueuePlace(Arc<AtomicUsize>);

impl QueuePlace {
    fn join(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::SeqCst);
        Self(all.clone())
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(super) type PendingReply = oneshot::Receiver<Result<Value, BrokerError>>;

pub(super) async fn wait(answer: PendingReply) -> Result<Value, BrokerError> {
    answer.await.unwrap_or_else(|_| Err(BrokerError::Unreachable("the link is closed".into())))
}

impl PublicationQueue {
    fn push(&self, one: QueuedPublication) {
        let was_empty = {
            let mut waiting = self.waiting.lock();
            waiting.list.push_back(one);
            waiting.list.len() == 1
        };
        // If the queue was not empty, the task has been woken already.
        if was_empty {
            self.added.notify_one();
        }
    }

    /// Takes waiting publications in their order, at most a pipeline's worth. Waits until there is at least one.
    async fn take(&self) -> Vec<QueuedPublication> {
        loop {
            let added = self.added.notified();
            let taken = self.waiting.lock().take();
            if !taken.is_empty() {
                return taken;
            }
            added.await;
        }
    }
}

impl WaitingPublications {
    fn take(&mut self) -> Vec<QueuedPublication> {
        let (mut taken, mut bytes) = (Vec::with_capacity(self.list.len().min(PIPELINE_MAX)), 0);
        while let Some(next) = self.list.front().map(|one| one.outgoing.bytes())
            && taken.len() < PIPELINE_MAX
            && (taken.is_empty() || bytes + next <= PIPELINE_BYTES_MAX)
        {
            bytes += next;
            taken.extend(self.list.pop_front());
        }
        taken
    }
}

struct PublicationSender {
    queue: Arc<PublicationQueue>,
    link: Arc<RedisLink>,
    timeout: Duration,
    metrics: Arc<BrokerMetrics>,
}

impl PublicationSender {
    async fn run(self) {
        let mut in_flight = FuturesOrdered::new();
        // Publications refused because Redis lacked the script. They go before anything new, to keep the order.
        let mut again: Vec<QueuedPublication> = Vec::new();
        loop {
            if in_flight.is_empty() && !again.is_empty() {
                let later = again.split_off(again.len().min(PIPELINE_MAX));
                let batch = std::mem::replace(&mut again, later);
                in_flight.push_back(self.send(batch, self.connection().await, true));
            }
            let room = in_flight.len() < PIPELINES_MAX && again.is_empty();
            tokio::select! {
                biased;
                Some(refused) = in_flight.next(), if !in_flight.is_empty() => again.extend(refused),
                batch = self.queue.take(), if room => {
                    // Awaited before the next batch is taken: tasks that wait for a first connection are woken in any order.
                    let connection = self.connection().await;
                    in_flight.push_back(self.send(batch, connection, false));
                }
            }
        }
    }

    /// Returns the connection. Waits only for the outcome of the very first attempt to connect.
    async fn connection(&self) -> Result<(MultiplexedConnection, OpenLink), BrokerError> {
        let connection = tokio::time::timeout(self.timeout, self.link.connection()).await;
        connection.unwrap_or(Err(BrokerError::Timeout(self.timeout)))
    }

    /// Sends a pipeline, behind the script if `load`, and answers its publications. Returns those that were refused
    /// because the script is missing.
    async fn send(
        &self,
        batch: Vec<QueuedPublication>,
        connection: Result<(MultiplexedConnection, OpenLink), BrokerError>,
        load: bool,
    ) -> Vec<QueuedPublication> {
        let (late, mut batch): (Vec<QueuedPublication>, Vec<QueuedPublication>) =
            batch.into_iter().partition(|one| one.begun.elapsed() >= self.timeout);
        self.fail(late, &BrokerError::Timeout(self.timeout));
        let (mut connection, up) = match connection {
            Ok(connection) => connection,
            Err(error) => {
                self.fail(batch, &error);
                return Vec::new();
            }
        };
        batch.retain(|one| !one.is_abandoned());
        let Some(oldest) = batch.iter().map(|one| one.begun).min() else { return Vec::new() };
        // A redirected publication does not shorten the time of the publications that share its pipeline.
        let newest = batch.iter().filter(|one| one.redirected == 0).map(|one| one.begun).min();
        let deadline = newest.unwrap_or(oldest) + self.timeout;
        if up.of_cluster.is_some() {
            // There is no order between slots, and publications of one slot share calls.
            batch.sort_by_key(|one| one.outgoing.slot());
        }
        let calls = calls::divide(batch.iter().map(|one| (&one.outgoing, one.asks)));
        let sent = Instant::now();
        let answers = tokio::time::timeout_at(deadline.into(), async {
            let changes_keys = batch.iter().any(|one| matches!(one.outgoing, OutgoingPublication::Key(_)));
            let scripts = [(&script::PUBLISH, true), (&script::CHANGE_KEY, changes_keys)];
            let loaded = scripts.into_iter().filter(|(_, is_needed)| load && *is_needed);
            let loaded: Vec<_> = loaded.map(|(script, _)| script.load(&up)).collect();
            let mut pipeline = Pipeline::with_capacity(loaded.len() + batch.len());
            let loads = loaded.len();
            for load in loaded {
                pipeline.add_command(load);
            }
            for call in &calls {
                let publications = batch[call.clone()].iter().map(|one| &one.outgoing);
                if let Some(command) = calls::command(publications, &up) {
                    if batch[call.start].asks {
                        pipeline.cmd("ASKING");
                    }
                    pipeline.add_command(command);
                }
            }
            let answers = connection.send_packed_commands(&pipeline, 0, pipeline.len()).await;
            let mut answers = answers.map_err(explain)?.into_iter();
            // If loading was refused, the calls behind it fail because the script is missing.
            let mut not_loaded = None;
            for answer in answers.by_ref().take(loads) {
                if let Value::ServerError(error) = answer {
                    not_loaded = Some(explain(error.into()));
                }
            }
            Ok((answers, not_loaded))
        });
        match answers.await.unwrap_or_else(|_| Err(BrokerError::unanswered(self.timeout))) {
            Ok((mut answers, not_loaded)) => {
                self.metrics.observe_round_trip(Operation::Publish, sent.elapsed());
                let asks: Vec<bool> = calls.iter().map(|call| batch[call.start].asks).collect();
                let answers = calls.iter().zip(asks).flat_map(|(call, asks)| {
                    // ASKING has an answer of its own.
                    let answer = answers.nth(usize::from(asks));
                    calls::split(answer, call.len())
                });
                self.answer(batch, answers, up.number, load, not_loaded.as_ref())
            }
            Err(error) => {
                self.fail(batch, &error);
                Vec::new()
            }
        }
    }

    fn answer(
        &self,
        batch: Vec<QueuedPublication>,
        answers: impl Iterator<Item = Result<Value, BrokerError>>,
        number: u64,
        load: bool,
        not_loaded: Option<&BrokerError>,
    ) -> Vec<QueuedPublication> {
        let mut refused = Vec::new();
        for (one, answer) in batch.into_iter().zip(answers) {
            let answer = match answer {
                Ok(Value::ServerError(error)) => {
                    let error = redis::RedisError::from(error);
                    match (is_no_script(&error), load) {
                        (true, false) => {
                            refused.push(one);
                            continue;
                        }
                        (true, true) => Err(not_loaded.cloned().unwrap_or_else(|| explain(error))),
                        (false, _) => Err(explain(error)),
                    }
                }
                answer => answer,
            };
            self.settle(one, answer, number);
        }
        refused
    }

    fn settle(&self, mut one: QueuedPublication, answer: Result<Value, BrokerError>, number: u64) {
        if let Some(ticket) = one.ticket.take() {
            let redirect = answer.as_ref().err().and_then(Redirect::read);
            if let Some(redirect) = redirect.filter(|_| one.begun.elapsed() < self.timeout) {
                ticket.put_back(one, redirect);
                return;
            }
            match &answer {
                Ok(answer) if one.asks => ticket.tell_the_others(&one.outgoing, answer),
                Ok(_) => ticket.made(),
                Err(_) => {}
            }
        }
        if let Err(error) = &answer {
            self.metrics.failed(error);
            self.link.note_refusal(number, error);
        }
        one.answer(answer);
    }

    fn fail(&self, batch: Vec<QueuedPublication>, error: &BrokerError) {
        for one in batch {
            self.metrics.failed(error);
            one.answer(Err(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use futures_util::future::join;

    use super::*;

    /// Creates a queue whose publications are never sent.
    fn publications() -> Publications {
        Publications {
            queue: Arc::default(),
            places: Arc::new(Semaphore::new(PLACES)),
            line: Arc::default(),
            behind: Arc::default(),
            timeout: Duration::from_secs(60),
            _task: AbortOnDropHandle::new(tokio::spawn(async {})),
        }
    }

    fn plain(name: &str, bytes: usize) -> OutgoingPublication {
        OutgoingPublication::Plain { slot: 0, name: name.to_owned(), message: BytesMut::zeroed(bytes) }
    }

    /// Returns the names of all publications in the queue, in their order.
    fn placed(publications: &Publications) -> Vec<String> {
        let waiting = publications.queue.waiting.lock();
        let name = |one: &QueuedPublication| match &one.outgoing {
            OutgoingPublication::Plain { name, .. } => name.clone(),
            OutgoingPublication::Retained(_) | OutgoingPublication::Key(_) => {
                unreachable!("none is kept here")
            }
        };
        waiting.list.iter().map(name).collect()
    }

    #[tokio::test]
    async fn a_pipeline_holds_only_so_many_publications_and_bytes_but_at_least_one() {
        let publications = publications();
        let small = [1; PIPELINE_MAX + 1];
        let sizes = [&[PIPELINE_BYTES_MAX + 1, PIPELINE_BYTES_MAX / 2, PIPELINE_BYTES_MAX / 2], &small[..]];
        for bytes in sizes.concat() {
            drop(publications.push(plain("a", bytes), None));
        }
        let take = || publications.queue.waiting.lock().take().len();
        assert_eq!([(); 5].map(|()| take()), [1, 2, PIPELINE_MAX, 1, 0]);
    }

    #[tokio::test]
    async fn nobody_comes_before_those_who_found_no_place_polled_or_not() {
        let publications = publications();
        let all = publications.places.clone().try_acquire_many_owned(PLACES as u32).unwrap();
        let first = publications.push(plain("first", 1), None);
        drop(publications.push(plain("given up", 1), None));
        drop(all);
        let second = publications.push(plain("second", 1), None);
        assert!(placed(&publications).is_empty(), "the first is not there yet");
        assert!(join(first, second).now_or_never().is_none(), "there is no answer yet");
        let _third = publications.push(plain("third", 1), None);
        assert_eq!(placed(&publications), ["first", "second", "third"]);
    }
}
