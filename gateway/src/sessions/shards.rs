//! Sessions over several servers: each session is on one of them, chosen by its key, wherever its channels are.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use super::{Holder, RenewOutcome, SessionKey, SessionStore, StoredSession};
use crate::broker::BrokerError;
use crate::broker::shards::{Shards, divide, restore};

#[derive(Debug)]
pub struct ShardedSessions(Shards<Arc<dyn SessionStore>>);

impl ShardedSessions {
    pub fn new(shards: Shards<Arc<dyn SessionStore>>) -> Self {
        Self(shards)
    }

    fn of(&self, key: &SessionKey) -> &dyn SessionStore {
        &**self.0.of(key.as_str())
    }
}

impl SessionStore for ShardedSessions {
    fn write<'a>(
        &'a self,
        key: &'a SessionKey,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>> {
        self.of(key).write(key, stored, ttl)
    }

    fn take<'a>(
        &'a self,
        key: &'a SessionKey,
        from: Holder,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>> {
        self.of(key).take(key, from, stored, ttl)
    }

    fn read<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<Option<StoredSession>, BrokerError>> {
        self.of(key).read(key)
    }

    /// Prolongs sessions on every server. Those on an unreachable server are [`RenewOutcome::Unknown`].
    fn prolong<'a>(
        &'a self,
        sessions: &'a [(SessionKey, Holder, Duration)],
    ) -> BoxFuture<'a, Result<Vec<RenewOutcome>, BrokerError>> {
        let place = |(key, ..): &(SessionKey, Holder, Duration)| self.0.place(key.as_str());
        let parts = divide(sessions.to_vec(), place, self.0.iter().len()).into_iter();
        let requests = parts.map(|(shard, places, its)| async move {
            let states = match self.0.get(shard) {
                Some(shard) => shard.prolong(&its).await.unwrap_or_default(),
                None => Vec::new(),
            };
            let unknown = std::iter::repeat(RenewOutcome::Unknown);
            let states: Vec<RenewOutcome> = states.into_iter().chain(unknown).take(its.len()).collect();
            (places, states)
        });
        let requests: Vec<_> = requests.collect();
        async move { Ok(restore(join_all(requests).await)) }.boxed()
    }

    fn remove<'a>(&'a self, key: &'a SessionKey, holder: Holder) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.of(key).remove(key, holder)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use gateway_core::placement::Placement;

    use super::*;
    use crate::sessions::memory::MemorySessions;

    /// An unreachable server.
    #[derive(Debug)]
    struct Away;

    impl SessionStore for Away {
        fn write<'a>(
            &'a self,
            _: &'a SessionKey,
            _: StoredSession,
            _: Duration,
        ) -> BoxFuture<'a, Result<bool, BrokerError>> {
            away()
        }

        fn take<'a>(
            &'a self,
            _: &'a SessionKey,
            _: Holder,
            _: StoredSession,
            _: Duration,
        ) -> BoxFuture<'a, Result<bool, BrokerError>> {
            away()
        }

        fn read<'a>(
            &'a self,
            _: &'a SessionKey,
        ) -> BoxFuture<'a, Result<Option<StoredSession>, BrokerError>> {
            away()
        }

        fn prolong<'a>(
            &'a self,
            _: &'a [(SessionKey, Holder, Duration)],
        ) -> BoxFuture<'a, Result<Vec<RenewOutcome>, BrokerError>> {
            away()
        }

        fn remove<'a>(&'a self, _: &'a SessionKey, _: Holder) -> BoxFuture<'a, Result<(), BrokerError>> {
            away()
        }
    }

    fn away<T: Send>() -> BoxFuture<'static, Result<T, BrokerError>> {
        async { Err(BrokerError::Unreachable("away".into())) }.boxed()
    }

    #[tokio::test]
    async fn sessions_of_a_server_that_is_away_keep_nobody_from_prolonging_others() {
        let placement = Placement::new(["r1", "r2"]);
        let names: Vec<String> = (0..20).map(|number| format!("s{number}")).collect();
        let sessions = ShardedSessions::new(Shards::new(
            placement,
            vec![Arc::new(MemorySessions::default()) as Arc<dyn SessionStore>, Arc::new(Away)],
        ));
        let (holder, ttl) = (Holder(1), Duration::from_secs(60));
        let mut there = Vec::new();
        for name in &names {
            let stored = StoredSession { holder, version: 0, value: Bytes::new() };
            there.push(sessions.write(&SessionKey::of(name), stored, ttl).await.is_ok());
        }
        assert!(there.contains(&true) && there.contains(&false), "{there:?}");
        let requests: Vec<_> = names.iter().map(|name| (SessionKey::of(name), holder, ttl)).collect();
        let states = sessions.prolong(&requests).await.unwrap();
        let expected: Vec<RenewOutcome> = there
            .iter()
            .map(|is_there| if *is_there { RenewOutcome::Prolonged } else { RenewOutcome::Unknown })
            .collect();
        assert_eq!(states, expected);
    }
}
