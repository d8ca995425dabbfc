//! The parameters of methods on channels that keep state by key.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{RequestText, Since, or_default};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::api) struct MapPublish<'a> {
    #[serde(borrow)]
    pub(in crate::api) channel: RequestText<'a>,
    #[serde(borrow)]
    pub(in crate::api) key: RequestText<'a>,
    #[serde(borrow)]
    pub(in crate::api) data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(in crate::api) b64data: RequestText<'a>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) tags: BTreeMap<Box<str>, Box<str>>,
    #[serde(borrow)]
    pub(in crate::api) idempotency_key: RequestText<'a>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) delta: bool,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) version: u64,
    #[serde(borrow)]
    pub(in crate::api) version_epoch: RequestText<'a>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) score: i64,
    #[serde(borrow)]
    pub(in crate::api) key_mode: RequestText<'a>,
    /// The position at which the key must have been written last.
    #[serde(borrow)]
    pub(in crate::api) expected: Option<Since<'a>>,
}

impl MapPublish<'_> {
    pub(in crate::api) fn has_data(&self) -> bool {
        self.data.is_some() || !self.b64data.is_empty()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::api) struct MapRemove<'a> {
    #[serde(borrow)]
    pub(in crate::api) channel: RequestText<'a>,
    #[serde(borrow)]
    pub(in crate::api) key: RequestText<'a>,
    #[serde(borrow)]
    pub(in crate::api) idempotency_key: RequestText<'a>,
    #[serde(borrow)]
    pub(in crate::api) expected: Option<Since<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::api) struct MapReadState<'a> {
    #[serde(borrow)]
    pub(in crate::api) channel: RequestText<'a>,
    #[serde(borrow)]
    pub(in crate::api) cursor: RequestText<'a>,
    /// 0 for the position only; negative for as many as allowed.
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) limit: i64,
    /// Restricts the read to this key, if not empty.
    #[serde(borrow)]
    pub(in crate::api) key: RequestText<'a>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) asc: bool,
    #[serde(borrow)]
    pub(in crate::api) revision_epoch: RequestText<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::api) struct MapReadStream<'a> {
    #[serde(borrow)]
    pub(in crate::api) channel: RequestText<'a>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) since_offset: u64,
    #[serde(borrow)]
    pub(in crate::api) since_epoch: RequestText<'a>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) limit: i64,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) reverse: bool,
}
