//! Subscribing this node to channels: counted over its workers, batched, and let go only after a while.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use gateway_core::history::Retention;
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::moment::Moment;
use tokio::sync::{Notify, oneshot};

use crate::backend::{BackendEvent, EventType, HookKind};
use crate::broker::{BrokerError, Effective};
use crate::node::interest::{ChannelLink, InterestShard, LocalChannel};
use crate::node::{LINGER, Node};

/// The most channels of one subscribe call to the broker.
const BATCH: usize = 1_000;

/// How long a failed batch waits before it is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Channels whose link to the broker should be looked at.
#[derive(Debug, Default)]
pub(crate) struct SubscribeQueue {
    wanted: Mutex<Vec<Channel>>,
    unwanted: Mutex<VecDeque<(Moment, Channel)>>,
    changed: Notify,
}

impl Node {
    /// Notes that a worker has subscribers of a channel: from now on its publications go to that worker. The
    /// answer tells when none published after it can be missed.
    pub(crate) fn acquire(&self, worker: usize, channel: &Channel, retention: Retention) -> Effective {
        let (now, mut is_new) = (self.clock.now(), false);
        let mut shard = self.interest.shard(channel.as_str());
        let local = shard.get_or_insert_with(channel.as_str(), || {
            is_new = true;
            let namespace = self.namespace_of(channel);
            self.metrics.namespaces.of(namespace).channels.inc();
            self.interest.channel(channel.clone(), ChannelLink::Subscribing, retention, namespace, now)
        });
        if local.workers == 0 {
            // Under the lock: a channel's events stand in the order in which they happened.
            self.tell(&BackendEvent::Occupied { channel: channel.as_str() });
            if let Some(webhooks) = &self.webhooks {
                webhooks.occupied(channel.as_str());
            }
        }
        local.workers |= 1 << worker;
        match local.link {
            ChannelLink::Up => Effective::Now,
            ChannelLink::Lingering(_) => {
                local.link = ChannelLink::Up;
                Effective::Now
            }
            _ if !is_new => self.delivered_later(local),
            _ => {
                // The broker has locks of its own, under which it calls for this one.
                drop(shard);
                self.subscribe_new(channel)
            }
        }
    }

    /// For a channel that was noted as [`ChannelLink::Subscribing`] just now, by its first worker.
    fn subscribe_new(&self, channel: &Channel) -> Effective {
        let is_up = self.broker.subscribe_at_once(channel);
        let mut shard = self.interest.shard(channel.as_str());
        // It is there for as long as its worker has not released it, which is this one.
        let Some(local) = shard.get_mut(channel.as_str()) else { return Effective::Now };
        if is_up {
            local.link = ChannelLink::Up;
            self.tell_waiting(local, &Ok(()));
            return Effective::Now;
        }
        local.link = ChannelLink::Queued;
        self.subscribe_queue(channel).want(channel.clone());
        self.delivered_later(local)
    }

    /// A further subscriber on a worker that has some already: waits for what the first one waits for.
    pub(crate) fn delivered(&self, channel: &Channel) -> Effective {
        match self.interest.shard(channel.as_str()).get_mut(channel.as_str()) {
            Some(local) if !matches!(local.link, ChannelLink::Up | ChannelLink::Lingering(_)) => {
                self.delivered_later(local)
            }
            _ => Effective::Now,
        }
    }

    /// Notes that a worker has no subscribers of a channel any more.
    pub(crate) fn release(&self, worker: usize, channel: &Channel) {
        let mut shard = self.interest.shard(channel.as_str());
        let Some(local) = shard.get_mut(channel.as_str()) else { return };
        let was_occupied = local.workers != 0;
        local.workers &= !(1 << worker);
        if was_occupied && local.workers == 0 {
            self.tell(&BackendEvent::Vacated { channel: channel.as_str() });
            if let Some(webhooks) = &self.webhooks {
                webhooks.vacated(channel.as_str());
            }
        }
        if local.workers == 0 && local.link == ChannelLink::Up {
            let until = self.clock.now() + LINGER;
            local.link = ChannelLink::Lingering(until);
            drop(shard);
            self.subscribe_queue(channel).unwant(until, channel.clone());
        }
    }

    /// Nobody here wants it any more, and the broker knows.
    fn forget_channel(&self, shard: &mut InterestShard<'_>, channel: &Channel) {
        if let Some(namespace) = shard.remove(channel.as_str()) {
            self.metrics.namespaces.of(namespace).channels.dec();
        }
    }

    fn subscribe_queue(&self, channel: &Channel) -> &SubscribeQueue {
        self.subscribe_queues.of(self.broker.part_of(channel))
    }

    /// Tells whoever waits for the channel what came of subscribing to it.
    fn tell_waiting(&self, local: &mut LocalChannel, result: &Result<(), BrokerError>) {
        if let Some(aside) = local.aside() {
            for waiting in aside.waiting.drain(..) {
                // A join that has given up does not listen any more.
                let _ = waiting.send(result.clone());
            }
            aside.waiting = Vec::new();
            self.interest.weigh(local);
        }
    }

    /// Waits for what the first subscriber here waits for.
    fn delivered_later(&self, local: &mut LocalChannel) -> Effective {
        let (sender, answer) = oneshot::channel();
        self.interest.aside(local).waiting.push(sender);
        let answered = async {
            answer.await.unwrap_or_else(|_| Err(BrokerError::Unexpected("the node is going away".into())))
        };
        Effective::Later(answered.boxed())
    }

    /// Whether the application is asked this.
    pub(crate) fn asks(&self, kind: HookKind) -> bool {
        self.backend.as_ref().is_some_and(|backend| backend.has(kind))
    }

    /// Whether the application is told of this.
    pub(crate) fn tells(&self, kind: EventType) -> bool {
        self.backend.as_ref().is_some_and(|backend| backend.tells(kind))
    }

    /// Tells the application what has happened, if it wants to know.
    pub(crate) fn tell(&self, event: &BackendEvent<'_>) {
        if let Some(backend) = &self.backend {
            backend.tell(event);
        }
    }
}

impl SubscribeQueue {
    fn want(&self, channel: Channel) {
        self.wanted.lock().push(channel);
        self.changed.notify_one();
    }

    fn unwant(&self, until: Moment, channel: Channel) {
        self.unwanted.lock().push_back((until, channel));
        self.changed.notify_one();
    }

    /// The next channels to subscribe, and those that have lingered long enough.
    fn take(&self, now: Moment) -> (Vec<Channel>, Vec<Channel>) {
        let wanted = {
            let mut wanted = self.wanted.lock();
            // The first come first, or those could wait for ever under a stream of others.
            let count = wanted.len().min(BATCH);
            wanted.drain(..count).collect::<Vec<_>>()
        };
        let mut unwanted = self.unwanted.lock();
        let due = unwanted.iter().take(BATCH).take_while(|(until, _)| *until <= now).count();
        (wanted, unwanted.drain(..due).map(|(_, channel)| channel).collect())
    }

    /// How long nothing will be due, unless something changes.
    fn idle_for(&self, now: Moment) -> Option<Duration> {
        if !self.wanted.lock().is_empty() {
            return Some(Duration::ZERO);
        }
        self.unwanted.lock().front().map(|(until, _)| until.since(now))
    }
}

/// Keeps what a part of the broker delivers to this node equal to what its workers want.
pub(crate) async fn keep_subscribed(node: Arc<Node>, part: usize) {
    let queue = node.subscribe_queues.of(part);
    loop {
        let (wanted, unwanted) = queue.take(node.clock.now());
        if wanted.is_empty() && unwanted.is_empty() {
            match queue.idle_for(node.clock.now()) {
                Some(idle) => {
                    // Woken early by a change; looking again for nothing does no harm.
                    let _ =
                        tokio::time::timeout(idle.max(Duration::from_millis(1)), queue.changed.notified())
                            .await;
                }
                None => queue.changed.notified().await,
            }
            continue;
        }
        if !wanted.is_empty() {
            subscribe(&node, wanted).await;
        }
        if !unwanted.is_empty() {
            unsubscribe(&node, unwanted).await;
        }
    }
}

async fn subscribe(node: &Arc<Node>, mut channels: Vec<Channel>) {
    channels.retain(|channel| {
        let mut shard = node.interest.shard(channel.as_str());
        match shard.get_mut(channel.as_str()) {
            Some(local) if local.link == ChannelLink::Queued && local.workers != 0 => {
                local.link = ChannelLink::Subscribing;
                true
            }
            // Nobody wants it any more, before it was asked for.
            Some(local) if local.link == ChannelLink::Queued => {
                node.tell_waiting(local, &Err(BrokerError::Abandoned));
                node.forget_channel(&mut shard, channel);
                false
            }
            _ => false,
        }
    });
    if channels.is_empty() {
        return;
    }
    // Others wait for what comes of it, whatever that is.
    let result = AssertUnwindSafe(node.broker.subscribe(channels.clone())).catch_unwind().await;
    let result = result.unwrap_or_else(|_| Err(BrokerError::Unexpected("it panicked".into())));
    let now = node.clock.now();
    let mut again = Vec::new();
    for channel in channels {
        let mut shard = node.interest.shard(channel.as_str());
        let Some(local) = shard.get_mut(channel.as_str()) else { continue };
        node.tell_waiting(local, &result);
        match &result {
            Ok(()) if local.workers == 0 => {
                let until = now + LINGER;
                local.link = ChannelLink::Lingering(until);
                node.subscribe_queue(&channel).unwant(until, channel.clone());
            }
            Ok(()) => local.link = ChannelLink::Up,
            Err(_) => {
                local.link = ChannelLink::Queued;
                again.push(channel.clone());
            }
        }
    }
    if let Err(error) = result {
        if let Some(suppressed) = node.unsubscribed_log.admit() {
            tracing::warn!(%error, channels = again.len(), suppressed, "channels could not be subscribed");
        }
        // Their subscribers were told to try again; what is still wanted then is tried here too, and what is asked
        // for meanwhile does not wait for it.
        let node_later = node.clone();
        node.runtime.spawn(async move {
            tokio::time::sleep(RETRY).await;
            for channel in again {
                node_later.subscribe_queue(&channel).want(channel);
            }
        });
    }
}

async fn unsubscribe(node: &Arc<Node>, mut channels: Vec<Channel>) {
    let now = node.clock.now();
    channels.retain(|channel| {
        let mut shard = node.interest.shard(channel.as_str());
        match shard.get_mut(channel.as_str()) {
            // Someone who came back and left again has put it in the queue a second time, for later.
            Some(local) if matches!(local.link, ChannelLink::Lingering(until) if until <= now) => {
                local.link = ChannelLink::Unsubscribing;
                true
            }
            _ => false,
        }
    });
    if channels.is_empty() {
        return;
    }
    let result = AssertUnwindSafe(node.broker.unsubscribe(channels.clone())).catch_unwind().await;
    if let Err(error) = result.unwrap_or_else(|_| Err(BrokerError::Unexpected("it panicked".into()))) {
        tracing::warn!(%error, channels = channels.len(), "channels could not be unsubscribed");
    }
    for channel in channels {
        let mut shard = node.interest.shard(channel.as_str());
        match shard.get_mut(channel.as_str()) {
            Some(local) if local.workers != 0 => {
                local.link = ChannelLink::Queued;
                // What was published while nobody listened was not missed by anybody.
                node.interest.begin_anew(local);
                node.subscribe_queue(&channel).want(channel.clone());
            }
            Some(local) => {
                node.tell_waiting(local, &Err(BrokerError::Abandoned));
                node.forget_channel(&mut shard, &channel);
            }
            None => {}
        }
    }
}
