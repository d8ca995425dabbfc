//! A Redis stream, read by one node at a time, through a consumer group with one consumer.
//!
//! The right to read is a lease: a key beside the stream, which the script of every read checks. A node that has lost
//! the lease receives nothing more. All nodes are the same consumer, so a node that takes over first reads the
//! unacknowledged records of the node before it.

mod redis_stream_config;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisError, Script, Value};

pub use self::redis_stream_config::{From, RedisStreamConfig};
use super::feed_config::FeedConfig;
use super::source::{
    Bounds, FeedRecord, FeedSource, FieldKey, Lag, RecordError, RecordFields, SettledRecord, SourceCheck,
    SourceError, SourceItem,
};
use crate::broker::redis::{DialError, PlainConnection, RedisConfig, RedisDialer};

/// How long the lease lasts from each renewal on.
const LEASE_TTL: Duration = Duration::from_secs(5);

/// How much longer than its timeout a blocking call may take.
const SLACK: Duration = Duration::from_secs(2);

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/take.lua")));
static SETTLE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/settle.lua")));
static LOOK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/look.lua")));
static LEAVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/leave.lua")));

/// The stream, and this node as its reader.
pub(super) struct RedisStream {
    dialer: RedisDialer,
    timeout: Duration,
    /// The value of the lease when this node has it.
    reader: String,
    stream: String,
    turn: String,
    dead_letters: String,
    settings: RedisStreamConfig,
    bounds: Bounds,
    /// The fields that are read, with their configured names.
    words: Vec<(FieldKey, Box<[u8]>)>,
    open: Option<RedisStreamConnections>,
}

/// Open connections.
struct RedisStreamConnections {
    calls: PlainConnection,
    /// A separate connection for blocking reads: a blocking call delays all calls behind it.
    waits: Option<PlainConnection>,
    /// The id behind which records are read again that were delivered before, until none is left.
    again: Option<String>,
    /// The last id that was delivered, as far as this node knows.
    last: Option<String>,
}

impl RedisStream {
    /// Creates the source. `node` is unique to this run of the node.
    pub(super) fn new(
        name: &str,
        feed: &FeedConfig,
        redis: &RedisConfig,
        node: &str,
    ) -> Result<Self, DialError> {
        let settings = feed.redis_stream.clone();
        let redis = settings.redis(redis);
        let dialer = RedisDialer::of_another(&redis, format!("{}:{node}:feed:{name}", redis.prefix))?;
        let words = feed.fields.names().map(|(word, name)| (word, name.as_bytes().into()));
        Ok(Self {
            dialer,
            timeout: redis.timeout(),
            reader: format!("{node}:{name}"),
            stream: settings.stream.clone(),
            turn: format!("{}:{}:turn", settings.stream, settings.group),
            dead_letters: settings.dead_letters(),
            settings,
            bounds: feed.bounds(),
            words: words.into(),
            open: None,
        })
    }

    async fn take_next(&mut self) -> Result<SourceItem, SourceError> {
        if self.open.is_none() {
            let calls = self.dialer.dial_plain().await.map_err(|error| self.unreachable(&error))?;
            self.open = Some(RedisStreamConnections {
                calls,
                waits: None,
                again: Some("0-0".to_owned()),
                last: None,
            });
        }
        loop {
            let after = self.open.as_ref().and_then(|open| open.again.clone());
            let mut call = TAKE.key(&self.stream);
            call.key(&self.turn).arg(&self.reader).arg(LEASE_TTL.as_millis() as u64);
            call.arg(&self.settings.group).arg(after.as_deref().unwrap_or(">"));
            let Bounds { records_max, bytes_max, record_bytes_max } = self.bounds;
            call.arg(records_max).arg(bytes_max).arg(record_bytes_max);
            let answer = match self.within(async |connection| call.invoke_async(connection).await).await {
                Err(RedisStreamError::Refused(error)) if error.code() == Some("NOGROUP") => {
                    self.make_group().await?;
                    continue;
                }
                answer => answer.map_err(|failed| self.lost(&failed))?,
            };
            if matches!(&answer, Value::Array(answer) if matches!(answer[..], [Value::Int(2)])) {
                if let Some(open) = &mut self.open {
                    open.again = Some("0-0".to_owned());
                }
                continue;
            }
            let given = self.given(answer).ok_or_else(|| self.lost(&RedisStreamError::Unexpected))?;
            let Some(open) = &mut self.open else { return Err(self.lost(&RedisStreamError::Unexpected)) };
            let Some(records) = given else {
                open.again = Some("0-0".to_owned());
                return Ok(SourceItem::NotOurs);
            };
            match (records.last(), after) {
                (Some(last), Some(_)) => open.again = Some(String::from(&*last.position)),
                (Some(last), None) => open.last = Some(String::from(&*last.position)),
                // All records that were delivered before are finished, so new ones are next.
                (None, Some(_)) => {
                    open.again = None;
                    continue;
                }
                (None, None) => {}
            }
            return Ok(SourceItem::Records(records));
        }
    }

    /// Parses the records of an answer. The inner `None`: another node has the lease.
    fn given(&self, answer: Value) -> Option<Option<Vec<FeedRecord>>> {
        let Value::Array(answer) = answer else { return None };
        let mut answer = answer.into_iter();
        match answer.next()? {
            Value::Int(0) => Some(None),
            Value::Int(1) => answer.map(|record| self.record(record)).collect::<Option<Vec<_>>>().map(Some),
            _ => None,
        }
    }

    fn record(&self, record: Value) -> Option<FeedRecord> {
        let Value::Array(record) = record else { return None };
        let mut record = record.into_iter();
        let position = String::from_redis_value(record.next()?).ok()?.into_boxed_str();
        let fields = match record.next() {
            None => Err(RecordError::Gone),
            Some(Value::Int(bytes)) => {
                let bytes = u64::try_from(bytes).unwrap_or(0);
                Err(RecordError::TooLong { bytes, max: self.bounds.record_bytes_max })
            }
            Some(Value::Array(parts)) => {
                let mut fields = RecordFields::default();
                let mut parts = parts.into_iter();
                while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                    let (Value::BulkString(name), Value::BulkString(value)) = (name, value) else {
                        return None;
                    };
                    if let Some((word, _)) = self.words.iter().find(|(_, known)| **known == *name) {
                        fields.set(*word, Bytes::from(value));
                    }
                }
                Ok(fields)
            }
            Some(_) => return None,
        };
        Some(FeedRecord { position, fields })
    }

    async fn make_group(&mut self) -> Result<(), SourceError> {
        let from = match self.settings.from {
            From::Beginning => "0",
            From::End => "$",
        };
        let mut make = redis::cmd("XGROUP");
        make.arg("CREATE").arg(&self.stream).arg(&self.settings.group).arg(from).arg("MKSTREAM");
        match self.within(async |connection| make.query_async::<Value>(connection).await).await {
            Ok(_) => {
                let (stream, group) = (&self.stream, &self.settings.group);
                tracing::info!(stream, group, from, "the consumer group did not exist and is created");
                Ok(())
            }
            // Another node has created the group first.
            Err(RedisStreamError::Refused(error)) if error.code() == Some("BUSYGROUP") => Ok(()),
            Err(failed) => Err(self.lost(&failed)),
        }
    }

    async fn settle_records(&mut self, settled: Vec<SettledRecord>) -> Result<(), SourceError> {
        let (dead, done): (Vec<_>, Vec<_>) = settled.into_iter().partition(|one| one.dead.is_some());
        let mut call = SETTLE.key(&self.stream);
        call.key(&self.dead_letters).arg(&self.settings.group).arg(self.settings.dead_letters_max);
        call.arg(u8::from(self.settings.delete)).arg(done.len());
        for SettledRecord { position, .. } in &done {
            call.arg(&**position);
        }
        for SettledRecord { position, dead } in &dead {
            call.arg(&**position).arg(dead.as_deref().unwrap_or_default());
        }
        let settled = self.within(async |connection| call.invoke_async::<Value>(connection).await).await;
        settled.map(drop).map_err(|failed| self.lost(&failed))
    }

    async fn look_at(&mut self) -> Result<SourceCheck, SourceError> {
        let mut call = LOOK.key(&self.stream);
        call.key(&self.turn).arg(&self.reader).arg(LEASE_TTL.as_millis() as u64).arg(&self.settings.group);
        let answer = self.within(async |connection| call.invoke_async::<Value>(connection).await).await;
        let answer = answer.map_err(|failed| self.lost(&failed))?;
        let not_ours = matches!(&answer, Value::Array(parts) if parts[..] == [Value::Int(0)]);
        let Some(open) = &mut self.open else { return Ok(SourceCheck::NotOurs) };
        if not_ours {
            open.again = Some("0-0".to_owned());
            return Ok(SourceCheck::NotOurs);
        }
        let Ok((_, last, behind, age)) = <(i64, String, i64, i64)>::from_redis_value(answer) else {
            return Err(self.lost(&RedisStreamError::Unexpected));
        };
        open.last = Some(last);
        let oldest = u64::try_from(age).ok().map(Duration::from_millis);
        Ok(SourceCheck::Ours(Lag { records: u64::try_from(behind).ok(), oldest }))
    }

    async fn wait_for_more(&mut self, at_most: Duration) -> Result<(), SourceError> {
        let dialer = &self.dialer;
        let Some(open) = &mut self.open else { return Ok(()) };
        let Some(last) = open.last.clone() else { return Ok(()) };
        if open.waits.is_none() {
            match dialer.dial_plain().await {
                Ok(plain) => open.waits = Some(plain),
                Err(error) => return Err(self.unreachable(&error)),
            }
        }
        let Some(waits) = &open.waits else { return Ok(()) };
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(1).arg("BLOCK").arg(at_most.as_millis() as u64);
        read.arg("STREAMS").arg(&self.stream).arg(last);
        let call = async |connection: &mut MultiplexedConnection| read.query_async::<Value>(connection).await;
        let waited = within(dialer, waits, at_most + SLACK, call).await;
        waited.map(drop).map_err(|failed| self.lost(&failed))
    }

    async fn give_back(&mut self) {
        if self.open.is_none() {
            return;
        }
        let mut call = LEAVE.key(&self.turn);
        call.arg(&self.reader);
        let left = self.within(async |connection| call.invoke_async::<Value>(connection).await).await;
        if let Err(error) = left {
            tracing::debug!(
                error = error.describe(),
                "the lease on a stream could not be given back; it expires by itself"
            );
        }
        self.open = None;
    }

    /// Runs a call within the timeout.
    async fn within<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, RedisStreamError> {
        let Some(open) = &self.open else { return Err(RedisStreamError::Unexpected) };
        within(&self.dialer, &open.calls, self.timeout, call).await
    }

    /// Drops the connections after any failure. The next call connects again, and begins with the unfinished records.
    fn lost(&mut self, failed: &RedisStreamError) -> SourceError {
        self.open = None;
        SourceError(format!("stream {} at {}: {}", self.stream, self.dialer.place(), failed.describe()))
    }

    fn unreachable(&self, error: &DialError) -> SourceError {
        SourceError(format!("{}: {error}", self.dialer.place()))
    }
}

/// Runs a call within this time, for as long as the server is the one to use.
async fn within<T>(
    dialer: &RedisDialer,
    open: &PlainConnection,
    time: Duration,
    call: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
) -> Result<T, RedisStreamError> {
    let mut connection = open.connection.clone();
    tokio::select! {
        // Polled first, because a server that is no longer the master answers as before.
        biased;
        another = dialer.moved_from(open) => Err(RedisStreamError::Moved(another)),
        answer = tokio::time::timeout(time, call(&mut connection)) => match answer {
            Ok(answer) => answer.map_err(RedisStreamError::Refused),
            Err(_) => Err(RedisStreamError::Late(time)),
        },
    }
}

/// Why a call has failed.
enum RedisStreamError {
    Refused(RedisError),
    Late(Duration),
    /// Another server is the one to use now. This one may have carried out the call.
    Moved(Arc<str>),
    Unexpected,
}

impl RedisStreamError {
    fn describe(&self) -> String {
        match self {
            Self::Refused(error) => error.to_string(),
            Self::Late(timeout) => format!("no answer within {} ms", timeout.as_millis()),
            Self::Moved(another) => another.to_string(),
            Self::Unexpected => "it answers something unexpected".to_owned(),
        }
    }
}

impl FeedSource for RedisStream {
    fn take(&mut self) -> BoxFuture<'_, Result<SourceItem, SourceError>> {
        self.take_next().boxed()
    }

    fn settle(&mut self, settled: Vec<SettledRecord>) -> BoxFuture<'_, Result<(), SourceError>> {
        self.settle_records(settled).boxed()
    }

    fn look(&mut self) -> BoxFuture<'_, Result<SourceCheck, SourceError>> {
        self.look_at().boxed()
    }

    fn wait(&mut self, at_most: Duration) -> BoxFuture<'_, Result<(), SourceError>> {
        self.wait_for_more(at_most).boxed()
    }

    fn leave(&mut self) -> BoxFuture<'_, ()> {
        self.give_back().boxed()
    }
}

impl std::fmt::Debug for RedisStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStream").field("stream", &self.stream).finish_non_exhaustive()
    }
}
