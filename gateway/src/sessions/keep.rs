//! The sessions of this node's connections: each is written as it changes, prolonged while its connection lives, and left to
//! its client for a while when that is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{Holder, SessionKey, SessionStore, Stored};
use crate::broker::BrokerError;
use crate::telemetry::Sparingly;

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
pub(crate) enum Ended {
    /// Its client may come back to it.
    Away,
    /// Nobody can.
    ForGood,
}

#[derive(Debug)]
pub(crate) struct Sessions {
    store: Arc<dyn SessionStore>,
    live: Mutex<Table>,
    unwritten_told: Sparingly,
}

#[derive(Debug, Default)]
struct Table {
    held: FxHashMap<SessionKey, Held>,
    due: BTreeSet<(Instant, SessionKey)>,
}

/// A session that a connection of this node holds, or has held.
#[derive(Debug)]
struct Held {
    stored: Stored,
    recovery: Duration,
    due: Instant,
    /// What is there may not be this.
    dirty: bool,
    /// Its connection is gone, and what is to become of it is yet to be written.
    ended: Option<Ended>,
}

impl Table {
    fn set_due(&mut self, key: &SessionKey, due: Instant) {
        if let Some(held) = self.held.get_mut(key) {
            self.due.remove(&(held.due, key.clone()));
            held.due = due;
            self.due.insert((due, key.clone()));
        }
    }

    fn forget(&mut self, key: &SessionKey, holder: Holder) {
        if self.held.get(key).is_some_and(|held| held.stored.holder == holder)
            && let Some(held) = self.held.remove(key)
        {
            self.due.remove(&(held.due, key.clone()));
        }
    }
}

fn interval(recovery: Duration) -> Duration {
    (recovery / 4).clamp(INTERVAL[0], INTERVAL[1])
}

/// How long a session is kept whose connection lives: what is left when its node dies is enough.
fn ttl(recovery: Duration) -> Duration {
    recovery + 2 * interval(recovery)
}

impl Sessions {
    pub(crate) fn new(store: Arc<dyn SessionStore>) -> Self {
        Self { store, live: Mutex::default(), unwritten_told: Sparingly::default() }
    }

    /// How many connections of this node hold one.
    pub(crate) fn count(&self) -> usize {
        self.live.lock().held.len()
    }

    pub(crate) async fn read(&self, pid: &str) -> Result<Option<Stored>, BrokerError> {
        self.store.read(&SessionKey::of(pid)).await
    }

    /// A connection holds this from now on, in place of `from`. Answers whether it does: another may have been quicker.
    pub(crate) async fn take(
        &self,
        pid: &str,
        from: Holder,
        holder: Holder,
        value: Bytes,
        recovery: Duration,
    ) -> Result<bool, BrokerError> {
        let key = SessionKey::of(pid);
        let stored = Stored { holder, version: 0, value };
        let taken = self.store.take(&key, from, stored.clone(), ttl(recovery)).await?;
        if taken {
            self.hold(&key, stored, recovery, false);
        }
        Ok(taken)
    }

    /// What a connection has of its session now. Answers `false` if the session is another's. An error leaves it to be tried
    /// again.
    pub(crate) async fn write(
        &self,
        pid: &str,
        holder: Holder,
        version: u64,
        value: Bytes,
        recovery: Duration,
    ) -> Result<bool, BrokerError> {
        let key = SessionKey::of(pid);
        let stored = Stored { holder, version, value };
        if !self.hold(&key, stored.clone(), recovery, true) {
            return Ok(true);
        }
        match self.store.write(&key, stored, ttl(recovery)).await {
            Ok(is_own) => {
                let mut live = self.live.lock();
                if !is_own {
                    // Its client has come back elsewhere.
                    live.forget(&key, holder);
                } else if let Some(held) = live.held.get_mut(&key)
                    && held.stored.holder == holder
                    && held.stored.version <= version
                {
                    held.dirty = false;
                    live.set_due(&key, Instant::now() + interval(recovery));
                }
                Ok(is_own)
            }
            Err(error) => {
                if let Some(untold) = self.unwritten_told.now() {
                    tracing::warn!(%error, untold, "a session could not be written; it is tried again");
                }
                Err(error)
            }
        }
    }

    /// Takes note of what is to be written. Answers `false` for what is older than what is noted.
    fn hold(&self, key: &SessionKey, stored: Stored, recovery: Duration, dirty: bool) -> bool {
        let mut live = self.live.lock();
        let retry = Instant::now() + if dirty { RETRY } else { interval(recovery) };
        if let Some(held) = live.held.get_mut(key) {
            let is_older = held.stored.holder == stored.holder && held.stored.version > stored.version;
            if is_older || held.stored.holder == stored.holder && held.ended.is_some() {
                return false;
            }
            (held.stored, held.recovery, held.dirty, held.ended) = (stored, recovery, dirty, None);
        } else {
            live.held.insert(key.clone(), Held { stored, recovery, due: retry, dirty, ended: None });
        }
        live.set_due(key, retry);
        true
    }

    /// The connection is gone, or has left.
    pub(crate) fn end(&self, pid: &str, holder: Holder, ended: Ended) {
        let key = SessionKey::of(pid);
        let mut live = self.live.lock();
        if let Some(held) = live.held.get_mut(&key).filter(|held| held.stored.holder == holder) {
            held.ended = Some(ended);
            live.set_due(&key, Instant::now());
        }
    }

    /// Keeps what is kept, until the runtime ends.
    pub(crate) async fn keep(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            while self.keep_some().await {}
        }
    }

    /// What is due is written now, as far as it can be: this node is about to end.
    pub(crate) async fn settle(&self) {
        while self.keep_some().await {}
    }

    /// Answers whether there is more.
    async fn keep_some(&self) -> bool {
        let now = Instant::now();
        let (mut prolonged, mut rewritten, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        {
            let mut live = self.live.lock();
            let due: Vec<_> =
                live.due.range(..=(now, SessionKey("~".into()))).take(PROLONGED_MAX).cloned().collect();
            for (_, key) in due {
                let Some(held) = live.held.get(&key) else { continue };
                match held.ended {
                    Some(Ended::ForGood) => removed.push((key.clone(), held.stored.holder)),
                    _ if held.dirty => rewritten.push(key.clone()),
                    Some(Ended::Away) => prolonged.push((key.clone(), held.recovery)),
                    None => prolonged.push((key.clone(), ttl(held.recovery))),
                }
                // Tried again, whatever comes of it.
                live.set_due(&key, now + RETRY);
            }
        }
        let is_more = prolonged.len() + rewritten.len() + removed.len() >= PROLONGED_MAX;
        self.prolong(&prolonged, &mut rewritten).await;
        for key in rewritten {
            self.write_again(&key).await;
        }
        for (key, holder) in removed {
            if self.store.remove(&key, holder).await.is_ok() {
                self.live.lock().forget(&key, holder);
            }
        }
        is_more
    }

    async fn prolong(&self, prolonged: &[(SessionKey, Duration)], rewritten: &mut Vec<SessionKey>) {
        if prolonged.is_empty() {
            return;
        }
        let Ok(there) = self.store.prolong(prolonged).await else { return };
        let mut live = self.live.lock();
        for ((key, _), is_there) in prolonged.iter().zip(there) {
            let Some(held) = live.held.get_mut(key) else { continue };
            if !is_there {
                // Redis has lost it.
                held.dirty = true;
                rewritten.push(key.clone());
            } else if held.ended.is_some() {
                let holder = held.stored.holder;
                live.forget(key, holder);
            } else {
                let due = Instant::now() + interval(held.recovery);
                live.set_due(key, due);
            }
        }
    }

    async fn write_again(&self, key: &SessionKey) {
        let (stored, recovery, is_away) = {
            let live = self.live.lock();
            let Some(held) = live.held.get(key) else { return };
            (held.stored.clone(), held.recovery, held.ended == Some(Ended::Away))
        };
        let (holder, version) = (stored.holder, stored.version);
        let kept_for = if is_away { recovery } else { ttl(recovery) };
        let Ok(is_own) = self.store.write(key, stored, kept_for).await else { return };
        let mut live = self.live.lock();
        if !is_own || is_away {
            return live.forget(key, holder);
        }
        if let Some(held) = live.held.get_mut(key)
            && held.stored.holder == holder
            && held.stored.version == version
        {
            held.dirty = false;
            live.set_due(key, Instant::now() + interval(recovery));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::memory::MemorySessions;

    const RECOVERY: Duration = Duration::from_secs(60);

    fn value(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[tokio::test]
    async fn one_connection_holds_a_session_and_what_it_wrote_before_is_not_newer() {
        let sessions = Sessions::new(Arc::new(MemorySessions::default()));
        let (one, other) = (Holder(1), Holder(2));
        sessions.write("p", one, 2, value("new"), RECOVERY).await.unwrap();
        sessions.write("p", one, 1, value("old"), RECOVERY).await.unwrap();
        let read = sessions.read("p").await.unwrap().unwrap();
        assert_eq!((read.holder, &read.value[..]), (one, &b"new"[..]));
        assert!(sessions.take("p", one, other, value("new"), RECOVERY).await.unwrap());
        assert!(!sessions.take("p", one, Holder(3), value("x"), RECOVERY).await.unwrap(), "one is too late");
        // The connection before it is still there.
        let elsewhere = Sessions { live: Mutex::default(), ..Sessions::new(sessions.store.clone()) };
        assert!(!elsewhere.write("p", one, 9, value("stale"), RECOVERY).await.unwrap(), "it is told so");
        assert_eq!(sessions.read("p").await.unwrap().unwrap().holder, other);
        assert_eq!(elsewhere.count(), 0);
    }

    #[tokio::test]
    async fn who_leaves_for_good_has_no_session_and_who_is_lost_has_one_for_a_while() {
        let sessions = Sessions::new(Arc::new(MemorySessions::default()));
        for pid in ["left", "lost"] {
            sessions.write(pid, Holder(1), 0, value("x"), RECOVERY).await.unwrap();
        }
        sessions.end("left", Holder(1), Ended::ForGood);
        sessions.end("lost", Holder(1), Ended::Away);
        sessions.end("lost", Holder(2), Ended::ForGood);
        sessions.settle().await;
        assert_eq!(sessions.read("left").await.unwrap(), None);
        assert!(sessions.read("lost").await.unwrap().is_some());
        assert_eq!(sessions.count(), 0);
        let short = Duration::from_millis(1);
        sessions.write("gone", Holder(1), 0, value("x"), short).await.unwrap();
        sessions.end("gone", Holder(1), Ended::Away);
        sessions.settle().await;
        let is_over = async {
            while sessions.read("gone").await.unwrap().is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), is_over).await.expect("it is forgotten in time");
    }

    #[tokio::test]
    async fn what_was_lost_meanwhile_is_written_again() {
        let sessions = Sessions::new(Arc::new(MemorySessions::default()));
        sessions.write("p", Holder(1), 0, value("x"), RECOVERY).await.unwrap();
        sessions.store.remove(&SessionKey::of("p"), Holder(1)).await.unwrap();
        let key = SessionKey::of("p");
        sessions.live.lock().set_due(&key, Instant::now());
        sessions.settle().await;
        assert!(sessions.read("p").await.unwrap().is_some());
    }
}
