//! Compacts logs in the background: replaces a log by a snapshot. Operations that come meanwhile are appended to the snapshot.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::follow_log::{FollowedLedger, LedgerTail, LogFollower, OpenLedger};
use super::ledger_message::{LedgerBase, ReplicaRow};
use crate::broker::BrokerError;
use crate::broker::nats::ledger_log::LedgerLog;
use crate::telemetry::LogLimiter;

/// The log is compacted when the operations behind the base cost this many bytes and half of the base: writing a whole
/// table pays only after that many operations.
const LOG_BYTES: usize = 256 << 10;
const BASE_SHARE: usize = 2;
/// The size of the messages with the rows of a snapshot, in bytes.
const CHUNK_BYTES: usize = 128 << 10;
/// The timeout of a compaction, over all its writes.
const SHORTENING_MAX: Duration = Duration::from_secs(60);
/// The number of attempts at compare-and-set. Each is one round trip in which no other node may write.
const TRIES_MAX: u32 = 50;

/// Compacts logs, with at most one task for each ledger.
#[derive(Clone, Debug)]
pub(super) struct LogShortener {
    follower: LogFollower,
    busy: Arc<Mutex<HashSet<Box<str>>>>,
    unshortened_log: Arc<LogLimiter>,
}

/// Marks a ledger as being compacted, until dropped.
struct BusyLedger {
    busy: Arc<Mutex<HashSet<Box<str>>>>,
    ledger: Box<str>,
}

impl Drop for BusyLedger {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.ledger);
    }
}

/// Whether the log is due to be compacted by this node: the node whose own message crosses the threshold does it.
pub(super) fn is_due(followed: &FollowedLedger, own: usize) -> bool {
    let each = LOG_BYTES.max(followed.base_bytes / BASE_SHARE);
    followed.log_bytes / each > followed.log_bytes.saturating_sub(own) / each
}

impl LogShortener {
    pub(super) fn new(follower: LogFollower) -> Self {
        Self { follower, busy: Arc::default(), unshortened_log: Arc::default() }
    }

    /// Starts a compaction, unless this node is compacting the ledger already.
    pub(super) fn begin(
        &self,
        ledger: &str,
        log: LedgerLog,
        followed: Arc<tokio::sync::Mutex<FollowedLedger>>,
    ) {
        if !self.busy.lock().insert(ledger.into()) {
            return;
        }
        let (shortener, busy) = (self.clone(), BusyLedger { busy: self.busy.clone(), ledger: ledger.into() });
        tokio::spawn(async move {
            let shortening = shortener.shorten(&log, &followed);
            let done = match tokio::time::timeout(SHORTENING_MAX, shortening).await {
                Ok(done) => done,
                Err(_) => Err(BrokerError::Timeout(SHORTENING_MAX)),
            };
            followed.lock().await.tail = None;
            drop(busy);
            if let Err(error) = done {
                shortener.follower.broker.metrics().unshortened_ledgers.increment();
                if let Some(suppressed) = shortener.unshortened_log.admit() {
                    let ledger = log.ledger();
                    tracing::warn!(
                        %error, ledger, suppressed,
                        "the log of a ledger could not be shortened; the node tries again when the log is \
                         longer"
                    );
                }
            }
        });
    }

    async fn shorten(
        &self,
        log: &LedgerLog,
        followed: &Arc<tokio::sync::Mutex<FollowedLedger>>,
    ) -> Result<(), BrokerError> {
        let broker = &self.follower.broker;
        let chunk_bytes = CHUNK_BYTES.min(broker.payload_max() / 4);
        let (covers, time, mut chunks) = {
            let mut followed = followed.lock().await;
            if followed.life.as_ref() != Some(log.life()) {
                return Ok(());
            }
            followed.tail = Some(LedgerTail::default());
            (followed.applied, followed.replica.time(), followed.replica.write_down(chunk_bytes))
        };
        let part: Box<str> = format!("at-{covers}-{:08x}", rand::random::<u32>()).into();
        let mut base = LedgerBase { time, part: part.clone(), ..LedgerBase::default() };
        // A short last chunk is stored in the base itself.
        base.rows = chunks.pop().unwrap_or_default();
        if base.rows.len() > chunk_bytes {
            chunks.push(std::mem::take(&mut base.rows));
        }
        let replaced = self.replace(log, followed, base, chunks).await;
        let is_replaced = matches!(replaced, Ok(true));
        // Parts that other nodes write at this moment cover more messages.
        let is_old = |other: &str| {
            let stands_for = other.split('-').nth(1).and_then(|covers| covers.parse::<u64>().ok());
            let is_before = stands_for.is_some_and(|stands_for| stands_for < covers);
            if is_replaced { is_before } else { *other == *part }
        };
        // Without an answer it is not known whether the base was stored, so its parts stay: the next compaction removes them.
        if replaced.is_ok() {
            broker.drop_ledger_parts(log, is_old).await?;
        }
        replaced.map(drop)
    }

    /// Replaces the log. Returns false if another node has compacted it first.
    async fn replace(
        &self,
        log: &LedgerLog,
        followed: &Arc<tokio::sync::Mutex<FollowedLedger>>,
        mut base: LedgerBase,
        chunks: Vec<Bytes>,
    ) -> Result<bool, BrokerError> {
        let broker = &self.follower.broker;
        let tail_bytes_max = broker.payload_max() / 4;
        let mut parts = PartWriter { shortener: self, log, base: &mut base };
        for chunk in chunks {
            parts.add(chunk).await?;
        }
        for _ in 0..TRIES_MAX {
            let long_tail = {
                let followed = followed.clone().lock_owned().await;
                let deadline = Instant::now() + broker.link().timeout();
                let mut open = OpenLedger { log: log.clone(), followed, deadline };
                self.follower.read_on(&mut open, None).await?;
                let is_same_life = open.followed.life.as_ref() == Some(log.life());
                let followed = &mut *open.followed;
                let applied = followed.applied;
                // Another node has compacted the log, or too many operations have come meanwhile.
                let Some(tail) = followed.tail.as_mut().filter(|_| is_same_life) else { return Ok(false) };
                if tail.bytes <= tail_bytes_max {
                    let rows = with_ops(&parts.base.rows, &tail.ops);
                    let whole = parts.base.bytes + rows.len() as u64;
                    let base = LedgerBase { covers: applied, rows, bytes: whole, ..parts.base.clone() };
                    if let Some(sequence) = broker.replace_log(log, applied, base.encode()).await? {
                        followed.rest_on(sequence, usize::try_from(whole).unwrap_or(usize::MAX));
                        return Ok(true);
                    }
                    None
                } else {
                    Some(std::mem::take(tail))
                }
            };
            if let Some(LedgerTail { ops, .. }) = long_tail {
                // Rows in the base come behind those in parts, so they move to a part first.
                let rows = std::mem::take(&mut parts.base.rows);
                let mut some = BytesMut::from(&rows[..]);
                for (written, op) in ops {
                    let before = some.len();
                    ReplicaRow::Done(written, op).encode(&mut some);
                    if before > 0 && some.len() > tail_bytes_max {
                        let last = some.split_off(before);
                        parts.add(std::mem::replace(&mut some, last).freeze()).await?;
                    }
                }
                parts.add(some.freeze()).await?;
            }
        }
        // The parts are not needed: no base refers to them.
        let part = parts.base.part.clone();
        broker.drop_ledger_parts(log, |other| *other == *part).await?;
        let text = format!("other nodes wrote first, {TRIES_MAX} times in a row");
        Err(BrokerError::Unanswered(text.into()))
    }
}

struct PartWriter<'a> {
    shortener: &'a LogShortener,
    log: &'a LedgerLog,
    base: &'a mut LedgerBase,
}

impl PartWriter<'_> {
    async fn add(&mut self, rows: Bytes) -> Result<(), BrokerError> {
        let length = rows.len() as u64;
        self.shortener.follower.broker.add_ledger_part(self.log, &self.base.part, rows).await?;
        self.base.parts += 1;
        self.base.bytes += length;
        Ok(())
    }
}

/// Returns these rows, with the operations after them.
fn with_ops(rows: &Bytes, ops: &[(u64, Bytes)]) -> Bytes {
    let mut all = BytesMut::from(&rows[..]);
    ops.iter().for_each(|(written, op)| ReplicaRow::Done(*written, op.clone()).encode(&mut all));
    all.freeze()
}
