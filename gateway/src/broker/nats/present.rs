//! Presence in JetStream, by its subjects.

use bytes::Bytes;
use shared::channel::Channel;

use super::NatsBroker;
use super::fetch_messages::FetchedMessage;
use super::nats_names::StreamKind;
use super::stored::JetStreamError;
use crate::broker::BrokerError;

impl NatsBroker {
    pub(crate) fn subject_present(&self, channel: &Channel, node: &str, client: &str, user: &str) -> String {
        self.names.present(channel, node, client, user)
    }

    pub(crate) fn subject_of_trial(&self, node: &str) -> String {
        self.names.trial(node)
    }

    pub(crate) async fn put_present(&self, subject: String, payload: Bytes) -> Result<(), BrokerError> {
        self.streams.ready(StreamKind::Presence).await?;
        let put = self.jetstream.put(&self.link, subject, payload).await;
        put.map(drop).map_err(|failed| self.presence_failed(failed))
    }

    pub(crate) async fn take_present(&self, subject: &str) -> Result<(), BrokerError> {
        self.purge_from_presence(subject).await
    }

    /// Removes a client of a node, of whichever user.
    pub(crate) async fn purge_client(
        &self,
        channel: &Channel,
        node: &str,
        client: &str,
    ) -> Result<(), BrokerError> {
        self.purge_from_presence(&self.names.present_as_any(channel, node, client)).await
    }

    /// Removes all presence stored under this name.
    pub(crate) async fn purge_present(&self, node: &str) -> Result<(), BrokerError> {
        self.purge_from_presence(&self.names.present_at(&super::nats_names::token(node))).await
    }

    pub(crate) async fn gather_present(&self, channel: &Channel) -> Result<Vec<FetchedMessage>, BrokerError> {
        self.streams.ready(StreamKind::Presence).await?;
        let (stream, subjects) = (self.names.stream(StreamKind::Presence), self.names.all_present(channel));
        let gathered = self.jetstream.gather(&self.reads, &stream, &subjects).await;
        gathered.map_err(|failed| self.presence_failed(failed))
    }

    pub(crate) async fn subjects_present(&self, channel: &Channel) -> Result<Vec<String>, BrokerError> {
        self.streams.ready(StreamKind::Presence).await?;
        let (stream, subjects) = (self.names.stream(StreamKind::Presence), self.names.all_present(channel));
        let there = self.jetstream.subjects(&self.reads, &stream, &subjects).await;
        there.map_err(|failed| self.presence_failed(failed))
    }

    async fn purge_from_presence(&self, subjects: &str) -> Result<(), BrokerError> {
        self.streams.ready(StreamKind::Presence).await?;
        let purged =
            self.jetstream.purge(&self.link, &self.names.stream(StreamKind::Presence), subjects).await;
        purged.map_err(|failed| self.presence_failed(failed))
    }

    fn presence_failed(&self, failed: JetStreamError) -> BrokerError {
        self.streams.doubt(StreamKind::Presence);
        if matches!(failed, JetStreamError::NoStream) {
            // This node's presence was lost with the stream.
            self.put_all_anew();
        }
        failed.into()
    }
}
