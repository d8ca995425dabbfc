//! The metrics of a node by the namespace of a channel.

use gateway_core::channel_rules::ChannelRules;
use gateway_core::namespace_id::NamespaceId;
use shared::channel::Channel;

use crate::broker::BrokerError;
use crate::node::Node;
use crate::telemetry::labels::PublicationSource;

impl Node {
    /// Returns the namespace under which the channel is counted.
    pub(crate) fn namespace_of(&self, channel: &Channel) -> NamespaceId {
        self.rules.read().namespace_id(channel.as_str())
    }

    /// Counts a publication that has come in.
    pub(crate) fn note_publication(&self, channel: &Channel, source: PublicationSource) {
        self.metrics.publication_in(self.namespace_of(channel), source);
    }

    /// Counts a publication without subscribers on this node, or one that is handed out in another way.
    pub(super) fn note_unwanted(&self, channel: &str) {
        let namespace = self.rules.read().namespace_id(channel);
        self.metrics.publication_in(namespace, PublicationSource::Node);
    }

    /// Counts a publication that the broker has taken, with its payload's bytes, or refused.
    pub(super) fn note_taken(&self, namespace: NamespaceId, bytes: usize, refused: Option<&BrokerError>) {
        match refused {
            None => self.metrics.namespaces.of(namespace).bytes_in_total.inc_by(bytes as u64),
            Some(error) => self.metrics.publication_refused(namespace, error.label()),
        }
    }

    /// Counts a publication that the broker did not take.
    pub(super) fn note_unpublished(&self, channel: &Channel, error: &BrokerError) {
        self.metrics.publication_refused(self.namespace_of(channel), error.label());
    }

    /// Counts a read of a channel's history, before it is sent to the broker.
    pub(super) fn note_history_read(&self, channel: &Channel) {
        self.metrics.namespaces.of(self.namespace_of(channel)).history_reads_total.inc();
    }

    /// Moves existing channels to the namespaces of new rules.
    pub(super) fn recount_channels(&self, rules: &ChannelRules) {
        self.interest.for_each(|local| {
            let namespace = rules.namespace_id(local.channel.as_str());
            let before = local.count_in(namespace);
            if namespace != before {
                self.metrics.namespaces.of(before).channels.dec();
                self.metrics.namespaces.of(namespace).channels.inc();
            }
        });
    }
}
