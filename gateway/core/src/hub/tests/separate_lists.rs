//! Tests subscribers in separate lists: with filters, with joins and leaves, with deltas.

use super::clients::{Clients, Kind, joined, left, published};
use super::*;

const PLAIN: Kind = Kind { odd: None, joins: false, patches: false };
const ODD: Kind = Kind { odd: Some(true), joins: false, patches: false };
const JOINS: Kind = Kind { odd: None, joins: true, patches: false };
const PATCHES: Kind = Kind { odd: None, joins: false, patches: true };

#[derive(Default)]
struct Room {
    hub: Hub,
    clients: Clients,
}

impl Room {
    fn join(&mut self, key: u32, kind: Kind) -> JoinOutcome {
        self.hub.join(&channel("news"), kind.subscriber(key, true), kind.filter())
    }

    fn live(&mut self, key: u32, kind: Kind, offset: u64) {
        self.join(key, kind);
        self.hub.go_live("news", key, Some(at(offset)), &mut self.clients);
    }

    /// Joins and goes live with a reply that contained the publication at this offset.
    fn recovered(&mut self, key: u32, kind: Kind, offset: u64) {
        self.join(key, kind);
        self.go_live_recovered(key, offset);
    }

    fn go_live_recovered(&mut self, key: u32, offset: u64) {
        self.clients.answered(key, Some(at(offset)));
        let knows = KnownPosition { position: Some(at(offset)), has_last: true, is_handed_out: true };
        self.hub.go_live("news", key, knows, &mut self.clients);
    }

    fn deliver(&mut self, events: &[Arc<Prepared>]) {
        self.hub.deliver("news", events, &mut self.clients);
    }

    fn publish(&mut self, offsets: impl IntoIterator<Item = u64>) {
        let batch: Vec<_> = offsets.into_iter().map(|offset| published(at(offset))).collect();
        self.deliver(&batch);
    }

    fn offsets(&self, key: u32) -> Vec<u64> {
        let got = self.clients.got.get(&key).into_iter().flatten();
        got.map(|position| position.map_or(0, |position| position.offset)).collect()
    }

    fn letters(&self, key: u32) -> &str {
        self.clients.letters.get(&key).map_or("", String::as_str)
    }
}

#[test]
fn a_filter_keeps_publications_back_and_none_of_them_is_missed() {
    let mut room = Room::default();
    room.live(1, PLAIN, 0);
    room.live(2, ODD, 0);
    room.live(3, ODD, 0);
    room.publish([1, 2, 3]);
    room.publish([4]);
    room.publish([5]);
    assert_eq!((room.offsets(1), room.offsets(2)), (vec![1, 2, 3, 4, 5], vec![1, 3, 5]));
    assert_eq!(room.offsets(3), room.offsets(2));
    room.publish([9]);
    assert_eq!(room.offsets(2), [1, 3, 5], "a hole is one, whatever was in it");
    room.clients.told.sort_unstable();
    assert_eq!(room.clients.told, [1, 2, 3]);
    assert_eq!(room.hub.counts().gaps, 1, "of the channel, not of each list");
}

#[test]
fn whoever_reads_on_in_history_is_told_who_came_and_went_meanwhile() {
    let mut room = Room::default();
    room.join(1, JOINS);
    room.deliver(&[joined(), published(at(1))]);
    let bytes = room.hub.interest().held_bytes;
    room.join(1, JOINS);
    assert!(room.hub.interest().held_bytes < bytes, "it reads the publication from history");
    room.deliver(&[published(at(2)), left()]);
    room.hub.go_live("news", 1, Some(at(1)), &mut room.clients);
    room.publish([3]);
    assert_eq!(room.letters(1), "jnln");
    assert_eq!(room.offsets(1), [0, 2, 0, 3]);
    room.hub.leave("news", 1);
    assert_eq!(room.hub.interest(), Interest::default());
}

#[test]
fn whoever_was_told_of_a_hole_and_reads_on_is_told_who_came_and_went_meanwhile() {
    let mut room = Room::default();
    room.join(1, JOINS);
    room.join(2, JOINS);
    room.deliver(&[joined(), published(at(5))]);
    room.hub.go_live("news", 1, Some(at(1)), &mut room.clients);
    assert_eq!(room.clients.told, [1]);
    room.deliver(&[left(), published(at(6))]);
    room.join(1, JOINS);
    room.deliver(&[joined()]);
    for key in [1, 2] {
        room.hub.go_live("news", key, Some(at(6)), &mut room.clients);
    }
    assert_eq!((room.letters(1), room.letters(2)), ("jlj", "jlj"));
}

#[test]
fn publications_are_given_up_before_joins_and_leaves() {
    let limits = HoldLimits { publications: 1, ..HoldLimits::default() };
    let mut room = Room { hub: Hub::new(limits), ..Room::default() };
    room.join(1, JOINS);
    room.deliver(&[joined(), published(at(1)), left(), joined(), published(at(2)), published(at(3))]);
    assert_eq!(room.hub.counts().held_overflow, 2);
    room.hub.go_live("news", 1, Some(at(2)), &mut room.clients);
    assert_eq!(room.letters(1), "jljn");
    let limits = HoldLimits { bytes: 1_000, ..HoldLimits::default() };
    let mut room = Room { hub: Hub::new(limits), ..Room::default() };
    room.join(1, JOINS);
    for _ in 0..10 {
        room.deliver(&[joined()]);
    }
    assert!(room.hub.interest().held_bytes <= 1_000, "there is an end to it");
    assert_eq!(room.hub.counts().held_overflow, 10 - 3);
}

/// A client that accepts no data at the moment.
struct Full;

impl Sink for Full {
    fn deliver(&mut self, _: &[Subscriber], _: &mut Bundles) {}

    fn catch_up(&mut self, _: Subscriber, _: &mut Bundles) -> bool {
        false
    }

    fn insufficient(&mut self, _: u32, _: &Channel) {}
}

#[test]
fn what_was_held_back_and_not_taken_is_a_hole_of_which_joins_and_leaves_are_kept() {
    let mut room = Room::default();
    room.join(1, JOINS);
    room.deliver(&[joined(), published(at(1))]);
    room.hub.go_live("news", 1, Some(at(0)), &mut Full);
    assert_eq!(room.hub.counts().insufficient, 1);
    room.deliver(&[published(at(2)), left()]);
    room.join(1, JOINS);
    room.hub.go_live("news", 1, Some(at(2)), &mut room.clients);
    assert_eq!(room.letters(1), "jl");
}

#[test]
fn what_was_held_back_goes_through_the_filter_too() {
    let mut room = Room::default();
    room.join(1, ODD);
    room.publish([1, 2, 3, 4]);
    room.hub.go_live("news", 1, Some(at(1)), &mut room.clients);
    assert_eq!(room.offsets(1), [3]);
    room.publish([5]);
    assert_eq!((room.offsets(1), &room.clients.told), (vec![3, 5], &vec![]));
}

#[test]
fn equal_filters_are_one_list() {
    let mut room = Room::default();
    for key in 0..10 {
        room.live(key, ODD, 0);
    }
    assert_eq!(room.hub.channels.len(), 2, "the first of the channel, and one for them");
    room.clients.calls.clear();
    room.publish([1]);
    assert_eq!(room.clients.calls, [10]);
}

#[test]
fn joins_and_leaves_come_in_order_to_those_who_asked_and_to_nobody_else() {
    let mut room = Room::default();
    room.live(1, PLAIN, 0);
    room.deliver(&[joined(), left()]);
    assert!(room.clients.calls.is_empty(), "nobody asked");
    room.live(2, JOINS, 0);
    room.join(3, JOINS);
    let batch = [published(at(1)), joined(), published(at(2)), left()];
    room.deliver(&batch);
    room.hub.go_live("news", 3, Some(at(2)), &mut room.clients);
    assert_eq!((room.letters(1), room.letters(2), room.letters(3)), ("nn", "njnl", "jl"));
    assert!(room.clients.told.is_empty());
}

#[test]
fn a_quiet_channel_of_many_is_told_of_joins_a_piece_at_a_time() {
    let mut room = Room { hub: Hub::default().with_sweep_piece(3), ..Room::default() };
    // No subscriber has seen a publication: all wait for the stream to reach their positions.
    for key in 0..8 {
        room.live(key, JOINS, 5);
    }
    room.deliver(&[joined()]);
    assert!(room.clients.calls.is_empty());
    room.deliver(&[left(), published(at(6))]);
    room.hub.sweep_on(&mut room.clients);
    assert_eq!(room.clients.calls, [3]);
    room.hub.leave("news", 0);
    room.hub.serve_last(1, None, &mut room.clients);
    assert_eq!(room.letters(1), "jln", "all that came before it leaves");
    while room.hub.is_sweeping() {
        room.hub.sweep_on(&mut room.clients);
    }
    assert_eq!(room.letters(0), "");
    for key in 1..8 {
        assert_eq!(room.letters(key), "jln", "{key}");
    }
}

#[test]
fn the_first_comes_whole_and_what_follows_as_patches() {
    let mut room = Room::default();
    room.live(1, PATCHES, 0);
    room.live(9, PLAIN, 0);
    room.publish([1]);
    room.publish([2, 3, 4]);
    assert_eq!((room.letters(1), room.letters(9)), ("wppp", "nnnn"));
    room.live(2, PATCHES, 4);
    room.publish([5]);
    room.publish([6]);
    assert_eq!((room.letters(1), room.letters(2)), ("wppppp", "wp"), "newcomers do not change it for others");
    room.live(1, PATCHES, 6);
    room.publish([7]);
    assert_eq!((room.letters(1), room.letters(2)), ("wpppppw", "wpp"), "who comes again is a newcomer");
    assert_eq!(room.offsets(1), [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_join_is_nothing_that_a_patch_could_be_made_of() {
    let mut room = Room::default();
    room.join(1, Kind { joins: true, ..PATCHES });
    room.publish([1]);
    room.hub.go_live("news", 1, Some(at(1)), &mut room.clients);
    room.deliver(&[joined()]);
    room.publish([2, 3]);
    assert_eq!(room.letters(1), "jwp");
}

#[test]
fn a_recovery_is_followed_by_a_patch_of_its_last() {
    let mut room = Room::default();
    room.recovered(1, PATCHES, 3);
    room.publish([3, 4]);
    assert_eq!(room.letters(1), "p", "it waited for the stream to reach it");
    room.recovered(2, PATCHES, 4);
    room.join(3, PATCHES);
    room.publish([5, 6]);
    room.go_live_recovered(3, 5);
    room.publish([7]);
    assert_eq!((room.letters(1), room.letters(2), room.letters(3)), ("pppp", "ppp", "pp"));
}

#[test]
fn a_patch_is_never_of_what_the_filter_kept_back() {
    let mut room = Room::default();
    let kind = Kind { odd: Some(true), ..PATCHES };
    room.live(1, kind, 0);
    room.live(2, PATCHES, 0);
    room.publish([1, 2, 3]);
    room.publish([4]);
    room.publish([5]);
    assert_eq!((room.letters(1), room.letters(2)), ("www", "wpppp"));
    assert_eq!(room.offsets(1), [1, 3, 5]);
}

#[test]
fn after_a_gap_everyone_who_stays_gets_one_whole() {
    let mut room = Room::default();
    let follows_nothing = PATCHES.subscriber(1, false);
    room.hub.join(&channel("news"), follows_nothing, None);
    room.hub.go_live("news", 1, Some(at(0)), &mut room.clients);
    room.publish([1, 2]);
    room.publish([4]);
    room.publish([5]);
    room.hub.lost("news", at(6), &mut room.clients);
    room.publish([7, 8]);
    assert_eq!((room.letters(1), room.offsets(1)), ("wpwpwp", vec![1, 2, 4, 5, 7, 8]));
}

#[test]
fn many_lists_of_one_channel_are_served_in_pieces_together() {
    let mut room = Room { hub: Hub::default().with_sweep_piece(4), ..Room::default() };
    let kinds = [PLAIN, ODD, JOINS, PATCHES, Kind { odd: Some(false), ..JOINS }];
    for (key, kind) in (0..10).zip(kinds.into_iter().cycle()) {
        room.live(key, kind, 0);
    }
    room.publish([1]);
    while room.hub.is_sweeping() {
        room.hub.sweep_on(&mut room.clients);
    }
    room.clients.calls.clear();
    room.publish([3 - 1]);
    let at_once: usize = room.clients.calls.iter().sum();
    assert!(at_once <= 4, "{at_once}");
    let mut served = at_once;
    while room.hub.is_sweeping() {
        room.clients.calls.clear();
        room.hub.sweep_on(&mut room.clients);
        let piece: usize = room.clients.calls.iter().sum();
        assert!(piece <= 4, "{piece}");
        served += piece;
    }
    assert_eq!(served, 8, "all but the two who want odd ones");
}

#[test]
fn lists_go_with_their_last_and_the_channel_with_its_last() {
    let mut room = Room::default();
    assert!(room.join(1, ODD).first);
    assert!(!room.join(2, JOINS).first);
    assert!(!room.join(1, PATCHES).first, "from one list to another");
    assert_eq!(room.hub.channels.len(), 3);
    assert_eq!((room.hub.subscribers("news"), room.hub.interest().channels), (2, 1));
    assert_eq!(room.hub.leave("news", 2), Some(LeaveOutcome { last: false }));
    assert_eq!(room.hub.channels_of(1).count(), 1);
    room.hub.remove_all(1, |_, left| assert!(left.last));
    assert_eq!((room.hub.interest(), room.hub.channels.len()), (Interest::default(), 0));
}

#[test]
fn what_a_subscription_wants_and_where_it_stands_can_be_looked_at() {
    let mut room = Room::default();
    assert!(room.hub.inspect("news", 1).is_none());
    room.live(1, PLAIN, 0);
    room.live(2, ODD, 0);
    room.publish([1, 2]);
    room.join(3, JOINS);
    room.live(4, PLAIN, 7);
    let look = |room: &Room, key| {
        let found = room.hub.inspect("news", key).expect("it is there");
        (found.stage, found.position.map(|position| position.offset), found.filter.is_some())
    };
    assert_eq!(look(&room, 1), (SubscriptionStage::Live, Some(2), false));
    assert_eq!(
        look(&room, 2),
        (SubscriptionStage::Live, Some(2), true),
        "what the filter kept back is not missing"
    );
    assert_eq!(look(&room, 3), (SubscriptionStage::Joining, None, false));
    assert_eq!(look(&room, 4), (SubscriptionStage::Ahead, Some(7), false));
    room.publish([5]);
    assert_eq!(look(&room, 1), (SubscriptionStage::Insufficient, None, false));
    assert!(room.hub.inspect("news", 5).is_none() && room.hub.inspect("other", 1).is_none());
}
