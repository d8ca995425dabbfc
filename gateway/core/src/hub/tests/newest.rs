//! Tests subscribers of newest values: the values of a key never go back, and the last value of each key arrives.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use shared::moment::Moment;
use shared::publication::Keyed;

use super::*;
use crate::namespace_id::NamespaceId;
use crate::newest::{Lanes, NewestTerms, NextWrite, SUPERSEDED_TAG};

const LATEST: NewestTerms = NewestTerms { times_per_s: 0, bytes_per_s: 0, value_ttl_ms: 0, keys_max: 100 };

fn value(key: u8, offset: u64, now: Moment) -> Arc<Prepared> {
    let keyed = Keyed { key: key.to_string().into(), ..Keyed::default() };
    let publication = Publication {
        position: Some(at(offset)),
        keyed: Some(Box::new(keyed)),
        ..Publication::new(Payload::text(offset.to_string()))
    };
    Prepared::new(channel("news"), NamespaceId::DEFAULT, publication, now.0 * 1_000, &Arc::default())
}

/// Returns the key, the offset and the number of values that a publication stands for.
fn read(prepared: &Prepared) -> (u8, u64, u64) {
    let publication = prepared.publication().unwrap();
    let told = publication.tags.get(SUPERSEDED_TAG).map_or(0, |count| count.parse().unwrap());
    (publication.keyed.as_ref().unwrap().key.parse().unwrap(), publication.offset(), told + 1)
}

/// A client with what it has read.
#[derive(Debug, Default)]
struct Reader {
    lanes: Lanes<Arc<Prepared>>,
    is_blocked: bool,
    /// The offset of each key's last value.
    has: BTreeMap<u8, u64>,
    /// Values that the client received, or was told were superseded, since it went live.
    accounted: u64,
    /// The last offset when the client joined.
    joined_at: u64,
    /// Whether the client receives all values.
    all: bool,
    received: Vec<(u64, u8, u64)>,
}

#[derive(Debug, Default)]
struct Readers {
    readers: BTreeMap<u32, Reader>,
    now: Moment,
    told: Vec<u32>,
    /// Offsets of publications that were measured as delivered to all.
    delivered: Vec<u64>,
}

impl Reader {
    fn receive(&mut self, now: Moment, prepared: &Prepared) {
        let (key, offset, count) = read(prepared);
        let before = self.has.insert(key, offset).unwrap_or(0);
        assert!(before < offset, "key {key} goes from {before} to {offset}, which is not newer");
        self.accounted += count;
        self.received.push((now.0, key, offset));
    }

    fn take(&mut self, now: Moment) -> bool {
        let mut stale = 0;
        let NextWrite::Value { taken, .. } = self.lanes.next(now.0 * 1_000, &mut stale) else { return false };
        let prepared = taken.value.superseding(taken.superseded);
        self.receive(now, &prepared);
        true
    }
}

/// Delivers as a worker does.
impl Sink for Readers {
    fn deliver(&mut self, subscribers: &[Subscriber], bundles: &mut Bundles) {
        for subscriber in subscribers {
            let now = self.now;
            let Some(reader) = self.readers.get_mut(&subscriber.key) else { continue };
            assert_eq!(subscriber.is_newest(), !reader.all);
            for prepared in bundles.publications() {
                match subscriber.is_newest() && (reader.is_blocked || reader.lanes.is_needed()) {
                    true => drop(reader.lanes.put(prepared.channel(), prepared.clone(), 1 << 20).unwrap()),
                    false => reader.receive(now, prepared),
                }
            }
        }
    }

    fn delivered(&mut self, publications: &[Arc<Prepared>]) {
        self.delivered.extend(publications.iter().map(|prepared| read(prepared).1));
    }

    fn insufficient(&mut self, key: u32, _channel: &Channel) {
        self.told.push(key);
    }
}

/// A channel, one worker and its clients.
#[derive(Debug, Default)]
struct World {
    hub: Hub,
    readers: Readers,
    /// The newest offset of each key, as the broker keeps it.
    newest: BTreeMap<u8, u64>,
    top: u64,
    on_their_way: Vec<Arc<Prepared>>,
    /// Clients that join, with the snapshot and the position of their replies.
    joining: Vec<(u32, BTreeMap<u8, u64>, u64)>,
}

impl World {
    fn publish(&mut self, key: u8) {
        self.top += 1;
        self.newest.insert(key, self.top);
        self.on_their_way.push(value(key, self.top, self.readers.now));
    }

    fn deliver(&mut self, count: usize) {
        let count = count.min(self.on_their_way.len());
        let now: Vec<_> = self.on_their_way.drain(..count).collect();
        self.hub.set_now(self.readers.now);
        self.hub.deliver("news", &now, &mut self.readers);
    }

    fn pass(&mut self, millis: u64) {
        self.readers.now = self.readers.now + Duration::from_millis(millis);
        self.hub.close_windows(self.readers.now, &mut self.readers);
        let now = self.readers.now;
        for reader in self.readers.readers.values_mut().filter(|reader| !reader.is_blocked) {
            while reader.take(now) {}
        }
    }

    fn join(&mut self, key: u32, latest: Option<NewestTerms>) {
        self.leave(key);
        let subscriber = subscriber(key, true);
        match latest {
            Some(latest) => self.hub.join_latest(&channel("news"), subscriber, None, latest),
            None => self.hub.join(&channel("news"), subscriber, None),
        };
        let mut reader = Reader { all: latest.is_none(), joined_at: self.top, ..Reader::default() };
        reader.lanes.open(&channel("news"), latest.unwrap_or(LATEST));
        self.readers.readers.insert(key, reader);
        self.joining.push((key, self.newest.clone(), self.top));
    }

    fn go_live(&mut self) {
        if self.joining.is_empty() {
            return;
        }
        let (key, snapshot, top) = self.joining.remove(0);
        if let Some(reader) = self.readers.readers.get_mut(&key) {
            reader.has = snapshot;
        }
        self.hub.go_live("news", key, Some(at(top)), &mut self.readers);
    }

    fn leave(&mut self, key: u32) {
        self.joining.retain(|(joining, ..)| *joining != key);
        self.hub.leave("news", key);
        self.readers.readers.remove(&key);
    }

    fn change(&mut self, key: u32, latest: Option<NewestTerms>) {
        let now = self.readers.now;
        self.hub.finish_sweeps_of("news", &mut self.readers);
        // Values that wait in the hub are delivered before the change takes effect.
        if self.hub.change_latest("news", key, latest, &mut Passing(&mut self.readers))
            != DeliveryChangeOutcome::Done
        {
            return;
        }
        let Some(reader) = self.readers.readers.get_mut(&key) else { return };
        reader.all = latest.is_none();
        match latest {
            Some(latest) => reader.lanes.open(&channel("news"), latest),
            None => {
                for taken in reader.lanes.close(&channel("news"), now.0 * 1_000, &mut 0) {
                    reader.receive(now, &taken.value.superseding(taken.superseded));
                }
                reader.lanes.open(&channel("news"), LATEST);
            }
        }
    }

    /// Lets all clients read everything.
    fn settle(&mut self) {
        while !self.joining.is_empty() {
            self.go_live();
        }
        self.deliver(usize::MAX);
        self.readers.readers.values_mut().for_each(|reader| reader.is_blocked = false);
        for _ in 0..4 {
            self.pass(1_000);
        }
        self.hub.finish_sweeps(&mut self.readers);
        self.pass(0);
    }
}

/// Takes the values that wait for a client whose delivery is about to change.
struct Passing<'a>(&'a mut Readers);

impl Sink for Passing<'_> {
    fn deliver(&mut self, subscribers: &[Subscriber], bundles: &mut Bundles) {
        self.0.deliver(subscribers, bundles);
    }

    fn insufficient(&mut self, key: u32, channel: &Channel) {
        self.0.insufficient(key, channel);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish(u8),
    Deliver(usize),
    Pass(u64),
    Join(u32, Option<u32>),
    GoLive,
    Leave(u32),
    Block(u32, bool),
    Take(u32),
    Change(u32, Option<u32>),
    SweepOn,
}

fn times() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![1 => Just(None), 3 => prop_oneof![Just(0), Just(5), Just(100)].prop_map(Some)]
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..6_u32;
    prop_oneof![
        12 => (0..5_u8).prop_map(Step::Publish),
        8 => (1..6_usize).prop_map(Step::Deliver),
        6 => (0..150_u64).prop_map(Step::Pass),
        3 => (who.clone(), times()).prop_map(|(who, times)| Step::Join(who, times)),
        3 => Just(Step::GoLive),
        1 => who.clone().prop_map(Step::Leave),
        3 => (who.clone(), any::<bool>()).prop_map(|(who, blocked)| Step::Block(who, blocked)),
        3 => who.clone().prop_map(Step::Take),
        2 => (who, times()).prop_map(|(who, times)| Step::Change(who, times)),
        2 => Just(Step::SweepOn),
    ]
}

fn latest(times: Option<u32>) -> Option<NewestTerms> {
    times.map(|times_per_s| NewestTerms { times_per_s, ..LATEST })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whoever_joins_when_ever_has_the_newest_of_each_key_in_the_end_and_none_goes_back(
        piece in 1_usize..4,
        steps in proptest::collection::vec(step(), 1..160),
    ) {
        let mut world = World { hub: Hub::default().with_sweep_piece(piece), ..World::default() };
        for step in steps {
            match step {
                Step::Publish(key) => world.publish(key),
                Step::Deliver(count) => world.deliver(count),
                Step::Pass(millis) => world.pass(millis),
                Step::Join(who, times) => world.join(who, latest(times)),
                Step::GoLive => world.go_live(),
                Step::Leave(who) => world.leave(who),
                Step::Block(who, blocked) => {
                    if let Some(reader) = world.readers.readers.get_mut(&who) {
                        reader.is_blocked = blocked;
                    }
                }
                Step::Take(who) => {
                    let now = world.readers.now;
                    if let Some(reader) = world.readers.readers.get_mut(&who) {
                        reader.take(now);
                    }
                }
                Step::Change(who, times) => world.change(who, latest(times)),
                Step::SweepOn => world.hub.sweep_on(&mut world.readers),
            }
            for reader in world.readers.readers.values() {
                prop_assert!(reader.lanes.len() <= 5, "no key waits twice");
            }
        }
        world.settle();
        prop_assert_eq!(&world.readers.told, &Vec::<u32>::new());
        for (who, reader) in &world.readers.readers {
            prop_assert_eq!(&reader.has, &world.newest, "{}", who);
            prop_assert_eq!(reader.lanes.len(), 0);
            prop_assert_eq!(reader.accounted, world.top - reader.joined_at, "received and superseded: all, {}", who);
        }
    }
}

fn world(latest: NewestTerms) -> World {
    let mut world = World::default();
    world.join(1, Some(latest));
    world.go_live();
    world
}

#[test]
fn all_that_a_slow_reader_is_not_sent_is_counted_and_it_is_told() {
    let mut world = world(LATEST);
    world.readers.readers.get_mut(&1).unwrap().is_blocked = true;
    for number in 0..10_000 {
        world.publish((number % 5) as u8);
        world.deliver(1);
        if number % 1_000 == 999 {
            let now = world.readers.now;
            assert!(world.readers.readers.get_mut(&1).unwrap().take(now));
        }
    }
    world.settle();
    let reader = &world.readers.readers[&1];
    assert_eq!((reader.received.len(), reader.accounted), (14, 10_000));
    let first: Vec<u8> = reader.received[..5].iter().map(|(_, key, _)| *key).collect();
    assert_eq!(first, [0, 1, 2, 3, 4], "each key keeps its turn");
}

#[test]
fn so_many_times_a_second_is_a_window_and_what_comes_seldom_is_never_late() {
    let mut world = world(NewestTerms { times_per_s: 5, ..LATEST });
    world.publish(1);
    world.deliver(1);
    assert_eq!(world.readers.readers[&1].received, [(0, 1, 1)], "the first goes at once");
    for _ in 0..1_000 {
        world.pass(1);
        for key in 0..3 {
            world.publish(key);
        }
        world.deliver(3);
    }
    let reader = &world.readers.readers[&1];
    let mut times: Vec<u64> = reader.received.iter().map(|(at, ..)| *at).collect();
    times.dedup();
    assert_eq!(times, [0, 200, 400, 600, 800, 1_000]);
    assert_eq!(reader.received.len(), 1 + 5 * 3);
    world.settle();
    let reader = &world.readers.readers[&1];
    assert_eq!(reader.accounted, 3_001);
    assert_eq!(reader.has, world.newest);
    let counts = world.hub.counts();
    assert_eq!(counts.superseded, 3_001 - reader.received.len() as u64);
    assert_eq!(world.hub.next_window(), None, "a pause leaves nothing behind");
}

#[test]
fn what_waits_for_its_window_as_it_was_asked_to_is_not_measured_as_late() {
    for piece in [1, SWEEP_PIECE] {
        let mut world = World { hub: Hub::default().with_sweep_piece(piece), ..World::default() };
        for key in 1..=3 {
            world.join(key, Some(NewestTerms { times_per_s: 5, ..LATEST }));
        }
        world.go_live();
        world.publish(1);
        world.deliver(1);
        world.hub.finish_sweeps(&mut world.readers);
        world.publish(2);
        world.deliver(1);
        world.pass(200);
        world.hub.finish_sweeps(&mut world.readers);
        let received = &world.readers.readers[&1].received;
        assert_eq!(*received, [(0, 1, 1), (200, 2, 2)]);
        assert_eq!(world.readers.delivered, [1], "in pieces of {piece}");
    }
}

#[test]
fn those_who_want_as_much_share_what_is_made_for_them() {
    let mut world = World::default();
    for who in 1..=3 {
        world.join(who, latest(Some(5)));
        world.go_live();
    }
    for key in [1, 1, 2, 1] {
        world.publish(key);
        world.deliver(1);
    }
    world.pass(200);
    for who in 1..=3 {
        assert_eq!(world.readers.readers[&who].received, [(0, 1, 1), (200, 1, 4), (200, 2, 3)]);
    }
    assert_eq!(world.hub.counts().superseded, 3, "one value for each of three");
}

#[test]
fn values_of_one_batch_are_newest_values_too() {
    let mut world = world(LATEST);
    for key in [3, 1, 2, 1, 1] {
        world.publish(key);
    }
    world.deliver(1);
    world.deliver(4);
    assert_eq!(world.readers.readers[&1].received, [(0, 3, 1), (0, 1, 5), (0, 2, 3)]);
    assert_eq!(world.readers.readers[&1].accounted, 5);
}

#[test]
fn a_value_that_grew_too_old_in_its_window_does_not_leave_it() {
    let mut world = world(NewestTerms { times_per_s: 1, value_ttl_ms: 300, ..LATEST });
    world.publish(1);
    world.deliver(1);
    world.pass(100);
    world.publish(1);
    world.publish(2);
    world.deliver(2);
    world.pass(700);
    world.publish(3);
    world.deliver(1);
    world.pass(200);
    let reader = &world.readers.readers[&1];
    assert_eq!(reader.received, [(0, 1, 1), (1_000, 3, 4)]);
    assert_eq!((reader.accounted, world.hub.counts().stale), (4, 2));
}

#[test]
fn a_subscription_with_patches_stays_as_it_is() {
    let mut world = World::default();
    let mut patched = subscriber(7, true);
    patched.variant = patched.variant.with_patches();
    world.hub.join(&channel("news"), patched, None);
    assert_eq!(
        world.hub.change_latest("news", 7, Some(LATEST), &mut world.readers),
        DeliveryChangeOutcome::NotNow,
        "it joins"
    );
    world.hub.go_live("news", 7, Some(at(0)), &mut world.readers);
    assert_eq!(
        world.hub.change_latest("news", 7, Some(LATEST), &mut world.readers),
        DeliveryChangeOutcome::Never
    );
    assert_eq!(world.hub.change_latest("news", 8, None, &mut world.readers), DeliveryChangeOutcome::NotNow);
}

#[test]
fn who_comes_while_a_window_is_open_is_sent_what_comes_after_that_and_nothing_twice() {
    let paced = latest(Some(5));
    let mut world = world(paced.unwrap());
    let values = |world: &mut World, count: usize| {
        for _ in 0..count {
            world.publish(1);
            world.deliver(1);
        }
    };
    world.join(2, None);
    world.go_live();
    world.join(3, None);
    world.go_live();
    values(&mut world, 3);
    // One client changes, another joins with all values so far, a third changes later.
    world.change(2, paced);
    world.join(4, paced);
    world.go_live();
    values(&mut world, 2);
    world.change(3, paced);
    world.settle();
    let read = |who: u32| {
        let reader = &world.readers.readers[&who];
        (reader.received.iter().map(|(_, _, offset)| *offset).collect::<Vec<_>>(), reader.accounted)
    };
    assert_eq!(read(1), (vec![1, 5], 5));
    assert_eq!(read(2), (vec![1, 2, 3, 5], 5));
    assert_eq!(read(3), (vec![1, 2, 3, 4, 5], 5));
    assert_eq!(read(4), (vec![5], 2));
    assert_eq!(world.hub.counts().superseded, 3 + 1 + 1, "what each of them was not sent");
}

#[test]
fn nobody_misses_what_is_under_way_when_another_changes() {
    let mut world = World { hub: Hub::default().with_sweep_piece(1), ..World::default() };
    for who in 1..=3 {
        world.join(who, None);
        world.go_live();
    }
    world.publish(1);
    world.deliver(1);
    let mut passed = Seen::default();
    let changed = world.hub.change_latest("news", 3, Some(LATEST), &mut passed);
    assert_eq!(
        (changed, passed.got.len()),
        (DeliveryChangeOutcome::NotNow, 0),
        "nothing is handed to one in place of others"
    );
    world.change(3, Some(LATEST));
    for who in 1..=3 {
        assert_eq!(world.readers.readers[&who].accounted, 1);
    }
}

#[test]
fn who_leaves_a_window_is_told_how_many_values_were_superseded_there() {
    let mut world = world(NewestTerms { times_per_s: 5, ..LATEST });
    for _ in 0..4 {
        world.publish(1);
    }
    world.deliver(1);
    world.deliver(3);
    world.change(1, None);
    let reader = &world.readers.readers[&1];
    assert_eq!((reader.received.len(), reader.accounted), (2, 4));
}

#[test]
fn what_waited_for_those_who_have_gone_is_for_nobody_else() {
    let latest = NewestTerms { times_per_s: 5, ..LATEST };
    let mut world = world(latest);
    for key in [0, 4] {
        world.publish(key);
    }
    world.join(2, Some(latest));
    world.deliver(2);
    world.publish(4);
    world.leave(1);
    world.deliver(1);
    world.settle();
    let expected = [(0, 4, 3)];
    assert_eq!(world.readers.readers[&2].received, expected, "and not what the one before it did not get");
}
