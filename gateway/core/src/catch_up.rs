//! What those who come to a channel missed, read from history once for all who come at about the same time.
//!
//! After a node or a link has failed, everybody comes back at once and asks for nearly the same part of a channel's
//! history. One read serves them all: those who wait while it is made, and for a while those who come after it,
//! because what this node hands out meanwhile is added to it. So what is kept is never behind what was handed out, and
//! someone whose publications are held back from before asking can start from it without a gap, as if they had been
//! here all along. The owner asks, and tells of what it hands out, in one order: under the channel's lock.
//!
//! Who looks for an update by its id needs the newest publications up to it, which those who have seen it lately share.
//!
//! Who asks for a position only begins here. They are told of a read that was begun after they asked, so that nothing
//! that was published before they came is new to them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use shared::command::ResumeAfter;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::protocol::mercure;
use shared::publication::Publication;

use crate::history::{HistoryFilter, HistoryPage, Retention};

/// How long a read serves those who come after it, unless the stream is kept for less.
pub const FRESH: Duration = Duration::from_secs(5);
/// Publications kept in one channel, unless the stream keeps fewer. The oldest go first.
pub const RETAINED_PUBLICATIONS_MAX: usize = 1024;
/// Payload bytes kept in one channel. The oldest publications go first.
pub const RETAINED_BYTES_MAX: usize = 1 << 20;
/// Numbers of reads that one life has before those of the next: more than anyone makes while a read is in flight.
const READS_BITS: u32 = 20;
/// What a kept publication costs beside its payload, roughly, in bytes.
const OVERHEAD_BYTES: usize = 256;

/// What someone who joins asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CatchUpRequest<'a> {
    /// Where they stopped reading; `None` asks for the stream's position.
    pub since: Option<ClientPosition>,
    /// The most publications they take, or look through.
    pub limit: u32,
    /// Not what they missed since a place in the stream, but the newest publications, which they may have.
    pub newest: bool,
    /// What they look for among the newest.
    pub sought: Option<&'a ResumeAfter>,
    /// How many reads had been begun when they first asked.
    after: u64,
}

/// A place in the stream as a client names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientPosition {
    pub offset: u64,
    /// `None` for one that cannot be of any stream here, empty for any.
    pub epoch: Option<Epoch>,
}

/// What is to be done for someone who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CatchUpAnswer {
    /// Here it is.
    Answered(HistoryPage),
    /// Read this and give it to [`CatchUp::read`].
    Read(ReadRequest),
    /// Somebody is reading: ask again when they have.
    Wait,
}

/// Names one read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadRequest {
    pub number: u64,
    pub filter: HistoryFilter,
}

/// The past of one channel, as this node tells it to those who join.
#[derive(Debug, Default)]
pub struct CatchUp {
    /// What the stream keeps: no more is told from here, so that who was away for too long hears the same everywhere.
    retention: Retention,
    /// The number of the last read that was begun.
    begun: u64,
    retained: Option<Arc<RetainedTail>>,
    reading: Option<Box<ReadInFlight>>,
    /// The earliest offset that anyone who waits for the present read asked for, and the most they take.
    earliest: Option<(u64, u32)>,
    /// How many of the newest publications someone who waits for it wants, at most.
    newest: u32,
    /// The last read from an offset met its limit: the next one takes what is newest, which serves all it can serve.
    take_newest: bool,
}

/// A read that is in flight, and what was handed out since it was begun.
#[derive(Debug)]
struct ReadInFlight {
    number: u64,
    handed_out: VecDeque<Publication>,
    bytes: usize,
    /// Not all that was handed out is in `handed_out`, or it does not hang together.
    broken: bool,
}

/// A part of the stream up to where this node has handed it out, or further.
#[derive(Clone, PartialEq, Eq, Debug)]
struct RetainedTail {
    number: u64,
    read_at: Moment,
    /// Everything after this offset is in `publications`.
    from: u64,
    /// The read proved that whoever stopped before this offset cannot be given all they missed. Of what lies before
    /// the place that it began at, a read that found something there, or had nothing to find, proves nothing.
    gone_before: u64,
    /// The read met its limit before the stream's end.
    is_cut_off: bool,
    publications: VecDeque<Publication>,
    bytes: usize,
    top: StreamPosition,
}

/// What came of a read, for those who waited for it.
#[derive(Clone, Debug)]
pub enum ReadResult {
    /// Ask this first, and [`CatchUp::ask`] if it cannot answer.
    Shared(RetainedHistory),
    /// It is good for nobody else: everyone who waited reads for themselves.
    Unshared,
}

/// A read that can be told to many.
#[derive(Clone, Debug)]
pub struct RetainedHistory(Arc<RetainedTail>);

impl RetainedHistory {
    pub fn answer(&self, want: &CatchUpRequest<'_>) -> Option<HistoryPage> {
        self.0.answer(want)
    }
}

impl CatchUp {
    /// `life` tells this from whatever was there before for the same channel: a read that was begun for that is not
    /// taken for one of these.
    pub fn new(life: u64, retention: Retention) -> Self {
        Self { retention, begun: life << READS_BITS, ..Self::default() }
    }

    /// Whether nobody would miss this: another life may begin in its place.
    pub fn is_unused(&self) -> bool {
        self.retained.is_none() && self.reading.is_none() && self.earliest.is_none() && self.newest == 0
    }

    /// Someone asks for the first time. From before this call on, what comes in the channel is held back for them.
    pub fn want(&self, since: Option<ClientPosition>, limit: u32) -> CatchUpRequest<'static> {
        CatchUpRequest { since, limit, newest: false, sought: None, after: self.begun }
    }

    /// The same for someone who wants the newest publication and nothing before it.
    pub fn want_newest(&self) -> CatchUpRequest<'static> {
        CatchUpRequest { newest: true, ..self.want(None, 1) }
    }

    /// The same for someone who looks for an update among so many of the newest publications, to have what came after it.
    pub fn want_after<'a>(&self, sought: &'a ResumeAfter, limit: u32) -> CatchUpRequest<'a> {
        // There are no more than the stream keeps.
        CatchUpRequest {
            newest: true,
            sought: Some(sought),
            ..self.want(None, limit.min(self.retention.size))
        }
    }

    /// What is kept already, if it is an answer.
    pub fn known(&mut self, now: Moment, want: &CatchUpRequest<'_>) -> Option<HistoryPage> {
        self.forget_old(now);
        self.retained.as_ref()?.answer(want)
    }

    pub fn ask(&mut self, now: Moment, want: &CatchUpRequest<'_>) -> CatchUpAnswer {
        if let Some(page) = self.known(now, want) {
            return CatchUpAnswer::Answered(page);
        }
        if want.newest {
            self.newest = self.newest.max(want.limit);
        }
        if let Some(since) = want.since {
            let (earliest, limit) = self.earliest.unwrap_or((u64::MAX, 0));
            self.earliest = Some((earliest.min(since.offset), limit.max(want.limit)));
        }
        if self.reading.is_some() {
            return CatchUpAnswer::Wait;
        }
        self.begun += 1;
        let number = self.begun;
        self.reading =
            Some(Box::new(ReadInFlight { number, handed_out: VecDeque::new(), bytes: 0, broken: false }));
        let newest = std::mem::take(&mut self.newest);
        let backwards = |limit| HistoryFilter { since: None, limit, reverse: true, enough_bytes: None };
        let filter = match self.earliest.take() {
            None if newest > 0 => backwards(newest),
            // Many of the newest serve those too who stopped somewhere, as far as they go.
            Some((_, limit)) if self.take_newest || newest > 1 => backwards(limit.max(newest)),
            Some((since, limit)) => {
                HistoryFilter { since: Some(since), limit, reverse: false, enough_bytes: None }
            }
            None => HistoryFilter { since: None, limit: 0, reverse: false, enough_bytes: None },
        };
        CatchUpAnswer::Read(ReadRequest { number, filter })
    }

    /// Whether this is the read that is in flight.
    pub fn is_reading(&self, reading: ReadRequest) -> bool {
        self.reading.as_ref().is_some_and(|in_flight| in_flight.number == reading.number)
    }

    /// A read came back; `page` is what was asked for. To be told to everyone who waits for it.
    pub fn read(&mut self, now: Moment, reading: ReadRequest, page: &HistoryPage) -> ReadResult {
        let Some(in_flight) = self.reading.take_if(|in_flight| in_flight.number == reading.number) else {
            return ReadResult::Unshared;
        };
        let mut tail = RetainedTail::new(now, reading, page);
        if in_flight.broken || !in_flight.handed_out.iter().all(|next| tail.add(next)) {
            self.retained = None;
            return ReadResult::Unshared;
        }
        let tail = Arc::new(tail);
        let is_newest_alone = reading.filter.reverse && reading.filter.limit == 1;
        if reading.filter.limit > 0 && !is_newest_alone {
            self.take_newest = tail.is_cut_off;
        }
        // A position alone is no reason to give up more than that of the same stream, nor is its newest publication.
        let is_less = match &self.retained {
            Some(retained) if retained.is_of(tail.top.epoch) => {
                reading.filter.limit == 0 || is_newest_alone && !retained.publications.is_empty()
            }
            _ => false,
        };
        if !is_less {
            let retained = self.retained.insert(tail.clone());
            if retained.is_too_large(self.retention) {
                Arc::make_mut(retained).trim(self.retention);
            }
        }
        ReadResult::Shared(RetainedHistory(tail))
    }

    /// A read failed. Everyone who waits for it fails with it.
    pub fn read_failed(&mut self, reading: ReadRequest) {
        if self.reading.take_if(|in_flight| in_flight.number == reading.number).is_some() {
            (self.earliest, self.newest) = (None, 0);
        }
    }

    /// This was handed out on this node.
    pub fn handed_out(&mut self, now: Moment, publication: &Publication) {
        if let Some(in_flight) = &mut self.reading {
            in_flight.bytes += cost(publication);
            in_flight.broken |= publication.position.is_none()
                || in_flight.handed_out.len() >= RETAINED_PUBLICATIONS_MAX
                || in_flight.bytes > RETAINED_BYTES_MAX;
            if in_flight.broken {
                in_flight.handed_out = VecDeque::new();
            } else {
                in_flight.handed_out.push_back(publication.clone());
            }
        }
        if self.retained.is_some() {
            self.forget_old(now);
        }
        if let Some(retained) = &mut self.retained {
            let tail = Arc::make_mut(retained);
            if tail.add(publication) {
                tail.trim(self.retention);
            } else {
                self.retained = None;
            }
        }
    }

    /// What is known is no longer what the stream holds, or publications were missed: nobody starts from it any more,
    /// nor from a read that is in flight.
    pub fn forget(&mut self) {
        self.retained = None;
        if let Some(in_flight) = &mut self.reading {
            in_flight.broken = true;
            in_flight.handed_out = VecDeque::new();
        }
    }

    /// Lets go of what is too old to be told.
    pub fn forget_old(&mut self, now: Moment) {
        let fresh = FRESH.min(self.retention.ttl);
        self.retained.take_if(|retained| retained.read_at + fresh <= now);
    }

    /// What is kept, in bytes.
    pub fn bytes(&self) -> usize {
        self.retained.as_ref().map_or(0, |retained| retained.bytes + size_of::<RetainedTail>())
    }
}

impl RetainedTail {
    fn new(now: Moment, reading: ReadRequest, page: &HistoryPage) -> Self {
        let ReadRequest { number, filter } = reading;
        let mut publications: VecDeque<_> = page.publications.iter().cloned().collect();
        if filter.reverse {
            publications.make_contiguous().reverse();
        }
        let top = page.top;
        let ends_at_top = publications.back().map(Publication::offset) == Some(top.offset);
        let is_full = publications.len() >= filter.limit as usize;
        // Before where it was begun to read; everything, if that was the newest end.
        let begun_at = if filter.reverse { None } else { Some(filter.since.unwrap_or(0)) };
        let (from, gone_before) = match publications.front() {
            // Only a position was asked for, or a part that does not reach to the newest.
            _ if filter.limit == 0 || filter.reverse && filter.since.is_some() => (top.offset, 0),
            Some(first) if ends_at_top => {
                let from = first.offset().saturating_sub(1);
                let is_whole = match begun_at {
                    Some(begun_at) => begun_at >= from,
                    // It was its limit that ended it.
                    None => is_full,
                };
                (from, if is_whole { 0 } else { from })
            }
            // The limit cut off what is newest.
            Some(_) if is_full => (top.offset, 0),
            // What is newest is gone.
            Some(_) => (top.offset, top.offset),
            // Nothing is left of what was asked for, or there was nothing: the asker is up to date, or ahead.
            None => (top.offset, if begun_at < Some(top.offset) { top.offset } else { 0 }),
        };
        let is_cut_off = !publications.is_empty() && !ends_at_top && is_full && !filter.reverse;
        if from == top.offset {
            publications.clear();
        }
        let bytes = publications.iter().map(cost).sum();
        Self { number, read_at: now, from, gone_before, is_cut_off, publications, bytes, top }
    }

    fn answer(&self, want: &CatchUpRequest<'_>) -> Option<HistoryPage> {
        // Whoever was here before the read was begun takes it as it is.
        let is_newer = self.number > want.after;
        if let Some(sought) = want.sought {
            return self.behind(sought, want.limit as usize, is_newer);
        }
        if want.newest {
            return self.newest(is_newer);
        }
        let Some(since) = want.since else {
            return is_newer.then(|| HistoryPage { publications: Vec::new(), top: self.top });
        };
        let nothing = || HistoryPage { publications: Vec::new(), top: self.top };
        let is_ours = since.epoch.is_some_and(|epoch| epoch.is_empty() || epoch == self.top.epoch);
        if !is_ours || since.offset > self.top.offset {
            return is_newer.then(nothing);
        }
        // Part of it is gone, or it is more than they take.
        let is_too_much = self.top.offset - since.offset > u64::from(want.limit);
        if since.offset < self.gone_before || is_too_much {
            return Some(nothing());
        }
        if since.offset < self.from {
            return None;
        }
        let skipped = self.publications.partition_point(|stands| stands.offset() <= since.offset);
        let publications = self.publications.range(skipped..).cloned().collect();
        Some(HistoryPage { publications, top: self.top })
    }

    fn newest(&self, is_newer: bool) -> Option<HistoryPage> {
        let page = |newest: Option<&Publication>| HistoryPage {
            publications: newest.cloned().into_iter().collect(),
            top: self.top,
        };
        // Nothing at all was published, or nothing of it is left.
        let is_nothing = self.top.offset == 0 || self.gone_before == self.top.offset;
        match self.publications.back() {
            None if is_nothing => is_newer.then(|| page(None)),
            None => None,
            newest => Some(page(newest)),
        }
    }

    /// What came after an update, newest first, and that update as the last of it. Nothing if it is not among so many.
    fn behind(&self, sought: &ResumeAfter, limit: usize, is_newer: bool) -> Option<HistoryPage> {
        let newest = || self.publications.iter().rev().take(limit);
        let found = match sought {
            ResumeAfter::Everything => None,
            ResumeAfter::Id(id) => newest().position(|publication| mercure::has_id(publication, id)),
        };
        // Of what came before the publications that are kept here, nothing is left, or nobody looks that far.
        let is_enough = self.gone_before >= self.from || self.publications.len() >= limit;
        let count = match (sought, found) {
            (_, Some(at)) => at + 1,
            _ if !is_enough => return None,
            (ResumeAfter::Everything, None) => limit,
            // It may be newer than what is kept, and known to another node already.
            (ResumeAfter::Id(_), None) if !is_newer => return None,
            (ResumeAfter::Id(_), None) => 0,
        };
        Some(HistoryPage { publications: newest().take(count).cloned().collect(), top: self.top })
    }

    /// Returns whether this joins on.
    fn add(&mut self, publication: &Publication) -> bool {
        let Some(stands) = publication.position.filter(|stands| stands.epoch == self.top.epoch) else {
            return false;
        };
        if stands.offset <= self.top.offset {
            return true;
        }
        if self.top.offset.checked_add(1) != Some(stands.offset) {
            return false;
        }
        self.top = stands;
        self.bytes += cost(publication);
        self.publications.push_back(publication.clone());
        true
    }

    fn is_of(&self, epoch: Epoch) -> bool {
        self.top.epoch == epoch
    }

    fn is_too_large(&self, retention: Retention) -> bool {
        self.publications.len() > RETAINED_PUBLICATIONS_MAX.min(retention.size as usize)
            || self.bytes > RETAINED_BYTES_MAX
    }

    fn trim(&mut self, retention: Retention) {
        while self.is_too_large(retention) {
            let Some(oldest) = self.publications.pop_front() else { return };
            self.bytes -= cost(&oldest);
            self.from = oldest.offset();
        }
    }
}

fn cost(publication: &Publication) -> usize {
    publication.data.bytes.len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests;
