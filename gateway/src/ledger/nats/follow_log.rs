//! Follows the log of a ledger: reads it from its last base (a snapshot of the ledger), and then on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::ledger_message::{LedgerBase, LedgerMessage, LedgerOp};
use super::replica::{LedgerReplica, OpOutcome};
use super::seen_turns::SeenTurns;
use crate::broker::BrokerError;
use crate::broker::nats::NatsBroker;
use crate::broker::nats::fetch_messages::FetchedMessage;
use crate::broker::nats::ledger_log::LedgerLog;
use crate::broker::nats::stored::StoredMessage;

/// The number of messages that are read one by one. A node that is further behind reads all the others in one batch.
const SINGLES_MAX: u32 = 4;
/// How often a log is read again from its beginning because other nodes compact it meanwhile.
const ATTEMPTS_MAX: u32 = 10;
/// The pause after another node has just begun the same log, or compacted it.
const BEATEN_PAUSE: Duration = Duration::from_millis(5);
/// The cost of reading a message beside its bytes, in bytes.
const MESSAGE_BYTES: usize = 256;
/// The most bytes of operations that are kept while the log is compacted.
const TAIL_BYTES_MAX: usize = 16 << 20;

/// A ledger, as far as this node has read its log.
#[derive(Debug, Default)]
pub(super) struct FollowedLedger {
    /// The incarnation of the stream that was read; `None`: nothing was read.
    pub(super) life: Option<Arc<str>>,
    pub(super) replica: LedgerReplica,
    /// The sequence of the last message that was read.
    pub(super) applied: u64,
    /// The cost, in bytes, of reading the messages behind the last base, and of reading that base.
    pub(super) log_bytes: usize,
    pub(super) base_bytes: usize,
    /// While this node compacts the log: the operations since it encoded the table.
    pub(super) tail: Option<LedgerTail>,
    /// The incarnation of the stream in which each holder of this node has begun, until the holder is over.
    pub(super) begun: HashMap<Box<str>, Arc<str>>,
    pub(super) turns: SeenTurns,
}

/// The operations since the table was encoded, with their times.
#[derive(Debug, Default)]
pub(super) struct LedgerTail {
    pub(super) ops: Vec<(u64, Bytes)>,
    pub(super) bytes: usize,
}

/// A ledger that this node has locked.
pub(super) struct OpenLedger {
    pub(super) log: LedgerLog,
    pub(super) followed: OwnedMutexGuard<FollowedLedger>,
    pub(super) deadline: Instant,
}

/// An operation of this node in the log, and the most news that it asks for.
#[derive(Clone, Copy)]
pub(super) struct AddedOp<'a> {
    pub(super) sequence: u64,
    pub(super) op: &'a LedgerOp,
    pub(super) limit: usize,
}

/// Reads logs. Has no state of its own.
#[derive(Clone, Debug)]
pub(super) struct LogFollower {
    pub(super) broker: Arc<NatsBroker>,
}

impl FollowedLedger {
    fn note_op(&mut self, stored: &StoredMessage) {
        self.log_bytes += log_bytes(stored.payload.len());
        if let Some(tail) = &mut self.tail {
            tail.bytes += stored.payload.len();
            tail.ops.push((stored.written, stored.payload.clone()));
            if tail.bytes > TAIL_BYTES_MAX {
                self.tail = None;
            }
        }
    }

    /// Accounts for a new base, which covers everything so far and costs `base_bytes` to read.
    pub(super) fn rest_on(&mut self, sequence: u64, base_bytes: usize) {
        (self.applied, self.log_bytes, self.base_bytes, self.tail) = (sequence, 0, base_bytes, None);
    }
}

impl LogFollower {
    /// Reads the log from its last base, and begins the log where there is none.
    pub(super) async fn read_whole(&self, open: &mut OpenLedger) -> Result<(), BrokerError> {
        (open.followed.life, open.followed.tail) = (None, None);
        let mut outcome = Err(BrokerError::Unexpected("the log of a ledger is begun again and again".into()));
        for _ in 0..ATTEMPTS_MAX {
            self.is_in_time(open)?;
            let mut all = self.broker.whole_log(&open.log).await?;
            // Reading this much must not make the call time out: each further batch came in time.
            open.deadline = Instant::now() + self.broker.link().timeout();
            let Some(begin) = all.iter().rposition(|one| LedgerMessage::is_base(&one.payload)) else {
                if all.iter().any(|one| LedgerMessage::decode(one.payload.clone()).is_none()) {
                    // The log may have been written by a newer release.
                    return Err(self.unreadable());
                }
                // The log is empty, or its base was removed: the messages that are left mean nothing without it.
                let last = all.last().map_or(0, |last| last.sequence);
                // An empty base covers none of them, so no node that has read them goes on from it.
                let base = LedgerBase::default();
                if self.broker.replace_log(&open.log, last, base.encode()).await?.is_none() {
                    tokio::time::sleep(BEATEN_PAUSE).await;
                }
                continue;
            };
            open.followed.applied = 0;
            outcome = self.take_all(open, all.drain(begin..), None).await.map(drop);
            if outcome.is_ok() {
                open.followed.life = Some(open.log.life().clone());
                break;
            }
            // The log may have been compacted meanwhile.
            tokio::time::sleep(BEATEN_PAUSE).await;
        }
        outcome
    }

    async fn take_all(
        &self,
        open: &mut OpenLedger,
        all: impl Iterator<Item = FetchedMessage> + Send,
        added: Option<AddedOp<'_>>,
    ) -> Result<Option<OpOutcome>, BrokerError> {
        let mut outcome = None;
        for FetchedMessage { sequence, written, payload, .. } in all {
            let taken = self.take(open, StoredMessage { sequence, written, payload }, added).await?;
            outcome = outcome.or(taken);
        }
        Ok(outcome)
    }

    /// Applies the next message of the log. Returns the outcome of the operation `added`, if it is known now.
    async fn take(
        &self,
        open: &mut OpenLedger,
        stored: StoredMessage,
        added: Option<AddedOp<'_>>,
    ) -> Result<Option<OpOutcome>, BrokerError> {
        // Reveals a stream whose sequences have gone back.
        open.log.saw(stored.sequence);
        match LedgerMessage::decode(stored.payload.clone()).ok_or_else(|| self.unreadable())? {
            LedgerMessage::Op(op) => {
                let added = added.filter(|added| added.sequence == stored.sequence);
                let followed = &mut *open.followed;
                let outcome =
                    followed.replica.apply(op, stored.written, added.map_or(0, |added| added.limit));
                followed.applied = stored.sequence;
                followed.note_op(&stored);
                Ok(added.map(|_| outcome))
            }
            LedgerMessage::Base(base) => {
                let is_behind = base.covers != open.followed.applied || open.followed.applied == 0;
                if is_behind {
                    // This node has not read everything that the base covers.
                    open.followed.replica = self.put_back(open, &base).await?;
                }
                let added = added
                    .filter(|added| (open.followed.applied + 1..stored.sequence).contains(&added.sequence));
                let bytes = usize::try_from(base.bytes).unwrap_or(usize::MAX);
                let followed = &mut *open.followed;
                followed.rest_on(stored.sequence, bytes);
                Ok(added.map(|added| followed.replica.came_of(added.op, added.limit)))
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

    /// Reads on, to the operation `added`, or to the present end of the log.
    pub(super) async fn read_on(
        &self,
        open: &mut OpenLedger,
        added: Option<AddedOp<'_>>,
    ) -> Result<Option<OpOutcome>, BrokerError> {
        let read = self.read_to(open, added).await;
        if read.as_ref().is_err_and(|error| !matches!(error, BrokerError::Timeout(_))) {
            // A replica that could not follow the log is not to be trusted.
            open.followed.life = None;
        }
        read
    }

    async fn read_to(
        &self,
        open: &mut OpenLedger,
        added: Option<AddedOp<'_>>,
    ) -> Result<Option<OpOutcome>, BrokerError> {
        loop {
            for _ in 0..SINGLES_MAX {
                self.is_in_time(open)?;
                let next = self.broker.next_in_log(&open.log, open.followed.applied + 1).await?;
                let lost = || BrokerError::Unanswered("the operation is not in the log any more".into());
                let Some(stored) = next else {
                    return if added.is_none() { Ok(None) } else { Err(lost()) };
                };
                let outcome = self.take(open, stored, added).await?;
                if outcome.is_some() {
                    return Ok(outcome);
                }
                if added.is_some_and(|added| added.sequence <= open.followed.applied) {
                    return Err(lost());
                }
            }
            self.is_in_time(open)?;
            let all = match self.broker.log_from(&open.log, open.followed.applied + 1).await {
                Ok(all) => all,
                // The ephemeral consumer is lost with its leader, the log is not: the next read finds the message, or
                // why there is none.
                Err(BrokerError::Refused { .. } | BrokerError::Unanswered(_)) => {
                    tokio::time::sleep(BEATEN_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let outcome = self.take_all(open, all.into_iter(), added).await?;
            if outcome.is_some() || added.is_none() {
                return Ok(outcome);
            }
        }
    }

    pub(super) fn is_in_time(&self, open: &OpenLedger) -> Result<(), BrokerError> {
        match Instant::now() < open.deadline {
            true => Ok(()),
            false => Err(BrokerError::Timeout(self.broker.link().timeout())),
        }
    }

    pub(super) fn unreadable(&self) -> BrokerError {
        self.broker.metrics().undecodable.increment();
        BrokerError::Unexpected("the log of a ledger cannot be read".into())
    }
}

/// Returns the cost of reading a message of this length in the log.
pub(super) fn log_bytes(length: usize) -> usize {
    length + MESSAGE_BYTES
}
