//! Sessions of several nodes, in JetStream: each is the last message of its subject, written by compare-and-set.
//!
//! Readers check the expiry in the message, because servers before 2.11 do not expire single messages.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::Instant;

use super::{Holder, RenewOutcome, SessionKey, SessionStore, StoredSession};
use crate::broker::BrokerError;
use crate::broker::measure::Operation;
use crate::broker::nats::NatsBroker;
use crate::broker::nats::moment::now;
use crate::broker::nats::nats_link::NatsLink;
use crate::broker::nats::nats_names::StreamKind;
use crate::broker::nats::stored::StoredMessage;

/// The most sessions that are prolonged concurrently.
const TOGETHER: usize = 64;

#[derive(Debug)]
pub struct NatsSessions(Arc<NatsBroker>);

/// The last message of a session's subject.
struct LastSession {
    sequence: u64,
    stored: Option<StoredSession>,
    /// The last holder of a session that has expired: by the clock of this node, which may be wrong.
    over: Option<Holder>,
}

/// What to do with a session.
enum SessionStep {
    Keep(StoredSession, Duration),
    /// Leave it as it is.
    Stay,
}

impl NatsSessions {
    pub fn new(broker: Arc<NatsBroker>) -> Self {
        Self(broker)
    }

    async fn find(&self, link: &NatsLink, subject: &str) -> Result<LastSession, BrokerError> {
        let last = self.0.last_message(link, StreamKind::Sessions, subject).await?;
        match last {
            Some(last) => read(&last, now()),
            None => Ok(LastSession { sequence: 0, stored: None, over: None }),
        }
    }

    /// Changes a session by compare-and-set: calls `decide` with the present state until no other write has come in between.
    async fn change<T>(
        &self,
        key: &SessionKey,
        decide: impl Fn(&LastSession) -> (SessionStep, T),
    ) -> Result<T, BrokerError> {
        let began = Instant::now();
        let (link, subject) = (self.0.link(), self.0.subject_of_session(key.as_str()));
        loop {
            let found = self.find(link, &subject).await?;
            let (step, outcome) = decide(&found);
            let is_done = match step {
                SessionStep::Stay => true,
                SessionStep::Keep(stored, ttl) => {
                    let payload = written(&stored, ttl);
                    let kind = StreamKind::Sessions;
                    self.0.keep_behind(kind, &subject, found.sequence, ttl, payload).await?
                }
            };
            if is_done {
                self.0.metrics().observe_round_trip(Operation::SessionWrite, began.elapsed());
                return Ok(outcome);
            }
            self.is_in_time(began)?;
        }
    }

    fn is_in_time(&self, began: Instant) -> Result<(), BrokerError> {
        let timeout = self.0.link().timeout();
        if began.elapsed() < timeout { Ok(()) } else { Err(BrokerError::Timeout(timeout)) }
    }

    async fn prolong_one(
        &self,
        key: &SessionKey,
        holder: Holder,
        ttl: Duration,
    ) -> Result<RenewOutcome, BrokerError> {
        self.change(key, |there| there.prolong(holder, ttl)).await
    }

    async fn prolong_by(
        &self,
        deadline: Instant,
        key: &SessionKey,
        holder: Holder,
        ttl: Duration,
    ) -> Result<RenewOutcome, BrokerError> {
        let prolonged = tokio::time::timeout_at(deadline, self.prolong_one(key, holder, ttl)).await;
        prolonged.unwrap_or_else(|_| Err(BrokerError::Timeout(self.0.link().timeout())))
    }

    async fn remove_one(&self, key: &SessionKey, holder: Holder) -> Result<(), BrokerError> {
        let began = Instant::now();
        let (link, subject) = (self.0.link(), self.0.subject_of_session(key.as_str()));
        loop {
            let found = self.find(link, &subject).await?;
            if found.stored.is_none_or(|stored| stored.holder != holder) {
                self.0.metrics().observe_round_trip(Operation::SessionWrite, began.elapsed());
                return Ok(());
            }
            // The loop reads again, because the same holder may have written another message meanwhile.
            self.is_in_time(began)?;
            self.0.delete_message(StreamKind::Sessions, found.sequence).await?;
        }
    }
}

impl SessionStore for NatsSessions {
    fn write<'a>(
        &'a self,
        key: &'a SessionKey,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>> {
        async move { self.change(key, |there| there.write(&stored, ttl)).await }.boxed()
    }

    fn take<'a>(
        &'a self,
        key: &'a SessionKey,
        from: Holder,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>> {
        async move {
            let take = |there: &LastSession| match &there.stored {
                Some(there) if there.holder == from => (SessionStep::Keep(stored.clone(), ttl), true),
                _ => (SessionStep::Stay, false),
            };
            self.change(key, take).await
        }
        .boxed()
    }

    fn read<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<Option<StoredSession>, BrokerError>> {
        async move {
            let began = Instant::now();
            let subject = self.0.subject_of_session(key.as_str());
            let found = self.find(self.0.link(), &subject).await?;
            self.0.metrics().observe_round_trip(Operation::SessionRead, began.elapsed());
            Ok(found.stored)
        }
        .boxed()
    }

    fn prolong<'a>(
        &'a self,
        sessions: &'a [(SessionKey, Holder, Duration)],
    ) -> BoxFuture<'a, Result<Vec<RenewOutcome>, BrokerError>> {
        // One deadline for all of them: sessions without a result by then are prolonged in the next round.
        let deadline = Instant::now() + self.0.link().timeout();
        let prolonging: Vec<_> =
            sessions.iter().map(|(key, holder, ttl)| self.prolong_by(deadline, key, *holder, *ttl)).collect();
        async move {
            let outcomes: Vec<_> = stream::iter(prolonging).buffered(TOGETHER).collect().await;
            if let (true, Some(Err(error))) = (outcomes.iter().all(Result::is_err), outcomes.first()) {
                return Err(error.clone());
            }
            Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or(RenewOutcome::Unknown)).collect())
        }
        .boxed()
    }

    fn remove<'a>(&'a self, key: &'a SessionKey, holder: Holder) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.remove_one(key, holder).boxed()
    }
}

/// Encodes a session: how long it is kept, in milliseconds, its holder, its version, and its value.
fn written(stored: &StoredSession, ttl: Duration) -> Bytes {
    let mut out = BytesMut::with_capacity(24 + stored.value.len());
    out.put_u64(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    out.put_u64(stored.holder.0);
    out.put_u64(stored.version);
    out.put_slice(&stored.value);
    out.freeze()
}

impl LastSession {
    /// A node whose clock is wrong may take a valid session for expired: while its message exists, it stays with its
    /// last holder.
    fn is_anothers(&self, holder: Holder) -> bool {
        let stored = self.stored.as_ref().map(|stored| stored.holder);
        stored.or(self.over).is_some_and(|there| there != holder)
    }

    fn write(&self, stored: &StoredSession, ttl: Duration) -> (SessionStep, bool) {
        if self.is_anothers(stored.holder) {
            return (SessionStep::Stay, false);
        }
        match &self.stored {
            Some(there) if there.version > stored.version => (SessionStep::Stay, true),
            _ => (SessionStep::Keep(stored.clone(), ttl), true),
        }
    }

    fn prolong(&self, holder: Holder, ttl: Duration) -> (SessionStep, RenewOutcome) {
        match &self.stored {
            _ if self.is_anothers(holder) => (SessionStep::Stay, RenewOutcome::Taken),
            Some(stored) => (SessionStep::Keep(stored.clone(), ttl), RenewOutcome::Prolonged),
            None => (SessionStep::Stay, RenewOutcome::Lost),
        }
    }
}

fn read(message: &StoredMessage, now: u64) -> Result<LastSession, BrokerError> {
    let mut payload = message.payload.clone();
    let mut number =
        || payload.try_get_u64().map_err(|_| BrokerError::Unexpected("a session cannot be read".into()));
    let (ttl, holder, version) = (number()?, number()?, number()?);
    let (is_over, holder) = (now >= message.written.saturating_add(ttl), Holder(holder));
    Ok(LastSession {
        sequence: message.sequence,
        stored: (!is_over).then_some(StoredSession { holder, version, value: payload }),
        over: is_over.then_some(holder),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_read_until_its_time_is_over_and_what_is_none_is_an_error() {
        let stored = StoredSession { holder: Holder(7), version: 3, value: Bytes::from_static(b"value") };
        let payload = written(&stored, Duration::from_millis(500));
        let message = StoredMessage { sequence: 1, written: 10_000, payload };
        assert_eq!(read(&message, 10_499).unwrap().stored, Some(stored));
        assert_eq!(read(&message, 10_500).unwrap().stored, None);
        let short = StoredMessage { payload: message.payload.slice(..23), ..message };
        assert!(read(&short, 0).is_err());
    }

    #[test]
    fn a_node_whose_clock_is_ahead_does_not_take_anothers_session_for_lost() {
        let ttl = Duration::from_secs(60);
        let of = |holder| StoredSession { holder: Holder(holder), version: 3, value: Bytes::new() };
        let message = StoredMessage { sequence: 1, written: 10_000, payload: written(&of(7), ttl) };
        // By a clock that is an hour ahead, and by one that is right.
        for now in [10_000 + 3_600_000, 10_001] {
            let there = read(&message, now).unwrap();
            assert!(matches!(there.prolong(Holder(8), ttl), (SessionStep::Stay, RenewOutcome::Taken)));
            assert!(matches!(there.write(&of(8), ttl), (SessionStep::Stay, false)));
            assert!(matches!(there.write(&of(7), ttl), (SessionStep::Keep(..), true)));
        }
        let own = read(&message, 10_000 + 3_600_000).unwrap();
        assert!(matches!(own.prolong(Holder(7), ttl), (SessionStep::Stay, RenewOutcome::Lost)));
    }
}
