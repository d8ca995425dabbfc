//! The parameters of methods that inspect connections.

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
    /// 0 for as many as allowed.
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
    /// The publication's offset. 0 for no particular publication.
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) offset: u64,
    /// The publication's epoch. Empty for the channel's current one.
    #[serde(borrow)]
    pub(in crate::api) epoch: RequestText<'a>,
}
