//! Decides changes that go in one message: each by the state that the changes before it have left.

use std::collections::BTreeMap;

use bytes::Bytes;
use gateway_core::history::{KeysBeside, Retention};
use gateway_core::map::{
    ChangedKey, KeyAction, KeyEntry, MapChange, MapRetention, NotMade, SetMode, Suppressed, removal,
};
use gateway_core::stream::Stream;
use shared::moment::Moment;
use shared::publication::{Payload, Publication};

use super::map_fold::{MapFold, owned, record};
use super::map_message::{ChangeEntry, ChangesMessage, MapRow};
use super::once_keys::{KeyDigest, UsedKey};
use crate::broker::nats::nats_names::digest_of;
use crate::broker::{BrokerError, ChangeRequest, Idempotency, PublishRequest, Version};

/// The most expired keys that one message removes, and the most bytes of their removals.
const EXPIRED_MAX: usize = 256;
const EXPIRED_BYTES_MAX: usize = 16 << 10;
/// The most bytes of a change in a message beside its key and value.
const CHANGE_OVERHEAD: usize = 128;

/// A change of a channel that keeps state by key.
#[derive(Debug)]
pub(in super::super) struct MapRequest {
    what: MapAction,
    pub(super) keeping: MapRetention,
    once: Option<(KeyDigest, u64)>,
    bytes: usize,
}

#[derive(Debug)]
enum MapAction {
    Change(MapChange),
    /// A publication without a key, which takes the next offset as well.
    Publish(Box<Publication>, Option<Version>),
}

/// Decided changes that the server has not taken yet.
#[derive(Debug)]
pub(super) struct MapDraft {
    pub(super) outcomes: Vec<Result<ChangedKey, BrokerError>>,
    published: Vec<Publication>,
    /// How many expired keys are removed.
    pub(super) expired: usize,
    /// What each key held before that is changed.
    before: BTreeMap<Box<str>, Option<KeyEntry>>,
    once: Vec<(KeyDigest, UsedKey)>,
    version: Option<Version>,
    /// Gives the changes their offsets.
    stream: Stream,
    retention: Retention,
    at: u64,
}

impl MapRequest {
    pub(in super::super) fn change(request: ChangeRequest) -> Self {
        let ChangeRequest { mut change, keeping, idempotency, .. } = request;
        let mut bytes = change.key.len();
        if let KeyAction::Set(set) = &mut change.action {
            set.publication = owned(std::mem::replace(&mut set.publication, nothing()));
            bytes += record(&set.publication).len();
        }
        Self { what: MapAction::Change(change), keeping, once: once(idempotency), bytes }
    }

    /// A publication without a key, in a channel whose publications may have keys.
    pub(in super::super) fn publish(request: PublishRequest) -> Self {
        let PublishRequest { publication, retention, idempotency, version, .. } = request;
        let bytes = record(&publication).len();
        let keeping = MapRetention { stream: retention, quiet: true, ..MapRetention::default() };
        let what = MapAction::Publish(Box::new(owned(publication)), version);
        Self { what, keeping, once: once(idempotency), bytes }
    }

    pub(in super::super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns how many bytes of a message it takes at most.
    pub(super) fn message_bytes(&self) -> usize {
        self.bytes + CHANGE_OVERHEAD
    }

    /// Returns which kind of stream has the channel.
    pub(in super::super) fn beside(&self) -> KeysBeside {
        match self.what {
            MapAction::Change(_) => beside(&self.keeping),
            MapAction::Publish(..) => self.keeping.stream.beside,
        }
    }

    /// Returns whether both can go in one message.
    pub(super) fn goes_with(&self, first: &Self) -> bool {
        let bounds = |retention: Retention| (retention.size, retention.ttl);
        self.beside() == first.beside() && bounds(self.keeping.stream) == bounds(first.keeping.stream)
    }
}

/// Returns which kind of stream has a channel whose state is kept so.
pub(in super::super) fn beside(keeping: &MapRetention) -> KeysBeside {
    if keeping.key_ttl.is_some() { KeysBeside::Expiring } else { KeysBeside::Staying }
}

fn once(idempotency: Option<Idempotency>) -> Option<(KeyDigest, u64)> {
    let millis = |idempotency: &Idempotency| u64::try_from(idempotency.ttl.as_millis()).unwrap_or(u64::MAX);
    idempotency.map(|idempotency| (digest_of(&idempotency.key), millis(&idempotency)))
}

fn nothing() -> Publication {
    Publication::new(Payload::json(Bytes::new()))
}

impl MapFold {
    /// Decides these changes in their order, and applies them to the keys: a draft that the server does not take has to
    /// be undone. `bytes_max` bounds what all keys hold.
    pub(super) fn decide(
        &mut self,
        batch: &[MapRequest],
        keeping: &MapRetention,
        now: u64,
        bytes_max: usize,
    ) -> MapDraft {
        let retention = batch.first().map_or(keeping.stream, |first| first.keeping.stream);
        let mut draft = MapDraft {
            outcomes: Vec::with_capacity(batch.len()),
            published: Vec::new(),
            expired: 0,
            before: BTreeMap::new(),
            once: Vec::new(),
            version: self.version.clone(),
            stream: Stream::going_on_from(self.position()),
            retention,
            at: now,
        };
        let keeping = batch.iter().map(|one| &one.keeping).find(|one| one.key_ttl.is_some());
        if let Some(keeping) = keeping {
            self.take_out_expired(&mut draft, keeping.quiet, now);
        }
        for one in batch {
            let outcome = self.decide_one(&mut draft, one, now, bytes_max);
            draft.outcomes.push(outcome);
        }
        draft
    }

    /// Decides the removal of expired keys, and nothing else.
    pub(super) fn decide_expiry(&mut self, keeping: &MapRetention, now: u64) -> MapDraft {
        let mut draft = self.decide(&[], keeping, now, usize::MAX);
        self.take_out_expired(&mut draft, keeping.quiet, now);
        draft
    }

    fn take_out_expired(&mut self, draft: &mut MapDraft, quiet: bool, now: u64) {
        let mut bytes = 0;
        while draft.expired < EXPIRED_MAX && bytes < EXPIRED_BYTES_MAX {
            let Some(key) = self.state.first_due(Moment(now)) else { return };
            let tags = self.state.get(&key).map(|entry| entry.publication.tags.clone()).unwrap_or_default();
            draft.note(self, &key);
            self.state.replace(&key, None);
            draft.expired += 1;
            bytes += key.len() + tags.iter().map(|(tag, value)| tag.len() + value.len()).sum::<usize>();
            if !quiet {
                draft.tell(removal(&key, tags));
            }
        }
    }

    fn decide_one(
        &mut self,
        draft: &mut MapDraft,
        request: &MapRequest,
        now: u64,
        bytes_max: usize,
    ) -> Result<ChangedKey, BrokerError> {
        if let Some((digest, _)) = &request.once {
            let just_now = draft.once.iter().find(|(other, _)| other == digest).map(|(_, used)| *used);
            if let Some(used) = just_now.or_else(|| self.once.find(digest, now)) {
                let suppressed = Some(Suppressed::Idempotency);
                return Ok(ChangedKey { position: Some(used.position), suppressed });
            }
        }
        let made = match &request.what {
            MapAction::Change(change) => {
                self.decide_change(draft, change, &request.keeping, now, bytes_max)?
            }
            MapAction::Publish(publication, version) => {
                let stale = version.as_ref().zip(draft.version.as_ref());
                if stale.is_some_and(|(version, last)| version.is_stale(last)) {
                    Some(Suppressed::Version)
                } else {
                    draft.tell(Publication::clone(publication));
                    if version.is_some() {
                        draft.version.clone_from(version);
                    }
                    None
                }
            }
        };
        let position = draft.stream.position();
        if made.is_none()
            && let Some((digest, ttl_ms)) = request.once
        {
            draft.once.push((digest, UsedKey { position, until: now.saturating_add(ttl_ms) }));
        }
        Ok(ChangedKey { position: Some(position), suppressed: made })
    }

    /// Applies a change to the keys. Returns why it is suppressed, if it is.
    fn decide_change(
        &mut self,
        draft: &mut MapDraft,
        change: &MapChange,
        keeping: &MapRetention,
        now: u64,
        bytes_max: usize,
    ) -> Result<Option<Suppressed>, BrokerError> {
        if let KeyAction::Set(set) = &change.action {
            let is_there = self.state.get(&change.key).is_some();
            let may_be_set = match set.mode {
                SetMode::Any => true,
                SetMode::IfNew => !is_there,
                SetMode::IfExists => is_there,
            };
            let bytes = self.state.bytes_with(&change.key, &set.publication);
            if may_be_set && bytes > bytes_max && bytes > self.state.bytes() {
                return Err(BrokerError::Full);
            }
        }
        draft.note(self, &change.key);
        // Scores are always kept: a reader says whether keys are ordered by them.
        let keeping = MapRetention { ordered: true, ..*keeping };
        let made = self.state.change(Moment(now), change.clone(), &keeping, &mut draft.stream, usize::MAX);
        match made {
            Ok(published) => {
                draft.published.extend(published);
                Ok(None)
            }
            Err(NotMade::Suppressed(why)) => Ok(Some(why)),
            Err(NotMade::Full) => Err(BrokerError::Full),
        }
    }

    /// Takes back a draft that the server has not taken.
    pub(super) fn undo(&mut self, draft: MapDraft) {
        for (key, entry) in draft.before {
            self.state.replace(&key, entry);
        }
    }

    /// Completes a draft that the server has taken. Returns how many idempotency keys were forgotten before they expired.
    pub(super) fn commit(&mut self, draft: MapDraft, now: u64) -> u64 {
        self.time = self.time.max(now);
        for publication in draft.published {
            self.append(publication, draft.retention, now);
        }
        self.version = draft.version;
        draft.once.into_iter().map(|(digest, used)| self.once.remember(digest, used, now)).sum()
    }
}

impl MapDraft {
    /// Notes what a key holds that may be changed.
    fn note(&mut self, fold: &MapFold, key: &str) {
        if !self.before.contains_key(key) {
            self.before.insert(key.into(), fold.state.get(key).cloned());
        }
    }

    fn tell(&mut self, mut publication: Publication) {
        if self.retention.keeps_history() {
            self.stream.append(Moment::ZERO, &mut publication, self.retention, usize::MAX);
        } else {
            self.stream.pass(&mut publication);
        }
        self.published.push(publication);
    }

    /// Returns the message of the draft, or `None` if it changes nothing. `befores`: whether it has what keys held before.
    pub(super) fn message(&self, fold: &MapFold, befores: bool) -> Option<ChangesMessage> {
        let first = fold.position().offset + 1;
        let mut rows = Vec::new();
        for (key, before) in &self.before {
            match (before, fold.state.get(key)) {
                (Some(_), None) => rows.push(MapRow::Gone(key.clone())),
                (before, Some(entry)) => {
                    let offset = entry.publication.offset();
                    let expires = entry.expires.map(|at| at.0);
                    // Compared by the whole position: what the key held before may be of another epoch.
                    if before.as_ref().map(|before| before.publication.position)
                        != Some(entry.publication.position)
                    {
                        let version = entry.version.as_deref().cloned();
                        rows.push(MapRow::Held { entry: offset - first, expires, version });
                    } else if before.as_ref().is_some_and(|before| before.expires != entry.expires) {
                        rows.push(MapRow::Lives(key.clone(), expires));
                    }
                }
                (None, None) => {}
            }
        }
        rows.extend(self.once.iter().map(|(digest, UsedKey { position, until })| MapRow::Once {
            digest: *digest,
            position: *position,
            until: *until,
        }));
        if rows.is_empty() && self.published.is_empty() {
            return None;
        }
        let next_expiry = fold.head().next_expiry;
        let entries = self.published.iter().map(|published| {
            let payload = published.keyed.as_ref().and_then(|keyed| keyed.before.clone()).filter(|_| befores);
            ChangeEntry {
                record: record(published),
                before: payload.map(|data| record(&Publication::new(data))),
            }
        });
        Some(ChangesMessage {
            head: super::map_message::MapHead { top: self.stream.position(), next_expiry },
            at: self.at,
            retention: self.retention,
            version: self.version.clone(),
            entries: entries.collect(),
            rows,
        })
    }
}
