//! The wire types of questions.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ConnectionCursor, DetailWanted};

#[derive(Serialize, Deserialize)]
pub(super) struct WireSubscription {
    pub(super) channel: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) info: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Box<RawValue>>,
    /// The offset and the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<(u64, Box<str>)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) presence: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) join_leave: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) force_recovery: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) force_positioning: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) force_push_join_leave: Option<bool>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireRefresh {
    #[serde(default)]
    pub(super) expired: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) info: Option<Box<RawValue>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireConnections {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) client: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) channel: Option<Box<str>>,
    #[serde(default)]
    pub(super) from: ConnectionCursor,
    pub(super) limit: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<DetailWanted>,
}
