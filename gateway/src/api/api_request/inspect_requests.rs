//! What is asked by whoever looks into a connection.

use serde::Deserialize;

use super::{RequestText, or_default};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::api) struct Inspect<'a> {
    #[serde(borrow)]
    pub(in crate::api) client: RequestText<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::api) struct ClosesRequest<'a> {
    #[serde(borrow)]
    pub(in crate::api) user: RequestText<'a>,
    #[serde(borrow)]
    pub(in crate::api) client: RequestText<'a>,
    /// 0: as many as allowed.
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) limit: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::api) struct Explain<'a> {
    #[serde(borrow)]
    pub(in crate::api) client: RequestText<'a>,
    #[serde(borrow)]
    pub(in crate::api) channel: RequestText<'a>,
    /// Of the publication. 0: of any.
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) offset: u64,
    /// Empty: whatever the channel's is now.
    #[serde(borrow)]
    pub(in crate::api) epoch: RequestText<'a>,
}
