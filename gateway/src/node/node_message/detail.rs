//! What a node reports about its connections, in lists and in detail.

use serde::{Deserialize, Serialize};
use shared::publication::Tags;

/// A connection as it is listed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionInfo {
    pub client: Box<str>,
    pub user: Box<str>,
    /// The transport's name.
    pub transport: Box<str>,
    /// The protocol's name.
    pub protocol: Box<str>,
    /// Seconds since it was opened.
    pub uptime: u64,
    /// The first of the connection's channels.
    pub channels: Vec<Box<str>>,
    /// The number of all its channels.
    pub num_channels: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<ConnectionDetail>>,
}

/// Details to report about connections, beside the identity of the client.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DetailWanted {
    /// The tags of a publication, to report which subscriptions have a filter that passes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Tags>,
}

/// Details of one connection.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionDetail {
    /// Bytes waiting to be written to the socket.
    pub outbox_bytes: u64,
    /// For how long the socket has taken none of these bytes, in milliseconds. 0 if nothing waits.
    pub stalled_ms: u64,
    /// The first of the connection's subscriptions, in order.
    pub subscriptions: Vec<SubscriptionDetail>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SubscriptionDetail {
    pub channel: Box<str>,
    /// `live`, `joining`, `ahead` or `insufficient`.
    pub stage: Box<str>,
    /// Whether the subscription follows the stream and is told of gaps.
    pub positioned: bool,
    /// Whether it is sent only the newest value of each key.
    pub newest: bool,
    /// The offset and epoch up to which everything was handed to the subscriber, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<(u64, Box<str>)>,
    pub filtered: bool,
    /// Whether the filter passes the publication in question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passes: Option<bool>,
}
