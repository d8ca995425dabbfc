//! Channels that keep state by key: their keys are held beside their stream, and expire one by one.

use std::sync::atomic::Ordering;

use gateway_core::map::{
    ChangedKey, KeyAction, MapRetention, MapState, NotMade, StateFilter, StatePage, Suppressed,
};
use shared::channel::Channel;
use shared::moment::Moment;
use shared::publication::Publication;

use super::{MemoryShard, ShardStream, own_bytes};
use crate::broker::measure::BrokerMetrics;
use crate::broker::{BrokerError, ChangeRequest, Published};

/// The state of one channel, and its retention.
#[derive(Debug)]
pub(super) struct MapChannel {
    pub(super) state: MapState,
    keeping: MapRetention,
    /// When the channel is next checked for expired keys.
    queued: Option<Moment>,
}

/// Updates for subscribers, oldest first.
pub(in crate::broker::memory) type MapUpdates = Vec<Publication>;

impl MemoryShard {
    /// Changes a key. Also returns updates for this node's subscribers, even if the change is not made: keys may have expired.
    pub(in crate::broker::memory) fn change_key(
        &mut self,
        now: Moment,
        request: ChangeRequest,
        metrics: &BrokerMetrics,
    ) -> (Result<ChangedKey, BrokerError>, MapUpdates) {
        let ChangeRequest { channel, mut change, keeping, idempotency } = request;
        if let Some(idempotency) = &idempotency
            && let Some(Published { position, .. }) = self.answers.find(now, &channel, &idempotency.key)
        {
            metrics.duplicates.increment();
            return (
                Ok(ChangedKey { position, suppressed: Some(Suppressed::Idempotency) }),
                MapUpdates::new(),
            );
        }
        if let KeyAction::Set(set) = &mut change.action {
            own_bytes(&mut set.publication.data);
        }
        let mut published = self.expire_keys(now, &channel, usize::MAX);
        let has_no_room = self.limits.keys.load(Ordering::Relaxed) >= self.limits.map_keys_max
            || self.limits.state_bytes.load(Ordering::Relaxed) >= self.limits.state_bytes_max;
        let stream_bytes_max = self.limits.bytes_max;
        let position_ttl = self.limits.position_ttl;
        let entry = self.touch(now, &channel, metrics);
        let keys = entry.keys.get_or_insert_with(|| {
            Box::new(MapChannel { state: MapState::default(), keeping, queued: None })
        });
        keys.keeping = keeping;
        let before = (keys.state.len(), keys.state.bytes(), entry.stream.bytes());
        // An existing key may change even then: its previous value makes room.
        let keeping = MapRetention { keys_max: if has_no_room { 0 } else { keeping.keys_max }, ..keeping };
        let made = keys.state.change(now, change, &keeping, &mut entry.stream, stream_bytes_max);
        let after = (keys.state.len(), keys.state.bytes(), entry.stream.bytes());
        entry.forget = (now + position_ttl).max(entry.stream.expires());
        let position = Some(entry.stream.position());
        self.recount_keys((before.0, before.1), (after.0, after.1));
        self.recount(before.2, after.2);
        self.queue_to_empty(&channel);
        self.queue_to_expire(&channel);
        self.shed_bytes(metrics);
        let changed = match made {
            Ok(changed) => {
                metrics.published.increment();
                published.extend(changed);
                Ok(ChangedKey { position, suppressed: None })
            }
            Err(NotMade::Suppressed(why)) => Ok(ChangedKey { position, suppressed: Some(why) }),
            Err(NotMade::Full) => {
                self.forget_if_unused(&channel);
                Err(if has_no_room { BrokerError::NoRoom } else { BrokerError::Full })
            }
        };
        if let Some(idempotency) =
            idempotency.filter(|_| matches!(changed, Ok(ChangedKey { suppressed: None, .. })))
        {
            let published = Published { position, duplicate: false };
            if self.answers.remember(now, &channel, &idempotency.key, idempotency.ttl, published) {
                metrics.evicted_keys.increment();
            }
        }
        if !self.is_subscribed(&channel) {
            published.clear();
        }
        (changed, published)
    }

    pub(in crate::broker::memory) fn read_state(
        &mut self,
        now: Moment,
        channel: &Channel,
        filter: &StateFilter,
        keeping: &MapRetention,
        metrics: &BrokerMetrics,
    ) -> (StatePage, MapUpdates) {
        let mut published = self.expire_keys(now, channel, usize::MAX);
        if !self.is_subscribed(channel) {
            published.clear();
        }
        let top = Some(self.position(now, channel, metrics));
        let keys = self.streams.get(channel).and_then(|entry| entry.keys.as_deref());
        let page = keys.map(|keys| keys.state.page(filter, keeping.ordered)).unwrap_or_default();
        (StatePage { top, ..page }, published)
    }

    pub(in crate::broker::memory) fn count_keys(&self, channel: &Channel) -> u64 {
        let keys = self.streams.get(channel).and_then(|entry| entry.keys.as_deref());
        keys.map_or(0, |keys| keys.state.len() as u64)
    }

    /// Forgets the state and the stream. The next position in this channel has a new epoch.
    pub(in crate::broker::memory) fn clear_state(&mut self, channel: &Channel) {
        if self.streams.contains_key(channel) {
            self.first_epochs.leave(channel);
            self.forget(channel);
        }
    }

    /// Removes expired keys, at most `count` in all. Returns whether there may be more.
    pub(in crate::broker::memory) fn sweep_keys(
        &mut self,
        now: Moment,
        count: usize,
        mut tell: impl FnMut(&Channel, Publication),
    ) -> bool {
        let mut left = count;
        while left > 0 {
            let Some(channel) = self.expiring.pop_due(now) else { return false };
            if let Some(keys) = self.streams.get_mut(&channel).and_then(|entry| entry.keys.as_mut()) {
                keys.queued = None;
            }
            let published = self.expire_keys(now, &channel, left);
            left = left.saturating_sub(published.len().max(1));
            self.queue_to_expire(&channel);
            if self.is_subscribed(&channel) {
                published.into_iter().for_each(|publication| tell(&channel, publication));
            }
        }
        true
    }

    /// Removes at most `count` expired keys of this channel.
    fn expire_keys(&mut self, now: Moment, channel: &Channel, count: usize) -> MapUpdates {
        let stream_bytes_max = self.limits.bytes_max;
        let Some(ShardStream { stream, keys: Some(keys), .. }) =
            self.streams.get_mut(channel).map(|entry| &mut **entry)
        else {
            return MapUpdates::new();
        };
        let before = (keys.state.len(), keys.state.bytes(), stream.bytes());
        let MapChannel { state, keeping, .. } = &mut **keys;
        let expired = std::iter::from_fn(|| state.expire(now, keeping, stream, stream_bytes_max));
        let published: MapUpdates = expired.take(count).collect();
        let after = (state.len(), state.bytes(), stream.bytes());
        if before == after {
            return published;
        }
        self.recount_keys((before.0, before.1), (after.0, after.1));
        self.recount(before.2, after.2);
        self.queue_to_empty(channel);
        published
    }

    pub(super) fn recount_keys(&self, before: (usize, usize), after: (usize, usize)) {
        for (total, before, after) in
            [(&self.limits.keys, before.0, after.0), (&self.limits.state_bytes, before.1, after.1)]
        {
            total.fetch_add(after, Ordering::Relaxed);
            total.fetch_sub(before, Ordering::Relaxed);
        }
    }

    fn queue_to_empty(&mut self, channel: &Channel) {
        let Some(entry) = self.streams.get_mut(channel) else { return };
        if !entry.stream.is_empty() && entry.queued_to_empty.is_none() {
            let expires = entry.stream.expires();
            entry.queued_to_empty = Some(expires);
            self.emptying.insert(expires, channel.clone());
        }
    }

    /// Queues the channel for its next expiry. An entry that is too early is moved when it comes up: only one that is too
    /// late is moved here.
    fn queue_to_expire(&mut self, channel: &Channel) {
        let Some(keys) = self.streams.get_mut(channel).and_then(|entry| entry.keys.as_mut()) else { return };
        let Some(next) = keys.state.next_expiry() else { return };
        if keys.queued.is_some_and(|queued| queued <= next) {
            return;
        }
        if let Some(queued) = keys.queued.replace(next) {
            self.expiring.remove(queued, channel.clone());
        }
        self.expiring.insert(next, channel.clone());
    }

    fn forget_if_unused(&mut self, channel: &Channel) {
        if let Some(entry) = self.streams.get(channel)
            && !entry.has_keys()
            && entry.stream.position().offset == 0
        {
            self.forget(channel);
        }
    }
}

impl MapChannel {
    pub(super) fn queued(&self) -> Option<Moment> {
        self.queued
    }
}
