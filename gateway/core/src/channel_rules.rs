//! What is allowed and kept in which channels: options for each namespace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::channel::{Channel, InvalidChannel};

use crate::history::Retention;

/// The options of one namespace, or of channels without one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelOptions {
    /// Publications kept for each channel. 0: no history, no offsets, no recovery.
    pub history_size: u32,
    /// Seconds a channel's history is kept after its last publication. 0: no history.
    pub history_ttl_s: u64,
    /// Milliseconds between two writes to a subscriber while publications come faster than that: they leave together,
    /// which costs less CPU and adds at most this much latency. 0: every publication leaves as soon as it can.
    pub flush_interval_ms: u32,
    /// Every subscription tracks its position and is told of gaps, asked for or not. Needs history.
    pub force_positioning: bool,
    /// Every subscription can recover, asked for or not. Needs history.
    pub force_recovery: bool,
    /// Subscriptions can recover if they ask for it. Recovery hands out history: without this and `force_recovery` it
    /// is only for channels with `allow_history`. Needs history.
    pub allow_recovery: bool,
    /// Keep who is subscribed.
    pub presence: bool,
    /// Clients with a user may subscribe without a subscription token.
    pub allow_subscribe: bool,
    /// Anonymous clients may subscribe without a subscription token.
    pub allow_subscribe_anonymous: bool,
    /// The users named after the `#` of a channel (`chat#ann,bob`) may subscribe to it without a subscription token.
    /// Nobody else may, whatever the other options say.
    pub allow_user_limited: bool,
    /// Subscribers with a user may publish.
    pub allow_publish: bool,
    /// Anonymous subscribers may publish.
    pub allow_publish_anonymous: bool,
    /// Clients with a user may publish without being subscribed, and anonymous ones if `allow_publish_anonymous` is set
    /// too. Not into channels that are private or name their users.
    pub allow_publish_for_client: bool,
    /// Subscribers may read history.
    pub allow_history: bool,
    /// Clients with a user may read history without being subscribed. Not that of channels that are private or name
    /// their users.
    pub allow_history_for_client: bool,
    /// The same for anonymous clients.
    pub allow_history_for_anonymous: bool,
    /// Subscribers may read presence.
    pub allow_presence: bool,
    /// Clients with a user may read presence without being subscribed. Not that of channels that are private or name
    /// their users.
    pub allow_presence_for_client: bool,
    /// The same for anonymous clients.
    pub allow_presence_for_anonymous: bool,
}

impl ChannelOptions {
    pub fn retention(&self) -> Retention {
        Retention { size: self.history_size, ttl: Duration::from_secs(self.history_ttl_s) }
    }
}

/// The options of every channel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChannelRules {
    /// For channels without a namespace.
    pub default: Arc<ChannelOptions>,
    pub namespaces: BTreeMap<Box<str>, Arc<ChannelOptions>>,
    /// Names may be any text, and not only printable ASCII.
    pub unicode: bool,
}

impl ChannelRules {
    /// The channel of this name, if it can be one.
    pub fn channel(&self, name: &str, bytes_max: usize) -> Result<Channel, InvalidChannel> {
        if self.unicode { Channel::parse_unicode(name, bytes_max) } else { Channel::parse(name, bytes_max) }
    }

    /// `None` if the channel names a namespace that does not exist.
    pub fn options(&self, channel: &Channel) -> Option<&Arc<ChannelOptions>> {
        match channel.namespace() {
            None => Some(&self.default),
            Some(namespace) => self.namespaces.get(namespace),
        }
    }
}
