//! Decodes client messages, which hold one command per line.
//!
//! The types here mirror the wire format and stay in this file, so that renaming a type elsewhere cannot change the wire.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::command::{
    Command, Connect, FilterNode, History, Phase, Request, Since, StateRequest, Subscribe, SubscriptionKind,
    TrackBatch,
};
use crate::error::ErrorCode;
use crate::protocol::DecodeError;
use crate::protocol::centrifuge::{FLAG_REJECT_UNRECOVERED, TYPE_KEYED, TYPE_TRACK, TYPE_UNTRACK};
use crate::publication::{Payload, is_too_deep};

pub(super) fn decode(
    message: &[u8],
    commands_max: usize,
    commands: &mut Vec<Command>,
) -> Result<(), DecodeError> {
    let text = simdutf8::basic::from_utf8(message).map_err(|_| DecodeError::Malformed)?;
    // A final line break ends the last command and begins no other.
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

/// Decodes a connect request without a command around it.
pub(in crate::protocol::centrifuge) fn decode_connect(message: &[u8]) -> Result<Connect, DecodeError> {
    if message.is_empty() {
        return Err(DecodeError::Empty);
    }
    let body: ConnectBody<'_> = serde_json::from_slice(message).map_err(|_| DecodeError::Malformed)?;
    Ok(body.into())
}

/// One line. It is deserialized by hand, because the presence of fields decides which command it is.
struct CommandLine {
    id: u32,
    bodies: u32,
    has_other_fields: bool,
    /// The request of the last body.
    request: Option<Request>,
}

impl From<CommandLine> for Command {
    fn from(line: CommandLine) -> Self {
        let request = match line.request {
            None if line.id == 0 && line.bodies == 0 && !line.has_other_fields => Request::Pong,
            Some(request)
                if line.bodies == 1 && (line.id != 0 || matches!(request, Request::Send { .. })) =>
            {
                request
            }
            _ => Request::Unknown,
        };
        Self { id: line.id, request }
    }
}

// In all of these types, a missing field and null mean zero, false or the empty string.

#[derive(serde::Deserialize)]
struct ConnectBody<'a> {
    token: Option<Box<str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    subs: Option<BTreeMap<Box<str>, Option<SubscribeBody<'a>>>>,
    headers: Option<BTreeMap<Box<str>, Option<Box<str>>>>,
    name: Option<Box<str>>,
    version: Option<Box<str>>,
}

impl From<ConnectBody<'_>> for Request {
    fn from(body: ConnectBody<'_>) -> Self {
        Self::Connect(Box::new(body.into()))
    }
}

impl From<ConnectBody<'_>> for Connect {
    fn from(body: ConnectBody<'_>) -> Self {
        let headers = body
            .headers
            .map(|headers| headers.into_iter().map(|(name, value)| (name, or_empty(value))).collect());
        let sub = |(channel, body): (Box<str>, Option<SubscribeBody<'_>>)| {
            let subscribe = body.unwrap_or_default().subscribe().unwrap_or_default();
            (channel.clone(), Subscribe { channel, ..subscribe })
        };
        let subs = body.subs.map(|subs| subs.into_iter().map(sub).collect());
        Self {
            token: or_empty(body.token),
            data: body.data.map(|data| json(Some(data))),
            headers: headers.unwrap_or_default(),
            subs: subs.unwrap_or_default(),
            exact: false,
            name: or_empty(body.name),
            version: or_empty(body.version),
        }
    }
}

#[derive(serde::Deserialize, Default)]
struct SubscribeBody<'a> {
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
    /// The filter on tags.
    tf: Option<Box<FilterBody>>,
    /// 0 for a stream of publications. The other types keep state by key.
    r#type: Option<i32>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    phase: Option<i32>,
    cursor: Option<Box<str>>,
    limit: Option<i32>,
    asc: Option<bool>,
}

impl SubscribeBody<'_> {
    /// Returns `None` for an unknown kind or phase.
    fn subscribe(self) -> Option<Subscribe> {
        let kind = SubscriptionKind::of(self.r#type.unwrap_or_default())?;
        let page = StateRequest {
            phase: Phase::of(self.phase.unwrap_or_default())?,
            cursor: or_empty(self.cursor),
            limit: u32::try_from(self.limit.unwrap_or_default()).unwrap_or_default(),
            ascending: self.asc.unwrap_or_default(),
        };
        Some(Subscribe {
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
            data: self.data.map(|data| Box::new(json(Some(data)))),
            filter: self.tf.map(|filter| Box::new((*filter).into())),
            kind,
            page: (page != StateRequest::default()).then(|| Box::new(page)),
            members: false,
            after: None,
            topics: Box::default(),
            additional_reader: false,
            ask: None,
            delivery: None,
        })
    }
}

impl From<SubscribeBody<'_>> for Request {
    fn from(body: SubscribeBody<'_>) -> Self {
        body.subscribe().map_or(Self::Refused(ErrorCode::BadRequest), Self::Subscribe)
    }
}

/// The JSON reader bounds the nesting depth of a filter.
#[derive(serde::Deserialize)]
struct FilterBody {
    op: Option<Box<str>>,
    key: Option<Box<str>>,
    cmp: Option<Box<str>>,
    val: Option<Box<str>>,
    vals: Option<Vec<Box<str>>>,
    nodes: Option<Vec<FilterBody>>,
}

impl From<FilterBody> for FilterNode {
    fn from(body: FilterBody) -> Self {
        Self {
            op: or_empty(body.op),
            key: or_empty(body.key),
            cmp: or_empty(body.cmp),
            val: or_empty(body.val),
            vals: body.vals.unwrap_or_default(),
            nodes: body.nodes.unwrap_or_default().into_iter().map(Self::from).collect(),
        }
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
    r#type: Option<u64>,
    key: Option<Box<str>>,
    removed: Option<bool>,
}

impl From<PublishBody<'_>> for Request {
    fn from(body: PublishBody<'_>) -> Self {
        match body.r#type.unwrap_or_default() {
            0 => {}
            TYPE_KEYED => return body.publish_key(),
            _ => return Self::Refused(ErrorCode::BadRequest),
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

impl PublishBody<'_> {
    /// A request that removes a key needs no data.
    fn publish_key(self) -> Request {
        let removed = self.removed.unwrap_or_default();
        let data = match self.data {
            Some(data) if is_too_deep(data.get().as_bytes()) => None,
            None if !removed => None,
            data => Some(json(data)),
        };
        data.map_or(Request::Refused(ErrorCode::BadRequest), |data| Request::PublishKey {
            channel: or_empty(self.channel),
            key: or_empty(self.key),
            data,
            removed,
        })
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
        Self::Send { data: json(body.data) }
    }
}

#[derive(serde::Deserialize)]
struct RpcBody<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    method: Option<Box<str>>,
}

impl From<RpcBody<'_>> for Request {
    fn from(body: RpcBody<'_>) -> Self {
        Self::Rpc { method: or_empty(body.method), data: json(body.data) }
    }
}

#[derive(serde::Deserialize)]
struct RefreshBody {
    token: Option<Box<str>>,
}

impl From<RefreshBody> for Request {
    fn from(body: RefreshBody) -> Self {
        Self::Refresh { token: or_empty(body.token) }
    }
}

#[derive(serde::Deserialize)]
struct SubRefreshBody {
    channel: Option<Box<str>>,
    token: Option<Box<str>>,
    /// 0 replaces the token; 1 and 2 start and stop following keys.
    r#type: Option<u64>,
    track: Option<Vec<TrackBody>>,
    untrack: Option<Vec<Box<str>>>,
}

#[derive(serde::Deserialize)]
struct TrackBody {
    signature: Option<Box<str>>,
    items: Option<Vec<TrackedBody>>,
}

#[derive(serde::Deserialize)]
struct TrackedBody {
    key: Option<Box<str>>,
    version: Option<u64>,
}

impl From<TrackBody> for TrackBatch {
    fn from(body: TrackBody) -> Self {
        let items = body.items.unwrap_or_default().into_iter();
        Self {
            signature: or_empty(body.signature),
            items: items.map(|item| (or_empty(item.key), item.version.unwrap_or_default())).collect(),
        }
    }
}

impl From<SubRefreshBody> for Request {
    fn from(body: SubRefreshBody) -> Self {
        let channel = or_empty(body.channel);
        match body.r#type.unwrap_or_default() {
            0 => Self::SubRefresh { channel, token: or_empty(body.token) },
            TYPE_TRACK => {
                let batches = body.track.unwrap_or_default().into_iter().map(TrackBatch::from).collect();
                Self::Track { channel, batches, untrack: body.untrack.unwrap_or_default() }
            }
            TYPE_UNTRACK => Self::Untrack { channel, keys: body.untrack.unwrap_or_default() },
            _ => Self::Refused(ErrorCode::BadRequest),
        }
    }
}

impl<'de> Deserialize<'de> for CommandLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(CommandVisitor)
    }
}

/// Reads the channel from a body that has no other field.
fn channel<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<Box<str>>, A::Error> {
    Ok(map.next_value::<Option<ChannelBody>>()?.map(|body| or_empty(body.channel)))
}

struct CommandVisitor;

impl<'de> Visitor<'de> for CommandVisitor {
    type Value = CommandLine;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut line = CommandLine { id: 0, bodies: 0, has_other_fields: false, request: None };
        let mut has_id = false;
        while let Some(key) = map.next_key::<CommandKey>()? {
            // Bodies become requests at once: they are large, and would otherwise be moved around.
            let request = match key {
                // Two ids are ambiguous.
                CommandKey::Id if has_id => return Err(A::Error::duplicate_field("id")),
                CommandKey::Id => {
                    has_id = true;
                    line.id = map.next_value::<Option<u32>>()?.unwrap_or_default();
                    continue;
                }
                CommandKey::Other => {
                    map.next_value::<IgnoredAny>()?;
                    line.has_other_fields = true;
                    continue;
                }
                CommandKey::Connect => map.next_value::<Option<ConnectBody<'_>>>()?.map(Request::from),
                CommandKey::Subscribe => map.next_value::<Option<SubscribeBody<'_>>>()?.map(Request::from),
                CommandKey::Unsubscribe => channel(&mut map)?.map(|channel| Request::Unsubscribe { channel }),
                CommandKey::Publish => map.next_value::<Option<PublishBody<'_>>>()?.map(Request::from),
                CommandKey::Presence => channel(&mut map)?.map(|channel| Request::Presence { channel }),
                CommandKey::PresenceStats => {
                    channel(&mut map)?.map(|channel| Request::PresenceStats { channel })
                }
                CommandKey::History => map.next_value::<Option<HistoryBody>>()?.map(Request::from),
                // The protocol's schema has a ping command, but no server implements it.
                CommandKey::Ping => map.next_value::<Option<IgnoredAny>>()?.map(|_| Request::Unknown),
                CommandKey::Send => map.next_value::<Option<SendBody<'_>>>()?.map(Request::from),
                CommandKey::Rpc => map.next_value::<Option<RpcBody<'_>>>()?.map(Request::from),
                CommandKey::Refresh => map.next_value::<Option<RefreshBody>>()?.map(Request::from),
                CommandKey::SubRefresh => map.next_value::<Option<SubRefreshBody>>()?.map(Request::from),
            };
            if request.is_some() {
                line.bodies += 1;
                line.request = request;
            }
        }
        Ok(line)
    }
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum CommandKey {
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

/// Distinguishes JSON's null, which is a value to carry, from a missing value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A missing value becomes a payload without bytes, which no JSON value has.
fn json(json: Option<&RawValue>) -> Payload {
    Payload::json(json.map_or_else(Bytes::new, |json| Bytes::copy_from_slice(json.get().as_bytes())))
}

fn or_empty(text: Option<Box<str>>) -> Box<str> {
    text.unwrap_or_default()
}
