//! What all sessions of a node share.

use std::sync::Arc;

use shared::refusal::Refusal;

use super::settings::Settings;
use crate::channel_rules::ChannelRules;

/// Is told what sessions do, to count it. Nothing they decide depends on it.
pub trait Observe: Send + Sync + std::fmt::Debug {
    /// A command was begun. `name` is the protocol's word for it.
    fn command(&self, name: &'static str);
    /// A command was answered with an error.
    fn refused(&self, refusal: &Refusal);
    /// A subscriber asked to be brought up to date.
    fn recovery(&self, recovered: bool);
    /// Something was asked for that is not served, and the rest is.
    fn unserved(&self, what: Unserved);
}

/// What clients and tokens can ask for and do not get. The protocol has no word to tell them, so whoever runs the
/// gateway is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unserved {
    /// The claim `channels` of a connection token.
    TokenChannels,
    /// The claim `subs` of a connection token.
    TokenSubs,
    /// The claims `data` and `b64data` of a subscription token.
    TokenData,
    /// The claim `override` of a subscription token.
    TokenOverride,
}

impl Unserved {
    pub const ALL: [Self; 4] = [Self::TokenChannels, Self::TokenSubs, Self::TokenData, Self::TokenOverride];

    /// For metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::TokenChannels => "token channels",
            Self::TokenSubs => "token subs",
            Self::TokenData => "token data",
            Self::TokenOverride => "token override",
        }
    }
}

/// Counts nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl Observe for Unobserved {
    fn command(&self, _name: &'static str) {}
    fn refused(&self, _refusal: &Refusal) {}
    fn recovery(&self, _recovered: bool) {}
    fn unserved(&self, _what: Unserved) {}
}

/// What the application behind the gateway takes from clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Application {
    pub rpc: bool,
    pub messages: bool,
}

#[derive(Clone, Debug)]
pub struct Context {
    pub settings: Settings,
    pub rules: ChannelRules,
    /// For development: every client may do everything that the channel's options make possible.
    pub insecure: bool,
    pub application: Application,
    /// The configured name of this node, told to clients.
    pub node: Arc<str>,
    /// The gateway's version, told to clients.
    pub version: &'static str,
    pub observer: Arc<dyn Observe>,
}
