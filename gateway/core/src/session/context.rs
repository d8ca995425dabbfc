//! What all sessions of a node share.

use std::sync::Arc;

use super::settings::Settings;
use crate::channel_rules::ChannelRules;

#[derive(Clone, Debug)]
pub struct Context {
    pub settings: Settings,
    pub rules: ChannelRules,
    /// For development: every client may do everything that the channel's options make possible.
    pub insecure: bool,
    /// The configured name of this node, told to clients.
    pub node: Arc<str>,
    /// The gateway's version, told to clients.
    pub version: &'static str,
}
