//! A message to publish: read and checked in the same way for the server API and for feeds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gateway_core::channel_rules::{ChannelOptions, ChannelRules};
use gateway_core::history::Retention;
use serde_json::value::RawValue;
use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use shared::error::ErrorCode;
use shared::publication::{JSON_DEPTH_MAX, Keyed, Payload, Publication, is_too_deep};

use super::api_config::ApiConfig;
use super::api_error::ApiError;
use super::map::key;
use crate::broker::{Idempotency, PublishRequest, Version};

/// Longest idempotency key, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// Longest epoch of versions, in bytes.
const VERSION_EPOCH_BYTES_MAX: usize = 64;

/// The content of a publish or broadcast request.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    pub(crate) data: Option<&'a RawValue>,
    pub(crate) b64data: &'a str,
    pub(crate) skip_history: bool,
    pub(crate) tags: &'a BTreeMap<Box<str>, Box<str>>,
    pub(crate) idempotency_key: &'a str,
    pub(crate) version: u64,
    pub(crate) version_epoch: &'a str,
    pub(crate) delta: bool,
    pub(crate) key: Option<&'a str>,
}

/// A message to publish, the same for each channel.
#[derive(Debug)]
pub(crate) struct PublishedMessage {
    publication: Publication,
    skip_history: bool,
    idempotency: Option<Idempotency>,
    version: Option<Version>,
}

impl PublishedMessage {
    /// Reads a message. `body` is what the content is borrowed from.
    pub(crate) fn read(content: Content<'_>, body: &Bytes, config: &ApiConfig) -> Result<Self, ApiError> {
        let version = version(content.version, content.version_epoch)?;
        let idempotency = idempotency(content.idempotency_key, config)?;
        let mut publication = Publication::new(payload(content.data, content.b64data, body, config)?);
        publication.tags = content.tags.clone();
        publication.delta = content.delta;
        if let Some(named) = content.key {
            publication.keyed = Some(Box::new(Keyed { key: key(named)?, ..Keyed::default() }));
        }
        Ok(Self { publication, skip_history: content.skip_history, idempotency, version })
    }

    /// Sets how long the idempotency key is kept, and uses this key if the message has none.
    pub(crate) fn known_by(self, key: impl FnOnce() -> Box<str>, ttl: Duration) -> Self {
        let key = self.idempotency.map_or_else(key, |own| own.key);
        Self { idempotency: Some(Idempotency { key, ttl }), ..self }
    }

    pub(crate) fn to(&self, channel: Channel, options: &ChannelOptions) -> Result<PublishRequest, ApiError> {
        if options.keeps_keys() {
            return Err(ApiError::bad_request("the channel keeps state by key: use map_publish"));
        }
        if options.is_polled() {
            return Err(ApiError::not_available("the channel is polled: use shared_poll_publish"));
        }
        if !options.publication_data_format.admits(&self.publication.data) {
            return Err(ApiError::bad_request("the data is not in the format that the channel requires"));
        }
        if self.publication.keyed.is_some() && !options.newest.takes_keys() {
            return Err(ApiError::bad_request("key is only for channels with newest values"));
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

/// Returns the channel of this name and its options.
pub(crate) fn channel(rules: &ChannelRules, name: &str) -> Result<(Channel, Arc<ChannelOptions>), ApiError> {
    let channel =
        rules.channel(name, CHANNEL_BYTES_MAX).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let options = rules.options(&channel).ok_or(ErrorCode::UnknownChannel)?.clone();
    Ok((channel, options))
}

/// Reads a payload. `body` is what the data is borrowed from.
pub(super) fn payload(
    data: Option<&RawValue>,
    b64data: &str,
    body: &Bytes,
    config: &ApiConfig,
) -> Result<Payload, ApiError> {
    let payload = match data {
        _ if !b64data.is_empty() => decode(b64data)?,
        // Shares the body's memory: a payload is not copied on its way to the broker.
        Some(data) => Payload::json(body.slice_ref(data.get().as_bytes())),
        None => return Err(ApiError::bad_request("no data is given")),
    };
    let max = config.publication_bytes_max;
    if payload.bytes.len() > max {
        return Err(ApiError::bad_request(format!("the data is longer than {max} bytes")));
    }
    if is_too_deep(&payload.bytes) {
        return Err(ApiError::bad_request(format!("the data is nested deeper than {JSON_DEPTH_MAX} levels")));
    }
    Ok(payload)
}

/// Returns the version, or `None` if there is none.
pub(super) fn version(number: u64, epoch: &str) -> Result<Option<Version>, ApiError> {
    if epoch.len() > VERSION_EPOCH_BYTES_MAX {
        let detail = format!("the version epoch is longer than {VERSION_EPOCH_BYTES_MAX} bytes");
        return Err(ApiError::bad_request(detail));
    }
    Ok((number != 0).then(|| Version { number, epoch: epoch.into() }))
}

/// Returns the idempotency key, or `None` if there is none.
pub(super) fn idempotency(key: &str, config: &ApiConfig) -> Result<Option<Idempotency>, ApiError> {
    if key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let detail = format!("the idempotency key is longer than {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
        return Err(ApiError::bad_request(detail));
    }
    Ok((!key.is_empty()).then(|| Idempotency { key: key.into(), ttl: config.idempotency_ttl() }))
}

/// Decodes a payload of any content: clients receive JSON or text as such, and anything else as binary.
fn decode(base64: &str) -> Result<Payload, ApiError> {
    let bytes: Bytes =
        STANDARD.decode(base64).map_err(|error| ApiError::bad_request(format!("b64data: {error}")))?.into();
    if bytes.is_empty() {
        return Err(ErrorCode::BadRequest.into());
    }
    Ok(match std::str::from_utf8(&bytes) {
        Ok(_) => Payload::json_or_text(bytes),
        Err(_) => Payload::binary(bytes),
    })
}
