//! Compare-and-set beside channels: each value is the last message of a subject, and a write must follow the message that
//! was read.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;

use super::NatsBroker;
use super::nats_link::NatsLink;
use super::nats_names::StreamKind;
use super::stored::{JetStreamError, MessageSelector, StoredMessage, code};
use crate::broker::BrokerError;

impl NatsBroker {
    pub(crate) fn subject_of_session(&self, key: &str) -> String {
        self.names.session(key)
    }

    /// Returns the last message of a subject, if there is one.
    pub(crate) async fn last_message(
        &self,
        link: &NatsLink,
        kind: StreamKind,
        subject: &str,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        self.streams.ready(kind).await?;
        let which = MessageSelector::Last(subject.to_owned());
        let last = self.jetstream.get(link, &self.names.stream(kind), &which).await;
        last.map_err(|failed| self.request_failed(kind, failed))
    }

    /// Writes a message behind the one with sequence `after`, or the first one if that is 0. Returns `false`, and does
    /// nothing, if another message is the last by now. `ttl` is how long the message is kept, where the server removes
    /// expired messages by itself.
    pub(crate) async fn keep_behind(
        &self,
        kind: StreamKind,
        subject: &str,
        after: u64,
        ttl: Duration,
        payload: Bytes,
    ) -> Result<bool, BrokerError> {
        let life = self.streams.ready(kind).await?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", after.to_string());
        if life.forgets() {
            // In whole seconds, and not before every reader considers the message expired.
            headers.insert("Nats-TTL", (ttl.as_secs() + 2).to_string());
        }
        match self.jetstream.put_with(&self.link, subject.to_owned(), headers, payload).await {
            Ok(_) => Ok(true),
            Err(JetStreamError::Refused(code::WRONG_LAST_SEQUENCE, _)) => Ok(false),
            Err(failed) => Err(self.request_failed(kind, failed)),
        }
    }

    /// Deletes the message with this sequence, if it is still there.
    pub(crate) async fn delete_message(&self, kind: StreamKind, sequence: u64) -> Result<(), BrokerError> {
        let deleted = self.jetstream.delete(&self.link, &self.names.stream(kind), sequence).await;
        deleted.map_err(|failed| self.request_failed(kind, failed))
    }

    fn request_failed(&self, kind: StreamKind, failed: JetStreamError) -> BrokerError {
        self.streams.doubt(kind);
        failed.into()
    }
}
