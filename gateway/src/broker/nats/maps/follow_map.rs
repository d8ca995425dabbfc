//! Follows the log of a channel that keeps state by key: reads it from its base on, and then what was added.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::history::KeysBeside;
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::super::NatsBroker;
use super::super::nats_names::StreamKind;
use super::super::stored::{JetStreamError, MessageSelector, StoredMessage};
use super::super::streams::LiveStream;
use super::cached_maps::{CachedMap, CachedMaps, FollowedMap};
use super::map_fold::MapFold;
use super::map_message::{BaseMessage, MapMessage, MapMessageError};
use crate::broker::BrokerError;

/// The most messages that are read one by one. A node that is further behind reads all the rest through a consumer.
const SINGLES_MAX: u32 = 4;
/// Attempts to read a log from its beginning while other nodes make it short.
const ATTEMPTS_MAX: u32 = 10;
/// How long a node waits when another node has just begun the same log, or made it short.
const BEATEN_PAUSE: Duration = Duration::from_millis(5);

/// A channel that no other call of this node uses meanwhile.
pub(super) struct OpenMap {
    pub(super) channel: Channel,
    pub(super) beside: KeysBeside,
    pub(super) live: Arc<LiveStream>,
    pub(super) followed: OwnedMutexGuard<FollowedMap>,
    pub(super) deadline: Instant,
    cached: Arc<CachedMap>,
    maps: Arc<CachedMaps>,
}

impl Drop for OpenMap {
    fn drop(&mut self) {
        self.maps.weigh(&self.cached, self.followed.fold.bytes());
    }
}

impl OpenMap {
    pub(super) fn kind(&self) -> StreamKind {
        StreamKind::Keys(self.beside)
    }
}

impl NatsBroker {
    /// Opens a channel in the current life of its stream. Reads the whole log if it is not in memory.
    pub(super) async fn open_map(
        &self,
        channel: &Channel,
        beside: KeysBeside,
        deadline: Instant,
    ) -> Result<OpenMap, BrokerError> {
        let cached = self.maps.get(beside, channel);
        let followed = tokio::time::timeout_at(deadline, cached.followed.clone().lock_owned()).await;
        let followed = followed.map_err(|_| BrokerError::Timeout(self.timeout))?;
        let live = self.streams.ready(StreamKind::Keys(beside)).await?;
        let (channel, maps) = (channel.clone(), self.maps.clone());
        let mut open = OpenMap { channel, beside, live, followed, deadline, cached, maps };
        if open.followed.life.as_ref() != Some(&open.live.name) {
            self.read_whole_map(&mut open).await?;
        }
        self.leave_lost_epoch(&mut open).await?;
        Ok(open)
    }

    pub(super) fn log_of(&self, open: &OpenMap) -> String {
        self.names.keys(open.beside, &open.channel, &open.live.name)
    }

    pub(super) fn map_failed(&self, beside: KeysBeside, failed: JetStreamError) -> BrokerError {
        self.streams.doubt(StreamKind::Keys(beside));
        failed.into()
    }

    pub(super) fn map_in_time(&self, deadline: Instant) -> Result<(), BrokerError> {
        if Instant::now() < deadline { Ok(()) } else { Err(BrokerError::Timeout(self.timeout)) }
    }

    pub(super) fn unreadable_map(&self, channel: &Channel, error: &MapMessageError) -> BrokerError {
        self.metrics.undecodable.increment();
        BrokerError::Unexpected(format!("the keys of {channel} cannot be read: {error}").into())
    }

    pub(super) async fn next_of_map(
        &self,
        open: &OpenMap,
        sequence: u64,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        let next = MessageSelector::Next { sequence, subject: self.log_of(open) };
        let next = self.jetstream.get(&self.reads, &self.names.stream(open.kind()), &next).await;
        next.map_err(|failed| self.map_failed(open.beside, failed))
    }

    /// Reads the log from its base on, or begins the log if there is none.
    pub(super) async fn read_whole_map(&self, open: &mut OpenMap) -> Result<(), BrokerError> {
        let _turn = match tokio::time::timeout_at(open.deadline, self.reading.acquire()).await {
            Ok(turn) => turn.ok(),
            Err(_) => return Err(BrokerError::Timeout(self.timeout)),
        };
        let text = format!("the log of {} is begun again and again", open.channel);
        let mut outcome = Err(BrokerError::Unexpected(text.into()));
        for _ in 0..ATTEMPTS_MAX {
            self.map_in_time(open.deadline)?;
            open.followed.reset();
            let begins = match self.next_of_map(open, 1).await? {
                Some(stored) => match self.decoded(open, &stored)? {
                    MapMessage::Base(base) => self.take_base(open, &stored, base).await,
                    MapMessage::Changes(_) => {
                        tracing::warn!(channel = %open.channel, "what the log of a channel begins with is gone: \
                            it begins anew, without keys");
                        self.begin_map(open, Some(stored.sequence)).await
                    }
                },
                None => self.begin_map(open, None).await,
            };
            // Reading a large base may have taken long.
            open.deadline = open.deadline.max(Instant::now() + self.timeout);
            let is_read = match begins {
                Ok(true) => self.read_on_map(open).await,
                begins => begins,
            };
            let is_read = match is_read {
                Ok(false) if open.followed.sequence > 0 => self.close_hole(open).await,
                is_read => is_read,
            };
            outcome = match is_read {
                Ok(true) => Ok(()),
                // Another node was first.
                Ok(false) => outcome,
                Err(error) => Err(error),
            };
            // A call that has read much must not fail for that: each batch had its own timeout.
            open.deadline = open.deadline.max(Instant::now() + self.timeout);
            if outcome.is_ok() {
                open.followed.life = Some(open.live.name.clone());
                break;
            }
            tokio::time::sleep(BEATEN_PAUSE).await;
        }
        outcome
    }

    /// Begins the log of a channel: with what another life of the stream has of it, or empty. `lost`: the first message
    /// of a log whose base is gone, which the new base takes the place of. Returns `false` if another node was first.
    async fn begin_map(&self, open: &mut OpenMap, lost: Option<u64>) -> Result<bool, BrokerError> {
        let carried = match lost {
            None if open.live.carries() => self.carried_map(open).await?,
            _ => None,
        };
        let is_carried = carried.is_some();
        open.followed.fold = carried.unwrap_or_else(|| self.empty_fold());
        open.followed.sequence = match lost {
            None => 0,
            Some(_) => {
                let last = MessageSelector::Last(self.log_of(open));
                let last = self.jetstream.get(&self.reads, &self.names.stream(open.kind()), &last).await;
                let last = last.map_err(|failed| self.map_failed(open.beside, failed))?;
                let last = last.map_or(0, |last| last.sequence);
                // Another node may have begun the log anew since then: what was added behind that is not lost.
                if self.next_of_map(open, 1).await?.map(|first| first.sequence) != lost {
                    return Ok(false);
                }
                last
            }
        };
        let begun = self.write_base(open, "begins").await?;
        if begun && is_carried {
            self.drop_former_lives(open).await;
        }
        Ok(begun)
    }

    pub(super) fn empty_fold(&self) -> MapFold {
        let epoch = Epoch::from_random(rand::random());
        MapFold::new(StreamPosition { offset: 0, epoch }, self.map_bytes_max)
    }

    fn decoded(&self, open: &OpenMap, stored: &StoredMessage) -> Result<MapMessage, BrokerError> {
        // The stream is known to have gone back if it ends before this one day.
        open.live.saw(stored.sequence);
        MapMessage::decode(stored.payload.clone()).map_err(|error| self.unreadable_map(&open.channel, &error))
    }

    /// Takes in the next message of the log.
    pub(super) async fn take_of_map(
        &self,
        open: &mut OpenMap,
        stored: StoredMessage,
    ) -> Result<(), BrokerError> {
        match self.decoded(open, &stored)? {
            MapMessage::Changes(changes) => {
                if open.followed.fold.skip_missing(&changes) {
                    open.followed.memory.fork(changes.head.top.epoch);
                }
                let taken = open.followed.fold.take_in(&changes, stored.written);
                taken.map_err(|error| {
                    open.followed.life = None;
                    self.unreadable_map(&open.channel, &error)
                })?;
                open.followed.note(stored.sequence, stored.written, &stored.payload);
                Ok(())
            }
            MapMessage::Base(base) => {
                let followed = &mut *open.followed;
                if base.covers > 0
                    && base.covers == followed.sequence
                    && base.head.top == followed.fold.position()
                {
                    followed.rest_on(stored.sequence, stored.written, base);
                    return Ok(());
                }
                if self.take_base(open, &stored, base).await? {
                    return Ok(());
                }
                open.followed.life = None;
                Err(BrokerError::Unanswered("a channel was written anew while it was read".into()))
            }
        }
    }

    /// Takes in a base, which holds everything before it. Returns `false` if its parts are not all there: another base
    /// may have taken its place meanwhile.
    async fn take_base(
        &self,
        open: &mut OpenMap,
        stored: &StoredMessage,
        base: BaseMessage,
    ) -> Result<bool, BrokerError> {
        let mut parts = Vec::new();
        if base.parts > 0 {
            let subject = self.names.part_of_keys(open.beside, &open.channel, &base.part, &open.live.name);
            let stream = self.names.stream(open.kind());
            let gathered = self.jetstream.gather_from(&self.reads, &stream, &subject, 1).await;
            let gathered = gathered.map_err(|failed| self.map_failed(open.beside, failed))?;
            parts.extend(gathered.into_iter().map(|part| part.payload));
        }
        if parts.len() as u64 != base.parts {
            return Ok(false);
        }
        let fold = self.fold_of(&open.channel, &base, parts)?;
        let followed = &mut *open.followed;
        followed.fold = fold;
        followed.rest_on(stored.sequence, stored.written, base);
        Ok(true)
    }

    pub(super) fn fold_of(
        &self,
        channel: &Channel,
        base: &BaseMessage,
        parts: Vec<Bytes>,
    ) -> Result<MapFold, BrokerError> {
        let mut fold = MapFold::new(base.head.top, self.map_bytes_max);
        fold.time = base.time;
        let put_back = parts.into_iter().chain([base.rows.clone()]).try_for_each(|rows| fold.put_back(rows));
        put_back.map_err(|error| self.unreadable_map(channel, &error))?;
        if fold.position() != base.head.top {
            return Err(self.unreadable_map(channel, &MapMessageError::Gap));
        }
        Ok(fold)
    }

    /// Reads on to the end that the log has now. A call that is cancelled has read a part of it.
    pub(super) async fn follow_map(&self, open: &mut OpenMap) -> Result<(), BrokerError> {
        match self.read_on_map(open).await {
            Ok(true) => {}
            // The log has changed behind what was read, or ends before that.
            Ok(false) => self.read_whole_map(open).await?,
            Err(_) if open.followed.life.is_none() => self.read_whole_map(open).await?,
            Err(error) => return Err(error),
        }
        self.leave_lost_epoch(open).await
    }

    /// The same for a call that began at `called`. Calls that wait together for the channel share one reading: a reading
    /// that began after `called` has found everything that was acknowledged before it.
    pub(super) async fn follow_map_since(
        &self,
        open: &mut OpenMap,
        called: Instant,
    ) -> Result<(), BrokerError> {
        match open.followed.complete.is_some_and(|complete| complete >= called) {
            true => Ok(()),
            false => self.follow_map(open).await,
        }
    }

    /// Reads on, and does not leave a lost epoch. Returns `false` if the log ends before what was read of it.
    pub(super) async fn read_on_map(&self, open: &mut OpenMap) -> Result<bool, BrokerError> {
        let began = Instant::now();
        let (stream, subject) = (self.names.stream(open.kind()), self.log_of(open));
        let last = self.jetstream.get(&self.reads, &stream, &MessageSelector::Last(subject.clone())).await;
        let last =
            last.map_err(|failed| self.map_failed(open.beside, failed))?.map_or(0, |last| last.sequence);
        if last < open.followed.sequence {
            return Ok(false);
        }
        let mut singles = 0;
        while open.followed.sequence < last {
            self.map_in_time(open.deadline)?;
            if singles < SINGLES_MAX {
                singles += 1;
                let Some(stored) = self.next_of_map(open, open.followed.sequence + 1).await? else {
                    return Ok(false);
                };
                self.take_of_map(open, stored).await?;
                continue;
            }
            let from = open.followed.sequence + 1;
            let all = match self.jetstream.gather_from(&self.reads, &stream, &subject, from).await {
                Ok(all) => all,
                // A consumer is lost with its leader, and the log is not: reading single messages tells what is there.
                Err(JetStreamError::Refused(..) | JetStreamError::Other(BrokerError::Unanswered(_))) => {
                    tokio::time::sleep(BEATEN_PAUSE).await;
                    singles = 0;
                    continue;
                }
                Err(failed) => return Err(self.map_failed(open.beside, failed)),
            };
            for one in all {
                let (sequence, written, payload) = (one.sequence, one.written, one.payload);
                self.take_of_map(open, StoredMessage { sequence, written, payload }).await?;
            }
            singles = 0;
        }
        open.followed.complete = Some(began);
        Ok(true)
    }
}
