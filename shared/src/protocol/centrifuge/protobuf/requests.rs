//! The client's messages as they are on the wire. The field numbers are the protocol's; a missing field is zero, false
//! or empty.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

#[derive(Message, PartialEq)]
pub(super) struct CommandRequest {
    #[prost(uint32, tag = "1")]
    pub(super) id: u32,
    #[prost(message, optional, tag = "4")]
    pub(super) connect: Option<ConnectRequest>,
    #[prost(message, optional, boxed, tag = "5")]
    pub(super) subscribe: Option<Box<SubscribeRequest>>,
    #[prost(message, optional, tag = "6")]
    pub(super) unsubscribe: Option<OfChannel>,
    #[prost(message, optional, tag = "7")]
    pub(super) publish: Option<Publish>,
    #[prost(message, optional, tag = "8")]
    pub(super) presence: Option<OfChannel>,
    #[prost(message, optional, tag = "9")]
    pub(super) presence_stats: Option<OfChannel>,
    #[prost(message, optional, tag = "10")]
    pub(super) history: Option<HistoryRequest>,
    /// The protocol's schema has a ping command, but no server implements it.
    #[prost(message, optional, tag = "11")]
    pub(super) ping: Option<Ping>,
    #[prost(message, optional, tag = "12")]
    pub(super) send: Option<Send>,
    #[prost(message, optional, tag = "13")]
    pub(super) rpc: Option<RpcRequest>,
    #[prost(message, optional, tag = "14")]
    pub(super) refresh: Option<RefreshRequest>,
    #[prost(message, optional, tag = "15")]
    pub(super) sub_refresh: Option<SubRefreshRequest>,
}

#[derive(Message, PartialEq)]
pub(super) struct ConnectRequest {
    #[prost(string, tag = "1")]
    pub(super) token: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) data: Bytes,
    #[prost(btree_map = "string, message", tag = "3")]
    pub(super) subs: BTreeMap<String, SubscribeRequest>,
    #[prost(string, tag = "4")]
    pub(super) name: String,
    #[prost(string, tag = "5")]
    pub(super) version: String,
    #[prost(btree_map = "string, string", tag = "6")]
    pub(super) headers: BTreeMap<String, String>,
}

#[derive(Message, PartialEq)]
pub(super) struct SubscribeRequest {
    #[prost(string, tag = "1")]
    pub(super) channel: String,
    #[prost(string, tag = "2")]
    pub(super) token: String,
    #[prost(bool, tag = "3")]
    pub(super) recover: bool,
    #[prost(string, tag = "6")]
    pub(super) epoch: String,
    #[prost(uint64, tag = "7")]
    pub(super) offset: u64,
    #[prost(bytes = "bytes", tag = "8")]
    pub(super) data: Bytes,
    #[prost(bool, tag = "9")]
    pub(super) positioned: bool,
    #[prost(bool, tag = "10")]
    pub(super) recoverable: bool,
    #[prost(bool, tag = "11")]
    pub(super) join_leave: bool,
    #[prost(string, tag = "12")]
    pub(super) delta: String,
    #[prost(message, optional, tag = "13")]
    pub(super) filter: Option<Filter>,
    #[prost(int64, tag = "14")]
    pub(super) flag: i64,
    #[prost(int32, tag = "15")]
    pub(super) kind: i32,
    #[prost(int32, tag = "16")]
    pub(super) phase: i32,
    #[prost(string, tag = "17")]
    pub(super) cursor: String,
    #[prost(int32, tag = "18")]
    pub(super) limit: i32,
    #[prost(bool, tag = "19")]
    pub(super) asc: bool,
}

/// A filter on tags. The Protobuf reader bounds its nesting depth.
#[derive(Message, PartialEq)]
pub(super) struct Filter {
    #[prost(string, tag = "1")]
    pub(super) op: String,
    #[prost(string, tag = "2")]
    pub(super) key: String,
    #[prost(string, tag = "3")]
    pub(super) cmp: String,
    #[prost(string, tag = "4")]
    pub(super) val: String,
    #[prost(string, repeated, tag = "5")]
    pub(super) vals: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub(super) nodes: Vec<Filter>,
}

#[derive(Message, PartialEq)]
pub(super) struct OfChannel {
    #[prost(string, tag = "1")]
    pub(super) channel: String,
}

#[derive(Message, PartialEq)]
pub(super) struct Publish {
    #[prost(string, tag = "1")]
    pub(super) channel: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) data: Bytes,
    #[prost(int32, tag = "3")]
    pub(super) kind: i32,
    #[prost(string, tag = "4")]
    pub(super) key: String,
    #[prost(bool, tag = "5")]
    pub(super) removed: bool,
}

#[derive(Message, PartialEq)]
pub(super) struct HistoryRequest {
    #[prost(string, tag = "1")]
    pub(super) channel: String,
    #[prost(int32, tag = "7")]
    pub(super) limit: i32,
    #[prost(message, optional, tag = "8")]
    pub(super) since: Option<Position>,
    #[prost(bool, tag = "9")]
    pub(super) reverse: bool,
}

#[derive(Message, PartialEq)]
pub(super) struct Position {
    #[prost(uint64, tag = "1")]
    pub(super) offset: u64,
    #[prost(string, tag = "2")]
    pub(super) epoch: String,
}

#[derive(Message, PartialEq)]
pub(super) struct Ping {}

#[derive(Message, PartialEq)]
pub(super) struct Send {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) data: Bytes,
}

#[derive(Message, PartialEq)]
pub(super) struct RpcRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) data: Bytes,
    #[prost(string, tag = "2")]
    pub(super) method: String,
}

#[derive(Message, PartialEq)]
pub(super) struct RefreshRequest {
    #[prost(string, tag = "1")]
    pub(super) token: String,
}

#[derive(Message, PartialEq)]
pub(super) struct SubRefreshRequest {
    #[prost(string, tag = "1")]
    pub(super) channel: String,
    #[prost(string, tag = "2")]
    pub(super) token: String,
    #[prost(int32, tag = "3")]
    pub(super) kind: i32,
    #[prost(message, repeated, tag = "4")]
    pub(super) track: Vec<Track>,
    #[prost(string, repeated, tag = "5")]
    pub(super) untrack: Vec<String>,
}

#[derive(Message, PartialEq)]
pub(super) struct Track {
    #[prost(string, tag = "1")]
    pub(super) signature: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) items: Vec<Tracked>,
}

#[derive(Message, PartialEq)]
pub(super) struct Tracked {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(uint64, tag = "2")]
    pub(super) version: u64,
}
