//! Decodes client messages: commands, each preceded by its length.

use bytes::Bytes;
use prost::Message;

use super::requests;
use crate::command::{
    Command, Connect, FilterNode, History, Phase, Request, Since, StateRequest, Subscribe, SubscriptionKind,
    TrackBatch,
};
use crate::error::ErrorCode;
use crate::protocol::DecodeError;
use crate::protocol::centrifuge::{FLAG_REJECT_UNRECOVERED, TYPE_KEYED, TYPE_TRACK, TYPE_UNTRACK};
use crate::publication::Payload;

pub(super) fn decode(
    mut message: &[u8],
    commands_max: usize,
    commands: &mut Vec<Command>,
) -> Result<(), DecodeError> {
    if message.is_empty() {
        return Err(DecodeError::Empty);
    }
    let mut count = 0;
    while !message.is_empty() {
        if count == commands_max {
            return Err(DecodeError::TooManyCommands);
        }
        let (command, rest) = split(message).ok_or(DecodeError::Malformed)?;
        commands.push(decode_command(command)?);
        message = rest;
        count += 1;
    }
    Ok(())
}

/// Decodes a connect request without a length and without a command around it.
pub(in crate::protocol::centrifuge) fn decode_connect(message: &[u8]) -> Result<Connect, DecodeError> {
    requests::ConnectRequest::decode(message).map(Connect::from).map_err(|_| DecodeError::Malformed)
}

/// Splits a message into the part that its length announces, and the rest.
pub(super) fn split(mut message: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = prost::decode_length_delimiter(&mut message).ok()?;
    message.split_at_checked(length)
}

/// Decodes one command. The presence of fields decides which command it is.
fn decode_command(bytes: &[u8]) -> Result<Command, DecodeError> {
    if bytes.is_empty() {
        return Ok(Command { id: 0, request: Request::Pong });
    }
    let command = requests::CommandRequest::decode(bytes).map_err(|_| DecodeError::Malformed)?;
    let id = command.id;
    let is_sent = command.send.is_some();
    let mut bodies = [
        command.connect.map(|body| Request::Connect(Box::new(body.into()))),
        command.subscribe.map(|body| subscribe(*body)),
        command.unsubscribe.map(|body| Request::Unsubscribe { channel: body.channel.into() }),
        command.publish.map(publish),
        command.presence.map(|body| Request::Presence { channel: body.channel.into() }),
        command.presence_stats.map(|body| Request::PresenceStats { channel: body.channel.into() }),
        command.history.map(history),
        command.ping.map(|_| Request::Unknown),
        command.send.map(|body| Request::Send { data: payload(body.data) }),
        command.rpc.map(|body| Request::Rpc { method: body.method.into(), data: payload(body.data) }),
        command.refresh.map(|body| Request::Refresh { token: body.token.into() }),
        command.sub_refresh.map(sub_refresh),
    ]
    .into_iter()
    .flatten();
    let request = match (bodies.next(), bodies.next()) {
        (Some(request), None) if id != 0 || is_sent => request,
        _ => Request::Unknown,
    };
    Ok(Command { id, request })
}

impl From<requests::ConnectRequest> for Connect {
    fn from(body: requests::ConnectRequest) -> Self {
        let headers = body.headers.into_iter().map(|(name, value)| (name.into(), value.into()));
        let subs = body.subs.into_iter().map(|(channel, body)| {
            let channel: Box<str> = channel.into();
            (channel.clone(), Subscribe { channel, ..subscription(body).unwrap_or_default() })
        });
        Self {
            token: body.token.into(),
            data: optional(body.data),
            headers: headers.collect(),
            subs: subs.collect(),
            exact: false,
            name: body.name.into(),
            version: body.version.into(),
        }
    }
}

fn subscribe(body: requests::SubscribeRequest) -> Request {
    subscription(body).map_or(Request::Refused(ErrorCode::BadRequest), Request::Subscribe)
}

/// Returns `None` for an unknown kind or phase.
fn subscription(body: requests::SubscribeRequest) -> Option<Subscribe> {
    let page = StateRequest {
        phase: Phase::of(body.phase)?,
        cursor: body.cursor.into(),
        limit: u32::try_from(body.limit).unwrap_or_default(),
        ascending: body.asc,
    };
    Some(Subscribe {
        channel: body.channel.into(),
        token: body.token.into(),
        recover: body.recover,
        epoch: body.epoch.into(),
        offset: body.offset,
        positioned: body.positioned,
        recoverable: body.recoverable,
        join_leave: body.join_leave,
        reject_unrecovered: body.flag as u64 & FLAG_REJECT_UNRECOVERED != 0,
        delta: body.delta.into(),
        data: optional(body.data).map(Box::new),
        filter: body.filter.map(|filter| Box::new(filter.into())),
        kind: SubscriptionKind::of(body.kind)?,
        page: (page != StateRequest::default()).then(|| Box::new(page)),
        members: false,
        after: None,
        topics: Box::default(),
        additional_reader: false,
        ask: None,
        delivery: None,
    })
}

impl From<requests::Filter> for FilterNode {
    fn from(body: requests::Filter) -> Self {
        Self {
            op: body.op.into(),
            key: body.key.into(),
            cmp: body.cmp.into(),
            val: body.val.into(),
            vals: body.vals.into_iter().map(Box::from).collect(),
            nodes: body.nodes.into_iter().map(Self::from).collect(),
        }
    }
}

/// A request that removes a key needs no data.
fn publish(body: requests::Publish) -> Request {
    let channel = body.channel.into();
    match number(body.kind) {
        Some(0) if !body.data.is_empty() => Request::Publish { channel, data: payload(body.data) },
        Some(TYPE_KEYED) if !body.data.is_empty() || body.removed => Request::PublishKey {
            channel,
            key: body.key.into(),
            data: payload(body.data),
            removed: body.removed,
        },
        _ => Request::Refused(ErrorCode::BadRequest),
    }
}

fn history(body: requests::HistoryRequest) -> Request {
    let since = body.since.map(|since| Since { offset: since.offset, epoch: since.epoch.into() });
    Request::History(History {
        channel: body.channel.into(),
        limit: body.limit,
        since,
        reverse: body.reverse,
    })
}

fn sub_refresh(body: requests::SubRefreshRequest) -> Request {
    let channel = body.channel.into();
    match number(body.kind) {
        Some(0) => Request::SubRefresh { channel, token: body.token.into() },
        Some(TYPE_TRACK) => Request::Track {
            channel,
            batches: body.track.into_iter().map(TrackBatch::from).collect(),
            untrack: body.untrack.into_iter().map(Box::from).collect(),
        },
        Some(TYPE_UNTRACK) => {
            Request::Untrack { channel, keys: body.untrack.into_iter().map(Box::from).collect() }
        }
        _ => Request::Refused(ErrorCode::BadRequest),
    }
}

impl From<requests::Track> for TrackBatch {
    fn from(body: requests::Track) -> Self {
        let items = body.items.into_iter().map(|item| (item.key.into(), item.version));
        Self { signature: body.signature.into(), items: items.collect() }
    }
}

fn number(kind: i32) -> Option<u64> {
    u64::try_from(kind).ok()
}

fn optional(data: Bytes) -> Option<Payload> {
    (!data.is_empty()).then(|| payload(data))
}

/// A missing payload becomes one of JSON without bytes, which no JSON value has.
fn payload(data: Bytes) -> Payload {
    match data.is_empty() {
        true => Payload::json(data),
        false => Payload::of_unknown(data),
    }
}
