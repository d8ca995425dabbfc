//! The connection for subscriptions: what arrives on it goes out at once, and when it is lost everything is
//! subscribed again before anyone is told that it is back.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use shared::channel::Channel;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::config::Config;
use super::dial::Dialer;
use super::link::{Pauses, hold, unreachable};
use super::requests::{Kind, Request, Requests};
use super::route::Router;
use super::server::Server;
use super::subscriptions::{Driver, Subscriptions};
use crate::broker::BrokerError;
use crate::broker::measure::{BrokerMetrics, Operation};

/// Channels in one SUBSCRIBE.
const SUBSCRIBE_BATCH: usize = 1_000;

/// Batches under way at once when everything is subscribed again.
const RESUBSCRIBE_BATCHES: usize = 8;

#[derive(Debug)]
pub(super) struct Listener {
    requests: Arc<Requests>,
    timeout: Duration,
    metrics: Arc<BrokerMetrics>,
    _task: AbortOnDropHandle<()>,
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
                Ok((connection, mut driver, server)) => {
                    let opened = Instant::now();
                    let reason = match self.subscribe_all(&connection).await {
                        Ok(()) => {
                            self.announce_up(was_up);
                            was_up = true;
                            let reason = self.serve(&connection, &mut driver, server).await;
                            self.router.metrics.subscriber_link_up.set(0);
                            reason
                        }
                        Err(error) => error.to_string().into(),
                    };
                    // Nothing of the old connection may arrive beside the new one's.
                    driver.abort();
                    // One that has ended by itself may have been seen to, and must not be asked again.
                    if !driver.is_finished() {
                        let _ = driver.await;
                    }
                    self.pauses.held(opened.elapsed());
                    reason
                }
                Err(reason) => reason,
            };
            let pause = self.pauses.next();
            tracing::warn!(
                redis = %self.dialer.address(), %reason, pause_ms = pause.as_millis() as u64,
                "no connection to Redis for subscriptions"
            );
            let requests = self.requests.clone();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.refuse_all(&requests, &reason) => {}
            }
            last_reason = Some(reason);
        }
    }

    async fn open(
        &mut self,
        last_reason: Option<&Arc<str>>,
    ) -> Result<(Subscriptions, Driver, Server), Arc<str>> {
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

    async fn subscribe_all(&self, connection: &Subscriptions) -> Result<(), BrokerError> {
        let timeout = self.dialer.timeout();
        let names = self.wanted.iter().map(|channel| self.router.keys.publications(channel));
        let names: Vec<String> = self.router.own_names().into_iter().chain(names).collect();
        stream::iter(names.chunks(SUBSCRIBE_BATCH).map(<[String]>::to_vec))
            .map(|batch| {
                let connection = connection.clone();
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
    async fn serve(&mut self, connection: &Subscriptions, driver: &mut Driver, server: Server) -> Arc<str> {
        let (ping, timeout) = (self.ping, self.dialer.timeout());
        let router = self.router.clone();
        let heard = || router.heard.load(Ordering::Relaxed);
        let ended = async {
            driver.await.unwrap_or_else(|error| format!("reading from Redis failed: {error}").into())
        };
        let changed = |_: &Server| {
            tracing::warn!("the Redis behind the connection for subscriptions is not what it was");
            router.events.resumed();
        };
        let lost = hold(ended, ping, timeout, heard, || connection.identify(), server, changed);
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

    /// One batch of requests, in as few commands as can be. An error means that the connection is of no more use:
    /// nobody knows what is subscribed on it.
    async fn perform(
        &mut self,
        connection: &Subscriptions,
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
                let connection = connection.clone();
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

async fn within(
    timeout: Duration,
    work: impl Future<Output = Result<(), BrokerError>>,
) -> Result<(), BrokerError> {
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(BrokerError::Timeout(timeout)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: Kind, name: &str) -> (Request, oneshot::Receiver<Result<(), BrokerError>>) {
        let (reply, answer) = oneshot::channel();
        (Request { kind, channels: vec![Channel::parse(name, 255).unwrap()], reply }, answer)
    }

    #[test]
    fn what_was_confirmed_for_nobody_is_given_back_unless_someone_else_has_it() {
        let mut wanted = HashSet::new();
        let mut asked = Asked { wanted: &mut wanted, waiting: Vec::new() };
        let (gone, answer) = request(Kind::Subscribe, "a");
        drop(answer);
        let (also_gone, answer) = request(Kind::Subscribe, "b");
        drop(answer);
        let (there, mut answer) = request(Kind::Subscribe, "b");
        for request in [gone, also_gone, there] {
            asked.note(request);
        }
        assert_eq!(asked.settle(), [Channel::parse("a", 255).unwrap()]);
        assert!(matches!(answer.try_recv(), Ok(Ok(()))));
        assert_eq!(wanted.len(), 2);
    }

    #[test]
    fn what_was_not_confirmed_is_not_wanted_and_its_caller_is_told() {
        let mut wanted = HashSet::from([Channel::parse("old", 255).unwrap()]);
        let mut asked = Asked { wanted: &mut wanted, waiting: Vec::new() };
        let (subscribe, mut subscribed) = request(Kind::Subscribe, "a");
        let (unsubscribe, mut unsubscribed) = request(Kind::Unsubscribe, "old");
        asked.note(subscribe);
        asked.note(unsubscribe);
        drop(asked);
        assert!(matches!(subscribed.try_recv(), Ok(Err(BrokerError::Unreachable(_)))));
        assert!(matches!(unsubscribed.try_recv(), Ok(Ok(()))));
        assert!(wanted.is_empty());
    }
}
