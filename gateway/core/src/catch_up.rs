//! Catches up subscribers that join a channel: one read of history serves all that come at about the same time.
//!
//! After a node or a link has failed, all clients come back at once and ask for nearly the same part of a channel's
//! history. One read serves them all: those that wait while it is made, and for a while those that come after it, because
//! what this node delivers meanwhile is added to it. So the retained history is never behind what was delivered. A
//! subscriber whose publications are held back since before it asked can start from it without a gap, as if it had been
//! subscribed all along. The owner calls this and reports what it delivers in one order, under the channel's lock.
//!
//! A subscriber that looks for an update by its id needs the newest publications up to it. Subscribers that have seen it
//! lately share those.
//!
//! A subscriber that asks for a position only begins there. It gets a read that was begun after it asked, so that nothing
//! published before it came is new to it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use shared::command::ResumeAfter;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::protocol::mercure;
use shared::publication::Publication;

use crate::history::{HistoryFilter, HistoryPage, Retention};

/// How long a read serves later subscribers, unless the stream is retained for less.
pub const FRESH: Duration = Duration::from_secs(5);
/// The most publications retained per channel, unless the stream keeps fewer. The oldest go first.
pub const RETAINED_PUBLICATIONS_MAX: usize = 1024;
/// The most payload bytes retained per channel. The oldest publications go first.
pub const RETAINED_BYTES_MAX: usize = 1 << 20;
/// How many bits number the reads of one life: enough for more reads than can be made while one is in flight.
const READS_BITS: u32 = 20;
/// The approximate cost of a retained publication beside its payload, in bytes.
const OVERHEAD_BYTES: usize = 256;

/// What a subscriber that joins asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CatchUpRequest<'a> {
    /// Where the subscriber stopped reading. `None` asks for the stream's position.
    pub since: Option<ClientPosition>,
    /// The most publications that the subscriber takes, or looks through.
    pub limit: u32,
    /// Whether the subscriber asks for the newest publications, which it may have already, and not for what it missed.
    pub newest: bool,
    /// The update that the subscriber looks for among the newest publications.
    pub sought: Option<&'a ResumeAfter>,
    /// How many reads had been begun when the subscriber first asked.
    after: u64,
}

/// A position in the stream as a client names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientPosition {
    pub offset: u64,
    /// `None` for an epoch that cannot be of any stream here, empty for any epoch.
    pub epoch: Option<Epoch>,
}

/// What to do for a subscriber that asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CatchUpAnswer {
    /// This page is the answer.
    Answered(HistoryPage),
    /// Make this read and pass its result to [`CatchUp::read`].
    Read(ReadRequest),
    /// A read is in flight: ask again when it is done.
    Wait,
}

/// One read of history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadRequest {
    pub number: u64,
    pub filter: HistoryFilter,
}

/// One channel's recent history on this node, for subscribers that join.
#[derive(Debug, Default)]
pub struct CatchUp {
    /// The stream's retention. No more than that is told from here, so that all nodes answer a client that was away too
    /// long alike.
    retention: Retention,
    /// The number of the last read that was begun.
    begun: u64,
    retained: Option<Arc<RetainedTail>>,
    reading: Option<Box<ReadInFlight>>,
    /// The earliest offset that a waiting subscriber asked for, and the highest limit.
    earliest: Option<(u64, u32)>,
    /// How many of the newest publications waiting subscribers want, at most.
    newest: u32,
    /// Whether the last read from an offset met its limit. The next one then reads backwards from the newest publication,
    /// which serves as many subscribers as possible.
    take_newest: bool,
}

/// A read in flight, and what was delivered since it was begun.
#[derive(Debug)]
struct ReadInFlight {
    number: u64,
    handed_out: VecDeque<Publication>,
    bytes: usize,
    /// Whether `handed_out` is incomplete or has a gap.
    broken: bool,
}

/// A part of the stream, up to what this node has delivered, or further.
#[derive(Clone, PartialEq, Eq, Debug)]
struct RetainedTail {
    number: u64,
    read_at: Moment,
    /// `publications` has everything after this offset.
    from: u64,
    /// A client that stopped before this offset cannot get all it missed, as the read has shown. About offsets before its
    /// start, a read shows nothing if it found something at the start, or if there was nothing to find.
    gone_before: u64,
    /// Whether the read met its limit before the stream's end.
    is_cut_off: bool,
    publications: VecDeque<Publication>,
    bytes: usize,
    top: StreamPosition,
}

/// The result of a read, for the subscribers that waited for it.
#[derive(Clone, Debug)]
pub enum ReadResult {
    /// Ask this first, and call [`CatchUp::ask`] if it has no answer.
    Shared(RetainedHistory),
    /// The read cannot be shared: each subscriber that waited reads for itself.
    Unshared,
}

/// The result of a read that several subscribers can share.
#[derive(Clone, Debug)]
pub struct RetainedHistory(Arc<RetainedTail>);

impl RetainedHistory {
    pub fn answer(&self, want: &CatchUpRequest<'_>) -> Option<HistoryPage> {
        self.0.answer(want)
    }
}

impl CatchUp {
    /// Makes the state of a channel. `life` tells it from earlier ones for the same channel, so that a read begun for an
    /// earlier one is not taken for one of these.
    pub fn new(life: u64, retention: Retention) -> Self {
        Self { retention, begun: life << READS_BITS, ..Self::default() }
    }

    /// Whether there is nothing to lose: another life may begin in its place.
    pub fn is_unused(&self) -> bool {
        self.retained.is_none() && self.reading.is_none() && self.earliest.is_none() && self.newest == 0
    }

    /// Makes the request of a subscriber that asks for the first time. From before this call on, publications of the
    /// channel are held back for it.
    pub fn want(&self, since: Option<ClientPosition>, limit: u32) -> CatchUpRequest<'static> {
        CatchUpRequest { since, limit, newest: false, sought: None, after: self.begun }
    }

    /// Makes the request of a subscriber that wants the newest publication and nothing before it.
    pub fn want_newest(&self) -> CatchUpRequest<'static> {
        CatchUpRequest { newest: true, ..self.want(None, 1) }
    }

    /// Makes the request of a subscriber that looks for an update among `limit` of the newest publications, to get what
    /// came after it.
    pub fn want_after<'a>(&self, sought: &'a ResumeAfter, limit: u32) -> CatchUpRequest<'a> {
        // The stream keeps no more.
        CatchUpRequest {
            newest: true,
            sought: Some(sought),
            ..self.want(None, limit.min(self.retention.size))
        }
    }

    /// Returns an answer from the retained history, if it has one.
    pub fn retained_page(&mut self, now: Moment, want: &CatchUpRequest<'_>) -> Option<HistoryPage> {
        self.forget_old(now);
        self.retained.as_ref()?.answer(want)
    }

    pub fn ask(&mut self, now: Moment, want: &CatchUpRequest<'_>) -> CatchUpAnswer {
        if let Some(page) = self.retained_page(now, want) {
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
            // A read of many of the newest publications also serves subscribers that name an offset, as far as it reaches.
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

    /// Takes in the result of a read; `page` is what was asked for. Pass the result on to all subscribers that wait for it.
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
        // A read of the position alone does not replace more of the same stream, nor does its newest publication alone.
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

    /// Handles a failed read. The requests of all subscribers that wait for it fail with it.
    pub fn read_failed(&mut self, reading: ReadRequest) {
        if self.reading.take_if(|in_flight| in_flight.number == reading.number).is_some() {
            (self.earliest, self.newest) = (None, 0);
        }
    }

    /// Notes a publication that was delivered on this node.
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

    /// Forgets the retained history, because the stream holds something else or publications were missed. No subscriber
    /// starts from it any more, nor from a read in flight.
    pub fn forget(&mut self) {
        self.retained = None;
        if let Some(in_flight) = &mut self.reading {
            in_flight.broken = true;
            in_flight.handed_out = VecDeque::new();
        }
    }

    /// Drops the retained history if it is too old.
    pub fn forget_old(&mut self, now: Moment) {
        let fresh = FRESH.min(self.retention.ttl);
        self.retained.take_if(|retained| retained.read_at + fresh <= now);
    }

    /// Returns the size of the retained history, in bytes.
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
        // The offset after which the read began; `None` if it began at the newest end.
        let begun_at = if filter.reverse { None } else { Some(filter.since.unwrap_or(0)) };
        let (from, gone_before) = match publications.front() {
            // Only a position was read, or a part that does not reach to the newest publication.
            _ if filter.limit == 0 || filter.reverse && filter.since.is_some() => (top.offset, 0),
            Some(first) if ends_at_top => {
                let from = first.offset().saturating_sub(1);
                let is_whole = match begun_at {
                    Some(begun_at) => begun_at >= from,
                    // The limit ended it.
                    None => is_full,
                };
                (from, if is_whole { 0 } else { from })
            }
            // The limit cut off what is newest.
            Some(_) if is_full => (top.offset, 0),
            // The newest publications are gone.
            Some(_) => (top.offset, top.offset),
            // Nothing of what was asked for is left, or there was nothing: the client is up to date, or ahead.
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
        // A subscriber that asked before the read was begun takes it as it is.
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
        // Part of it is gone, or it is more than the subscriber takes.
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
        // Nothing was ever published, or nothing is left.
        let is_nothing = self.top.offset == 0 || self.gone_before == self.top.offset;
        match self.publications.back() {
            None if is_nothing => is_newer.then(|| page(None)),
            None => None,
            newest => Some(page(newest)),
        }
    }

    /// Returns what came after an update, newest first, with the update itself last. Empty if the update is not among the
    /// `limit` newest publications.
    fn behind(&self, sought: &ResumeAfter, limit: usize, is_newer: bool) -> Option<HistoryPage> {
        let newest = || self.publications.iter().rev().take(limit);
        let found = match sought {
            ResumeAfter::Everything => None,
            ResumeAfter::Id(id) => newest().position(|publication| mercure::has_id(publication, id)),
        };
        // Nothing before the retained publications is left, or the subscriber looks no further back.
        let is_enough = self.gone_before >= self.from || self.publications.len() >= limit;
        let count = match (sought, found) {
            (_, Some(at)) => at + 1,
            _ if !is_enough => return None,
            (ResumeAfter::Everything, None) => limit,
            // The update may be newer than the retained publications, and known to another node already.
            (ResumeAfter::Id(_), None) if !is_newer => return None,
            (ResumeAfter::Id(_), None) => 0,
        };
        Some(HistoryPage { publications: newest().take(count).cloned().collect(), top: self.top })
    }

    /// Adds a publication. Returns false if it does not join on.
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
