//! What is allowed and kept in which channels: options for each namespace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::channel::Channel;

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
    /// Keep who is subscribed.
    pub presence: bool,
    /// Clients with a user may subscribe without a subscription token.
    pub allow_subscribe: bool,
    /// Anonymous clients may subscribe without a subscription token.
    pub allow_subscribe_anonymous: bool,
    /// The users named after the `#` of a channel (`chat#ann,bob`) may subscribe to it without a subscription token.
    /// Nobody else may, whatever the other options say.
    pub allow_user_limited: bool,
    /// Clients with a user may publish.
    pub allow_publish: bool,
    /// Anonymous clients may publish.
    pub allow_publish_anonymous: bool,
    /// Subscribers may read history.
    pub allow_history: bool,
    /// Subscribers may read presence.
    pub allow_presence: bool,
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
}

impl ChannelRules {
    /// `None` if the channel names a namespace that does not exist.
    pub fn options(&self, channel: &Channel) -> Option<&Arc<ChannelOptions>> {
        match channel.namespace() {
            None => Some(&self.default),
            Some(namespace) => self.namespaces.get(namespace),
        }
    }
}
