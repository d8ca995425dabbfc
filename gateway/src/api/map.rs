//! Commands on channels that keep state by key: sets and removes keys, reads state and stream.

use gateway_core::history::{HistoryFilter, HistoryPage};
use gateway_core::map::{
    ChangedKey, KEY_BYTES_MAX, KeyAction, MapChange, MapRetention, SetKey, SetMode, StateFilter, StatePage,
};
use shared::channel::Channel;
use shared::error::ErrorCode;
use shared::position::{Epoch, StreamPosition};
use shared::publication::{Payload, Publication};

use super::api_error::ApiError;
use super::api_request;
use super::published_message::{idempotency, version};
use super::run_command::ApiCall;
use crate::broker::ChangeRequest;
use crate::telemetry::labels::PublicationSource;

/// A page of state ends after the key with which it reaches this many bytes.
const PAGE_BYTES_MAX: u32 = 4 << 20;

impl ApiCall<'_> {
    pub(super) async fn map_publish(
        &self,
        request: &api_request::MapPublish<'_>,
    ) -> Result<ChangedKey, ApiError> {
        let (channel, keeping) = self.map(&request.channel)?;
        let mode = match &*request.key_mode {
            "" => SetMode::Any,
            "if_new" => SetMode::IfNew,
            "if_exists" => SetMode::IfExists,
            _ => return Err(ApiError::bad_request("key_mode must be if_new, if_exists or empty")),
        };
        let data = match request.has_data() {
            true => self.payload(request.data, &request.b64data)?,
            // A key may carry no data.
            false => Payload::json(bytes::Bytes::new()),
        };
        let rules = self.node.rules();
        let options = rules.options(&channel).ok_or(ErrorCode::UnknownChannel)?;
        if !data.bytes.is_empty() && !options.publication_data_format.admits(&data) {
            return Err(ApiError::bad_request("the data is not in the format that the channel requires"));
        }
        let version = version(request.version, &request.version_epoch)?;
        if version.is_some() && !keeping.stream.keeps_history() {
            return Err(ApiError::bad_request("a version needs a channel with a stream"));
        }
        let mut publication = Publication::new(data);
        publication.tags = request.tags.clone();
        publication.delta = request.delta || options.delta_publish;
        let set = SetKey { publication, score: request.score, mode, refreshes: false, version };
        let action = KeyAction::Set(Box::new(set));
        let expected = expected(request.expected.as_ref(), &keeping)?;
        let change = MapChange { key: key(&request.key)?, action, expected };
        self.change(channel, change, keeping, &request.idempotency_key).await
    }

    pub(super) async fn map_remove(
        &self,
        request: &api_request::MapRemove<'_>,
    ) -> Result<ChangedKey, ApiError> {
        let (channel, keeping) = self.map(&request.channel)?;
        let expected = expected(request.expected.as_ref(), &keeping)?;
        let change =
            MapChange { key: key(&request.key)?, action: KeyAction::Remove { tags: None }, expected };
        self.change(channel, change, keeping, &request.idempotency_key).await
    }

    async fn change(
        &self,
        channel: Channel,
        change: MapChange,
        keeping: MapRetention,
        idempotency_key: &str,
    ) -> Result<ChangedKey, ApiError> {
        let idempotency = idempotency(idempotency_key, self.config)?;
        self.in_time()?;
        let namespace = self.node.namespace_of(&channel);
        let request = ChangeRequest { channel, change, keeping, idempotency };
        let mut changed = self.node.change_key(request).await.map_err(ApiError::not_published)?;
        self.node.metrics.publication_in(namespace, PublicationSource::Api);
        if !keeping.stream.keeps_history() {
            changed.position = changed.position.map(unnumbered);
        }
        Ok(changed)
    }

    pub(super) async fn map_read_state(
        &self,
        request: &api_request::MapReadState<'_>,
    ) -> Result<StatePage, ApiError> {
        let (channel, keeping) = self.map(&request.channel)?;
        self.in_time()?;
        let max = self.config.history_limit_max;
        let filter = StateFilter {
            cursor: (*request.cursor).into(),
            limit: u32::try_from(request.limit).map_or(max, |limit| limit.min(max)),
            ascending: request.asc,
            key: (!request.key.is_empty()).then(|| (*request.key).into()),
            enough_bytes: PAGE_BYTES_MAX.min(self.share()),
        };
        let mut page = self.node.read_state(channel, filter, keeping).await.map_err(ApiError::not_read)?;
        if !keeping.stream.keeps_history() {
            page.top = page.top.map(unnumbered);
            page.entries.iter_mut().for_each(|entry| entry.position = None);
        }
        let epoch = &*request.revision_epoch;
        if !epoch.is_empty() && page.top.is_none_or(|top| *epoch != *top.epoch.as_str()) {
            return Err(ErrorCode::UnrecoverablePosition.into());
        }
        Ok(page)
    }

    pub(super) async fn map_read_stream(
        &self,
        request: &api_request::MapReadStream<'_>,
    ) -> Result<HistoryPage, ApiError> {
        let (channel, keeping) = self.map(&request.channel)?;
        if !keeping.stream.keeps_history() {
            return Err(ApiError::not_available("the channel has no stream"));
        }
        self.in_time()?;
        let max = self.config.history_limit_max;
        let begins = request.since_offset == 0 && request.since_epoch.is_empty();
        let filter = HistoryFilter {
            since: (!begins).then_some(request.since_offset),
            limit: u32::try_from(request.limit).map_or(max, |limit| limit.min(max)),
            reverse: request.reverse,
            enough_bytes: None,
        };
        let page = self.read_history(channel, filter, keeping.stream).await?;
        match &*request.since_epoch {
            epoch if !epoch.is_empty() && *epoch != *page.top.epoch.as_str() => {
                Err(ErrorCode::UnrecoverablePosition.into())
            }
            _ => Ok(page),
        }
    }

    pub(super) async fn map_stats(&self, request: &api_request::ChannelRequest<'_>) -> Result<u64, ApiError> {
        let (channel, _) = self.map(&request.channel)?;
        self.in_time()?;
        self.node.count_keys(channel).await.map_err(ApiError::not_read)
    }

    pub(super) async fn map_clear(&self, request: &api_request::ChannelRequest<'_>) -> Result<(), ApiError> {
        let (channel, _) = self.map(&request.channel)?;
        self.in_time()?;
        Ok(self.node.clear_state(channel).await?)
    }

    /// Returns the channel of this name, which has to keep state by key.
    fn map(&self, name: &str) -> Result<(Channel, MapRetention), ApiError> {
        let (channel, options) = self.channel(name)?;
        if !options.keeps_keys() {
            return Err(ApiError::bad_request("the channel keeps no state by key"));
        }
        Ok((channel, options.map.keeping()))
    }
}

/// Removes the offset, which in a channel without a stream is internal to the nodes. Callers see the epoch.
fn unnumbered(position: StreamPosition) -> StreamPosition {
    StreamPosition { offset: 0, ..position }
}

pub(super) fn key(key: &str) -> Result<Box<str>, ApiError> {
    match key.len() {
        0 => Err(ApiError::bad_request("no key is given")),
        1..=KEY_BYTES_MAX => Ok(key.into()),
        _ => Err(ApiError::bad_request(format!("the key is longer than {KEY_BYTES_MAX} bytes"))),
    }
}

fn expected(
    since: Option<&api_request::Since<'_>>,
    keeping: &MapRetention,
) -> Result<Option<StreamPosition>, ApiError> {
    let Some(since) = since else { return Ok(None) };
    if !keeping.stream.keeps_history() {
        return Err(ApiError::bad_request("an expected position needs a channel with a stream"));
    }
    let epoch = Epoch::parse(&since.epoch).ok_or_else(|| ApiError::bad_request("the epoch is invalid"))?;
    Ok(Some(StreamPosition { offset: since.offset, epoch }))
}
