//! A topic of Kafka, read by a consumer group: one node reads each partition at a time.
//!
//! The group assigns the partitions. The node that is assigned a partition begins at the committed offset, and later
//! commits of the node before it are refused. A partition is committed up to its first unfinished record, so records
//! behind that may be read again: the idempotency keys of publications are made from their positions.

mod dead_letter;
mod delivered_records;
mod kafka_config;
mod kafka_member;
mod parse_record;

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use krafka::error::ErrorCode;
use krafka::{ConsumerRecord, KrafkaError};

use self::delivered_records::{DeliveredRecords, place, position};
pub use self::kafka_config::{KafkaConfig, Sasl, Value};
use self::kafka_member::{KafkaCluster, KafkaMember};
use super::feed_config::FeedConfig;
use super::source::{
    FeedRecord, FeedSource, FieldKey, Lag, SettledRecord, SourceCheck, SourceError, SourceItem,
};

/// How long a check polls. The group needs polls: rebalances wait for members that do not poll.
const LOOK_FOR: Duration = Duration::from_millis(10);

/// The longest that a stopping node waits to leave the group.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// The number of failures in a row after which a connection is closed, although the client might still repair it.
const FAILURES_MAX: u32 = 3;

/// The topic, and this node as one of its readers.
pub(super) struct Kafka {
    cluster: KafkaCluster,
    names: Vec<(FieldKey, Box<str>)>,
    open: Option<KafkaMember>,
    /// The records that were delivered and are not committed.
    delivered_records: DeliveredRecords,
    /// The records that were read and are still to be delivered.
    polled: VecDeque<ConsumerRecord>,
    is_paused: bool,
    failures: u32,
}

impl Kafka {
    pub(super) fn new(name: &str, feed: &FeedConfig, prefix: &str) -> Result<Self, String> {
        let names = feed.fields.names().map(|(word, name)| (word, name.into())).into();
        Ok(Self {
            cluster: KafkaCluster::new(&feed.kafka, feed.bounds(), format!("{prefix}-feed-{name}"))?,
            names,
            open: None,
            delivered_records: DeliveredRecords::default(),
            polled: VecDeque::new(),
            is_paused: false,
            failures: 0,
        })
    }

    /// Counts a failure. After a retriable one the connection stays, because the client repairs it by itself; after
    /// `FAILURES_MAX` it is closed.
    fn failed(&mut self, error: KrafkaError) -> SourceError {
        self.failures += 1;
        if !error.is_retriable() || self.failures >= FAILURES_MAX {
            self.close();
        }
        self.failure(&error.to_string())
    }

    fn failure(&self, why: &str) -> SourceError {
        SourceError(format!("topic {} of Kafka: {why}", self.cluster.topic()))
    }

    fn late(&mut self) -> SourceError {
        self.close();
        self.failure(&format!("no answer within {} ms", self.cluster.timeout().as_millis()))
    }

    /// Closes the connection and forgets all records. Leaving the group happens in the background.
    fn close(&mut self) {
        self.forget();
        self.failures = 0;
        if let Some(open) = self.open.take() {
            tokio::spawn(open.close(LEAVE_WITHIN));
        }
    }

    fn forget(&mut self) {
        self.delivered_records.clear();
        self.polled.clear();
        self.is_paused = false;
    }

    /// Forgets records of partitions that were revoked since the last call, also of those that were assigned to this
    /// node again. Returns whether there were any.
    fn give_up_what_is_taken(&mut self) -> bool {
        let Some(open) = &self.open else { return true };
        let taken = open.taken();
        self.delivered_records.give_up(&taken);
        self.polled.retain(|record| !taken.contains(&record.partition));
        !taken.is_empty()
    }

    /// Polls for records, for at most `at_most` if there are none. Cancellation safe. Returns whether partitions were
    /// revoked from this node.
    async fn poll(&mut self, at_most: Duration) -> Result<bool, SourceError> {
        let Some(open) = &self.open else { return Ok(true) };
        let polled = tokio::time::timeout(at_most + self.cluster.timeout(), open.poll(at_most)).await;
        match polled {
            Ok(Ok(records)) => {
                self.failures = 0;
                let is_taken = self.give_up_what_is_taken();
                // These records are of partitions that this node has now.
                self.polled.extend(records);
                Ok(is_taken)
            }
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(self.late()),
        }
    }

    async fn take_next(&mut self) -> Result<SourceItem, SourceError> {
        if self.open.is_none() {
            self.forget();
            let opening = tokio::time::timeout(self.cluster.timeout(), self.cluster.open()).await;
            let open = match opening {
                Ok(opened) => opened.map_err(|why| self.failure(&why))?,
                Err(_) => return Err(self.late()),
            };
            self.open = Some(open);
        }
        self.give_up_what_is_taken();
        if !self.delivered_records.is_empty() {
            // The records may be finished, and only not committed.
            self.commit().await?;
        }
        if !self.delivered_records.is_empty() {
            self.begin_again().await?;
        }
        if let Some(open) = self.open.as_ref().filter(|_| self.is_paused) {
            open.pause(false).await;
            self.is_paused = false;
        }
        if self.polled.is_empty() {
            self.poll(Duration::ZERO).await?;
        }
        let Some(open) = &self.open else { return Ok(SourceItem::NotOurs) };
        if !open.has_partitions().await {
            // A node with partitions proves the connection with each check.
            return match tokio::time::timeout(self.cluster.timeout(), open.prove()).await {
                Ok(Ok(())) => Ok(SourceItem::NotOurs),
                Ok(Err(error)) => Err(self.failed(error)),
                Err(_) => Err(self.late()),
            };
        }
        Ok(SourceItem::Records(self.hand_out()))
    }

    /// Seeks back, so that all unfinished records are read again.
    async fn begin_again(&mut self) -> Result<(), SourceError> {
        let mut from = self.delivered_records.from();
        for record in self.polled.drain(..) {
            from.entry(record.partition).or_insert(record.offset);
        }
        self.delivered_records.clear();
        let Some(open) = &self.open else { return Ok(()) };
        open.seek(&from).await.map_err(|error| self.failed(error))
    }

    fn hand_out(&mut self) -> Vec<FeedRecord> {
        let bounds = self.cluster.bounds();
        let (mut given, mut bytes) = (Vec::new(), 0);
        while given.len() < bounds.records_max
            && bytes < bounds.bytes_max
            && let Some(record) = self.polled.pop_front()
        {
            let fields =
                parse_record::read(&record, self.cluster.value(), &self.names, bounds.record_bytes_max);
            bytes += parse_record::size(&record);
            given.push(FeedRecord { position: position(&record), fields });
            self.delivered_records.add(record);
        }
        given
    }

    async fn settle_records(&mut self, settled: Vec<SettledRecord>) -> Result<(), SourceError> {
        let mut letters = Vec::new();
        for SettledRecord { position, dead } in &settled {
            let Some((partition, offset)) = place(position) else { continue };
            match dead {
                None => self.delivered_records.done(partition, offset),
                Some(reason) => {
                    if let Some(record) = self.delivered_records.find(partition, offset) {
                        letters.push((partition, offset, dead_letter::letter(record, reason, &self.cluster)));
                    }
                }
            }
        }
        // Published records are settled whatever happens to dead letters.
        let mut unwritten = None;
        if let (Some(open), false) = (&self.open, letters.is_empty()) {
            for (partition, offset, letter) in letters {
                match dead_letter::write(open, letter, self.cluster.timeout()).await {
                    Ok(()) => self.delivered_records.done(partition, offset),
                    Err(why) => {
                        unwritten = Some(format!(
                            "dead letters cannot be written to {}: {why}",
                            self.cluster.dead_letters()
                        ));
                        break;
                    }
                }
            }
        }
        self.commit().await?;
        match unwritten {
            None => Ok(()),
            Some(why) => Err(self.failure(&why)),
        }
    }

    async fn commit(&mut self) -> Result<(), SourceError> {
        let up_to = self.delivered_records.done_up_to();
        let Some(open) = self.open.as_ref().filter(|_| !up_to.is_empty()) else { return Ok(()) };
        match tokio::time::timeout(self.cluster.timeout(), open.commit(&up_to)).await {
            Ok(Ok(())) => {
                self.delivered_records.forget_committed();
                Ok(())
            }
            // The partitions are another node's by now, or about to be. That node reads the uncommitted records again,
            // and their idempotency keys are known.
            Ok(Err(KrafkaError::Broker { code, .. })) if is_anothers(code) => Ok(()),
            Ok(Err(error)) => {
                // Uncommitted records are read again.
                let error = self.failure(&error.to_string());
                self.close();
                Err(error)
            }
            Err(_) => Err(self.late()),
        }
    }

    async fn look_at(&mut self) -> Result<SourceCheck, SourceError> {
        // Paused every time, because other partitions may have been assigned meanwhile.
        if !self.delivered_records.is_empty()
            && let Some(open) = &self.open
        {
            open.pause(true).await;
            self.is_paused = true;
        }
        let is_taken = self.poll(LOOK_FOR).await?;
        let Some(open) = &self.open else { return Ok(SourceCheck::NotOurs) };
        if is_taken || !open.has_partitions().await {
            return Ok(SourceCheck::NotOurs);
        }
        let (left, oldest) = self.delivered_records.left();
        let behind = match tokio::time::timeout(self.cluster.timeout(), open.behind(self.is_paused)).await {
            Ok(Ok(behind)) => behind,
            Ok(Err(error)) => return Err(self.failed(error)),
            Err(_) => return Err(self.late()),
        };
        let records = behind.map(|behind| behind + left + self.polled.len() as u64);
        let polled = self.polled.iter().map(|record| record.timestamp).filter(|at| *at > 0);
        let oldest = oldest.into_iter().chain(polled).min().map(age);
        Ok(SourceCheck::Ours(Lag { records, oldest }))
    }

    async fn wait_for_more(&mut self, at_most: Duration) -> Result<(), SourceError> {
        if !self.polled.is_empty() {
            return Ok(());
        }
        self.poll(at_most).await.map(drop)
    }

    async fn give_back(&mut self) {
        self.forget();
        if let Some(open) = self.open.take() {
            open.close(LEAVE_WITHIN).await;
        }
    }
}

/// Whether a commit was refused because this node has lost the partitions.
fn is_anothers(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::IllegalGeneration
            | ErrorCode::UnknownMemberId
            | ErrorCode::RebalanceInProgress
            | ErrorCode::FencedInstanceId
    )
}

/// Returns the age of a time in milliseconds since 1970.
fn age(at: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(at.unsigned_abs()))
}

impl FeedSource for Kafka {
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

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka").field("topic", &self.cluster.topic()).finish_non_exhaustive()
    }
}
