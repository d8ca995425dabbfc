//! Newer content of keys of polled channels, pushed by the application ahead of the next poll.

use gateway_core::poll::{KEY_BYTES_MAX, PollMode};
use shared::position::{EPOCH_BYTES_MAX, Epoch};

use super::api_error::ApiError;
use super::api_request::SharedPollPublish;
use super::run_command::ApiCall;
use crate::telemetry::labels::PublicationSource;

impl ApiCall<'_> {
    /// Delivers the content to the clients that track the key, on every node, unless they have this version or a newer one.
    pub(super) async fn shared_poll_publish(&self, request: &SharedPollPublish<'_>) -> Result<(), ApiError> {
        if request.version == 0 {
            return Err(ApiError::bad_request("the version must be at least 1"));
        }
        if !(1..=KEY_BYTES_MAX).contains(&request.key.len()) {
            return Err(ApiError::bad_request(format!("a key has 1 to {KEY_BYTES_MAX} bytes")));
        }
        let epoch = Epoch::parse(&request.epoch)
            .ok_or(ApiError::bad_request(format!("the epoch is longer than {EPOCH_BYTES_MAX} bytes")))?;
        let (channel, options) = self.channel(&request.channel)?;
        if !options.is_polled() {
            return Err(ApiError::bad_request("the channel is not of the type shared_poll"));
        }
        let poll = &options.shared_poll;
        if !poll.publish_enabled || poll.mode == PollMode::Versionless {
            return Err(ApiError::not_available(
                "the channel's namespace does not set shared_poll.publish_enabled",
            ));
        }
        let data = self.payload(request.data, &request.b64data)?;
        self.in_time()?;
        let published = self.node.publish_polled(channel, &request.key, request.version, epoch, data).await;
        published.map_err(ApiError::not_published)?;
        self.node.metrics.publication_in(options.namespace, PublicationSource::Api);
        Ok(())
    }
}
