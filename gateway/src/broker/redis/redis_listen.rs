//! The connection for subscriptions. Messages that arrive on it are passed on at once. After a loss, all channels are
//! subscribed again before the link is reported as up.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use shared::channel::Channel;
use tokio::sync::{oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::cluster::{Moves, Redirect};
use super::pending_requests::PendingRequests;
use super::redis_config::RedisConfig;
use super::redis_dial::{PushConnection, RedisDialer};
use super::redis_link::unreachable;
use super::requests::{Requests, SubscriptionRequest, SubscriptionRequestKind};
use super::route_pushes::PushRouter;
use super::server::Server;
use super::subscriptions::Subscriptions;
use super::supervise::{ConnectionState, GiveUpSignal, ReconnectBackoff, settled, supervise};
use crate::broker::BrokerError;
use crate::broker::measure::{BrokerMetrics, Operation};
use crate::telemetry::Reminder;

/// Channels in one SUBSCRIBE.
const SUBSCRIBE_BATCH: usize = 1_000;

/// The name of this link in logs.
const LINK: &str = "subscriptions";

/// Batches in flight at once while all channels are subscribed again.
const RESUBSCRIBE_BATCHES: usize = 8;

#[derive(Debug)]
pub(super) struct RedisListener {
    requests: Arc<Requests>,
    state: watch::Receiver<ConnectionState<ListeningConnection>>,
    give_up: Arc<GiveUpSignal>,
    wanted: WantedChannels,
    is_sharded: bool,
    timeout: Duration,
    metrics: Arc<BrokerMetrics>,
    _task: AbortOnDropHandle<()>,
}

/// The channels that must be delivered. They are kept so that they can be subscribed again.
pub(super) type WantedChannels = Arc<Mutex<HashSet<Channel>>>;

/// Takes the channels whose slot moves to another server.
#[derive(Debug)]
pub(super) struct MigratingChannels {
    pub(super) wanted: WantedChannels,
    pub(super) moves: Arc<Moves>,
}

impl MigratingChannels {
    /// Reports that a channel is not subscribed any more. If it is still wanted, this node did not ask for that.
    pub(super) fn left(&self, channel: &str) {
        let channel = self.wanted.lock().take(channel);
        if let Some(channel) = channel {
            self.moves.add([channel]);
        }
    }
}

/// A connection on which all wanted channels are subscribed.
#[derive(Clone, Debug)]
pub(super) struct ListeningConnection {
    pub(super) connection: Subscriptions,
    /// The server at the other end.
    pub(super) server: Arc<Server>,
    /// The number of the connection, counted from 1.
    pub(super) number: u64,
}

impl RedisListener {
    pub(super) fn start(
        config: &RedisConfig,
        dialer: RedisDialer,
        router: Arc<PushRouter>,
        wanted: WantedChannels,
    ) -> Self {
        let requests = Arc::new(Requests::default());
        let (metrics, is_sharded) = (router.metrics.clone(), router.is_sharded());
        let (sender, state) = watch::channel(ConnectionState::Opening);
        let give_up = Arc::new(GiveUpSignal::default());
        let task = ListenTask {
            state: sender,
            give_up: give_up.clone(),
            number: 0,
            dialer: Arc::new(dialer),
            ping: config.ping(),
            router,
            requests: requests.clone(),
            wanted: wanted.clone(),
            pauses: ReconnectBackoff::new(config.reconnect_max()),
        };
        Self {
            requests,
            state,
            give_up,
            wanted,
            is_sharded,
            timeout: config.timeout(),
            metrics,
            _task: AbortOnDropHandle::new(tokio::spawn(task.run())),
        }
    }

    /// Returns the present connection. Waits only for the outcome of the very first attempt.
    pub(super) async fn listening(&self) -> Result<ListeningConnection, BrokerError> {
        settled(&self.state).await
    }

    /// Gives up the connection of this number, which is open but of no use.
    pub(super) fn give_up(&self, number: u64, reason: &str) {
        self.give_up.connection(number, reason);
    }

    /// Returns those of these channels that are to be delivered.
    pub(super) fn wants(&self, channels: &[Channel]) -> Vec<Channel> {
        let wanted = self.wanted.lock();
        channels.iter().filter(|channel| wanted.contains(*channel)).cloned().collect()
    }

    /// Unsubscribes from channels that are at another server by now. Returns these channels.
    pub(super) fn unsubscribe_moved(&self, is_elsewhere: impl Fn(&Channel) -> bool) -> Vec<Channel> {
        let gone: Vec<Channel> = self.wanted.lock().extract_if(|channel| is_elsewhere(channel)).collect();
        if !gone.is_empty() {
            // A request is carried out in its turn even if nobody waits for the answer.
            drop(self.unsubscribe(gone.clone()));
        }
        gone
    }

    /// Subscribes to channels. Requests take effect in the order of the calls, even if the caller does not wait. With
    /// sharded pub/sub, all channels of a call must be in one slot.
    pub(super) fn subscribe(
        &self,
        channels: Vec<Channel>,
    ) -> impl Future<Output = Result<(), BrokerError>> + use<> {
        self.request(SubscriptionRequestKind::Subscribe, channels)
    }

    pub(super) fn unsubscribe(
        &self,
        channels: Vec<Channel>,
    ) -> impl Future<Output = Result<(), BrokerError>> + use<> {
        self.request(SubscriptionRequestKind::Unsubscribe, channels)
    }

    fn request(
        &self,
        kind: SubscriptionRequestKind,
        channels: Vec<Channel>,
    ) -> impl Future<Output = Result<(), BrokerError>> + use<> {
        let (reply, answer) = oneshot::channel();
        let accepted = self.requests.push(SubscriptionRequest { kind, channels, reply });
        let (timeout, metrics, is_sharded) = (self.timeout, self.metrics.clone(), self.is_sharded);
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
                SubscriptionRequestKind::Subscribe => Operation::Subscribe,
                SubscriptionRequestKind::Unsubscribe => Operation::Unsubscribe,
            };
            match &result {
                Ok(()) => metrics.observe_round_trip(operation, start.elapsed()),
                // The caller asks another master then.
                Err(error) if is_sharded && Redirect::read(error).is_some() => {}
                Err(error) => metrics.failed(error),
            }
            result
        }
    }
}

struct ListenTask {
    state: watch::Sender<ConnectionState<ListeningConnection>>,
    give_up: Arc<GiveUpSignal>,
    /// The number of connections opened so far.
    number: u64,
    dialer: Arc<RedisDialer>,
    ping: Duration,
    router: Arc<PushRouter>,
    requests: Arc<Requests>,
    wanted: WantedChannels,
    pauses: ReconnectBackoff,
}

impl ListenTask {
    async fn run(mut self) {
        let mut was_up = false;
        let mut last_reason = None;
        let mut reminder = Reminder::new();
        loop {
            let reason: Arc<str> = match self.open(last_reason.as_ref()).await {
                Ok(mut dialed) => {
                    let opened = Instant::now();
                    let reason = match self.subscribe_all(&dialed).await {
                        Ok(()) => {
                            self.number += 1;
                            let down_ms = reminder.over(Instant::now()).map(|down| down.as_millis() as u64);
                            let (number, channels, redis) =
                                (self.number, self.wanted.lock().len(), &dialed.at);
                            tracing::info!(number, down_ms, channels, link = LINK, %redis, "connected to Redis");
                            self.announce_up(&dialed, was_up);
                            was_up = true;
                            let reason = self.serve(&mut dialed).await;
                            self.router.metrics.subscriber_link.up.set(0);
                            reason
                        }
                        Err(error) => error.to_string().into(),
                    };
                    // Nothing of the old connection may arrive beside the pushes of the new one.
                    dialed.driver.abort();
                    // A driver that has ended may have been awaited already, and must not be polled again.
                    if !dialed.driver.is_finished() {
                        let _ = dialed.driver.await;
                    }
                    self.pauses.note_lifetime(opened.elapsed());
                    reason
                }
                Err(reason) => reason,
            };
            self.state.send_replace(ConnectionState::Down(reason.clone()));
            if reminder.is_due(&reason, Instant::now()) {
                tracing::warn!(redis = self.dialer.place(), %reason, link = LINK, "no connection to Redis");
            }
            let (dialer, mut pauses) = (self.dialer.clone(), self.pauses.clone());
            let requests = self.requests.clone();
            tokio::select! {
                () = dialer.rest(&mut pauses) => {}
                () = self.refuse_all(&requests, &reason) => {}
            }
            self.pauses = pauses;
            last_reason = Some(reason);
        }
    }

    async fn open(&mut self, last_reason: Option<&Arc<str>>) -> Result<PushConnection, Arc<str>> {
        let (dialer, router) = (self.dialer.clone(), self.router.clone());
        let dial = async { dialer.dial_subscriptions(router).await.map_err(|error| unreachable(&error)) };
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

    /// Subscribes to all wanted channels. Fails if the server is to be left meanwhile.
    async fn subscribe_all(&self, dialed: &PushConnection) -> Result<(), BrokerError> {
        tokio::select! {
            subscribed = self.subscribe_wanted(&dialed.connection) => subscribed,
            reason = self.dialer.moved(&dialed.at) => Err(BrokerError::Unreachable(reason)),
        }
    }

    async fn subscribe_wanted(&self, connection: &Subscriptions) -> Result<(), BrokerError> {
        let timeout = self.dialer.timeout();
        let mut names = self.router.own_names();
        if self.router.is_sharded() {
            let wanted: Vec<Channel> = self.wanted.lock().iter().cloned().collect();
            self.subscribe_by_slot(connection, wanted, |channels, _| {
                // These channels are elsewhere by now: the connection was lost while they moved.
                if let Some(leaving) = &self.router.leaving {
                    channels.iter().for_each(|channel| leaving.left(channel.as_str()));
                }
            })
            .await?;
        } else {
            let wanted = self.wanted.lock();
            names.extend(wanted.iter().map(|channel| self.router.keys.publications(channel)));
        }
        stream::iter(names.chunks(SUBSCRIBE_BATCH).map(<[String]>::to_vec))
            .map(|batch| {
                let connection = connection.clone();
                within(timeout, async move { connection.subscribe(batch).await })
            })
            .buffered(RESUBSCRIBE_BATCHES)
            .try_collect()
            .await
    }

    /// Subscribes with SSUBSCRIBE, and reports the channels that are at another shard. Any other refusal is an error.
    async fn subscribe_by_slot(
        &self,
        connection: &Subscriptions,
        channels: Vec<Channel>,
        mut redirected: impl FnMut(&[Channel], &BrokerError),
    ) -> Result<(), BrokerError> {
        let timeout = self.dialer.timeout();
        for groups in self.by_slot(channels) {
            let names: Vec<Vec<String>> = groups.iter().map(|group| self.names_of(group)).collect();
            let confirmed = tokio::time::timeout(timeout, connection.subscribe_sharded(&names)).await;
            for (group, result) in groups.iter().zip(confirmed.map_err(|_| BrokerError::unanswered(timeout))?)
            {
                match result {
                    Err(error) if Redirect::read(&error).is_some() => redirected(group, &error),
                    result => result?,
                }
            }
        }
        Ok(())
    }

    async fn unsubscribe_by_slot(
        &self,
        connection: &Subscriptions,
        channels: Vec<Channel>,
    ) -> Result<(), BrokerError> {
        for groups in self.by_slot(channels) {
            let names: Vec<Vec<String>> = groups.iter().map(|group| self.names_of(group)).collect();
            within(self.dialer.timeout(), connection.unsubscribe_sharded(&names)).await?;
        }
        Ok(())
    }

    fn names_of(&self, channels: &[Channel]) -> Vec<String> {
        channels.iter().map(|channel| self.router.keys.publications(channel)).collect()
    }

    /// Groups channels by slot, and puts as many groups into a batch as one request may have channels.
    fn by_slot(&self, channels: Vec<Channel>) -> Vec<Vec<Vec<Channel>>> {
        let mut by_slot: BTreeMap<u16, Vec<Channel>> = BTreeMap::new();
        for channel in channels {
            by_slot.entry(self.router.keys.slot(&channel)).or_default().push(channel);
        }
        let (mut batches, mut count) = (vec![Vec::new()], 0);
        for group in by_slot.into_values() {
            for part in group.chunks(SUBSCRIBE_BATCH) {
                if count + part.len() > SUBSCRIBE_BATCH && count > 0 {
                    batches.push(Vec::new());
                    count = 0;
                }
                count += part.len();
                if let Some(batch) = batches.last_mut() {
                    batch.push(part.to_vec());
                }
            }
        }
        batches.retain(|batch| !batch.is_empty());
        batches
    }

    fn announce_up(&self, dialed: &PushConnection, was_up: bool) {
        let metrics = &self.router.metrics;
        metrics.subscriber_link.up.set(1);
        show(&self.state, self.number, &dialed.connection, &dialed.server);
        if was_up {
            metrics.subscriber_link.reconnects.increment();
            self.router.events.resumed(0);
        }
    }

    /// Subscribes and unsubscribes as requested until the connection is lost. Returns the reason of the loss.
    async fn serve(&mut self, dialed: &mut PushConnection) -> Arc<str> {
        let PushConnection { connection, driver, server, at } = dialed;
        let connection = &*connection;
        let (ping, timeout) = (self.ping, self.dialer.timeout());
        let router = self.router.clone();
        let received = || router.received.load(Ordering::Relaxed);
        let (give_up, number, dialer) = (self.give_up.clone(), self.number, self.dialer.clone());
        let ended = async {
            tokio::select! {
                ended = driver => {
                    ended.unwrap_or_else(|error| format!("reading from Redis failed: {error}").into())
                }
                reason = give_up.wait(number) => reason,
                reason = dialer.moved(at) => reason,
            }
        };
        let state = self.state.clone();
        let changed = |server: &Server| {
            tracing::warn!(link = LINK, "the server behind a Redis connection has changed");
            show(&state, number, connection, server);
            router.events.resumed(0);
        };
        let lost =
            supervise(ended, ping, timeout, received, || connection.identify(), server.clone(), changed);
        tokio::pin!(lost);
        let requests = self.requests.clone();
        loop {
            let batch = tokio::select! {
                reason = &mut lost => return reason,
                batch = requests.take() => batch,
            };
            tokio::select! {
                reason = &mut lost => return reason,
                result = self.perform(connection, batch) => if let Err(error) = result {
                    return error.to_string().into();
                }
            }
        }
    }

    /// Carries out a batch of requests in as few commands as possible. After an error the connection is of no more use:
    /// it is unknown which channels are subscribed on it.
    async fn perform(
        &mut self,
        connection: &Subscriptions,
        batch: VecDeque<SubscriptionRequest>,
    ) -> Result<(), BrokerError> {
        let mut subscribe: HashSet<Channel> = HashSet::new();
        let mut unsubscribe: HashSet<Channel> = HashSet::new();
        let wanted = self.wanted.clone();
        let mut pending = PendingRequests::new(&wanted);
        for request in batch {
            // A caller that has given up waiting for a subscription was told that there is none.
            if request.kind == SubscriptionRequestKind::Subscribe && request.reply.is_closed() {
                continue;
            }
            let (to, from) = match request.kind {
                SubscriptionRequestKind::Subscribe => (&mut subscribe, &mut unsubscribe),
                SubscriptionRequestKind::Unsubscribe => (&mut unsubscribe, &mut subscribe),
            };
            for channel in &request.channels {
                from.remove(channel);
                to.insert(channel.clone());
            }
            pending.note(request);
        }
        let timeout = self.dialer.timeout();
        for (kind, channels) in [
            (SubscriptionRequestKind::Unsubscribe, unsubscribe),
            (SubscriptionRequestKind::Subscribe, subscribe),
        ] {
            let channels: Vec<Channel> = channels.into_iter().collect();
            if self.router.is_sharded() {
                let done = match kind {
                    SubscriptionRequestKind::Subscribe => {
                        let refuse =
                            |channels: &[Channel], error: &BrokerError| pending.refuse(channels, error);
                        self.subscribe_by_slot(connection, channels, refuse).await
                    }
                    SubscriptionRequestKind::Unsubscribe => {
                        self.unsubscribe_by_slot(connection, channels).await
                    }
                };
                done.inspect_err(|error| self.router.metrics.failed(error))?;
                continue;
            }
            for part in channels.chunks(SUBSCRIBE_BATCH) {
                let names = self.names_of(part);
                let connection = connection.clone();
                within(timeout, async move {
                    match kind {
                        SubscriptionRequestKind::Subscribe => connection.subscribe(names).await,
                        SubscriptionRequestKind::Unsubscribe => connection.unsubscribe(names).await,
                    }
                })
                .await
                .inspect_err(|error| self.router.metrics.failed(error))?;
            }
        }
        self.router.metrics.subscribed_channels.set(wanted.lock().len() as u64);
        let abandoned = pending.settle();
        if !abandoned.is_empty() {
            // Queued before newer requests, which may subscribe to the same channel again.
            let (reply, _) = oneshot::channel();
            self.requests.push_first(SubscriptionRequest {
                kind: SubscriptionRequestKind::Unsubscribe,
                channels: abandoned,
                reply,
            });
        }
        Ok(())
    }

    /// Answers requests while there is no connection: subscribing fails, unsubscribing succeeds.
    async fn refuse_all(&mut self, requests: &Requests, reason: &Arc<str>) {
        loop {
            for request in requests.take().await {
                let result = match request.kind {
                    SubscriptionRequestKind::Subscribe => Err(BrokerError::Unreachable(reason.clone())),
                    SubscriptionRequestKind::Unsubscribe => {
                        let mut wanted = self.wanted.lock();
                        request.channels.iter().for_each(|channel| {
                            wanted.remove(channel);
                        });
                        Ok(())
                    }
                };
                // The caller may have given up.
                let _ = request.reply.send(result);
            }
            self.router.metrics.subscribed_channels.set(self.wanted.lock().len() as u64);
        }
    }
}

fn show(
    state: &watch::Sender<ConnectionState<ListeningConnection>>,
    number: u64,
    connection: &Subscriptions,
    server: &Server,
) {
    let (connection, server) = (connection.clone(), Arc::new(server.clone()));
    state.send_replace(ConnectionState::Up(ListeningConnection { connection, server, number }));
}

async fn within(
    timeout: Duration,
    work: impl Future<Output = Result<(), BrokerError>>,
) -> Result<(), BrokerError> {
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(BrokerError::unanswered(timeout)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::access::Access;
    use super::*;

    #[tokio::test]
    async fn what_was_subscribed_for_one_who_gave_up_meanwhile_is_given_back_before_anything_asked_since() {
        let (config, router, requests) =
            (RedisConfig::default(), PushRouter::to_nobody(), Arc::new(Requests::default()));
        let access = Arc::new(Access::new(&config, "test", &router.metrics).unwrap());
        let (ours, mut redis) = tokio::io::duplex(1024);
        let (connection, _driver) = Subscriptions::open(Box::new(ours), router.clone());
        let mut task = ListenTask {
            state: watch::channel(ConnectionState::Opening).0,
            give_up: Arc::default(),
            number: 0,
            dialer: Arc::new(RedisDialer::new(&config, &access, "test".to_owned())),
            ping: config.ping(),
            router,
            requests: requests.clone(),
            wanted: WantedChannels::default(),
            pauses: ReconnectBackoff::new(config.reconnect_max()),
        };
        let ask = || {
            let (reply, answer) = oneshot::channel();
            (
                SubscriptionRequest {
                    kind: SubscriptionRequestKind::Subscribe,
                    channels: vec![Channel::parse("a", 255).unwrap()],
                    reply,
                },
                answer,
            )
        };
        let ((request, answer), (since, _waits)) = (ask(), ask());
        assert!(requests.push(since));
        let confirm = async {
            let mut asked = [0; 1024];
            assert!(redis.read(&mut asked).await.unwrap() > 0);
            drop(answer);
            redis.write_all(b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n").await.unwrap();
        };
        let (performed, ()) = tokio::join!(task.perform(&connection, VecDeque::from([request])), confirm);
        performed.unwrap();
        let kinds: Vec<SubscriptionRequestKind> =
            requests.take().await.iter().map(|request| request.kind).collect();
        assert_eq!(kinds, [SubscriptionRequestKind::Unsubscribe, SubscriptionRequestKind::Subscribe]);
    }
}
