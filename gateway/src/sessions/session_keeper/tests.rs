//! Tests how sessions are stored, and for how long.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::sessions::memory::MemorySessions;

const RECOVERY: Duration = Duration::from_secs(60);

fn value(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn by(number: u32) -> SessionHolder {
    let key = ClientKey { worker: 0, index: number, generation: 1 };
    SessionHolder::new(Holder(number.into()), key)
}

async fn write(
    sessions: &SessionKeeper,
    pid: &str,
    by: &SessionHolder,
    version: u64,
    text: &'static str,
    recovery: Duration,
) -> Result<bool, BrokerError> {
    sessions.write(pid, by, (version, value(text)), recovery, || true).await
}

fn nobody(key: ClientKey) {
    panic!("nobody has lost anything, and {key:?} neither");
}

/// Makes all sessions due now.
fn set_all_due(sessions: &SessionKeeper) {
    let mut live = sessions.live.lock();
    let all: Vec<_> = live.held.keys().cloned().collect();
    all.iter().for_each(|holding| live.set_due(holding, Instant::now()));
}

async fn displaced(sessions: &SessionKeeper) -> Vec<u32> {
    set_all_due(sessions);
    let told = Mutex::new(Vec::new());
    sessions.settle(|key| told.lock().push(key.index)).await;
    told.into_inner()
}

#[tokio::test]
async fn one_connection_holds_a_session_and_what_it_wrote_before_is_not_newer() {
    let sessions = SessionKeeper::new(Arc::new(MemorySessions::default()));
    let (one, other) = (by(1), by(2));
    write(&sessions, "p", &one, 2, "new", RECOVERY).await.unwrap();
    write(&sessions, "p", &one, 1, "old", RECOVERY).await.unwrap();
    let read = sessions.read("p").await.unwrap().unwrap();
    assert_eq!((read.holder, &read.value[..]), (one.holder, &b"new"[..]));
    assert!(sessions.take("p", one.holder, &other, value("new"), RECOVERY).await.unwrap());
    assert!(!sessions.take("p", one.holder, &by(3), value("x"), RECOVERY).await.unwrap(), "one is too late");
    // The earlier connection is still there.
    let elsewhere = SessionKeeper { live: Mutex::default(), ..SessionKeeper::new(sessions.store.clone()) };
    assert!(!write(&elsewhere, "p", &one, 9, "stale", RECOVERY).await.unwrap(), "it is told so");
    assert_eq!(sessions.read("p").await.unwrap().unwrap().holder, other.holder);
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn who_took_a_session_keeps_it_whatever_the_one_before_still_writes_at_the_same_node() {
    let sessions = SessionKeeper::new(Arc::new(MemorySessions::default()));
    write(&sessions, "p", &by(1), 0, "x", RECOVERY).await.unwrap();
    assert!(sessions.take("p", Holder(1), &by(2), value("x"), RECOVERY).await.unwrap());
    assert!(!write(&sessions, "p", &by(1), 1, "late", RECOVERY).await.unwrap());
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
    let sessions = SessionKeeper::new(Arc::new(MemorySessions::default()));
    let elsewhere = SessionKeeper::new(sessions.store.clone());
    for pid in ["prolonged", "dirty", "away"] {
        write(&sessions, pid, &by(1), 0, "x", RECOVERY).await.unwrap();
        assert!(elsewhere.take(pid, Holder(1), &by(2), value("y"), RECOVERY).await.unwrap());
    }
    let dirty = (Holder(1), SessionKey::of("dirty"));
    sessions.live.lock().held.get_mut(&dirty).unwrap().dirty = true;
    sessions.end("away", Holder(1), HoldEnd::Away);
    assert_eq!(displaced(&sessions).await, [1, 1]);
    assert_eq!((displaced(&sessions).await, sessions.count()), (Vec::new(), 0));
    assert!(displaced(&elsewhere).await.is_empty());
}

#[tokio::test]
async fn who_leaves_for_good_has_no_session_and_who_is_lost_has_one_for_a_while() {
    let sessions = SessionKeeper::new(Arc::new(MemorySessions::default()));
    for pid in ["left", "lost"] {
        write(&sessions, pid, &by(1), 0, "x", RECOVERY).await.unwrap();
    }
    sessions.end("left", Holder(1), HoldEnd::ForGood);
    sessions.end("lost", Holder(1), HoldEnd::Away);
    sessions.end("lost", Holder(2), HoldEnd::ForGood);
    sessions.settle(nobody).await;
    assert_eq!(sessions.read("left").await.unwrap(), None);
    assert!(sessions.read("lost").await.unwrap().is_some());
    assert_eq!(sessions.count(), 0);
    let short = Duration::from_millis(1);
    write(&sessions, "gone", &by(1), 0, "x", short).await.unwrap();
    sessions.end("gone", Holder(1), HoldEnd::Away);
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
    let sessions = SessionKeeper::new(Arc::new(MemorySessions::default()));
    write(&sessions, "p", &by(1), 0, "x", RECOVERY).await.unwrap();
    sessions.store.remove(&SessionKey::of("p"), Holder(1)).await.unwrap();
    assert!(displaced(&sessions).await.is_empty());
    assert!(sessions.read("p").await.unwrap().is_some());
}

/// A store that works at once, except where a test holds it up.
#[derive(Debug)]
struct Slow {
    sessions: MemorySessions,
    written: tokio::sync::Notify,
    held_up: tokio::sync::Semaphore,
    holds_up_prolonging: bool,
}

impl Slow {
    fn new() -> Self {
        let held_up = tokio::sync::Semaphore::new(0);
        let (sessions, written) = (MemorySessions::default(), tokio::sync::Notify::default());
        Self { sessions, written, held_up, holds_up_prolonging: false }
    }

    /// Waits until the test lets the call go on.
    async fn hold_up(&self) {
        self.written.notify_one();
        self.held_up.acquire().await.expect("open").forget();
    }
}

impl SessionStore for Slow {
    fn write<'a>(
        &'a self,
        key: &'a SessionKey,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>> {
        async move {
            self.hold_up().await;
            self.sessions.write(key, stored, ttl).await
        }
        .boxed()
    }

    fn take<'a>(
        &'a self,
        key: &'a SessionKey,
        from: Holder,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>> {
        self.sessions.take(key, from, stored, ttl)
    }

    fn read<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<Option<StoredSession>, BrokerError>> {
        self.sessions.read(key)
    }

    fn prolong<'a>(
        &'a self,
        sessions: &'a [(SessionKey, Holder, Duration)],
    ) -> BoxFuture<'a, Result<Vec<RenewOutcome>, BrokerError>> {
        async move {
            if self.holds_up_prolonging {
                self.hold_up().await;
            }
            self.sessions.prolong(sessions).await
        }
        .boxed()
    }

    fn remove<'a>(&'a self, key: &'a SessionKey, holder: Holder) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.sessions.remove(key, holder)
    }
}

#[tokio::test]
async fn what_ends_while_it_is_written_is_removed_once_it_is_written() {
    let store = Arc::new(Slow::new());
    let sessions = SessionKeeper::new(store.clone());
    let one = by(1);
    let writing = write(&sessions, "p", &one, 0, "x", RECOVERY);
    let ending = async {
        store.written.notified().await;
        sessions.leave(&one, HoldEnd::ForGood);
        sessions.settle(nobody).await;
        store.held_up.add_permits(1);
    };
    let (written, ()) = tokio::join!(writing, ending);
    assert!(written.unwrap());
    assert!(sessions.read("p").await.unwrap().is_some(), "it came late");
    sessions.settle(nobody).await;
    assert_eq!((sessions.read("p").await.unwrap(), sessions.count()), (None, 0));
}

#[tokio::test]
async fn what_ends_for_good_while_it_is_prolonged_is_removed() {
    let store = Arc::new(Slow { holds_up_prolonging: true, ..Slow::new() });
    let sessions = SessionKeeper::new(store.clone());
    store.held_up.add_permits(1);
    write(&sessions, "p", &by(1), 0, "x", RECOVERY).await.unwrap();
    store.written.notified().await;
    set_all_due(&sessions);
    let ending = async {
        store.written.notified().await;
        sessions.end("p", Holder(1), HoldEnd::ForGood);
        store.held_up.add_permits(1);
    };
    tokio::join!(sessions.settle(nobody), ending);
    sessions.settle(nobody).await;
    assert_eq!((sessions.read("p").await.unwrap(), sessions.count()), (None, 0));
}

#[tokio::test]
async fn a_session_that_is_noted_after_its_connection_is_gone_is_over_too() {
    for (ended, is_there) in [(HoldEnd::ForGood, false), (HoldEnd::Away, true)] {
        let sessions = SessionKeeper::new(Arc::new(MemorySessions::default()));
        let (before, late) = (by(1), by(2));
        write(&sessions, "taken", &before, 0, "x", RECOVERY).await.unwrap();
        sessions.leave(&late, ended);
        assert!(sessions.take("taken", Holder(1), &late, value("x"), RECOVERY).await.unwrap());
        assert!(write(&sessions, "new", &late, 0, "x", RECOVERY).await.unwrap(), "nobody else has it");
        // The earlier connection finds the session taken.
        sessions.leave(&before, HoldEnd::Away);
        sessions.settle(nobody).await;
        assert_eq!(sessions.count(), 0, "nobody prolongs it");
        assert_eq!(sessions.read("taken").await.unwrap().is_some(), is_there);
        assert_eq!(sessions.read("new").await.unwrap(), None, "its client was never told its name");
    }
}

#[tokio::test]
async fn who_has_left_a_session_meanwhile_writes_nothing_of_it() {
    let sessions = SessionKeeper::new(Arc::new(MemorySessions::default()));
    let one = by(1);
    assert!(sessions.write("p", &one, (0, value("x")), RECOVERY, || false).await.unwrap());
    assert_eq!((sessions.read("p").await.unwrap(), sessions.count()), (None, 0));
}

#[tokio::test]
async fn a_connection_that_was_turned_back_may_take_its_session_up_again() {
    let sessions = SessionKeeper::new(Arc::new(MemorySessions::default()));
    let one = by(1);
    write(&sessions, "p", &one, 3, "x", RECOVERY).await.unwrap();
    assert!(!sessions.may_take_up("p", Holder(1)), "it is in it");
    sessions.end("p", Holder(1), HoldEnd::Away);
    assert!(sessions.may_take_up("p", Holder(1)));
    assert!(sessions.take("p", Holder(1), &one, value("y"), RECOVERY).await.unwrap());
    sessions.settle(nobody).await;
    assert_eq!(sessions.count(), 1, "it is prolonged again");
    sessions.end("p", Holder(1), HoldEnd::ForGood);
    assert!(!sessions.may_take_up("p", Holder(1)), "it has left for good");
    sessions.settle(nobody).await;
    assert_eq!(sessions.read("p").await.unwrap(), None);
}
