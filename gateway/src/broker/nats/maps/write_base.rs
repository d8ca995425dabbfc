//! Writes a base in place of a channel's log: when the log is begun, when its state is replaced, and when it goes on in
//! another life of its stream.

use std::time::Duration;

use bytes::Bytes;
use gateway_core::history::KeysBeside;
use shared::channel::Channel;
use shared::position::Epoch;

use super::super::NatsBroker;
use super::super::nats_names::StreamKind;
use super::super::stored::{JetStreamError, MessageSelector, StoredMessage, code};
use super::super::streams::LiveStream;
use super::cached_maps::FollowedMap;
use super::follow_map::OpenMap;
use super::map_fold::MapFold;
use super::map_message::{BaseMessage, MapHead, MapMessage, MapMessageError};
use crate::broker::BrokerError;

/// The length of a part of a base, in bytes.
const CHUNK_BYTES: usize = 128 << 10;
/// The most bytes of rows in the message of a base itself, which nodes that follow the channel hear as well.
const INLINE_BYTES: usize = 16 << 10;
/// Attempts to put a base in place of a log to which other nodes add meanwhile.
const ATTEMPTS_MAX: u32 = 50;
const BEATEN_PAUSE: Duration = Duration::from_millis(1);

/// A base as far as it was written.
pub(super) struct BaseWriter<'a> {
    broker: &'a NatsBroker,
    pub(super) subject: String,
    pub(super) base: BaseMessage,
}

impl<'a> BaseWriter<'a> {
    pub(super) fn new(broker: &'a NatsBroker, open: &OpenMap, why: &str) -> Self {
        let part: Box<str> = format!("{why}-{}-{:08x}", open.followed.sequence, rand::random::<u32>()).into();
        let subject = broker.names.part_of_keys(open.beside, &open.channel, &part, &open.live.name);
        let (head, time) = (open.followed.fold.head(), open.followed.fold.time);
        let base = BaseMessage { head, covers: 0, time, part, parts: 0, bytes: 0, rows: Bytes::new() };
        Self { broker, subject, base }
    }

    /// Writes rows as parts. The last ones go in the message of the base itself, if they are short.
    pub(super) async fn add_all(&mut self, mut chunks: Vec<Bytes>) -> Result<(), JetStreamError> {
        self.base.rows = chunks.pop().unwrap_or_default();
        if self.base.rows.len() > INLINE_BYTES.min(chunk_bytes(self.broker)) {
            chunks.push(std::mem::take(&mut self.base.rows));
        }
        for chunk in chunks {
            self.add(chunk).await?;
        }
        Ok(())
    }

    pub(super) async fn add(&mut self, rows: Bytes) -> Result<(), JetStreamError> {
        let length = rows.len() as u64;
        let (jetstream, link) = (&self.broker.jetstream, &self.broker.link);
        jetstream.put(link, self.subject.clone(), rows).await?;
        self.base.parts += 1;
        self.base.bytes += length;
        Ok(())
    }
}

pub(super) fn chunk_bytes(broker: &NatsBroker) -> usize {
    CHUNK_BYTES.min(broker.link.payload_max() / 4)
}

impl NatsBroker {
    /// Writes the state in memory in place of the log. Returns `false` if other nodes have added to the log.
    pub(super) async fn write_base(&self, open: &mut OpenMap, why: &str) -> Result<bool, BrokerError> {
        let chunks = open.followed.fold.write_down(chunk_bytes(self));
        let mut writer = BaseWriter::new(self, open, why);
        let written = writer.add_all(chunks).await;
        written.map_err(|failed| self.map_failed(open.beside, failed))?;
        let base = writer.base;
        self.put_base(open, base).await
    }

    /// Writes a base if the server will drop the last one by its age before what is added now has expired.
    pub(super) async fn keep_base(&self, open: &mut OpenMap) -> Result<(), BrokerError> {
        let age_max = u64::try_from(self.position_ttl.as_millis()).unwrap_or(u64::MAX) / 2;
        while open.beside == KeysBeside::Expiring
            && self.clock.now().saturating_sub(open.followed.based) > age_max
        {
            self.map_in_time(open.deadline)?;
            if self.write_base(open, "aged").await? {
                self.drop_map_parts(open).await;
                return Ok(());
            }
            self.follow_map(open).await?;
        }
        Ok(())
    }

    pub(super) async fn put_base(
        &self,
        open: &mut OpenMap,
        mut base: BaseMessage,
    ) -> Result<bool, BrokerError> {
        base.bytes += base.rows.len() as u64;
        let (subject, last) = (self.log_of(open), open.followed.sequence);
        // Also where the server names no last message: there may be earlier ones.
        match self.jetstream.add(&self.link, subject, last, true, base.encode()).await {
            Ok(sequence) => {
                open.live.saw(sequence);
                open.followed.rest_on(sequence, self.clock.now(), base);
                Ok(true)
            }
            Err(JetStreamError::Refused(code::WRONG_LAST_SEQUENCE, _)) => Ok(false),
            Err(failed) => Err(self.map_failed(open.beside, failed)),
        }
    }

    /// Replaces the state of the channel by what `change` returns. `None` leaves it as it is.
    pub(super) async fn rewrite_map(
        &self,
        open: &mut OpenMap,
        why: &str,
        change: impl Fn(&FollowedMap) -> Result<Option<MapFold>, MapMessageError> + Send + Sync,
    ) -> Result<(), BrokerError> {
        for _ in 0..ATTEMPTS_MAX {
            self.map_in_time(open.deadline)?;
            if !self.read_on_map(open).await? {
                open.followed.life = None;
                return Err(BrokerError::Unanswered("a channel went back while it was written anew".into()));
            }
            let changed = change(&open.followed);
            let Some(changed) = changed.map_err(|error| self.unreadable_map(&open.channel, &error))? else {
                return Ok(());
            };
            // Until the outcome is known, what is in memory must not be used.
            let life = open.followed.life.take();
            let before = std::mem::replace(&mut open.followed.fold, changed);
            if self.write_base(open, why).await? {
                open.followed.life = life;
                self.drop_map_parts(open).await;
                return Ok(());
            }
            open.followed.fold = before;
            open.followed.life = life;
            tokio::time::sleep(BEATEN_PAUSE).await;
        }
        Err(BrokerError::Unexpected(format!("{} changes faster than it is written", open.channel).into()))
    }

    /// Has the channel go on in a new epoch if its log has lost changes that this node knows. If that fails, the call
    /// fails, and what this node knows of the log stays: the next call tries it again before it reads or writes.
    pub(super) async fn leave_lost_epoch(&self, open: &mut OpenMap) -> Result<(), BrokerError> {
        if !open.followed.has_to_leave() {
            return Ok(());
        }
        let epoch = Epoch::from_random(rand::random());
        // A server that has just become the leader may know less for a moment. Then nothing is lost, and the epoch stays.
        self.rewrite_map(open, "anew", |followed| match followed.has_to_leave() {
            true => followed.fold.in_epoch(epoch).map(Some),
            false => Ok(None),
        })
        .await?;
        if open.followed.fold.position().epoch == epoch {
            tracing::warn!(channel = %open.channel, "the log of a channel has lost changes: the channel goes on in a new epoch");
        }
        Ok(())
    }

    /// Has the channel go on in a new epoch where the server names no last message of the log although there are
    /// messages: servers of 2.9 do so when the last one was deleted by hand. Returns `false` if there is no such hole, or
    /// another node was first.
    pub(super) async fn close_hole(&self, open: &mut OpenMap) -> Result<bool, BrokerError> {
        if self.last_of_map(&open.channel, open.beside, &open.live).await?.is_some() {
            return Ok(false);
        }
        while let Some(stored) = self.next_of_map(open, open.followed.sequence + 1).await? {
            self.map_in_time(open.deadline)?;
            self.take_of_map(open, stored).await?;
        }
        let fold = open.followed.fold.in_epoch(Epoch::from_random(rand::random()));
        open.followed.fold = fold.map_err(|error| self.unreadable_map(&open.channel, &error))?;
        open.followed.sequence = 0;
        self.write_base(open, "anew").await
    }

    /// Deletes the parts of other bases than the last one. A base that another node began to write while the log ended
    /// before the last base cannot be put in place any more, so its parts go too. Parts that cannot be deleted now are
    /// deleted the next time.
    pub(super) async fn drop_map_parts(&self, open: &OpenMap) {
        let stream = self.names.stream(open.kind());
        let all = self.names.part_of_keys(open.beside, &open.channel, "*", &open.live.name);
        let Ok(there) = self.jetstream.subjects(&self.link, &stream, &all).await else { return };
        for subject in there {
            let part = subject.rsplit('.').nth(1).unwrap_or_default();
            let stands_for = part.split('-').nth(1).and_then(|stands_for| stands_for.parse::<u64>().ok());
            let is_older = stands_for.is_some_and(|stands_for| stands_for < open.followed.sequence);
            if is_older && *part != *open.followed.part {
                let _ = self.jetstream.purge(&self.link, &stream, &subject).await;
            }
        }
    }

    /// Reads what the channel held in an earlier life of its stream, and gives it a new epoch.
    pub(super) async fn carried_map(&self, open: &OpenMap) -> Result<Option<MapFold>, BrokerError> {
        let stream = self.names.stream(open.kind());
        let all = self.names.keys(open.beside, &open.channel, "*");
        let there = self.jetstream.subjects(&self.reads, &stream, &all).await;
        let there = there.map_err(|failed| self.map_failed(open.beside, failed))?;
        let mut newest: Option<(u64, String)> = None;
        for subject in there {
            let last =
                self.jetstream.get(&self.reads, &stream, &MessageSelector::Last(subject.clone())).await;
            let last = last.map_err(|failed| self.map_failed(open.beside, failed))?;
            let sequence = last.map_or(0, |last| last.sequence);
            let life = subject.rsplit('.').next().unwrap_or_default().to_owned();
            if life != *open.live.name && newest.as_ref().is_none_or(|(newest, _)| *newest < sequence) {
                newest = Some((sequence, life));
            }
        }
        let Some((_, life)) = newest else { return Ok(None) };
        let log = self.names.keys(open.beside, &open.channel, &life);
        let mut fold: Option<MapFold> = None;
        for stored in self.all_of_former(open, &stream, log).await? {
            let read = match MapMessage::decode(stored.payload.clone()) {
                Ok(MapMessage::Base(base)) => {
                    let part = self.names.part_of_keys(open.beside, &open.channel, &base.part, &life);
                    let parts = match base.parts {
                        0 => Vec::new(),
                        _ => self.all_of_former(open, &stream, part).await?,
                    };
                    let parts: Vec<Bytes> = parts.into_iter().map(|part| part.payload).collect();
                    (parts.len() as u64 == base.parts)
                        .then(|| self.fold_of(&open.channel, &base, parts).ok())
                        .flatten()
                }
                Ok(MapMessage::Changes(changes)) => fold.take().and_then(|mut fold| {
                    fold.take_in(&changes, stored.written).ok()?;
                    Some(fold)
                }),
                Err(error) => return Err(self.unreadable_map(&open.channel, &error)),
            };
            let Some(read) = read else {
                tracing::warn!(channel = %open.channel, "what a channel was before its stream went back cannot be \
                    read: it begins without keys");
                return Ok(None);
            };
            fold = Some(read);
        }
        let epoch = Epoch::from_random(rand::random());
        let fold = fold.map(|fold| fold.in_epoch(epoch)).transpose();
        fold.map_err(|error| self.unreadable_map(&open.channel, &error))
    }

    /// Returns whether any life of the stream has something of the channel.
    pub(super) async fn was_in_former_life(
        &self,
        channel: &Channel,
        beside: KeysBeside,
    ) -> Result<bool, BrokerError> {
        let (stream, all) =
            (self.names.stream(StreamKind::Keys(beside)), self.names.keys(beside, channel, "*"));
        let there = self.jetstream.subjects(&self.reads, &stream, &all).await;
        there.map(|there| !there.is_empty()).map_err(|failed| self.map_failed(beside, failed))
    }

    /// Reads all messages of a subject of an earlier life one by one: no consumer reads a subject that the stream takes
    /// no more.
    async fn all_of_former(
        &self,
        open: &OpenMap,
        stream: &str,
        subject: String,
    ) -> Result<Vec<StoredMessage>, BrokerError> {
        let (mut all, mut sequence) = (Vec::new(), 1);
        // Each read has its own timeout, and nothing is added to such a log.
        loop {
            let next = MessageSelector::Next { sequence, subject: subject.clone() };
            let next = self.jetstream.get(&self.reads, stream, &next).await;
            let Some(stored) = next.map_err(|failed| self.map_failed(open.beside, failed))? else {
                return Ok(all);
            };
            sequence = stored.sequence + 1;
            all.push(stored);
        }
    }

    /// Deletes what earlier lives of the stream have of a channel that has gone on in this one. What cannot be deleted
    /// now stays until it expires.
    pub(super) async fn drop_former_lives(&self, open: &OpenMap) {
        let stream = self.names.stream(open.kind());
        let logs = self.names.keys(open.beside, &open.channel, "*");
        let parts = self.names.part_of_keys(open.beside, &open.channel, "*", "*");
        for subjects in [logs, parts] {
            let Ok(there) = self.jetstream.subjects(&self.link, &stream, &subjects).await else { continue };
            for subject in there.iter().filter(|subject| !subject.ends_with(&*open.live.name)) {
                let _ = self.jetstream.purge(&self.link, &stream, subject).await;
            }
        }
    }

    /// Reads the head and the sequence of a channel's last message.
    pub(super) async fn last_of_map(
        &self,
        channel: &Channel,
        beside: KeysBeside,
        live: &LiveStream,
    ) -> Result<Option<(u64, MapHead)>, BrokerError> {
        let which = MessageSelector::Last(self.names.keys(beside, channel, &live.name));
        let stream = self.names.stream(StreamKind::Keys(beside));
        let last = self.jetstream.get(&self.reads, &stream, &which).await;
        let Some(stored) = last.map_err(|failed| self.map_failed(beside, failed))? else { return Ok(None) };
        live.saw(stored.sequence);
        let head = MapHead::of(stored.payload).map_err(|error| self.unreadable_map(channel, &error))?;
        Ok(Some((stored.sequence, head)))
    }
}
