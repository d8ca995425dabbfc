//! The sessions of this node's connections: each is written as it changes, prolonged while its connection lives, and left to
//! its client for a while when that is gone. A connection whose session is found to be another's is told so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Connection, Holder, SessionKey, SessionStore, State, Stored};
use crate::broker::BrokerError;
use crate::client_key::ClientKey;
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

/// Who holds which session. For a moment two connections of a node may hold the same: the second has taken it, and the first
/// has yet to be told.
type Holding = (Holder, SessionKey);

#[derive(Debug, Default)]
struct Table {
    held: BTreeMap<Holding, Held>,
    due: BTreeSet<(Instant, Holding)>,
}

/// A session that a connection of this node holds, or has held.
#[derive(Debug)]
struct Held {
    stored: Stored,
    connection: ClientKey,
    recovery: Duration,
    due: Instant,
    /// What is there may not be this.
    dirty: bool,
    /// Its connection is gone, and what is to become of it is yet to be written.
    ended: Option<Ended>,
}

impl Table {
    fn set_due(&mut self, holding: &Holding, due: Instant) {
        if let Some(held) = self.held.get_mut(holding) {
            self.due.remove(&(held.due, holding.clone()));
            held.due = due;
            self.due.insert((due, holding.clone()));
        }
    }

    fn forget(&mut self, holding: &Holding) -> Option<Held> {
        let held = self.held.remove(holding)?;
        self.due.remove(&(held.due, holding.clone()));
        Some(held)
    }

    /// The session is another's: the connection that was to be told, if it is still there.
    fn lose(&mut self, holding: &Holding) -> Option<ClientKey> {
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

impl Sessions {
    pub(crate) fn new(store: Arc<dyn SessionStore>) -> Self {
        Self { store, live: Mutex::default(), unwritten_told: Sparingly::default() }
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

    pub(crate) async fn read(&self, pid: &str) -> Result<Option<Stored>, BrokerError> {
        self.store.read(&SessionKey::of(pid)).await
    }

    /// A connection holds this from now on, in place of `from`. Answers whether it does: another may have been quicker.
    pub(crate) async fn take(
        &self,
        pid: &str,
        from: Holder,
        by: Connection,
        value: Bytes,
        recovery: Duration,
    ) -> Result<bool, BrokerError> {
        let key = SessionKey::of(pid);
        let stored = Stored { holder: by.holder, version: 0, value };
        let taken = self.store.take(&key, from, stored.clone(), ttl(recovery)).await?;
        if taken {
            self.hold(&(by.holder, key), by.key, stored, recovery, false);
        }
        Ok(taken)
    }

    /// What a connection has of its session now. Answers `false` if the session is another's. An error leaves it to be tried
    /// again.
    pub(crate) async fn write(
        &self,
        pid: &str,
        by: Connection,
        version: u64,
        value: Bytes,
        recovery: Duration,
    ) -> Result<bool, BrokerError> {
        let holding = (by.holder, SessionKey::of(pid));
        let stored = Stored { holder: by.holder, version, value };
        if !self.hold(&holding, by.key, stored.clone(), recovery, true) {
            return Ok(true);
        }
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
                if let Some(untold) = self.unwritten_told.now() {
                    tracing::warn!(%error, untold, "a session could not be written; it is tried again");
                }
                Err(error)
            }
        }
    }

    /// Takes note of what is to be written. Answers `false` for what is older than what is noted.
    fn hold(
        &self,
        holding: &Holding,
        connection: ClientKey,
        stored: Stored,
        recovery: Duration,
        dirty: bool,
    ) -> bool {
        let mut live = self.live.lock();
        let retry = Instant::now() + if dirty { RETRY } else { interval(recovery) };
        if let Some(held) = live.held.get_mut(holding) {
            if held.stored.version > stored.version || held.ended.is_some() {
                return false;
            }
            (held.stored, held.recovery, held.dirty) = (stored, recovery, dirty);
        } else {
            let held = Held { stored, connection, recovery, due: retry, dirty, ended: None };
            live.held.insert(holding.clone(), held);
        }
        live.set_due(holding, retry);
        true
    }

    /// What is kept is this version, or a later one.
    fn written(&self, holding: &Holding, version: u64, recovery: Duration) {
        let mut live = self.live.lock();
        if let Some(held) = live.held.get_mut(holding).filter(|held| held.stored.version <= version) {
            held.dirty = false;
            // What has ended meanwhile is due already.
            if held.ended.is_none() {
                live.set_due(holding, Instant::now() + interval(recovery));
            }
        }
    }

    /// The connection is gone, or has left.
    pub(crate) fn end(&self, pid: &str, holder: Holder, ended: Ended) {
        let holding = (holder, SessionKey::of(pid));
        let mut live = self.live.lock();
        if let Some(held) = live.held.get_mut(&holding) {
            held.ended = Some(ended);
            live.set_due(&holding, Instant::now());
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
        loop {
            let (lost, is_more) = self.keep_some().await;
            lost.into_iter().for_each(displace);
            if !is_more {
                break;
            }
        }
    }

    /// Answers who has lost its session to another, and whether there is more to do.
    async fn keep_some(&self) -> (Vec<ClientKey>, bool) {
        let now = Instant::now();
        let (mut prolonged, mut rewritten, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        {
            let mut live = self.live.lock();
            let is_due = |(due, _): &&(Instant, Holding)| *due <= now;
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
                    Some(Ended::ForGood) => removed.push(holding.clone()),
                    _ if held.dirty => rewritten.push(holding.clone()),
                    Some(Ended::Away) => prolonged.push((holding.1.clone(), holding.0, held.recovery)),
                    None => prolonged.push((holding.1.clone(), holding.0, ttl(held.recovery))),
                }
                // Tried again, whatever comes of it.
                live.set_due(&holding, now + RETRY);
            }
        }
        let is_more = prolonged.len() + rewritten.len() + removed.len() >= PROLONGED_MAX;
        let mut lost = self.prolong(&prolonged, &mut rewritten).await;
        for holding in rewritten {
            lost.extend(self.write_again(&holding).await);
        }
        for holding in removed {
            if self.store.remove(&holding.1, holding.0).await.is_ok() {
                self.live.lock().forget(&holding);
            }
        }
        (lost, is_more)
    }

    async fn prolong(
        &self,
        prolonged: &[(SessionKey, Holder, Duration)],
        rewritten: &mut Vec<Holding>,
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
                State::Lost => {
                    held.dirty = true;
                    rewritten.push(holding);
                }
                State::Taken => lost.extend(live.lose(&holding)),
                // Tried again.
                State::Untold => {}
                State::Prolonged if held.ended == Some(Ended::Away) => drop(live.forget(&holding)),
                // It has left meanwhile, and that is due.
                State::Prolonged if held.ended == Some(Ended::ForGood) => {}
                State::Prolonged => {
                    let due = Instant::now() + interval(held.recovery);
                    live.set_due(&holding, due);
                }
            }
        }
        lost
    }

    async fn write_again(&self, holding: &Holding) -> Option<ClientKey> {
        let (stored, recovery, is_away) = {
            let live = self.live.lock();
            let held = live.held.get(holding)?;
            (held.stored.clone(), held.recovery, held.ended == Some(Ended::Away))
        };
        let version = stored.version;
        let kept_for = if is_away { recovery } else { ttl(recovery) };
        match self.store.write(&holding.1, stored, kept_for).await {
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
mod tests {
    use super::*;
    use crate::sessions::memory::MemorySessions;

    const RECOVERY: Duration = Duration::from_secs(60);

    fn value(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn by(number: u32) -> Connection {
        let key = ClientKey { worker: 0, index: number, generation: 1 };
        Connection { holder: Holder(number.into()), key }
    }

    fn nobody(key: ClientKey) {
        panic!("nobody has lost anything, and {key:?} neither");
    }

    /// What is due at any time is due now.
    fn set_all_due(sessions: &Sessions) {
        let mut live = sessions.live.lock();
        let all: Vec<_> = live.held.keys().cloned().collect();
        all.iter().for_each(|holding| live.set_due(holding, Instant::now()));
    }

    async fn displaced(sessions: &Sessions) -> Vec<u32> {
        set_all_due(sessions);
        let told = Mutex::new(Vec::new());
        sessions.settle(|key| told.lock().push(key.index)).await;
        told.into_inner()
    }

    #[tokio::test]
    async fn one_connection_holds_a_session_and_what_it_wrote_before_is_not_newer() {
        let sessions = Sessions::new(Arc::new(MemorySessions::default()));
        let (one, other) = (by(1), by(2));
        sessions.write("p", one, 2, value("new"), RECOVERY).await.unwrap();
        sessions.write("p", one, 1, value("old"), RECOVERY).await.unwrap();
        let read = sessions.read("p").await.unwrap().unwrap();
        assert_eq!((read.holder, &read.value[..]), (one.holder, &b"new"[..]));
        assert!(sessions.take("p", one.holder, other, value("new"), RECOVERY).await.unwrap());
        assert!(
            !sessions.take("p", one.holder, by(3), value("x"), RECOVERY).await.unwrap(),
            "one is too late"
        );
        // The connection before it is still there.
        let elsewhere = Sessions { live: Mutex::default(), ..Sessions::new(sessions.store.clone()) };
        assert!(!elsewhere.write("p", one, 9, value("stale"), RECOVERY).await.unwrap(), "it is told so");
        assert_eq!(sessions.read("p").await.unwrap().unwrap().holder, other.holder);
        assert_eq!(elsewhere.count(), 0);
    }

    #[tokio::test]
    async fn who_took_a_session_keeps_it_whatever_the_one_before_still_writes_at_the_same_node() {
        let sessions = Sessions::new(Arc::new(MemorySessions::default()));
        sessions.write("p", by(1), 0, value("x"), RECOVERY).await.unwrap();
        assert!(sessions.take("p", Holder(1), by(2), value("x"), RECOVERY).await.unwrap());
        assert!(!sessions.write("p", by(1), 1, value("late"), RECOVERY).await.unwrap());
        assert_eq!(sessions.count(), 1);
        assert_eq!(sessions.connection(Holder(2)), Some(by(2).key));
        assert_eq!((sessions.connection(Holder(1)), sessions.connection(Holder(3))), (None, None));
        assert!(displaced(&sessions).await.is_empty());
        sessions.store.remove(&SessionKey::of("p"), Holder(2)).await.unwrap();
        assert!(displaced(&sessions).await.is_empty());
        assert_eq!(sessions.read("p").await.unwrap().unwrap().holder, Holder(2), "it is still looked after");
    }

    #[tokio::test]
    async fn whoever_finds_its_session_taken_is_told_once() {
        let sessions = Sessions::new(Arc::new(MemorySessions::default()));
        let elsewhere = Sessions::new(sessions.store.clone());
        for pid in ["prolonged", "dirty", "away"] {
            sessions.write(pid, by(1), 0, value("x"), RECOVERY).await.unwrap();
            assert!(elsewhere.take(pid, Holder(1), by(2), value("y"), RECOVERY).await.unwrap());
        }
        let dirty = (Holder(1), SessionKey::of("dirty"));
        sessions.live.lock().held.get_mut(&dirty).unwrap().dirty = true;
        sessions.end("away", Holder(1), Ended::Away);
        assert_eq!(displaced(&sessions).await, [1, 1]);
        assert_eq!((displaced(&sessions).await, sessions.count()), (Vec::new(), 0));
        assert!(displaced(&elsewhere).await.is_empty());
    }

    #[tokio::test]
    async fn who_leaves_for_good_has_no_session_and_who_is_lost_has_one_for_a_while() {
        let sessions = Sessions::new(Arc::new(MemorySessions::default()));
        for pid in ["left", "lost"] {
            sessions.write(pid, by(1), 0, value("x"), RECOVERY).await.unwrap();
        }
        sessions.end("left", Holder(1), Ended::ForGood);
        sessions.end("lost", Holder(1), Ended::Away);
        sessions.end("lost", Holder(2), Ended::ForGood);
        sessions.settle(nobody).await;
        assert_eq!(sessions.read("left").await.unwrap(), None);
        assert!(sessions.read("lost").await.unwrap().is_some());
        assert_eq!(sessions.count(), 0);
        let short = Duration::from_millis(1);
        sessions.write("gone", by(1), 0, value("x"), short).await.unwrap();
        sessions.end("gone", Holder(1), Ended::Away);
        sessions.settle(nobody).await;
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
        sessions.write("p", by(1), 0, value("x"), RECOVERY).await.unwrap();
        sessions.store.remove(&SessionKey::of("p"), Holder(1)).await.unwrap();
        assert!(displaced(&sessions).await.is_empty());
        assert!(sessions.read("p").await.unwrap().is_some());
    }
}
