//! Sessions of several nodes, in Redis: a string each, which Redis expires by itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redis::{Cmd, Pipeline, Value};

use super::{Holder, RenewOutcome, SessionKey, SessionStore, StoredSession};
use crate::broker::BrokerError;
use crate::broker::measure::Operation;
use crate::broker::redis::RedisBroker;
use crate::broker::redis::redis_link::OpenLink;
use crate::broker::redis::script::Script;

static WRITE: Script = Script::new(include_str!("scripts/write.lua"));
static REMOVE: Script = Script::new(include_str!("scripts/remove.lua"));

/// The digits of a holder, and of the version behind it.
const DIGITS: usize = 16;

#[derive(Debug)]
pub struct RedisSessions(Arc<RedisBroker>);

impl RedisSessions {
    pub fn new(broker: Arc<RedisBroker>) -> Self {
        Self(broker)
    }

    fn key(&self, key: &SessionKey) -> String {
        self.0.keys().session(key.as_str())
    }

    async fn put(
        &self,
        key: &SessionKey,
        from: Option<Holder>,
        stored: StoredSession,
        ttl: Duration,
    ) -> Result<bool, BrokerError> {
        let key = self.key(key);
        let fill = |command: &mut Cmd, _: &OpenLink| {
            command.arg(1).arg(&key).arg(digits(from.unwrap_or(stored.holder).0));
            command.arg(u8::from(from.is_some())).arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
            command.arg(digits(stored.holder.0)).arg(digits(stored.version)).arg(&stored.value[..]);
        };
        match self.0.link().eval(Operation::SessionWrite, &WRITE, &key, fill).await? {
            Value::Int(done) => Ok(done == 1),
            _ => Err(unexpected()),
        }
    }
}

impl SessionStore for RedisSessions {
    fn write<'a>(
        &'a self,
        key: &'a SessionKey,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>> {
        self.put(key, None, stored, ttl).boxed()
    }

    fn take<'a>(
        &'a self,
        key: &'a SessionKey,
        from: Holder,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>> {
        self.put(key, Some(from), stored, ttl).boxed()
    }

    fn read<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<Option<StoredSession>, BrokerError>> {
        async move {
            let command = redis::cmd("GET").arg(self.key(key)).to_owned();
            match self.0.link().call(Operation::SessionRead, &command).await? {
                Value::Nil => Ok(None),
                Value::BulkString(written) => read(written.into()).map(Some).ok_or_else(unexpected),
                _ => Err(unexpected()),
            }
        }
        .boxed()
    }

    fn prolong<'a>(
        &'a self,
        sessions: &'a [(SessionKey, Holder, Duration)],
    ) -> BoxFuture<'a, Result<Vec<RenewOutcome>, BrokerError>> {
        async move {
            // A session that another holder has got meanwhile may be shortened a little by this. That holder prolongs
            // it in time.
            let mut pipeline = Pipeline::with_capacity(2 * sessions.len());
            for (key, _, ttl) in sessions {
                let (key, millis) = (self.key(key), u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
                pipeline.cmd("PEXPIRE").arg(&key).arg(millis);
                pipeline.cmd("GETRANGE").arg(key).arg(0).arg(DIGITS - 1);
            }
            let answers = self.0.link().call_each(Operation::SessionWrite, &pipeline).await;
            if let (true, Some(Err(error))) = (answers.iter().all(Result::is_err), answers.first()) {
                return Err(error.clone());
            }
            let states = answers.chunks(2).zip(sessions).map(|(answers, (_, holder, _))| match answers {
                [Ok(Value::Int(1)), Ok(Value::BulkString(there))]
                    if *there == digits(holder.0).as_bytes() =>
                {
                    RenewOutcome::Prolonged
                }
                [Ok(Value::Int(1)), Ok(_)] => RenewOutcome::Taken,
                // An unreachable master among several does not keep sessions on the others from being prolonged.
                [Err(_), _] | [_, Err(_)] => RenewOutcome::Unknown,
                _ => RenewOutcome::Lost,
            });
            Ok(states.collect())
        }
        .boxed()
    }

    fn remove<'a>(&'a self, key: &'a SessionKey, holder: Holder) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move {
            let key = self.key(key);
            let fill = |command: &mut Cmd, _: &OpenLink| {
                command.arg(1).arg(&key).arg(digits(holder.0));
            };
            self.0.link().eval(Operation::SessionWrite, &REMOVE, &key, fill).await.map(drop)
        }
        .boxed()
    }
}

fn digits(number: u64) -> String {
    format!("{number:016x}")
}

fn read(written: Bytes) -> Option<StoredSession> {
    let number = |at: usize| {
        let digits = std::str::from_utf8(written.get(at..at + DIGITS)?).ok()?;
        u64::from_str_radix(digits, 16).ok()
    };
    let (holder, version) = (Holder(number(0)?), number(DIGITS)?);
    Some(StoredSession { holder, version, value: written.slice(2 * DIGITS..) })
}

fn unexpected() -> BrokerError {
    BrokerError::Unexpected("a session cannot be read".into())
}
