//! Commands on channels that keep state by key: changes and reads.

use gateway_core::effect::Denial;
use gateway_core::feed::FeedDelivery;
use gateway_core::map::{ChangedKey, KeyAction, MapRetention, StateFilter, StatePage};
use gateway_core::namespace_id::NamespaceId;
use shared::channel::Channel;
use shared::error::ErrorCode;
use shared::position::StreamPosition;
use tracing::Instrument;

use crate::backend::{ClientOrigin, HookSubject, KeyAnswer};
use crate::broker::{BrokerError, ChangeRequest, Idempotency, Version};
use crate::node::Node;
use crate::node::control::ControlCommand;
use crate::node::interest::ChannelLink;
use crate::node::publish::HOOK_IDEMPOTENCY_TTL;
use crate::node::stamp::take_tag_off;
use crate::telemetry::traces::SPANS;

impl Node {
    /// Asks the channel's hook about a change that a client requests. Returns the change as the hook wants it.
    pub(crate) async fn ask_key_hook(
        &self,
        origin: &ClientOrigin,
        asker: &HookSubject<'_>,
        request: ChangeRequest,
    ) -> Result<ChangeRequest, Denial> {
        let backend = self.backend.as_ref().ok_or(Denial::of(ErrorCode::NotAvailable))?;
        let data = match &request.change.action {
            KeyAction::Set(set) => Some(&set.publication.data.bytes[..]),
            KeyAction::Remove { .. } => None,
        };
        let (channel, key) = (request.channel.as_str(), &request.change.key);
        let answer = backend.change_key(origin, asker, channel, key, data).await?;
        if answer.version > 0 && !request.keeping.stream.keeps_history() {
            tracing::warn!(channel, "a backend gives a version to a key of a channel without a stream");
            return Err(Denial::of(ErrorCode::Internal));
        }
        Ok(answered(request, answer))
    }

    /// Changes a key. Resolves when the broker has made the change or refused it.
    pub async fn change_key(&self, request: ChangeRequest) -> Result<ChangedKey, BrokerError> {
        self.wait_for_room(&[&request.channel]).await?;
        self.change_key_now(request).await
    }

    /// Sends the change before it returns, so that changes reach the broker in the order of the calls.
    pub(super) fn change_key_now(
        &self,
        mut request: ChangeRequest,
    ) -> impl Future<Output = Result<ChangedKey, BrokerError>> + Send + '_ {
        let (says_when, namespace) = match self.rules().options(&request.channel) {
            Some(options) => (options.publication_time, options.namespace),
            None => (false, NamespaceId::UNKNOWN),
        };
        take_stamp_off(&mut request.change.action);
        if let KeyAction::Set(set) = &mut request.change.action
            && says_when
        {
            set.publication.time_ms = self.clock.unix_millis();
        }
        let span = tracing::info_span!(target: SPANS, "change_key", channel = %request.channel);
        let bytes = match &request.change.action {
            KeyAction::Set(set) => set.publication.data.bytes.len(),
            KeyAction::Remove { .. } => 0,
        };
        // The broker starts the change before its future is first polled.
        let changing = span.in_scope(|| self.broker.change_key(request));
        async move {
            let changed = changing.instrument(span).await;
            self.note_taken(namespace, bytes, changed.as_ref().err());
            changed
        }
    }

    pub async fn read_state(
        &self,
        channel: Channel,
        filter: StateFilter,
        keeping: MapRetention,
    ) -> Result<StatePage, BrokerError> {
        let page = self.broker.read_state(channel.clone(), filter, keeping).await;
        if let Ok(StatePage { top: Some(top), .. }) = &page {
            self.begin_from(&channel, *top);
        }
        page
    }

    /// Anchors the feed at a position that subscribers here may continue from: a later publication that does not arrive is
    /// then a gap.
    fn begin_from(&self, channel: &Channel, top: StreamPosition) {
        let mut shard = self.interest.shard(channel.as_str());
        if let Some(local) = shard.get_mut(channel.as_str()).filter(|local| local.link == ChannelLink::Up) {
            local.feed.anchor(top);
            if let Some(at) = local.feed.position().filter(|at| at.epoch != top.epoch) {
                // Another subscriber may have read the epoch that follows and continued from there. A subscriber that
                // continues from this one has to be told that its position is lost.
                self.hand_out(local, FeedDelivery::Lost(at));
            }
        }
    }

    pub async fn count_keys(&self, channel: Channel) -> Result<u64, BrokerError> {
        self.broker.count_keys(channel).await
    }

    /// Clears a channel's state. Subscribers on all nodes are told to read it again: at once if every node receives the
    /// control message, otherwise when positions are next compared.
    pub async fn clear_state(&self, channel: Channel) -> Result<(), BrokerError> {
        let cleared = self.broker.clear_state(channel.clone()).await;
        self.forget_catch_up(&channel);
        if cleared.is_ok()
            && let Err(error) = self.control(ControlCommand::Compare { channel: channel.clone() }).await
        {
            tracing::warn!(%error, %channel, "nodes could not be told that a channel was cleared; they notice when positions are compared");
        }
        cleared
    }
}

/// Removes the stamp from a change of a key, because latency is not measured for these. A client or server may have set the
/// tag itself.
fn take_stamp_off(action: &mut KeyAction) {
    match action {
        KeyAction::Set(set) => {
            set.publication.stamp = None;
            take_tag_off(&mut set.publication.tags);
        }
        KeyAction::Remove { tags } => tags.iter_mut().for_each(take_tag_off),
    }
}

/// Applies a hook's answer to a client's change.
fn answered(mut request: ChangeRequest, answer: KeyAnswer) -> ChangeRequest {
    let KeyAnswer { key, data, tags, mode, idempotency_key, delta, version, version_epoch } = answer;
    if let Some(key) = key {
        request.change.key = key;
    }
    match &mut request.change.action {
        KeyAction::Set(set) => {
            if let Some(data) = data {
                set.publication.data = data;
            }
            set.publication.tags = tags.unwrap_or_default();
            set.publication.delta |= delta;
            set.mode = mode;
            set.version = (version > 0).then_some(Version { number: version, epoch: version_epoch });
        }
        KeyAction::Remove { tags: removal_tags } => *removal_tags = tags,
    }
    let key = idempotency_key;
    request.idempotency = (!key.is_empty()).then_some(Idempotency { key, ttl: HOOK_IDEMPOTENCY_TTL });
    request
}

#[cfg(test)]
mod tests {
    use gateway_core::map::{SetKey, SetMode};
    use shared::publication::{Payload, Publication, Tags};
    use shared::stamp::{STAMP_TAG, Stamp};

    use super::*;

    #[test]
    fn a_stamp_that_comes_with_a_change_of_a_key_goes_no_further() {
        let tags: Tags = [(STAMP_TAG.into(), "1,2".into()), ("by".into(), "me".into())].into();
        let publication = Publication {
            tags: tags.clone(),
            stamp: Some(Box::new(Stamp::default())),
            ..Publication::new(Payload::text("x"))
        };
        let set = SetKey { publication, score: 0, mode: SetMode::Any, refreshes: false, version: None };
        let mut actions = [KeyAction::Set(Box::new(set)), KeyAction::Remove { tags: Some(tags) }];
        for action in &mut actions {
            take_stamp_off(action);
            let left = match action {
                KeyAction::Set(set) => {
                    assert_eq!(set.publication.stamp, None);
                    Some(&set.publication.tags)
                }
                KeyAction::Remove { tags } => tags.as_ref(),
            };
            assert_eq!(left.unwrap().keys().map(|tag| &**tag).collect::<Vec<_>>(), ["by"]);
        }
    }
}
