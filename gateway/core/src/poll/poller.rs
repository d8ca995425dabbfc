//! One polled channel on one node: when to ask the backend for which keys, and what to tell their followers.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use shared::moment::Moment;
use shared::position::Epoch;
use shared::publication::{Payload, PayloadKind};

/// How long a key that has just been followed waits for others, so that they are asked for together.
pub const COALESCE: Duration = Duration::from_millis(5);
/// The longest pause after a failure of the backend.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// The shortest pause after the backend's first failure.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// How long an epoch is remembered, at least. Clients that are told of a new epoch all unsubscribe at once, and come back
/// to it.
pub const EPOCH_LINGER: Duration = Duration::from_secs(60);
/// Rounds begin up to this part of the interval early or late, so that nodes do not ask in step.
const JITTER: u64 = 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PollerSettings {
    /// Whether the backend gives its contents versions.
    pub versioned: bool,
    /// The time from one round to the next.
    pub interval: Duration,
    /// The most keys of one request.
    pub batch: usize,
    /// The most keys that are followed at a time.
    pub keys_max: usize,
    /// How long the channel is remembered while no key is followed.
    pub linger: Duration,
}

/// A key to ask for, and the version that is known of it. 0: the content is wanted whatever its version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolledKey {
    pub key: Arc<str>,
    pub version: u64,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PollerStep {
    /// Ask the backend for these keys. The answer goes to [`Poller::answered`], a failure to [`Poller::failed`].
    Ask(Vec<PolledKey>),
    /// Wait until then, unless a key is added before.
    Wait(Moment),
    /// No key has been followed for long enough: the channel can be forgotten.
    End,
}

/// The backend's answer for one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolledItem {
    pub key: Box<str>,
    pub data: Payload,
    pub version: u64,
    /// Whether the key no longer exists.
    pub removed: bool,
}

/// An update for the followers of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyUpdate {
    pub key: Arc<str>,
    /// Followers that have this version or a newer one need no update.
    pub version: u64,
    /// `None`: the key no longer exists.
    pub data: Option<Payload>,
    /// Bit N: the key is followed on worker N.
    pub workers: u64,
}

/// The result of an answer or a publication.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PollerUpdate {
    /// Whether versions start anew, so that the versions of clients cannot be compared any more. Told before `news`.
    pub reset: bool,
    pub news: Vec<KeyUpdate>,
    pub changed: usize,
    pub unchanged: usize,
    pub removed: usize,
}

/// A key that is followed.
#[derive(Debug)]
struct FollowedKey {
    /// The version of the newest content that is known. 0: none is known.
    version: u64,
    /// The hash of that content, where the backend gives no versions.
    hash: u64,
    workers: u64,
    /// Whether content was published since the last round. The next round then skips the key.
    fresh: bool,
    /// Whether a follower needs the content although it is not new.
    again: bool,
    /// Whether a request for it is in flight.
    requested: bool,
}

#[derive(Debug)]
pub struct Poller {
    settings: PollerSettings,
    /// The epoch of the versions, where the backend counts them. Otherwise the node counts them.
    epoch: Epoch,
    keys: FxHashMap<Arc<str>, FollowedKey>,
    /// Keys to ask for before the next round.
    urgent: BTreeSet<Arc<str>>,
    urgent_at: Moment,
    /// Keys of the current round that have not been asked for yet.
    round: BTreeSet<Arc<str>>,
    next_round: Moment,
    /// The time between two requests of a round.
    spacing: Duration,
    next_batch: Moment,
    failures: u32,
    paused_until: Moment,
    empty_since: Option<Moment>,
    random: u64,
}

impl Poller {
    /// `seed`: random bits, which decide when rounds begin.
    pub fn new(now: Moment, settings: PollerSettings, seed: u64) -> Self {
        let mut poller = Self {
            settings,
            epoch: Epoch::EMPTY,
            keys: FxHashMap::default(),
            urgent: BTreeSet::new(),
            urgent_at: now,
            round: BTreeSet::new(),
            next_round: now,
            spacing: Duration::ZERO,
            next_batch: now,
            failures: 0,
            paused_until: now,
            empty_since: Some(now),
            random: seed | 1,
        };
        poller.next_round = now + poller.about(settings.interval);
        poller
    }

    /// Returns the epoch of the versions in its updates.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Whether `keys` more keys may be followed.
    pub fn has_room(&self, keys: usize) -> bool {
        self.keys.len() + keys <= self.settings.keys_max
    }

    /// Adds a follower of a key on this worker, who has this version of its content; 0: none. The caller may have to call
    /// [`Poller::next`] again.
    pub fn track(&mut self, now: Moment, worker: usize, key: &str, version: u64) {
        self.empty_since = None;
        let entry = match self.keys.get_mut(key) {
            Some(entry) => entry,
            None => {
                let key: Arc<str> = key.into();
                self.make_urgent(now, key.clone());
                self.keys.entry(key).or_insert(FollowedKey {
                    version: 0,
                    hash: 0,
                    workers: 0,
                    fresh: false,
                    again: false,
                    requested: false,
                })
            }
        };
        entry.workers |= 1 << worker;
        // If no content is known yet, the answer goes to all followers anyway.
        if entry.version > version && !entry.again {
            entry.again = true;
            if !entry.requested
                && let Some((key, _)) = self.keys.get_key_value(key)
            {
                let key = key.clone();
                self.make_urgent(now, key);
            }
        }
    }

    /// Marks a key as no longer followed on this worker.
    pub fn untrack(&mut self, now: Moment, worker: usize, key: &str) {
        let Some(entry) = self.keys.get_mut(key) else { return };
        entry.workers &= !(1 << worker);
        if entry.workers == 0 {
            self.forget(now, key);
        }
    }

    /// Returns what to do now. Call it again after every event, and once what it returned is done.
    pub fn next(&mut self, now: Moment) -> PollerStep {
        if let Some(since) = self.empty_since {
            let linger = self.settings.linger;
            let end = since + if self.epoch.is_empty() { linger } else { linger.max(EPOCH_LINGER) };
            return if now >= end { PollerStep::End } else { PollerStep::Wait(end) };
        }
        if now < self.paused_until {
            return PollerStep::Wait(self.paused_until);
        }
        if now >= self.urgent_at
            && let Some(step) = self.ask_for_urgent()
        {
            return step;
        }
        if self.round.is_empty() && now >= self.next_round {
            self.begin_round(now);
        }
        if now >= self.next_batch
            && let Some(step) = self.ask_for_round(now)
        {
            return step;
        }
        let batch = if self.round.is_empty() { self.next_round } else { self.next_batch };
        PollerStep::Wait(if self.urgent.is_empty() { batch } else { batch.min(self.urgent_at) })
    }

    /// Handles an answer of the backend. `next_version` returns ever higher numbers, which serve as versions where the
    /// backend gives none.
    pub fn answered(
        &mut self,
        now: Moment,
        requested: &[PolledKey],
        epoch: Epoch,
        items: Vec<PolledItem>,
        mut next_version: impl FnMut() -> u64,
    ) -> PollerUpdate {
        self.failures = 0;
        self.put_back(requested);
        let mut taken = self.go_on_in(epoch);
        for PolledItem { key, data, version, removed } in items {
            // Not followed any more, or never.
            let Some((name, entry)) = self.keys.get_key_value(&*key) else { continue };
            let (name, workers) = (name.clone(), entry.workers);
            if removed {
                taken.removed += 1;
                taken.news.push(KeyUpdate { key: name, version, data: None, workers });
                self.forget(now, &key);
                continue;
            }
            let Some(entry) = self.keys.get_mut(&*key) else { continue };
            let version = match self.settings.versioned {
                true => version,
                false => {
                    let hash = hash(&data);
                    let is_new = entry.version == 0 || entry.hash != hash;
                    entry.hash = hash;
                    if is_new { next_version() } else { entry.version }
                }
            };
            let is_new = version > entry.version;
            taken.changed += usize::from(is_new);
            taken.unchanged += usize::from(!is_new);
            // Content older than what was published meanwhile is dropped.
            if is_new || entry.again && version == entry.version && version > 0 {
                (entry.version, entry.again) = (version, false);
                taken.news.push(KeyUpdate { key: name, version, data: Some(data), workers });
            }
        }
        taken
    }

    /// Handles a failed request: the backend is not asked for a while, which grows with each failure.
    pub fn failed(&mut self, now: Moment, requested: &[PolledKey]) {
        self.put_back(requested);
        let doubled = self.settings.interval.min(Duration::from_secs(1)).max(BACKOFF_MIN);
        let pause = doubled.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        let pause = self.about(pause);
        self.paused_until = self.paused_until.max(now + pause);
        // Keys whose followers wait for their first content do not wait for the next round.
        for PolledKey { key, .. } in requested {
            if self.keys.get(key).is_some_and(|entry| entry.version == 0 || entry.again) {
                self.urgent.insert(key.clone());
            }
        }
    }

    /// Forgets the requests in flight, which will not be answered. This is no failure of the backend.
    pub fn forget_requests(&mut self) {
        self.keys.values_mut().for_each(|entry| entry.requested = false);
    }

    /// Handles newer content that the application has published.
    pub fn published(&mut self, key: &str, version: u64, epoch: Epoch, data: Payload) -> PollerUpdate {
        if !self.settings.versioned {
            return PollerUpdate::default();
        }
        let mut taken = self.go_on_in(epoch);
        let Some((name, _)) = self.keys.get_key_value(key) else { return taken };
        let name = name.clone();
        let Some(entry) = self.keys.get_mut(key) else { return taken };
        if version <= entry.version {
            taken.unchanged = 1;
            return taken;
        }
        (entry.version, entry.fresh, entry.again) = (version, true, false);
        taken.changed = 1;
        taken.news.push(KeyUpdate { key: name, version, data: Some(data), workers: entry.workers });
        taken
    }

    /// Notes that some followers had no room for an update: they get it after the next round.
    pub fn undelivered(&mut self, key: &str) {
        if let Some(entry) = self.keys.get_mut(key) {
            (entry.again, entry.fresh) = (true, false);
        }
    }

    fn forget(&mut self, now: Moment, key: &str) {
        self.keys.remove(key);
        self.urgent.remove(key);
        self.round.remove(key);
        if self.keys.is_empty() {
            self.empty_since = Some(now);
        }
    }

    fn make_urgent(&mut self, now: Moment, key: Arc<str>) {
        if self.urgent.is_empty() {
            self.urgent_at = now + COALESCE;
        }
        self.round.remove(&key);
        self.urgent.insert(key);
    }

    fn ask_for_urgent(&mut self) -> Option<PollerStep> {
        let keys = take(&mut self.urgent, self.settings.batch);
        self.ask_for(keys)
    }

    fn begin_round(&mut self, now: Moment) {
        let mut round = BTreeSet::new();
        for (key, entry) in &mut self.keys {
            let is_fresh = std::mem::take(&mut entry.fresh);
            if !is_fresh && !entry.requested && !self.urgent.contains(key) {
                round.insert(key.clone());
            }
        }
        let interval = self.about(self.settings.interval);
        let batches = round.len().div_ceil(self.settings.batch.max(1)).max(1);
        self.spacing = interval / u32::try_from(batches).unwrap_or(u32::MAX);
        (self.round, self.next_round, self.next_batch) = (round, now + interval, now);
    }

    fn ask_for_round(&mut self, now: Moment) -> Option<PollerStep> {
        let keys = take(&mut self.round, self.settings.batch);
        let step = self.ask_for(keys)?;
        self.next_batch = now + self.spacing;
        Some(step)
    }

    fn ask_for(&mut self, keys: Vec<Arc<str>>) -> Option<PollerStep> {
        let versioned = self.settings.versioned;
        let requested = keys.into_iter().filter_map(|key| {
            let entry = self.keys.get_mut(&key)?;
            entry.requested = true;
            let version = if versioned && !entry.again { entry.version } else { 0 };
            Some(PolledKey { key, version })
        });
        let requested: Vec<PolledKey> = requested.collect();
        (!requested.is_empty()).then_some(PollerStep::Ask(requested))
    }

    fn put_back(&mut self, requested: &[PolledKey]) {
        for PolledKey { key, .. } in requested {
            if let Some(entry) = self.keys.get_mut(key) {
                entry.requested = false;
            }
        }
    }

    /// Moves on to `epoch`: versions of different epochs cannot be compared. This is a reset even for the first epoch,
    /// because clients have not been told of any, and need it when they come back.
    fn go_on_in(&mut self, epoch: Epoch) -> PollerUpdate {
        let reset = self.settings.versioned && epoch != self.epoch;
        if reset {
            self.epoch = epoch;
            for entry in self.keys.values_mut() {
                (entry.version, entry.fresh, entry.again) = (0, false, false);
            }
        }
        PollerUpdate { reset, ..PollerUpdate::default() }
    }

    /// Returns the duration, a tenth longer or shorter at most.
    fn about(&mut self, duration: Duration) -> Duration {
        // Xorshift is random enough to keep nodes out of step.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let part = micros / JITTER;
        Duration::from_micros(micros - part + self.random % (2 * part + 1))
    }
}

fn take(from: &mut BTreeSet<Arc<str>>, most: usize) -> Vec<Arc<str>> {
    let mut taken = Vec::new();
    while taken.len() < most
        && let Some(key) = from.pop_first()
    {
        taken.push(key);
    }
    taken
}

/// Returns the hash of a content. Contents with equal hashes are taken for the same: one chance in 2^64.
fn hash(data: &Payload) -> u64 {
    let mut hasher = DefaultHasher::new();
    let kind = match data.kind {
        PayloadKind::Json => 0_u8,
        PayloadKind::Text => 1,
        PayloadKind::Binary => 2,
    };
    (kind, &data.bytes[..]).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
