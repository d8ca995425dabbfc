//! Checks whether the retained history of a stream joins on to where a client stopped reading.

use shared::command::Since;
use shared::position::StreamPosition;
use shared::publication::Publication;

use crate::history::HistoryPage;

/// Whether `page`, read from `since` on, is everything that was published after `since`.
///
/// An empty epoch is that of a client which has seen no publication yet: it matches any.
pub fn is_recovered(since: &Since, page: &HistoryPage) -> bool {
    let same_stream = since.epoch.is_empty() || *since.epoch == *page.top.epoch.as_str();
    same_stream && joins(since.offset, page)
}

/// Whether `page`, which has at most the newest publication, is enough for a client that wants only that one.
pub fn is_newest(since: Option<&Since>, page: &HistoryPage) -> bool {
    match page.publications.first() {
        Some(newest) => newest.offset() == page.top.offset,
        None => since.is_some_and(|since| stopped_at(since, page.top)),
    }
}

/// Whether a client stopped reading exactly at this position.
pub fn stopped_at(since: &Since, position: StreamPosition) -> bool {
    since.offset > 0 && since.offset == position.offset && *since.epoch == *position.epoch.as_str()
}

/// Whether `page`, read from `position` on, continues from there without a gap, however far it goes.
pub fn reads_on(position: StreamPosition, page: &HistoryPage) -> bool {
    let HistoryPage { publications, top } = page;
    let Some(last) = publications.last().map(Publication::offset) else { return *top == position };
    let count = publications.len() as u64;
    top.epoch == position.epoch
        && publications.first().map(Publication::offset) == position.offset.checked_add(1)
        && position.offset.checked_add(count) == Some(last)
        && last <= top.offset
}

fn joins(since: u64, page: &HistoryPage) -> bool {
    let (Some(first), Some(last)) = (page.publications.first(), page.publications.last()) else {
        return page.top.offset == since;
    };
    // In a stream without gaps the first and the last offset suffice. The count catches one that has them.
    let missed = page.top.offset.checked_sub(since);
    since.checked_add(1) == Some(first.offset())
        && last.offset() == page.top.offset
        && missed == Some(page.publications.len() as u64)
}

#[cfg(test)]
mod tests {
    use shared::position::Epoch;
    use shared::publication::Payload;

    use super::*;

    fn since(offset: u64, epoch: &str) -> Since {
        Since { offset, epoch: epoch.into() }
    }

    fn page(offsets: &[u64], top: u64) -> HistoryPage {
        let epoch = Epoch::parse("life").unwrap();
        let publications = offsets.iter().map(|&offset| {
            let position = Some(StreamPosition { offset, epoch });
            Publication { position, ..Publication::new(Payload::json("1")) }
        });
        HistoryPage { publications: publications.collect(), top: StreamPosition { offset: top, epoch } }
    }

    #[test]
    fn nothing_missed_is_recovered() {
        assert!(is_recovered(&since(7, "life"), &page(&[], 7)));
        assert!(is_recovered(&since(0, "life"), &page(&[], 0)));
    }

    #[test]
    fn everything_missed_is_recovered_if_all_of_it_is_still_there() {
        assert!(is_recovered(&since(4, "life"), &page(&[5, 6, 7], 7)));
        assert!(!is_recovered(&since(3, "life"), &page(&[5, 6, 7], 7)), "the oldest is gone");
        assert!(
            !is_recovered(&since(4, "life"), &page(&[5, 6], 7)),
            "more were missed than are read at once"
        );
        assert!(!is_recovered(&since(4, "life"), &page(&[5, 7], 7)), "one in between is gone");
        assert!(!is_recovered(&since(4, "life"), &page(&[], 7)), "all are gone");
    }

    #[test]
    fn a_part_reads_on_if_it_begins_where_the_last_ended_and_has_no_hole() {
        let epoch = Epoch::parse("life").unwrap();
        let at = |offset| StreamPosition { offset, epoch };
        assert!(reads_on(at(4), &page(&[5, 6], 9)));
        assert!(reads_on(at(4), &page(&[5, 6], 6)));
        assert!(reads_on(at(9), &page(&[], 9)));
        assert!(!reads_on(at(4), &page(&[6, 7], 9)), "the first is gone");
        assert!(!reads_on(at(4), &page(&[5, 7], 9)), "one in between is gone");
        assert!(!reads_on(at(4), &page(&[], 9)), "all are gone");
        assert!(!reads_on(at(9), &page(&[], 4)));
        let other = StreamPosition { offset: 4, epoch: Epoch::parse("death").unwrap() };
        assert!(!reads_on(other, &page(&[5, 6], 6)));
        assert!(!reads_on(at(u64::MAX), &page(&[5], 5)));
    }

    #[test]
    fn another_epoch_is_another_stream() {
        assert!(!is_recovered(&since(7, "death"), &page(&[], 7)));
        assert!(!is_recovered(&since(7, "an epoch far longer than any of ours"), &page(&[], 7)));
    }

    #[test]
    fn an_empty_epoch_matches_any() {
        assert!(is_recovered(&since(0, ""), &page(&[1, 2], 2)));
        assert!(!is_recovered(&since(0, ""), &page(&[2], 2)));
    }

    #[test]
    fn a_position_ahead_of_the_stream_is_not_recovered() {
        assert!(!is_recovered(&since(9, "life"), &page(&[], 7)));
        assert!(!is_recovered(&since(u64::MAX, "life"), &page(&[7], 7)));
    }
}
