//! The ledgers of several nodes, in JetStream: each ledger is a log of operations, from which every node that uses it
//! builds the same table.
//!
//! The outcome of an operation follows from the messages before it in the log and from the time at which the server
//! stored it, so one message is one atomic step, whatever it changes. From time to time a node compacts the log: it
//! replaces it by a snapshot.

mod follow_log;
mod ledger_message;
mod replica;
mod seen_turns;
mod shorten_log;

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

use self::follow_log::{AddedOp, FollowedLedger, LogFollower, OpenLedger};
use self::ledger_message::{LedgerMessage, LedgerOp};
use self::replica::{LedgerReplica, OpOutcome};
use self::shorten_log::LogShortener;
use super::{HoldOutcome, Ledger, LedgerQuery};
use crate::broker::measure::Operation;
use crate::broker::nats::{NatsBroker, NatsConfig};
use crate::broker::{BrokerError, BrokerRefusal};

/// Describes a message of a ledger's log, encodes it again, and returns the lines of its table if it is a complete
/// base: for [`crate::readers`].
pub(crate) fn read_message_in_words(bytes: Bytes) -> Option<(String, Bytes, Option<Vec<String>>)> {
    let message = LedgerMessage::decode(bytes)?;
    let text = format!("{message:?}");
    Some(match message {
        LedgerMessage::Op(op) => (text, op.encode(), None),
        LedgerMessage::Base(base) => {
            let mut replica = LedgerReplica::at(base.time);
            let table = replica.put_back(base.rows.clone()).map(|()| replica.lines());
            (text, base.encode(), table)
        }
    })
}

/// The overhead of a message of changes, in bytes: the names of holders are short.
const HEAD_BYTES: usize = 1_024;
/// The overhead of a change beside its text, in bytes.
const CHANGE_BYTES: usize = 16;
/// The most entries of dead holders that are freed in one step.
const FREED_MAX: u64 = 5_000;

#[derive(Debug)]
pub struct NatsLedger {
    broker: Arc<NatsBroker>,
    lease: Duration,
    ledgers: Mutex<HashMap<Box<str>, Arc<tokio::sync::Mutex<FollowedLedger>>>>,
    /// Numbers the operations of this node's holders, in order.
    number: AtomicU64,
    follower: LogFollower,
    shortener: LogShortener,
}

impl NatsLedger {
    pub fn new(config: &NatsConfig, broker: Arc<NatsBroker>) -> Self {
        let follower = LogFollower { broker: broker.clone() };
        Self {
            broker,
            lease: config.presence_ttl(),
            ledgers: Mutex::default(),
            number: AtomicU64::new(1),
            shortener: LogShortener::new(follower.clone()),
            follower,
        }
    }

    /// Locks the ledger, and reads it whole if this node has not read the present incarnation of the stream.
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
            self.follower.read_whole(&mut open).await?;
        }
        Ok(open)
    }

    /// Adds an operation to the log, and returns its outcome.
    async fn perform(
        &self,
        open: &mut OpenLedger,
        op: &LedgerOp,
        limit: usize,
    ) -> Result<OpOutcome, BrokerError> {
        let payload = op.encode();
        let length = payload.len();
        // An operation that is past its deadline is not added: its caller would repeat it.
        self.follower.is_in_time(open)?;
        let sequence = self.broker.add_to_log(&open.log, payload).await?;
        if sequence <= open.followed.applied {
            // This sequence was assigned before: the stream has gone back, and this node's state belongs to a lost incarnation.
            open.followed.life = None;
            self.broker.went_back(&open.log, open.followed.applied);
            return Err(BrokerError::Unanswered(
                "the stream of ledgers has gone back to an earlier state".into(),
            ));
        }
        // The deadline is renewed, because the outcome must be known however long adding the operation took.
        open.deadline = Instant::now() + self.broker.link().timeout();
        let outcome = self.follower.read_on(open, Some(AddedOp { sequence, op, limit })).await?;
        let outcome = outcome.ok_or_else(|| self.follower.unreadable())?;
        if shorten_log::is_due(&open.followed, follow_log::log_bytes(length)) {
            let followed = OwnedMutexGuard::mutex(&open.followed).clone();
            self.shortener.begin(open.log.ledger(), open.log.clone(), followed);
        }
        Ok(outcome)
    }

    async fn change_all(
        &self,
        ledger: &str,
        holder: &str,
        changes: &[LedgerChange],
        room: LedgerCapacity,
    ) -> Result<HoldOutcome, BrokerError> {
        let mut open = self.open(ledger).await?;
        if let Some(long) = changes.iter().find(|change| !self.fits(change)) {
            // Checked before any of the changes is applied.
            let (bytes, most) = (long.bytes(), self.broker.payload_max());
            let text =
                format!("a change of {bytes} bytes exceeds the maximum size of a NATS message ({most})");
            return Err(BrokerError::Refused { kind: BrokerRefusal::Other, text: text.into() });
        }
        if open.followed.begun.get(holder) != Some(open.log.life()) {
            return Ok(open.note(holder, HoldOutcome::Over));
        }
        let mut left = changes;
        loop {
            let count = self.together(left).max(1).min(left.len());
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

    /// Returns how many of these changes fit into one message. 0: the first is too long for any.
    fn together(&self, changes: &[LedgerChange]) -> usize {
        let bytes_max = self.changes_bytes_max();
        let mut bytes = 0;
        let fits = |change: &&LedgerChange| {
            bytes += change.bytes() + CHANGE_BYTES;
            bytes <= bytes_max
        };
        changes.iter().take_while(fits).count()
    }

    fn fits(&self, change: &LedgerChange) -> bool {
        change.bytes() + CHANGE_BYTES <= self.changes_bytes_max()
    }

    fn changes_bytes_max(&self) -> usize {
        self.broker.payload_max().saturating_sub(HEAD_BYTES)
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
            // The holder's entries were lost with an earlier incarnation of the stream.
            Some(_) => return Ok(open.note(holder, HoldOutcome::Over)),
            None => true,
        };
        let number = self.next_number();
        let op = LedgerOp::Prolong {
            holder: holder.into(),
            number,
            room,
            lease_ms: millis(lease),
            begins,
            freed_max: FREED_MAX,
        };
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
        self.follower.read_on(&mut open, None).await?;
        let lease_ms = millis(lease);
        let FollowedLedger { replica, turns, .. } = &mut *open.followed;
        if let Some((other, until)) = replica.turn(reader) {
            let left = turns.left(reader, (other, until), replica.time(), Instant::now());
            if other != by && !left.is_zero() {
                return Ok(None);
            }
            // No message is needed while half of the lease is left and there is nothing to acknowledge.
            if other == by
                && let Some(page) = replica.page(reader, limit)
                && (lease / 2..=lease).contains(&left)
                && !left.is_zero()
                && done.is_none_or(|done| done.from != page.from || done.until == page.from)
            {
                return Ok(Some(page));
            }
        }
        let readers = readers.iter().map(|reader| (*reader).into()).collect();
        let op = LedgerOp::Read { reader: reader.into(), by: by.into(), lease_ms, done, readers };
        match self.perform(&mut open, &op, limit).await? {
            OpOutcome::Page(page) => Ok(page),
            OpOutcome::Held(_) => Err(self.follower.unreadable()),
        }
    }

    /// Returns this node's table after reading all of the log, one line for each row: the same on every node.
    pub async fn table(&self, ledger: &str) -> Result<Vec<String>, BrokerError> {
        let mut open = self.open(ledger).await?;
        self.follower.read_on(&mut open, None).await?;
        Ok(open.followed.replica.lines())
    }

    /// Called under the lock of the ledger, so that operations are sent in the order of their numbers.
    fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
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
    /// Records the outcome. A holder that is over is forgotten, because its node starts over under another name.
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

    fn fits_in_a_step(&self, changes: &[LedgerChange]) -> usize {
        self.together(changes)
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
        OpOutcome::Page(_) => {
            Err(BrokerError::Unexpected("a ledger returned news that nobody had requested".into()))
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
