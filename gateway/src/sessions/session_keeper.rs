//! Keeps the sessions of this node's connections: writes each as it changes, prolongs it while its connection lives,
//! and keeps it for its client for a while after that. A connection whose session another one has taken is told so.

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

/// The interval at which sessions that are due are prolonged.
const TICK: Duration = Duration::from_millis(500);
/// The most sessions that are prolonged in one batch.
const PROLONGED_MAX: usize = 1_000;
/// The bounds of the interval at which a session is prolonged, a quarter of the time that it is kept for.
const INTERVAL: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];
/// The delay before a failed write is repeated.
const RETRY: Duration = Duration::from_secs(1);

/// Why a connection does not hold a session any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HoldEnd {
    /// The client may come back to the session.
    Away,
    /// The session is over.
    ForGood,
}

#[derive(Debug)]
pub(crate) struct SessionKeeper {
    store: Arc<dyn SessionStore>,
    live: Mutex<HeldSessions>,
    unwritten_log: LogLimiter,
}

/// A connection and a session that it holds. For a moment two connections of a node may hold the same session: the
/// second one has taken it, and the first one has not been told yet.
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
    /// Whether the stored state may differ from this one.
    dirty: bool,
    /// Set once the connection has left the session, until that is written to the store.
    ended: Option<HoldEnd>,
    /// The number of writes in flight. The end of the session is written after them.
    writing: u32,
}

/// A write in flight of a session.
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

    /// Ends a session. The first call decides how.
    fn end(&mut self, holding: &HoldingKey, ended: HoldEnd) {
        if let Some(held) = self.held.get_mut(holding) {
            held.ended.get_or_insert(ended);
            self.set_due(holding, Instant::now());
        }
    }

    /// Forgets a session that another holder has. Returns the connection to be told, if it is still there.
    fn lose(&mut self, holding: &HoldingKey) -> Option<ClientKey> {
        self.forget(holding).filter(|held| held.ended.is_none()).map(|held| held.connection)
    }
}

fn interval(recovery: Duration) -> Duration {
    (recovery / 4).clamp(INTERVAL[0], INTERVAL[1])
}

/// Returns how long a session with a live connection is kept: long enough for its client to recover when the node dies.
fn ttl(recovery: Duration) -> Duration {
    recovery + 2 * interval(recovery)
}

impl SessionKeeper {
    pub(crate) fn new(store: Arc<dyn SessionStore>) -> Self {
        Self { store, live: Mutex::default(), unwritten_log: LogLimiter::default() }
    }

    /// Returns how many sessions the connections of this node hold.
    pub(crate) fn count(&self) -> usize {
        self.live.lock().held.len()
    }

    /// Returns the connection of this node that has, or lately had, sessions under this number.
    pub(crate) fn connection(&self, holder: Holder) -> Option<ClientKey> {
        let live = self.live.lock();
        let (_, held) =
            live.held.range((holder, SessionKey::LEAST)..).next().filter(|((one, _), _)| *one == holder)?;
        Some(held.connection)
    }

    pub(crate) async fn read(&self, pid: &str) -> Result<Option<StoredSession>, BrokerError> {
        self.store.read(&SessionKey::of(pid)).await
    }

    /// Passes a session from `from` to a connection of this node. Returns false if another connection was faster.
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
            // The connection may have held the session before, and lost it.
            let writing = live.forget(&holding).map_or(0, |before| before.writing);
            let held =
                HeldSession { stored, connection: by.key, recovery, due, dirty: false, ended, writing };
            live.held.insert(holding.clone(), held);
            live.due.insert((due, holding));
        }
        Ok(taken)
    }

    /// Whether a connection may resume a session that it held itself: it holds it no longer, and has not left it for good.
    pub(crate) fn may_take_up(&self, pid: &str, holder: Holder) -> bool {
        let live = self.live.lock();
        live.held.get(&(holder, SessionKey::of(pid))).is_none_or(|held| held.ended == Some(HoldEnd::Away))
    }

    /// Writes a connection's present state of its session. Returns `false` if another holder has the session. After an
    /// error the write is repeated later. `is_current` tells whether the connection has not left the session meanwhile;
    /// from that call on, [`Self::end`] finds the session.
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
                // The client has come back on another connection.
                self.live.lock().forget(&holding);
                Ok(false)
            }
            Err(error) => {
                if let Some(suppressed) = self.unwritten_log.admit() {
                    tracing::warn!(%error, suppressed, "a session could not be stored; the node tries again");
                }
                Err(error)
            }
        }
    }

    /// Records the state to be written, and the write in flight. Returns `false` if there is nothing to write: the
    /// recorded state is newer, or the session is over.
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

    /// Records that this version, or a later one, is stored.
    fn written(&self, holding: &HoldingKey, version: u64, recovery: Duration) {
        let mut live = self.live.lock();
        if let Some(held) = live.held.get_mut(holding).filter(|held| held.stored.version <= version) {
            held.dirty = false;
            // A session that has ended meanwhile is due already.
            if held.ended.is_none() {
                live.set_due(holding, Instant::now() + interval(recovery));
            }
        }
    }

    /// Ends one of a connection's sessions.
    pub(crate) fn end(&self, pid: &str, holder: Holder, ended: HoldEnd) {
        self.live.lock().end(&(holder, SessionKey::of(pid)), ended);
    }

    /// Ends all sessions that a connection holds, or is about to hold.
    pub(crate) fn leave(&self, by: &SessionHolder, ended: HoldEnd) {
        let mut live = self.live.lock();
        let _ = by.gone.set(ended);
        let all = live.held.range((by.holder, SessionKey::LEAST)..);
        let all = all.map(|(holding, _)| holding).take_while(|(holder, _)| *holder == by.holder);
        for holding in all.cloned().collect::<Vec<_>>() {
            live.end(&holding, ended);
        }
    }

    /// Keeps the sessions until the runtime ends. `displace` is called for connections whose session another holder has.
    pub(crate) async fn keep(&self, displace: impl Fn(ClientKey)) {
        loop {
            tokio::time::sleep(TICK).await;
            self.keep_due(&displace).await;
        }
    }

    /// Writes what is due now, as far as possible: because this node is about to end, or a client was told that it has left.
    pub(crate) async fn settle(&self, displace: impl Fn(ClientKey)) {
        self.keep_due(&displace).await;
    }

    async fn keep_due(&self, displace: &impl Fn(ClientKey)) {
        // Sessions that are due again meanwhile wait for the next call.
        let now = Instant::now();
        loop {
            let (lost, is_more) = self.keep_some(now).await;
            lost.into_iter().for_each(displace);
            if !is_more {
                break;
            }
        }
    }

    /// Handles one batch. Returns the connections that have lost their session, and whether there is more to do.
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
                // A retry is scheduled in any case; success reschedules it.
                live.set_due(&holding, now + RETRY);
            }
        }
        let is_more = prolonged.len() + rewritten.len() + removed.len() >= PROLONGED_MAX;
        let mut lost = self.prolong(&prolonged, &mut rewritten).await;
        // Run concurrently: none waits for a server that may hang.
        let rewritten = join_all(rewritten.iter().map(|holding| self.write_again(holding)));
        let removed = join_all(removed.iter().map(|holding| self.remove(holding)));
        let (rewritten, _) = tokio::join!(rewritten, removed);
        lost.extend(rewritten.into_iter().flatten());
        (lost, is_more)
    }

    async fn remove(&self, holding: &HoldingKey) {
        if self.store.remove(&holding.1, holding.0).await.is_ok() {
            let mut live = self.live.lock();
            // The connection may have resumed the session.
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
                // Repeated later.
                RenewOutcome::Unknown => {}
                RenewOutcome::Prolonged if held.ended == Some(HoldEnd::Away) => drop(live.forget(&holding)),
                // The connection has left the session for good meanwhile, and that is due.
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
            // Repeated later.
            Err(_) => {}
        }
        None
    }
}

#[cfg(test)]
mod tests;
