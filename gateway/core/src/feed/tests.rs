//! Tests of a feed: single steps, and streams that lose and repeat publications at random.

use proptest::prelude::*;
use shared::position::Epoch;
use shared::publication::Payload;

use super::GapCheck::{AfterLoss, Routine};
use super::*;

fn at(offset: u64) -> StreamPosition {
    in_epoch("one", offset)
}

fn in_epoch(epoch: &str, offset: u64) -> StreamPosition {
    StreamPosition { offset, epoch: Epoch::parse(epoch).unwrap() }
}

fn publication(position: StreamPosition) -> Publication {
    Publication { position: Some(position), ..Publication::new(Payload::text("text")) }
}

fn page(offsets: std::ops::RangeInclusive<u64>, top: StreamPosition) -> HistoryPage {
    let publications = offsets.map(|offset| publication(StreamPosition { offset, ..top })).collect();
    HistoryPage { publications, top }
}

/// The delivered offsets, a loss as a negative number.
fn offsets(repaired: &RepairOutcome) -> Vec<i64> {
    let offset = |position: StreamPosition| i64::try_from(position.offset).unwrap();
    repaired
        .deliveries
        .iter()
        .map(|delivery| match delivery {
            FeedDelivery::Publication(publication) => offset(publication.position.unwrap()),
            FeedDelivery::Lost(position) => -offset(*position),
        })
        .collect()
}

fn delivered(feed: &mut Feed, position: StreamPosition) -> bool {
    matches!(feed.admit(publication(position)), Admission::Deliver(_))
}

#[test]
fn publications_pass_in_order_and_once() {
    let mut feed = Feed::default();
    assert!((3..6).all(|offset| delivered(&mut feed, at(offset))));
    assert!(delivered(&mut feed, at(6)));
}

#[test]
fn what_comes_twice_for_no_reason_is_held_against_history() {
    let mut feed = Feed::default();
    assert!((3..6).all(|offset| delivered(&mut feed, at(offset))));
    assert_eq!(feed.admit(publication(at(4))), Admission::Doubtful { since: 4 });
    assert_eq!(feed.admit(publication(at(6))), Admission::Held);
    assert_eq!(feed.admit(publication(at(5))), Admission::Duplicate, "looked into already");
    let repaired = feed.repair(page(5..=6, at(6)));
    assert_eq!((offsets(&repaired), repaired.leave), (vec![6], None), "it is the same stream");
    assert_eq!(feed.admit(publication(at(4))), Admission::Doubtful { since: 5 }, "as much again has come");
    assert_eq!(feed.repair(page(6..=6, at(6))), RepairOutcome::default());
    assert_eq!(feed.admit(publication(at(3))), Admission::Duplicate, "nothing came since the last look");
    assert!(delivered(&mut feed, at(7)));
}

#[test]
fn what_has_come_and_was_brought_by_history_too_is_not_expected_again() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    assert_eq!(feed.admit(publication(at(4))), Admission::Gap { since: 0 });
    let repaired = feed.repair(page(1..=5, at(5)));
    assert_eq!((offsets(&repaired), repaired.again), (vec![2, 3, 4, 5], None));
    assert_eq!(feed.admit(publication(at(4))), Admission::Doubtful { since: 4 }, "it has come");
}

#[test]
fn a_stream_that_stands_behind_is_left_and_whoever_follows_it_told() {
    let mut feed = Feed::default();
    assert!((1..=10).all(|offset| delivered(&mut feed, at(offset))));
    let before = feed.position();
    assert!(delivered(&mut feed, at(11)));
    assert_eq!(feed.check(before, at(10), Routine), GapState::Fine, "11 came after it was asked");
    let before = feed.position();
    assert_eq!(feed.check(before, at(7), Routine), GapState::Missing { since: 10 });
    assert_eq!(feed.admit(publication(at(12))), Admission::Held);
    let repaired = feed.repair(HistoryPage { publications: vec![], top: at(7) });
    assert_eq!((offsets(&repaired), repaired.leave, repaired.again), (vec![], Some(at(0).epoch), Some(10)));
    let repaired = feed.repair_failed();
    assert_eq!((repaired.leave, repaired.again), (Some(at(0).epoch), Some(10)), "until it is left");
    assert_eq!(feed.repair(page(11..=15, at(15))).leave, Some(at(0).epoch), "also if more followed");
    let repaired = feed.left(in_epoch("two", 8));
    assert_eq!((offsets(&repaired), repaired.again, repaired.leave), (vec![12, -8], None, None));
    assert_eq!(feed.admit(publication(at(13))), Admission::Duplicate, "of a stream that is gone");
    assert!(delivered(&mut feed, in_epoch("two", 9)));
}

#[test]
fn a_stream_that_went_back_and_on_is_known_by_what_stands_in_the_place_of_the_last_publication() {
    let other = |offset| Publication {
        position: Some(at(offset)),
        ..Publication::new(Payload::text(format!("another {offset}")))
    };
    let replaced = || HistoryPage { publications: (3..=6).map(other).collect(), top: at(6) };
    let five = || {
        let mut feed = Feed::default();
        assert!((1..=5).all(|offset| delivered(&mut feed, at(offset))));
        feed
    };
    let mut told = five();
    assert_eq!(told.admit(other(3)), Admission::Doubtful { since: 4 });
    assert_eq!(told.repair(replaced()).leave, Some(at(0).epoch));

    let mut gap = five();
    assert_eq!(gap.admit(other(7)), Admission::Gap { since: 4 });
    assert_eq!(gap.repair(replaced()).leave, Some(at(0).epoch), "what is missing does not join on");

    let mut expired = five();
    assert_eq!(expired.admit(other(3)), Admission::Doubtful { since: 4 });
    let nothing = HistoryPage { publications: vec![], top: at(6) };
    assert_eq!(expired.repair(nothing.clone()).leave, Some(at(0).epoch), "nobody can say what it was");
    let mut gap = five();
    assert_eq!(gap.admit(publication(at(7))), Admission::Gap { since: 4 });
    assert_eq!(gap.repair(nothing).leave, None, "which is nothing new for a gap");
}

#[test]
fn what_history_brought_may_come_once_more_but_not_twice() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    feed.admit(publication(at(3)));
    assert_eq!(offsets(&feed.repair(page(1..=6, at(6)))), [2, 3, 4, 5, 6]);
    assert!((4..=5).all(|offset| feed.admit(publication(at(offset))) == Admission::Duplicate));
    assert_eq!(feed.admit(publication(at(3))), Admission::Doubtful { since: 5 }, "it came already");
    assert_eq!(feed.repair(page(6..=6, at(6))), RepairOutcome::default());
    assert!(delivered(&mut feed, at(7)));
    assert_eq!(feed.admit(publication(at(6))), Admission::Doubtful { since: 6 }, "7 came after it");
}

#[test]
fn where_the_epoch_cannot_be_left_everybody_is_told_nonetheless() {
    let mut feed = Feed::default();
    assert!((1..=5).all(|offset| delivered(&mut feed, at(offset))));
    feed.check(feed.position(), at(3), AfterLoss);
    feed.repair(page(1..=3, at(3)));
    let given_up = (0..REPAIR_ATTEMPTS_MAX).map(|_| feed.repair_failed()).last().unwrap();
    assert_eq!(given_up.deliveries, [FeedDelivery::Lost(StreamPosition::default())]);
    assert_eq!(given_up.again, None);
    assert!(delivered(&mut feed, at(4)), "and it starts from nothing");
}

#[test]
fn a_channel_without_a_stream_passes_through() {
    let mut feed = Feed::default();
    let plain = Publication::new(Payload::text("text"));
    assert_eq!(feed.admit(plain.clone()), Admission::Deliver(plain));
    assert_eq!(feed.position(), None);
    assert_eq!(feed.check(None, at(7), AfterLoss), GapState::Fine);
}

#[test]
fn a_gap_is_mended_before_what_follows_it() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    assert_eq!(
        feed.admit(publication(at(4))),
        Admission::Gap { since: 0 },
        "what is read shows where it joins on"
    );
    assert_eq!(feed.admit(publication(at(5))), Admission::Held);
    assert_eq!(feed.admit(publication(at(1))), Admission::Duplicate);
    assert_eq!(feed.admit(publication(at(7))), Admission::Held);

    let repaired = feed.repair(page(2..=4, at(4)));
    assert_eq!((offsets(&repaired), repaired.again), (vec![2, 3, 4, 5], Some(5)));
    let repaired = feed.repair(page(6..=8, at(8)));
    assert_eq!((offsets(&repaired), repaired.again), (vec![6, 7, 8], None));
    assert_eq!(feed.admit(publication(at(8))), Admission::Duplicate);
    assert!(delivered(&mut feed, at(9)));
}

#[test]
fn what_history_no_longer_has_is_told_and_the_rest_delivered() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    feed.admit(publication(at(9)));
    let repaired = feed.repair(page(6..=9, at(9)));
    assert_eq!((offsets(&repaired), repaired.again), (vec![-5, 6, 7, 8, 9], None));

    feed.admit(publication(at(12)));
    let repaired = feed.repair(HistoryPage { publications: vec![], top: at(12) });
    assert_eq!((offsets(&repaired), repaired.again), (vec![-12], None));
}

#[test]
fn a_long_gap_is_read_page_by_page() {
    let mut feed = Feed::default();
    feed.anchor(at(0));
    assert_eq!(feed.admit(publication(at(7))), Admission::Gap { since: 0 });
    let repaired = feed.repair(page(1..=3, at(7)));
    assert_eq!((offsets(&repaired), repaired.again), (vec![1, 2, 3], Some(3)));
    let repaired = feed.repair(page(4..=6, at(7)));
    assert_eq!((offsets(&repaired), repaired.again), (vec![4, 5, 6, 7], None));
}

#[test]
fn a_gap_that_cannot_be_read_is_given_up_after_some_attempts() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    feed.admit(publication(at(3)));
    for _ in 1..REPAIR_FAILURES_MAX {
        assert_eq!(feed.repair_failed(), RepairOutcome { again: Some(0), ..RepairOutcome::default() });
    }
    assert_eq!(offsets(&feed.repair_failed()), [3], "with its hole, which workers see");
    assert!(delivered(&mut feed, at(4)));

    assert_eq!(feed.check(None, at(6), AfterLoss), GapState::Missing { since: 3 });
    for _ in 1..REPAIR_FAILURES_MAX {
        feed.repair_failed();
    }
    assert_eq!(offsets(&feed.repair_failed()), [-6], "nothing came that would show the hole");
    assert!(!feed.is_repairing());
    assert_eq!(feed.admit(publication(at(6))), Admission::Duplicate, "what was told as lost is no news");
    assert!(delivered(&mut feed, at(7)));
}

#[test]
fn attempts_that_bring_nothing_count_only_one_after_the_other() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    feed.admit(publication(at(100)));
    for offset in 2..=u64::from(2 * REPAIR_FAILURES_MAX) {
        assert!(feed.repair_failed().again.is_some(), "before {offset}");
        let repaired = feed.repair(page(offset..=offset, at(100)));
        assert_eq!((offsets(&repaired), repaired.again), (vec![offset as i64], Some(offset)));
    }
}

#[test]
fn what_is_held_is_bounded_and_read_again() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    let last = 3 + FEED_HELD_PUBLICATIONS_MAX as u64 + 10;
    for offset in 3..=last {
        feed.admit(publication(at(offset)));
        assert!(feed.gap_repair().unwrap().held.len() <= FEED_HELD_PUBLICATIONS_MAX);
    }
    let repaired = feed.repair(page(2..=5, at(last)));
    assert_eq!((offsets(&repaired), repaired.again), (vec![2, 3, 4, 5], Some(5)));
    let repaired = feed.repair(page(6..=last - 20, at(last)));
    assert_eq!(repaired.again, Some(last - 20));
    let repaired = feed.repair(page(last - 19..=last, at(last)));
    assert_eq!((repaired.deliveries.len(), repaired.again), (20, None));
}

#[test]
fn what_has_been_given_out_makes_room_for_what_is_held() {
    let large = |offset| {
        let bytes = vec![0; FEED_HELD_BYTES_MAX / 2 + 1];
        Publication { position: Some(at(offset)), ..Publication::new(Payload::binary(bytes)) }
    };
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    assert!(matches!(feed.admit(large(3)), Admission::Gap { .. }));
    assert_eq!(feed.admit(publication(at(5))), Admission::Held);
    let repaired = feed.repair(page(2..=2, at(5)));
    assert_eq!((offsets(&repaired), repaired.again), (vec![2, 3], Some(3)));
    assert_eq!(feed.admit(large(6)), Admission::Held);
    let repaired = feed.repair(page(4..=4, at(6)));
    assert_eq!((offsets(&repaired), repaired.again), (vec![4, 5, 6], None));
}

#[test]
fn a_suspicion_ends_with_a_look_that_finds_nothing() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(5)));
    for _ in 0..2 {
        assert_eq!(feed.check(None, in_epoch("two", 3), Routine), GapState::Suspicious);
        assert_eq!(feed.check(None, at(5), Routine), GapState::Fine);
    }
}

#[test]
fn a_quiet_channel_is_found_behind_at_the_second_look_only() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    assert_eq!(feed.check(None, at(1), Routine), GapState::Fine);
    assert_eq!(feed.check(None, at(3), Routine), GapState::Suspicious);
    assert!(delivered(&mut feed, at(2)) && delivered(&mut feed, at(3)));
    assert_eq!(feed.check(None, at(4), Routine), GapState::Suspicious, "the first one was on its way");
    assert_eq!(feed.check(None, at(4), Routine), GapState::Missing { since: 2 });
    assert_eq!(feed.check(None, at(5), Routine), GapState::Fine, "being repaired");
    let repaired = feed.repair(page(4..=4, at(4)));
    assert_eq!((offsets(&repaired), repaired.again), (vec![4], Some(4)), "5 is known to be there");
    assert_eq!(offsets(&feed.repair(page(5..=5, at(5)))), [5]);
    assert_eq!(feed.admit(publication(at(5))), Admission::Duplicate, "late");
}

#[test]
fn what_a_subscriber_knows_from_history_shows_that_the_first_publication_is_missing() {
    let mut feed = Feed::default();
    feed.anchor(at(5));
    assert_eq!(feed.admit(publication(at(7))), Admission::Gap { since: 5 });
    assert_eq!(offsets(&feed.repair(page(6..=7, at(7)))), [6, 7]);

    let mut quiet = Feed::default();
    quiet.anchor(at(5));
    assert_eq!(quiet.check(None, at(6), AfterLoss), GapState::Missing { since: 5 });

    let mut late = Feed::default();
    late.anchor(at(5));
    assert!((4..7).all(|offset| delivered(&mut late, at(offset))), "others may not know them yet");
}

#[test]
fn a_new_epoch_passes_and_a_check_finds_a_quiet_one() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(5)) && delivered(&mut feed, in_epoch("two", 1)));
    assert_eq!(feed.check(None, in_epoch("three", 2), Routine), GapState::Suspicious);
    assert_eq!(feed.check(None, in_epoch("three", 2), Routine), GapState::Lost(in_epoch("three", 2)));
    assert_eq!(feed.check(None, in_epoch("three", 2), AfterLoss), GapState::Fine);
    assert_eq!(feed.admit(publication(in_epoch("three", 2))), Admission::Duplicate, "it was on its way");
    assert_eq!(feed.check(None, in_epoch("three", 3), AfterLoss), GapState::Missing { since: 2 });
    assert_eq!(offsets(&feed.repair(page(3..=3, in_epoch("three", 3)))), [3]);
}

#[test]
fn a_gap_in_a_stream_that_is_gone_is_lost_and_the_new_stream_begins_with_what_came_of_it() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(5)));
    assert_eq!(feed.admit(publication(at(8))), Admission::Gap { since: 4 });
    assert_eq!(feed.admit(publication(in_epoch("two", 3))), Admission::Held);
    let repaired = feed.repair(page(3..=3, in_epoch("two", 3)));
    assert_eq!((offsets(&repaired), repaired.again), (vec![8, -2, 3], None));
}

/// What happens to a publication, and when history is read.
#[derive(Clone, Copy, Debug)]
enum Step {
    Publish { lost: bool },
    Answer { limit: usize },
    FailToAnswer,
    Reset,
    Trim,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => any::<u8>().prop_map(|dice| Step::Publish { lost: dice < 64 }),
        4 => (1usize..4).prop_map(|limit| Step::Answer { limit }),
        1 => Just(Step::FailToAnswer),
        1 => Just(Step::Trim),
    ];
    let rare = prop_oneof![30 => step, 1 => Just(Step::Reset)];
    prop::collection::vec(rare, 0..120)
}

proptest! {
    #[test]
    fn everything_is_delivered_once_and_in_order_or_known_to_be_lost(steps in steps()) {
        let mut feed = Feed::default();
        let mut top = at(0);
        let mut retained = 0..0u64;
        feed.anchor(top);
        // What a subscriber that started at the anchor believes.
        let mut seen = top;
        let mut wanted = None;
        let mut epochs = 1;
        let ask = |feed: &mut Feed, wanted: &mut Option<u64>, top, retained: std::ops::Range<u64>, limit: usize| {
            let since = wanted.take()?;
            let first = (since + 1).max(retained.start);
            let publications = (first..retained.end).take(limit);
            let publications = publications.map(|offset| publication(StreamPosition { offset, ..top })).collect();
            let repaired = feed.repair(HistoryPage { publications, top });
            *wanted = repaired.again;
            Some(repaired.deliveries)
        };
        let follow = |seen: &mut StreamPosition, delivery: &FeedDelivery| {
            let (to, lost) = match delivery {
                FeedDelivery::Lost(to) => (*to, true),
                FeedDelivery::Publication(publication) => (publication.position.unwrap(), false),
            };
            let forward = to.epoch != seen.epoch || to.offset > seen.offset;
            let hole = to.epoch != seen.epoch || to.offset > seen.offset + 1;
            *seen = to;
            (forward, hole || lost)
        };
        let mut holes = 0;
        let mut trimmed = false;
        for step in steps {
            let deliveries = match step {
                Step::Publish { lost } => {
                    top.offset += 1;
                    retained.end = top.offset + 1;
                    if lost {
                        continue;
                    }
                    match feed.admit(publication(top)) {
                        Admission::Deliver(publication) => vec![FeedDelivery::Publication(publication)],
                        Admission::Gap { since } => {
                            prop_assert_eq!(wanted.replace(since), None);
                            vec![]
                        }
                        Admission::Held => vec![],
                        Admission::Doubtful { .. } => panic!("nothing comes twice"),
                        Admission::Duplicate => {
                            prop_assert!(seen == top, "history brought it already");
                            vec![]
                        }
                    }
                }
                Step::Answer { limit } => {
                    ask(&mut feed, &mut wanted, top, retained.clone(), limit).unwrap_or_default()
                }
                Step::FailToAnswer if wanted.is_some() => {
                    let repaired = feed.repair_failed();
                    wanted = repaired.again;
                    trimmed |= wanted.is_none();
                    repaired.deliveries
                }
                Step::FailToAnswer => vec![],
                Step::Trim => {
                    retained.start = retained.end.saturating_sub(2).max(1);
                    trimmed = true;
                    vec![]
                }
                Step::Reset => {
                    epochs += 1;
                    top = in_epoch(&format!("{epochs}"), 0);
                    retained = 0..0;
                    trimmed = true;
                    vec![]
                }
            };
            for delivery in &deliveries {
                let (forward, hole) = follow(&mut seen, delivery);
                prop_assert!(forward, "{delivery:?} goes back");
                holes += u32::from(hole);
            }
        }
        prop_assert!(trimmed || holes == 0, "history had everything");

        // Once the channel is quiet, two checks find everything that is missing.
        for _ in 0..1000 {
            let deliveries = match wanted {
                Some(_) => ask(&mut feed, &mut wanted, top, retained.clone(), 10).unwrap_or_default(),
                None => match feed.check(None, top, Routine) {
                    GapState::Fine => break,
                    GapState::Suspicious => vec![],
                    GapState::Missing { since } => {
                        wanted = Some(since);
                        vec![]
                    }
                    GapState::Lost(lost) => vec![FeedDelivery::Lost(lost)],
                },
            };
            for delivery in &deliveries {
                prop_assert!(follow(&mut seen, delivery).0, "{delivery:?} goes back");
            }
        }
        prop_assert_eq!(seen, top);
        prop_assert!(!feed.is_repairing());
    }
}

/// A broker whose data is rolled back unannounced. Holds what is at each offset, from 1 on.
#[derive(Debug)]
struct Forgetful {
    life: u64,
    stream: Vec<u64>,
    published: u64,
}

impl Forgetful {
    fn top(&self) -> StreamPosition {
        in_epoch(&self.life.to_string(), self.stream.len() as u64)
    }

    fn publish(&mut self) -> Publication {
        self.published += 1;
        self.stream.push(self.published);
        self.at(self.top().offset)
    }

    fn at(&self, offset: u64) -> Publication {
        let position = Some(StreamPosition { offset, ..self.top() });
        Publication {
            position,
            ..Publication::new(Payload::text(self.stream[offset as usize - 1].to_string()))
        }
    }

    fn page(&self, since: u64, limit: usize) -> HistoryPage {
        let publications = (since + 1..=self.top().offset).take(limit).map(|offset| self.at(offset));
        HistoryPage { publications: publications.collect(), top: self.top() }
    }
}

/// What a subscriber believes to be at each offset.
#[derive(Debug)]
struct Follower {
    knows: Vec<u64>,
    at: StreamPosition,
    told: u32,
}

impl Follower {
    fn start(broker: &Forgetful, told: u32) -> Self {
        Self { knows: broker.stream.clone(), at: broker.top(), told }
    }

    /// Does what a hub does, and a client that comes back and cannot recover.
    fn take(&mut self, deliveries: &[FeedDelivery], broker: &Forgetful) {
        for delivery in deliveries {
            let (comes, data) = match delivery {
                FeedDelivery::Lost(position) => (*position, None),
                FeedDelivery::Publication(publication) => {
                    (publication.position.unwrap(), Some(&publication.data.bytes))
                }
            };
            match data {
                Some(data) if comes == StreamPosition { offset: self.at.offset + 1, ..self.at } => {
                    self.knows.push(std::str::from_utf8(data).unwrap().parse().unwrap());
                    self.at = comes;
                }
                _ if comes.epoch == self.at.epoch && comes.offset <= self.at.offset => {}
                _ => *self = Self::start(broker, self.told + 1),
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    Publish,
    GoBack(usize),
    Read,
    Check,
}

proptest! {
    #[test]
    fn data_that_goes_back_is_found_out_however_much_follows(
        turns in prop::collection::vec(prop_oneof![
            6 => Just(Turn::Publish),
            1 => (1usize..6).prop_map(Turn::GoBack),
            3 => Just(Turn::Read),
            1 => Just(Turn::Check),
        ], 0..80)
    ) {
        let mut broker = Forgetful { life: 1, stream: Vec::new(), published: 0 };
        let (mut feed, mut wanted, mut went_back) = (Feed::default(), None, false);
        feed.anchor(broker.top());
        let mut follower = Follower::start(&broker, 0);
        let quiet = (0..40).flat_map(|_| [Turn::Read, Turn::Check]);
        for turn in turns.into_iter().chain(quiet) {
            let deliveries = match turn {
                Turn::Publish => match feed.admit(broker.publish()) {
                    Admission::Deliver(publication) => vec![FeedDelivery::Publication(publication)],
                    Admission::Gap { since } | Admission::Doubtful { since } => {
                        prop_assert_eq!(wanted.replace(since), None);
                        vec![]
                    }
                    Admission::Held | Admission::Duplicate => vec![],
                },
                // Publications of the anchor that come a second time cannot be told from late ones.
                Turn::GoBack(count) if feed.fingerprint != 0 => {
                    broker.stream.truncate(broker.stream.len().saturating_sub(count));
                    went_back = true;
                    vec![]
                }
                Turn::GoBack(_) => vec![],
                Turn::Read => match wanted.take() {
                    None => vec![],
                    Some(since) => {
                        let mut repaired = feed.repair(broker.page(since, 3));
                        if repaired.leave.is_some() {
                            broker.life += 1;
                            repaired = feed.left(broker.top());
                        }
                        wanted = repaired.again;
                        repaired.deliveries
                    }
                },
                Turn::Check => match feed.check(feed.position(), broker.top(), Routine) {
                    GapState::Fine | GapState::Suspicious => vec![],
                    GapState::Missing { since } => {
                        wanted = Some(since);
                        vec![]
                    }
                    GapState::Lost(lost) => vec![FeedDelivery::Lost(lost)],
                },
            };
            follower.take(&deliveries, &broker);
        }
        prop_assert_eq!(follower.at, broker.top());
        prop_assert_eq!(follower.knows, broker.stream);
        prop_assert!(went_back || follower.told == 0, "nobody is told for nothing");
    }
}
