//! The events that a backend is told of after they have happened.

use gateway_core::effect::Ended;
use serde::{Deserialize, Serialize};
use shared::id::{ClientId, UserId};

/// The kinds of events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    Disconnect,
    Unsubscribe,
    Occupied,
    Vacated,
}

impl EventType {
    pub const ALL: [Self; 4] = [Self::Disconnect, Self::Unsubscribe, Self::Occupied, Self::Vacated];
}

/// An event.
#[derive(Clone, Debug)]
pub enum BackendEvent<'a> {
    /// A client that had connected has left.
    Disconnect { client: ClientId, user: &'a UserId, code: u16, reason: &'a str },
    /// A subscription that a client knew of has ended.
    Unsubscribe { client: ClientId, user: &'a UserId, channel: &'a str, ended: Ended },
    /// A channel has its first subscriber on this node.
    Occupied { channel: &'a str },
    /// A channel has lost the last subscriber on this node.
    Vacated { channel: &'a str },
}

impl BackendEvent<'_> {
    pub(super) fn kind(&self) -> EventType {
        match self {
            Self::Disconnect { .. } => EventType::Disconnect,
            Self::Unsubscribe { .. } => EventType::Unsubscribe,
            Self::Occupied { .. } => EventType::Occupied,
            Self::Vacated { .. } => EventType::Vacated,
        }
    }

    /// Returns the event as it stands in a batch.
    pub(super) fn to_json(&self, time_ms: u64) -> Vec<u8> {
        let mut written = BackendEventBody { time_ms, kind: self.kind(), ..BackendEventBody::default() };
        match self {
            Self::Disconnect { client, user, code, reason } => {
                written.client = Some(client.to_string());
                written.user = Some(user.as_str());
                written.code = Some(u32::from(*code));
                written.reason = Some(reason);
            }
            Self::Unsubscribe { client, user, channel, ended } => {
                written.channel = Some(channel);
                written.client = Some(client.to_string());
                written.user = Some(user.as_str());
                written.code = Some(ended.code());
                written.reason = Some(ended.reason());
            }
            Self::Occupied { channel } | Self::Vacated { channel } => written.channel = Some(channel),
        }
        serde_json::to_vec(&written).expect("events are made of texts and numbers")
    }
}

#[derive(Serialize)]
struct BackendEventBody<'a> {
    time_ms: u64,
    #[serde(rename = "type")]
    kind: EventType,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Default for BackendEventBody<'_> {
    fn default() -> Self {
        Self {
            time_ms: 0,
            kind: EventType::Disconnect,
            channel: None,
            client: None,
            user: None,
            code: None,
            reason: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_what_when_and_who() {
        let (client, user) = (ClientId::from_random(0), UserId::new("ann"));
        let id = "00000000-0000-4000-8000-000000000000";
        let events = [
            BackendEvent::Disconnect { client, user: &user, code: 3001, reason: "shutdown" },
            BackendEvent::Unsubscribe { client, user: &user, channel: "a", ended: Ended::ByClient },
            BackendEvent::Occupied { channel: "a" },
            BackendEvent::Vacated { channel: "a" },
        ];
        let written = events.map(|event| String::from_utf8(event.to_json(7)).unwrap());
        assert_eq!(
            written,
            [
                format!(
                    r#"{{"time_ms":7,"type":"disconnect","client":"{id}","user":"ann","code":3001,"reason":"shutdown"}}"#
                ),
                format!(
                    r#"{{"time_ms":7,"type":"unsubscribe","channel":"a","client":"{id}","user":"ann","code":0,"reason":"client unsubscribed"}}"#
                ),
                r#"{"time_ms":7,"type":"occupied","channel":"a"}"#.to_owned(),
                r#"{"time_ms":7,"type":"vacated","channel":"a"}"#.to_owned(),
            ]
        );
    }
}
