//! Publishing: the way in for every publication, whoever made it.

use futures_util::future::join_all;
use tracing::Instrument;

use crate::broker::{BrokerError, PublishRequest, Published};
use crate::node::{Node, ROOM_DEADLINE};
use crate::telemetry::traces::SPANS;

impl Node {
    /// Answered when the broker has the publication: it will then reach every subscriber that stays, or the
    /// subscriber will be told of a gap.
    pub async fn publish(&self, request: PublishRequest) -> Result<Published, BrokerError> {
        self.wait_for_room().await?;
        self.publish_now(request).await
    }

    /// The same for many at once, which are published in this order. One that fails does not hold the others up.
    pub(crate) async fn publish_in_order(
        &self,
        requests: Vec<PublishRequest>,
    ) -> Vec<Result<Published, BrokerError>> {
        if let Err(error) = self.wait_for_room().await {
            return requests.iter().map(|_| Err(error.clone())).collect();
        }
        join_all(requests.into_iter().map(|request| self.publish_now(request))).await
    }

    /// A worker that is behind slows this node's publishers down, before anything has to be dropped.
    async fn wait_for_room(&self) -> Result<(), BrokerError> {
        for inbox in &self.inboxes {
            if !inbox.wait_for_room(ROOM_DEADLINE).await {
                self.metrics.publication_refused("timeout");
                return Err(BrokerError::Timeout(ROOM_DEADLINE));
            }
        }
        Ok(())
    }

    /// On its way when this returns.
    fn publish_now(
        &self,
        request: PublishRequest,
    ) -> impl Future<Output = Result<Published, BrokerError>> + Send + '_ {
        let span = tracing::info_span!(target: SPANS, "publish", channel = %request.channel);
        // A broker begins before it is first polled.
        let publishing = span.in_scope(|| self.broker.publish(request));
        async move {
            let published = publishing.instrument(span).await;
            if let Err(error) = &published {
                self.metrics.publication_refused(error.label());
            }
            published
        }
    }
}
