//! Publishing: the way in for every publication, whoever made it.

use tracing::Instrument;

use crate::broker::{BrokerError, PublishRequest, Published};
use crate::node::{Node, ROOM_DEADLINE};
use crate::telemetry::traces::SPANS;

impl Node {
    /// Answered when the broker has the publication: it will then reach every subscriber that stays, or the
    /// subscriber will be told of a gap.
    pub async fn publish(&self, request: PublishRequest) -> Result<Published, BrokerError> {
        // A worker that is behind slows this node's publishers down, before anything has to be dropped.
        for inbox in &self.inboxes {
            if !inbox.wait_for_room(ROOM_DEADLINE).await {
                self.metrics.publication_refused("timeout");
                return Err(BrokerError::Timeout(ROOM_DEADLINE));
            }
        }
        let span = tracing::info_span!(target: SPANS, "publish", channel = %request.channel);
        // A broker may begin before it is first polled.
        let publishing = span.in_scope(|| self.broker.publish(request));
        let published = publishing.instrument(span).await;
        if let Err(error) = &published {
            self.metrics.publication_refused(match error {
                BrokerError::Timeout(_) => "timeout",
                BrokerError::Unreachable(_) => "unreachable",
                BrokerError::Unexpected(_) => "unexpected",
            });
        }
        published
    }
}
