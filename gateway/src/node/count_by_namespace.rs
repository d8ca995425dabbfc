//! What a node counts by the namespaces of channels.

use gateway_core::channel_rules::ChannelRules;
use gateway_core::namespace_id::NamespaceId;
use shared::channel::Channel;

use crate::broker::BrokerError;
use crate::node::Node;
use crate::telemetry::labels::PublicationSource;

impl Node {
    /// What is counted of a channel is counted there.
    pub(crate) fn namespace_of(&self, channel: &Channel) -> NamespaceId {
        self.rules.read().namespace_id(channel.as_str())
    }

    /// A publication has come in.
    pub(crate) fn note_publication(&self, channel: &Channel, source: PublicationSource) {
        self.metrics.publication_in(self.namespace_of(channel), source);
    }

    /// A publication has come that nobody here subscribes to, or that is handed out in another way.
    pub(super) fn note_unwanted(&self, channel: &str) {
        let namespace = self.rules.read().namespace_id(channel);
        self.metrics.publication_in(namespace, PublicationSource::Node);
    }

    /// The broker has taken what was published, with a payload of so many bytes, or has not.
    pub(super) fn note_taken(&self, namespace: NamespaceId, bytes: usize, refused: Option<&BrokerError>) {
        match refused {
            None => self.metrics.namespaces.of(namespace).bytes_in_total.inc_by(bytes as u64),
            Some(error) => self.metrics.publication_refused(namespace, error.label()),
        }
    }

    /// The broker did not take a publication.
    pub(super) fn note_unpublished(&self, channel: &Channel, error: &BrokerError) {
        self.metrics.publication_refused(self.namespace_of(channel), error.label());
    }

    /// The broker is about to be asked for a channel's history.
    pub(super) fn note_history_read(&self, channel: &Channel) {
        self.metrics.namespaces.of(self.namespace_of(channel)).history_reads_total.inc();
    }

    /// Other rules hold: channels that are there already are counted where new ones are.
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
