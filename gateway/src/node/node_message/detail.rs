//! What is told of connections, to whoever lists them and to whoever looks into one.

use serde::{Deserialize, Serialize};
use shared::publication::Tags;

/// What is told of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionInfo {
    pub client: Box<str>,
    pub user: Box<str>,
    /// How it is reached.
    pub transport: Box<str>,
    /// In what it speaks.
    pub protocol: Box<str>,
    /// Seconds since it was opened.
    pub uptime: u64,
    /// The first of its channels.
    pub channels: Vec<Box<str>>,
    /// All of its channels.
    pub num_channels: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<ConnectionDetail>>,
}

/// What is told of connections beside who they are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DetailWanted {
    /// Of a publication: which subscriptions have a filter that lets it through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Tags>,
}

/// What is told of a connection to whoever looks into it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionDetail {
    /// What waits to be written to its socket.
    pub outbox_bytes: u64,
    /// For how long the socket has taken nothing of that, in milliseconds. 0: nothing waits for it.
    pub stalled_ms: u64,
    /// Of the first of its channels, in their order.
    pub subscriptions: Vec<SubscriptionDetail>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SubscriptionDetail {
    pub channel: Box<str>,
    /// `live`, `joining`, `ahead` or `insufficient`.
    pub stage: Box<str>,
    /// It follows the stream, and is told of gaps.
    pub positioned: bool,
    /// It is sent the newest value of each key.
    pub newest: bool,
    /// Offset and epoch up to which everything was handed to it, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<(u64, Box<str>)>,
    pub filtered: bool,
    /// Whether its filter lets the publication through that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passes: Option<bool>,
}
