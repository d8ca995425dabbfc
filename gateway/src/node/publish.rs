//! Publishing: the way in for every publication, whoever made it.

use crate::broker::{BrokerError, PublishRequest, Published};
use crate::node::{Node, ROOM_DEADLINE};

impl Node {
    /// Answered when the broker has the publication: it will then reach every subscriber that stays, or the
    /// subscriber will be told of a gap.
    pub async fn publish(&self, request: PublishRequest) -> Result<Published, BrokerError> {
        // A worker that is behind slows this node's publishers down, before anything has to be dropped.
        for inbox in &self.inboxes {
            if !inbox.wait_for_room(ROOM_DEADLINE).await {
                return Err(BrokerError::Timeout(ROOM_DEADLINE));
            }
        }
        self.broker.publish(request).await
    }
}
