//! Tests that a channel with many subscribers is served in pieces, and that events in between make no subscriber miss a
//! publication or receive one twice.

use super::*;
use crate::hub::sweep::{SWEEP_BYTES, WAITING_BYTES_MAX, WAITING_PUBLICATIONS_MAX};
use crate::namespace_id::NamespaceId;

/// Creates a hub that serves two subscribers at a time.
fn bench(subscribers: u32) -> Bench {
    let mut bench = Bench { hub: Hub::default().with_sweep_piece(2), ..Bench::default() };
    for key in 0..subscribers {
        bench.live(key, at(0));
    }
    // At the first publication, all subscribers wait for the stream to reach their positions.
    bench.publish([at(1)]);
    bench.sweep_out();
    bench
}

impl Bench {
    fn sweep_on(&mut self) {
        self.hub.sweep_on(&mut self.seen);
    }

    /// Sweeps to the end, and fails if the sweep never ends.
    fn sweep_out(&mut self) {
        for _ in 0..100 {
            self.sweep_on();
        }
        assert!(!self.hub.is_sweeping());
    }

    /// Returns the subscribers that have the publication at this offset.
    fn have(&self, offset: u64) -> Vec<u32> {
        let keys = self.seen.got.keys().copied();
        keys.filter(|&key| self.seen.offsets(key).contains(&offset)).collect()
    }
}

#[test]
fn many_are_served_a_piece_at_a_time_and_everyone_once() {
    let mut bench = bench(5);
    bench.publish([at(2)]);
    let mut counts = vec![bench.have(2).len()];
    while bench.hub.is_sweeping() {
        bench.sweep_on();
        counts.push(bench.have(2).len());
    }
    assert_eq!(counts, [0, 2, 4, 5]);
    for key in 0..5 {
        assert_eq!(bench.seen.offsets(key), [1, 2]);
    }
    bench.sweep_on();
    assert_eq!(bench.have(2).len(), 5, "there is nothing to go on with");
}

#[test]
fn the_larger_the_publication_the_fewer_are_served_at_a_time() {
    for (bytes, counts) in [
        (SWEEP_BYTES / 10, vec![10]),
        (SWEEP_BYTES / 4, vec![0, 4, 8, 10]),
        (3 * SWEEP_BYTES, vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ] {
        let mut bench = Bench::default();
        for key in 0..10 {
            bench.live(key, at(0));
        }
        bench.publish([at(1)]);
        let publication =
            Publication { position: Some(at(2)), ..Publication::new(Payload::text("x".repeat(bytes))) };
        let large = Prepared::new(channel("news"), NamespaceId::DEFAULT, publication, 0, &Arc::default());
        bench.hub.deliver("news", &[large], &mut bench.seen);
        let mut served = vec![bench.have(2).len()];
        while bench.hub.is_sweeping() {
            bench.sweep_on();
            served.push(bench.have(2).len());
        }
        assert_eq!(served, counts, "{bytes} bytes");
    }
}

#[test]
fn a_channel_of_few_does_not_wait_for_a_channel_of_many() {
    let mut bench = bench(5);
    let few = channel("few");
    bench.hub.join(&few, subscriber(9, false), None);
    bench.hub.go_live("few", 9, None, &mut bench.seen);
    bench.publish([at(2)]);
    bench.hub.deliver("few", &[publication(None)], &mut bench.seen);
    assert!(bench.hub.is_sweeping());
    assert_eq!(bench.seen.offsets(9), [0]);
}

#[test]
fn channels_of_many_take_turns() {
    let mut bench = bench(5);
    let other = channel("other");
    for key in 10..15 {
        bench.hub.join(&other, subscriber(key, false), None);
        bench.hub.go_live("other", key, None, &mut bench.seen);
    }
    bench.publish([at(2)]);
    bench.hub.deliver("other", &[publication(None)], &mut bench.seen);
    let mut counts = Vec::new();
    while bench.hub.is_sweeping() {
        bench.sweep_on();
        counts.push((bench.have(2).len(), bench.have(0).len()));
    }
    assert_eq!(counts, [(2, 0), (2, 2), (4, 2), (4, 4), (5, 4), (5, 5)]);
}

#[test]
fn what_comes_while_a_channel_is_swept_follows_as_one() {
    let mut bench = bench(5);
    bench.publish([at(2)]);
    bench.publish([at(3)]);
    bench.publish([at(4)]);
    bench.sweep_out();
    for key in 0..5 {
        assert_eq!(bench.seen.offsets(key), [1, 2, 3, 4]);
    }
    assert_eq!(bench.seen.calls[bench.seen.calls.len() - 6..], [1, 1, 1, 2, 2, 2]);
}

#[test]
fn a_sweep_is_finished_before_too_much_waits_behind_it() {
    let mut bench = bench(5);
    let last = 2 + WAITING_PUBLICATIONS_MAX as u64;
    for offset in 2..=last {
        bench.publish([at(offset)]);
    }
    assert_eq!(bench.seen.offsets(0), [1], "its turn has not come");
    bench.publish([at(last + 1)]);
    assert_eq!((bench.have(last).len(), bench.have(last + 1).len()), (5, 0));
    bench.sweep_out();
    assert_eq!(bench.have(last + 1).len(), 5);

    let large = |offset| {
        let payload = Payload::text("x".repeat(WAITING_BYTES_MAX / 2 + 1));
        let publication = Publication { position: Some(at(offset)), ..Publication::new(payload) };
        Prepared::new(channel("news"), NamespaceId::DEFAULT, publication, 0, &Arc::default())
    };
    let first = last + 2;
    for offset in first..=first + 1 {
        bench.hub.deliver("news", &[large(offset)], &mut bench.seen);
        assert_eq!(bench.have(first).len(), 0);
    }
    bench.hub.deliver("news", &[large(first + 2)], &mut bench.seen);
    assert_eq!((bench.have(first + 1).len(), bench.have(first + 2).len()), (5, 0));
}

#[test]
fn who_is_in_several_swept_channels_is_served_in_them_together() {
    let mut bench = bench(6);
    let other = channel("other");
    // In reverse order, and one subscriber is in no other channel.
    for key in (1..7).rev() {
        bench.hub.join(&other, subscriber(key, false), None);
        bench.hub.go_live("other", key, None, &mut bench.seen);
    }
    bench.publish([at(2)]);
    bench.hub.deliver("other", &[publication(None)], &mut bench.seen);
    let mut served = Vec::new();
    while bench.hub.is_sweeping() {
        bench.sweep_on();
        let of_both: Vec<u32> =
            (1..6).filter(|key| bench.have(2).contains(key) && bench.have(0).contains(key)).collect();
        let of_one = (1..6).filter(|key| bench.have(2).contains(key) || bench.have(0).contains(key));
        assert_eq!(of_one.collect::<Vec<_>>(), of_both, "nobody waits for the other half");
        served.push(of_both.len());
    }
    assert_eq!(served[..3], [2, 4, 5], "{served:?}");
    let mut gathered = bench.seen.gathered.clone();
    gathered.sort_unstable();
    assert_eq!(gathered, [1, 2, 3, 4, 5]);
    assert!((0..6).all(|key| bench.seen.offsets(key).iter().filter(|&&offset| offset == 2).count() == 1));
    assert!((1..7).all(|key| bench.seen.offsets(key).iter().filter(|&&offset| offset == 0).count() == 1));
}

#[test]
fn who_is_about_to_leave_is_served_out_of_turn_and_gets_nothing_after_that() {
    for key in 0..5 {
        let mut bench = bench(5);
        bench.publish([at(2)]);
        bench.sweep_on();
        // The second publication is a duplicate, and there is a gap before the last one.
        bench.publish([at(3), at(3), at(4), at(6)]);
        bench.hub.serve_last(key, None, &mut bench.seen);
        assert_eq!(bench.seen.offsets(key), [1, 2, 3, 4]);
        bench.hub.leave("news", (key + 1) % 5);
        bench.sweep_out();
        assert_eq!(bench.seen.offsets(key), [1, 2, 3, 4]);
        let others = (0..5).filter(|&other| other != key && other != (key + 1) % 5);
        assert!(others.into_iter().all(|other| bench.seen.offsets(other) == [1, 2, 3, 4]));
        assert_eq!(bench.seen.told.len(), 3, "the others are told of the hole");
        assert_eq!(bench.hub.leave("news", key), Some(LeaveOutcome { last: false }));
    }
}

#[test]
fn who_is_about_to_leave_one_channel_keeps_the_others() {
    let mut bench = bench(5);
    let other = channel("other");
    for key in 0..5 {
        bench.hub.join(&other, subscriber(key, false), None);
        bench.hub.go_live("other", key, None, &mut bench.seen);
    }
    bench.publish([at(2)]);
    bench.hub.deliver("other", &[publication(None)], &mut bench.seen);
    bench.hub.serve_last(0, Some(&other), &mut bench.seen);
    assert_eq!(bench.seen.offsets(0), [1, 0]);
    bench.sweep_out();
    assert_eq!(bench.seen.offsets(0), [1, 0, 2]);
}

#[test]
fn who_knows_more_than_was_begun_is_served_last_with_what_it_does_not_know() {
    let mut bench = bench(5);
    bench.publish([at(2)]);
    bench.publish([at(3), at(4), at(5)]);
    bench.live(9, at(4));
    bench.hub.serve_last(9, None, &mut bench.seen);
    bench.sweep_out();
    assert_eq!(bench.seen.offsets(9), [5]);
}

#[test]
fn who_knows_more_than_was_begun_breaks_what_leaves_as_one_only_there() {
    let mut bench = bench(5);
    bench.publish([at(2)]);
    bench.publish([at(3), at(4), at(5), at(6)]);
    bench.live(9, at(4));
    bench.sweep_out();
    assert!((0..5).all(|key| bench.seen.offsets(key) == [1, 2, 3, 4, 5, 6]));
    assert_eq!(bench.seen.offsets(9), [5, 6]);
    assert_eq!(bench.seen.calls[bench.seen.calls.len() - 9..], [1, 1, 1, 2, 2, 2, 2, 2, 2]);
}

#[test]
fn who_leaves_takes_nobody_elses_turn() {
    for leaver in 0..6 {
        let mut bench = bench(6);
        bench.publish([at(2)]);
        bench.hub.leave("news", leaver);
        bench.sweep_out();
        for key in (0..6).filter(|&key| key != leaver) {
            assert_eq!(bench.seen.offsets(key), [1, 2], "{key} after {leaver} left");
        }
    }
}

#[test]
fn who_goes_live_while_the_channel_is_swept_is_past_what_is_under_way() {
    let mut bench = bench(5);
    bench.publish([at(2)]);
    bench.live(7, at(2));
    bench.publish([at(3)]);
    bench.sweep_out();
    assert_eq!(bench.seen.offsets(7), [3]);
    assert_eq!(bench.have(3).len(), 6);
}

#[test]
fn a_channel_that_all_have_left_is_swept_no_further() {
    let mut bench = bench(5);
    bench.publish([at(2)]);
    bench.publish([at(3)]);
    for key in 0..5 {
        bench.hub.leave("news", key);
    }
    assert!(!bench.hub.is_sweeping());
    // Another channel may now have the same id.
    let other = channel("other");
    for key in 10..15 {
        bench.hub.join(&other, subscriber(key, false), None);
        bench.hub.go_live("other", key, None, &mut bench.seen);
    }
    bench.sweep_on();
    assert!((10..15).all(|key| bench.seen.offsets(key).is_empty()));
}

#[test]
fn a_gap_is_told_after_all_have_what_came_before_it() {
    let mut bench = bench(5);
    bench.publish([at(2)]);
    bench.hub.lost("news", at(3), &mut bench.seen);
    assert_eq!(bench.have(2).len(), 5);
    assert_eq!(bench.seen.told.len(), 5);
    assert!(!bench.hub.is_sweeping());
}
