//! Maps over JetStream: each channel that keeps state by key has a log, to which nodes append with a condition on its
//! last message, and every node that writes or reads the channel keeps the resulting state in memory. Decision 41 says
//! why.

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

use bytes::Bytes;
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
use self::map_fold::MapFold;
use self::map_message::MapMessage;

/// The most changes of one message.
const TOGETHER_MAX: usize = 128;
/// The most bytes of one message, unless a single change has more.
const TOGETHER_BYTES_MAX: usize = 256 << 10;
/// The most bytes of a message's headers.
const HEADERS_BYTES: usize = 1_024;
/// How long a node waits after another node's message came first: that message may still be on its way to the other servers.
const BEATEN_PAUSE: Duration = Duration::from_millis(1);
/// How long a node waits for another life of a stream to begin.
const STREAM_PAUSE: Duration = Duration::from_millis(10);
/// The most messages in which one reader removes expired keys.
const EXPIRIES_MAX: u32 = 16;

/// The outcome of an append to a log.
enum Added {
    Done,
    /// Another node appended first, and this node has read its message.
    Beaten,
    /// The stream has begun another life.
    Elsewhere,
}

/// Returns how many of these requests go as one message.
fn together(requests: &[MapRequest], payload_max: usize) -> usize {
    let bytes_max = TOGETHER_BYTES_MAX.min(payload_max / 2);
    let mut bytes = 0;
    let fits = |(count, request): &(usize, &MapRequest)| {
        bytes += request.message_bytes();
        *count == 0 || *count < TOGETHER_MAX && bytes <= bytes_max && request.goes_with(&requests[0])
    };
    requests.iter().enumerate().take_while(fits).count()
}

/// Returns a message of a log in words and encoded again, and, if a channel can begin with it, the state that it holds:
/// as read, and after the state was written down as rows and read back. For [`crate::readers`].
pub(crate) fn read_map_in_words(bytes: Bytes) -> Result<(String, Bytes, [Vec<String>; 2]), String> {
    let message = MapMessage::decode(bytes).map_err(|error| error.to_string())?;
    let words = format!("{message:?}");
    let (encoded, begun) = match message {
        MapMessage::Changes(changes) => {
            let position = StreamPosition { offset: changes.before(), ..changes.head.top };
            let mut fold = MapFold::new(position, usize::MAX);
            (changes.encode(), fold.take_in(&changes, changes.at).map(|()| fold))
        }
        MapMessage::Base(base) => {
            let mut fold = MapFold::new(base.head.top, usize::MAX);
            fold.time = base.time;
            (base.encode(), fold.put_back(base.rows.clone()).map(|()| fold))
        }
    };
    let holds = begun.ok().map(|fold| {
        let mut copy = MapFold::new(StreamPosition::default(), usize::MAX);
        copy.time = fold.time;
        let put_back = fold.write_down(1_000).into_iter().try_for_each(|rows| copy.put_back(rows));
        [fold.lines(), put_back.map_or_else(|error| vec![error.to_string()], |()| copy.lines())]
    });
    Ok((words, encoded, holds.unwrap_or_default()))
}

impl NatsBroker {
    /// Makes the first of these changes, as many as go in one message, and returns their outcomes.
    pub(super) async fn change_together(
        &self,
        channel: &Channel,
        requests: &[MapRequest],
        deadline: Instant,
    ) -> Result<Vec<Result<ChangedKey, BrokerError>>, BrokerError> {
        let mut batch = &requests[..together(requests, self.link.payload_max())];
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let mut open = self.open_map(channel, first.beside(), deadline).await?;
        // Whether the log was read to its end in this call.
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
                    // The change may fit in a message without the expired keys.
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
                // Nothing changes. That holds only if this node has read all messages of other nodes.
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

    /// Returns the encoded message of a draft, empty if nothing changes. `None`: it is longer than a message may be.
    fn payload_of(&self, open: &OpenMap, draft: &MapDraft) -> Option<Bytes> {
        let bytes_max = self.link.payload_max().saturating_sub(HEADERS_BYTES);
        for befores in [true, false] {
            let Some(message) = draft.message(&open.followed.fold, befores) else {
                return Some(Bytes::new());
            };
            let payload = message.encode();
            if payload.len() <= bytes_max {
                return Some(payload);
            }
        }
        None
    }

    /// Appends a draft to the log, or undoes it if another node appended first.
    async fn add_draft(
        &self,
        open: &mut OpenMap,
        draft: MapDraft,
        payload: Bytes,
        operation: Operation,
    ) -> Result<Added, BrokerError> {
        let sent = Instant::now();
        // If this call is cancelled here, the outcome is unknown: what is in memory must not be used.
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
        // The server took it behind the last message that this node knew, so there was no other.
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
            // The stream has begun another life.
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
            // Nodes ask this of each channel that they follow: a channel that is not in memory is not read for it.
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
        // Subscribers of a quiet channel are not told later that a key has expired.
        let hidden = if keeping.quiet { Moment(now) } else { Moment::ZERO };
        let page = fold.state.page_at(&filter, keeping.ordered, hidden);
        self.metrics.observe_round_trip(Operation::History, began.elapsed());
        Ok(StatePage { top: Some(fold.position()), ..page })
    }

    /// Removes expired keys and tells subscribers. Keys that cannot be removed now stay: the channel can be read all the
    /// same.
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

    /// Returns the head of a channel's last message. `None`: the log has to be read as a whole.
    async fn head_of_map(
        &self,
        channel: &Channel,
        beside: KeysBeside,
    ) -> Result<Option<map_message::MapHead>, BrokerError> {
        let live = self.streams.ready(StreamKind::Keys(beside)).await?;
        // Taken before the server is asked: a message that is added meanwhile may come after its answer.
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
        // Reading the log as a whole finds what it has lost, and begins a new epoch.
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

    /// Opens the channel in each stream that has it.
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

    /// Removes everything of a channel but its used idempotency keys.
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

    /// Has a channel that keeps state by key leave this epoch. Returns its position, or `None` if it keeps none.
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
