//! A feed by hand, and against streams that lose and repeat publications at random.

use proptest::prelude::*;
use shared::position::Epoch;
use shared::publication::Payload;

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

/// Offsets as they are delivered, a loss as a negative number.
fn offsets(mended: &Mended) -> Vec<i64> {
    let offset = |position: StreamPosition| i64::try_from(position.offset).unwrap();
    mended
        .deliveries
        .iter()
        .map(|delivery| match delivery {
            Delivery::Publication(publication) => offset(publication.position.unwrap()),
            Delivery::Lost(position) => -offset(*position),
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
    assert_eq!(feed.admit(publication(at(4))), Admission::Duplicate);
    assert!(delivered(&mut feed, at(6)));
}

#[test]
fn a_channel_without_a_stream_passes_through() {
    let mut feed = Feed::default();
    let plain = Publication::new(Payload::text("text"));
    assert_eq!(feed.admit(plain.clone()), Admission::Deliver(plain));
    assert_eq!(feed.position(), None);
    assert_eq!(feed.check(at(7), Look::AfterLoss), Check::Fine);
}

#[test]
fn a_gap_is_mended_before_what_follows_it() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    assert_eq!(feed.admit(publication(at(4))), Admission::Gap { since: 1 });
    assert_eq!(feed.admit(publication(at(5))), Admission::Held);
    assert_eq!(feed.admit(publication(at(1))), Admission::Duplicate);
    assert_eq!(feed.admit(publication(at(7))), Admission::Held);

    let mended = feed.mend(page(2..=4, at(4)));
    assert_eq!((offsets(&mended), mended.again), (vec![2, 3, 4, 5], Some(5)));
    let mended = feed.mend(page(6..=8, at(8)));
    assert_eq!((offsets(&mended), mended.again), (vec![6, 7, 8], None));
    assert_eq!(feed.admit(publication(at(8))), Admission::Duplicate);
    assert!(delivered(&mut feed, at(9)));
}

#[test]
fn what_history_no_longer_has_is_told_and_the_rest_delivered() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    feed.admit(publication(at(9)));
    let mended = feed.mend(page(6..=9, at(9)));
    assert_eq!((offsets(&mended), mended.again), (vec![-5, 6, 7, 8, 9], None));

    feed.admit(publication(at(12)));
    let mended = feed.mend(HistoryPage { publications: vec![], top: at(12) });
    assert_eq!((offsets(&mended), mended.again), (vec![-12], None));
}

#[test]
fn a_long_gap_is_read_page_by_page() {
    let mut feed = Feed::default();
    feed.anchor(at(0));
    assert_eq!(feed.admit(publication(at(7))), Admission::Gap { since: 0 });
    let mended = feed.mend(page(1..=3, at(7)));
    assert_eq!((offsets(&mended), mended.again), (vec![1, 2, 3], Some(3)));
    let mended = feed.mend(page(4..=6, at(7)));
    assert_eq!((offsets(&mended), mended.again), (vec![4, 5, 6, 7], None));
}

#[test]
fn a_gap_that_cannot_be_read_is_given_up_after_some_attempts() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    feed.admit(publication(at(3)));
    for _ in 1..MEND_ATTEMPTS_MAX {
        assert_eq!(feed.mend_failed(), Mended { deliveries: vec![], again: Some(1) });
    }
    assert_eq!(offsets(&feed.mend_failed()), [3], "with its hole, which workers see");
    assert!(delivered(&mut feed, at(4)));

    assert_eq!(feed.check(at(6), Look::AfterLoss), Check::Missing { since: 4 });
    for _ in 1..MEND_ATTEMPTS_MAX {
        feed.mend_failed();
    }
    assert_eq!(offsets(&feed.mend_failed()), [-6], "nothing came that would show the hole");
    assert!(!feed.is_mending());
    assert_eq!(feed.admit(publication(at(6))), Admission::Duplicate, "what was told as lost comes no more");
    assert!(delivered(&mut feed, at(7)));
}

#[test]
fn attempts_that_bring_nothing_count_only_one_after_the_other() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    feed.admit(publication(at(100)));
    for offset in 2..=u64::from(2 * MEND_ATTEMPTS_MAX) {
        assert_eq!(feed.mend_failed().again, Some(offset - 1));
        let mended = feed.mend(page(offset..=offset, at(100)));
        assert_eq!((offsets(&mended), mended.again), (vec![offset as i64], Some(offset)));
    }
}

#[test]
fn what_is_held_is_bounded_and_read_again() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    let last = 3 + FEED_HELD_PUBLICATIONS_MAX as u64 + 10;
    for offset in 3..=last {
        feed.admit(publication(at(offset)));
        assert!(feed.mending.as_ref().unwrap().held.len() <= FEED_HELD_PUBLICATIONS_MAX);
    }
    let mended = feed.mend(page(2..=5, at(last)));
    assert_eq!((offsets(&mended), mended.again), (vec![2, 3, 4, 5], Some(5)));
    let mended = feed.mend(page(6..=last - 20, at(last)));
    assert_eq!(mended.again, Some(last - 20));
    let mended = feed.mend(page(last - 19..=last, at(last)));
    assert_eq!((mended.deliveries.len(), mended.again), (20, None));
}

#[test]
fn what_has_been_given_out_makes_room_for_what_is_held() {
    let large = |offset| {
        let bytes = vec![0; FEED_HELD_BYTES_MAX / 2 + 1];
        Publication { position: Some(at(offset)), ..Publication::new(Payload::binary(bytes)) }
    };
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    assert_eq!(feed.admit(large(3)), Admission::Gap { since: 1 });
    assert_eq!(feed.admit(publication(at(5))), Admission::Held);
    let mended = feed.mend(page(2..=2, at(5)));
    assert_eq!((offsets(&mended), mended.again), (vec![2, 3], Some(3)));
    assert_eq!(feed.admit(large(6)), Admission::Held);
    let mended = feed.mend(page(4..=4, at(6)));
    assert_eq!((offsets(&mended), mended.again), (vec![4, 5, 6], None));
}

#[test]
fn a_suspicion_ends_with_a_look_that_finds_nothing() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(5)));
    for _ in 0..2 {
        assert_eq!(feed.check(in_epoch("two", 3), Look::Routine), Check::Suspicious);
        assert_eq!(feed.check(at(5), Look::Routine), Check::Fine);
    }
}

#[test]
fn a_quiet_channel_is_found_behind_at_the_second_look_only() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(1)));
    assert_eq!(feed.check(at(1), Look::Routine), Check::Fine);
    assert_eq!(feed.check(at(3), Look::Routine), Check::Suspicious);
    assert!(delivered(&mut feed, at(2)) && delivered(&mut feed, at(3)));
    assert_eq!(feed.check(at(4), Look::Routine), Check::Suspicious, "the first one was on its way");
    assert_eq!(feed.check(at(4), Look::Routine), Check::Missing { since: 3 });
    assert_eq!(feed.check(at(5), Look::Routine), Check::Fine, "being mended");
    let mended = feed.mend(page(4..=4, at(4)));
    assert_eq!((offsets(&mended), mended.again), (vec![4], Some(4)), "5 is known to be there");
    assert_eq!(offsets(&feed.mend(page(5..=5, at(5)))), [5]);
    assert_eq!(feed.admit(publication(at(5))), Admission::Duplicate, "late");
}

#[test]
fn what_a_subscriber_knows_from_history_shows_that_the_first_publication_is_missing() {
    let mut feed = Feed::default();
    feed.anchor(at(5));
    assert_eq!(feed.admit(publication(at(7))), Admission::Gap { since: 5 });
    assert_eq!(offsets(&feed.mend(page(6..=7, at(7)))), [6, 7]);

    let mut quiet = Feed::default();
    quiet.anchor(at(5));
    assert_eq!(quiet.check(at(6), Look::AfterLoss), Check::Missing { since: 5 });

    let mut late = Feed::default();
    late.anchor(at(5));
    assert!((4..7).all(|offset| delivered(&mut late, at(offset))), "others may not know them yet");
}

#[test]
fn a_new_epoch_passes_and_a_check_finds_a_quiet_one() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(5)) && delivered(&mut feed, in_epoch("two", 1)));
    assert_eq!(feed.check(in_epoch("three", 2), Look::Routine), Check::Suspicious);
    assert_eq!(feed.check(in_epoch("three", 2), Look::Routine), Check::Lost(in_epoch("three", 0)));
    assert_eq!(feed.check(in_epoch("three", 2), Look::AfterLoss), Check::Missing { since: 0 });
    assert_eq!(offsets(&feed.mend(page(1..=2, in_epoch("three", 2)))), [1, 2]);
}

#[test]
fn a_gap_in_a_stream_that_is_gone_is_lost_and_the_new_stream_is_read_from_its_start() {
    let mut feed = Feed::default();
    assert!(delivered(&mut feed, at(5)));
    assert_eq!(feed.admit(publication(at(8))), Admission::Gap { since: 5 });
    assert_eq!(feed.admit(publication(in_epoch("two", 3))), Admission::Held);
    let mended = feed.mend(page(3..=3, in_epoch("two", 3)));
    assert_eq!((offsets(&mended), mended.again), (vec![8, 0], Some(0)));
    let mended = feed.mend(page(1..=3, in_epoch("two", 3)));
    assert_eq!((offsets(&mended), mended.again), (vec![1, 2, 3], None));
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
        // What a subscriber that started at the anchor would believe.
        let mut seen = top;
        let mut wanted = None;
        let mut epochs = 1;
        let ask = |feed: &mut Feed, wanted: &mut Option<u64>, top, retained: std::ops::Range<u64>, limit: usize| {
            let since = wanted.take()?;
            let first = (since + 1).max(retained.start);
            let publications = (first..retained.end).take(limit);
            let publications = publications.map(|offset| publication(StreamPosition { offset, ..top })).collect();
            let mended = feed.mend(HistoryPage { publications, top });
            *wanted = mended.again;
            Some(mended.deliveries)
        };
        let follow = |seen: &mut StreamPosition, delivery: &Delivery| {
            let (to, lost) = match delivery {
                Delivery::Lost(to) => (*to, true),
                Delivery::Publication(publication) => (publication.position.unwrap(), false),
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
                        Admission::Deliver(publication) => vec![Delivery::Publication(publication)],
                        Admission::Gap { since } => {
                            prop_assert_eq!(wanted.replace(since), None);
                            vec![]
                        }
                        Admission::Held => vec![],
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
                    let mended = feed.mend_failed();
                    wanted = mended.again;
                    trimmed |= wanted.is_none();
                    mended.deliveries
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

        // Once it is quiet, two looks find whatever is missing.
        for _ in 0..1000 {
            let deliveries = match wanted {
                Some(_) => ask(&mut feed, &mut wanted, top, retained.clone(), 10).unwrap_or_default(),
                None => match feed.check(top, Look::Routine) {
                    Check::Fine => break,
                    Check::Suspicious => vec![],
                    Check::Missing { since } => {
                        wanted = Some(since);
                        vec![]
                    }
                    Check::Lost(lost) => vec![Delivery::Lost(lost)],
                },
            };
            for delivery in &deliveries {
                prop_assert!(follow(&mut seen, delivery).0, "{delivery:?} goes back");
            }
        }
        prop_assert_eq!(seen, top);
        prop_assert!(!feed.is_mending());
    }
}
