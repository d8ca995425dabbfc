//! Subscribes this node to channels: counted over its workers, batched, and unsubscribed only after a while.

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

/// The pause before a failed batch is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Channels whose link to the broker has to change.
#[derive(Debug, Default)]
pub(crate) struct SubscribeQueue {
    wanted: Mutex<Vec<Channel>>,
    unwanted: Mutex<VecDeque<(Moment, Channel)>>,
    changed: Notify,
}

impl Node {
    /// Records that a worker has subscribers of a channel: from now on its publications go to that worker. The result
    /// resolves once no later publication can be missed.
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
            // Sent under the lock, so that a channel's events keep their order.
            self.send_event(&BackendEvent::Occupied { channel: channel.as_str() });
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
                // Unlocked first: the broker holds locks of its own while it takes this one.
                drop(shard);
                self.subscribe_new(channel)
            }
        }
    }

    /// Subscribes a channel that its first worker has just recorded as [`ChannelLink::Subscribing`].
    fn subscribe_new(&self, channel: &Channel) -> Effective {
        let is_up = self.broker.subscribe_at_once(channel);
        let mut shard = self.interest.shard(channel.as_str());
        // The channel stays until its worker, which is the calling one, releases it.
        let Some(local) = shard.get_mut(channel.as_str()) else { return Effective::Now };
        if is_up {
            local.link = ChannelLink::Up;
            self.answer_waiting(local, &Ok(()));
            return Effective::Now;
        }
        local.link = ChannelLink::Queued;
        self.subscribe_queue(channel).want(channel.clone());
        self.delivered_later(local)
    }

    /// Returns when the channel is delivered, for a further subscriber on a worker that has some already.
    pub(crate) fn delivered(&self, channel: &Channel) -> Effective {
        match self.interest.shard(channel.as_str()).get_mut(channel.as_str()) {
            Some(local) if !matches!(local.link, ChannelLink::Up | ChannelLink::Lingering(_)) => {
                self.delivered_later(local)
            }
            _ => Effective::Now,
        }
    }

    /// Records that a worker has no subscribers of a channel any more.
    pub(crate) fn release(&self, worker: usize, channel: &Channel) {
        let mut shard = self.interest.shard(channel.as_str());
        let Some(local) = shard.get_mut(channel.as_str()) else { return };
        let was_occupied = local.workers != 0;
        local.workers &= !(1 << worker);
        if was_occupied && local.workers == 0 {
            self.send_event(&BackendEvent::Vacated { channel: channel.as_str() });
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

    /// Removes a channel without subscribers here, once the broker knows.
    fn forget_channel(&self, shard: &mut InterestShard<'_>, channel: &Channel) {
        if let Some(namespace) = shard.remove(channel.as_str()) {
            self.metrics.namespaces.of(namespace).channels.dec();
        }
    }

    fn subscribe_queue(&self, channel: &Channel) -> &SubscribeQueue {
        self.subscribe_queues.of(self.broker.part_of(channel))
    }

    /// Tells the joins that wait for the channel the result of subscribing to it.
    fn answer_waiting(&self, local: &mut LocalChannel, result: &Result<(), BrokerError>) {
        if let Some(aside) = local.aside() {
            for waiting in aside.waiting.drain(..) {
                // A join that has given up no longer listens.
                let _ = waiting.send(result.clone());
            }
            aside.waiting = Vec::new();
            self.interest.weigh(local);
        }
    }

    /// Waits for the subscription that the first subscriber here has begun.
    fn delivered_later(&self, local: &mut LocalChannel) -> Effective {
        let (sender, answer) = oneshot::channel();
        self.interest.aside(local).waiting.push(sender);
        let answered = async {
            answer.await.unwrap_or_else(|_| Err(BrokerError::Unexpected("the node is going away".into())))
        };
        Effective::Later(answered.boxed())
    }

    /// Whether the application has this hook.
    pub(crate) fn asks(&self, kind: HookKind) -> bool {
        self.backend.as_ref().is_some_and(|backend| backend.has(kind))
    }

    /// Whether the application receives events of this type.
    pub(crate) fn sends_events_of(&self, kind: EventType) -> bool {
        self.backend.as_ref().is_some_and(|backend| backend.sends_events_of(kind))
    }

    /// Sends an event to the application, if it receives events of this type.
    pub(crate) fn send_event(&self, event: &BackendEvent<'_>) {
        if let Some(backend) = &self.backend {
            backend.send_event(event);
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

    /// Takes the next channels to subscribe, and those that have lingered long enough.
    fn take(&self, now: Moment) -> (Vec<Channel>, Vec<Channel>) {
        let wanted = {
            let mut wanted = self.wanted.lock();
            // The oldest first; otherwise they could starve under a stream of new ones.
            let count = wanted.len().min(BATCH);
            wanted.drain(..count).collect::<Vec<_>>()
        };
        let mut unwanted = self.unwanted.lock();
        let due = unwanted.iter().take(BATCH).take_while(|(until, _)| *until <= now).count();
        (wanted, unwanted.drain(..due).map(|(_, channel)| channel).collect())
    }

    /// Returns how long until something is due. `None` if nothing is queued.
    fn idle_for(&self, now: Moment) -> Option<Duration> {
        if !self.wanted.lock().is_empty() {
            return Some(Duration::ZERO);
        }
        self.unwanted.lock().front().map(|(until, _)| until.since(now))
    }
}

/// Keeps this node's subscriptions at a part of the broker equal to what its workers need.
pub(crate) async fn keep_subscribed(node: Arc<Node>, part: usize) {
    let queue = node.subscribe_queues.of(part);
    loop {
        let (wanted, unwanted) = queue.take(node.clock.now());
        if wanted.is_empty() && unwanted.is_empty() {
            match queue.idle_for(node.clock.now()) {
                Some(idle) => {
                    // Woken early by a change. Looking again in vain does no harm.
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
            // The last subscriber left before the channel was subscribed.
            Some(local) if local.link == ChannelLink::Queued => {
                node.answer_waiting(local, &Err(BrokerError::Abandoned));
                node.forget_channel(&mut shard, channel);
                false
            }
            _ => false,
        }
    });
    if channels.is_empty() {
        return;
    }
    // Joins wait for the result, so a panic has to become an error.
    let result = AssertUnwindSafe(node.broker.subscribe(channels.clone())).catch_unwind().await;
    let result = result.unwrap_or_else(|_| Err(BrokerError::Unexpected("it panicked".into())));
    let now = node.clock.now();
    let mut again = Vec::new();
    for channel in channels {
        let mut shard = node.interest.shard(channel.as_str());
        let Some(local) = shard.get_mut(channel.as_str()) else { continue };
        node.answer_waiting(local, &result);
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
        // The subscribers were told to try again. Channels that still have subscribers then are tried again here, and
        // channels requested meanwhile do not wait for that.
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
            // If a subscriber came back and left again, the channel is queued a second time, for later.
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
                // There were no subscribers, so nobody missed what was published meanwhile.
                node.interest.begin_anew(local);
                node.subscribe_queue(&channel).want(channel.clone());
            }
            Some(local) => {
                node.answer_waiting(local, &Err(BrokerError::Abandoned));
                node.forget_channel(&mut shard, &channel);
            }
            None => {}
        }
    }
}
