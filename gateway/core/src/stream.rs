//! A channel's retained history in memory: its latest publications, in order, under one epoch.

use std::collections::VecDeque;
use std::mem::size_of;

use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::publication::{Payload, Publication};

use crate::history::{HistoryFilter, HistoryPage, Retention};

/// The newest publications of a channel, and where its stream stands. Offsets start at 1 and have no gaps. What is kept
/// has three bounds: in number and in time by each publication's [`Retention`], in bytes by the caller of
/// [`Stream::append`].
#[derive(Debug)]
pub struct Stream {
    epoch: Epoch,
    top: u64,
    /// The publications `top - len + 1 ..= top`.
    entries: VecDeque<StreamEntry>,
    bytes: usize,
    expires: Moment,
}

/// A publication without the fields that most do not use. There can be one in every channel, and a million channels.
#[derive(Debug)]
struct StreamEntry {
    data: Payload,
    time_ms: u64,
    /// The other fields, if any is used.
    rest: Option<Box<Publication>>,
}

const _: () = assert!(size_of::<StreamEntry>() <= 56, "most histories hold few, and short ones");

impl StreamEntry {
    fn new(publication: &Publication) -> Self {
        let Publication { data, position: _, info, tags, time_ms, delta, keyed, except, only, stamp: _ } =
            publication;
        let is_for_some = except.is_some() || only.is_some();
        let has_rest = info.is_some() || !tags.is_empty() || *delta || keyed.is_some() || is_for_some;
        // A publication that is read back is not measured.
        let bare = || Publication { data: Payload::json(""), stamp: None, ..publication.clone() };
        let rest = has_rest.then(|| Box::new(bare()));
        Self { data: data.clone(), time_ms: *time_ms, rest }
    }

    fn at(&self, position: StreamPosition) -> Publication {
        let data = self.data.clone();
        let publication = match self.rest.as_deref() {
            Some(rest) => Publication { data, ..rest.clone() },
            None => Publication { time_ms: self.time_ms, ..Publication::new(data) },
        };
        Publication { position: Some(position), ..publication }
    }

    fn footprint(&self) -> usize {
        size_of::<Self>() + self.data.bytes.len() + self.rest.as_deref().map_or(0, footprint)
    }
}

impl Stream {
    /// Makes an empty stream. The epoch must be new: it tells this stream from an earlier one of its channel.
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch, top: 0, entries: VecDeque::new(), bytes: 0, expires: Moment::ZERO }
    }

    /// Makes an empty stream that continues from this position: what was before is not kept, or is kept elsewhere.
    pub fn going_on_from(position: StreamPosition) -> Self {
        Self { top: position.offset, ..Self::new(position.epoch) }
    }

    pub fn position(&self) -> StreamPosition {
        StreamPosition { offset: self.top, epoch: self.epoch }
    }

    /// Returns the size of the retained publications, including bookkeeping.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns when the retained publications expire, unless another one comes.
    pub fn expires(&self) -> Moment {
        self.expires
    }

    /// Assigns the next offset to the publication and keeps it, dropping the oldest ones beyond the retention's size or
    /// `bytes_max`. A publication larger than `bytes_max` gets its offset but is not kept.
    pub fn append(
        &mut self,
        now: Moment,
        publication: &mut Publication,
        retention: Retention,
        bytes_max: usize,
    ) -> StreamPosition {
        self.expire(now);
        self.top += 1;
        let position = self.position();
        publication.position = Some(position);
        let entry = StreamEntry::new(publication);
        self.bytes += entry.footprint();
        if self.entries.capacity() == 0 {
            // The queue would otherwise begin with room for several.
            self.entries.reserve_exact(1);
        }
        self.entries.push_back(entry);
        while self.entries.len() > retention.size as usize || self.bytes > bytes_max {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.footprint();
        }
        self.expires = now + retention.ttl;
        position
    }

    /// Assigns the next offset to the publication, and keeps nothing from now on.
    pub fn pass(&mut self, publication: &mut Publication) -> StreamPosition {
        self.clear();
        self.top += 1;
        let position = self.position();
        publication.position = Some(position);
        position
    }

    /// Sets when the retained publications expire.
    pub fn keep_until(&mut self, moment: Moment) {
        self.expires = moment;
    }

    /// Returns how many publications are retained.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Drops the retained publications if they have expired.
    pub fn expire(&mut self, now: Moment) {
        if !self.entries.is_empty() && self.expires <= now {
            self.clear();
        }
    }

    /// Drops the retained publications. The offset and the epoch stay, so that subscribers do not take this for a gap.
    pub fn clear(&mut self) {
        // A new queue and not an emptied one, so that the memory is freed.
        self.entries = VecDeque::new();
        self.bytes = 0;
    }

    /// Returns the page that the filter asks for. Does not look at the time: call [`Stream::expire`] first.
    pub fn page(&self, filter: HistoryFilter) -> HistoryPage {
        let limit = filter.limit as usize;
        let len = self.entries.len();
        let before_first = self.top - len as u64;
        // How many of the retained publications lie at or before an offset.
        let up_to = |offset: u64| offset.saturating_sub(before_first).min(len as u64) as usize;
        let at = |index: usize| {
            let offset = before_first + index as u64 + 1;
            self.entries.get(index).map(|entry| entry.at(StreamPosition { offset, epoch: self.epoch }))
        };
        let publications = if filter.reverse {
            let end = filter.since.map_or(len, |since| up_to(since.saturating_sub(1)));
            (0..end).rev().take(limit).filter_map(at).collect()
        } else {
            let start = filter.since.map_or(0, up_to);
            (start..len).take(limit).filter_map(at).collect()
        };
        HistoryPage { publications, top: self.position() }
    }
}

/// Returns what it costs to keep a publication: its texts and a place in the queue.
pub(crate) fn footprint(publication: &Publication) -> usize {
    let info = publication.info.as_ref().map_or(0, |info| {
        info.user.as_str().len()
            + info.conn_info.as_ref().map_or(0, |json| json.len())
            + info.chan_info.as_ref().map_or(0, |json| json.len())
    });
    let tags: usize =
        publication.tags.iter().map(|(key, value)| key.len() + value.len() + 2 * size_of::<Box<str>>()).sum();
    size_of::<Publication>() + publication.data.bytes.len() + info + tags
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::id::{ClientId, UserId};
    use shared::publication::{ClientInfo, Payload};

    use super::*;

    const PLENTY: usize = usize::MAX;
    const NONE: [u64; 0] = [];

    fn retention(size: u32, seconds: u64) -> Retention {
        Retention::new(size, Duration::from_secs(seconds))
    }

    fn stream_of(count: u64, kept: u32) -> Stream {
        let mut stream = Stream::new(Epoch::from_random(7));
        for number in 1..=count {
            let mut publication = Publication::new(Payload::json(number.to_string()));
            let position = stream.append(Moment(0), &mut publication, retention(kept, 60), PLENTY);
            assert_eq!(position.offset, number);
            assert_eq!(publication.offset(), number);
        }
        stream
    }

    fn offsets(stream: &Stream, since: Option<u64>, limit: u32, reverse: bool) -> Vec<u64> {
        let page = stream.page(HistoryFilter { since, limit, reverse, enough_bytes: None });
        assert_eq!(page.top, stream.position());
        for publication in &page.publications {
            assert_eq!(publication.data.bytes, publication.offset().to_string());
        }
        page.publications.iter().map(Publication::offset).collect()
    }

    #[test]
    fn the_newest_are_kept_up_to_the_size() {
        let stream = stream_of(10, 4);
        assert_eq!(offsets(&stream, None, 100, false), [7, 8, 9, 10]);
        assert_eq!(stream.position().offset, 10);
    }

    #[test]
    fn a_filter_counts_from_the_end_it_reads_from() {
        let stream = stream_of(10, 4);
        assert_eq!(offsets(&stream, None, 2, false), [7, 8]);
        assert_eq!(offsets(&stream, None, 2, true), [10, 9]);
        assert_eq!(offsets(&stream, Some(8), 100, false), [9, 10]);
        assert_eq!(offsets(&stream, Some(9), 100, true), [8, 7]);
        assert_eq!(offsets(&stream, Some(9), 1, true), [8]);
        assert_eq!(offsets(&stream, None, 0, false), NONE);
    }

    #[test]
    fn offsets_outside_of_what_is_kept_are_no_trouble() {
        let stream = stream_of(10, 4);
        assert_eq!(offsets(&stream, Some(0), 100, false), [7, 8, 9, 10]);
        assert_eq!(offsets(&stream, Some(10), 100, false), NONE);
        assert_eq!(offsets(&stream, Some(u64::MAX), 100, false), NONE);
        assert_eq!(offsets(&stream, Some(u64::MAX), 100, true), [10, 9, 8, 7]);
        assert_eq!(offsets(&stream, Some(0), 100, true), NONE);
        assert_eq!(offsets(&stream, Some(7), 100, true), NONE);
        assert_eq!(offsets(&Stream::new(Epoch::EMPTY), Some(3), 100, true), NONE);
    }

    #[test]
    fn time_takes_the_publications_but_not_the_position() {
        let mut stream = stream_of(3, 10);
        stream.expire(Moment(59_999));
        assert_eq!(offsets(&stream, None, 100, false), [1, 2, 3]);
        stream.expire(Moment(60_000));
        assert_eq!(offsets(&stream, None, 100, false), NONE);
        assert_eq!((stream.position().offset, stream.bytes()), (3, 0));

        let mut next = Publication::new(Payload::json("4"));
        stream.append(Moment(70_000), &mut next, retention(10, 60), PLENTY);
        assert_eq!(offsets(&stream, None, 100, false), [4]);
    }

    #[test]
    fn an_append_after_the_time_starts_with_what_it_appends() {
        let mut stream = stream_of(3, 10);
        let mut late = Publication::new(Payload::json("4"));
        stream.append(Moment(60_000), &mut late, retention(10, 60), PLENTY);
        assert_eq!(offsets(&stream, None, 100, false), [4]);
    }

    #[test]
    fn what_passes_is_numbered_and_not_kept() {
        let mut stream = stream_of(3, 10);
        let mut passing = Publication::new(Payload::json("4"));
        assert_eq!(stream.pass(&mut passing), stream.position());
        assert_eq!((passing.offset(), stream.position().offset), (4, 4));
        // What came before it does not join on any more.
        assert_eq!((offsets(&stream, None, 100, false), stream.bytes()), (NONE.to_vec(), 0));
    }

    #[test]
    fn whatever_a_publication_holds_is_counted() {
        let text = "x".repeat(1_000);
        let info = ClientInfo {
            client: ClientId::from_bits(1),
            user: UserId::new(&text),
            conn_info: Some(text.clone().into()),
            chan_info: Some(text.clone().into()),
        };
        let tags = [("key".into(), text.clone().into())].into();
        let plain = Publication::new(Payload::text(text.clone()));
        let rich = Publication { info: Some(info), tags, ..plain.clone() };
        assert!(footprint(&plain) >= text.len() + size_of::<Publication>());
        assert!(footprint(&rich) >= footprint(&plain) + 4 * text.len() + "key".len());
    }

    #[test]
    fn bytes_are_bounded_by_dropping_the_oldest() {
        let mut stream = Stream::new(Epoch::from_random(7));
        let one = StreamEntry::new(&Publication::new(Payload::binary(vec![0; 1000]))).footprint();
        for _ in 0..10 {
            let mut publication = Publication::new(Payload::binary(vec![0; 1000]));
            stream.append(Moment(0), &mut publication, retention(100, 60), 3 * one);
            assert!(stream.bytes() <= 3 * one);
        }
        assert_eq!(stream.bytes(), 3 * one);

        let mut huge = Publication::new(Payload::binary(vec![0; 10_000]));
        let position = stream.append(Moment(0), &mut huge, retention(100, 60), 3 * one);
        assert_eq!((position.offset, stream.bytes(), stream.is_empty()), (11, 0, true));
    }
}
