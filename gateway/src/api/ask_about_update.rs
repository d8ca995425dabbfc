//! Asks the application about updates of the Mercure hub, by the publish hook of their topics' channels.

use gateway_core::effect::{Denial, Identity};
use gateway_core::history::Retention;
use shared::error::ErrorCode;
use shared::id::ClientId;
use shared::protocol::ProtocolId;

use super::by_client::TRANSPORT;
use super::update::{Hub, UpdateError};
use crate::backend::{ClientOrigin, HookSubject};
use crate::broker::PublishRequest;
use crate::node::of_topic;

/// The prefix of tags that only the hub may set.
const OWN_TAGS: &str = "mercure.";

impl Hub {
    /// Asks about an update once for each of its topics, in order, if the topic's channel has the hook. Each answer may
    /// refuse the update; its changes apply to later questions and to everything that is published. `requests` has the
    /// channel of each topic, followed by the channel of all topics.
    pub(super) async fn ask_about(
        &self,
        mut requests: Vec<PublishRequest>,
        topics: &[String],
        identity: &Identity,
        origin: &ClientOrigin,
    ) -> Result<Vec<PublishRequest>, UpdateError> {
        let rules = self.node().rules();
        let asker = HookSubject {
            // The request belongs to no connection, so the id is a new one.
            client: ClientId::from_random(rand::random()),
            transport: TRANSPORT,
            protocol: ProtocolId::MERCURE.format(),
            user: &identity.user,
            meta: identity.meta.as_ref(),
        };
        for (at, topic) in topics.iter().enumerate() {
            let request = &requests[at];
            if !rules.options(&request.channel).is_some_and(|options| options.publish_hook) {
                continue;
            }
            let answer =
                self.node().ask_publish_hook(origin, &asker, request.clone()).await.map_err(denied)?;
            let of_all = requests.len() - 1;
            for (at, request) in requests.iter_mut().enumerate() {
                take_over(&answer, request);
                if at == of_all {
                    request.idempotency = answer.idempotency.as_ref().map(|known| of_topic(topic, known));
                }
            }
        }
        Ok(requests)
    }
}

/// Applies the hook's changes. Its version is ignored: the update has an id, and is in several channels.
fn take_over(answer: &PublishRequest, request: &mut PublishRequest) {
    let PublishRequest { publication, retention, idempotency, .. } = answer;
    request.publication.data = publication.data.clone();
    request.publication.delta |= publication.delta;
    let tags = publication.tags.iter().filter(|(name, _)| !name.starts_with(OWN_TAGS));
    request.publication.tags.extend(tags.map(|(name, value)| (name.clone(), value.clone())));
    if !retention.keeps_history() {
        request.retention = Retention::default();
    }
    request.idempotency.clone_from(idempotency);
}

fn denied(denial: Denial) -> UpdateError {
    match denial {
        Denial::Error(refusal) => match refusal.error_code() {
            Some(ErrorCode::Internal | ErrorCode::NotAvailable | ErrorCode::TooManyRequests) => {
                UpdateError::Failed
            }
            _ => UpdateError::Denied(refusal.message.into_owned()),
        },
        Denial::Disconnect(disconnect) => UpdateError::Denied(disconnect.plain().reason.into_owned()),
    }
}
