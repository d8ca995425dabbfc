//! Ledgers in JetStream. Each has a log, a subject with all of its changes in one order, and parts of snapshots of the log.

use std::sync::Arc;

use bytes::Bytes;

use super::NatsBroker;
use super::fetch_messages::FetchedMessage;
use super::nats_names::StreamKind;
use super::stored::{JetStreamError, MessageSelector, StoredMessage, code};
use super::streams::LiveStream;
use crate::broker::BrokerError;

/// The part name of a ledger's log. No other part has this name.
const LOG: &str = "log";

/// A ledger, in one life of the stream.
#[derive(Clone, Debug)]
pub(crate) struct LedgerLog {
    ledger: Arc<str>,
    stream: Arc<LiveStream>,
}

impl LedgerLog {
    pub(crate) fn life(&self) -> &Arc<str> {
        &self.stream.name
    }

    pub(crate) fn ledger(&self) -> &str {
        &self.ledger
    }

    /// Notes that this sequence was read, and so has been assigned.
    pub(crate) fn saw(&self, sequence: u64) {
        self.stream.saw(sequence);
    }
}

impl NatsBroker {
    /// Returns the log of this ledger in the present life of the stream.
    pub(crate) async fn ledger_log(&self, ledger: &str) -> Result<LedgerLog, BrokerError> {
        let stream = self.streams.ready(StreamKind::Ledgers).await?;
        Ok(LedgerLog { ledger: ledger.into(), stream })
    }

    /// Appends to the log unconditionally. Returns the sequence of the new message.
    pub(crate) async fn add_to_log(&self, log: &LedgerLog, payload: Bytes) -> Result<u64, BrokerError> {
        let added = self.jetstream.put(&self.link, self.names.ledger(&log.ledger, LOG, log.life()), payload);
        let sequence = added.await.map_err(|failed| self.ledger_failed(failed))?;
        log.stream.saw(sequence);
        Ok(sequence)
    }

    /// Replaces the whole log with this message, if its last sequence is still `last`. Returns `None` if it is not.
    pub(crate) async fn replace_log(
        &self,
        log: &LedgerLog,
        last: u64,
        payload: Bytes,
    ) -> Result<Option<u64>, BrokerError> {
        let subject = self.names.ledger(&log.ledger, LOG, log.life());
        match self.jetstream.add(&self.link, subject, last, last > 0, payload).await {
            Ok(sequence) => {
                log.stream.saw(sequence);
                Ok(Some(sequence))
            }
            Err(JetStreamError::Refused(code::WRONG_LAST_SEQUENCE, _)) => Ok(None),
            Err(failed) => Err(self.ledger_failed(failed)),
        }
    }

    /// Returns the first message of the log from this sequence on.
    pub(crate) async fn next_in_log(
        &self,
        log: &LedgerLog,
        sequence: u64,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        let subject = self.names.ledger(&log.ledger, LOG, log.life());
        let next = MessageSelector::Next { sequence, subject };
        let next = self.jetstream.get(&self.link, &self.names.stream(StreamKind::Ledgers), &next).await;
        next.map_err(|failed| self.ledger_failed(failed))
    }

    /// Notes that the stream has assigned again a sequence that was read: it has gone back, even if it is as long as
    /// before by now.
    pub(crate) fn went_back(&self, log: &LedgerLog, sequence: u64) {
        log.stream.saw(sequence.saturating_add(1));
        self.streams.doubt(StreamKind::Ledgers);
    }

    /// Returns all messages of the log from this sequence on.
    pub(crate) async fn log_from(
        &self,
        log: &LedgerLog,
        sequence: u64,
    ) -> Result<Vec<FetchedMessage>, BrokerError> {
        self.gather_part(log, LOG, sequence).await
    }

    /// Returns all messages of the log.
    pub(crate) async fn whole_log(&self, log: &LedgerLog) -> Result<Vec<FetchedMessage>, BrokerError> {
        self.ledger_part(log, LOG).await
    }

    /// Returns all messages of a part.
    pub(crate) async fn ledger_part(
        &self,
        log: &LedgerLog,
        part: &str,
    ) -> Result<Vec<FetchedMessage>, BrokerError> {
        self.gather_part(log, part, 1).await
    }

    async fn gather_part(
        &self,
        log: &LedgerLog,
        part: &str,
        from: u64,
    ) -> Result<Vec<FetchedMessage>, BrokerError> {
        let (stream, subject) =
            (self.names.stream(StreamKind::Ledgers), self.names.ledger(&log.ledger, part, log.life()));
        let gathered = self.jetstream.gather_from(&self.reads, &stream, &subject, from).await;
        gathered.map_err(|failed| self.ledger_failed(failed))
    }

    /// Adds a message to a part.
    pub(crate) async fn add_ledger_part(
        &self,
        log: &LedgerLog,
        part: &str,
        payload: Bytes,
    ) -> Result<(), BrokerError> {
        let subject = self.names.ledger(&log.ledger, part, log.life());
        let added = self.jetstream.put(&self.link, subject, payload).await;
        added.map(drop).map_err(|failed| self.ledger_failed(failed))
    }

    /// Deletes the parts whose names are old. The log stays.
    pub(crate) async fn drop_ledger_parts(
        &self,
        log: &LedgerLog,
        is_old: impl Fn(&str) -> bool,
    ) -> Result<(), BrokerError> {
        let stream = self.names.stream(StreamKind::Ledgers);
        let all = self.names.ledger(&log.ledger, "*", log.life());
        let there = self.jetstream.subjects(&self.link, &stream, &all).await;
        for subject in there.map_err(|failed| self.ledger_failed(failed))? {
            let part = subject.rsplit('.').nth(1).unwrap_or(LOG);
            if part != LOG && is_old(part) {
                let purged = self.jetstream.purge(&self.link, &stream, &subject).await;
                purged.map_err(|failed| self.ledger_failed(failed))?;
            }
        }
        Ok(())
    }

    /// Returns the longest message that the server takes, in bytes.
    pub(crate) fn payload_max(&self) -> usize {
        self.link.payload_max()
    }

    fn ledger_failed(&self, failed: JetStreamError) -> BrokerError {
        self.streams.doubt(StreamKind::Ledgers);
        failed.into()
    }
}
