//! Publishes events in an app's channels.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use shared::publication::{EVENT_TAG, Publication, Tags};

use super::pusher_api_error::PusherApiError;
use super::pusher_request::{ChannelAttributes, Trigger};
use super::serve_pusher_api::PusherApiCall;
use crate::broker::PublishRequest;
use crate::telemetry::labels::PublicationSource;

impl PusherApiCall<'_> {
    pub(super) async fn trigger(&self, trigger: Trigger) -> Result<Value, PusherApiError> {
        let requests = self.requests(&trigger)?;
        self.publish(requests).await?;
        if trigger.info.is_empty() {
            return Ok(json!({}));
        }
        let mut channels = BTreeMap::new();
        for name in &trigger.channels {
            channels.insert(name, self.attributes(name, trigger.info).await?);
        }
        Ok(json!({ "channels": channels }))
    }

    /// Publishes a batch. All events are validated before any is published.
    pub(super) async fn trigger_batch(&self, batch: Vec<Trigger>) -> Result<Value, PusherApiError> {
        let mut requests = Vec::with_capacity(batch.len());
        for trigger in &batch {
            requests.extend(self.requests(trigger)?);
        }
        self.publish(requests).await?;
        if batch.iter().all(|trigger| trigger.info.is_empty()) {
            return Ok(json!({}));
        }
        let mut answers = Vec::with_capacity(batch.len());
        for trigger in &batch {
            let name = trigger.channels.first().map_or("", String::as_str);
            answers.push(self.attributes(name, trigger.info).await?);
        }
        Ok(json!({ "batch": answers }))
    }

    fn requests(&self, trigger: &Trigger) -> Result<Vec<PublishRequest>, PusherApiError> {
        let rules = self.node.rules();
        let publication = Publication {
            tags: Tags::from([(EVENT_TAG.into(), trigger.name.clone())]),
            except: trigger.except.map(Box::new),
            ..Publication::new(trigger.data.clone())
        };
        let request = |name: &String| {
            let channel = self.named(name)?;
            let options = rules
                .options(&channel)
                .ok_or_else(|| PusherApiError::bad_request("the app has no namespace"))?;
            if !options.publication_data_format.admits(&publication.data) {
                return Err(PusherApiError::bad_request(
                    "the data is not in the format that the channel requires",
                ));
            }
            let mut publication = publication.clone();
            publication.delta |= options.delta_publish;
            let retention = options.retention();
            Ok(PublishRequest { channel, publication, retention, idempotency: None, version: None })
        };
        trigger.channels.iter().map(request).collect()
    }

    /// Returns the gateway's channel of this name.
    pub(super) fn named(&self, name: &str) -> Result<Channel, PusherApiError> {
        let channel = self.app.names.channel(name);
        let named = self.node.rules().channel(&channel, CHANNEL_BYTES_MAX);
        named.map_err(|error| PusherApiError::bad_request(format!("{name}: {error}")))
    }

    async fn publish(&self, requests: Vec<PublishRequest>) -> Result<(), PusherApiError> {
        self.in_time()?;
        let namespaces: Vec<_> =
            requests.iter().map(|request| self.node.namespace_of(&request.channel)).collect();
        for (namespace, published) in namespaces.into_iter().zip(self.node.publish_in_order(requests).await) {
            published?;
            self.node.metrics.publication_in(namespace, PublicationSource::Api);
        }
        Ok(())
    }

    /// Returns the requested attributes of a channel that an event was sent to.
    async fn attributes(&self, name: &str, info: ChannelAttributes) -> Result<Value, PusherApiError> {
        let mut attributes = serde_json::Map::new();
        self.add_attributes(name, ChannelAttributes { cache: false, ..info }, &mut attributes).await?;
        Ok(attributes.into())
    }
}
