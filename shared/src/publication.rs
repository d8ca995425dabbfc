//! A publication: what is sent to a channel, and who sent it.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::id::{ClientId, UserId};
use crate::position::StreamPosition;

/// What kind of bytes a payload holds, so that each protocol can carry it without looking inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadKind {
    /// One valid JSON value, exactly as its publisher wrote it.
    Json,
    /// UTF-8 text that is not known to be JSON.
    Text,
    Binary,
}

/// What a publication carries. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Payload {
    pub kind: PayloadKind,
    pub bytes: Bytes,
}

impl Payload {
    /// The caller has checked that these bytes are one JSON value.
    pub fn json(bytes: impl Into<Bytes>) -> Self {
        Self { kind: PayloadKind::Json, bytes: bytes.into() }
    }

    pub fn text(text: impl Into<Bytes>) -> Self {
        Self { kind: PayloadKind::Text, bytes: text.into() }
    }

    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self { kind: PayloadKind::Binary, bytes: bytes.into() }
    }
}

/// Key and value pairs that travel beside the payload.
pub type Tags = BTreeMap<Box<str>, Box<str>>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    pub data: Payload,
    /// Where it stands in its channel's stream; `None` in a channel that keeps none.
    pub position: Option<StreamPosition>,
    /// The client that published it; `None` if it came through the server API.
    pub info: Option<ClientInfo>,
    pub tags: Tags,
}

impl Publication {
    pub fn new(data: Payload) -> Self {
        Self { data, position: None, info: None, tags: Tags::new() }
    }

    /// 0 in a channel without a stream.
    pub fn offset(&self) -> u64 {
        self.position.map_or(0, |position| position.offset)
    }
}

/// What others may know of a client: in presence, and beside what it publishes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientInfo {
    pub client: ClientId,
    pub user: UserId,
    /// JSON from the connection's token.
    pub conn_info: Option<Bytes>,
    /// JSON from the subscription's token.
    pub chan_info: Option<Bytes>,
}
