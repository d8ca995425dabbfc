//! A part of the channels: their streams, who wants them, and what may be forgotten. Told the time.

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

use super::expire::Deadlines;
use super::remember::Answers;
use crate::broker::measure::BrokerMetrics;
use crate::broker::{PublishRequest, Published};

/// The bounds of one shard. Bytes are counted over all shards, so that one busy channel may use them all.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) channels_max: usize,
    pub(super) keys_max: usize,
    pub(super) position_ttl: Duration,
    pub(super) bytes_max: usize,
    pub(super) bytes: Arc<AtomicUsize>,
}

#[derive(Debug)]
pub(super) struct Shard {
    streams: HashMap<Channel, Kept>,
    subscribed: HashSet<Channel>,
    answers: Answers,
    /// Streams by when their publications have had their time.
    emptying: Deadlines<Channel>,
    /// Streams by when they are forgotten, position and all.
    forgetting: Deadlines<Channel>,
    limits: Limits,
}

/// A stream with its places in the two queues. A place is not moved each time the deadline moves: it is looked
/// at when it comes up.
#[derive(Debug)]
struct Kept {
    stream: Stream,
    forget: Moment,
    queued_to_forget: Moment,
    queued_to_empty: Option<Moment>,
}

impl Shard {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            streams: HashMap::new(),
            subscribed: HashSet::new(),
            answers: Answers::new(limits.keys_max),
            emptying: Deadlines::default(),
            forgetting: Deadlines::default(),
            limits,
        }
    }

    pub(super) fn subscribe(&mut self, channel: Channel) -> bool {
        self.subscribed.insert(channel)
    }

    pub(super) fn unsubscribe(&mut self, channel: &Channel) -> bool {
        self.subscribed.remove(channel)
    }

    /// Answers the publisher, and gives back the publication if this node wants it.
    pub(super) fn publish(
        &mut self,
        now: Moment,
        request: PublishRequest,
        epoch: impl FnOnce() -> Epoch,
        metrics: &BrokerMetrics,
    ) -> (Published, Option<Publication>) {
        let PublishRequest { channel, mut publication, retention, idempotency } = request;
        if let Some(idempotency) = &idempotency
            && let Some(earlier) = self.answers.find(now, &channel, &idempotency.key)
        {
            metrics.duplicates.increment();
            return (Published { duplicate: true, ..earlier }, None);
        }
        let position = retention.keeps_history().then(|| {
            let bytes_max = self.limits.bytes_max;
            let kept = self.touch(now, &channel, epoch, metrics);
            own_bytes(&mut publication.data);
            let before = kept.stream.bytes();
            let position = kept.stream.append(now, &mut publication, retention, bytes_max);
            kept.forget = kept.forget.max(kept.stream.expires());
            let after = kept.stream.bytes();
            let expires = kept.stream.expires();
            let unqueued = !kept.stream.is_empty() && kept.queued_to_empty.is_none();
            if unqueued {
                kept.queued_to_empty = Some(expires);
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
        epoch: impl FnOnce() -> Epoch,
        metrics: &BrokerMetrics,
    ) -> HistoryPage {
        self.touch(now, channel, epoch, metrics).stream.page(filter)
    }

    pub(super) fn position(
        &mut self,
        now: Moment,
        channel: &Channel,
        epoch: impl FnOnce() -> Epoch,
        metrics: &BrokerMetrics,
    ) -> StreamPosition {
        self.touch(now, channel, epoch, metrics).stream.position()
    }

    pub(super) fn remove_history(&mut self, channel: &Channel) {
        let Some(kept) = self.streams.get_mut(channel) else { return };
        let before = kept.stream.bytes();
        kept.stream.clear();
        if let Some(at) = kept.queued_to_empty.take() {
            self.emptying.remove(at, channel.clone());
        }
        self.recount(before, 0);
    }

    /// Lets go of what has had its time, at most `count` of each kind. Answers whether there may be more.
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

    /// The channel's stream, made if there is none, with what has had its time already gone.
    fn touch(
        &mut self,
        now: Moment,
        channel: &Channel,
        epoch: impl FnOnce() -> Epoch,
        metrics: &BrokerMetrics,
    ) -> &mut Kept {
        let forget = now + self.limits.position_ttl;
        if self.streams.get(channel).is_some_and(|kept| kept.forget <= now) {
            self.forget(channel);
        }
        if !self.streams.contains_key(channel) {
            while self.streams.len() >= self.limits.channels_max && self.forget_one() {
                metrics.evicted_streams.increment();
            }
            self.forgetting.insert(forget, channel.clone());
        }
        let kept = self.streams.entry(channel.clone()).or_insert_with(|| Kept {
            stream: Stream::new(epoch()),
            forget,
            queued_to_forget: forget,
            queued_to_empty: None,
        });
        kept.forget = kept.forget.max(forget);
        let before = kept.stream.bytes();
        kept.stream.expire(now);
        let freed = before - kept.stream.bytes();
        self.limits.bytes.fetch_sub(freed, Ordering::Relaxed);
        kept
    }

    fn recount(&self, before: usize, after: usize) {
        if after >= before {
            self.limits.bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.limits.bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Empties the streams of this shard that would be emptied first, until all shards together fit.
    fn shed_bytes(&mut self, metrics: &BrokerMetrics) {
        while self.limits.bytes.load(Ordering::Relaxed) > self.limits.bytes_max {
            let Some((at, channel)) = self.emptying.pop_first() else { return };
            let Some(kept) = self.streams.get_mut(&channel) else { continue };
            if kept.stream.expires() > at && !kept.stream.is_empty() {
                // It was published to since it was queued: its turn comes later.
                kept.queued_to_empty = Some(kept.stream.expires());
                self.emptying.insert(kept.stream.expires(), channel);
                continue;
            }
            kept.queued_to_empty = None;
            let before = kept.stream.bytes();
            kept.stream.clear();
            self.recount(before, 0);
            if before > 0 {
                metrics.evicted_streams.increment();
            }
        }
    }

    /// Forgets the stream that was left alone longest. Answers whether there was one.
    fn forget_one(&mut self) -> bool {
        while let Some((at, channel)) = self.forgetting.pop_first() {
            let Some(kept) = self.streams.get_mut(&channel) else { continue };
            if kept.forget > at {
                kept.queued_to_forget = kept.forget;
                self.forgetting.insert(kept.forget, channel);
                continue;
            }
            self.forget(&channel);
            return true;
        }
        false
    }

    fn empty_if_due(&mut self, now: Moment, channel: Channel) {
        let Some(kept) = self.streams.get_mut(&channel) else { return };
        let before = kept.stream.bytes();
        kept.stream.expire(now);
        let after = kept.stream.bytes();
        kept.queued_to_empty = (!kept.stream.is_empty()).then(|| kept.stream.expires());
        if let Some(at) = kept.queued_to_empty {
            self.emptying.insert(at, channel);
        }
        self.recount(before, after);
    }

    fn forget_if_due(&mut self, now: Moment, channel: Channel) {
        let Some(kept) = self.streams.get_mut(&channel) else { return };
        if kept.forget > now {
            kept.queued_to_forget = kept.forget;
            self.forgetting.insert(kept.forget, channel);
        } else {
            self.forget(&channel);
        }
    }

    fn forget(&mut self, channel: &Channel) {
        let Some(kept) = self.streams.remove(channel) else { return };
        self.forgetting.remove(kept.queued_to_forget, channel.clone());
        if let Some(at) = kept.queued_to_empty {
            self.emptying.remove(at, channel.clone());
        }
        self.recount(kept.stream.bytes(), 0);
    }
}

/// Copies the payload out of whatever larger buffer it arrived in, so that what is counted is what is held.
fn own_bytes(payload: &mut Payload) {
    payload.bytes = bytes::Bytes::copy_from_slice(&payload.bytes);
}

#[cfg(test)]
mod tests {
    use gateway_core::history::Retention;

    use super::*;
    use crate::broker::Idempotency;

    const NONE: [u64; 0] = [];

    fn limits(channels_max: usize, bytes_max: usize) -> Limits {
        Limits {
            channels_max,
            keys_max: 10,
            position_ttl: Duration::from_secs(100),
            bytes_max,
            bytes: Arc::default(),
        }
    }

    fn channel(number: u64) -> Channel {
        Channel::parse(&format!("c{number}"), 255).unwrap()
    }

    fn publish(shard: &mut Shard, now: u64, number: u64, bytes: usize) -> StreamPosition {
        let request = PublishRequest {
            channel: channel(number),
            publication: Publication::new(Payload::binary(vec![0; bytes])),
            retention: Retention { size: 100, ttl: Duration::from_secs(10) },
            idempotency: None,
        };
        let epoch = Epoch::from_random(1000 * now + number);
        let (published, _) = shard.publish(Moment(now), request, || epoch, &BrokerMetrics::default());
        published.position.unwrap()
    }

    fn offsets(shard: &mut Shard, now: u64, number: u64) -> Vec<u64> {
        let filter = HistoryFilter { since: None, limit: 100, reverse: false };
        let epoch = Epoch::from_random(1000 * now + number);
        let page = shard.history(Moment(now), &channel(number), filter, || epoch, &BrokerMetrics::default());
        page.publications.iter().map(Publication::offset).collect()
    }

    #[test]
    fn bytes_stay_bounded_and_the_history_nearest_its_end_goes_first() {
        let mut shard = Shard::new(limits(100, 10_000));
        publish(&mut shard, 0, 1, 4000);
        publish(&mut shard, 1000, 2, 4000);
        publish(&mut shard, 2000, 1, 1); // Channel 1 now expires after channel 2.
        publish(&mut shard, 3000, 3, 4000);
        assert_eq!(offsets(&mut shard, 3000, 2), NONE);
        assert_eq!(offsets(&mut shard, 3000, 1), [1, 2]);
        assert_eq!(offsets(&mut shard, 3000, 3), [1]);
        assert!(shard.limits.bytes.load(Ordering::Relaxed) <= 10_000);
    }

    #[test]
    fn sweeping_gives_everything_back() {
        let mut shard = Shard::new(limits(100, 1 << 20));
        let first = publish(&mut shard, 0, 1, 4000);
        for number in 2..=50 {
            publish(&mut shard, number, number, 4000);
        }
        while shard.sweep(Moment(10_050), 7) {}
        assert_eq!(shard.limits.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(publish(&mut shard, 10_050, 1, 1), StreamPosition { offset: 2, ..first });

        while shard.sweep(Moment(1_000_000), 7) {}
        assert_eq!((shard.streams.len(), shard.limits.bytes.load(Ordering::Relaxed)), (0, 0));
        assert!(shard.emptying.pop_first().is_none() && shard.forgetting.pop_first().is_none());
        let next_life = publish(&mut shard, 1_000_000, 1, 1);
        assert_eq!(next_life.offset, 1);
        assert_ne!(next_life.epoch, first.epoch);
    }

    #[test]
    fn a_forgotten_position_begins_a_new_epoch_even_before_a_sweep() {
        let mut shard = Shard::new(limits(100, 1 << 20));
        let first = publish(&mut shard, 0, 1, 10);
        let next = publish(&mut shard, 100_000, 1, 10);
        assert_eq!(next.offset, 1);
        assert_ne!(next.epoch, first.epoch);
    }

    #[test]
    fn the_number_of_channels_is_bounded_and_the_longest_unused_goes() {
        let mut shard = Shard::new(limits(3, 1 << 20));
        for number in 1..=3 {
            publish(&mut shard, number, number, 10);
        }
        publish(&mut shard, 10, 1, 10);
        publish(&mut shard, 11, 4, 10);
        assert_eq!(shard.streams.len(), 3);
        assert_eq!(offsets(&mut shard, 12, 1), [1, 2]);
        assert_eq!(publish(&mut shard, 13, 2, 10).offset, 1);
        assert_eq!(shard.streams.len(), 3);
    }

    #[test]
    fn removed_history_leaves_the_position_and_no_trace_in_the_queues() {
        let mut shard = Shard::new(limits(3, 1 << 20));
        publish(&mut shard, 0, 1, 10);
        shard.remove_history(&channel(1));
        assert_eq!(offsets(&mut shard, 1, 1), NONE);
        assert!(shard.emptying.pop_first().is_none());
        assert_eq!(publish(&mut shard, 2, 1, 10).offset, 2);
    }

    #[test]
    fn a_kept_payload_does_not_hold_the_buffer_it_came_in() {
        let mut shard = Shard::new(limits(3, 1 << 20));
        shard.subscribe(channel(1));
        let buffer = bytes::Bytes::from(vec![7; 100_000]);
        let request = PublishRequest {
            channel: channel(1),
            publication: Publication::new(Payload::binary(buffer.slice(10..20))),
            retention: Retention { size: 1, ttl: Duration::from_secs(1) },
            idempotency: Some(Idempotency { key: "k".into(), ttl: Duration::from_secs(1) }),
        };
        let metrics = BrokerMetrics::default();
        let (_, delivered) = shard.publish(Moment(0), request, || Epoch::from_random(1), &metrics);
        assert_eq!(delivered.unwrap().data.bytes, vec![7; 10]);
        assert!(buffer.is_unique());
    }
}
