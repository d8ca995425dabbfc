//! The ledgers of several nodes, in JetStream: a log of everything that is done to a ledger, from which each node that uses it makes the
//! same table.
//!
//! What becomes of something that is done follows from what stands before it in the log and from when the server wrote it, so
//! that one message is one step, whatever it changes. From time to time one node puts what came of all of it in place of the log.

mod ledger_message;
mod replica;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gateway_core::ledger::{LedgerCapacity, LedgerChange, LedgerPage};
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use self::ledger_message::{LedgerBase, LedgerMessage, LedgerOp};
use self::replica::{LedgerReplica, OpOutcome};
use super::{HoldOutcome, Ledger, LedgerQuery};
use crate::broker::BrokerError;
use crate::broker::measure::Operation;
use crate::broker::nats::fetch_messages::FetchedMessage;
use crate::broker::nats::ledger_log::LedgerLog;
use crate::broker::nats::moment::now;
use crate::broker::nats::stored::StoredMessage;
use crate::broker::nats::{NatsBroker, NatsConfig};
use crate::telemetry::Sparingly;

/// After so many messages, or bytes of them, what came of them is put in their place.
const LOG_MESSAGES: u64 = 1_000;
const LOG_BYTES: usize = 4 << 20;
/// How long a message is of those that tell what came of the log, in bytes.
const CHUNK_BYTES: usize = 128 << 10;
/// What a message of changes has beside them, in bytes: the names of holders are short.
const HEAD_BYTES: usize = 1_024;
/// What a change costs beside its text, in bytes.
const CHANGE_BYTES: usize = 16;
/// Times a log is read from its beginning that others make shorter meanwhile.
const ATTEMPTS_MAX: u32 = 10;
/// How long it is waited when another node has just begun the same log, or made it shorter.
const BEATEN_PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub struct NatsLedger {
    broker: Arc<NatsBroker>,
    lease: Duration,
    ledgers: Mutex<HashMap<Box<str>, Arc<tokio::sync::Mutex<FollowedLedger>>>>,
    /// Numbers what holders of this node do, in its order.
    number: AtomicU64,
    unshortened_told: Sparingly,
}

/// A ledger, as far as this node has read its log.
#[derive(Debug, Default)]
struct FollowedLedger {
    /// In which life of the stream; `None`: nothing was read.
    life: Option<Arc<str>>,
    replica: LedgerReplica,
    /// The last message that was read.
    applied: u64,
    /// What came behind the last base: messages and bytes of them.
    messages: u64,
    bytes: usize,
    /// In which life each holder of this node has begun, until it is over.
    begun: HashMap<Box<str>, Arc<str>>,
}

/// A ledger that nobody else of this node uses meanwhile.
struct OpenLedger {
    log: LedgerLog,
    followed: OwnedMutexGuard<FollowedLedger>,
    deadline: Instant,
}

impl NatsLedger {
    pub fn new(config: &NatsConfig, broker: Arc<NatsBroker>) -> Self {
        Self {
            broker,
            lease: config.presence_ttl(),
            ledgers: Mutex::default(),
            number: AtomicU64::new(1),
            unshortened_told: Sparingly::default(),
        }
    }

    /// The ledger in the life that the stream is in, read whole once.
    async fn open(&self, ledger: &str) -> Result<OpenLedger, BrokerError> {
        let timeout = self.broker.link().timeout();
        let deadline = Instant::now() + timeout;
        let followed = match self.ledgers.lock().entry(ledger.into()) {
            std::collections::hash_map::Entry::Occupied(known) => known.get().clone(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(Arc::default()).clone(),
        };
        let followed = tokio::time::timeout_at(deadline, followed.lock_owned()).await;
        let followed = followed.map_err(|_| BrokerError::Timeout(timeout))?;
        let log = self.broker.ledger_log(ledger).await?;
        let mut open = OpenLedger { log, followed, deadline };
        if open.followed.life.as_ref() != Some(open.log.life()) {
            self.read_whole(&mut open).await?;
        }
        Ok(open)
    }

    /// Reads the log from its beginning; begins it where there is none.
    async fn read_whole(&self, open: &mut OpenLedger) -> Result<(), BrokerError> {
        open.followed.life = None;
        let mut outcome = Err(BrokerError::Unexpected("the log of a ledger is begun again and again".into()));
        for _ in 0..ATTEMPTS_MAX {
            self.is_in_time(open)?;
            let all = self.broker.whole_log(&open.log).await?;
            let first = all.first().map(|first| LedgerMessage::decode(first.payload.clone()));
            if first.as_ref().is_some_and(Option::is_none) {
                // It may be that of a newer release.
                return Err(self.unreadable());
            }
            if !matches!(first, Some(Some(LedgerMessage::Base(_)))) {
                // There is nothing, or somebody has taken away what it began with: what is left says nothing by itself.
                let last = all.last().map_or(0, |last| last.sequence);
                // It stands for nothing of that, so that nobody who has read it goes on.
                let base = LedgerBase { covers: 0, time: 0, part: "".into(), parts: 0, rows: Bytes::new() };
                if self.broker.replace_log(&open.log, last, base.encode()).await?.is_none() {
                    tokio::time::sleep(BEATEN_PAUSE).await;
                }
                continue;
            }
            outcome = self.take_all(open, all).await;
            if outcome.is_ok() {
                open.followed.life = Some(open.log.life().clone());
                break;
            }
            // What came of the log may have been put in its place meanwhile.
            tokio::time::sleep(BEATEN_PAUSE).await;
        }
        outcome
    }

    async fn take_all(&self, open: &mut OpenLedger, all: Vec<FetchedMessage>) -> Result<(), BrokerError> {
        open.followed.applied = 0;
        for FetchedMessage { sequence, written, payload, .. } in all {
            self.take(open, &StoredMessage { sequence, written, payload }, 0).await?;
        }
        Ok(())
    }

    /// Takes note of the next message of the log. Answers what came of it, if anything was done.
    async fn take(
        &self,
        open: &mut OpenLedger,
        stored: &StoredMessage,
        limit: usize,
    ) -> Result<Option<OpOutcome>, BrokerError> {
        match LedgerMessage::decode(stored.payload.clone()).ok_or_else(|| self.unreadable())? {
            LedgerMessage::Op(op) => {
                let followed = &mut *open.followed;
                let outcome = followed.replica.apply(op, stored.written, limit);
                followed.applied = stored.sequence;
                followed.messages += 1;
                followed.bytes += stored.payload.len();
                Ok(Some(outcome))
            }
            LedgerMessage::Base(base) => {
                if base.covers != open.followed.applied || open.followed.applied == 0 {
                    // This node was behind what it stands for.
                    open.followed.replica = self.put_back(open, &base).await?;
                }
                let followed = &mut *open.followed;
                (followed.applied, followed.messages, followed.bytes) = (stored.sequence, 0, 0);
                Ok(None)
            }
        }
    }

    async fn put_back(&self, open: &OpenLedger, base: &LedgerBase) -> Result<LedgerReplica, BrokerError> {
        let mut replica = LedgerReplica::at(base.time);
        if base.parts > 0 {
            let parts = self.broker.ledger_part(&open.log, &base.part).await?;
            if parts.len() as u64 != base.parts {
                return Err(BrokerError::Unexpected("a ledger was written anew while it was read".into()));
            }
            for part in parts {
                replica.put_back(part.payload).ok_or_else(|| self.unreadable())?;
            }
        }
        replica.put_back(base.rows.clone()).ok_or_else(|| self.unreadable())?;
        Ok(replica)
    }

    /// Reads on, to this message or to the end. Answers what came of that one.
    async fn read_on(
        &self,
        open: &mut OpenLedger,
        until: Option<u64>,
        limit: usize,
    ) -> Result<Option<OpOutcome>, BrokerError> {
        loop {
            self.is_in_time(open)?;
            let next = self.broker.next_in_log(&open.log, open.followed.applied + 1).await?;
            let Some(stored) = next.filter(|next| until.is_none_or(|until| next.sequence <= until)) else {
                return match until {
                    None => Ok(None),
                    Some(_) => {
                        Err(BrokerError::Unanswered("what was done is not in the log any more".into()))
                    }
                };
            };
            let is_asked = until == Some(stored.sequence);
            let taken = self.take(open, &stored, if is_asked { limit } else { 0 }).await;
            if taken.is_err() {
                // Of something that cannot be put back nothing is believed.
                open.followed.life = None;
            }
            let outcome = taken?;
            if is_asked {
                return Ok(outcome);
            }
        }
    }

    /// Does something, and answers what came of it.
    async fn perform(
        &self,
        open: &mut OpenLedger,
        op: &LedgerOp,
        limit: usize,
    ) -> Result<OpOutcome, BrokerError> {
        let payload = op.encode();
        let length = payload.len();
        let sequence = self.broker.add_to_log(&open.log, payload).await?;
        let outcome = self.read_on(open, Some(sequence), limit).await?;
        let outcome = outcome.ok_or_else(|| self.unreadable())?;
        self.shorten(open, length).await;
        Ok(outcome)
    }

    /// Puts what came of the log in its place, if it is long and the last message, of this length and this node, made it so: one node does it.
    async fn shorten(&self, open: &mut OpenLedger, length: usize) {
        let FollowedLedger { messages, bytes, .. } = *open.followed;
        let has_grown = bytes / LOG_BYTES > bytes.saturating_sub(length) / LOG_BYTES;
        if !has_grown && !messages.is_multiple_of(LOG_MESSAGES) {
            return;
        }
        if let Err(error) = self.replace(open).await
            && let Some(untold) = self.unshortened_told.now()
        {
            tracing::warn!(%error, untold, "the log of a ledger could not be made shorter; it is tried again when it is longer");
        }
    }

    async fn replace(&self, open: &mut OpenLedger) -> Result<(), BrokerError> {
        let covers = open.followed.applied;
        let mut chunks = open.followed.replica.write_down(CHUNK_BYTES.min(self.broker.payload_max() / 2));
        let rows = chunks.pop().unwrap_or_default();
        let name = |covers: u64, random: u32| format!("at-{covers}-{random:08x}");
        let part: Box<str> = name(covers, rand::random()).into();
        let parts = chunks.len() as u64;
        for chunk in chunks {
            self.broker.add_ledger_part(&open.log, &part, chunk).await?;
        }
        let time = open.followed.replica.time();
        let base = LedgerBase { covers, time, part: part.clone(), parts, rows };
        let replaced = self.broker.replace_log(&open.log, covers, base.encode()).await?;
        if let Some(sequence) = replaced {
            let followed = &mut *open.followed;
            (followed.applied, followed.messages, followed.bytes) = (sequence, 0, 0);
        }
        // Those that others write at this moment stand for more.
        let is_old = |other: &str| {
            let stands_for = other.split('-').nth(1).and_then(|covers| covers.parse::<u64>().ok());
            let is_before = stands_for.is_some_and(|stands_for| stands_for < covers);
            if replaced.is_some() { is_before } else { *other == *part }
        };
        self.broker.drop_ledger_parts(&open.log, is_old).await
    }

    async fn change_all(
        &self,
        ledger: &str,
        holder: &str,
        changes: &[LedgerChange],
        room: LedgerCapacity,
    ) -> Result<HoldOutcome, BrokerError> {
        let mut open = self.open(ledger).await?;
        if open.followed.begun.get(holder) != Some(open.log.life()) {
            return Ok(open.note(holder, HoldOutcome::Over));
        }
        let mut left = changes;
        loop {
            let count = self.together(left);
            let (some, others) = left.split_at(count);
            let (holder, changes, number) = (holder.into(), some.to_vec(), self.next_number());
            let op = LedgerOp::Change { holder, number, room, changes };
            let changed = held(self.perform(&mut open, &op, 0).await?)?;
            if changed == HoldOutcome::Over || others.is_empty() {
                let LedgerOp::Change { holder, .. } = op else { return Ok(changed) };
                return Ok(open.note(&holder, changed));
            }
            left = others;
        }
    }

    /// How many changes go as one message.
    fn together(&self, changes: &[LedgerChange]) -> usize {
        let bytes_max = self.broker.payload_max().saturating_sub(HEAD_BYTES);
        let mut bytes = 0;
        let fits = |change: &&LedgerChange| {
            bytes += change.bytes() + CHANGE_BYTES;
            bytes <= bytes_max
        };
        changes.iter().take_while(fits).count().max(1).min(changes.len())
    }

    async fn prolong_one(
        &self,
        ledger: &str,
        holder: &str,
        lease: Duration,
        room: LedgerCapacity,
    ) -> Result<HoldOutcome, BrokerError> {
        let mut open = self.open(ledger).await?;
        let begins = match open.followed.begun.get(holder) {
            Some(life) if life == open.log.life() => false,
            // What it held was lost with another life.
            Some(_) => return Ok(open.note(holder, HoldOutcome::Over)),
            None => true,
        };
        let number = self.next_number();
        let op = LedgerOp::Prolong { holder: holder.into(), number, room, lease_ms: millis(lease), begins };
        let prolonged = held(self.perform(&mut open, &op, 0).await?)?;
        if begins && prolonged != HoldOutcome::Over {
            let life = open.log.life().clone();
            open.followed.begun.insert(holder.into(), life);
        }
        Ok(open.note(holder, prolonged))
    }

    async fn read_next(&self, query: LedgerQuery<'_>) -> Result<Option<LedgerPage>, BrokerError> {
        let LedgerQuery { ledger, reader, readers, by, lease, done, limit } = query;
        let mut open = self.open(ledger).await?;
        self.read_on(&mut open, None, 0).await?;
        let (now, lease_ms) = (now(), millis(lease));
        match open.followed.replica.turn(reader) {
            Some((other, until)) if other != by && until > now => return Ok(None),
            // Nothing has to be written down while half of the lease is left and nothing was done with.
            Some((other, until)) if other == by => {
                let left = until.saturating_sub(now);
                if let Some(page) = open.followed.replica.page(reader, limit)
                    && (lease_ms / 2..=lease_ms).contains(&left)
                    && left > 0
                    && done.is_none_or(|done| done.from != page.from || done.until == page.from)
                {
                    return Ok(Some(page));
                }
            }
            _ => {}
        }
        let readers = readers.iter().map(|reader| (*reader).into()).collect();
        let op = LedgerOp::Read { reader: reader.into(), by: by.into(), lease_ms, done, readers };
        match self.perform(&mut open, &op, limit).await? {
            OpOutcome::Page(page) => Ok(page),
            OpOutcome::Held(_) => Err(self.unreadable()),
        }
    }

    /// Under the lock of the ledger: what is sent first has the lower number.
    fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    fn is_in_time(&self, open: &OpenLedger) -> Result<(), BrokerError> {
        match Instant::now() < open.deadline {
            true => Ok(()),
            false => Err(BrokerError::Timeout(self.broker.link().timeout())),
        }
    }

    fn unreadable(&self) -> BrokerError {
        self.broker.metrics().undecodable.increment();
        BrokerError::Unexpected("the log of a ledger cannot be read".into())
    }

    async fn measured<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        let began = Instant::now();
        let outcome = call.await?;
        self.broker.metrics().observe_round_trip(operation, began.elapsed());
        Ok(outcome)
    }
}

impl OpenLedger {
    /// What is over is not asked about again: whoever held it has another name by then.
    fn note(&mut self, holder: &str, held: HoldOutcome) -> HoldOutcome {
        if held == HoldOutcome::Over {
            self.followed.begun.remove(holder);
        }
        held
    }
}

impl Ledger for NatsLedger {
    fn change<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        changes: &'a [LedgerChange],
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<HoldOutcome, BrokerError>> {
        self.measured(Operation::LedgerWrite, self.change_all(ledger, holder, changes, room)).boxed()
    }

    fn prolong<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        lease: Duration,
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<HoldOutcome, BrokerError>> {
        self.measured(Operation::LedgerWrite, self.prolong_one(ledger, holder, lease, room)).boxed()
    }

    fn retire<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        after: Duration,
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.prolong(ledger, holder, after, room).map(|retired| retired.map(|_| ())).boxed()
    }

    fn read<'a>(
        &'a self,
        reading: LedgerQuery<'a>,
    ) -> BoxFuture<'a, Result<Option<LedgerPage>, BrokerError>> {
        self.measured(Operation::LedgerRead, self.read_next(reading)).boxed()
    }

    fn outlives_node(&self) -> bool {
        true
    }

    fn lease(&self) -> Duration {
        self.lease
    }
}

fn held(outcome: OpOutcome) -> Result<HoldOutcome, BrokerError> {
    match outcome {
        OpOutcome::Held(held) => Ok(held),
        OpOutcome::Page(_) => Err(BrokerError::Unexpected("a ledger gave news to who asked for none".into())),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
