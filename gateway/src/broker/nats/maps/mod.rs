//! Channels that keep state by key: each has a log, to which everything that changes it is added behind what whoever adds it knows to
//! be the last; and what came of that is in the memory of each node that writes or reads it. Decision 41 tells why.

mod cached_maps;
mod decide_changes;
#[cfg(test)]
mod fold_tests;
mod follow_map;
mod map_fold;
pub(super) mod map_message;
mod once_keys;
mod shorten_map;
mod write_base;

use std::time::Duration;

use gateway_core::history::{HistoryFilter, HistoryPage, KeysBeside};
use gateway_core::map::{ChangedKey, MapRetention, StateFilter, StatePage};
use shared::channel::Channel;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use tokio::time::Instant;

use super::NatsBroker;
use super::nats_names::StreamKind;
use super::stored::{JetStreamError, code};
use crate::broker::BrokerError;
use crate::broker::measure::Operation;

pub(super) use self::cached_maps::CachedMaps;
use self::cached_maps::{FollowedMap, MESSAGE_BYTES};
use self::decide_changes::MapDraft;
pub(super) use self::decide_changes::{MapRequest, beside};
use self::follow_map::OpenMap;

/// Changes of one message.
const TOGETHER_MAX: usize = 128;
/// Bytes of one message, unless a single change has more.
const TOGETHER_BYTES_MAX: usize = 256 << 10;
/// What a message has beside its payload, at most, in bytes.
const HEADERS_BYTES: usize = 1_024;
/// How long whoever was beaten to it waits: what was first may still be on its way to the other servers.
const BEATEN_PAUSE: Duration = Duration::from_millis(1);
/// How long it is waited for another life of a stream.
const STREAM_PAUSE: Duration = Duration::from_millis(10);
/// Messages in which one reader takes out keys whose time is over.
const EXPIRIES_MAX: u32 = 16;

/// What came of adding to a log.
enum Added {
    Done,
    /// Another was first, and this node has read what that added.
    Beaten,
    /// The stream is another one.
    Elsewhere,
}

/// How many of these go as one message.
fn together(requests: &[MapRequest], payload_max: usize) -> usize {
    let bytes_max = TOGETHER_BYTES_MAX.min(payload_max / 2);
    let mut bytes = 0;
    let fits = |(count, request): &(usize, &MapRequest)| {
        bytes += request.message_bytes();
        *count == 0 || *count < TOGETHER_MAX && bytes <= bytes_max && request.goes_with(&requests[0])
    };
    requests.iter().enumerate().take_while(fits).count()
}

impl NatsBroker {
    /// Changes what these say, as far as they go together. Returns what became of each of the first of them.
    pub(super) async fn change_together(
        &self,
        channel: &Channel,
        requests: &[MapRequest],
        deadline: Instant,
    ) -> Result<Vec<Result<ChangedKey, BrokerError>>, BrokerError> {
        let mut batch = &requests[..together(requests, self.link.payload_max())];
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let mut open = self.open_map(channel, first.beside(), deadline).await?;
        // Whether nothing was added to the log since it was read.
        let mut is_read = false;
        loop {
            self.map_in_time(deadline)?;
            self.keep_base(&mut open).await?;
            let now = self.server_time().await;
            let fold = &mut open.followed.fold;
            let draft = fold.decide(batch, &first.keeping, now, self.map_bytes_max);
            let Some(payload) = self.payload_of(&open, &draft) else {
                let expired = draft.expired;
                open.followed.fold.undo(draft);
                if batch.len() > 1 {
                    batch = &batch[..batch.len() / 2];
                    continue;
                }
                if expired > 0 {
                    // What it alone has room for is not to be refused for that.
                    self.take_out_expired(&mut open, &first.keeping).await?;
                    continue;
                }
                let most = self.link.payload_max();
                let text = format!(
                    "a change of {} bytes is more than NATS takes as one message ({most})",
                    first.bytes()
                );
                return Ok(vec![Err(BrokerError::refused(text))]);
            };
            if payload.is_empty() {
                // Nothing is to be written: that is so if this node knows all that others have written.
                let outcomes = draft.outcomes.clone();
                open.followed.fold.undo(draft);
                if is_read {
                    return Ok(outcomes);
                }
                self.follow_map(&mut open).await?;
                is_read = true;
                continue;
            }
            let outcomes = draft.outcomes.clone();
            match self.add_draft(&mut open, draft, payload, Operation::Publish).await? {
                Added::Done => return Ok(outcomes),
                Added::Beaten => is_read = true,
                Added::Elsewhere => {
                    drop(open);
                    tokio::time::sleep(STREAM_PAUSE).await;
                    open = self.open_map(channel, first.beside(), deadline).await?;
                    is_read = false;
                }
            }
        }
    }

    /// Empty: there is nothing to write. `None`: it is longer than a message may be.
    fn payload_of(&self, open: &OpenMap, draft: &MapDraft) -> Option<bytes::Bytes> {
        let bytes_max = self.link.payload_max().saturating_sub(HEADERS_BYTES);
        for befores in [true, false] {
            let Some(message) = draft.message(&open.followed.fold, befores) else {
                return Some(bytes::Bytes::new());
            };
            let payload = message.encode();
            if payload.len() <= bytes_max {
                return Some(payload);
            }
        }
        None
    }

    /// Adds what was decided to the log, if nobody was first; else it is undone.
    async fn add_draft(
        &self,
        open: &mut OpenMap,
        draft: MapDraft,
        payload: bytes::Bytes,
        operation: Operation,
    ) -> Result<Added, BrokerError> {
        let sent = Instant::now();
        // Whoever gives up here does not know what came of it, and nothing that this node has is good.
        let life = open.followed.life.take();
        let (subject, last) = (self.log_of(open), open.followed.sequence);
        let added = self.jetstream.add(&self.link, subject, last, false, payload.clone()).await;
        open.followed.life = life;
        let sequence = match added {
            Ok(sequence) => sequence,
            Err(failed) => {
                open.followed.fold.undo(draft);
                return self.not_added(open, failed).await;
            }
        };
        self.metrics.observe_round_trip(operation, sent.elapsed());
        open.live.saw(sequence);
        let now = self.clock.now();
        let forgotten = open.followed.fold.commit(draft, now);
        self.metrics.evicted_keys.add(forgotten);
        open.followed.note(sequence, now, &payload);
        // It was taken behind the last message that this node knew: there was no other.
        open.followed.complete = Some(sent);
        self.shorten_if_due(open, payload.len() + MESSAGE_BYTES, now);
        Ok(Added::Done)
    }

    async fn not_added(&self, open: &mut OpenMap, failed: JetStreamError) -> Result<Added, BrokerError> {
        match failed {
            JetStreamError::Refused(code::WRONG_LAST_SEQUENCE, _) => {
                tokio::time::sleep(BEATEN_PAUSE).await;
                self.follow_map(open).await?;
                Ok(Added::Beaten)
            }
            // Another life of the stream has begun.
            JetStreamError::NoStream => {
                self.streams.doubt(open.kind());
                Ok(Added::Elsewhere)
            }
            failed => {
                if matches!(failed, JetStreamError::Other(BrokerError::Unanswered(_))) {
                    self.streams.doubt(open.kind());
                }
                Err(failed.into())
            }
        }
    }

    pub(super) async fn read_map(
        &self,
        channel: Channel,
        filter: StateFilter,
        keeping: MapRetention,
    ) -> Result<StatePage, BrokerError> {
        let began = Instant::now();
        let beside = beside(&keeping);
        if filter.limit == 0 && filter.key.is_none() {
            // Nodes ask so for all that they follow: what is not in memory is not brought there for that.
            let head = self.head_of_map(&channel, beside).await?;
            let now = self.server_time().await;
            if let Some(head) = head.filter(|head| !(1..=now).contains(&head.next_expiry)) {
                return Ok(StatePage { top: Some(head.top), ..StatePage::default() });
            }
        }
        let mut open = self.open_map(&channel, beside, began + self.timeout).await?;
        self.follow_map_since(&mut open, began).await?;
        let now = self.server_time().await;
        if !keeping.quiet && keeping.key_ttl.is_some() {
            self.take_out_expired(&mut open, &keeping).await?;
        }
        let fold = &open.followed.fold;
        // Nobody is told later of those that are gone in silence.
        let hidden = if keeping.quiet { Moment(now) } else { Moment::ZERO };
        let page = fold.state.page_at(&filter, keeping.ordered, hidden);
        self.metrics.observe_round_trip(Operation::History, began.elapsed());
        Ok(StatePage { top: Some(fold.position()), ..page })
    }

    /// Takes out keys whose time is over, and tells of it. What cannot be taken out now stays there: what is there can be read all
    /// the same.
    async fn take_out_expired(&self, open: &mut OpenMap, keeping: &MapRetention) -> Result<(), BrokerError> {
        for _ in 0..EXPIRIES_MAX {
            let now = self.clock.now();
            if open.followed.fold.state.first_due(Moment(now)).is_none() {
                break;
            }
            let draft = open.followed.fold.decide_expiry(keeping, now);
            let Some(payload) = self.payload_of(open, &draft).filter(|payload| !payload.is_empty()) else {
                open.followed.fold.undo(draft);
                break;
            };
            match self.add_draft(open, draft, payload, Operation::Publish).await {
                Ok(Added::Done | Added::Beaten) => {}
                Ok(Added::Elsewhere) => break,
                Err(error) => {
                    tracing::debug!(%error, channel = %open.channel, "keys whose time is over could not be taken out");
                    break;
                }
            }
        }
        match open.followed.life.is_some() {
            true => Ok(()),
            false => Err(BrokerError::Unanswered("the channel has begun anew while it was read".into())),
        }
    }

    /// What the last message of a channel says, without what came before it. `None`: it is to be looked at as a whole.
    async fn head_of_map(
        &self,
        channel: &Channel,
        beside: KeysBeside,
    ) -> Result<Option<map_message::MapHead>, BrokerError> {
        let live = self.streams.ready(StreamKind::Keys(beside)).await?;
        // As it is before anybody is asked: what is added meanwhile may come after the answer.
        let known =
            self.maps.find(beside, channel).and_then(|map| map.followed.clone().try_lock_owned().ok());
        let known =
            known.map(|known| (known.life.as_ref() == Some(&live.name), known.sequence, known.memory));
        let last = self.last_of_map(channel, beside, &live).await?;
        let went_back = |last: u64, top: StreamPosition| {
            known.is_some_and(|(is_same_life, sequence, memory)| {
                is_same_life && last < sequence || memory.is_missing_from(last, top)
            })
        };
        // Whoever reads the log as a whole finds what it has lost, and has the channel begin a new epoch.
        Ok(last.filter(|(last, head)| !went_back(*last, head.top)).map(|(_, head)| head))
    }

    pub(super) async fn map_position(
        &self,
        channel: &Channel,
        beside: KeysBeside,
    ) -> Result<StreamPosition, BrokerError> {
        match self.head_of_map(channel, beside).await? {
            Some(head) => Ok(head.top),
            None => {
                let began = Instant::now();
                let mut open = self.open_map(channel, beside, began + self.timeout).await?;
                self.follow_map_since(&mut open, began).await?;
                Ok(open.followed.fold.position())
            }
        }
    }

    pub(super) async fn map_history(
        &self,
        channel: &Channel,
        beside: KeysBeside,
        filter: HistoryFilter,
    ) -> Result<HistoryPage, BrokerError> {
        let began = Instant::now();
        let mut open = self.open_map(channel, beside, began + self.timeout).await?;
        self.follow_map_since(&mut open, began).await?;
        let now = self.server_time().await;
        let stream = &mut open.followed.fold.stream;
        stream.expire(Moment(now));
        let page = stream.page(filter);
        self.metrics.observe_round_trip(Operation::History, began.elapsed());
        Ok(page)
    }

    /// The channel in each of the streams that it is in.
    async fn maps_of(&self, channel: &Channel) -> Result<Vec<OpenMap>, BrokerError> {
        let mut found = Vec::new();
        for kind in self.streams.of_channels().await? {
            let StreamKind::Keys(beside) = kind else { continue };
            let live = self.streams.ready(kind).await?;
            let is_there = self.last_of_map(channel, beside, &live).await?.is_some();
            if is_there || live.carries() && self.was_in_former_life(channel, beside).await? {
                let mut open = self.open_map(channel, beside, Instant::now() + self.timeout).await?;
                self.follow_map(&mut open).await?;
                found.push(open);
            }
        }
        Ok(found)
    }

    pub(super) async fn count_map(&self, channel: Channel) -> Result<u64, BrokerError> {
        let maps = self.maps_of(&channel).await?;
        Ok(maps.iter().map(|open| open.followed.fold.state.len() as u64).sum())
    }

    /// Nothing is left but which idempotency keys were used.
    pub(super) async fn clear_map(&self, channel: Channel) -> Result<(), BrokerError> {
        for mut open in self.maps_of(&channel).await? {
            self.rewrite_map(&mut open, "cleared", |FollowedMap { fold, .. }| {
                let mut cleared = self.empty_fold();
                cleared.time = fold.time;
                fold.once.iter().for_each(|(digest, used)| {
                    cleared.once.remember(digest, used, fold.time);
                });
                Ok(Some(cleared))
            })
            .await?;
        }
        Ok(())
    }

    /// Where the channel stands in the epoch that follows this one, if it keeps state by key.
    pub(super) async fn leave_in_map(
        &self,
        channel: &Channel,
        epoch: Epoch,
    ) -> Result<Option<StreamPosition>, BrokerError> {
        let mut position = None;
        for mut open in self.maps_of(channel).await? {
            let next = Epoch::from_random(rand::random());
            self.rewrite_map(&mut open, "left", |FollowedMap { fold, .. }| {
                match fold.position().epoch == epoch {
                    true => fold.in_epoch(next).map(Some),
                    false => Ok(None),
                }
            })
            .await?;
            position = Some(open.followed.fold.position());
        }
        Ok(position)
    }

    pub(super) async fn forget_map_history(&self, channel: &Channel) -> Result<(), BrokerError> {
        for mut open in self.maps_of(channel).await? {
            self.rewrite_map(&mut open, "forgotten", |FollowedMap { fold, .. }| {
                match fold.stream.is_empty() {
                    true => Ok(None),
                    false => fold.without_history().map(Some),
                }
            })
            .await?;
        }
        Ok(())
    }
}
