//! What a shard keeps, and what it lets go.

use gateway_core::history::Retention;

use super::*;
use crate::broker::Idempotency;

const NONE: [u64; 0] = [];

fn limits(channels_max: usize, bytes_max: usize) -> ShardLimits {
    ShardLimits {
        channels_max,
        keys_max: 10,
        position_ttl: Duration::from_secs(100),
        bytes_max,
        bytes: Arc::default(),
        map_keys_max: 100,
        keys: Arc::default(),
        state_bytes_max: 1 << 20,
        state_bytes: Arc::default(),
    }
}

fn channel(number: u64) -> Channel {
    Channel::parse(&format!("c{number}"), 255).unwrap()
}

fn publish(shard: &mut MemoryShard, now: u64, number: u64, bytes: usize) -> StreamPosition {
    let request = PublishRequest {
        channel: channel(number),
        publication: Publication::new(Payload::binary(vec![0; bytes])),
        retention: Retention::new(100, Duration::from_secs(10)),
        idempotency: None,
        version: None,
    };
    let (published, _) = shard.publish(Moment(now), request, &BrokerMetrics::default());
    published.position.unwrap()
}

fn offsets(shard: &mut MemoryShard, now: u64, number: u64) -> Vec<u64> {
    let filter = HistoryFilter { since: None, limit: 100, reverse: false, enough_bytes: None };
    let page = shard.history(Moment(now), &channel(number), filter, &BrokerMetrics::default());
    page.publications.iter().map(Publication::offset).collect()
}

#[test]
fn bytes_stay_bounded_and_the_history_nearest_its_end_goes_first() {
    let mut shard = MemoryShard::new(limits(100, 10_000));
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
    let mut shard = MemoryShard::new(limits(100, 1 << 20));
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
    let mut shard = MemoryShard::new(limits(100, 1 << 20));
    let first = publish(&mut shard, 0, 1, 10);
    let next = publish(&mut shard, 100_000, 1, 10);
    assert_eq!(next.offset, 1);
    assert_ne!(next.epoch, first.epoch);
}

#[test]
fn a_position_lives_as_long_as_what_is_kept_under_it() {
    let mut shard = MemoryShard::new(limits(100, 1 << 20));
    let request = PublishRequest {
        channel: channel(1),
        publication: Publication::new(Payload::text("kept")),
        retention: Retention::new(100, Duration::from_secs(1_000)),
        idempotency: None,
        version: None,
    };
    shard.publish(Moment(0), request, &BrokerMetrics::default());
    while shard.sweep(Moment(200_000), 7) {}
    assert_eq!(offsets(&mut shard, 200_000, 1), [1]);
    assert_eq!(publish(&mut shard, 200_000, 1, 10).offset, 2);
}

const HOUR: u64 = 3_600_000;

fn a_day() -> MemoryShard {
    MemoryShard::new(ShardLimits { position_ttl: Duration::from_secs(86_400), ..limits(10_000, 1 << 20) })
}

fn position(shard: &mut MemoryShard, now: u64, number: u64) -> StreamPosition {
    shard.position(Moment(now), &channel(number), &BrokerMetrics::default())
}

#[test]
fn channels_nobody_publishes_to_have_epochs_and_most_take_no_room() {
    let mut shard = a_day();
    let first: Vec<_> = (0..1_000).map(|number| position(&mut shard, 0, number)).collect();
    assert!(first.iter().all(|position| position.offset == 0));
    assert!(shard.streams.len() < 100, "a 24th of them change within the hour: {}", shard.streams.len());
    // Looked at twice an hour, as where subscribers follow them, each has its epoch for ever.
    for half in 1..=100 {
        shard.sweep(Moment(half * HOUR / 2), usize::MAX >> 1);
        let now: Vec<_> = (0..1_000).map(|number| position(&mut shard, half * HOUR / 2, number)).collect();
        assert!(now == first, "after {half} half hours");
    }
    let published = publish(&mut shard, 50 * HOUR, 1, 10);
    assert_eq!(published, StreamPosition { offset: 1, ..first[1] });
}

#[test]
fn an_epoch_that_was_published_in_does_not_come_back() {
    let mut shard = a_day();
    let mut epochs = std::collections::BTreeSet::new();
    for time in 0..40 {
        // A day and a little later it is forgotten.
        let position = publish(&mut shard, time * 25 * HOUR, 1, 10);
        assert_eq!((position.offset, epochs.insert(position.epoch.as_str().to_owned())), (1, true));
    }
    let number = 2;
    for _ in 0..40 {
        let published = publish(&mut shard, 0, number, 10);
        shard.leave_epoch(Moment(0), &channel(number), published.epoch);
        assert_ne!(position(&mut shard, 0, number).epoch, published.epoch, "it was left");
    }
    let quiet = position(&mut shard, 0, 3);
    shard.leave_epoch(Moment(0), &channel(3), quiet.epoch);
    assert_ne!(position(&mut shard, 0, 3).epoch, quiet.epoch, "so was this");
}

#[test]
fn the_number_of_channels_is_bounded_and_the_longest_unused_goes() {
    let mut shard = MemoryShard::new(limits(3, 1 << 20));
    for number in 1..=3 {
        publish(&mut shard, number, number, 10);
    }
    publish(&mut shard, 10, 1, 10);
    publish(&mut shard, 11, 4, 10);
    assert_eq!(shard.streams.len(), 3);
    assert_eq!(offsets(&mut shard, 12, 1), [1, 2]);
    assert_eq!(publish(&mut shard, 13, 2, 10).offset, 1);
    assert_eq!(shard.streams.len(), 3);
    let kept: usize = shard.streams.values().map(|kept| kept.stream.bytes()).sum();
    assert_eq!(shard.limits.bytes.load(Ordering::Relaxed), kept, "what went is not counted any more");
}

#[test]
fn removed_history_leaves_the_position_and_no_trace_in_the_queues() {
    let mut shard = MemoryShard::new(limits(3, 1 << 20));
    publish(&mut shard, 0, 1, 10);
    shard.remove_history(&channel(1));
    assert_eq!(offsets(&mut shard, 1, 1), NONE);
    assert!(shard.emptying.pop_first().is_none());
    assert_eq!(publish(&mut shard, 2, 1, 10).offset, 2);
}

#[test]
fn a_kept_payload_does_not_hold_the_buffer_it_came_in() {
    let mut shard = MemoryShard::new(limits(3, 1 << 20));
    shard.subscribe(channel(1));
    let buffer = bytes::Bytes::from(vec![7; 100_000]);
    let request = PublishRequest {
        channel: channel(1),
        publication: Publication::new(Payload::binary(buffer.slice(10..20))),
        retention: Retention::new(1, Duration::from_secs(1)),
        idempotency: Some(Idempotency { key: "k".into(), ttl: Duration::from_secs(1) }),
        version: None,
    };
    let metrics = BrokerMetrics::default();
    let (_, delivered) = shard.publish(Moment(0), request, &metrics);
    assert_eq!(delivered.unwrap().data.bytes, vec![7; 10]);
    assert!(buffer.is_unique());
}
