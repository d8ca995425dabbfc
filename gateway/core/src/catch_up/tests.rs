//! Tests of catching up: which subscribers share a read, and which must not.

use shared::publication::Payload;

mod against_a_stream;

use super::*;
use crate::stream::Stream;

const LIMIT: u32 = 10;
const NOTHING: [u64; 0] = [];
const NOW: Moment = Moment(1_000);

fn fresh() -> CatchUp {
    CatchUp::new(0, Retention::new(10_000, Duration::from_secs(60)))
}

fn epoch() -> Epoch {
    Epoch::from_random(7)
}

fn stream(count: u64, kept: u32) -> Stream {
    let mut stream = Stream::new(epoch());
    for _ in 0..count {
        append(&mut stream, kept);
    }
    stream
}

fn append(stream: &mut Stream, kept: u32) -> Publication {
    let retention = Retention::new(kept, Duration::from_secs(60));
    let mut publication = Publication::new(Payload::json("1"));
    stream.append(NOW, &mut publication, retention, usize::MAX);
    publication
}

fn stopped(offset: u64) -> Option<ClientPosition> {
    Some(ClientPosition { offset, epoch: Some(epoch()) })
}

fn offsets(page: &HistoryPage) -> Vec<u64> {
    page.publications.iter().map(Publication::offset).collect()
}

fn begin(catch_up: &mut CatchUp, want: &CatchUpRequest<'_>) -> ReadRequest {
    match catch_up.ask(NOW, want) {
        CatchUpAnswer::Read(reading) => reading,
        other => panic!("no read: {other:?}"),
    }
}

fn answered(catch_up: &mut CatchUp, want: &CatchUpRequest<'_>) -> Vec<u64> {
    match catch_up.ask(NOW, want) {
        CatchUpAnswer::Answered(page) => offsets(&page),
        other => panic!("no answer: {other:?}"),
    }
}

/// Reads until this request has an answer, and counts the reads.
fn read_until_answered(
    catch_up: &mut CatchUp,
    stream: &Stream,
    want: &CatchUpRequest<'_>,
) -> (Vec<u64>, u32) {
    let mut reads = 0;
    loop {
        match catch_up.ask(NOW, want) {
            CatchUpAnswer::Answered(page) => return (offsets(&page), reads),
            CatchUpAnswer::Read(reading) => {
                reads += 1;
                assert!(reads < 4, "an answer is found");
                let _ = catch_up.read(NOW, reading, &stream.page(reading.filter));
            }
            CatchUpAnswer::Wait => panic!("nobody else reads"),
        }
    }
}

#[test]
fn a_storm_of_recoveries_is_one_read() {
    let (mut catch_up, mut stream) = (fresh(), stream(8, 100));
    let wants: Vec<_> = (5..=8).map(|offset| catch_up.want(stopped(offset), LIMIT)).collect();
    let reading = begin(&mut catch_up, &wants[0]);
    for want in &wants[1..] {
        assert_eq!(catch_up.ask(NOW, want), CatchUpAnswer::Wait);
    }
    let ReadResult::Shared(history) = catch_up.read(NOW, reading, &stream.page(reading.filter)) else {
        panic!()
    };
    for (want, expected) in wants.iter().zip([&[6, 7, 8][..], &[7, 8], &[8], &[]]) {
        assert_eq!(offsets(&history.answer(want).unwrap()), expected);
    }
    // Later subscribers also get what was delivered since.
    catch_up.handed_out(NOW, &append(&mut stream, 100));
    let late = catch_up.want(stopped(7), LIMIT);
    assert_eq!(answered(&mut catch_up, &late), [8, 9]);
}

#[test]
fn all_who_want_the_newest_share_a_read_of_it() {
    let (mut catch_up, mut stream) = (fresh(), stream(3, 100));
    let wants = [catch_up.want_newest(), catch_up.want_newest()];
    let reading = begin(&mut catch_up, &wants[0]);
    assert_eq!(reading.filter, HistoryFilter { limit: 1, reverse: true, ..HistoryFilter::default() });
    assert_eq!(catch_up.ask(NOW, &wants[1]), CatchUpAnswer::Wait);
    let page = stream.page(reading.filter);
    // Delivered meanwhile, and newer than the page.
    catch_up.handed_out(NOW, &append(&mut stream, 100));
    let ReadResult::Shared(history) = catch_up.read(NOW, reading, &page) else { panic!() };
    for want in &wants {
        assert_eq!(offsets(&history.answer(want).unwrap()), [4]);
    }
    catch_up.handed_out(NOW, &append(&mut stream, 100));
    let late = catch_up.want_newest();
    assert_eq!(answered(&mut catch_up, &late), [5]);
}

#[test]
fn the_newest_is_told_from_what_others_asked_for() {
    let (mut catch_up, stream) = (fresh(), stream(3, 100));
    let want = catch_up.want(stopped(1), LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &stream, &want), (vec![2, 3], 1));
    let newest = catch_up.want_newest();
    assert_eq!(answered(&mut catch_up, &newest), [3]);
    // A read of the newest publication alone does not replace the rest.
    let want = catch_up.want(stopped(2), LIMIT);
    assert_eq!(answered(&mut catch_up, &want), [3]);
}

#[test]
fn a_position_alone_does_not_say_what_is_newest() {
    let (mut catch_up, stream) = (fresh(), stream(3, 100));
    let begins = catch_up.want(None, 0);
    assert_eq!(read_until_answered(&mut catch_up, &stream, &begins), (vec![], 1));
    let newest = catch_up.want_newest();
    assert_eq!(read_until_answered(&mut catch_up, &stream, &newest), (vec![3], 1));
}

/// The id of a publication without an id of its own, at this offset.
fn update(offset: u64) -> ResumeAfter {
    ResumeAfter::Id(format!("#{}:{offset}", epoch().as_str()).into())
}

#[test]
fn all_who_look_for_an_update_share_a_read_and_are_given_what_came_after_theirs() {
    let (mut catch_up, mut stream) = (fresh(), stream(8, 100));
    let sought = [update(6), update(8), ResumeAfter::Everything];
    let wants = sought.each_ref().map(|sought| catch_up.want_after(sought, LIMIT));
    let reading = begin(&mut catch_up, &wants[0]);
    assert_eq!(reading.filter, HistoryFilter { limit: LIMIT, reverse: true, ..HistoryFilter::default() });
    for want in &wants[1..] {
        assert_eq!(catch_up.ask(NOW, want), CatchUpAnswer::Wait);
    }
    let page = stream.page(reading.filter);
    catch_up.handed_out(NOW, &append(&mut stream, 100));
    let ReadResult::Shared(history) = catch_up.read(NOW, reading, &page) else { panic!() };
    let told = |want| offsets(&history.answer(want).unwrap());
    assert_eq!(told(&wants[0]), [9, 8, 7, 6]);
    assert_eq!(told(&wants[1]), [9, 8]);
    assert_eq!(told(&wants[2]), (1..=9).rev().collect::<Vec<_>>());
    // Later subscribers share it, too, whatever they stopped at.
    let late = update(7);
    let late = catch_up.want_after(&late, LIMIT);
    assert_eq!(answered(&mut catch_up, &late), [9, 8, 7]);
    let stopped_at = catch_up.want(stopped(7), LIMIT);
    assert_eq!(answered(&mut catch_up, &stopped_at), [8, 9]);
}

#[test]
fn an_update_that_is_not_known_here_is_looked_for_in_a_new_read() {
    let (mut catch_up, mut stream) = (fresh(), stream(3, 100));
    let known = update(2);
    let want = catch_up.want_after(&known, LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &stream, &want), (vec![3, 2], 1));
    // Another node has delivered it; this one has not.
    append(&mut stream, 100);
    let newer = update(4);
    let want = catch_up.want_after(&newer, LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &stream, &want), (vec![4], 1));
    let nowhere = update(40);
    let want = catch_up.want_after(&nowhere, LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &stream, &want), (vec![], 1));
}

#[test]
fn an_update_is_looked_for_among_so_many_of_the_newest_and_no_more() {
    let (mut catch_up, stream) = (fresh(), stream(20, 100));
    let (old, new) = (update(10), update(11));
    for (sought, told) in [(&old, vec![]), (&new, (11..=20).rev().collect::<Vec<u64>>())] {
        let want = catch_up.want_after(sought, LIMIT);
        assert_eq!(read_until_answered(&mut catch_up, &stream, &want).0, told);
    }
    let all = catch_up.want_after(&ResumeAfter::Everything, LIMIT);
    assert_eq!(answered(&mut catch_up, &all), (11..=20).rev().collect::<Vec<_>>());
}

#[test]
fn of_a_stream_in_which_nothing_is_left_nothing_is_the_newest() {
    for count in [0, 3] {
        let (mut catch_up, mut stream) = (fresh(), stream(count, 100));
        stream.clear();
        let newest = catch_up.want_newest();
        assert_eq!(read_until_answered(&mut catch_up, &stream, &newest), (vec![], 1));
    }
}

#[test]
fn a_read_serves_for_so_long() {
    let (mut catch_up, stream) = (fresh(), stream(3, 100));
    let want = catch_up.want(stopped(1), LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &stream, &want), (vec![2, 3], 1));
    let late = catch_up.want(stopped(2), LIMIT);
    assert!(catch_up.retained_page(NOW + FRESH.mul_f32(0.99), &late).is_some());
    assert_eq!(catch_up.retained_page(NOW + FRESH, &late), None);
    assert_eq!(catch_up.bytes(), 0, "nothing is kept longer");
}

#[test]
fn what_is_handed_out_during_a_read_is_part_of_it() {
    let (mut catch_up, mut stream) = (fresh(), stream(3, 100));
    let want = catch_up.want(stopped(2), LIMIT);
    let reading = begin(&mut catch_up, &want);
    let page = stream.page(reading.filter);
    catch_up.handed_out(NOW, &append(&mut stream, 100));
    // This subscriber joined after the fourth was delivered: history without it would be a gap.
    let meanwhile = catch_up.want(stopped(3), LIMIT);
    assert_eq!(catch_up.ask(NOW, &meanwhile), CatchUpAnswer::Wait);
    let ReadResult::Shared(history) = catch_up.read(NOW, reading, &page) else { panic!() };
    assert_eq!(offsets(&history.answer(&meanwhile).unwrap()), [4]);
}

#[test]
fn what_does_not_hang_together_is_shared_with_nobody() {
    for lost in [true, false] {
        let (mut catch_up, mut stream) = (fresh(), stream(3, 100));
        let want = catch_up.want(stopped(2), LIMIT);
        let reading = begin(&mut catch_up, &want);
        let page = stream.page(reading.filter);
        append(&mut stream, 100);
        if lost {
            catch_up.forget();
        } else {
            catch_up.handed_out(NOW, &append(&mut stream, 100));
        }
        assert!(matches!(catch_up.read(NOW, reading, &page), ReadResult::Unshared));
        assert_eq!(catch_up.retained_page(NOW, &want), None);
    }
}

#[test]
fn a_gap_or_another_epoch_ends_what_is_kept() {
    for offset in [5, 1] {
        let (mut catch_up, stream) = (fresh(), stream(3, 100));
        let want = catch_up.want(stopped(2), LIMIT);
        read_until_answered(&mut catch_up, &stream, &want);
        let epoch = if offset == 5 { epoch() } else { Epoch::from_random(8) };
        let mut next = Publication::new(Payload::json("1"));
        next.position = Some(StreamPosition { offset, epoch });
        catch_up.handed_out(NOW, &next);
        assert_eq!(catch_up.retained_page(NOW, &want), None);
    }
}

#[test]
fn one_who_is_ahead_of_what_is_kept_makes_a_new_read() {
    let (mut catch_up, mut stream) = (fresh(), stream(3, 100));
    let first = catch_up.want(stopped(3), LIMIT);
    read_until_answered(&mut catch_up, &stream, &first);
    append(&mut stream, 100);
    append(&mut stream, 100);
    // The client got the fourth from another node, which is ahead of this one.
    let ahead = catch_up.want(stopped(4), LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &stream, &ahead), (vec![5], 1));
    // A client that names an offset the stream never had is told so after one read.
    let nowhere = catch_up.want(stopped(99), LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &stream, &nowhere), (vec![], 1));
    let other = catch_up.want(Some(ClientPosition { offset: 4, epoch: Some(Epoch::from_random(9)) }), LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &stream, &other), (vec![], 1));
    let unreadable = catch_up.want(Some(ClientPosition { offset: 4, epoch: None }), LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &stream, &unreadable), (vec![], 1));
    let any = catch_up.want(Some(ClientPosition { offset: 4, epoch: Some(Epoch::EMPTY) }), LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &stream, &any), (vec![5], 0));
}

#[test]
fn whoever_begins_here_is_told_of_a_read_begun_after_they_came() {
    let (mut catch_up, mut stream) = (fresh(), stream(3, 100));
    let recovers = catch_up.want(stopped(1), LIMIT);
    let reading = begin(&mut catch_up, &recovers);
    let begins = catch_up.want(None, 0);
    assert_eq!(catch_up.ask(NOW, &begins), CatchUpAnswer::Wait);
    let page = stream.page(reading.filter);
    append(&mut stream, 100);
    let ReadResult::Shared(history) = catch_up.read(NOW, reading, &page) else { panic!() };
    assert_eq!(history.answer(&begins), None, "the fourth may have come before them");
    let second = begin(&mut catch_up, &begins);
    assert_eq!(second.filter, HistoryFilter::default());
    let ReadResult::Shared(history) = catch_up.read(NOW, second, &stream.page(second.filter)) else {
        panic!()
    };
    assert_eq!(history.answer(&begins).unwrap().top.offset, 4);
    // The longer history is not replaced by it.
    let recovers = catch_up.want(stopped(1), LIMIT);
    assert_eq!(answered(&mut catch_up, &recovers), [2, 3]);
}

#[test]
fn whoever_missed_more_than_is_left_costs_no_read_each() {
    // Only 6 to 8 are left.
    let (mut catch_up, trimmed) = (fresh(), stream(8, 3));
    let first = catch_up.want(stopped(2), LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &trimmed, &first), (vec![], 1));
    for (offset, expected) in [(0, vec![]), (4, vec![]), (5, vec![6, 7, 8]), (7, vec![8])] {
        let want = catch_up.want(stopped(offset), LIMIT);
        assert_eq!(answered(&mut catch_up, &want), expected, "{offset}");
    }
    // More than the limit was missed: the next read takes the newest, which serves all others.
    let (mut catch_up, long) = (fresh(), stream(40, 100));
    let want = catch_up.want(stopped(2), LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &long, &want), (vec![], 1));
    let want = catch_up.want(stopped(12), LIMIT);
    assert_eq!(answered(&mut catch_up, &want), NOTHING, "the position alone says that it is too much");
    let want = catch_up.want(stopped(35), LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &long, &want), (vec![36, 37, 38, 39, 40], 1));
    for offset in 0..=40 {
        let want = catch_up.want(stopped(offset), LIMIT);
        let expected: Vec<u64> = if offset < 30 { vec![] } else { (offset + 1..=40).collect() };
        assert_eq!(answered(&mut catch_up, &want), expected);
    }
    // Everything has expired.
    let (mut catch_up, mut expired) = (fresh(), stream(8, 100));
    expired.clear();
    let want = catch_up.want(stopped(7), LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &expired, &want), (vec![], 1));
    let want = catch_up.want(stopped(6), LIMIT);
    assert_eq!(answered(&mut catch_up, &want), NOTHING);
}

#[test]
fn whoever_is_up_to_date_takes_nothing_from_those_behind() {
    // Nothing comes after their position, which says nothing about what comes before it.
    for ahead in [10, 11, 99] {
        let (mut catch_up, stream) = (fresh(), stream(10, 100));
        let up_to_date = catch_up.want(stopped(ahead), LIMIT);
        assert_eq!(read_until_answered(&mut catch_up, &stream, &up_to_date), (vec![], 1));
        let behind = catch_up.want(stopped(8), LIMIT);
        assert_eq!(read_until_answered(&mut catch_up, &stream, &behind), (vec![9, 10], 1));
    }
}

#[test]
fn a_read_goes_back_as_far_as_anyone_who_waits_needs() {
    let (mut catch_up, stream) = (fresh(), stream(8, 100));
    let reading = {
        let want = catch_up.want(None, 0);
        begin(&mut catch_up, &want)
    };
    let wants = [7, 3, 5].map(|offset| catch_up.want(stopped(offset), LIMIT));
    for want in &wants {
        assert_eq!(catch_up.ask(NOW, want), CatchUpAnswer::Wait);
    }
    let _ = catch_up.read(NOW, reading, &stream.page(reading.filter));
    let reading = begin(&mut catch_up, &wants[0]);
    assert_eq!(
        reading.filter,
        HistoryFilter { since: Some(3), limit: LIMIT, reverse: false, enough_bytes: None }
    );
    let _ = catch_up.read(NOW, reading, &stream.page(reading.filter));
    assert_eq!(answered(&mut catch_up, &wants[1]), [4, 5, 6, 7, 8]);
}

#[test]
fn a_read_brings_as_many_as_anyone_who_waits_takes() {
    let (mut catch_up, stream) = (fresh(), stream(8, 100));
    let [first, much, little] = [(7, LIMIT), (2, LIMIT), (6, 2)].map(|(at, n)| catch_up.want(stopped(at), n));
    let reading = begin(&mut catch_up, &first);
    for want in [&much, &little] {
        assert_eq!(catch_up.ask(NOW, want), CatchUpAnswer::Wait);
    }
    let _ = catch_up.read(NOW, reading, &stream.page(reading.filter));
    // The subscriber with the small limit asks, for both of them.
    let reading = begin(&mut catch_up, &little);
    assert_eq!(
        reading.filter,
        HistoryFilter { since: Some(2), limit: LIMIT, reverse: false, enough_bytes: None }
    );
}

#[test]
fn after_a_failed_read_another_may_be_made() {
    let mut catch_up = fresh();
    let want = catch_up.want(stopped(1), LIMIT);
    let failed = begin(&mut catch_up, &want);
    catch_up.read_failed(failed);
    let again = begin(&mut catch_up, &want);
    assert!(again.number > failed.number);
    // The first read returns after all: too late to be shared.
    assert!(matches!(catch_up.read(NOW, failed, &stream(3, 9).page(failed.filter)), ReadResult::Unshared));
    assert_eq!(catch_up.ask(NOW, &want), CatchUpAnswer::Wait);
}

#[test]
fn no_more_is_told_than_the_stream_keeps() {
    let retention = Retention::new(2, FRESH / 2);
    let (mut catch_up, mut stream) = (CatchUp::new(0, retention), stream(1, 2));
    let want = catch_up.want(stopped(0), LIMIT);
    assert_eq!(read_until_answered(&mut catch_up, &stream, &want), (vec![1], 1));
    for _ in 0..2 {
        catch_up.handed_out(NOW, &append(&mut stream, 2));
    }
    let back_in_time = catch_up.want(stopped(1), LIMIT);
    assert_eq!(answered(&mut catch_up, &back_in_time), [2, 3]);
    let away_for_too_long = catch_up.want(stopped(0), LIMIT);
    assert_eq!(catch_up.retained_page(NOW, &away_for_too_long), None);
    let late = catch_up.want(stopped(2), LIMIT);
    assert_eq!(catch_up.retained_page(NOW + retention.ttl, &late), None);
}

#[test]
fn what_is_kept_is_bounded_in_number_and_in_bytes() {
    let (mut catch_up, mut stream) = (fresh(), stream(1, 10_000));
    let want = catch_up.want(stopped(0), LIMIT);
    read_until_answered(&mut catch_up, &stream, &want);
    for _ in 0..RETAINED_PUBLICATIONS_MAX {
        catch_up.handed_out(NOW, &append(&mut stream, 10_000));
    }
    let oldest = catch_up.want(stopped(0), u32::MAX);
    assert_eq!(catch_up.retained_page(NOW, &oldest), None);
    let next = catch_up.want(stopped(1), u32::MAX);
    assert!(catch_up.retained_page(NOW, &next).is_some());
    let top = stream.position();
    for number in 1..=3 {
        let mut large = Publication::new(Payload::binary(vec![0; RETAINED_BYTES_MAX / 2]));
        large.position = Some(StreamPosition { offset: top.offset + number, ..top });
        catch_up.handed_out(NOW, &large);
        assert!(catch_up.bytes() <= RETAINED_BYTES_MAX + size_of::<RetainedTail>());
    }
}
