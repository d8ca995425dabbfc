//! Channels that keep state by key: changes of it, and questions about it.

use gateway_core::map::{Action, Changed, Keeping, StateFilter, StatePage};
use shared::channel::Channel;
use tracing::Instrument;

use crate::broker::{BrokerError, ChangeRequest};
use crate::node::Node;
use crate::telemetry::traces::SPANS;

impl Node {
    /// Answered when the broker has made the change, or says why it is not to be made.
    pub async fn change_key(&self, request: ChangeRequest) -> Result<Changed, BrokerError> {
        self.wait_for_room(&[&request.channel]).await?;
        self.change_key_now(request).await
    }

    /// On its way when this returns: what is called first is done first.
    pub(super) fn change_key_now(
        &self,
        mut request: ChangeRequest,
    ) -> impl Future<Output = Result<Changed, BrokerError>> + Send + '_ {
        let says_when =
            self.rules().options(&request.channel).is_some_and(|options| options.publication_time);
        if let Action::Set(set) = &mut request.change.action
            && says_when
        {
            set.publication.time_ms = self.clock.unix_millis();
        }
        let span = tracing::info_span!(target: SPANS, "change_key", channel = %request.channel);
        // A broker begins before it is first polled.
        let changing = span.in_scope(|| self.broker.change_key(request));
        async move {
            let changed = changing.instrument(span).await;
            if let Err(error) = &changed {
                self.metrics.publication_refused(error.label());
            }
            changed
        }
    }

    pub async fn read_state(
        &self,
        channel: Channel,
        filter: StateFilter,
        keeping: Keeping,
    ) -> Result<StatePage, BrokerError> {
        self.broker.read_state(channel, filter, keeping).await
    }

    pub async fn count_keys(&self, channel: Channel) -> Result<u64, BrokerError> {
        self.broker.count_keys(channel).await
    }

    pub async fn clear_state(&self, channel: Channel) -> Result<(), BrokerError> {
        let cleared = self.broker.clear_state(channel.clone()).await;
        self.forget_past(&channel);
        cleared
    }
}
