//! Tests stored sessions that clients resume: one connection holds each, until it expires.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tidegate::sessions::{Holder, RenewOutcome, SessionKey, StoredSession};

use crate::harness::{Backend, Node, eventually};

pub const LONG: Duration = Duration::from_secs(60);
/// A lifetime that is long enough to read the session, and short enough to wait for its end.
pub const SHORT: Duration = Duration::from_millis(100);

pub fn stored(holder: u64, version: u64, value: &str) -> StoredSession {
    StoredSession { holder: Holder(holder), version, value: Bytes::copy_from_slice(value.as_bytes()) }
}

impl Node {
    /// Writes a session, as soon as the store is reachable.
    pub async fn begin_session(&self, key: &SessionKey, session: StoredSession) {
        eventually("the session is written", async || {
            matches!(self.sessions.write(key, session.clone(), LONG).await, Ok(true))
        })
        .await;
    }

    pub async fn session(&self, key: &SessionKey) -> Option<StoredSession> {
        self.sessions.read(key).await.expect("read")
    }

    pub async fn prolong_for(&self, key: &SessionKey, holder: u64, ttl: Duration) -> RenewOutcome {
        let outcomes = self.sessions.prolong(&[(key.clone(), Holder(holder), ttl)]).await;
        outcomes.expect("an answer")[0]
    }
}

pub async fn a_session_is_its_holders_and_what_is_older_is_not_written_over_what_is_newer<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let key = SessionKey::of("a");
    node.begin_session(&key, stored(1, 2, "two")).await;
    assert!(node.sessions.write(&key, stored(1, 1, "one"), LONG).await.expect("an answer"));
    assert_eq!(node.session(&key).await, Some(stored(1, 2, "two")), "it is newer");
    assert!(!node.sessions.write(&key, stored(2, 9, "nine"), LONG).await.expect("an answer"));
    assert!(
        !node.sessions.take(&key, Holder(3), stored(2, 0, "x"), LONG).await.expect("an answer"),
        "3 has not got it"
    );
    assert_eq!(node.session(&key).await, Some(stored(1, 2, "two")));
    assert!(node.sessions.take(&key, Holder(1), stored(2, 0, ""), LONG).await.expect("an answer"));
    assert_eq!(node.session(&key).await, Some(stored(2, 0, "")));
    assert!(!node.sessions.write(&key, stored(1, 3, "three"), LONG).await.expect("an answer"));
    assert!(node.sessions.write(&key, stored(2, 1, "\0é\n"), LONG).await.expect("an answer"));
    assert_eq!(node.session(&key).await, Some(stored(2, 1, "\0é\n")));
    assert_eq!(node.session(&SessionKey::of("b")).await, None);
    let of_nobody = node.sessions.take(&SessionKey::of("b"), Holder(1), stored(2, 0, "x"), LONG).await;
    assert!(!of_nobody.expect("an answer"));
}

pub async fn of_all_who_take_a_session_at_once_one_has_it<B: Backend>() {
    let backend = B::new();
    let nodes = [backend.node()];
    take_at_once(&nodes).await;
}

/// Lets several holders take over a session at once, ten times.
pub async fn take_at_once(nodes: &[Node]) {
    for turn in 0..10 {
        let key = SessionKey::of(&format!("turn {turn}"));
        nodes[0].begin_session(&key, stored(0, 5, "first")).await;
        let takers = (1..=8_u64).map(|holder| {
            let (node, key) = (&nodes[holder as usize % nodes.len()], &key);
            async move {
                node.sessions.take(key, Holder(0), stored(holder, 0, "next"), LONG).await.expect("an answer")
            }
        });
        let taken = join_all(takers).await;
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 1, "{taken:?}");
        let holder = taken.iter().position(|taken| *taken).map(|at| at as u64 + 1).expect("one");
        assert_eq!(nodes[0].session(&key).await, Some(stored(holder, 0, "next")));
    }
}

pub async fn a_session_is_kept_until_its_time_is_over_and_prolonged_by_its_holder_alone<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let [key, quick] = ["kept", "quick"].map(SessionKey::of);
    for key in [&key, &quick] {
        node.begin_session(key, stored(1, 0, "x")).await;
        assert!(
            node.sessions.write(key, stored(1, 1, "x"), Duration::from_secs(2)).await.expect("an answer")
        );
    }
    assert_eq!(node.prolong_for(&key, 1, LONG).await, RenewOutcome::Prolonged);
    assert_eq!(node.prolong_for(&quick, 1, SHORT).await, RenewOutcome::Prolonged);
    eventually("its time is over", async || node.session(&quick).await.is_none()).await;
    assert_eq!(node.prolong_for(&quick, 1, LONG).await, RenewOutcome::Lost);
    assert_eq!(node.session(&quick).await, None, "what is lost is not made again by that");
    assert_eq!(node.session(&key).await, Some(stored(1, 1, "x")), "it was prolonged");
    assert_eq!(node.prolong_for(&key, 2, LONG).await, RenewOutcome::Taken);
    assert!(
        !node.sessions.take(&quick, Holder(1), stored(2, 0, "y"), LONG).await.expect("an answer"),
        "nobody can come back to it"
    );
    assert!(node.sessions.write(&quick, stored(1, 0, "y"), LONG).await.expect("an answer"));
    assert_eq!(node.session(&quick).await, Some(stored(1, 0, "y")), "of what is over no version counts");
    let all =
        [(key.clone(), Holder(1), LONG), (quick, Holder(1), LONG), (SessionKey::of("no"), Holder(1), LONG)];
    let outcomes = node.sessions.prolong(&all).await.expect("an answer");
    assert_eq!(outcomes, [RenewOutcome::Prolonged, RenewOutcome::Prolonged, RenewOutcome::Lost]);
}

pub async fn a_session_that_is_removed_is_gone_and_only_its_holder_removes_it<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let key = SessionKey::of("a");
    node.begin_session(&key, stored(1, 0, "x")).await;
    node.sessions.remove(&key, Holder(2)).await.expect("an answer");
    assert_eq!(node.session(&key).await, Some(stored(1, 0, "x")));
    node.sessions.remove(&key, Holder(1)).await.expect("an answer");
    assert_eq!(node.session(&key).await, None);
    node.sessions.remove(&key, Holder(1)).await.expect("that it is gone is no fault");
    assert!(node.sessions.write(&key, stored(2, 0, "y"), LONG).await.expect("an answer"));
    assert_eq!(node.session(&key).await, Some(stored(2, 0, "y")));
}

pub async fn what_is_written_and_prolonged_at_once_ends_with_the_newest_and_its_holder<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let key = SessionKey::of("a");
    node.begin_session(&key, stored(1, 0, "0")).await;
    for round in 0..5_u64 {
        let versions = (1..=8).map(|number| round * 8 + number);
        let steps = versions.map(|version| {
            let (node, key) = (&node, &key);
            async move {
                let wrote = node.sessions.write(key, stored(1, version, &version.to_string()), LONG).await;
                assert!(wrote.expect("an answer"));
                assert_eq!(node.prolong_for(key, 1, LONG).await, RenewOutcome::Prolonged);
            }
        });
        join_all(steps).await;
        let newest = (round + 1) * 8;
        assert_eq!(node.session(&key).await, Some(stored(1, newest, &newest.to_string())));
    }
}

pub async fn a_session_is_the_same_from_every_node_and_outlives_the_one_that_wrote_it<B: Backend>() {
    let backend = B::new();
    let nodes = [backend.node(), backend.node(), backend.node()];
    take_at_once(&nodes).await;
    let [doomed, next, last] = nodes;
    let key = SessionKey::of("a");
    doomed.begin_session(&key, stored(1, 3, "x")).await;
    drop(doomed);
    assert_eq!(next.session(&key).await, Some(stored(1, 3, "x")));
    assert!(next.sessions.take(&key, Holder(1), stored(2, 0, "y"), LONG).await.expect("an answer"));
    assert_eq!(last.prolong_for(&key, 1, LONG).await, RenewOutcome::Taken);
    assert_eq!(last.session(&key).await, Some(stored(2, 0, "y")));
}
