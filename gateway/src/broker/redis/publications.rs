//! Publications on their way to Redis: whatever waits leaves as one pipeline, and the next does not wait for its
//! answers. So a publisher with many in flight pays for a round trip once, and they arrive in the order they were
//! pushed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use redis::{Pipeline, Value};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::link::{Link, explain, is_no_script};
use super::publish::Outgoing;
use crate::broker::BrokerError;
use crate::broker::measure::{BrokerMetrics, Operation};

/// Publications of one pipeline.
const PIPELINE_MAX: usize = 512;
/// Bytes of one pipeline, unless a single publication has more.
const PIPELINE_BYTES_MAX: usize = 1 << 20;
/// Pipelines whose answers are awaited at once: enough that Redis always has something to do.
const PIPELINES_MAX: usize = 4;
/// Kibibytes of publications that are not answered yet, each counted as one more than it has. Who has another waits
/// for its place, under its deadline.
const PLACES: usize = 65_536;

#[derive(Debug)]
pub(super) struct Publications {
    queue: Arc<Queue>,
    places: Arc<Semaphore>,
    timeout: Duration,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    list: VecDeque<One>,
}

#[derive(Debug)]
struct One {
    outgoing: Outgoing,
    begun: Instant,
    reply: oneshot::Sender<Result<Value, BrokerError>>,
    _place: OwnedSemaphorePermit,
}

impl Publications {
    pub(super) fn start(link: Arc<Link>, timeout: Duration, metrics: Arc<BrokerMetrics>) -> Self {
        let queue = Arc::new(Queue::default());
        let task = Sender { queue: queue.clone(), link, timeout, metrics };
        let places = Arc::new(Semaphore::new(PLACES));
        Self { queue, places, timeout, _task: AbortOnDropHandle::new(tokio::spawn(task.run())) }
    }

    /// Is in its place when this returns, as long as there is one. Without one it waits from the first poll on, behind
    /// all that wait already.
    pub(super) fn push(
        &self,
        outgoing: Outgoing,
    ) -> impl Future<Output = Result<Value, BrokerError>> + Send + use<> {
        let begun = Instant::now();
        let places = 1 + u32::try_from(outgoing.bytes() / 1024).unwrap_or(u32::MAX).min(PLACES as u32 - 1);
        match self.places.clone().try_acquire_many_owned(places) {
            Ok(place) => wait(self.queue.push(outgoing, begun, place)).left_future(),
            Err(_) => {
                let (queue, timeout) = (self.queue.clone(), self.timeout);
                let place = self.places.clone().acquire_many_owned(places);
                let push = async move {
                    match tokio::time::timeout(timeout, place).await {
                        Ok(Ok(place)) => wait(queue.push(outgoing, begun, place)).await,
                        _ => Err(BrokerError::Timeout(timeout)),
                    }
                };
                push.right_future()
            }
        }
    }
}

type Answer = oneshot::Receiver<Result<Value, BrokerError>>;

async fn wait(answer: Answer) -> Result<Value, BrokerError> {
    answer.await.unwrap_or_else(|_| Err(BrokerError::Unreachable("the link is closed".into())))
}

impl Queue {
    fn push(&self, outgoing: Outgoing, begun: Instant, place: OwnedSemaphorePermit) -> Answer {
        let (reply, answer) = oneshot::channel();
        let was_empty = {
            let mut waiting = self.waiting.lock();
            waiting.list.push_back(One { outgoing, begun, reply, _place: place });
            waiting.list.len() == 1
        };
        // Whoever found others there need not wake anyone: they have.
        if was_empty {
            self.added.notify_one();
        }
        answer
    }

    /// Some of what waits, in its order; returns when there is something.
    async fn take(&self) -> Vec<One> {
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

impl Waiting {
    fn take(&mut self) -> Vec<One> {
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

struct Sender {
    queue: Arc<Queue>,
    link: Arc<Link>,
    timeout: Duration,
    metrics: Arc<BrokerMetrics>,
}

impl Sender {
    async fn run(self) {
        let mut under_way = FuturesOrdered::new();
        // What a Redis without the script refused. It goes before anything new, so that the order holds.
        let mut again: Vec<One> = Vec::new();
        loop {
            if under_way.is_empty() && !again.is_empty() {
                under_way.push_back(self.send(std::mem::take(&mut again), true));
            }
            let room = under_way.len() < PIPELINES_MAX && again.is_empty();
            tokio::select! {
                biased;
                Some(refused) = under_way.next(), if !under_way.is_empty() => again.extend(refused),
                batch = self.queue.take(), if room => under_way.push_back(self.send(batch, false)),
            }
        }
    }

    /// Sends a pipeline and hands its answers out. Gives back what was refused for want of the script.
    async fn send(&self, batch: Vec<One>, by_text: bool) -> Vec<One> {
        let (late, mut batch): (Vec<One>, Vec<One>) =
            batch.into_iter().partition(|one| one.begun.elapsed() >= self.timeout);
        self.fail(late, &BrokerError::Timeout(self.timeout));
        batch.retain(|one| !one.reply.is_closed());
        let Some(oldest) = batch.first().map(|one| one.begun) else { return Vec::new() };
        let deadline = oldest + self.timeout;
        let sent = Instant::now();
        let answers = tokio::time::timeout_at(deadline.into(), async {
            let (mut connection, up) = self.link.connection().await?;
            let mut pipeline = Pipeline::with_capacity(batch.len());
            for one in &batch {
                let outgoing = &one.outgoing;
                pipeline.add_command(if by_text {
                    outgoing.command_by_text(&up)
                } else {
                    outgoing.command(&up)
                });
            }
            connection.send_packed_commands(&pipeline, 0, pipeline.len()).await.map_err(explain)
        });
        match answers.await.unwrap_or(Err(BrokerError::Timeout(self.timeout))) {
            Ok(answers) => {
                self.metrics.observe_round_trip(Operation::Publish, sent.elapsed());
                self.answer(batch, answers, by_text)
            }
            Err(error) => {
                self.fail(batch, &error);
                Vec::new()
            }
        }
    }

    fn answer(&self, batch: Vec<One>, answers: Vec<Value>, by_text: bool) -> Vec<One> {
        let mut refused = Vec::new();
        let mut answers = answers.into_iter();
        for one in batch {
            let answer = match answers.next() {
                Some(Value::ServerError(error)) => {
                    let error = redis::RedisError::from(error);
                    if is_no_script(&error) && !by_text {
                        refused.push(one);
                        continue;
                    }
                    Err(explain(error))
                }
                Some(answer) => Ok(answer),
                None => Err(BrokerError::Unexpected("an answer is missing".into())),
            };
            if answer.is_err() {
                self.metrics.errors.increment();
            }
            // Whoever asked may have given up.
            let _ = one.reply.send(answer);
        }
        refused
    }

    fn fail(&self, batch: Vec<One>, error: &BrokerError) {
        for one in batch {
            match error {
                BrokerError::Timeout(_) => self.metrics.timeouts.increment(),
                _ => self.metrics.errors.increment(),
            }
            // Whoever asked may have given up.
            let _ = one.reply.send(Err(error.clone()));
        }
    }
}
