//! The publish command for a key of a map, which sets or removes the key.

use shared::channel::Channel;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::publication::{Payload, Publication};

use super::Session;
use super::session_state::PendingEffect;
use crate::channel_rules::{ChannelOptions, SubscriptionType};
use crate::effect::Effect;
use crate::map::{ClientKey, KEY_BYTES_MAX, KeyAction, MapChange, SetKey, SetMode};

impl Session {
    /// Without `data` the key is removed.
    pub(super) fn on_publish_key(
        &mut self,
        now: Moment,
        id: u32,
        channel: &str,
        key: &str,
        data: Option<Payload>,
    ) {
        let Some(channel) = self.channel(now, id, channel) else { return };
        let context = self.context.clone();
        let Some(options) = context.rules.options(&channel) else {
            return self.refuse_about(now, &channel, id, ErrorCode::UnknownChannel);
        };
        if options.newest.takes_keys() && !options.keeps_keys() {
            return self.publish_value(now, id, channel, key, data);
        }
        let is_allowed = match &data {
            Some(_) => options.map.publish_hook || self.may_publish_key(options, &channel),
            None => options.map.remove_hook || self.may_remove_key(options, &channel),
        };
        // The gateway itself writes the keys of maps of clients and users.
        let is_of_others =
            matches!(options.subscription_type, SubscriptionType::MapClients | SubscriptionType::MapUsers);
        let Some(key) = self.key_of(options, key).filter(|_| is_allowed && !is_of_others) else {
            return self.refuse_about(now, &channel, id, ErrorCode::PermissionDenied);
        };
        let is_of_format = data
            .as_ref()
            .is_none_or(|data| data.bytes.is_empty() || options.publication_data_format.admits(data));
        if !options.keeps_keys() || key.is_empty() || key.len() > KEY_BYTES_MAX || !is_of_format {
            return self.refuse_about(now, &channel, id, ErrorCode::BadRequest);
        }
        let action = match data {
            Some(data) => self.setting(&channel, options, data),
            None => KeyAction::Remove { tags: None },
        };
        let change = Box::new(MapChange { key, action, expected: None });
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::Publish);
        self.effects.push_back(Effect::ChangeKey { ticket, channel, change, keeping: options.map.keeping() });
    }

    /// Publishes to a channel whose subscribers follow the newest values. The key says which value the publication
    /// replaces.
    fn publish_value(&mut self, now: Moment, id: u32, channel: Channel, key: &str, data: Option<Payload>) {
        match data {
            Some(data) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => {
                self.on_publish(now, id, channel.as_str(), Some(key), data);
            }
            // A newest value cannot be removed: it ends when it expires.
            _ => self.refuse_about(now, &channel, id, ErrorCode::BadRequest),
        }
    }

    fn setting(&self, channel: &Channel, options: &ChannelOptions, data: Payload) -> KeyAction {
        let info = Some(self.info(self.find_live(channel.as_str()).and_then(|one| one.granted())));
        let publication = Publication { info, delta: options.delta_publish, ..Publication::new(data) };
        let mode = SetMode::Any;
        KeyAction::Set(Box::new(SetKey { publication, score: 0, mode, refreshes: false, version: None }))
    }

    /// Returns the key that the client writes when it names `named`. `None` if the client has no key.
    fn key_of(&self, options: &ChannelOptions, named: &str) -> Option<Box<str>> {
        match options.map.client_key {
            ClientKey::Any => Some(named.into()),
            ClientKey::ClientId => Some(self.client.to_string().into()),
            ClientKey::UserId if self.user().is_anonymous() => None,
            ClientKey::UserId => Some(self.user().as_str().into()),
        }
    }
}
