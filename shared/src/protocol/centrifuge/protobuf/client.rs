//! The client side of the Protobuf encoding, for tests. It encodes commands, and decodes messages with a reader that
//! shares no code with the gateway's writer.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::{decode, requests};
use crate::command::{Command, FilterNode, Request, StateRequest};
use crate::protocol::DecodeError;
use crate::protocol::centrifuge::{FLAG_REJECT_UNRECOVERED, TYPE_KEYED, TYPE_TRACK, TYPE_UNTRACK};
use crate::{command, publication};

/// Appends one command preceded by its length.
///
/// [`Request::Refused`] and [`Request::Unknown`] have no encoding: they stand for input that a server does not serve,
/// and some requests belong to other protocols. All of them are written as a `ping` command, which no server serves either.
pub fn encode_command(command: &Command, out: &mut BytesMut) {
    let mut wire = requests::CommandRequest { id: command.id, ..Default::default() };
    let of = |channel: &str| Some(requests::OfChannel { channel: channel.to_owned() });
    match &command.request {
        Request::Pong => {}
        Request::Connect(connect) => wire.connect = Some(connect_request(connect)),
        Request::Subscribe(subscribe) => wire.subscribe = Some(Box::new(subscribe_request(subscribe))),
        Request::Unsubscribe { channel } => wire.unsubscribe = of(channel),
        Request::Publish { channel, data } => {
            wire.publish = Some(requests::Publish {
                channel: channel.to_string(),
                data: data.bytes.clone(),
                ..Default::default()
            });
        }
        Request::PublishKey { channel, key, data, removed } => {
            wire.publish = Some(requests::Publish {
                channel: channel.to_string(),
                data: data.bytes.clone(),
                kind: TYPE_KEYED as i32,
                key: key.to_string(),
                removed: *removed,
            });
        }
        Request::History(history) => {
            let since = history.since.as_ref();
            wire.history = Some(requests::HistoryRequest {
                channel: history.channel.to_string(),
                limit: history.limit,
                since: since
                    .map(|since| requests::Position { offset: since.offset, epoch: since.epoch.to_string() }),
                reverse: history.reverse,
            });
        }
        Request::Presence { channel } => wire.presence = of(channel),
        Request::PresenceStats { channel } => wire.presence_stats = of(channel),
        Request::Refresh { token } => {
            wire.refresh = Some(requests::RefreshRequest { token: token.to_string() })
        }
        Request::SubRefresh { channel, token } => {
            wire.sub_refresh = Some(requests::SubRefreshRequest {
                channel: channel.to_string(),
                token: token.to_string(),
                ..Default::default()
            });
        }
        Request::Track { channel, batches, untrack } => {
            wire.sub_refresh = Some(requests::SubRefreshRequest {
                channel: channel.to_string(),
                kind: TYPE_TRACK as i32,
                track: batches.iter().map(track).collect(),
                untrack: untrack.iter().map(ToString::to_string).collect(),
                ..Default::default()
            });
        }
        Request::Untrack { channel, keys } => {
            wire.sub_refresh = Some(requests::SubRefreshRequest {
                channel: channel.to_string(),
                kind: TYPE_UNTRACK as i32,
                untrack: keys.iter().map(ToString::to_string).collect(),
                ..Default::default()
            });
        }
        Request::Send { data } | Request::Ask { data, .. } => {
            wire.send = Some(requests::Send { data: data.bytes.clone() })
        }
        Request::Rpc { method, data } => {
            wire.rpc = Some(requests::RpcRequest { data: data.bytes.clone(), method: method.to_string() });
        }
        Request::Refused(_)
        | Request::Unknown
        | Request::Ping
        | Request::Emit { .. }
        | Request::Forward(_)
        | Request::Event(_)
        | Request::Enter(_)
        | Request::SignIn { .. } => wire.ping = Some(requests::Ping {}),
    }
    let bytes = wire.encode_length_delimited_to_vec();
    out.extend_from_slice(&bytes);
}

/// Encodes a connect request without a command around it, for the unidirectional protocol.
pub fn encode_connect(connect: &command::Connect) -> Vec<u8> {
    connect_request(connect).encode_to_vec()
}

/// Reads a message of replies. A ping is an empty reply.
pub fn decode_frame(frame: &[u8]) -> Result<Vec<ReplyMessage>, DecodeError> {
    decode_all(frame)
}

/// Reads a message of the unidirectional protocol, which holds pushes.
pub fn decode_pushes(frame: &[u8]) -> Result<Vec<PushMessage>, DecodeError> {
    decode_all(frame)
}

fn decode_all<T: Message + Default>(mut frame: &[u8]) -> Result<Vec<T>, DecodeError> {
    let mut all = Vec::new();
    while !frame.is_empty() {
        let (one, rest) = decode::split(frame).ok_or(DecodeError::Malformed)?;
        all.push(T::decode(one).map_err(|_| DecodeError::Malformed)?);
        frame = rest;
    }
    Ok(all)
}

fn connect_request(connect: &command::Connect) -> requests::ConnectRequest {
    let headers = connect.headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let subs = connect.subs.iter().map(|(channel, subscribe)| {
        (
            channel.to_string(),
            requests::SubscribeRequest { channel: String::new(), ..subscribe_request(subscribe) },
        )
    });
    requests::ConnectRequest {
        token: connect.token.to_string(),
        data: bytes(connect.data.as_ref()),
        subs: subs.collect(),
        name: connect.name.to_string(),
        version: connect.version.to_string(),
        headers: headers.collect(),
    }
}

fn subscribe_request(subscribe: &command::Subscribe) -> requests::SubscribeRequest {
    let none = StateRequest::default();
    let page = subscribe.page.as_deref().unwrap_or(&none);
    requests::SubscribeRequest {
        channel: subscribe.channel.to_string(),
        token: subscribe.token.to_string(),
        recover: subscribe.recover,
        epoch: subscribe.epoch.to_string(),
        offset: subscribe.offset,
        data: bytes(subscribe.data.as_deref()),
        positioned: subscribe.positioned,
        recoverable: subscribe.recoverable,
        join_leave: subscribe.join_leave,
        delta: subscribe.delta.to_string(),
        filter: subscribe.filter.as_deref().map(filter),
        flag: if subscribe.reject_unrecovered { FLAG_REJECT_UNRECOVERED as i64 } else { 0 },
        kind: subscribe.kind.number().into(),
        phase: page.phase.number().into(),
        cursor: page.cursor.to_string(),
        limit: page.limit as i32,
        asc: page.ascending,
    }
}

fn filter(node: &FilterNode) -> requests::Filter {
    requests::Filter {
        op: node.op.to_string(),
        key: node.key.to_string(),
        cmp: node.cmp.to_string(),
        val: node.val.to_string(),
        vals: node.vals.iter().map(ToString::to_string).collect(),
        nodes: node.nodes.iter().map(filter).collect(),
    }
}

fn track(batch: &command::TrackBatch) -> requests::Track {
    let items = batch.items.iter();
    requests::Track {
        signature: batch.signature.to_string(),
        items: items
            .map(|(key, version)| requests::Tracked { key: key.to_string(), version: *version })
            .collect(),
    }
}

fn bytes(payload: Option<&publication::Payload>) -> Bytes {
    payload.map(|payload| payload.bytes.clone()).unwrap_or_default()
}

/// A message from the server: a reply, a push, or a ping if it is empty.
#[derive(Message, Clone, PartialEq)]
pub struct ReplyMessage {
    #[prost(uint32, tag = "1")]
    pub id: u32,
    #[prost(message, optional, tag = "2")]
    pub error: Option<Error>,
    #[prost(message, optional, tag = "4")]
    pub push: Option<PushMessage>,
    #[prost(message, optional, tag = "5")]
    pub connect: Option<ConnectResult>,
    #[prost(message, optional, tag = "6")]
    pub subscribe: Option<SubscribeResult>,
    #[prost(message, optional, tag = "7")]
    pub unsubscribe: Option<EmptyMessage>,
    #[prost(message, optional, tag = "8")]
    pub publish: Option<EmptyMessage>,
    #[prost(message, optional, tag = "9")]
    pub presence: Option<PresenceResult>,
    #[prost(message, optional, tag = "10")]
    pub presence_stats: Option<PresenceStatsResult>,
    #[prost(message, optional, tag = "11")]
    pub history: Option<HistoryResult>,
    #[prost(message, optional, tag = "13")]
    pub rpc: Option<DataMessage>,
    #[prost(message, optional, tag = "14")]
    pub refresh: Option<RefreshResult>,
    #[prost(message, optional, tag = "15")]
    pub sub_refresh: Option<SubRefreshResult>,
}

#[derive(Message, Clone, PartialEq)]
pub struct PushMessage {
    #[prost(string, tag = "2")]
    pub channel: String,
    #[prost(message, optional, tag = "4")]
    pub publication: Option<PublicationMessage>,
    #[prost(message, optional, tag = "5")]
    pub join: Option<MemberChange>,
    #[prost(message, optional, tag = "6")]
    pub leave: Option<MemberChange>,
    #[prost(message, optional, tag = "7")]
    pub unsubscribe: Option<Unsubscribe>,
    #[prost(message, optional, tag = "8")]
    pub message: Option<DataMessage>,
    #[prost(message, optional, tag = "9")]
    pub subscribe: Option<SubscribeMessage>,
    #[prost(message, optional, tag = "10")]
    pub connect: Option<ConnectMessage>,
    #[prost(message, optional, tag = "11")]
    pub disconnect: Option<DisconnectMessage>,
    #[prost(message, optional, tag = "12")]
    pub refresh: Option<RefreshMessage>,
}

#[derive(Message, Clone, PartialEq)]
pub struct Error {
    #[prost(uint32, tag = "1")]
    pub code: u32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(bool, tag = "3")]
    pub temporary: bool,
}

#[derive(Message, Clone, PartialEq)]
pub struct ConnectResult {
    #[prost(string, tag = "1")]
    pub client: String,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(bool, tag = "3")]
    pub expires: bool,
    #[prost(uint32, tag = "4")]
    pub ttl: u32,
    #[prost(bytes = "bytes", tag = "5")]
    pub data: Bytes,
    #[prost(btree_map = "string, message", tag = "6")]
    pub subs: BTreeMap<String, SubscribeResult>,
    #[prost(uint32, tag = "7")]
    pub ping: u32,
    #[prost(bool, tag = "8")]
    pub pong: bool,
    #[prost(string, tag = "9")]
    pub session: String,
    #[prost(string, tag = "10")]
    pub node: String,
    #[prost(int64, tag = "11")]
    pub time: i64,
}

/// The connect push, whose fields have other numbers than the connect reply's.
#[derive(Message, Clone, PartialEq)]
pub struct ConnectMessage {
    #[prost(string, tag = "1")]
    pub client: String,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
    #[prost(btree_map = "string, message", tag = "4")]
    pub subs: BTreeMap<String, SubscribeResult>,
    #[prost(bool, tag = "5")]
    pub expires: bool,
    #[prost(uint32, tag = "6")]
    pub ttl: u32,
    #[prost(uint32, tag = "7")]
    pub ping: u32,
    #[prost(bool, tag = "8")]
    pub pong: bool,
    #[prost(string, tag = "9")]
    pub session: String,
    #[prost(string, tag = "10")]
    pub node: String,
    #[prost(int64, tag = "11")]
    pub time: i64,
}

#[derive(Message, Clone, PartialEq)]
pub struct SubscribeResult {
    #[prost(bool, tag = "1")]
    pub expires: bool,
    #[prost(uint32, tag = "2")]
    pub ttl: u32,
    #[prost(bool, tag = "3")]
    pub recoverable: bool,
    #[prost(string, tag = "6")]
    pub epoch: String,
    #[prost(message, repeated, tag = "7")]
    pub publications: Vec<PublicationMessage>,
    #[prost(bool, tag = "8")]
    pub recovered: bool,
    #[prost(uint64, tag = "9")]
    pub offset: u64,
    #[prost(bool, tag = "10")]
    pub positioned: bool,
    #[prost(bytes = "bytes", tag = "11")]
    pub data: Bytes,
    #[prost(bool, tag = "12")]
    pub was_recovering: bool,
    #[prost(bool, tag = "13")]
    pub delta: bool,
    #[prost(int32, tag = "15")]
    pub kind: i32,
    #[prost(int32, tag = "16")]
    pub phase: i32,
    #[prost(string, tag = "17")]
    pub cursor: String,
    #[prost(message, repeated, tag = "18")]
    pub state: Vec<PublicationMessage>,
    #[prost(uint32, tag = "19")]
    pub publish_debounce: u32,
}

#[derive(Message, Clone, PartialEq)]
pub struct PublicationMessage {
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    #[prost(message, optional, tag = "5")]
    pub info: Option<ClientInfoMessage>,
    #[prost(uint64, tag = "6")]
    pub offset: u64,
    #[prost(btree_map = "string, string", tag = "7")]
    pub tags: BTreeMap<String, String>,
    #[prost(bool, tag = "8")]
    pub delta: bool,
    #[prost(int64, tag = "9")]
    pub time: i64,
    #[prost(string, tag = "11")]
    pub key: String,
    #[prost(bool, tag = "12")]
    pub removed: bool,
    #[prost(sint64, tag = "13")]
    pub score: i64,
    #[prost(string, tag = "14")]
    pub epoch: String,
    #[prost(uint64, tag = "16")]
    pub version: u64,
}

#[derive(Message, Clone, PartialEq)]
pub struct ClientInfoMessage {
    #[prost(string, tag = "1")]
    pub user: String,
    #[prost(string, tag = "2")]
    pub client: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub conn_info: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub chan_info: Bytes,
}

#[derive(Message, Clone, PartialEq)]
pub struct EmptyMessage {}

/// The body of a message push, and of the reply to an rpc.
#[derive(Message, Clone, PartialEq)]
pub struct DataMessage {
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}

/// The client that joins or leaves.
#[derive(Message, Clone, PartialEq)]
pub struct MemberChange {
    #[prost(message, optional, tag = "1")]
    pub info: Option<ClientInfoMessage>,
}

#[derive(Message, Clone, PartialEq)]
pub struct Unsubscribe {
    #[prost(uint32, tag = "2")]
    pub code: u32,
    #[prost(string, tag = "3")]
    pub reason: String,
}

#[derive(Message, Clone, PartialEq)]
pub struct SubscribeMessage {
    #[prost(bool, tag = "1")]
    pub recoverable: bool,
    #[prost(string, tag = "4")]
    pub epoch: String,
    #[prost(uint64, tag = "5")]
    pub offset: u64,
    #[prost(bool, tag = "6")]
    pub positioned: bool,
    #[prost(bytes = "bytes", tag = "7")]
    pub data: Bytes,
}

#[derive(Message, Clone, PartialEq)]
pub struct DisconnectMessage {
    #[prost(uint32, tag = "1")]
    pub code: u32,
    #[prost(string, tag = "2")]
    pub reason: String,
}

#[derive(Message, Clone, PartialEq)]
pub struct RefreshMessage {
    #[prost(bool, tag = "1")]
    pub expires: bool,
    #[prost(uint32, tag = "2")]
    pub ttl: u32,
}

#[derive(Message, Clone, PartialEq)]
pub struct PresenceResult {
    #[prost(btree_map = "string, message", tag = "1")]
    pub presence: BTreeMap<String, ClientInfoMessage>,
}

#[derive(Message, Clone, PartialEq)]
pub struct PresenceStatsResult {
    #[prost(uint32, tag = "1")]
    pub num_clients: u32,
    #[prost(uint32, tag = "2")]
    pub num_users: u32,
}

#[derive(Message, Clone, PartialEq)]
pub struct HistoryResult {
    #[prost(message, repeated, tag = "1")]
    pub publications: Vec<PublicationMessage>,
    #[prost(string, tag = "2")]
    pub epoch: String,
    #[prost(uint64, tag = "3")]
    pub offset: u64,
}

#[derive(Message, Clone, PartialEq)]
pub struct RefreshResult {
    #[prost(string, tag = "1")]
    pub client: String,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(bool, tag = "3")]
    pub expires: bool,
    #[prost(uint32, tag = "4")]
    pub ttl: u32,
}

#[derive(Message, Clone, PartialEq)]
pub struct SubRefreshResult {
    #[prost(bool, tag = "1")]
    pub expires: bool,
    #[prost(uint32, tag = "2")]
    pub ttl: u32,
    #[prost(message, repeated, tag = "3")]
    pub items: Vec<PublicationMessage>,
}
