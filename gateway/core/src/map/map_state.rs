//! The state of one channel in memory, and how changes are applied to it and to the stream beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use shared::moment::Moment;
use shared::publication::{Keyed, Publication};
use smallvec::{SmallVec, smallvec};

use super::{
    Cursor, KeyAction, MapChange, MapRetention, NotMade, SetKey, SetMode, StateFilter, StatePage, Suppressed,
    removal,
};
use crate::stream::{Stream, footprint};
use crate::version::Version;

/// The approximate cost of a key beside its publication, in bytes: its entries in the indexes.
const KEY_OVERHEAD_BYTES: usize = 128;

/// The publications of one change, in this order.
pub type MapPublications = SmallVec<[Publication; 1]>;

/// Keys with their values, ordered by name and, where the channel has scores, by score.
#[derive(Debug, Default)]
pub struct MapState {
    entries: BTreeMap<Arc<str>, KeyEntry>,
    by_score: BTreeSet<(i64, Arc<str>)>,
    expiring: BTreeSet<(Moment, Arc<str>)>,
    bytes: usize,
}

/// The value of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyEntry {
    pub publication: Publication,
    pub score: i64,
    pub expires: Option<Moment>,
    /// The last version that was given.
    pub version: Option<Box<Version>>,
}

impl MapState {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the size of all keys in bytes, including bookkeeping.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the size that the state would have with this publication as the key's value.
    pub fn bytes_with(&self, key: &str, publication: &Publication) -> usize {
        let before = self.entries.get(key).map_or(0, |entry| cost(key, &entry.publication));
        self.bytes + cost(key, publication) - before
    }

    pub fn get(&self, key: &str) -> Option<&KeyEntry> {
        self.entries.get(key)
    }

    /// Iterates over all keys, ordered by name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &KeyEntry)> {
        self.entries.iter().map(|(key, entry)| (&**key, entry))
    }

    /// Sets or removes a key without a publication. Its score counts as in an ordered channel.
    pub fn replace(&mut self, key: &str, entry: Option<KeyEntry>) {
        drop(self.take(key));
        let Some(entry) = entry else { return };
        let key: Arc<str> = key.into();
        self.bytes += cost(&key, &entry.publication);
        self.expiring.extend(entry.expires.map(|at| (at, key.clone())));
        self.by_score.insert((entry.score, key.clone()));
        self.entries.insert(key, entry);
    }

    /// Returns the key that expired first.
    pub fn first_due(&self, now: Moment) -> Option<Box<str>> {
        self.expiring.first().filter(|(at, _)| *at <= now).map(|(_, key)| (&**key).into())
    }

    /// Returns when the next key expires.
    pub fn next_expiry(&self) -> Option<Moment> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// Applies a change if its conditions hold: to the state, and as the next publication of the stream, which numbers
    /// changes even where it keeps none. Returns the publications for subscribers. For a key whose tags change, the first
    /// one removes it, for subscribers whose filters do not match the new tags. Expired keys must be gone: call
    /// [`MapState::expire`] first.
    pub fn change(
        &mut self,
        now: Moment,
        change: MapChange,
        keeping: &MapRetention,
        stream: &mut Stream,
        stream_bytes_max: usize,
    ) -> Result<MapPublications, NotMade> {
        let MapChange { key, action, expected } = change;
        let has_stream = keeping.stream.keeps_history();
        let entry = self.entries.get(&*key);
        if has_stream
            && let Some(expected) = expected
            && entry.and_then(|entry| entry.publication.position) != Some(expected)
        {
            return Err(NotMade::Suppressed(Suppressed::PositionMismatch));
        }
        match action {
            KeyAction::Remove { tags } => {
                let Some(entry) = self.take(&key) else {
                    return Err(NotMade::Suppressed(Suppressed::KeyNotFound));
                };
                let mut published = removal(&key, tags.unwrap_or(entry.publication.tags));
                append(now, &mut published, keeping, stream, stream_bytes_max);
                Ok(smallvec![published])
            }
            KeyAction::Set(set) => {
                self.admit(now, &key, &set, keeping)?;
                Ok(self.set(now, key, *set, keeping, stream, stream_bytes_max))
            }
        }
    }

    /// Removes the key that expired first, and returns the publication for subscribers. `None` if no key has expired. In a
    /// quiet channel all expired keys are removed at once, without publications.
    pub fn expire(
        &mut self,
        now: Moment,
        keeping: &MapRetention,
        stream: &mut Stream,
        stream_bytes_max: usize,
    ) -> Option<Publication> {
        let (key, entry) = loop {
            let (_, key) = self.expiring.first().filter(|(at, _)| *at <= now)?.clone();
            let entry = self.take(&key)?;
            if !keeping.quiet {
                break (key, entry);
            }
        };
        let mut published = removal(&key, entry.publication.tags);
        append(now, &mut published, keeping, stream, stream_bytes_max);
        Some(published)
    }

    /// Returns the page that the filter asks for. The caller sets its position.
    pub fn page(&self, filter: &StateFilter, ordered: bool) -> StatePage {
        self.page_at(filter, ordered, Moment::ZERO)
    }

    /// Returns the page that the filter asks for, without keys that have expired by now.
    pub fn page_at(&self, filter: &StateFilter, ordered: bool, now: Moment) -> StatePage {
        let is_there = |entry: &&KeyEntry| entry.expires.is_none_or(|at| at > now);
        let mut page = StatePage::default();
        if let Some(key) = &filter.key {
            let entry = self.entries.get(&**key).filter(is_there);
            page.entries.extend(entry.map(|entry| entry.publication.clone()));
            return page;
        }
        if filter.limit == 0 {
            return page;
        }
        let mut bytes = 0;
        let mut last: Option<(i64, &str)> = None;
        for (key, entry) in self.from(filter, ordered) {
            let is_full = page.entries.len() >= filter.limit as usize
                || !page.entries.is_empty() && bytes >= filter.enough_bytes as usize;
            if let Some((score, key)) = last.filter(|_| is_full) {
                page.cursor = Cursor::write(score, key, ordered);
                break;
            }
            last = Some((entry.score, key));
            if is_there(&entry) {
                bytes += footprint(&entry.publication);
                page.entries.push(entry.publication.clone());
            }
        }
        page
    }

    /// Iterates over the keys behind the cursor, in the order asked for.
    fn from<'a>(
        &'a self,
        filter: &StateFilter,
        ordered: bool,
    ) -> Box<dyn Iterator<Item = (&'a str, &'a KeyEntry)> + 'a> {
        let begins = filter.cursor.is_empty();
        let cursor = Cursor::parse(&filter.cursor, ordered);
        let key: Arc<str> = cursor.key.into();
        if !ordered {
            let after = if begins { Bound::Unbounded } else { Bound::Excluded(key) };
            return Box::new(
                self.entries.range((after, Bound::Unbounded)).map(|(key, entry)| (&**key, entry)),
            );
        }
        let bound = if begins { Bound::Unbounded } else { Bound::Excluded((cursor.score, key)) };
        let find = |(_, key): &'a (i64, Arc<str>)| self.entries.get(key).map(|entry| (&**key, entry));
        match filter.ascending {
            true => Box::new(self.by_score.range((bound, Bound::Unbounded)).filter_map(find)),
            false => Box::new(self.by_score.range((Bound::Unbounded, bound)).rev().filter_map(find)),
        }
    }

    fn admit(&mut self, now: Moment, key: &str, set: &SetKey, keeping: &MapRetention) -> Result<(), NotMade> {
        let Some(entry) = self.entries.get(key) else {
            return match set.mode {
                SetMode::IfExists => Err(NotMade::Suppressed(Suppressed::KeyNotFound)),
                SetMode::Any | SetMode::IfNew if self.entries.len() >= keeping.keys_max as usize => {
                    Err(NotMade::Full)
                }
                SetMode::Any | SetMode::IfNew => Ok(()),
            };
        };
        if set.mode == SetMode::IfNew {
            if set.refreshes {
                self.refresh(now, key, keeping);
            }
            return Err(NotMade::Suppressed(Suppressed::KeyExists));
        }
        let is_stale = set.version.as_ref().zip(entry.version.as_deref());
        if keeping.stream.keeps_history() && is_stale.is_some_and(|(version, last)| version.is_stale(last)) {
            return Err(NotMade::Suppressed(Suppressed::Version));
        }
        Ok(())
    }

    fn set(
        &mut self,
        now: Moment,
        key: Box<str>,
        set: SetKey,
        keeping: &MapRetention,
        stream: &mut Stream,
        stream_bytes_max: usize,
    ) -> MapPublications {
        let SetKey { mut publication, score, version, .. } = set;
        let before = self.take(&key);
        let mut published = MapPublications::new();
        let other_tags = |before: &&KeyEntry| !keeping.quiet && before.publication.tags != publication.tags;
        if let Some(before) = before.as_ref().filter(other_tags) {
            let mut gone = removal(&key, before.publication.tags.clone());
            append(now, &mut gone, keeping, stream, stream_bytes_max);
            published.push(gone);
        }
        let number = version.as_ref().map_or(0, |version| version.number);
        publication.keyed =
            Some(Box::new(Keyed { key: key.clone(), score, version: number, ..Keyed::default() }));
        append(now, &mut publication, keeping, stream, stream_bytes_max);
        let key: Arc<str> = key.into();
        let expires = keeping.key_ttl.map(|ttl| now + ttl);
        // A version stays in force after a change that has none.
        let version = version.map(Box::new).or_else(|| before.as_ref()?.version.clone());
        self.bytes += cost(&key, &publication);
        self.expiring.extend(expires.map(|at| (at, key.clone())));
        if keeping.ordered {
            self.by_score.insert((score, key.clone()));
        }
        self.entries.insert(key, KeyEntry { publication: publication.clone(), score, expires, version });
        if publication.delta
            && published.is_empty()
            && let (Some(keyed), Some(before)) = (&mut publication.keyed, before)
        {
            keyed.before = Some(before.publication.data);
        }
        published.push(publication);
        published
    }

    fn refresh(&mut self, now: Moment, key: &str, keeping: &MapRetention) {
        let Some((key, entry)) = self.entries.get_key_value(key) else { return };
        let (key, before) = (key.clone(), entry.expires);
        if let Some(before) = before {
            self.expiring.remove(&(before, key.clone()));
        }
        let expires = keeping.key_ttl.map(|ttl| now + ttl);
        self.expiring.extend(expires.map(|at| (at, key.clone())));
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.expires = expires;
        }
    }

    fn take(&mut self, key: &str) -> Option<KeyEntry> {
        let (key, entry) = self.entries.remove_entry(key)?;
        self.bytes -= cost(&key, &entry.publication);
        if let Some(at) = entry.expires {
            self.expiring.remove(&(at, key.clone()));
        }
        self.by_score.remove(&(entry.score, key));
        Some(entry)
    }
}

/// Assigns an offset to a change, and keeps the change where the channel keeps a stream.
fn append(
    now: Moment,
    publication: &mut Publication,
    keeping: &MapRetention,
    stream: &mut Stream,
    stream_bytes_max: usize,
) {
    if keeping.stream.keeps_history() {
        stream.append(now, publication, keeping.stream, stream_bytes_max);
    } else {
        stream.pass(publication);
    }
}

fn cost(key: &str, publication: &Publication) -> usize {
    key.len() + footprint(publication) + KEY_OVERHEAD_BYTES
}
