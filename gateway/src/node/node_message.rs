//! The questions and answers between nodes, and their encoding.
//!
//! A message is one line of JSON, followed by bytes that need not be JSON. The version, the question's number and the sender
//! keep their meaning in every version, so that a node can tell another that it does not understand the question:
//! nodes of two releases run side by side.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use gateway_core::effect::Overrides;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use shared::command::Since;
use shared::disconnect::Disconnect;
use shared::id::ClientId;

use super::ask::ASK_TIMEOUT;
use super::ask_clients::ASK_CLIENTS_TIMEOUT_MAX;
use super::closes::{CloseRecord, ClosesWanted};
use super::control::{Among, ControlTarget};
use super::wire_target::{WireAmong, WireTarget};

pub use super::ask_clients::{AskClients, AskOutcome};
pub use super::balance::{ShedReport, ShedState, ShedWanted};
pub use crate::engine_io::RemotePollRequest;
pub use detail::{ConnectionDetail, ConnectionInfo, DetailWanted, SubscriptionDetail};

use ask_clients_wire::{WireAskClients, WireAsked};
use wire::{WireConnections, WireRefresh, WireSubscription};

mod ask_clients_wire;
mod detail;
mod wire;

/// The longest message that is written or read, in bytes.
pub const NODE_MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// The most channels or connections in one answer.
pub const PAGE_MAX: u32 = 1_000;

/// Raised whenever an older node would misread a question or an answer. Messages of a later version are not understood.
pub const VERSION: u32 = 1;

/// A question to a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeRequest {
    /// Hand this message to the session's client, as if the client had sent it.
    Message { session: Box<str>, data: Bytes },
    /// List channels that have subscribers, by name.
    Channels(ChannelsWanted),
    /// List connections, by their place on the node.
    Connections(ConnectionsWanted),
    /// List the clients that were closed recently, and why.
    Closes(ClosesWanted),
    /// Apply a command to the selected clients on this node.
    Act(ControlTarget, ClientCommand),
    /// Close the clients that the node has above the mean of all nodes.
    Shed(ShedWanted),
    /// A polling request for an Engine.IO session, which is named by its secret id.
    Poll { session: Box<str>, polled: RemotePollRequest },
    /// Send an event to the selected clients on this node, and return their answers.
    AskClients(Box<(Among, AskClients)>),
}

/// A command applied to clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientCommand {
    /// Close their connections.
    Disconnect(Disconnect),
    /// End their subscription to a channel.
    Unsubscribe(Channel),
    Subscribe(Box<Subscribing>),
    Refresh(Box<ConnectionExpiry>),
}

/// A subscription made by the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscribing {
    pub channel: Channel,
    /// When the subscription expires, in seconds since 1970. `None`: it lasts as long as the connection.
    pub expires_at: Option<i64>,
    /// JSON shown to others in the channel.
    pub info: Option<Bytes>,
    /// JSON for the client.
    pub data: Option<Bytes>,
    /// From where on the client is given the retained history.
    pub since: Option<Since>,
    pub overrides: Overrides,
}

/// A new expiry of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnectionExpiry {
    pub expired: bool,
    /// In seconds since 1970. `None`: the connection does not expire.
    pub expires_at: Option<i64>,
    /// JSON shown to others. `None` leaves it unchanged.
    pub info: Option<Bytes>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelsWanted {
    /// A pattern as parsed by [`super::glob`]. An empty one matches all names.
    pub pattern: Box<str>,
    /// Only channels after this name.
    pub after: Box<str>,
    /// At most [`PAGE_MAX`].
    pub limit: u32,
    /// Only these channels, if any are named; at most [`PAGE_MAX`]. A node that does not know this field returns others too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<Box<str>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnectionsWanted {
    /// Only connections of this user. An empty name selects anonymous users.
    pub user: Option<Box<str>>,
    pub client: Option<ClientId>,
    /// Only connections subscribed to this channel.
    pub channel: Option<Channel>,
    pub from: ConnectionCursor,
    /// At most [`PAGE_MAX`].
    pub limit: u32,
    /// Further details to return for each connection. A node that does not know this field leaves them out.
    pub detail: Option<DetailWanted>,
}

/// The place of a connection on a node. Connections are listed in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct ConnectionCursor {
    pub worker: u16,
    pub index: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeResponse {
    /// The message was handed to the client, or the request to the session was carried out.
    Handled,
    /// Packets of Engine.IO. Empty if none have come within the given time.
    Packets(Bytes),
    /// A part of the packets; more follow.
    PacketsPart(Bytes),
    NoSuchSession,
    /// The message was not taken, because the same one is in flight already.
    Repeated,
    Channels(ChannelsPage),
    Connections(ConnectionsPage),
    /// Recent closes, the latest first.
    Closes(Vec<CloseRecord>),
    /// The number of selected clients, and of those for which the command failed.
    Done {
        clients: u32,
        failed: u32,
        /// How many of the failures are of clients that may have no more channels.
        full: u32,
    },
    /// The outcome for each client that was asked.
    Asked(Vec<(ClientId, AskOutcome)>),
    /// What is being done about clients above the mean.
    Shed(ShedReport),
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelsPage {
    /// Channels by name, each with its subscribers on this node.
    pub channels: Vec<(Box<str>, u32)>,
    /// The last name that was looked at. `None` if all were.
    pub until: Option<Box<str>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionsPage {
    pub connections: Vec<ConnectionInfo>,
    /// Where the next page begins, if there is one.
    pub next: Option<ConnectionCursor>,
}

/// A message that arrived for this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeMessage {
    /// `None`: this node does not understand the question.
    Question { id: u64, from: Box<str>, question: Option<NodeRequest> },
    /// The answer to a question of this node.
    Answer { id: u64, answer: Result<NodeResponse, NodeRequestError> },
}

/// Why a node does not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRequestError {
    /// The node runs an earlier release, or its answer is of a later one.
    NotUnderstood,
    /// The node already answers as many questions as it can.
    Busy,
    /// The node had no result in time.
    Late,
}

#[derive(Debug, thiserror::Error)]
pub enum NodeMessageError {
    #[error("a message between nodes has {0} bytes; the longest allowed has {NODE_MESSAGE_BYTES_MAX}")]
    TooLong(usize),
    #[error("a message between nodes cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("a message between nodes neither asks nor answers")]
    Neither,
}

/// These fields mean the same in every version.
#[derive(Serialize, Deserialize)]
struct NodeMessageHeader<'a> {
    v: u32,
    id: u64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    from: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    ask: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    answer: Option<&'a RawValue>,
}

/// The wire's own types, so that a rename above cannot change what other releases read.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireQuestion {
    Message {
        session: Box<str>,
    },
    Channels(ChannelsWanted),
    Connections(WireConnections),
    Closes(ClosesWanted),
    Disconnect {
        target: WireTarget,
        code: u16,
        reason: Box<str>,
    },
    Unsubscribe {
        target: WireTarget,
        channel: Box<str>,
    },
    Subscribe {
        target: WireTarget,
        subscription: WireSubscription,
    },
    Refresh {
        target: WireTarget,
        refresh: WireRefresh,
    },
    FetchPackets {
        session: Box<str>,
        wait_ms: u32,
    },
    FetchRest {
        session: Box<str>,
    },
    BringPackets {
        session: Box<str>,
    },
    BringPart {
        session: Box<str>,
    },
    EndPolling {
        session: Box<str>,
    },
    /// Restricts the inner command to the selected subscribers of a channel.
    Among {
        among: WireAmong,
        act: Box<WireQuestion>,
    },
    AskClients(WireAskClients),
    Shed(ShedWanted),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireAnswer {
    Handled,
    Packets,
    PacketsPart,
    NoSuchSession,
    Repeated,
    Channels(ChannelsPage),
    Connections(ConnectionsPage),
    Closes(Vec<CloseRecord>),
    Done {
        clients: u32,
        /// Absent in messages of earlier releases, which also ignore it.
        #[serde(default, skip_serializing_if = "is_none")]
        failed: u32,
        #[serde(default, skip_serializing_if = "is_none")]
        full: u32,
    },
    Asked(Vec<WireAsked>),
    Shed(ShedReport),
    Unanswered(NodeRequestError),
}

impl NodeRequest {
    /// Returns how long an answer may take.
    pub(super) fn patience(&self) -> Duration {
        match self {
            Self::AskClients(wanted) => wanted.1.timeout.min(ASK_CLIENTS_TIMEOUT_MAX) + ASK_TIMEOUT,
            _ => ASK_TIMEOUT,
        }
    }
}

impl NodeMessage {
    pub fn encode(&self) -> Result<Bytes, NodeMessageError> {
        let mut payload = Bytes::new();
        let message = match self {
            Self::Question { id, from, question } => {
                let wire = question.clone().map(|question| write_question(question, &mut payload));
                let ask = serde_json::value::to_raw_value(&wire)?;
                let line = NodeMessageHeader {
                    v: VERSION,
                    id: *id,
                    from: Some((&**from).into()),
                    ask: Some(&ask),
                    answer: None,
                };
                with_payload(&line, &payload)?
            }
            Self::Answer { id, answer } => {
                let wire = match answer.clone() {
                    Ok(NodeResponse::Handled) => WireAnswer::Handled,
                    Ok(NodeResponse::Packets(packets)) => {
                        payload = packets;
                        WireAnswer::Packets
                    }
                    Ok(NodeResponse::PacketsPart(part)) => {
                        payload = part;
                        WireAnswer::PacketsPart
                    }
                    Ok(NodeResponse::NoSuchSession) => WireAnswer::NoSuchSession,
                    Ok(NodeResponse::Repeated) => WireAnswer::Repeated,
                    Ok(NodeResponse::Channels(page)) => WireAnswer::Channels(page),
                    Ok(NodeResponse::Connections(page)) => WireAnswer::Connections(page),
                    Ok(NodeResponse::Closes(closes)) => WireAnswer::Closes(closes),
                    Ok(NodeResponse::Done { clients, failed, full }) => {
                        WireAnswer::Done { clients, failed, full }
                    }
                    Ok(NodeResponse::Asked(outcomes)) => {
                        WireAnswer::Asked(ask_clients_wire::write_outcomes(outcomes))
                    }
                    Ok(NodeResponse::Shed(report)) => WireAnswer::Shed(report),
                    Err(unanswered) => WireAnswer::Unanswered(unanswered),
                };
                let answer = serde_json::value::to_raw_value(&wire)?;
                with_payload(
                    &NodeMessageHeader { v: VERSION, id: *id, from: None, ask: None, answer: Some(&answer) },
                    &payload,
                )?
            }
        };
        if message.len() > NODE_MESSAGE_BYTES_MAX {
            Err(NodeMessageError::TooLong(message.len()))
        } else {
            Ok(message)
        }
    }

    /// Decodes a message of any node, of this release or of another.
    pub fn decode(message: &Bytes) -> Result<Self, NodeMessageError> {
        if message.len() > NODE_MESSAGE_BYTES_MAX {
            return Err(NodeMessageError::TooLong(message.len()));
        }
        let end = memchr::memchr(b'\n', message).unwrap_or(message.len());
        let payload = message.slice((end + 1).min(message.len())..);
        let line: NodeMessageHeader<'_> = serde_json::from_slice(&message[..end])?;
        let is_known = line.v <= VERSION;
        match (line.ask, line.from, line.answer) {
            (Some(ask), Some(from), _) => {
                let question = Some(ask).filter(|_| is_known).and_then(|ask| read_question(ask, payload));
                Ok(Self::Question { id: line.id, from: from.into(), question })
            }
            (_, _, Some(answer)) => {
                let answer = Some(answer).filter(|_| is_known);
                let answer = answer.and_then(|answer| read_answer(answer, payload));
                Ok(Self::Answer {
                    id: line.id,
                    answer: answer.unwrap_or(Err(NodeRequestError::NotUnderstood)),
                })
            }
            _ => Err(NodeMessageError::Neither),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_none(count: &u32) -> bool {
    *count == 0
}

fn with_payload(line: &NodeMessageHeader<'_>, payload: &[u8]) -> Result<Bytes, NodeMessageError> {
    let mut message = BytesMut::from(&serde_json::to_vec(line)?[..]);
    if !payload.is_empty() {
        message.put_u8(b'\n');
        message.put_slice(payload);
    }
    Ok(message.freeze())
}

fn write_question(question: NodeRequest, payload: &mut Bytes) -> WireQuestion {
    match question {
        NodeRequest::Message { session, data } => {
            *payload = data;
            WireQuestion::Message { session }
        }
        NodeRequest::Poll { session, polled } => match polled {
            RemotePollRequest::Fetch { wait_ms } => WireQuestion::FetchPackets { session, wait_ms },
            RemotePollRequest::FetchRest => WireQuestion::FetchRest { session },
            RemotePollRequest::UploadPart(part) => {
                *payload = part;
                WireQuestion::BringPart { session }
            }
            RemotePollRequest::Upload(packets) => {
                *payload = packets;
                WireQuestion::BringPackets { session }
            }
            RemotePollRequest::End => WireQuestion::EndPolling { session },
        },
        NodeRequest::AskClients(wanted) => {
            let (among, ask) = *wanted;
            WireQuestion::AskClients(ask_clients_wire::write(among, ask, payload))
        }
        NodeRequest::Channels(wanted) => WireQuestion::Channels(wanted),
        NodeRequest::Connections(wanted) => WireQuestion::Connections(WireConnections {
            user: wanted.user,
            client: wanted.client.map(text),
            channel: wanted.channel.map(|channel| channel.as_str().into()),
            from: wanted.from,
            limit: wanted.limit,
            detail: wanted.detail,
        }),
        NodeRequest::Closes(wanted) => WireQuestion::Closes(wanted),
        NodeRequest::Shed(wanted) => WireQuestion::Shed(wanted),
        NodeRequest::Act(mut target, act) => {
            let among = target.among.take();
            let target = target.into();
            let question = match act {
                ClientCommand::Disconnect(Disconnect { code, reason }) => {
                    WireQuestion::Disconnect { target, code, reason: reason.into() }
                }
                ClientCommand::Unsubscribe(channel) => {
                    WireQuestion::Unsubscribe { target, channel: channel.as_str().into() }
                }
                ClientCommand::Subscribe(wanted) => {
                    let Subscribing { channel, expires_at, info, data, since, overrides } = *wanted;
                    let subscription = WireSubscription {
                        channel: channel.as_str().into(),
                        expires_at,
                        info: info.and_then(raw),
                        data: data.and_then(raw),
                        since: since.map(|since| (since.offset, since.epoch)),
                        presence: overrides.presence,
                        join_leave: overrides.join_leave,
                        force_recovery: overrides.force_recovery,
                        force_positioning: overrides.force_positioning,
                        force_push_join_leave: overrides.force_push_join_leave,
                    };
                    WireQuestion::Subscribe { target, subscription }
                }
                ClientCommand::Refresh(wanted) => {
                    let ConnectionExpiry { expired, expires_at, info } = *wanted;
                    let refresh = WireRefresh { expired, expires_at, info: info.and_then(raw) };
                    WireQuestion::Refresh { target, refresh }
                }
            };
            match among {
                Some(among) => WireQuestion::Among { among: (*among).into(), act: Box::new(question) },
                None => question,
            }
        }
    }
}

/// Returns `None` for a question that this node does not understand.
fn read_question(ask: &RawValue, payload: Bytes) -> Option<NodeRequest> {
    understand(serde_json::from_str(ask.get()).ok()?, payload)
}

fn understand(question: WireQuestion, payload: Bytes) -> Option<NodeRequest> {
    Some(match question {
        WireQuestion::Among { among, act } => {
            let NodeRequest::Act(target, act) = understand(*act, payload)? else { return None };
            // No node nests one `Among` in another.
            if target.among.is_some() {
                return None;
            }
            NodeRequest::Act(ControlTarget { among: Some(Box::new(among.read()?)), ..target }, act)
        }
        WireQuestion::Message { session } => NodeRequest::Message { session, data: payload },
        WireQuestion::FetchPackets { session, wait_ms } => {
            NodeRequest::Poll { session, polled: RemotePollRequest::Fetch { wait_ms } }
        }
        WireQuestion::FetchRest { session } => {
            NodeRequest::Poll { session, polled: RemotePollRequest::FetchRest }
        }
        WireQuestion::BringPart { session } => {
            NodeRequest::Poll { session, polled: RemotePollRequest::UploadPart(payload) }
        }
        WireQuestion::BringPackets { session } => {
            NodeRequest::Poll { session, polled: RemotePollRequest::Upload(payload) }
        }
        WireQuestion::EndPolling { session } => NodeRequest::Poll { session, polled: RemotePollRequest::End },
        WireQuestion::AskClients(wire) => ask_clients_wire::read(wire, payload)?,
        WireQuestion::Channels(wanted) => NodeRequest::Channels(wanted),
        WireQuestion::Connections(wanted) => NodeRequest::Connections(ConnectionsWanted {
            user: wanted.user,
            client: client(wanted.client)?,
            channel: wanted.channel.map(|name| channel(&name).ok_or(())).transpose().ok()?,
            from: wanted.from,
            limit: wanted.limit,
            detail: wanted.detail,
        }),
        WireQuestion::Closes(wanted) => NodeRequest::Closes(wanted),
        WireQuestion::Shed(wanted) => NodeRequest::Shed(wanted),
        WireQuestion::Disconnect { target, code, reason } => {
            NodeRequest::Act(target.read()?, ClientCommand::Disconnect(Disconnect::custom(code, &reason)?))
        }
        WireQuestion::Unsubscribe { target, channel: name } => {
            NodeRequest::Act(target.read()?, ClientCommand::Unsubscribe(channel(&name)?))
        }
        WireQuestion::Subscribe { target, subscription: wire } => {
            let wanted = Subscribing {
                channel: channel(&wire.channel)?,
                expires_at: wire.expires_at,
                info: wire.info.map(bytes),
                data: wire.data.map(bytes),
                since: wire.since.map(|(offset, epoch)| Since { offset, epoch }),
                overrides: Overrides {
                    presence: wire.presence,
                    join_leave: wire.join_leave,
                    force_recovery: wire.force_recovery,
                    force_positioning: wire.force_positioning,
                    force_push_join_leave: wire.force_push_join_leave,
                },
            };
            NodeRequest::Act(target.read()?, ClientCommand::Subscribe(Box::new(wanted)))
        }
        WireQuestion::Refresh { target, refresh: WireRefresh { expired, expires_at, info } } => {
            let wanted = ConnectionExpiry { expired, expires_at, info: info.map(bytes) };
            NodeRequest::Act(target.read()?, ClientCommand::Refresh(Box::new(wanted)))
        }
    })
}

fn read_answer(answer: &RawValue, payload: Bytes) -> Option<Result<NodeResponse, NodeRequestError>> {
    Some(Ok(match serde_json::from_str(answer.get()).ok()? {
        WireAnswer::Handled => NodeResponse::Handled,
        WireAnswer::Packets => NodeResponse::Packets(payload),
        WireAnswer::PacketsPart => NodeResponse::PacketsPart(payload),
        WireAnswer::NoSuchSession => NodeResponse::NoSuchSession,
        WireAnswer::Repeated => NodeResponse::Repeated,
        WireAnswer::Channels(page) => NodeResponse::Channels(page),
        WireAnswer::Connections(page) => NodeResponse::Connections(page),
        WireAnswer::Closes(closes) => NodeResponse::Closes(closes),
        WireAnswer::Done { clients, failed, full } => NodeResponse::Done { clients, failed, full },
        WireAnswer::Asked(outcomes) => NodeResponse::Asked(ask_clients_wire::read_outcomes(outcomes)?),
        WireAnswer::Shed(report) => NodeResponse::Shed(report),
        WireAnswer::Unanswered(unanswered) => return Some(Err(unanswered)),
    }))
}

/// Returns `None` for invalid JSON, which the sender has ruled out.
fn raw(json: Bytes) -> Option<Box<RawValue>> {
    serde_json::from_slice(&json).ok()
}

fn bytes(raw: Box<RawValue>) -> Bytes {
    Box::<str>::from(raw).into_string().into()
}

fn text(client: ClientId) -> Box<str> {
    client.to_string().into()
}

/// The outer `None` means that the text is not an id.
fn client(text: Option<Box<str>>) -> Option<Option<ClientId>> {
    text.map(|text| ClientId::parse(&text).ok_or(())).transpose().ok()
}

fn channel(name: &str) -> Option<Channel> {
    Channel::parse_unicode(name, CHANNEL_BYTES_MAX).ok()
}

#[cfg(test)]
mod tests;
