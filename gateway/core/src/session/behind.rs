//! Flow control of long answers: history that does not fit into one reply is read piece by piece, each piece once the
//! client has taken the one before.
//!
//! The reply to a long recovery holds its beginning. The subscription then reads on: it reads a piece of history, sends
//! it as ordinary publications, and reads the next, until a piece reaches the newest publication and those held back
//! meanwhile follow without a gap. So the bytes that wait for a client are bounded, however much it has missed, and it
//! makes progress with every piece, even if it is disconnected midway. A subscription also reads on when more
//! publications were held back for it than there was room for.

use std::collections::VecDeque;

use shared::channel::Channel;
use shared::position::StreamPosition;
use shared::publication::Publication;
use shared::push::{Event, Form, Push, UnsubscribeCode};

use super::Session;
use super::batch::BATCH_BYTES_MAX;
use crate::delta;
use crate::effect::{DeliveryTerms, Effect, GoLive, HistoryRequest, Join, OutcomeResult, Ticket};
use crate::history::{HistoryFilter, HistoryPage};
use crate::recovery::reads_on;
use crate::reply_bytes::{fitting, publication_bytes, publications_bytes};

/// Consecutive reads that may fail before a subscription ends.
pub const READS_FAILED_MAX: u8 = 3;

/// The error when the broker could not read history.
#[derive(Clone, Copy, Debug)]
struct HistoryReadFailed;

/// Subscriptions that read on, at most one entry for each. While there is an entry, an effect is awaited.
#[derive(Debug)]
pub(super) struct BehindReaders {
    /// The first is served; the others wait for it.
    readers: VecDeque<BehindReader>,
    /// The ticket of the awaited effect: room at the client, or a piece for the first reader.
    awaited: Ticket,
    /// Whether a piece is being read for the first reader.
    reading: bool,
}

/// A subscription that reads on from history.
#[derive(Debug)]
pub(super) struct BehindReader {
    pub(super) channel: Channel,
    /// The stream position up to which the client has been sent publications.
    pub(super) position: StreamPosition,
    pub(super) terms: DeliveryTerms,
    /// Publications to read for the next piece.
    pub(super) limit: u32,
    /// Consecutive reads that failed.
    failures: u8,
}

impl BehindReader {
    pub(super) fn new(channel: Channel, position: StreamPosition, terms: DeliveryTerms, limit: u32) -> Self {
        Self { channel, position, terms, limit, failures: 0 }
    }
}

/// The part of a recovery that the reply does not hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecoveryRest {
    /// The offset before the first publication of the rest.
    pub(super) before: u64,
    pub(super) limit: u32,
}

impl BehindReaders {
    pub(super) fn awaits(&self, ticket: Ticket) -> bool {
        self.awaited == ticket
    }

    /// Forgets the reader of a subscription that has ended.
    pub(super) fn forget(&mut self, channel: &Channel) {
        if self.readers.front().is_some_and(|reader| reader.channel == *channel) {
            self.reading = false;
        }
        self.readers.retain(|reader| reader.channel != *channel);
    }
}

impl Session {
    /// Reads history in place of publications that were held back and cannot be delivered, because they do not follow
    /// `go_live.position` or there was no room for them. Returns whether the subscription reads on; if it does not, the
    /// caller ends it.
    pub fn handle_gap(&mut self, go_live: &GoLive) -> bool {
        let Some(position) = go_live.position.filter(|_| go_live.may_read_on) else { return false };
        if self.find_live(go_live.channel.as_str()).is_none() {
            return false;
        }
        let limit = self.context.settings.recovery_limit_max;
        self.read_on(BehindReader::new(go_live.channel.clone(), position, go_live.terms.clone(), limit));
        true
    }

    /// Returns whether another long answer may be given before the client has taken the last one.
    pub(super) fn is_ready_for_more(&self) -> bool {
        self.sent_bytes <= self.context.settings.reply_bytes_max
    }

    /// Counts the bytes of a long answer. Past a limit, waits until the client has taken what it was sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent_bytes = self.sent_bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        let much = BATCH_BYTES_MAX.min(self.context.settings.reply_bytes_max as usize);
        if self.sent_bytes as usize > much && self.behind.is_none() {
            let awaited = self.await_room();
            self.behind = Some(Box::new(BehindReaders { readers: VecDeque::new(), awaited, reading: false }));
        }
    }

    /// Truncates recovered publications to those that fit into the reply, of which `used` bytes are taken. Returns the
    /// bytes of those that remain, and the rest to read later, if any.
    pub(super) fn leave_for_later(
        &self,
        publications: &mut Vec<Publication>,
        used: usize,
    ) -> (usize, Option<RecoveryRest>) {
        let Some(first) = publications.first().map(Publication::offset) else { return (0, None) };
        let room = (self.context.settings.reply_bytes_max as usize).saturating_sub(used);
        let is_full = self.behind.is_some() || used > 0 && publication_bytes(&publications[0]) > room;
        let (count, bytes) = if is_full { (0, 0) } else { fitting(publications, room) };
        if count == publications.len() {
            return (bytes, None);
        }
        let limit = self.piece_limit(publications);
        publications.truncate(count);
        let before = publications.last().map_or(first.saturating_sub(1), Publication::offset);
        (bytes, Some(RecoveryRest { before, limit }))
    }

    /// Makes a subscription read on from history.
    pub(super) fn read_on(&mut self, reader: BehindReader) {
        match &mut self.behind {
            Some(behind) => behind.readers.push_back(reader),
            None => {
                let awaited = self.await_room();
                self.behind = Some(Box::new(BehindReaders {
                    readers: VecDeque::from([reader]),
                    awaited,
                    reading: false,
                }));
            }
        }
    }

    /// Handles the outcome of the awaited effect: there is room, or a piece was read.
    pub(super) fn on_behind(&mut self, result: OutcomeResult) {
        match result {
            OutcomeResult::Room => self.on_room(),
            OutcomeResult::Joined(Ok(Some(page))) => self.on_piece(Ok(page)),
            _ => self.on_piece(Err(HistoryReadFailed)),
        }
    }

    fn on_room(&mut self) {
        self.sent_bytes = 0;
        let ticket = self.ticket();
        let Some(behind) = &mut self.behind else { return };
        let Some(reader) = behind.readers.front() else {
            self.behind = None;
            return;
        };
        let channel = reader.channel.clone();
        let filter = HistoryFilter {
            since: Some(reader.position.offset),
            limit: reader.limit,
            reverse: false,
            enough_bytes: Some(self.context.settings.reply_bytes_max),
        };
        let history = HistoryRequest { filter, epoch: Some(reader.position.epoch), sought: None, part: true };
        let terms = reader.terms.clone();
        (behind.awaited, behind.reading) = (ticket, true);
        // The namespace existed when the client subscribed.
        let retention =
            self.context.rules.options(&channel).map(|options| options.retention()).unwrap_or_default();
        let join = Join {
            ticket,
            channel,
            terms,
            retention,
            history: Some(history),
            presence: None,
            members: false,
            newest: None,
        };
        self.effects.push_back(Effect::Join(Box::new(join)));
    }

    fn on_piece(&mut self, page: Result<HistoryPage, HistoryReadFailed>) {
        let Some(behind) = &mut self.behind else { return };
        // The reader's subscription may have ended meanwhile.
        if std::mem::take(&mut behind.reading)
            && let Some(reader) = behind.readers.pop_front()
        {
            match page {
                Ok(page) if reads_on(reader.position, &page) => self.send_piece(reader, page),
                Err(HistoryReadFailed) if reader.failures + 1 < READS_FAILED_MAX => {
                    behind.readers.push_front(BehindReader { failures: reader.failures + 1, ..reader });
                }
                _ => self.end_reading(&reader.channel),
            }
        }
        if self.behind.is_some() {
            let awaited = self.await_room();
            if let Some(behind) = &mut self.behind {
                behind.awaited = awaited;
            }
        }
    }

    fn send_piece(&mut self, mut reader: BehindReader, page: HistoryPage) {
        let room = self.context.settings.reply_bytes_max as usize;
        let (count, bytes) = fitting(&page.publications, room);
        let piece = &page.publications[..count];
        let patches = if reader.terms.patches { delta::chain(piece) } else { Vec::new() };
        for (at, publication) in piece.iter().enumerate() {
            if !reader.terms.lets_through(publication) || !self.is_meant(publication) {
                continue;
            }
            let form = match patches.get(at) {
                None => Form::Plain,
                Some(patch) if patch.is_empty() => Form::Whole,
                Some(patch) => Form::Patch(patch),
            };
            self.push(Push::to(&reader.channel, Event::Publication(publication, form)));
        }
        reader.position.offset = piece.last().map_or(reader.position.offset, Publication::offset);
        self.sent(bytes);
        if reader.position == page.top {
            let is_sent = |one: &Publication| reader.terms.lets_through(one) && self.is_meant(one);
            let has_last = piece.last().is_some_and(is_sent);
            let BehindReader { channel, position, terms, .. } = reader;
            let go_live =
                GoLive { channel, position: Some(position), terms, may_read_on: count > 0, has_last };
            return self.after_replies(Effect::GoLive(go_live));
        }
        reader.failures = 0;
        reader.limit = self.piece_limit(&page.publications);
        if let Some(behind) = &mut self.behind {
            behind.readers.push_front(reader);
        }
    }

    /// Ends a subscription whose next publications history no longer holds or could not be read. The client then
    /// recovers from its position.
    fn end_reading(&mut self, channel: &Channel) {
        if let Ok(at) = self.find(channel.as_str()) {
            let subscription = self.remove(at);
            self.end(subscription, UnsubscribeCode::InsufficientState);
            self.reckon_expiry();
        }
    }

    fn await_room(&mut self) -> Ticket {
        let ticket = self.ticket();
        self.after_replies(Effect::AwaitRoom { ticket });
        ticket
    }

    /// Returns about how many publications of this size fit into one piece.
    fn piece_limit(&self, publications: &[Publication]) -> u32 {
        let settings = &self.context.settings;
        let bytes = publications_bytes(publications);
        let each = (bytes / publications.len().max(1)).max(1);
        let limit = (settings.reply_bytes_max as usize / each).saturating_add(1);
        u32::try_from(limit).unwrap_or(u32::MAX).min(settings.recovery_limit_max)
    }
}
