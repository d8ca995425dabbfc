//! The rights of the client in a channel: from the channel's options, from its tokens or the application, or all of
//! them in insecure mode.

use std::sync::Arc;

use shared::channel::Channel;
use shared::topic_selector::Selector;

use super::Session;
use super::terms::RecoveryRequest;
use crate::audience::SubscriberAudience;
use crate::channel_rules::ChannelOptions;
use crate::effect::Rights;
use crate::permission::{
    self, may_publish, may_publish_key, may_read_history, may_read_presence, may_remove_key, may_subscribe,
};
use crate::tag_filter::TagFilter;

/// The topic whose channel receives the updates of all topics.
const ALL_TOPICS: &str = "*";

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

    /// Returns whether the client's token names the channel's topic, or any topic if the channel is that of all topics.
    pub(super) fn may_follow_topics(&self, options: &ChannelOptions, channel: &Channel) -> bool {
        let name = self.context.rules.own_name(channel);
        let is_of_all = name == ALL_TOPICS;
        let selectors = self.authorized();
        options.has_private_publications
            && (is_of_all && !selectors.is_empty() || selectors.iter().any(|selector| selector.matches(name)))
    }

    /// Limits a subscription to a channel with private publications to those this client may see. `granted`: whether
    /// somebody lets it subscribe, whatever the options say.
    pub(super) fn narrow_to_audience(
        &self,
        options: &ChannelOptions,
        channel: &Channel,
        recovery: &mut RecoveryRequest,
        granted: bool,
    ) {
        let topics = std::mem::take(&mut recovery.topics);
        let open = granted || self.may_subscribe(options, channel);
        if let Some(audience) = self.audience(options, channel, topics, open) {
            let own = recovery.filter.take();
            recovery.filter = Some(Arc::new(TagFilter::of_audience(audience, own.as_deref())));
        }
    }

    /// Returns the audience that limits which of the channel's publications the client may see. `None` if it may see
    /// all of them.
    pub(super) fn audience(
        &self,
        options: &ChannelOptions,
        channel: &Channel,
        topics: Box<[Selector]>,
        open: bool,
    ) -> Option<SubscriberAudience> {
        let insecure = self.context.insecure;
        if !options.has_private_publications || insecure && topics.is_empty() {
            return None;
        }
        let name = self.context.rules.own_name(channel);
        let audience = SubscriberAudience {
            own: if name == ALL_TOPICS { "".into() } else { name.into() },
            follows: (!topics.is_empty() && !topics.iter().any(Selector::is_all)).then_some(topics),
            authorized: if insecure { [Selector::new(ALL_TOPICS)].into() } else { self.authorized().into() },
            open,
        };
        (!audience.is_everything()).then_some(audience)
    }

    /// Returns the topics that the client's token lets it read.
    fn authorized(&self) -> &[Selector] {
        let updates = self.identity.as_ref().and_then(|identity| identity.updates.as_deref());
        updates.map_or(&[], |updates| &updates.subscribe)
    }

    /// Returns the rights in a channel granted by the connection token's capabilities and by the subscription.
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
