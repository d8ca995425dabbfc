//! Tests of the hub: who receives what, who is told of gaps, and that nothing is left behind.

mod against_a_model;
mod bundling;
mod clients;
mod encode_once;
mod newest;
mod separate_lists;
mod sweeping;

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use shared::publication::{Payload, Publication};

use super::*;
use crate::namespace_id::NamespaceId;

pub(super) fn channel(name: &str) -> Channel {
    Channel::parse(name, 255).unwrap()
}

pub(super) fn at(offset: u64) -> StreamPosition {
    in_epoch("one", offset)
}

pub(super) fn in_epoch(epoch: &str, offset: u64) -> StreamPosition {
    StreamPosition { offset, epoch: Epoch::parse(epoch).unwrap() }
}

pub(super) fn publication(position: Option<StreamPosition>) -> Arc<Prepared> {
    let publication = Publication { position, ..Publication::new(Payload::text("0123456789")) };
    Prepared::new(channel("news"), NamespaceId::DEFAULT, publication, 0, &Arc::default())
}

pub(super) fn subscriber(key: u32, positioned: bool) -> Subscriber {
    Subscriber::new(key, Variant::plain(EncodingId::default())).positioned(positioned)
}

/// Records what each connection received, and which ones were told of a gap.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) got: BTreeMap<u32, Vec<Option<StreamPosition>>>,
    pub(super) told: Vec<u32>,
    /// Connections that were announced as having events in several channels.
    pub(super) gathered: Vec<u32>,
    /// The number of publications in each call.
    pub(super) calls: Vec<usize>,
}

impl Sink for Seen {
    fn deliver(&mut self, subscribers: &[Subscriber], bundles: &mut Bundles) {
        let publications = bundles.publications();
        assert!(!subscribers.is_empty() && !publications.is_empty(), "an empty call is a wasted one");
        self.calls.push(publications.len());
        for subscriber in subscribers {
            let got = self.got.entry(subscriber.key).or_default();
            got.extend(publications.iter().map(|prepared| prepared.position()));
        }
    }

    fn gather(&mut self, key: u32) {
        self.gathered.push(key);
    }

    fn insufficient(&mut self, key: u32, channel: &Channel) {
        assert_eq!(channel.as_str(), "news");
        self.told.push(key);
    }
}

impl Seen {
    pub(super) fn offsets(&self, key: u32) -> Vec<u64> {
        let got = self.got.get(&key).into_iter().flatten();
        got.map(|position| position.map_or(0, |position| position.offset)).collect()
    }
}

/// A hub with its sink, in which everything happens in the channel "news".
#[derive(Default)]
struct Bench {
    hub: Hub,
    seen: Seen,
}

impl Bench {
    fn join(&mut self, key: u32, positioned: bool) -> JoinOutcome {
        self.hub.join(&channel("news"), subscriber(key, positioned), None)
    }

    fn go_live(&mut self, key: u32, position: Option<StreamPosition>) {
        self.hub.go_live("news", key, position, &mut self.seen);
    }

    fn live(&mut self, key: u32, position: StreamPosition) {
        self.join(key, true);
        self.go_live(key, Some(position));
    }

    fn publish(&mut self, positions: impl IntoIterator<Item = StreamPosition>) {
        let batch: Vec<_> = positions.into_iter().map(|position| publication(Some(position))).collect();
        self.hub.deliver("news", &batch, &mut self.seen);
    }
}

#[test]
fn publications_reach_live_subscribers_in_order_and_in_one_call() {
    let mut bench = Bench::default();
    bench.live(1, at(0));
    bench.live(2, at(0));
    bench.publish([at(1)]);
    bench.publish([at(2), at(3), at(4)]);
    assert_eq!(bench.seen.offsets(1), [1, 2, 3, 4]);
    assert_eq!(bench.seen.offsets(2), [1, 2, 3, 4]);
    assert_eq!(bench.seen.calls, [1, 3]);
}

#[test]
fn only_the_first_join_and_the_last_leave_say_so() {
    let mut hub = Hub::default();
    let news = channel("news");
    assert!(hub.join(&news, subscriber(1, true), None).first);
    assert!(!hub.join(&news, subscriber(2, true), None).first);
    assert!(!hub.join(&news, subscriber(2, true), None).first, "again");
    assert_eq!(hub.leave("news", 3), None);
    assert_eq!(hub.leave("news", 1), Some(LeaveOutcome { last: false }));
    assert_eq!(hub.leave("news", 1), None);
    assert_eq!(hub.leave("news", 2), Some(LeaveOutcome { last: true }));
    assert_eq!(hub.leave("news", 2), None);
    assert_eq!(hub.interest(), Interest::default());
}

#[test]
fn a_joining_subscriber_gets_what_came_meanwhile_after_it_goes_live_and_nothing_it_knows() {
    let mut bench = Bench::default();
    bench.publish([at(1)]);
    bench.join(1, true);
    bench.publish([at(1), at(2)]);
    bench.publish([at(3), at(4)]);
    assert_eq!(bench.seen.offsets(1), [0u64; 0]);
    bench.go_live(1, Some(at(2)));
    assert_eq!(bench.seen.offsets(1), [3, 4]);
    bench.publish([at(5)]);
    assert_eq!(bench.seen.offsets(1), [3, 4, 5]);
    assert_eq!(bench.hub.interest().held_bytes, 0);
}

#[test]
fn a_subscriber_ahead_of_this_worker_does_not_get_what_it_knows_a_second_time() {
    let mut bench = Bench::default();
    bench.live(1, at(0));
    bench.publish([at(1)]);
    bench.live(2, at(3));
    bench.publish([at(2), at(3), at(4)]);
    assert_eq!(bench.seen.offsets(1), [1, 2, 3, 4]);
    assert_eq!(bench.seen.offsets(2), [4]);
    bench.publish([at(5), at(6)]);
    assert_eq!(bench.seen.offsets(2), [4, 5, 6]);
    assert_eq!(bench.seen.calls.last(), Some(&2), "nobody waits any more, so both go in one call");
}

#[test]
fn who_is_alone_at_a_worker_that_has_seen_nothing_waits_for_nothing() {
    let waiting =
        |bench: &Bench| -> usize { bench.hub.channels.iter().map(|(_, members)| members.waiting()).sum() };
    let mut bench = Bench::default();
    bench.join(1, true);
    bench.join(2, true);
    bench.go_live(1, Some(at(3)));
    assert_eq!(waiting(&bench), 1, "what the other one does not know may be on its way");
    bench.go_live(2, Some(at(3)));
    assert_eq!(waiting(&bench), 0);
    bench.publish([at(2), at(3), at(4)]);
    assert_eq!((bench.seen.offsets(1), bench.seen.offsets(2)), (vec![4], vec![4]));
    assert!(bench.seen.told.is_empty());
}

#[test]
fn a_gap_is_told_to_those_who_follow_the_stream_and_the_others_get_what_there_is() {
    let mut bench = Bench::default();
    bench.live(1, at(0));
    bench.join(2, false);
    bench.go_live(2, None);
    bench.publish([at(1), at(3), at(4)]);
    assert_eq!(bench.seen.offsets(1), [1], "nothing more after the hole");
    assert_eq!(bench.seen.offsets(2), [1, 3, 4]);
    assert_eq!(bench.seen.told, [1]);
    bench.publish([at(9)]);
    assert_eq!(bench.seen.told, [1], "told once");
    assert_eq!(bench.hub.leave("news", 1), Some(LeaveOutcome { last: false }));
    bench.live(1, at(9));
    bench.publish([at(10)]);
    assert_eq!(bench.seen.offsets(1), [1, 10]);
}

#[test]
fn a_new_epoch_is_a_gap() {
    let mut bench = Bench::default();
    bench.live(1, at(5));
    bench.publish([at(6), in_epoch("two", 7)]);
    assert_eq!((bench.seen.offsets(1), &bench.seen.told[..]), (vec![6], &[1][..]));
}

#[test]
fn what_was_published_before_is_a_duplicate() {
    let mut bench = Bench::default();
    bench.live(1, at(0));
    bench.publish([at(1), at(2), at(1), at(2), at(3)]);
    assert_eq!(bench.seen.offsets(1), [1, 2, 3]);
    assert_eq!(bench.hub.counts().duplicates, 2);
}

#[test]
fn channels_without_a_stream_deliver_everything() {
    let mut bench = Bench::default();
    bench.join(1, false);
    bench.hub.deliver("news", &[publication(None)], &mut bench.seen);
    bench.go_live(1, None);
    bench.hub.deliver("news", &[publication(None), publication(None)], &mut bench.seen);
    assert_eq!(bench.seen.offsets(1), [0, 0, 0]);
}

#[test]
fn a_hole_in_what_was_held_back_is_told_when_going_live() {
    let mut bench = Bench::default();
    bench.live(1, at(0));
    bench.publish([at(1)]);
    bench.join(2, true);
    bench.join(3, true);
    bench.publish([at(2), at(4)]);
    bench.go_live(2, Some(at(1)));
    bench.go_live(3, Some(at(3)));
    assert_eq!(bench.seen.told, [1, 2], "for 3, the history it read covers the hole");
    assert_eq!(bench.hub.counts().insufficient, 2);
    assert_eq!(bench.seen.offsets(3), [4]);
}

#[test]
fn what_is_known_to_be_lost_is_told_at_once_and_to_whom_it_concerns() {
    let mut bench = Bench::default();
    bench.live(1, at(0));
    bench.publish([at(1)]);
    bench.live(2, at(5));
    bench.join(3, true);
    bench.join(4, true);
    bench.hub.lost("news", at(3), &mut bench.seen);
    assert_eq!(bench.seen.told, [1], "2 knows more than what was lost");
    bench.go_live(3, Some(at(2)));
    bench.go_live(4, Some(at(3)));
    assert_eq!(bench.seen.told, [1, 3]);
    bench.publish([at(4), at(5), at(6)]);
    assert_eq!(bench.seen.offsets(2), [6]);
    assert_eq!(bench.seen.offsets(4), [4, 5, 6]);
    bench.hub.lost("news", at(6), &mut bench.seen);
    assert_eq!(bench.seen.told, [1, 3], "all that was there already");
}

#[test]
fn the_first_publication_on_a_worker_shows_a_hole_to_those_who_waited_for_it() {
    let mut bench = Bench::default();
    bench.live(1, at(5));
    bench.live(2, at(7));
    bench.live(3, at(6));
    bench.publish([at(7)]);
    assert_eq!(bench.seen.told, [1]);
    bench.publish([at(8)]);
    assert_eq!((bench.seen.offsets(2), bench.seen.offsets(3)), (vec![8], vec![7, 8]));
}

#[test]
fn holding_back_is_bounded_and_only_those_who_miss_what_was_given_up_are_told() {
    let limits = HoldLimits { publications: 3, ..HoldLimits::default() };
    let mut bench = Bench { hub: Hub::new(limits), ..Bench::default() };
    for key in 1..=3 {
        bench.join(key, key < 3);
    }
    bench.publish((1..=5).map(at));
    assert_eq!(bench.hub.counts().held_overflow, 2);
    bench.go_live(1, Some(at(1)));
    bench.go_live(2, Some(at(2)));
    bench.go_live(3, None);
    assert_eq!(bench.seen.told, [1]);
    assert_eq!((bench.seen.offsets(2), bench.seen.offsets(3)), (vec![3, 4, 5], vec![3, 4, 5]));
}

#[test]
fn whoever_joins_after_the_oldest_was_given_up_gets_what_came_after_the_join() {
    let limits = HoldLimits { publications: 3, ..HoldLimits::default() };
    let mut bench = Bench { hub: Hub::new(limits), ..Bench::default() };
    let publish = |bench: &mut Bench, count: usize| {
        bench.hub.deliver("news", &vec![publication(None); count], &mut bench.seen);
    };
    bench.join(1, false);
    publish(&mut bench, 5);
    bench.join(2, false);
    publish(&mut bench, 1);
    bench.join(3, false);
    publish(&mut bench, 1);
    for key in 1..=3 {
        bench.go_live(key, None);
    }
    let got = [1, 2, 3].map(|key| bench.seen.offsets(key).len());
    assert_eq!(got, [3, 2, 1], "no offsets tell anyone here what is missing");
}

#[test]
fn held_bytes_are_bounded_over_all_channels_and_given_back() {
    let limits = HoldLimits { bytes_total: 2000, ..HoldLimits::default() };
    let mut hub = Hub::new(limits);
    let mut seen = Seen::default();
    for (key, name) in (0..).zip(["news", "other"]) {
        hub.join(&channel(name), subscriber(key, true), None);
        let batch: Vec<_> = (1..=20).map(|offset| publication(Some(at(offset)))).collect();
        hub.deliver(name, &batch, &mut seen);
        assert!((1000..=2000).contains(&hub.interest().held_bytes), "{:?}", hub.interest());
    }
    hub.remove_all(0, |_, left| assert!(left.last));
    hub.leave("other", 1);
    assert_eq!(hub.interest(), Interest::default());
}

#[test]
fn ten_thousand_subscribers_of_one_channel_leave_and_nothing_remains() {
    let mut bench = Bench::default();
    for key in 0..10_000 {
        bench.join(key, true);
        if key % 3 > 0 {
            bench.go_live(key, (key % 3 == 1).then_some(at(0)));
        }
    }
    assert_eq!(bench.hub.subscribers("news"), 10_000);
    let mut lasts = 0;
    for key in 0..10_000 {
        bench.hub.remove_all(key, |_, left| lasts += u32::from(left.last));
    }
    assert_eq!(lasts, 1);
    bench.hub.shrink();
    assert_eq!(bench.hub.interest(), Interest::default());
    assert_eq!((bench.hub.channels.capacity(), bench.hub.ids.capacity()), (0, 0));
}
