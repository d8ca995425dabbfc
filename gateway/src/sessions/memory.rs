//! Sessions of one node, in its memory: they end with the node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{Holder, RenewOutcome, SessionKey, SessionStore, StoredSession};
use crate::broker::BrokerError;

/// The most sessions that are kept. Past it, those that expire soonest are evicted.
const SESSIONS_MAX: usize = 1 << 20;

#[derive(Debug, Default)]
pub struct MemorySessions(Mutex<SessionTable>);

#[derive(Debug, Default)]
struct SessionTable {
    sessions: FxHashMap<SessionKey, (StoredSession, Instant)>,
    ends: BTreeSet<(Instant, SessionKey)>,
}

impl SessionTable {
    fn find(&mut self, key: &SessionKey) -> Option<&StoredSession> {
        self.expire();
        self.sessions.get(key).map(|(stored, _)| stored)
    }

    fn put(&mut self, key: &SessionKey, stored: StoredSession, ttl: Duration) {
        self.take_out(key);
        if self.sessions.len() >= SESSIONS_MAX
            && let Some((_, soonest)) = self.ends.first().cloned()
        {
            self.take_out(&soonest);
        }
        let end = Instant::now() + ttl;
        self.ends.insert((end, key.clone()));
        self.sessions.insert(key.clone(), (stored, end));
    }

    fn take_out(&mut self, key: &SessionKey) -> Option<StoredSession> {
        let (stored, end) = self.sessions.remove(key)?;
        self.ends.remove(&(end, key.clone()));
        Some(stored)
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some((_, key)) = self.ends.first().filter(|(end, _)| *end <= now).cloned() {
            self.take_out(&key);
        }
    }
}

impl SessionStore for MemorySessions {
    fn write<'a>(
        &'a self,
        key: &'a SessionKey,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let mut table = self.0.lock();
        let there = table.find(key);
        let is_own = there.is_none_or(|there| there.holder == stored.holder);
        if is_own && there.is_none_or(|there| there.version <= stored.version) {
            table.put(key, stored, ttl);
        }
        ready(Ok(is_own)).boxed()
    }

    fn take<'a>(
        &'a self,
        key: &'a SessionKey,
        from: Holder,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let mut table = self.0.lock();
        let is_of_that = table.find(key).is_some_and(|there| there.holder == from);
        if is_of_that {
            table.put(key, stored, ttl);
        }
        ready(Ok(is_of_that)).boxed()
    }

    fn read<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<Option<StoredSession>, BrokerError>> {
        ready(Ok(self.0.lock().find(key).cloned())).boxed()
    }

    fn prolong<'a>(
        &'a self,
        sessions: &'a [(SessionKey, Holder, Duration)],
    ) -> BoxFuture<'a, Result<Vec<RenewOutcome>, BrokerError>> {
        let mut table = self.0.lock();
        let states = sessions.iter().map(|(key, holder, ttl)| match table.find(key).cloned() {
            Some(stored) if stored.holder == *holder => {
                table.put(key, stored, *ttl);
                RenewOutcome::Prolonged
            }
            Some(_) => RenewOutcome::Taken,
            None => RenewOutcome::Lost,
        });
        ready(Ok(states.collect())).boxed()
    }

    fn remove<'a>(&'a self, key: &'a SessionKey, holder: Holder) -> BoxFuture<'a, Result<(), BrokerError>> {
        let mut table = self.0.lock();
        if table.find(key).is_some_and(|there| there.holder == holder) {
            table.take_out(key);
        }
        ready(Ok(())).boxed()
    }
}
