//! Publishing to one channel, to many, and several publications in order.

use serde_json::value::RawValue;
use shared::error::ErrorCode;
use shared::publication::Payload;

use super::api_error::ApiError;
use super::api_request::{Broadcast, Publish};
use super::published_message::{Content, PublishedMessage, payload};
use super::run_command::{ApiCall, CONCURRENT};
use crate::broker::{PublishRequest, Published};
use crate::telemetry::labels::PublicationSource;

impl ApiCall<'_> {
    pub(super) async fn publish(&self, request: &Publish<'_>) -> Result<Published, ApiError> {
        let request = self.publication(request)?;
        self.in_time()?;
        let namespace = self.node.namespace_of(&request.channel);
        let published = self.node.publish_since(self.came(), request).await;
        let published = published.map_err(ApiError::not_published)?;
        self.node.metrics.publication_in(namespace, PublicationSource::Api);
        Ok(published)
    }

    /// Publishes several in this order. They are in flight together, so that each does not cost a round trip.
    pub(super) async fn publish_row(&self, row: &[&Publish<'_>]) -> Vec<Result<Published, ApiError>> {
        let mut answers = Vec::with_capacity(row.len());
        for part in row.chunks(CONCURRENT) {
            if let Err(late) = self.in_time() {
                answers.extend(part.iter().map(|_| Err(late.clone())));
                continue;
            }
            let (mut requests, mut refused) = (Vec::with_capacity(part.len()), Vec::new());
            for (at, publish) in part.iter().enumerate() {
                match self.publication(publish) {
                    Ok(request) => requests.push(request),
                    Err(reason) => refused.push((at, reason)),
                }
            }
            let namespaces: Vec<_> =
                requests.iter().map(|request| self.node.namespace_of(&request.channel)).collect();
            let made = self.node.publish_in_order_since(self.came(), requests).await;
            for (namespace, _) in namespaces.into_iter().zip(&made).filter(|(_, made)| made.is_ok()) {
                self.node.metrics.publication_in(namespace, PublicationSource::Api);
            }
            let (mut made, mut refused) = (made.into_iter(), refused.into_iter().peekable());
            answers.extend((0..part.len()).map(|at| {
                match refused.next_if(|(of, _)| *of == at) {
                    Some((_, reason)) => Err(reason),
                    None => made.next().map_or(Err(ErrorCode::Internal.into()), |made| {
                        made.map_err(ApiError::not_published)
                    }),
                }
            }));
        }
        answers
    }

    fn publication(&self, request: &Publish<'_>) -> Result<PublishRequest, ApiError> {
        let message = self.message(request.content())?;
        let (channel, options) = self.channel(&request.channel)?;
        message.to(channel, &options)
    }

    /// Publishes to several channels at once. One that fails does not hold up the others.
    pub(super) async fn broadcast(
        &self,
        request: &Broadcast<'_>,
    ) -> Result<Vec<Result<Published, ApiError>>, ApiError> {
        use futures_util::StreamExt;

        if request.channels.is_empty() {
            return Err(ApiError::bad_request("no channels are given"));
        }
        let max = self.config.broadcast_channels_max;
        if request.channels.len() > max {
            return Err(ApiError::bad_request(format!("more than {max} channels are given")));
        }
        let message = self.message(request.content())?;
        let publications: Vec<_> =
            request.channels.iter().map(|channel| self.publish_to(channel, &message)).collect();
        Ok(futures_util::stream::iter(publications).buffered(CONCURRENT).collect().await)
    }

    async fn publish_to(&self, channel: &str, message: &PublishedMessage) -> Result<Published, ApiError> {
        let (channel, options) = self.channel(channel)?;
        self.in_time()?;
        let request = message.to(channel, &options)?;
        let namespace = options.namespace;
        let published = self.node.publish_since(self.came(), request).await;
        let published = published.map_err(ApiError::not_published)?;
        self.node.metrics.publication_in(namespace, PublicationSource::Api);
        Ok(published)
    }

    fn message(&self, content: Content<'_>) -> Result<PublishedMessage, ApiError> {
        PublishedMessage::read(content, self.body, self.config)
    }

    pub(super) fn payload(&self, data: Option<&RawValue>, b64data: &str) -> Result<Payload, ApiError> {
        payload(data, b64data, self.body, self.config)
    }
}
