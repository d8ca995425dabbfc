//! Publications: their payload, sender, tags and addressees.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::channel::Channel;
use crate::id::{ClientId, UserId};
use crate::position::StreamPosition;
use crate::stamp::Stamp;

/// The kind of bytes in a payload, so that each protocol can carry it without looking inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadKind {
    /// One valid JSON value, exactly as its publisher wrote it.
    Json,
    /// UTF-8 text that is not known to be JSON.
    Text,
    Binary,
}

/// The content of a publication. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Payload {
    pub kind: PayloadKind,
    pub bytes: Bytes,
}

impl Payload {
    /// Makes a JSON payload. The caller has checked that the bytes are one JSON value.
    pub fn json(bytes: impl Into<Bytes>) -> Self {
        Self { kind: PayloadKind::Json, bytes: bytes.into() }
    }

    pub fn text(text: impl Into<Bytes>) -> Self {
        Self { kind: PayloadKind::Text, bytes: text.into() }
    }

    /// Makes a payload of text with unknown content: JSON if it is exactly one JSON value.
    pub fn json_or_text(text: impl Into<Bytes>) -> Self {
        let bytes = text.into();
        let kind = if is_json(&bytes) { PayloadKind::Json } else { PayloadKind::Text };
        Self { kind, bytes }
    }

    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self { kind: PayloadKind::Binary, bytes: bytes.into() }
    }

    /// Whether the payload holds no value at all: empty bytes are not a JSON value.
    pub fn is_missing(&self) -> bool {
        self.bytes.is_empty() && self.kind == PayloadKind::Json
    }

    /// Makes a payload of bytes with unknown content: JSON if they are exactly one JSON value, otherwise text if they
    /// are UTF-8.
    pub fn of_unknown(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        match simdutf8::basic::from_utf8(&bytes) {
            Ok(_) => Self::json_or_text(bytes),
            Err(_) => Self::binary(bytes),
        }
    }
}

/// Deepest nesting of arrays and objects in a JSON payload. Deeper nesting is valid JSON, but several common parsers
/// reject it (some close the whole connection), so that one publisher could cut off all subscribers.
pub const JSON_DEPTH_MAX: usize = 128;

/// Whether these bytes are exactly one JSON value, in UTF-8, white space around it allowed, nested no deeper than
/// [`JSON_DEPTH_MAX`].
pub fn is_json(bytes: &[u8]) -> bool {
    simdutf8::basic::from_utf8(bytes)
        .is_ok_and(|text| serde_json::from_str::<&RawValue>(text).is_ok() && !is_too_deep(bytes))
}

/// Whether valid JSON is nested deeper than [`JSON_DEPTH_MAX`].
pub fn is_too_deep(json: &[u8]) -> bool {
    // Fast path: there are almost always too few brackets, and strings need not be told from structure.
    if memchr::memchr2_iter(b'[', b'{', json).nth(JSON_DEPTH_MAX).is_none() {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Key and value pairs that travel beside the payload.
pub type Tags = BTreeMap<Box<str>, Box<str>>;

/// The tag that names an event. Protocols whose messages are named events read and write it, so that an event keeps its
/// name from one protocol to another and its payload stays unchanged.
pub const EVENT_TAG: &str = "event";

/// A payload with its tags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tagged {
    pub data: Payload,
    pub tags: Tags,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    pub data: Payload,
    /// The position in the channel's stream; `None` in a channel without a stream.
    pub position: Option<StreamPosition>,
    /// The client that published it; `None` if it came through the server API.
    pub info: Option<ClientInfo>,
    pub tags: Tags,
    /// When the publication was made, in milliseconds since 1970. 0: the time is not kept.
    pub time_ms: u64,
    /// Whether subscribers that have negotiated deltas may be sent a patch.
    pub delta: bool,
    /// The change to a key, in a channel that keeps state by key.
    pub keyed: Option<Box<Keyed>>,
    /// The one subscriber that does not receive the publication, usually its sender. Boxed because it is rare.
    pub except: Option<Box<ClientId>>,
    /// The subscribers that receive the publication; `None` for all. History keeps it only in namespaces that keep sessions.
    pub only: Option<Box<Selection>>,
    /// The stamp of a publication that is sampled for measurement. Subscribers never see it.
    pub stamp: Option<Box<Stamp>>,
}

/// Which of a channel's subscribers receive a publication. It never adds clients that are not subscribed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    /// Subscribers that also subscribe to one of these channels, and these clients, are included. Both empty: all are.
    pub channels: Vec<Channel>,
    pub clients: Vec<ClientId>,
    /// Subscribers that also subscribe to one of these channels, and these clients, are excluded.
    pub except_channels: Vec<Channel>,
    pub except_clients: Vec<ClientId>,
    /// Whether to skip subscribers that have not taken everything sent to them before.
    pub volatile: bool,
}

impl Selection {
    /// Whether a subscriber receives the publication. `is_in` says which channels the subscriber is subscribed to.
    pub fn includes(&self, client: ClientId, is_in: impl Fn(&Channel) -> bool) -> bool {
        let is_for_all = self.channels.is_empty() && self.clients.is_empty();
        let is_named = is_for_all || self.clients.contains(&client) || self.channels.iter().any(&is_in);
        is_named && !self.except_clients.contains(&client) && !self.except_channels.iter().any(&is_in)
    }
}

/// The change that a publication makes in a channel that keeps state by key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Keyed {
    pub key: Box<str>,
    /// Whether the key was removed.
    pub removed: bool,
    /// The number that keys are ordered by.
    pub score: i64,
    /// The version of the key's content, as its source counts it. 0: the source does not count versions.
    pub version: u64,
    /// The key's previous value, where its broker knows it and patches are wanted. It is in no record and on no wire.
    pub before: Option<Payload>,
}

impl Publication {
    pub fn new(data: Payload) -> Self {
        Self {
            data,
            position: None,
            info: None,
            tags: Tags::new(),
            time_ms: 0,
            delta: false,
            keyed: None,
            except: None,
            only: None,
            stamp: None,
        }
    }

    /// Returns the name of the event, if the publisher gave one ([`EVENT_TAG`]).
    pub fn event(&self) -> Option<&str> {
        self.tags.get(EVENT_TAG).map(|name| &**name)
    }

    /// Returns the offset; 0 in a channel without a stream.
    pub fn offset(&self) -> u64 {
        self.position.map_or(0, |position| position.offset)
    }
}

/// What other clients may see of a client: in presence, and with its publications.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientInfo {
    pub client: ClientId,
    pub user: UserId,
    /// JSON from the connection's token.
    pub conn_info: Option<Bytes>,
    /// JSON from the subscription's token.
    pub chan_info: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_exactly_one_value() {
        for yes in ["{}", " [1,2] \n", "null", "1.5e3", "\"a\\u00e9\"", "{\"a\":{\"b\":[]}}"] {
            assert!(is_json(yes.as_bytes()), "{yes}");
        }
        for no in ["", " ", "{} {}", "{", "[1,]", "nul", "'a'", "01", "NaN", "\"a\nb\"", "\u{feff}{}"] {
            assert!(!is_json(no.as_bytes()), "{no}");
        }
        assert!(!is_json(b"\"\xff\""));
    }

    #[test]
    fn json_that_many_parsers_cannot_nest_is_no_payload() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(is_json(nested(JSON_DEPTH_MAX).as_bytes()));
        assert!(!is_json(nested(JSON_DEPTH_MAX + 1).as_bytes()));
        assert!(!is_json(nested(60_000).as_bytes()));
        let brackets_in_a_string = format!("\"\\\"{}\"", "[".repeat(200));
        assert!(is_json(brackets_in_a_string.as_bytes()));
        let wide = format!("[{}[]]", "[],".repeat(500));
        assert!(is_json(wide.as_bytes()));
    }
}
