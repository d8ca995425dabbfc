//! Reading what a client sends: one command a line.
//!
//! The types here mirror the wire and stay in this file, so that renaming a word cannot change the wire.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::FLAG_REJECT_UNRECOVERED;
use crate::command::{Command, Connect, History, Request, Since, Subscribe};
use crate::error::ErrorCode;
use crate::protocol::DecodeError;
use crate::publication::{Payload, is_too_deep};

pub(super) fn decode(
    message: &[u8],
    commands_max: usize,
    commands: &mut Vec<Command>,
) -> Result<(), DecodeError> {
    let text = simdutf8::basic::from_utf8(message).map_err(|_| DecodeError::Malformed)?;
    // A line break at the end ends the last command and begins none.
    let lines = text.strip_suffix('\n').unwrap_or(text);
    if lines.is_empty() {
        return Err(DecodeError::Empty);
    }
    for (index, line) in lines.split('\n').enumerate() {
        if index == commands_max {
            return Err(DecodeError::TooManyCommands);
        }
        let command: CommandLine = serde_json::from_str(line).map_err(|_| DecodeError::Malformed)?;
        commands.push(command.into());
    }
    Ok(())
}

/// One line. Read by hand, because which fields are there at all decides what it is.
struct CommandLine<'a> {
    id: u32,
    bodies: u32,
    has_other_fields: bool,
    body: Option<Body<'a>>,
}

enum Body<'a> {
    Connect(ConnectBody<'a>),
    Subscribe(SubscribeBody),
    Unsubscribe(ChannelBody),
    Publish(PublishBody<'a>),
    Presence(ChannelBody),
    PresenceStats(ChannelBody),
    History(HistoryBody),
    Send(SendBody<'a>),
    Rpc(RpcBody<'a>),
    Refresh(RefreshBody),
    SubRefresh(SubRefreshBody),
    /// In the protocol's schema, and in no server.
    Ping(IgnoredAny),
}

impl From<CommandLine<'_>> for Command {
    fn from(line: CommandLine<'_>) -> Self {
        let request = match line.body {
            None if line.id == 0 && line.bodies == 0 && !line.has_other_fields => Request::Pong,
            Some(Body::Send(body)) if line.bodies == 1 => body.into(),
            Some(body) if line.bodies == 1 && line.id != 0 => body.into(),
            _ => Request::Unknown,
        };
        Self { id: line.id, request }
    }
}

impl From<Body<'_>> for Request {
    fn from(body: Body<'_>) -> Self {
        match body {
            Body::Connect(body) => body.into(),
            Body::Subscribe(body) => body.into(),
            Body::Unsubscribe(body) => Self::Unsubscribe { channel: or_empty(body.channel) },
            Body::Publish(body) => body.into(),
            Body::Presence(body) => Self::Presence { channel: or_empty(body.channel) },
            Body::PresenceStats(body) => Self::PresenceStats { channel: or_empty(body.channel) },
            Body::History(body) => body.into(),
            Body::Send(body) => body.into(),
            Body::Rpc(body) => {
                Self::Rpc { method: or_empty(body.method), data: copied(body.data).unwrap_or_default() }
            }
            Body::Refresh(body) => Self::Refresh { token: or_empty(body.token) },
            Body::SubRefresh(body) => body.into(),
            Body::Ping(_) => Self::Unknown,
        }
    }
}

// In all of these a missing field and null mean the same as zero, false or the empty text.

#[derive(serde::Deserialize)]
struct ConnectBody<'a> {
    token: Option<Box<str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    subs: Option<BTreeMap<Box<str>, Option<SubscribeBody>>>,
    name: Option<Box<str>>,
    version: Option<Box<str>>,
}

impl From<ConnectBody<'_>> for Request {
    fn from(body: ConnectBody<'_>) -> Self {
        let subs = body.subs.unwrap_or_default().into_iter();
        Self::Connect(Connect {
            token: or_empty(body.token),
            data: copied(body.data),
            subs: subs
                .map(|(channel, body)| {
                    let subscribe = body.unwrap_or_default().subscribe();
                    (channel.clone(), Subscribe { channel, ..subscribe })
                })
                .collect(),
            name: or_empty(body.name),
            version: or_empty(body.version),
        })
    }
}

#[derive(serde::Deserialize, Default)]
struct SubscribeBody {
    channel: Option<Box<str>>,
    token: Option<Box<str>>,
    recover: Option<bool>,
    epoch: Option<Box<str>>,
    offset: Option<u64>,
    positioned: Option<bool>,
    recoverable: Option<bool>,
    join_leave: Option<bool>,
    delta: Option<Box<str>>,
    flag: Option<u64>,
    /// A filter on tags.
    tf: Option<IgnoredAny>,
    /// 0 for a stream of publications; others keep state by key.
    r#type: Option<i32>,
}

impl SubscribeBody {
    fn subscribe(self) -> Subscribe {
        Subscribe {
            channel: or_empty(self.channel),
            token: or_empty(self.token),
            recover: self.recover.unwrap_or_default(),
            epoch: or_empty(self.epoch),
            offset: self.offset.unwrap_or_default(),
            positioned: self.positioned.unwrap_or_default(),
            recoverable: self.recoverable.unwrap_or_default(),
            join_leave: self.join_leave.unwrap_or_default(),
            reject_unrecovered: self.flag.unwrap_or_default() & FLAG_REJECT_UNRECOVERED != 0,
            delta: or_empty(self.delta),
        }
    }
}

impl From<SubscribeBody> for Request {
    fn from(body: SubscribeBody) -> Self {
        if body.tf.is_some() {
            // Without its filter the client would get what it asked not to get.
            return Self::Refused(ErrorCode::BadRequest);
        }
        if body.r#type.unwrap_or_default() != 0 {
            return Self::Refused(ErrorCode::NotAvailable);
        }
        Self::Subscribe(body.subscribe())
    }
}

#[derive(serde::Deserialize)]
struct ChannelBody {
    channel: Option<Box<str>>,
}

#[derive(serde::Deserialize)]
struct PublishBody<'a> {
    channel: Option<Box<str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    /// 0 for a stream of publications; 1 changes the state of a key.
    r#type: Option<i32>,
}

impl From<PublishBody<'_>> for Request {
    fn from(body: PublishBody<'_>) -> Self {
        if body.r#type.unwrap_or_default() != 0 {
            return Self::Refused(ErrorCode::NotAvailable);
        }
        match body.data {
            Some(data) if !is_too_deep(data.get().as_bytes()) => Self::Publish {
                channel: or_empty(body.channel),
                data: Payload::json(Bytes::copy_from_slice(data.get().as_bytes())),
            },
            Some(_) | None => Self::Refused(ErrorCode::BadRequest),
        }
    }
}

#[derive(serde::Deserialize)]
struct HistoryBody {
    channel: Option<Box<str>>,
    limit: Option<i32>,
    since: Option<SinceBody>,
    reverse: Option<bool>,
}

#[derive(serde::Deserialize)]
struct SinceBody {
    offset: Option<u64>,
    epoch: Option<Box<str>>,
}

impl From<HistoryBody> for Request {
    fn from(body: HistoryBody) -> Self {
        Self::History(History {
            channel: or_empty(body.channel),
            limit: body.limit.unwrap_or_default(),
            since: body.since.map(|since| Since {
                offset: since.offset.unwrap_or_default(),
                epoch: or_empty(since.epoch),
            }),
            reverse: body.reverse.unwrap_or_default(),
        })
    }
}

#[derive(serde::Deserialize)]
struct SendBody<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

impl From<SendBody<'_>> for Request {
    fn from(body: SendBody<'_>) -> Self {
        Self::Send { data: copied(body.data).unwrap_or_default() }
    }
}

#[derive(serde::Deserialize)]
struct RpcBody<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    method: Option<Box<str>>,
}

#[derive(serde::Deserialize)]
struct RefreshBody {
    token: Option<Box<str>>,
}

#[derive(serde::Deserialize)]
struct SubRefreshBody {
    channel: Option<Box<str>>,
    token: Option<Box<str>>,
    /// 0 for a new token; 1 and 2 track keys.
    r#type: Option<i32>,
}

impl From<SubRefreshBody> for Request {
    fn from(body: SubRefreshBody) -> Self {
        if body.r#type.unwrap_or_default() != 0 {
            return Self::Refused(ErrorCode::NotAvailable);
        }
        Self::SubRefresh { channel: or_empty(body.channel), token: or_empty(body.token) }
    }
}

impl<'de> Deserialize<'de> for CommandLine<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(CommandVisitor)
    }
}

struct CommandVisitor;

impl<'de> Visitor<'de> for CommandVisitor {
    type Value = CommandLine<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut line = CommandLine { id: 0, bodies: 0, has_other_fields: false, body: None };
        while let Some(key) = map.next_key::<Key>()? {
            let body = match key {
                Key::Id => {
                    line.id = map.next_value::<Option<u32>>()?.unwrap_or_default();
                    continue;
                }
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                    line.has_other_fields = true;
                    continue;
                }
                Key::Connect => map.next_value::<Option<_>>()?.map(Body::Connect),
                Key::Subscribe => map.next_value::<Option<_>>()?.map(Body::Subscribe),
                Key::Unsubscribe => map.next_value::<Option<_>>()?.map(Body::Unsubscribe),
                Key::Publish => map.next_value::<Option<_>>()?.map(Body::Publish),
                Key::Presence => map.next_value::<Option<_>>()?.map(Body::Presence),
                Key::PresenceStats => map.next_value::<Option<_>>()?.map(Body::PresenceStats),
                Key::History => map.next_value::<Option<_>>()?.map(Body::History),
                Key::Ping => map.next_value::<Option<_>>()?.map(Body::Ping),
                Key::Send => map.next_value::<Option<_>>()?.map(Body::Send),
                Key::Rpc => map.next_value::<Option<_>>()?.map(Body::Rpc),
                Key::Refresh => map.next_value::<Option<_>>()?.map(Body::Refresh),
                Key::SubRefresh => map.next_value::<Option<_>>()?.map(Body::SubRefresh),
            };
            if body.is_some() {
                line.bodies += 1;
                line.body = body;
            }
        }
        Ok(line)
    }
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Id,
    Connect,
    Subscribe,
    Unsubscribe,
    Publish,
    Presence,
    PresenceStats,
    History,
    Ping,
    Send,
    Rpc,
    Refresh,
    SubRefresh,
    #[serde(other)]
    Other,
}

/// Tells JSON's null, which is a value to carry, from no value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn copied(json: Option<&RawValue>) -> Option<Bytes> {
    json.map(|json| Bytes::copy_from_slice(json.get().as_bytes()))
}

fn or_empty(text: Option<Box<str>>) -> Box<str> {
    text.unwrap_or_default()
}
