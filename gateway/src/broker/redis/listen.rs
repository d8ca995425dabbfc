//! The connection for subscriptions: what arrives on it goes out at once, and when it is lost everything is
//! subscribed again before anyone is told that it is back.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisResult, Value};
use shared::channel::Channel;
use shared::record::decode_message;
use tokio::sync::{Notify, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::config::Config;
use super::dial::{Dialed, Dialer};
use super::keys::Keys;
use super::link::{Pauses, explain, hold, unreachable};
use crate::broker::measure::{BrokerMetrics, Operation};
use crate::broker::{BrokerError, BrokerEvents};

/// Channels in one SUBSCRIBE.
const SUBSCRIBE_BATCH: usize = 1_000;

/// Batches under way at once when everything is subscribed again.
const RESUBSCRIBE_BATCHES: usize = 8;

/// Channels that may wait to be subscribed; more are refused. Unsubscribing is never refused: what can be
/// unsubscribed has been subscribed, which bounds it.
const SUBSCRIBE_WAITING_MAX: usize = 200_000;

#[derive(Debug)]
pub(super) struct Listener {
    requests: Arc<Requests>,
    timeout: Duration,
    metrics: Arc<BrokerMetrics>,
    _task: AbortOnDropHandle<()>,
}

/// Where pushes go. Runs on the connection's task, which reads nothing else meanwhile: must not wait.
pub(super) struct Router {
    pub(super) keys: Keys,
    pub(super) control: String,
    pub(super) canary: String,
    pub(super) canaries: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    pub(super) events: Arc<dyn BrokerEvents>,
    pub(super) metrics: Arc<BrokerMetrics>,
    pub(super) heard: AtomicU64,
}

#[derive(Debug, Default)]
struct Requests {
    queue: Mutex<Queue>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<Request>,
    /// Channels in the queue that wait to be subscribed.
    subscribing: usize,
}

#[derive(Debug)]
struct Request {
    kind: Kind,
    channels: Vec<Channel>,
    reply: oneshot::Sender<Result<(), BrokerError>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Subscribe,
    Unsubscribe,
}

impl Listener {
    pub(super) fn start(config: &Config, dialer: Dialer, router: Arc<Router>) -> Self {
        let requests = Arc::new(Requests::default());
        let metrics = router.metrics.clone();
        let task = Task {
            dialer: Arc::new(dialer),
            ping: config.ping(),
            router,
            requests: requests.clone(),
            wanted: HashSet::new(),
            pauses: Pauses::new(config.reconnect_max()),
        };
        Self {
            requests,
            timeout: config.timeout(),
            metrics,
            _task: AbortOnDropHandle::new(tokio::spawn(task.run())),
        }
    }

    /// Takes effect in the order of the calls, also for callers who do not wait.
    pub(super) fn subscribe(
        &self,
        channels: Vec<Channel>,
    ) -> impl Future<Output = Result<(), BrokerError>> + use<> {
        self.request(Kind::Subscribe, channels)
    }

    pub(super) fn unsubscribe(
        &self,
        channels: Vec<Channel>,
    ) -> impl Future<Output = Result<(), BrokerError>> + use<> {
        self.request(Kind::Unsubscribe, channels)
    }

    fn request(
        &self,
        kind: Kind,
        channels: Vec<Channel>,
    ) -> impl Future<Output = Result<(), BrokerError>> + use<> {
        let (reply, answer) = oneshot::channel();
        let accepted = self.requests.push(Request { kind, channels, reply });
        let (timeout, metrics) = (self.timeout, self.metrics.clone());
        async move {
            let start = Instant::now();
            let result = if accepted {
                match tokio::time::timeout(timeout, answer).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err(BrokerError::Unreachable("the link is closed".into())),
                    Err(_) => Err(BrokerError::Timeout(timeout)),
                }
            } else {
                Err(BrokerError::Unreachable("too many channels wait to be subscribed".into()))
            };
            let operation = match kind {
                Kind::Subscribe => Operation::Subscribe,
                Kind::Unsubscribe => Operation::Unsubscribe,
            };
            match &result {
                Ok(()) => metrics.observe_round_trip(operation, start.elapsed()),
                Err(BrokerError::Timeout(_)) => metrics.timeouts.increment(),
                Err(_) => metrics.errors.increment(),
            }
            result
        }
    }
}

impl Requests {
    /// Puts a request before all others.
    fn push_first(&self, request: Request) {
        self.queue.lock().requests.push_front(request);
        self.added.notify_one();
    }

    fn push(&self, request: Request) -> bool {
        let mut queue = self.queue.lock();
        if request.kind == Kind::Subscribe {
            if queue.subscribing + request.channels.len() > SUBSCRIBE_WAITING_MAX {
                return false;
            }
            queue.subscribing += request.channels.len();
        }
        queue.requests.push_back(request);
        drop(queue);
        self.added.notify_one();
        true
    }

    /// Everything that waits; returns when there is something.
    async fn take(&self) -> VecDeque<Request> {
        loop {
            let added = self.added.notified();
            {
                let mut queue = self.queue.lock();
                if !queue.requests.is_empty() {
                    queue.subscribing = 0;
                    return std::mem::take(&mut queue.requests);
                }
            }
            added.await;
        }
    }
}

impl Router {
    fn route(&self, push: PushInfo) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        if push.kind != PushKind::Message {
            return;
        }
        let mut data = push.data.into_iter();
        let (Some(Value::BulkString(name)), Some(Value::BulkString(message))) = (data.next(), data.next())
        else {
            self.metrics.undecodable.increment();
            return;
        };
        if let Some(channel) = self.keys.channel_of(&name) {
            self.metrics.received_bytes.add(message.len() as u64);
            match decode_message(Bytes::from(message)) {
                Ok(publication) => {
                    self.metrics.received.increment();
                    self.events.publication(channel, publication);
                }
                Err(error) => {
                    self.metrics.undecodable.increment();
                    tracing::warn!(channel, %error, "a publication from Redis cannot be read");
                }
            }
        } else if name == self.control.as_bytes() {
            self.events.control(Bytes::from(message));
        } else if name == self.canary.as_bytes() {
            let number = std::str::from_utf8(&message).ok().and_then(|text| text.parse().ok());
            if let Some(waiting) = number.and_then(|number: u64| self.canaries.lock().remove(&number)) {
                // Whoever waited may have given up this very moment.
                let _ = waiting.send(());
            }
        }
    }

    /// The names this node always listens to.
    fn own_names(&self) -> [String; 2] {
        [self.control.clone(), self.canary.clone()]
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("canary", &self.canary).finish_non_exhaustive()
    }
}

struct Task {
    dialer: Arc<Dialer>,
    ping: Duration,
    router: Arc<Router>,
    requests: Arc<Requests>,
    /// What must be delivered: kept here, so that it can be asked for again.
    wanted: HashSet<Channel>,
    pauses: Pauses,
}

impl Task {
    async fn run(mut self) {
        let mut was_up = false;
        let mut last_reason = None;
        loop {
            let reason: Arc<str> = match self.open(last_reason.as_ref()).await {
                Ok(mut dialed) => {
                    let opened = Instant::now();
                    let reason = match self.subscribe_all(&dialed.connection).await {
                        Ok(()) => {
                            self.announce_up(was_up);
                            was_up = true;
                            let reason = self.serve(&mut dialed).await;
                            self.router.metrics.subscriber_link_up.set(0);
                            reason
                        }
                        Err(error) => error.to_string().into(),
                    };
                    // Nothing of the old connection may arrive beside the new one's.
                    dialed.close().await;
                    self.pauses.held(opened.elapsed());
                    reason
                }
                Err(reason) => reason,
            };
            let pause = self.pauses.next();
            tracing::warn!(%reason, pause_ms = pause.as_millis() as u64, "no connection to Redis for subscriptions");
            let requests = self.requests.clone();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.refuse_all(&requests, &reason) => {}
            }
            last_reason = Some(reason);
        }
    }

    async fn open(&mut self, last_reason: Option<&Arc<str>>) -> Result<Dialed, Arc<str>> {
        let router = self.router.clone();
        let pushes = Arc::new(move |push: PushInfo| {
            router.route(push);
            Ok::<(), ()>(())
        });
        let dialer = self.dialer.clone();
        let dial = async { dialer.dial(Some(pushes)).await.map_err(|error| unreachable(&error)) };
        let requests = self.requests.clone();
        match last_reason {
            // Requests made before the first connection wait for it, or for their deadline.
            None => dial.await,
            Some(reason) => tokio::select! {
                dialed = dial => dialed,
                () = self.refuse_all(&requests, reason) => Err(reason.clone()),
            },
        }
    }

    async fn subscribe_all(&self, connection: &MultiplexedConnection) -> Result<(), BrokerError> {
        let timeout = self.dialer.timeout();
        let names = self.wanted.iter().map(|channel| self.router.keys.publications(channel));
        let names: Vec<String> = self.router.own_names().into_iter().chain(names).collect();
        stream::iter(names.chunks(SUBSCRIBE_BATCH).map(<[String]>::to_vec))
            .map(|batch| {
                let mut connection = connection.clone();
                within(timeout, async move { connection.subscribe(batch).await })
            })
            .buffered(RESUBSCRIBE_BATCHES)
            .try_collect()
            .await
    }

    fn announce_up(&self, was_up: bool) {
        let metrics = &self.router.metrics;
        metrics.subscriber_link_up.set(1);
        tracing::info!(channels = self.wanted.len(), "connected to Redis for subscriptions");
        if was_up {
            metrics.subscriber_reconnects.increment();
            self.router.events.resumed();
        }
    }

    /// Subscribes and unsubscribes as asked until the connection is lost. Says why it was.
    async fn serve(&mut self, dialed: &mut Dialed) -> Arc<str> {
        let connection = dialed.connection.clone();
        let (ping, timeout) = (self.ping, self.dialer.timeout());
        let router = self.router.clone();
        let lost = hold(dialed, ping, timeout, || router.heard.load(Ordering::Relaxed));
        tokio::pin!(lost);
        let requests = self.requests.clone();
        loop {
            let batch = tokio::select! {
                reason = &mut lost => return reason,
                batch = requests.take() => batch,
            };
            tokio::select! {
                reason = &mut lost => return reason,
                result = self.perform(&connection, batch) => if let Err(error) = result {
                    return error.to_string().into();
                }
            }
        }
    }

    /// One batch of requests, in as few commands as can be. An error means that the connection is of no more use:
    /// nobody knows what is subscribed on it.
    async fn perform(
        &mut self,
        connection: &MultiplexedConnection,
        batch: VecDeque<Request>,
    ) -> Result<(), BrokerError> {
        let mut subscribe: HashSet<Channel> = HashSet::new();
        let mut unsubscribe: HashSet<Channel> = HashSet::new();
        let mut asked = Asked { wanted: &mut self.wanted, waiting: Vec::new() };
        for request in batch {
            // Who has given up waiting for a subscription was told that there is none.
            if request.kind == Kind::Subscribe && request.reply.is_closed() {
                continue;
            }
            let (to, from) = match request.kind {
                Kind::Subscribe => (&mut subscribe, &mut unsubscribe),
                Kind::Unsubscribe => (&mut unsubscribe, &mut subscribe),
            };
            for channel in &request.channels {
                from.remove(channel);
                to.insert(channel.clone());
            }
            asked.note(request);
        }
        let timeout = self.dialer.timeout();
        for (kind, channels) in [(Kind::Unsubscribe, unsubscribe), (Kind::Subscribe, subscribe)] {
            let channels: Vec<Channel> = channels.into_iter().collect();
            for part in channels.chunks(SUBSCRIBE_BATCH) {
                let names: Vec<String> =
                    part.iter().map(|channel| self.router.keys.publications(channel)).collect();
                let mut connection = connection.clone();
                within(timeout, async move {
                    match kind {
                        Kind::Subscribe => connection.subscribe(names).await,
                        Kind::Unsubscribe => connection.unsubscribe(names).await,
                    }
                })
                .await
                .inspect_err(|error| tracing::warn!(%error, "Redis did not take subscriptions"))?;
            }
        }
        self.router.metrics.subscribed_channels.set(asked.wanted.len() as u64);
        let abandoned = asked.settle();
        if !abandoned.is_empty() {
            // Before anything asked since: the same channel may have been asked for again.
            let (reply, _) = oneshot::channel();
            self.requests.push_first(Request { kind: Kind::Unsubscribe, channels: abandoned, reply });
        }
        Ok(())
    }

    /// While there is no connection: nothing new can be subscribed, anything can be let go.
    async fn refuse_all(&mut self, requests: &Requests, reason: &Arc<str>) {
        loop {
            for request in requests.take().await {
                let result = match request.kind {
                    Kind::Subscribe => Err(BrokerError::Unreachable(reason.clone())),
                    Kind::Unsubscribe => {
                        for channel in &request.channels {
                            self.wanted.remove(channel);
                        }
                        Ok(())
                    }
                };
                // Whoever asked may have given up.
                let _ = request.reply.send(result);
            }
            self.router.metrics.subscribed_channels.set(self.wanted.len() as u64);
        }
    }
}

/// Requests under way. What is wanted changes at once, so that a connection lost meanwhile is replaced by one that
/// has it; what was not confirmed by then is given up again, for its caller is told so.
struct Asked<'a> {
    wanted: &'a mut HashSet<Channel>,
    waiting: Vec<Request>,
}

impl Asked<'_> {
    fn note(&mut self, request: Request) {
        for channel in &request.channels {
            match request.kind {
                Kind::Subscribe => self.wanted.insert(channel.clone()),
                Kind::Unsubscribe => self.wanted.remove(channel),
            };
        }
        self.waiting.push(request);
    }

    /// Everything was confirmed. Gives back what was subscribed for callers that no longer wait.
    fn settle(mut self) -> Vec<Channel> {
        let (mut abandoned, mut taken) = (Vec::new(), HashSet::new());
        for Request { kind, channels, reply } in std::mem::take(&mut self.waiting) {
            let heard = reply.send(Ok(())).is_ok();
            match kind {
                Kind::Subscribe if heard => taken.extend(channels),
                Kind::Subscribe => abandoned.extend(channels),
                Kind::Unsubscribe => {}
            }
        }
        abandoned.retain(|channel| !taken.contains(channel));
        abandoned
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        for Request { kind, channels, reply } in self.waiting.drain(..) {
            let result = match kind {
                Kind::Subscribe => {
                    for channel in &channels {
                        self.wanted.remove(channel);
                    }
                    Err(BrokerError::Unreachable("the connection was lost while subscribing".into()))
                }
                Kind::Unsubscribe => Ok(()),
            };
            // Whoever asked may have given up.
            let _ = reply.send(result);
        }
    }
}

async fn within(timeout: Duration, work: impl Future<Output = RedisResult<()>>) -> Result<(), BrokerError> {
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result.map_err(explain),
        Err(_) => Err(BrokerError::Timeout(timeout)),
    }
}
