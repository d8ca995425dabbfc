//! The context that all sessions of a node share.

use std::sync::Arc;
use std::time::Duration;

use shared::refusal::Refusal;

use super::settings::SessionSettings;
use crate::channel_rules::ChannelRules;
use crate::namespace_id::NamespaceId;

/// Observes sessions, to count what they do. No decision of a session depends on it.
pub trait SessionObserver: Send + Sync + std::fmt::Debug {
    /// Reports that a command was begun. `name` is the protocol's name for it.
    fn command(&self, name: &'static str);
    /// Reports that a command was refused. `namespace` is that of the channel that the command was about, if it is
    /// known.
    fn refused(&self, namespace: Option<NamespaceId>, refusal: &Refusal);
    /// Reports that a subscriber asked for recovery, and whether it succeeded.
    fn recovery(&self, namespace: NamespaceId, recovered: bool);
    /// Reports that a client has answered a ping, and so has taken all that it was sent before. `took` is the time
    /// since the ping was sent, in whole milliseconds.
    fn acknowledged(&self, took: Duration);
}

/// An observer that ignores everything.
#[derive(Clone, Copy, Debug)]
pub struct NoObserver;

impl SessionObserver for NoObserver {
    fn command(&self, _name: &'static str) {}
    fn refused(&self, _namespace: Option<NamespaceId>, _refusal: &Refusal) {}
    fn recovery(&self, _namespace: NamespaceId, _recovered: bool) {}
    fn acknowledged(&self, _took: Duration) {}
}

/// Which commands of clients the application behind the gateway accepts.
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
