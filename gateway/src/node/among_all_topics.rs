//! What is published in the channel of a topic, in the channel of all topics of the hub too: that is what those follow who name
//! several topics, or a template.

use gateway_core::channel_rules::ChannelRules;
use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use shared::protocol::mercure;
use shared::publication::Publication;
use uuid::Uuid;

use crate::broker::{Idempotency, PublishRequest};
use crate::node::Node;

impl Node {
    /// Makes an update of the hub of what is published in a topic's channel, if it is none yet. Returns the same for the channel
    /// of all topics.
    pub(super) fn among_all_topics(
        &self,
        rules: &ChannelRules,
        request: &mut PublishRequest,
    ) -> Option<PublishRequest> {
        let topic = rules.topic(&request.channel)?;
        if request.publication.keyed.is_some() {
            return None;
        }
        let id = || format!("urn:uuid:{}", Uuid::new_v4());
        let is_new = mercure::make_update(&mut request.publication, topic, id);
        let channel = is_new.then(|| channel_of_all(rules)).flatten()?;
        let keeps_history = request.retention.keeps_history();
        let retention = rules.options(&channel).filter(|_| keeps_history).map(|options| options.retention());
        Some(PublishRequest {
            // One measurement of one update.
            publication: Publication { stamp: None, ..request.publication.clone() },
            retention: retention.unwrap_or_default(),
            idempotency: request.idempotency.as_ref().map(|known| of_topic(topic, known)),
            version: None,
            channel,
        })
    }
}

/// The channel in which the updates of all topics are.
fn channel_of_all(rules: &ChannelRules) -> Option<Channel> {
    let namespace = rules.hub.as_deref()?;
    let name = format!("{namespace}{}{}", rules.names.namespace_boundary, mercure::ALL_TOPICS);
    rules.channel(&name, CHANNEL_BYTES_MAX).ok()
}

/// The key as it is kept in the channel of all topics, where others may have the same.
pub(crate) fn of_topic(topic: &str, known: &Idempotency) -> Idempotency {
    Idempotency { key: format!("{topic}\n{}", known.key).into(), ttl: known.ttl }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_several_topics_are_told_apart_among_all() {
        let key = |key: &str| Idempotency { key: key.into(), ttl: std::time::Duration::from_secs(1) };
        assert_ne!(of_topic("a", &key("x")).key, of_topic("b", &key("x")).key);
        assert_eq!(of_topic("a", &key("x")).key, of_topic("a", &key("x")).key);
    }
}
