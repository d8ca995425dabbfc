//! Publishes the updates of a topic's channel in the hub's channel of all topics as well. Subscribers that name several
//! topics, or a URI template, read that channel.

use gateway_core::channel_rules::ChannelRules;
use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use shared::protocol::mercure;
use shared::publication::Publication;
use uuid::Uuid;

use crate::broker::{Idempotency, PublishRequest};
use crate::node::Node;

impl Node {
    /// Turns a publication in a topic's channel into an update of the hub, unless it is one already. Returns the request
    /// that publishes the same update in the channel of all topics.
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
            // The two requests carry one update, whose latency is measured once.
            publication: Publication { stamp: None, ..request.publication.clone() },
            retention: retention.unwrap_or_default(),
            idempotency: request.idempotency.as_ref().map(|known| of_topic(topic, known)),
            version: None,
            channel,
        })
    }
}

/// Returns the channel that holds the updates of all topics.
fn channel_of_all(rules: &ChannelRules) -> Option<Channel> {
    let namespace = rules.hub.as_deref()?;
    let name = format!("{namespace}{}{}", rules.names.namespace_boundary, mercure::ALL_TOPICS);
    rules.channel(&name, CHANNEL_BYTES_MAX).ok()
}

/// Returns the idempotency key under which an update is kept in the channel of all topics. The topic is part of it,
/// because other topics may use the same key.
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
