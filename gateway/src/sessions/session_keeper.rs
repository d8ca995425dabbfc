//! The sessions of this node's connections: each is written as it changes, prolonged while its connection lives, and left to
//! its client for a while when that is gone. A connection whose session is found to be another's is told so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;

use super::{Holder, RenewOutcome, SessionHolder, SessionKey, SessionStore, StoredSession};
use crate::broker::BrokerError;
use crate::client_key::ClientKey;
use crate::telemetry::LogLimiter;

/// How often it is looked at which sessions are to be prolonged.
const TICK: Duration = Duration::from_millis(500);
/// The most that are prolonged at once.
const PROLONGED_MAX: usize = 1_000;
/// How often a session is prolonged: a quarter of the time it is kept for, within these.
const INTERVAL: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];
/// When what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why a connection holds a session no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HoldEnd {
    /// Its client may come back to it.
    Away,
    /// Nobody can.
    ForGood,
}

#[derive(Debug)]
pub(crate) struct SessionKeeper {
    store: Arc<dyn SessionStore>,
    live: Mutex<HeldSessions>,
    unwritten_log: LogLimiter,
}

/// Who holds which session. For a moment two connections of a node may hold the same: the second has taken it, and the first
/// has yet to be told.
type HoldingKey = (Holder, SessionKey);

#[derive(Debug, Default)]
struct HeldSessions {
    held: BTreeMap<HoldingKey, HeldSession>,
    due: BTreeSet<(Instant, HoldingKey)>,
}

/// A session that a connection of this node holds, or has held.
#[derive(Debug)]
struct HeldSession {
    stored: StoredSession,
    connection: ClientKey,
    recovery: Duration,
    due: Instant,
    /// What is there may not be this.
    dirty: bool,
    /// Its connection is gone, and what is to become of it is yet to be written.
    ended: Option<HoldEnd>,
    /// How many writes of it are in flight. What comes of its end waits for them.
    writing: u32,
}

/// A write of a session that is in flight.
#[derive(Debug)]
struct SessionWrite<'a> {
    sessions: &'a SessionKeeper,
    holding: &'a HoldingKey,
}

impl Drop for SessionWrite<'_> {
    fn drop(&mut self) {
        let mut live = self.sessions.live.lock();
        if let Some(held) = live.held.get_mut(self.holding) {
            held.writing = held.writing.saturating_sub(1);
            if held.writing == 0 && held.ended.is_some() {
                live.set_due(self.holding, Instant::now());
            }
        }
    }
}

impl HeldSessions {
    fn set_due(&mut self, holding: &HoldingKey, due: Instant) {
        if let Some(held) = self.held.get_mut(holding) {
            self.due.remove(&(held.due, holding.clone()));
            held.due = due;
            self.due.insert((due, holding.clone()));
        }
    }

    fn forget(&mut self, holding: &HoldingKey) -> Option<HeldSession> {
        let held = self.held.remove(holding)?;
        self.due.remove(&(held.due, holding.clone()));
        Some(held)
    }

    /// What was said first of its end counts.
    fn end(&mut self, holding: &HoldingKey, ended: HoldEnd) {
        if let Some(held) = self.held.get_mut(holding) {
            held.ended.get_or_insert(ended);
            self.set_due(holding, Instant::now());
        }
    }

    /// The session is another's: the connection that was to be told, if it is still there.
    fn lose(&mut self, holding: &HoldingKey) -> Option<ClientKey> {
        self.forget(holding).filter(|held| held.ended.is_none()).map(|held| held.connection)
    }
}

fn interval(recovery: Duration) -> Duration {
    (recovery / 4).clamp(INTERVAL[0], INTERVAL[1])
}

/// How long a session is kept whose connection lives: what is left when its node dies is enough.
fn ttl(recovery: Duration) -> Duration {
    recovery + 2 * interval(recovery)
}

impl SessionKeeper {
    pub(crate) fn new(store: Arc<dyn SessionStore>) -> Self {
        Self { store, live: Mutex::default(), unwritten_log: LogLimiter::default() }
    }

    /// How many connections of this node hold one.
    pub(crate) fn count(&self) -> usize {
        self.live.lock().held.len()
    }

    /// The connection of this node that has, or lately had, sessions under this number.
    pub(crate) fn connection(&self, holder: Holder) -> Option<ClientKey> {
        let live = self.live.lock();
        let (_, held) =
            live.held.range((holder, SessionKey::LEAST)..).next().filter(|((one, _), _)| *one == holder)?;
        Some(held.connection)
    }

    pub(crate) async fn read(&self, pid: &str) -> Result<Option<StoredSession>, BrokerError> {
        self.store.read(&SessionKey::of(pid)).await
    }

    /// A connection holds this from now on, in place of `from`. Returns whether it does: another may have been quicker.
    pub(crate) async fn take(
        &self,
        pid: &str,
        from: Holder,
        by: &SessionHolder,
        value: Bytes,
        recovery: Duration,
    ) -> Result<bool, BrokerError> {
        let key = SessionKey::of(pid);
        let stored = StoredSession { holder: by.holder, version: 0, value };
        let taken = self.store.take(&key, from, stored.clone(), ttl(recovery)).await?;
        if taken {
            let mut live = self.live.lock();
            let holding = (by.holder, key);
            let ended = by.gone.get().copied();
            let due = Instant::now() + if ended.is_some() { Duration::ZERO } else { interval(recovery) };
            // It may have had it before, and have been put out of it.
            let writing = live.forget(&holding).map_or(0, |before| before.writing);
            let held =
                HeldSession { stored, connection: by.key, recovery, due, dirty: false, ended, writing };
            live.held.insert(holding.clone(), held);
            live.due.insert((due, holding));
        }
        Ok(taken)
    }

    /// Whether a connection may take up a session that it held itself: it does not any more, and has not left it for good.
    pub(crate) fn may_take_up(&self, pid: &str, holder: Holder) -> bool {
        let live = self.live.lock();
        live.held.get(&(holder, SessionKey::of(pid))).is_none_or(|held| held.ended == Some(HoldEnd::Away))
    }

    /// What a connection has of its session now. Returns `false` if the session is another's. An error leaves it to be tried
    /// again. `is_current`: whether the connection has not left it meanwhile. From the moment it says so, [`Self::end`] finds it.
    pub(crate) async fn write(
        &self,
        pid: &str,
        by: &SessionHolder,
        (version, value): (u64, Bytes),
        recovery: Duration,
        is_current: impl FnOnce() -> bool,
    ) -> Result<bool, BrokerError> {
        let holding = (by.holder, SessionKey::of(pid));
        let stored = StoredSession { holder: by.holder, version, value };
        if !self.note(&holding, by, &stored, recovery, is_current) {
            return Ok(true);
        }
        let _writing = SessionWrite { sessions: self, holding: &holding };
        match self.store.write(&holding.1, stored, ttl(recovery)).await {
            Ok(true) => {
                self.written(&holding, version, recovery);
                Ok(true)
            }
            Ok(false) => {
                // Its client has come back elsewhere.
                self.live.lock().forget(&holding);
                Ok(false)
            }
            Err(error) => {
                if let Some(suppressed) = self.unwritten_log.admit() {
                    tracing::warn!(%error, suppressed, "a session could not be written; it is tried again");
                }
                Err(error)
            }
        }
    }

    /// Takes note of what is to be written, and of the write. Returns `false` if there is nothing to write: what is noted is
    /// newer, or the session is over.
    fn note(
        &self,
        holding: &HoldingKey,
        by: &SessionHolder,
        stored: &StoredSession,
        recovery: Duration,
        is_current: impl FnOnce() -> bool,
    ) -> bool {
        let mut live = self.live.lock();
        if by.gone.get().is_some() || !is_current() {
            return false;
        }
        let due = Instant::now() + RETRY;
        let new = || HeldSession {
            stored: stored.clone(),
            connection: by.key,
            recovery,
            due,
            dirty: true,
            ended: None,
            writing: 0,
        };
        let held = live.held.entry(holding.clone()).or_insert_with(new);
        if held.stored.version > stored.version || held.ended.is_some() {
            return false;
        }
        (held.stored, held.recovery, held.dirty) = (stored.clone(), recovery, true);
        held.writing += 1;
        live.set_due(holding, due);
        true
    }

    /// What is kept is this version, or a later one.
    fn written(&self, holding: &HoldingKey, version: u64, recovery: Duration) {
        let mut live = self.live.lock();
        if let Some(held) = live.held.get_mut(holding).filter(|held| held.stored.version <= version) {
            held.dirty = false;
            // What has ended meanwhile is due already.
            if held.ended.is_none() {
                live.set_due(holding, Instant::now() + interval(recovery));
            }
        }
    }

    /// The connection has left one of its sessions.
    pub(crate) fn end(&self, pid: &str, holder: Holder, ended: HoldEnd) {
        self.live.lock().end(&(holder, SessionKey::of(pid)), ended);
    }

    /// The connection is gone, and with it whatever it holds, or is about to.
    pub(crate) fn leave(&self, by: &SessionHolder, ended: HoldEnd) {
        let mut live = self.live.lock();
        let _ = by.gone.set(ended);
        let all = live.held.range((by.holder, SessionKey::LEAST)..);
        let all = all.map(|(holding, _)| holding).take_while(|(holder, _)| *holder == by.holder);
        for holding in all.cloned().collect::<Vec<_>>() {
            live.end(&holding, ended);
        }
    }

    /// Keeps what is kept, until the runtime ends. `displace` is told of connections whose session turns out to be another's.
    pub(crate) async fn keep(&self, displace: impl Fn(ClientKey)) {
        loop {
            tokio::time::sleep(TICK).await;
            self.keep_due(&displace).await;
        }
    }

    /// What is due is written now, as far as it can be: this node is about to end, or its client was told that it has left.
    pub(crate) async fn settle(&self, displace: impl Fn(ClientKey)) {
        self.keep_due(&displace).await;
    }

    async fn keep_due(&self, displace: &impl Fn(ClientKey)) {
        // What is tried again meanwhile is due another time.
        let now = Instant::now();
        loop {
            let (lost, is_more) = self.keep_some(now).await;
            lost.into_iter().for_each(displace);
            if !is_more {
                break;
            }
        }
    }

    /// Returns who has lost its session to another, and whether there is more to do.
    async fn keep_some(&self, now: Instant) -> (Vec<ClientKey>, bool) {
        let (mut prolonged, mut rewritten, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        {
            let mut live = self.live.lock();
            let is_due = |(due, _): &&(Instant, HoldingKey)| *due <= now;
            let due: Vec<_> = live
                .due
                .iter()
                .take_while(is_due)
                .take(PROLONGED_MAX)
                .map(|(_, holding)| holding.clone())
                .collect();
            for holding in due {
                let Some(held) = live.held.get(&holding) else { continue };
                match held.ended {
                    Some(_) if held.writing > 0 => {}
                    Some(HoldEnd::ForGood) => removed.push(holding.clone()),
                    _ if held.dirty => rewritten.push(holding.clone()),
                    Some(HoldEnd::Away) => prolonged.push((holding.1.clone(), holding.0, held.recovery)),
                    None => prolonged.push((holding.1.clone(), holding.0, ttl(held.recovery))),
                }
                // Tried again, whatever comes of it.
                live.set_due(&holding, now + RETRY);
            }
        }
        let is_more = prolonged.len() + rewritten.len() + removed.len() >= PROLONGED_MAX;
        let mut lost = self.prolong(&prolonged, &mut rewritten).await;
        // None waits for another, whose server may hang.
        let rewritten = join_all(rewritten.iter().map(|holding| self.write_again(holding)));
        let removed = join_all(removed.iter().map(|holding| self.remove(holding)));
        let (rewritten, _) = tokio::join!(rewritten, removed);
        lost.extend(rewritten.into_iter().flatten());
        (lost, is_more)
    }

    async fn remove(&self, holding: &HoldingKey) {
        if self.store.remove(&holding.1, holding.0).await.is_ok() {
            let mut live = self.live.lock();
            // Its connection may have taken it up again.
            if live.held.get(holding).is_some_and(|held| held.ended.is_some()) {
                live.forget(holding);
            }
        }
    }

    async fn prolong(
        &self,
        prolonged: &[(SessionKey, Holder, Duration)],
        rewritten: &mut Vec<HoldingKey>,
    ) -> Vec<ClientKey> {
        if prolonged.is_empty() {
            return Vec::new();
        }
        let Ok(states) = self.store.prolong(prolonged).await else { return Vec::new() };
        let mut live = self.live.lock();
        let mut lost = Vec::new();
        for ((key, holder, _), state) in prolonged.iter().zip(states) {
            let holding = (*holder, key.clone());
            let Some(held) = live.held.get_mut(&holding) else { continue };
            match state {
                RenewOutcome::Lost => {
                    held.dirty = true;
                    rewritten.push(holding);
                }
                RenewOutcome::Taken => lost.extend(live.lose(&holding)),
                // Tried again.
                RenewOutcome::Unknown => {}
                RenewOutcome::Prolonged if held.ended == Some(HoldEnd::Away) => drop(live.forget(&holding)),
                // It has left meanwhile, and that is due.
                RenewOutcome::Prolonged if held.ended == Some(HoldEnd::ForGood) => {}
                RenewOutcome::Prolonged => {
                    let due = Instant::now() + interval(held.recovery);
                    live.set_due(&holding, due);
                }
            }
        }
        lost
    }

    async fn write_again(&self, holding: &HoldingKey) -> Option<ClientKey> {
        let (stored, recovery, is_away) = {
            let mut live = self.live.lock();
            let held = live.held.get_mut(holding)?;
            held.writing += 1;
            (held.stored.clone(), held.recovery, held.ended == Some(HoldEnd::Away))
        };
        let _writing = SessionWrite { sessions: self, holding };
        let version = stored.version;
        let ttl_of_session = if is_away { recovery } else { ttl(recovery) };
        match self.store.write(&holding.1, stored, ttl_of_session).await {
            Ok(true) if is_away => drop(self.live.lock().forget(holding)),
            Ok(true) => self.written(holding, version, recovery),
            Ok(false) => return self.live.lock().lose(holding),
            // Tried again.
            Err(_) => {}
        }
        None
    }
}

#[cfg(test)]
mod tests;
