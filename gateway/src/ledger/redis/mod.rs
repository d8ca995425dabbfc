//! The ledgers of several nodes, in Redis: each change and its news are one step of a script.
//!
//! A ledger has a sorted set of what each holder holds, a hash with the number of holders of each entry, and its news.
//! All keys of a ledger carry its name as their hash tag. The name of a holder is valid for one generation of the data
//! set: a node that meets another generation, or finds its lease gone, begins anew under a new name, and the entries of
//! the old name are freed when its lease has expired.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gateway_core::ledger::{LedgerCapacity, LedgerChange, LedgerEvent, LedgerPage};
use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, Value};

use super::{HoldOutcome, Ledger, LedgerQuery};
use crate::broker::BrokerError;
use crate::broker::measure::Operation;
use crate::broker::redis::redis_link::OpenLink;
use crate::broker::redis::script::Script;
use crate::broker::redis::{RedisBroker, RedisConfig, ServerGeneration};

/// A script of ledgers, with the functions that all of them share.
macro_rules! of_ledgers {
    ($file:literal) => {
        Script::new(concat!(include_str!("scripts/ledger.lua"), include_str!($file)))
    };
}

static CHANGE: Script = of_ledgers!("scripts/change.lua");
static PROLONG: Script = of_ledgers!("scripts/prolong.lua");
static READ: Script = of_ledgers!("scripts/read.lua");

/// The most entries of dead holders that are freed in one step.
const FREED_MAX: usize = 500;
/// How long a ledger is kept that no node uses.
const UNUSED_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A ledger, and one of its holders.
type LedgerHolder = (Box<str>, Box<str>);

#[derive(Debug)]
pub struct RedisLedger {
    broker: Arc<RedisBroker>,
    lease: Duration,
    /// The generation of Redis in which each holder of each ledger has begun, until the holder is over.
    begun: Mutex<HashMap<LedgerHolder, ServerGeneration>>,
}

impl RedisLedger {
    pub fn new(config: &RedisConfig, broker: Arc<RedisBroker>) -> Self {
        Self { broker, lease: config.presence_ttl(), begun: Mutex::default() }
    }

    /// Whether this holder has begun in the present generation of Redis. `None`: it has not begun.
    fn is_sound(&self, ledger: &str, holder: &str) -> Result<Option<bool>, BrokerError> {
        let [key, ..] = self.keys(ledger);
        let now = self.broker.generation_of(&key)?;
        Ok(self.begun.lock().get(&(ledger.into(), holder.into())).map(|generation| *generation == now))
    }

    /// Records the outcome. A holder that is over is forgotten, because its node starts over under another name.
    fn note(&self, ledger: &str, holder: &str, held: HoldOutcome) -> HoldOutcome {
        if held == HoldOutcome::Over {
            self.begun.lock().remove(&(ledger.into(), holder.into()));
        }
        held
    }

    fn keys(&self, ledger: &str) -> [String; 6] {
        self.broker.keys().ledger(ledger)
    }

    async fn change_all(
        &self,
        ledger: &str,
        holder: &str,
        changes: &[LedgerChange],
        room: LedgerCapacity,
    ) -> Result<HoldOutcome, BrokerError> {
        if self.is_sound(ledger, holder)? != Some(true) {
            return Ok(self.note(ledger, holder, HoldOutcome::Over));
        }
        let keys = self.keys(ledger);
        let fill = |command: &mut Cmd, _: &OpenLink| {
            command.arg(keys.len()).arg(&keys).arg(room.news_max).arg(room.bytes_max).arg(holder);
            for change in changes {
                let (letter, text) = change.written();
                command.arg(letter).arg(text);
            }
        };
        let changed = held(&self.broker.link().eval(Operation::LedgerWrite, &CHANGE, &keys[0], fill).await?)?;
        Ok(self.note(ledger, holder, changed))
    }

    async fn prolong_one(
        &self,
        ledger: &str,
        holder: &str,
        lease: Duration,
        room: LedgerCapacity,
    ) -> Result<HoldOutcome, BrokerError> {
        let begins = match self.is_sound(ledger, holder)? {
            Some(true) => false,
            Some(false) => return Ok(self.note(ledger, holder, HoldOutcome::Over)),
            None => true,
        };
        let keys = self.keys(ledger);
        let generation = self.broker.generation_of(&keys[0])?;
        let fill = |command: &mut Cmd, _: &OpenLink| {
            command.arg(keys.len()).arg(&keys).arg(room.news_max).arg(room.bytes_max).arg(holder);
            command.arg(millis(lease)).arg(u8::from(begins)).arg(FREED_MAX).arg(millis(UNUSED_TTL));
        };
        let prolonged =
            held(&self.broker.link().eval(Operation::LedgerWrite, &PROLONG, &keys[0], fill).await?)?;
        if begins && prolonged != HoldOutcome::Over {
            self.begun.lock().insert((ledger.into(), holder.into()), generation);
        }
        Ok(self.note(ledger, holder, prolonged))
    }

    async fn read_on(&self, reading: LedgerQuery<'_>) -> Result<Option<LedgerPage>, BrokerError> {
        let LedgerQuery { ledger, reader, readers, by, lease, done, limit } = reading;
        let keys = self.keys(ledger);
        let done = done.map(|done| [done.from, done.until].map(|number| number.to_string()));
        let [from, until] = done.unwrap_or_default();
        let fill = |command: &mut Cmd, _: &OpenLink| {
            command.arg(keys.len()).arg(&keys).arg(0).arg(0).arg(reader).arg(by).arg(millis(lease));
            command.arg(&from).arg(&until).arg(limit).arg(readers);
        };
        // On the connection for reads: news can be long, and short commands should not have to wait behind them.
        let answer = self.broker.reads().eval(Operation::LedgerRead, &READ, &keys[0], fill).await?;
        let Value::Array(parts) = answer else { return Err(unexpected()) };
        if parts.len() == 1 {
            return Ok(None);
        }
        let Ok([_, before, at, news]) = <[Value; 4]>::try_from(parts) else { return Err(unexpected()) };
        let before = String::from_redis_value(before).map_err(|_| unexpected())?;
        let at: u64 = u64::from_redis_value(at).map_err(|_| unexpected())?;
        let written = Vec::<Vec<u8>>::from_redis_value(news).map_err(|_| unexpected())?;
        let mut page = LedgerPage { from: at, ..LedgerPage::default() };
        for entry in &written {
            page.news.push(read_entry(entry).ok_or_else(unexpected)?);
        }
        if let (false, Some((first, _))) = (before.is_empty(), page.news.first()) {
            page.dropped = first.saturating_sub(at + 1);
        }
        Ok(Some(page))
    }
}

impl Ledger for RedisLedger {
    fn change<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        changes: &'a [LedgerChange],
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<HoldOutcome, BrokerError>> {
        self.change_all(ledger, holder, changes, room).boxed()
    }

    fn prolong<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        lease: Duration,
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<HoldOutcome, BrokerError>> {
        self.prolong_one(ledger, holder, lease, room).boxed()
    }

    fn retire<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        after: Duration,
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move { self.prolong_one(ledger, holder, after, room).await.map(|_| ()) }.boxed()
    }

    fn read<'a>(
        &'a self,
        reading: LedgerQuery<'a>,
    ) -> BoxFuture<'a, Result<Option<LedgerPage>, BrokerError>> {
        self.read_on(reading).boxed()
    }

    fn outlives_node(&self) -> bool {
        true
    }

    fn lease(&self) -> Duration {
        self.lease
    }
}

/// Parses an entry: a number, a colon, and the event.
fn read_entry(entry: &[u8]) -> Option<(u64, LedgerEvent)> {
    let (number, news) = std::str::from_utf8(entry).ok()?.split_once(':')?;
    Some((number.parse().ok()?, LedgerEvent::read(news)?))
}

fn held(answer: &Value) -> Result<HoldOutcome, BrokerError> {
    match answer {
        Value::Int(1) => Ok(HoldOutcome::Done),
        Value::Int(2) => Ok(HoldOutcome::Freeing),
        Value::Int(0) => Ok(HoldOutcome::Over),
        _ => Err(unexpected()),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unexpected() -> BrokerError {
    BrokerError::Unexpected("the scripts of a ledger gave something they should not".into())
}
