//! Publishing to one channel, to many, and in a row.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gateway_core::channel_rules::ChannelOptions;
use gateway_core::history::Retention;
use serde_json::value::RawValue;
use shared::channel::Channel;
use shared::error::ErrorCode;
use shared::publication::{JSON_DEPTH_MAX, Keyed, Payload, Publication, is_too_deep};

use super::config::Config;
use super::map::key;
use super::refused::Refused;
use super::request::{Broadcast, Content, Publish};
use super::run::{CONCURRENT, Call};
use crate::broker::{Idempotency, PublishRequest, Published, Version};
use crate::telemetry::labels::Source;

/// Longest idempotency key, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// Longest epoch of versions, in bytes.
const VERSION_EPOCH_BYTES_MAX: usize = 64;

/// What is published, the same for each channel.
struct Message {
    publication: Publication,
    skip_history: bool,
    idempotency: Option<Idempotency>,
    version: Option<Version>,
}

impl Message {
    fn to(&self, channel: Channel, options: &ChannelOptions) -> Result<PublishRequest, Refused> {
        if options.keeps_keys() {
            return Err(Refused::bad_request("the channel keeps state by key: use map_publish"));
        }
        if options.is_polled() {
            return Err(Refused::not_available("the channel is polled: see shared_poll_publish"));
        }
        if !options.publication_data_format.admits(&self.publication.data) {
            return Err(Refused::bad_request("the data is not of the format that the channel is set to"));
        }
        if self.publication.keyed.is_some() && !options.newest.takes_keys() {
            return Err(Refused::bad_request("the channel has no newest values, so nothing has a key there"));
        }
        let mut publication = self.publication.clone();
        publication.delta |= options.delta_publish;
        Ok(PublishRequest {
            channel,
            publication,
            retention: if self.skip_history { Retention::default() } else { options.retention() },
            idempotency: self.idempotency.clone(),
            version: self.version.clone(),
        })
    }
}

impl Call<'_> {
    pub(super) async fn publish(&self, request: &Publish<'_>) -> Result<Published, Refused> {
        let request = self.publication(request)?;
        self.in_time()?;
        let published = self.node.publish(request).await.map_err(Refused::not_published)?;
        self.node.metrics.publication_in(Source::Api);
        Ok(published)
    }

    /// Several, in this order. They are on their way together: a row of publications does not pay a round trip each.
    pub(super) async fn publish_row(&self, row: &[&Publish<'_>]) -> Vec<Result<Published, Refused>> {
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
            let made = self.node.publish_in_order(requests).await;
            for _ in made.iter().filter(|made| made.is_ok()) {
                self.node.metrics.publication_in(Source::Api);
            }
            let (mut made, mut refused) = (made.into_iter(), refused.into_iter().peekable());
            answers.extend((0..part.len()).map(|at| {
                match refused.next_if(|(of, _)| *of == at) {
                    Some((_, reason)) => Err(reason),
                    None => made
                        .next()
                        .map_or(Err(ErrorCode::Internal.into()), |made| made.map_err(Refused::not_published)),
                }
            }));
        }
        answers
    }

    fn publication(&self, request: &Publish<'_>) -> Result<PublishRequest, Refused> {
        let message = self.message(request.content())?;
        let (channel, options) = self.channel(&request.channel)?;
        message.to(channel, &options)
    }

    /// To several channels at once: one that fails does not hold the others up.
    pub(super) async fn broadcast(
        &self,
        request: &Broadcast<'_>,
    ) -> Result<Vec<Result<Published, Refused>>, Refused> {
        use futures_util::StreamExt;

        if request.channels.is_empty() {
            return Err(Refused::bad_request("no channels are given"));
        }
        let max = self.config.broadcast_channels_max;
        if request.channels.len() > max {
            return Err(Refused::bad_request(format!("more than {max} channels are given")));
        }
        let message = self.message(request.content())?;
        let publications: Vec<_> =
            request.channels.iter().map(|channel| self.publish_to(channel, &message)).collect();
        Ok(futures_util::stream::iter(publications).buffered(CONCURRENT).collect().await)
    }

    async fn publish_to(&self, channel: &str, message: &Message) -> Result<Published, Refused> {
        let (channel, options) = self.channel(channel)?;
        self.in_time()?;
        let request = message.to(channel, &options)?;
        let published = self.node.publish(request).await.map_err(Refused::not_published)?;
        self.node.metrics.publication_in(Source::Api);
        Ok(published)
    }

    fn message(&self, content: Content<'_>) -> Result<Message, Refused> {
        let version = version(content.version, content.version_epoch)?;
        let idempotency = idempotency(content.idempotency_key, self.config)?;
        let mut publication = Publication::new(self.payload(content.data, content.b64data)?);
        publication.tags = content.tags.clone();
        publication.delta = content.delta;
        if let Some(named) = content.key {
            publication.keyed = Some(Box::new(Keyed { key: key(named)?, ..Keyed::default() }));
        }
        Ok(Message { publication, skip_history: content.skip_history, idempotency, version })
    }

    pub(super) fn payload(&self, data: Option<&RawValue>, b64data: &str) -> Result<Payload, Refused> {
        let payload = match data {
            _ if !b64data.is_empty() => decode(b64data)?,
            // Borrowed from the body, which it therefore shares: a payload is not copied on its way to the broker.
            Some(data) => Payload::json(self.body.slice_ref(data.get().as_bytes())),
            None => return Err(Refused::bad_request("no data is given")),
        };
        let max = self.config.publication_bytes_max;
        if payload.bytes.len() > max {
            return Err(Refused::bad_request(format!("the data is longer than {max} bytes")));
        }
        if is_too_deep(&payload.bytes) {
            return Err(Refused::bad_request(format!(
                "the data is nested deeper than {JSON_DEPTH_MAX} levels"
            )));
        }
        Ok(payload)
    }
}

/// `None` if there is no version.
pub(super) fn version(number: u64, epoch: &str) -> Result<Option<Version>, Refused> {
    if epoch.len() > VERSION_EPOCH_BYTES_MAX {
        let detail = format!("the version epoch is longer than {VERSION_EPOCH_BYTES_MAX} bytes");
        return Err(Refused::bad_request(detail));
    }
    Ok((number != 0).then(|| Version { number, epoch: epoch.into() }))
}

/// `None` if there is no key.
pub(super) fn idempotency(key: &str, config: &Config) -> Result<Option<Idempotency>, Refused> {
    if key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let detail = format!("the idempotency key is longer than {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
        return Err(Refused::bad_request(detail));
    }
    Ok((!key.is_empty()).then(|| Idempotency { key: key.into(), ttl: config.idempotency_ttl() }))
}

/// Bytes of any content: clients get JSON or text as such, and anything else as binary.
fn decode(base64: &str) -> Result<Payload, Refused> {
    let bytes: Bytes =
        STANDARD.decode(base64).map_err(|error| Refused::bad_request(format!("b64data: {error}")))?.into();
    if bytes.is_empty() {
        return Err(ErrorCode::BadRequest.into());
    }
    Ok(match std::str::from_utf8(&bytes) {
        Ok(_) => Payload::json_or_text(bytes),
        Err(_) => Payload::binary(bytes),
    })
}
