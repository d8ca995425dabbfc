//! What this client may do in a channel: by the channel's options, by what its tokens or the application gave it, or
//! because nothing is kept from anyone here.

use shared::channel::Channel;

use super::Session;
use crate::channel_rules::ChannelOptions;
use crate::effect::Rights;
use crate::permission::{
    self, may_publish, may_publish_key, may_read_history, may_read_presence, may_remove_key, may_subscribe,
};

impl Session {
    pub(super) fn may_subscribe(&self, options: &ChannelOptions, channel: &Channel) -> bool {
        self.context.insecure
            || may_subscribe(&self.context.rules, options, channel, self.user(), self.client)
            || self.rights(channel).subscribe
    }

    pub(super) fn may_publish(&self, options: &ChannelOptions, channel: &Channel) -> bool {
        self.context.insecure
            || may_publish(&self.context.rules, options, channel, self.user(), self.is_live(channel))
            || self.rights(channel).publish
    }

    pub(super) fn may_publish_key(&self, options: &ChannelOptions, channel: &Channel) -> bool {
        self.context.insecure
            || may_publish_key(&self.context.rules, options, channel, self.user(), self.is_live(channel))
            || self.rights(channel).publish
    }

    pub(super) fn may_remove_key(&self, options: &ChannelOptions, channel: &Channel) -> bool {
        self.context.insecure
            || may_remove_key(&self.context.rules, options, channel, self.user(), self.is_live(channel))
            || self.rights(channel).publish
    }

    pub(super) fn may_read_history(&self, options: &ChannelOptions, channel: &Channel) -> bool {
        self.context.insecure
            || may_read_history(&self.context.rules, options, channel, self.user(), self.is_live(channel))
            || self.rights(channel).history
    }

    pub(super) fn may_read_presence(&self, options: &ChannelOptions, channel: &Channel) -> bool {
        self.context.insecure
            || may_read_presence(&self.context.rules, options, channel, self.user(), self.is_live(channel))
            || self.rights(channel).presence
    }

    /// What it was given leave to do.
    pub(super) fn rights(&self, channel: &Channel) -> Rights {
        let caps = self.identity.as_ref().map_or(&[][..], |identity| &identity.caps);
        let own = permission::rights(caps, &self.context.rules.names, channel);
        let subscription = self.find(channel.as_str()).ok().and_then(|at| self.subscriptions[at].granted());
        let granted = subscription.map(|granted| granted.allow).unwrap_or_default();
        Rights {
            subscribe: own.subscribe || granted.subscribe,
            publish: own.publish || granted.publish,
            presence: own.presence || granted.presence,
            history: own.history || granted.history,
        }
    }

    fn is_live(&self, channel: &Channel) -> bool {
        self.find_live(channel.as_str()).is_some()
    }
}
