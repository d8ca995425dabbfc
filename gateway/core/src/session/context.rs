//! What all sessions of a node share.

use std::sync::Arc;
use std::time::Duration;

use shared::refusal::Refusal;

use super::settings::SessionSettings;
use crate::channel_rules::ChannelRules;
use crate::namespace_id::NamespaceId;

/// Is told what sessions do, to count it. Nothing they decide depends on it.
pub trait SessionObserver: Send + Sync + std::fmt::Debug {
    /// A command was begun. `name` is the protocol's word for it.
    fn command(&self, name: &'static str);
    /// A command was answered with an error. `namespace`: of the channel that the command was about, where that is known.
    fn refused(&self, namespace: Option<NamespaceId>, refusal: &Refusal);
    /// A subscriber asked to be brought up to date.
    fn recovery(&self, namespace: NamespaceId, recovered: bool);
    /// A client has answered a ping, and so has taken all that it was sent before it. `took`: since the ping was made, in
    /// whole milliseconds.
    fn acknowledged(&self, took: Duration);
}

/// Counts nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoObserver;

impl SessionObserver for NoObserver {
    fn command(&self, _name: &'static str) {}
    fn refused(&self, _namespace: Option<NamespaceId>, _refusal: &Refusal) {}
    fn recovery(&self, _namespace: NamespaceId, _recovered: bool) {}
    fn acknowledged(&self, _took: Duration) {}
}

/// What the application behind the gateway takes from clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Application {
    pub rpc: bool,
    pub messages: bool,
    pub events: bool,
}

#[derive(Clone, Debug)]
pub struct Context {
    pub settings: SessionSettings,
    pub rules: ChannelRules,
    /// For development: every client may do everything that the channel's options make possible.
    pub insecure: bool,
    pub application: Application,
    /// The configured name of this node, told to clients.
    pub node: Arc<str>,
    /// The gateway's version, told to clients.
    pub version: &'static str,
    pub observer: Arc<dyn SessionObserver>,
}
