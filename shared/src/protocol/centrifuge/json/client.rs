//! The client side of the JSON encoding, for the load tester and for tests, so that both match the gateway's protocol.
//! It encodes commands and decodes replies and pushes, which borrow from the frame.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::write::{self, Object};
use crate::command::{Command, FilterNode, Request, Subscribe};
use crate::protocol::DecodeError;
use crate::protocol::centrifuge::{FLAG_REJECT_UNRECOVERED, TYPE_KEYED, TYPE_TRACK, TYPE_UNTRACK};

/// Appends one command. The caller puts a line break between several commands of one message.
///
/// [`Request::Refused`] and [`Request::Unknown`] have no encoding: they stand for input that a server does not serve,
/// and some requests belong to other protocols. All of them are written as a `ping` command, which no server serves either.
pub fn encode_command(command: &Command, out: &mut BytesMut) {
    let mut line = Object::begin(out);
    line.number("id", u64::from(command.id));
    match &command.request {
        Request::Pong => {}
        Request::Connect(connect) => {
            let mut body = Object::begin(line.field("connect"));
            body.string("token", &connect.token);
            body.payload("data", connect.data.as_ref());
            if !connect.subs.is_empty() {
                let mut subs = Object::begin(body.field("subs"));
                for (channel, subscribe) in &connect.subs {
                    put_subscribe(subscribe, Object::begin(subs.key(channel)));
                }
                subs.end();
            }
            body.string("name", &connect.name);
            body.string("version", &connect.version);
            if !connect.headers.is_empty() {
                let mut headers = Object::begin(body.field("headers"));
                for (name, value) in &connect.headers {
                    headers.pair(name, value);
                }
                headers.end();
            }
            body.end();
        }
        Request::Subscribe(subscribe) => {
            let mut body = Object::begin(line.field("subscribe"));
            body.string("channel", &subscribe.channel);
            put_subscribe(subscribe, body);
        }
        Request::Publish { channel, data } => {
            let mut body = Object::begin(line.field("publish"));
            body.string("channel", channel);
            write::payload(data, body.field("data"));
            body.end();
        }
        Request::PublishKey { channel, key, data, removed } => {
            let mut body = Object::begin(line.field("publish"));
            body.string("channel", channel);
            body.payload("data", Some(data));
            body.number("type", TYPE_KEYED);
            body.string("key", key);
            body.flag("removed", *removed);
            body.end();
        }
        Request::Track { channel, batches, untrack } => {
            let mut body = Object::begin(line.field("sub_refresh"));
            body.string("channel", channel);
            body.number("type", TYPE_TRACK);
            write::list(batches, body.field("track"), |batch, out| {
                let mut body = Object::begin(out);
                body.string("signature", &batch.signature);
                write::list(&batch.items, body.field("items"), |(key, version), out| {
                    let mut item = Object::begin(out);
                    item.string("key", key);
                    item.number("version", *version);
                    item.end();
                });
                body.end();
            });
            if !untrack.is_empty() {
                write::list(untrack, body.field("untrack"), |key, out| write::string(key, out));
            }
            body.end();
        }
        Request::Untrack { channel, keys } => {
            let mut body = Object::begin(line.field("sub_refresh"));
            body.string("channel", channel);
            body.number("type", TYPE_UNTRACK);
            write::list(keys, body.field("untrack"), |key, out| write::string(key, out));
            body.end();
        }
        Request::History(history) => {
            let mut body = Object::begin(line.field("history"));
            body.string("channel", &history.channel);
            if history.limit != 0 {
                body.field("limit").put_slice(itoa::Buffer::new().format(history.limit).as_bytes());
            }
            if let Some(since) = &history.since {
                let mut position = Object::begin(body.field("since"));
                position.number("offset", since.offset);
                position.string("epoch", &since.epoch);
                position.end();
            }
            body.flag("reverse", history.reverse);
            body.end();
        }
        Request::Unsubscribe { channel } => strings("unsubscribe", &[("channel", channel)], &mut line),
        Request::Presence { channel } => strings("presence", &[("channel", channel)], &mut line),
        Request::PresenceStats { channel } => strings("presence_stats", &[("channel", channel)], &mut line),
        Request::Refresh { token } => strings("refresh", &[("token", token)], &mut line),
        Request::SubRefresh { channel, token } => {
            strings("sub_refresh", &[("channel", channel), ("token", token)], &mut line);
        }
        Request::Send { data } | Request::Ask { data, .. } => {
            let mut body = Object::begin(line.field("send"));
            body.payload("data", Some(data));
            body.end();
        }
        Request::Rpc { method, data } => {
            let mut body = Object::begin(line.field("rpc"));
            body.payload("data", Some(data));
            body.string("method", method);
            body.end();
        }
        Request::Refused(_)
        | Request::Unknown
        | Request::Ping
        | Request::Emit { .. }
        | Request::Forward(_)
        | Request::Event(_)
        | Request::Enter(_)
        | Request::SignIn { .. } => strings("ping", &[], &mut line),
    }
    line.end();
}

/// A message from the server: one line of the frame.
#[derive(Debug)]
pub enum Received<'a> {
    /// A ping, to be answered with [`Request::Pong`] if the connect result says so.
    Ping,
    Publication {
        channel: Cow<'a, str>,
        publication: ReceivedPublication<'a>,
    },
    /// The server has subscribed the client to the channel.
    Subscribed {
        channel: Cow<'a, str>,
        result: ReceivedSubscribeResult<'a>,
    },
    Unsubscribed {
        channel: Cow<'a, str>,
        code: u32,
    },
    /// The client with this id has joined the channel.
    Joined {
        channel: Cow<'a, str>,
        client: Cow<'a, str>,
    },
    Left {
        channel: Cow<'a, str>,
        client: Cow<'a, str>,
    },
    Reply {
        id: u32,
        outcome: Result<ClientResult<'a>, ReceivedRefusal<'a>>,
    },
    /// A message that this reader does not know, such as a push of another kind.
    Other,
}

#[derive(Deserialize, Debug, PartialEq, Eq, Clone)]
pub struct ReceivedRefusal<'a> {
    pub code: u32,
    #[serde(borrow, default)]
    pub message: Cow<'a, str>,
    #[serde(default)]
    pub temporary: bool,
}

/// The results that a client acts on. The others are only reported to have arrived.
#[derive(Debug)]
pub enum ClientResult<'a> {
    Connect(ReceivedConnectResult<'a>),
    Subscribe(ReceivedSubscribeResult<'a>),
    History(ReceivedHistoryResult<'a>),
    PresenceStats { clients: u32, users: u32 },
    Other,
}

#[derive(Deserialize, Debug)]
pub struct ReceivedConnectResult<'a> {
    #[serde(borrow)]
    pub client: Cow<'a, str>,
    /// Seconds between pings; 0 for none.
    #[serde(default)]
    pub ping: u32,
    #[serde(default)]
    pub pong: bool,
    #[serde(default)]
    pub expires: bool,
    #[serde(default)]
    pub ttl: u32,
    #[serde(borrow, default)]
    pub node: Cow<'a, str>,
    /// The channels that the server has subscribed the client to.
    #[serde(borrow, default)]
    pub subs: BTreeMap<String, ReceivedSubscribeResult<'a>>,
}

#[derive(Deserialize, Debug)]
pub struct ReceivedSubscribeResult<'a> {
    #[serde(default)]
    pub recoverable: bool,
    #[serde(default)]
    pub positioned: bool,
    #[serde(borrow, default)]
    pub epoch: Cow<'a, str>,
    #[serde(default)]
    pub offset: u64,
    #[serde(borrow, default)]
    pub publications: Vec<ReceivedPublication<'a>>,
    #[serde(default)]
    pub recovered: bool,
    #[serde(default)]
    pub was_recovering: bool,
    /// Whether payloads come as strings, whole or as patches.
    #[serde(default)]
    pub delta: bool,
    /// In a channel that keeps state by key, the number of the [`crate::command::Phase`] that this page belongs to.
    #[serde(default)]
    pub phase: u32,
    /// The cursor with which to ask for the next page of the state.
    #[serde(borrow, default)]
    pub cursor: Cow<'a, str>,
    /// The values of the keys in this page.
    #[serde(borrow, default)]
    pub state: Vec<ReceivedPublication<'a>>,
}

#[derive(Deserialize, Debug)]
pub struct ReceivedHistoryResult<'a> {
    #[serde(borrow, default)]
    pub publications: Vec<ReceivedPublication<'a>>,
    #[serde(borrow, default)]
    pub epoch: Cow<'a, str>,
    #[serde(default)]
    pub offset: u64,
}

#[derive(Deserialize, Debug, Clone, Default)]
pub struct ReceivedPublication<'a> {
    /// The payload's JSON. Empty if there is none.
    #[serde(borrow, default, deserialize_with = "json")]
    pub data: &'a str,
    /// 0 in a channel without a stream.
    #[serde(default)]
    pub offset: u64,
    /// Whether the payload is a patch against the previous one.
    #[serde(default)]
    pub delta: bool,
    /// The publication's key, in a channel that keeps state by key.
    #[serde(borrow, default)]
    pub key: Cow<'a, str>,
    /// Whether the key was removed.
    #[serde(default)]
    pub removed: bool,
    /// The version of the key's value; 0 if it has none.
    #[serde(default)]
    pub version: u64,
}

fn json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'de str, D::Error> {
    <&RawValue>::deserialize(deserializer).map(RawValue::get)
}

/// Reads a frame line by line. Each line that cannot be read yields an error.
pub fn decode_frame(frame: &str) -> impl Iterator<Item = Result<Received<'_>, DecodeError>> {
    frame.split('\n').filter(|line| !line.is_empty()).map(decode_line)
}

fn decode_line(line: &str) -> Result<Received<'_>, DecodeError> {
    if line.as_bytes() == super::PING {
        return Ok(Received::Ping);
    }
    if let Some(publication) = decode_publication(line) {
        return Ok(publication);
    }
    let line: ReceivedLine<'_> = serde_json::from_str(line).map_err(|_| DecodeError::Malformed)?;
    Ok(match line {
        ReceivedLine { push: Some(push), .. } => match push {
            PushBody { channel, r#pub: Some(publication), .. } => {
                Received::Publication { channel, publication }
            }
            PushBody { channel, unsubscribe: Some(body), .. } => {
                Received::Unsubscribed { channel, code: body.code }
            }
            PushBody { channel, subscribe: Some(result), .. } => Received::Subscribed { channel, result },
            PushBody { channel, join: Some(body), .. } => {
                Received::Joined { channel, client: body.info.client }
            }
            PushBody { channel, leave: Some(body), .. } => {
                Received::Left { channel, client: body.info.client }
            }
            PushBody { .. } => Received::Other,
        },
        ReceivedLine { id: 0, .. } => Received::Ping,
        ReceivedLine { id, error: Some(refusal), .. } => Received::Reply { id, outcome: Err(refusal) },
        ReceivedLine { id, connect: Some(result), .. } => {
            Received::Reply { id, outcome: Ok(ClientResult::Connect(result)) }
        }
        ReceivedLine { id, subscribe: Some(result), .. } => {
            Received::Reply { id, outcome: Ok(ClientResult::Subscribe(result)) }
        }
        ReceivedLine { id, history: Some(result), .. } => {
            Received::Reply { id, outcome: Ok(ClientResult::History(result)) }
        }
        ReceivedLine { id, presence_stats: Some(counts), .. } => Received::Reply {
            id,
            outcome: Ok(ClientResult::PresenceStats { clients: counts.num_clients, users: counts.num_users }),
        },
        ReceivedLine { id, .. } => Received::Reply { id, outcome: Ok(ClientResult::Other) },
    })
}

/// Reads a publication in the form that the gateway writes, in less than half the time of the general reader, which
/// handles all other lines. It finds the end of the payload without checking that it is JSON.
fn decode_publication(line: &str) -> Option<Received<'_>> {
    let rest = line.strip_prefix("{\"push\":{\"channel\":\"")?;
    let (channel, rest) = rest.split_at(memchr::memchr2(b'"', b'\\', rest.as_bytes())?);
    let rest = rest.strip_prefix("\",\"pub\":{\"data\":")?;
    let (data, rest) = rest.split_at(end_of_value(rest.as_bytes())?);
    let offset = match rest.strip_prefix(",\"offset\":") {
        Some(rest) => rest.strip_suffix("}}}")?.parse().ok()?,
        None if rest == "}}}" => 0,
        None => return None,
    };
    Some(Received::Publication {
        channel: Cow::Borrowed(channel),
        publication: ReceivedPublication { data, offset, ..ReceivedPublication::default() },
    })
}

/// Returns the end of the JSON value at the start of these bytes, which are the inside of an object.
fn end_of_value(json: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        match json.get(at)? {
            b'"' => at = end_of_string(json, at + 1)?,
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' if depth == 0 => return Some(at),
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
}

/// Returns the position of the quote that ends a string.
fn end_of_string(json: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at);
        }
        // Skips the backslash and the character that it escapes.
        at += 2;
    }
}

#[derive(Deserialize)]
struct ReceivedLine<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    push: Option<PushBody<'a>>,
    #[serde(borrow)]
    error: Option<ReceivedRefusal<'a>>,
    #[serde(borrow)]
    connect: Option<ReceivedConnectResult<'a>>,
    #[serde(borrow)]
    subscribe: Option<ReceivedSubscribeResult<'a>>,
    #[serde(borrow)]
    history: Option<ReceivedHistoryResult<'a>>,
    presence_stats: Option<Counts>,
}

#[derive(Deserialize)]
struct PushBody<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    r#pub: Option<ReceivedPublication<'a>>,
    unsubscribe: Option<UnsubscribeBody>,
    #[serde(borrow)]
    subscribe: Option<ReceivedSubscribeResult<'a>>,
    #[serde(borrow)]
    join: Option<PresentBody<'a>>,
    #[serde(borrow)]
    leave: Option<PresentBody<'a>>,
}

#[derive(Deserialize)]
struct PresentBody<'a> {
    #[serde(borrow)]
    info: PresentInfo<'a>,
}

#[derive(Deserialize)]
struct PresentInfo<'a> {
    #[serde(borrow)]
    client: Cow<'a, str>,
}

#[derive(Deserialize)]
struct UnsubscribeBody {
    code: u32,
}

#[derive(Deserialize)]
struct Counts {
    #[serde(default)]
    num_clients: u32,
    #[serde(default)]
    num_users: u32,
}

/// Writes the rest of a subscribe request. In a connect request the channel is a key, so it is not written here.
fn put_subscribe(subscribe: &Subscribe, mut body: Object<'_>) {
    body.string("token", &subscribe.token);
    body.flag("recover", subscribe.recover);
    body.string("epoch", &subscribe.epoch);
    body.number("offset", subscribe.offset);
    body.flag("positioned", subscribe.positioned);
    body.flag("recoverable", subscribe.recoverable);
    body.flag("join_leave", subscribe.join_leave);
    body.string("delta", &subscribe.delta);
    body.number("flag", if subscribe.reject_unrecovered { FLAG_REJECT_UNRECOVERED } else { 0 });
    body.payload("data", subscribe.data.as_deref());
    if let Some(filter) = &subscribe.filter {
        put_filter(filter, body.field("tf"));
    }
    body.number("type", u64::from(subscribe.kind.number()));
    if let Some(page) = &subscribe.page {
        body.number("phase", u64::from(page.phase.number()));
        body.string("cursor", &page.cursor);
        body.number("limit", u64::from(page.limit));
        body.flag("asc", page.ascending);
    }
    body.end();
}

fn put_filter(filter: &FilterNode, out: &mut BytesMut) {
    let mut body = Object::begin(out);
    for (name, text) in [("op", &filter.op), ("key", &filter.key), ("cmp", &filter.cmp), ("val", &filter.val)]
    {
        body.string(name, text);
    }
    if !filter.vals.is_empty() {
        write::list(&filter.vals, body.field("vals"), |val, out| write::string(val, out));
    }
    if !filter.nodes.is_empty() {
        write::list(&filter.nodes, body.field("nodes"), put_filter);
    }
    body.end();
}

/// Writes a body that holds only strings.
fn strings(name: &str, fields: &[(&str, &str)], line: &mut Object<'_>) {
    let mut body = Object::begin(line.field(name));
    for (name, value) in fields {
        body.string(name, value);
    }
    body.end();
}
