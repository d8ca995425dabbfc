//! Publications on their way, in the order of the calls. Each channel with history has a lane for as long as publications
//! wait in it, and those are sent together. Publications without history go through one queue for all channels, and are
//! answered when the server has them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use gateway_core::map::{ChangedKey, Suppressed};
use parking_lot::Mutex;
use shared::channel::Channel;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::NatsBroker;
use super::append::{AppendRequest, together};
use super::idempotency::{KeyReserveOutcome, LOOK_AGAIN};
use super::maps::MapRequest;
use crate::broker::measure::Operation;
use crate::broker::{BrokerError, Idempotency, Published};

/// Kibibytes of unanswered publications, each counted as one more than it has. Further publications wait for a place,
/// under their deadline.
const PLACES: usize = 65_536;

/// The most publications taken out of a lane at once.
const ROUND_MAX: usize = 512;

pub(super) type LaneResult = Result<ChangedKey, BrokerError>;

/// What to do with a publication.
#[derive(Debug)]
pub(super) enum LaneTask {
    Append(AppendRequest, Option<Idempotency>),
    /// In a channel that keeps state by key.
    Change(MapRequest),
    /// Without history, and not made again under the same idempotency key.
    Once(Bytes, Idempotency),
    /// Without history.
    Pass(Bytes),
    /// A join or a leave, which is no publication.
    Tell(Bytes),
}

impl LaneTask {
    fn bytes(&self) -> usize {
        match self {
            Self::Append(addition, _) => addition.record.len(),
            Self::Change(request) => request.bytes(),
            Self::Once(message, _) | Self::Pass(message) | Self::Tell(message) => message.len(),
        }
    }
}

#[derive(Debug)]
pub(super) struct LanePublication {
    task: LaneTask,
    deadline: Instant,
    /// How many publications without history had been queued before this one.
    behind: u64,
    reply: oneshot::Sender<LaneResult>,
    _place: OwnedSemaphorePermit,
}

/// A publication without history, or an event, on its way to the server.
#[derive(Debug)]
pub(super) struct UnkeptPublication {
    pub(super) subject: String,
    pub(super) message: Bytes,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<LaneResult>,
    pub(super) is_publication: bool,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Mutex<HashMap<Channel, VecDeque<LanePublication>>>,
    passing: mpsc::UnboundedSender<UnkeptPublication>,
    enqueued: AtomicU64,
    sent: watch::Receiver<u64>,
    places: Arc<Semaphore>,
    /// The number of publications that wait for a place, or will when they are polled.
    waiting: AtomicUsize,
    /// Held by the publication that waits for a place. The others wait for the lock in their order.
    line: tokio::sync::Mutex<()>,
}

/// Counts as waiting until it is dropped.
struct LaneWaiting(Arc<NatsBroker>);

impl Drop for LaneWaiting {
    fn drop(&mut self) {
        self.0.lanes.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The receiving end of the queue of publications without history.
#[derive(Debug)]
pub(super) struct UnkeptQueue {
    pub(super) passing: mpsc::UnboundedReceiver<UnkeptPublication>,
    pub(super) sent: watch::Sender<u64>,
}

impl Lanes {
    pub(super) fn new() -> (Self, UnkeptQueue) {
        // Bounded by the places.
        let (passing, taken) = mpsc::unbounded_channel();
        let (sender, sent) = watch::channel(0);
        let lanes = Self {
            lanes: Mutex::default(),
            passing,
            enqueued: AtomicU64::new(0),
            sent,
            places: Arc::new(Semaphore::new(PLACES)),
            waiting: AtomicUsize::new(0),
            line: tokio::sync::Mutex::default(),
        };
        (lanes, UnkeptQueue { passing: taken, sent: sender })
    }
}

impl NatsBroker {
    /// Queues a publication before returning if there is a place. Otherwise the future waits for a place from its first
    /// poll on, and no later call gets ahead of it.
    pub(super) fn push(
        &self,
        channel: Channel,
        task: LaneTask,
    ) -> impl Future<Output = LaneResult> + Send + use<> {
        let deadline = Instant::now() + self.timeout;
        let places = 1 + u32::try_from(task.bytes() / 1_024).unwrap_or(u32::MAX).min(PLACES as u32 - 1);
        let broker = self.own();
        let lanes = &self.lanes;
        let place = match lanes.waiting.load(Ordering::SeqCst) {
            0 => lanes.places.clone().try_acquire_many_owned(places).ok(),
            _ => None,
        };
        let begun = match place {
            Some(place) => Ok(self.enter(channel, task, deadline, place)),
            None => {
                lanes.waiting.fetch_add(1, Ordering::SeqCst);
                Err((channel, task, LaneWaiting(broker.clone())))
            }
        };
        async move {
            let answer = match begun {
                Ok(answer) => answer,
                Err((channel, task, in_line)) => {
                    let wait = async {
                        let _first = broker.lanes.line.lock().await;
                        broker.lanes.places.clone().acquire_many_owned(places).await
                    };
                    match tokio::time::timeout_at(deadline, wait).await {
                        Ok(Ok(place)) => {
                            let answer = broker.enter(channel, task, deadline, place);
                            drop(in_line);
                            answer
                        }
                        _ => {
                            let error = BrokerError::Timeout(broker.timeout);
                            broker.metrics.failed(&error);
                            return Err(error);
                        }
                    }
                }
            };
            // A request that was sent has a deadline of its own; this one is for the time spent waiting before that.
            match tokio::time::timeout_at(deadline + broker.timeout * 3, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(BrokerError::Unreachable("the broker has ended".into())),
                Err(_) => Err(BrokerError::unanswered(broker.timeout * 4)),
            }
        }
    }

    fn enter(
        &self,
        channel: Channel,
        task: LaneTask,
        deadline: Instant,
        place: OwnedSemaphorePermit,
    ) -> oneshot::Receiver<LaneResult> {
        let (reply, answer) = oneshot::channel();
        let is_publication = !matches!(task, LaneTask::Tell(_));
        let mut lanes = self.lanes.lanes.lock();
        let task = match task {
            LaneTask::Append(..) | LaneTask::Change(_) | LaneTask::Once(..) => task,
            task if lanes.contains_key(&channel) => task,
            LaneTask::Pass(message) | LaneTask::Tell(message) => {
                let subject = self.names.passing(&channel);
                self.pass(UnkeptPublication {
                    subject,
                    message,
                    deadline,
                    reply,
                    is_publication,
                    _place: place,
                });
                return answer;
            }
        };
        let behind = self.lanes.enqueued.load(Ordering::SeqCst);
        let one = LanePublication { task, deadline, behind, reply, _place: place };
        self.enqueue(&mut lanes, channel, one);
        answer
    }

    fn enqueue(
        &self,
        lanes: &mut HashMap<Channel, VecDeque<LanePublication>>,
        channel: Channel,
        one: LanePublication,
    ) {
        match lanes.get_mut(&channel) {
            Some(lane) => lane.push_back(one),
            None => {
                lanes.insert(channel.clone(), VecDeque::from([one]));
                let broker = self.own();
                tokio::spawn(async move { broker.clear_lane(channel).await });
            }
        }
    }

    /// Returns a publication to its lane after a moment, because its idempotency key may be in use elsewhere. It holds up
    /// no other publication there.
    fn set_aside(&self, channel: &Channel, one: LanePublication) {
        let (broker, channel) = (self.own(), channel.clone());
        tokio::spawn(async move {
            tokio::time::sleep(LOOK_AGAIN).await;
            broker.enqueue(&mut broker.lanes.lanes.lock(), channel, one);
        });
    }

    fn pass(&self, passing: UnkeptPublication) {
        self.lanes.enqueued.fetch_add(1, Ordering::SeqCst);
        // The receiver is gone only when the broker ends.
        let _ = self.lanes.passing.send(passing);
    }

    /// Works on a lane until it is empty.
    async fn clear_lane(self: Arc<Self>, channel: Channel) {
        loop {
            let round: Vec<LanePublication> = {
                let mut lanes = self.lanes.lanes.lock();
                let Some(lane) = lanes.get_mut(&channel) else { return };
                if lane.is_empty() {
                    lanes.remove(&channel);
                    return;
                }
                let count = lane.len().min(ROUND_MAX);
                lane.drain(..count).collect()
            };
            self.do_round(&channel, round).await;
        }
    }

    /// Carries out a round in order. Publications with history wait until earlier ones without history are on their way.
    async fn do_round(&self, channel: &Channel, round: Vec<LanePublication>) {
        let behind = round.iter().map(|one| one.behind).max().unwrap_or_default();
        self.sent_up_to(behind).await;
        let mut left = VecDeque::from(round);
        while !left.is_empty() {
            let mut keys = HashSet::new();
            // Each key once per pass: a second publication with the key gets the result of the first.
            let is_new = |one: &LanePublication| match &one.task {
                LaneTask::Append(_, Some(idempotency)) => keys.insert(idempotency.key.clone()),
                _ => true,
            };
            let count = left.iter().map(is_new).take_while(|is_new| *is_new).count();
            self.do_in_order(channel, left.drain(..count).collect()).await;
        }
    }

    async fn sent_up_to(&self, count: u64) {
        let mut sent = self.lanes.sent.clone();
        let _sent = tokio::time::timeout(self.timeout, sent.wait_for(|sent| *sent >= count)).await;
    }

    async fn do_in_order(&self, channel: &Channel, round: Vec<LanePublication>) {
        let mut additions: Vec<(AppendRequest, LanePublication)> = Vec::new();
        let mut changes: Vec<(MapRequest, LanePublication)> = Vec::new();
        // All keys are reserved at once, in the order of the calls.
        let reserving = round.into_iter().map(|one| self.begin(channel, one));
        for begun in futures_util::future::join_all(reserving).await {
            match begun {
                LaneStep::Append(addition, one) => {
                    self.change_all(channel, std::mem::take(&mut changes)).await;
                    additions.push((addition, one));
                }
                LaneStep::Change(request, one) => {
                    self.append_all(channel, std::mem::take(&mut additions)).await;
                    changes.push((request, one));
                }
                LaneStep::Done => {}
                LaneStep::Alone(one) => {
                    self.append_all(channel, std::mem::take(&mut additions)).await;
                    self.change_all(channel, std::mem::take(&mut changes)).await;
                    self.do_alone(channel, one).await;
                }
            }
        }
        self.append_all(channel, additions).await;
        self.change_all(channel, changes).await;
    }

    /// Does what does not depend on the publications before it: reserves the key.
    async fn begin(&self, channel: &Channel, mut one: LanePublication) -> LaneStep {
        let task = std::mem::replace(&mut one.task, LaneTask::Pass(Bytes::new()));
        match task {
            LaneTask::Append(addition, None) => LaneStep::Append(addition, one),
            LaneTask::Append(mut addition, Some(idempotency)) => {
                match self.reserve(channel, &idempotency, one.deadline).await {
                    Ok(KeyReserveOutcome::Ours(reservation)) => {
                        addition.reserved = Some(reservation);
                        LaneStep::Append(addition, one)
                    }
                    Ok(KeyReserveOutcome::Used(published)) => self.answer(one, Ok(changed(published))),
                    Ok(KeyReserveOutcome::Busy) => {
                        one.task = LaneTask::Append(addition, Some(idempotency));
                        self.set_aside(channel, one);
                        LaneStep::Done
                    }
                    Err(error) => self.answer(one, Err(error)),
                }
            }
            LaneTask::Change(request) => LaneStep::Change(request, one),
            task => {
                one.task = task;
                LaneStep::Alone(one)
            }
        }
    }

    async fn append_all(&self, channel: &Channel, additions: Vec<(AppendRequest, LanePublication)>) {
        let mut left = VecDeque::from(additions);
        while !left.is_empty() {
            let count = together(left.iter().map(|(addition, _)| addition), self.link.payload_max());
            let (batch, ones): (Vec<AppendRequest>, Vec<LanePublication>) = left.drain(..count).unzip();
            let deadline = ones.iter().map(|one| one.deadline).max().unwrap_or_else(Instant::now);
            match self.append(channel, &batch, deadline).await {
                Ok(outcomes) => {
                    let reserved = batch.iter().zip(&outcomes).filter_map(|(addition, published)| {
                        addition.reserved.clone().zip(published.position)
                    });
                    let used: Vec<_> = reserved.collect();
                    if !used.is_empty() {
                        self.used(used).await;
                    }
                    for (one, published) in ones.into_iter().zip(outcomes) {
                        self.answer(one, Ok(changed(published)));
                    }
                }
                Err(error) => {
                    if !error.is_outcome_unknown() {
                        self.release(batch.into_iter().filter_map(AppendRequest::unused_key)).await;
                    }
                    for one in ones {
                        self.answer(one, Err(error.clone()));
                    }
                }
            }
        }
    }

    async fn change_all(&self, channel: &Channel, changes: Vec<(MapRequest, LanePublication)>) {
        let (mut requests, mut ones): (Vec<MapRequest>, VecDeque<LanePublication>) =
            changes.into_iter().unzip();
        while let Some(first) = ones.front() {
            // The changes behind the first came later, and have at least as much time.
            let changed = self.change_together(channel, &requests, first.deadline).await;
            let outcomes = match changed {
                Ok(outcomes) => outcomes,
                Err(error) => requests.iter().map(|_| Err(error.clone())).collect(),
            };
            requests.drain(..outcomes.len());
            for (one, outcome) in ones.drain(..outcomes.len()).zip(outcomes) {
                self.answer(one, outcome);
            }
        }
    }

    async fn do_alone(&self, channel: &Channel, mut one: LanePublication) {
        match std::mem::replace(&mut one.task, LaneTask::Pass(Bytes::new())) {
            LaneTask::Once(message, idempotency) => {
                let sent = Instant::now();
                let published = self.publish_once(channel, &idempotency, &message, one.deadline).await;
                if published.is_ok() {
                    self.metrics.observe_round_trip(Operation::Publish, sent.elapsed());
                }
                self.answer(one, published.map(changed));
            }
            task @ (LaneTask::Pass(_) | LaneTask::Tell(_)) => {
                let is_publication = matches!(task, LaneTask::Pass(_));
                let (LaneTask::Pass(message) | LaneTask::Tell(message)) = task else { return };
                let LanePublication { deadline, reply, _place, .. } = one;
                let subject = self.names.passing(channel);
                self.pass(UnkeptPublication { subject, message, deadline, reply, is_publication, _place });
                self.sent_up_to(self.lanes.enqueued.load(Ordering::SeqCst)).await;
            }
            // These are never done alone.
            LaneTask::Append(..) | LaneTask::Change(_) => {}
        }
    }

    fn answer(&self, one: LanePublication, answer: LaneResult) -> LaneStep {
        match &answer {
            Ok(ChangedKey { suppressed: None, .. }) => self.metrics.published.increment(),
            Ok(ChangedKey { suppressed: Some(Suppressed::Idempotency | Suppressed::Version), .. }) => {
                self.metrics.duplicates.increment();
            }
            Ok(_) | Err(_) => {}
        }
        // The caller may have given up.
        let _ = one.reply.send(answer);
        LaneStep::Done
    }
}

/// Returns the result of a publication as that of a change.
pub(super) fn changed(published: Published) -> ChangedKey {
    let suppressed = published.duplicate.then_some(Suppressed::Idempotency);
    ChangedKey { position: published.position, suppressed }
}

enum LaneStep {
    Append(AppendRequest, LanePublication),
    Change(MapRequest, LanePublication),
    Alone(LanePublication),
    Done,
}
