//! One shard of the channels: their streams, their subscriptions and their deadlines. The time is an argument.

mod first_epochs;
mod map_channel;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gateway_core::history::{HistoryFilter, HistoryPage};
use gateway_core::stream::Stream;
use shared::channel::Channel;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::publication::{Payload, Publication};

use self::first_epochs::{FirstEpochs, HOLDS};
use super::expiry_queue::Deadlines;
use super::idempotency_cache::IdempotencyCache;
use crate::broker::measure::BrokerMetrics;
use crate::broker::{PublishRequest, Published, Version};

/// Tables with a smaller capacity are not shrunk.
const SHRINK_FROM: usize = 64;

/// The bounds of one shard. Bytes are counted over all shards, so that one busy channel may use them all.
#[derive(Clone, Debug)]
pub(super) struct ShardLimits {
    pub(super) channels_max: usize,
    pub(super) keys_max: usize,
    pub(super) position_ttl: Duration,
    pub(super) bytes_max: usize,
    pub(super) bytes: Arc<AtomicUsize>,
    /// The same for channels that keep state by key.
    pub(super) map_keys_max: usize,
    pub(super) keys: Arc<AtomicUsize>,
    pub(super) state_bytes_max: usize,
    pub(super) state_bytes: Arc<AtomicUsize>,
}

#[derive(Debug)]
pub(super) struct MemoryShard {
    /// Boxed, because a hash table has many free places.
    streams: HashMap<Channel, Box<ShardStream>>,
    /// The epochs of channels without a stream, which take no room: a client that may read positions can name many
    /// channels, and most of a million personal channels are quiet.
    first_epochs: FirstEpochs,
    subscribed: HashSet<Channel>,
    answers: IdempotencyCache,
    /// Streams by the time at which their publications expire.
    emptying: Deadlines<Channel>,
    /// Streams by the time at which they are forgotten, position included.
    forgetting: Deadlines<Channel>,
    /// Channels by the time at which their first key expires.
    expiring: Deadlines<Channel>,
    limits: ShardLimits,
}

/// A stream with its entries in the two queues. An entry is not moved each time its deadline moves: the deadline is
/// checked when the entry comes up.
#[derive(Debug)]
struct ShardStream {
    stream: Stream,
    /// The version of the last publication that had one.
    version: Option<Box<Version>>,
    /// The state of a channel that keeps state by key. A channel with keys is not forgotten.
    keys: Option<Box<map_channel::MapChannel>>,
    forget: Moment,
    queued_to_forget: Moment,
    queued_to_empty: Option<Moment>,
}

impl ShardStream {
    fn has_keys(&self) -> bool {
        self.keys.as_ref().is_some_and(|keys| !keys.state.is_empty())
    }
}

impl MemoryShard {
    pub(super) fn new(limits: ShardLimits) -> Self {
        Self {
            streams: HashMap::new(),
            first_epochs: FirstEpochs::new(limits.position_ttl),
            subscribed: HashSet::new(),
            answers: IdempotencyCache::new(limits.keys_max),
            emptying: Deadlines::default(),
            forgetting: Deadlines::default(),
            expiring: Deadlines::default(),
            limits,
        }
    }

    pub(super) fn subscribe(&mut self, channel: Channel) -> bool {
        self.subscribed.insert(channel)
    }

    pub(super) fn is_subscribed(&self, channel: &Channel) -> bool {
        self.subscribed.contains(channel)
    }

    pub(super) fn unsubscribe(&mut self, channel: &Channel) -> bool {
        let was_subscribed = self.subscribed.remove(channel);
        if is_sparse(self.subscribed.len(), self.subscribed.capacity()) {
            self.subscribed.shrink_to(self.subscribed.len() * 2);
        }
        was_subscribed
    }

    /// Publishes. Returns the answer, and the publication if this node is subscribed to the channel.
    pub(super) fn publish(
        &mut self,
        now: Moment,
        request: PublishRequest,
        metrics: &BrokerMetrics,
    ) -> (Published, Option<Publication>) {
        let PublishRequest { channel, mut publication, retention, idempotency, version } = request;
        if let Some(idempotency) = &idempotency
            && let Some(earlier) = self.answers.find(now, &channel, &idempotency.key)
        {
            metrics.duplicates.increment();
            return (Published { duplicate: true, ..earlier }, None);
        }
        if let Some(version) = version.filter(|_| retention.keeps_history()) {
            let entry = self.touch(now, &channel, metrics);
            if entry.version.as_ref().is_some_and(|last| version.is_stale(last)) {
                let position = Some(entry.stream.position());
                metrics.duplicates.increment();
                return (Published { position, duplicate: true }, None);
            }
            entry.version = Some(Box::new(version));
        }
        let position = retention.keeps_history().then(|| {
            let (bytes_max, position_ttl) = (self.limits.bytes_max, self.limits.position_ttl);
            let entry = self.touch(now, &channel, metrics);
            own_bytes(&mut publication.data);
            let before = entry.stream.bytes();
            let position = entry.stream.append(now, &mut publication, retention, bytes_max);
            entry.forget = (now + position_ttl).max(entry.stream.expires());
            let after = entry.stream.bytes();
            let expires = entry.stream.expires();
            let unqueued = !entry.stream.is_empty() && entry.queued_to_empty.is_none();
            if unqueued {
                entry.queued_to_empty = Some(expires);
                self.emptying.insert(expires, channel.clone());
            }
            self.recount(before, after);
            self.shed_bytes(metrics);
            position
        });
        let published = Published { position, duplicate: false };
        if let Some(idempotency) = idempotency
            && self.answers.remember(now, &channel, &idempotency.key, idempotency.ttl, published)
        {
            metrics.evicted_keys.increment();
        }
        metrics.published.increment();
        (published, self.subscribed.contains(&channel).then_some(publication))
    }

    pub(super) fn history(
        &mut self,
        now: Moment,
        channel: &Channel,
        filter: HistoryFilter,
        metrics: &BrokerMetrics,
    ) -> HistoryPage {
        match self.look(now, channel) {
            Some(entry) => entry.stream.page(filter),
            None => HistoryPage { publications: Vec::new(), top: self.first_position(now, channel, metrics) },
        }
    }

    pub(super) fn position(
        &mut self,
        now: Moment,
        channel: &Channel,
        metrics: &BrokerMetrics,
    ) -> StreamPosition {
        match self.look(now, channel) {
            Some(entry) => entry.stream.position(),
            None => self.first_position(now, channel, metrics),
        }
    }

    /// Returns the position of a channel without a stream. The channel gets a stream if its epoch would change soon.
    fn first_position(&mut self, now: Moment, channel: &Channel, metrics: &BrokerMetrics) -> StreamPosition {
        if self.first_epochs.changes_soon(now, channel) {
            return self.touch(now, channel, metrics).stream.position();
        }
        StreamPosition { offset: 0, epoch: self.first_epochs.of(now, channel) }
    }

    pub(super) fn leave_epoch(&mut self, now: Moment, channel: &Channel, epoch: Epoch) {
        if self.streams.get(channel).is_some_and(|entry| entry.stream.position().epoch == epoch) {
            self.forget(channel);
        }
        if self.first_epochs.of(now, channel) == epoch {
            self.first_epochs.leave(channel);
        }
    }

    pub(super) fn remove_history(&mut self, channel: &Channel) {
        let Some(entry) = self.streams.get_mut(channel) else { return };
        let before = entry.stream.bytes();
        entry.stream.clear();
        if let Some(at) = entry.queued_to_empty.take() {
            self.emptying.remove(at, channel.clone());
        }
        self.recount(before, 0);
    }

    /// Removes expired entries, at most `count` of each kind. Returns whether there may be more.
    pub(super) fn sweep(&mut self, now: Moment, count: usize) -> bool {
        let mut more = self.answers.sweep(now, count) == count;
        more |= (0..count).all(|_| match self.emptying.pop_due(now) {
            Some(channel) => {
                self.empty_if_due(now, channel);
                true
            }
            None => false,
        });
        more |= (0..count).all(|_| match self.forgetting.pop_due(now) {
            Some(channel) => {
                self.forget_if_due(now, channel);
                true
            }
            None => false,
        });
        more
    }

    /// Returns the channel's stream, if there is one, with expired publications removed.
    fn look(&mut self, now: Moment, channel: &Channel) -> Option<&mut ShardStream> {
        if self.streams.get(channel)?.forget <= now && !self.streams.get(channel)?.has_keys() {
            self.forget(channel);
        }
        let entry = self.streams.get_mut(channel)?;
        let is_published = entry.stream.position().offset > 0;
        let ttl = self.limits.position_ttl;
        entry.forget = entry.forget.max(now + if is_published { ttl } else { ttl.min(HOLDS) });
        let before = entry.stream.bytes();
        entry.stream.expire(now);
        let freed = before - entry.stream.bytes();
        self.limits.bytes.fetch_sub(freed, Ordering::Relaxed);
        Some(entry)
    }

    /// Returns the channel's stream, and creates one if there is none.
    fn touch(&mut self, now: Moment, channel: &Channel, metrics: &BrokerMetrics) -> &mut ShardStream {
        if self.look(now, channel).is_none() {
            while self.streams.len() >= self.limits.channels_max && self.forget_one() {
                metrics.evicted_streams.increment();
            }
            self.forgetting.insert(now + self.limits.position_ttl.min(HOLDS), channel.clone());
        }
        // This deadline applies until the first publication.
        let forget = now + self.limits.position_ttl.min(HOLDS);
        let first_epochs = &self.first_epochs;
        self.streams.entry(channel.clone()).or_insert_with(|| {
            Box::new(ShardStream {
                stream: Stream::new(first_epochs.of(now, channel)),
                version: None,
                keys: None,
                forget,
                queued_to_forget: forget,
                queued_to_empty: None,
            })
        })
    }

    fn recount(&self, before: usize, after: usize) {
        if after >= before {
            self.limits.bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.limits.bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Empties streams of this shard, those that expire first, until the streams of all shards fit into the bound.
    fn shed_bytes(&mut self, metrics: &BrokerMetrics) {
        while self.limits.bytes.load(Ordering::Relaxed) > self.limits.bytes_max {
            let Some((at, channel)) = self.emptying.pop_first() else { return };
            let Some(entry) = self.streams.get_mut(&channel) else { continue };
            if entry.stream.expires() > at && !entry.stream.is_empty() {
                // The channel was published to since the stream was queued: its turn comes later.
                entry.queued_to_empty = Some(entry.stream.expires());
                self.emptying.insert(entry.stream.expires(), channel);
                continue;
            }
            entry.queued_to_empty = None;
            let before = entry.stream.bytes();
            entry.stream.clear();
            self.recount(before, 0);
            if before > 0 {
                metrics.evicted_streams.increment();
            }
        }
    }

    /// Forgets the stream that has been unused for longest. Returns whether there was one.
    fn forget_one(&mut self) -> bool {
        // Streams with keys stay: each goes to the end of the queue at most once.
        for _ in 0..self.forgetting.len() {
            let Some((at, channel)) = self.forgetting.pop_first() else { return false };
            let Some(entry) = self.streams.get_mut(&channel) else { continue };
            if entry.has_keys() {
                entry.forget = entry.forget.max(at) + self.limits.position_ttl;
            }
            if entry.forget > at {
                entry.queued_to_forget = entry.forget;
                self.forgetting.insert(entry.forget, channel);
                continue;
            }
            if entry.stream.position().offset > 0 {
                self.first_epochs.leave(&channel);
            }
            self.forget(&channel);
            return true;
        }
        false
    }

    fn empty_if_due(&mut self, now: Moment, channel: Channel) {
        let Some(entry) = self.streams.get_mut(&channel) else { return };
        let before = entry.stream.bytes();
        entry.stream.expire(now);
        let after = entry.stream.bytes();
        entry.queued_to_empty = (!entry.stream.is_empty()).then(|| entry.stream.expires());
        if let Some(at) = entry.queued_to_empty {
            self.emptying.insert(at, channel);
        }
        self.recount(before, after);
    }

    fn forget_if_due(&mut self, now: Moment, channel: Channel) {
        let Some(entry) = self.streams.get_mut(&channel) else { return };
        if entry.has_keys() {
            entry.forget = now + self.limits.position_ttl;
        }
        if entry.forget > now {
            entry.queued_to_forget = entry.forget;
            self.forgetting.insert(entry.forget, channel);
        } else {
            self.forget(&channel);
        }
    }

    fn forget(&mut self, channel: &Channel) {
        let Some(entry) = self.streams.remove(channel) else { return };
        if is_sparse(self.streams.len(), self.streams.capacity()) {
            self.streams.shrink_to(self.streams.len() * 2);
        }
        self.forgetting.remove(entry.queued_to_forget, channel.clone());
        if let Some(at) = entry.queued_to_empty {
            self.emptying.remove(at, channel.clone());
        }
        self.recount(entry.stream.bytes(), 0);
        if let Some(keys) = entry.keys {
            self.recount_keys((keys.state.len(), keys.state.bytes()), (0, 0));
            if let Some(at) = keys.queued() {
                self.expiring.remove(at, channel.clone());
            }
        }
    }
}

/// Whether so many places of a table have become free that shrinking it is worth the work.
fn is_sparse(used: usize, capacity: usize) -> bool {
    capacity >= SHRINK_FROM && used < capacity / 8
}

/// Copies the payload out of the larger buffer it may have arrived in, so that the bytes counted are the bytes held.
fn own_bytes(payload: &mut Payload) {
    payload.bytes = bytes::Bytes::copy_from_slice(&payload.bytes);
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
