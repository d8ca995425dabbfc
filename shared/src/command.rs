//! Commands of clients, independent of any protocol.

use std::collections::BTreeMap;

use crate::delivery::{DeliveryWanted, InvalidDelivery};
use crate::error::ErrorCode;
use crate::publication::{Payload, Selection, Tagged};
use crate::topic_selector::Selector;

/// One request. `id` identifies its reply; it is 0 where no reply is expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    pub id: u32,
    pub request: Request,
}

impl Command {
    /// Returns the approximate size of the command in memory while it is queued, in bytes.
    pub fn bytes(&self) -> usize {
        let held = match &self.request {
            Request::Connect(connect) => connect_bytes(connect),
            Request::Enter(enter) => connect_bytes(&enter.connect) + enter.channel.len(),
            Request::Forward(forward) => {
                forward.channel.len()
                    + forward.event.len()
                    + tagged_bytes(&forward.arguments)
                    + size_of::<Forward>()
            }
            Request::Event(event) => {
                event.channel.len()
                    + event.event.len()
                    + tagged_bytes(&event.arguments)
                    + size_of::<EventCommand>()
            }
            Request::Subscribe(subscribe) => {
                let filter = subscribe.filter.as_ref().map_or(0, |filter| filter.weight());
                let page = subscribe.page.as_ref().map_or(0, |page| page.cursor.len());
                let texts = subscribe.channel.len() + subscribe.token.len() + subscribe.epoch.len();
                let data = payload_bytes(subscribe.data.as_deref()) + payload_bytes(subscribe.ask.as_deref());
                texts + subscribe.delta.len() + data + filter + page
            }
            Request::Publish { channel, data } => channel.len() + data.bytes.len(),
            Request::PublishKey { channel, key, data, .. } => channel.len() + key.len() + data.bytes.len(),
            Request::Track { channel, batches, untrack } => {
                let items = batches.iter().flat_map(|batch| &batch.items);
                let keys: usize = items.map(|item| item.0.len() + size_of_val(item)).sum();
                let untrack: usize = untrack.iter().map(|key| key.len() + size_of_val(key)).sum();
                channel.len()
                    + keys
                    + untrack
                    + batches.iter().map(|batch| batch.signature.len()).sum::<usize>()
            }
            Request::Untrack { channel, keys } => {
                channel.len() + keys.iter().map(|key| key.len() + size_of_val(key)).sum::<usize>()
            }
            Request::History(history) => {
                history.channel.len() + history.since.as_ref().map_or(0, |since| since.epoch.len())
            }
            Request::Unsubscribe { channel }
            | Request::Presence { channel }
            | Request::PresenceStats { channel } => channel.len(),
            Request::Refresh { token } => token.len(),
            Request::SubRefresh { channel, token } => channel.len() + token.len(),
            Request::Send { data } => data.bytes.len(),
            Request::Ask { channel, data } => channel.len() + data.bytes.len(),
            Request::Rpc { method, data } => method.len() + data.bytes.len(),
            Request::Emit { channel, event, data } => channel.len() + event.len() + data.bytes.len(),
            Request::SignIn { token, data } => token.len() + data.bytes.len(),
            Request::Ping | Request::Pong | Request::Refused(_) | Request::Unknown => 0,
        };
        held + size_of::<Command>()
    }
}

/// What a command asks for. Channel names are as the client wrote them: the session validates them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    Connect(Box<Connect>),
    Subscribe(Subscribe),
    Unsubscribe {
        channel: Box<str>,
    },
    Publish {
        channel: Box<str>,
        data: Payload,
    },
    /// An event for the other subscribers of a channel. It has no reply, but the client is told of a refusal.
    Emit {
        channel: Box<str>,
        event: Box<str>,
        data: Payload,
    },
    /// An event for the subscribers of a channel, where the configuration routes it there.
    Forward(Box<Forward>),
    /// An event for the application, which may acknowledge it and do more.
    Event(Box<EventCommand>),
    /// Enters one of several namespaces that share a connection: connects the client if it has not connected yet, and
    /// subscribes it.
    Enter(Box<EnterNamespace>),
    /// Sets or removes a key of a channel that keeps state by key.
    PublishKey {
        channel: Box<str>,
        key: Box<str>,
        data: Payload,
        removed: bool,
    },
    History(History),
    Presence {
        channel: Box<str>,
    },
    PresenceStats {
        channel: Box<str>,
    },
    /// Authenticates a client that is already connected.
    SignIn {
        token: Box<str>,
        data: Payload,
    },
    /// Replaces the connection token before it expires.
    Refresh {
        token: Box<str>,
    },
    /// Replaces a subscription token before it expires.
    SubRefresh {
        channel: Box<str>,
        token: Box<str>,
    },
    /// Starts to follow keys of a polled channel.
    Track {
        channel: Box<str>,
        batches: Vec<TrackBatch>,
        /// Keys that the signatures cover and that the client no longer follows.
        untrack: Vec<Box<str>>,
    },
    /// Stops following these keys.
    Untrack {
        channel: Box<str>,
        keys: Vec<Box<str>>,
    },
    /// A message to the application, without a reply.
    Send {
        data: Payload,
    },
    /// A message to the application from a raw endpoint, with the endpoint's channel if it has one. The application's
    /// answer goes back to the client, and so does a failure to deliver the message.
    Ask {
        channel: Box<str>,
        data: Payload,
    },
    /// A question to the application.
    Rpc {
        method: Box<str>,
        data: Payload,
    },
    /// Asks whether the server is alive.
    Ping,
    /// The answer to a ping.
    Pong,
    /// A command of the protocol that the gateway does not serve, such as a subscription of an unknown kind. It is
    /// answered with this error, as ignoring a part of the request would be worse than refusing it.
    Refused(ErrorCode),
    /// A command of the protocol that is invalid here (an empty one with an id, one with two bodies, a ping).
    Unknown,
}

impl Request {
    /// Returns the command's name in the Centrifuge protocol.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Subscribe(_) => "subscribe",
            Self::Unsubscribe { .. } => "unsubscribe",
            Self::Publish { .. } | Self::PublishKey { .. } | Self::Emit { .. } | Self::Forward(_) => {
                "publish"
            }
            Self::Event(_) => "event",
            Self::Enter(_) => "enter",
            Self::SignIn { .. } => "sign_in",
            Self::Ping => "ping",
            Self::History(_) => "history",
            Self::Presence { .. } => "presence",
            Self::PresenceStats { .. } => "presence_stats",
            Self::Refresh { .. } => "refresh",
            Self::SubRefresh { .. } | Self::Track { .. } | Self::Untrack { .. } => "sub_refresh",
            Self::Send { .. } | Self::Ask { .. } => "send",
            Self::Rpc { .. } => "rpc",
            Self::Pong => "pong",
            Self::Refused(_) | Self::Unknown => "other",
        }
    }
}

fn connect_bytes(connect: &Connect) -> usize {
    let subs: usize = connect.subs.keys().map(|channel| channel.len() + size_of::<Command>()).sum();
    let headers: usize = connect.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    connect.token.len() + payload_bytes(connect.data.as_ref()) + subs + headers
}

fn tagged_bytes(arguments: &Tagged) -> usize {
    arguments.data.bytes.len()
        + arguments.tags.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
}

fn payload_bytes(data: Option<&Payload>) -> usize {
    data.map_or(0, |data| data.bytes.len())
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Connect {
    pub token: Box<str>,
    /// Data for the application.
    pub data: Option<Payload>,
    /// Headers that the client sends in the message because it cannot set HTTP headers.
    pub headers: BTreeMap<Box<str>, Box<str>>,
    /// Recovery of server-side subscriptions, by channel.
    pub subs: BTreeMap<Box<str>, Subscribe>,
    /// Whether the client follows exactly the channels in `subs` and no others. The connection is refused if a subscription is.
    pub exact: bool,
    /// Name and version of the client library, for metrics and logs.
    pub name: Box<str>,
    pub version: Box<str>,
}

/// An event for the subscribers of a channel that the client is subscribed to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forward {
    pub channel: Box<str>,
    pub event: Box<str>,
    /// The arguments, with any tags other than the one that names the event.
    pub arguments: Tagged,
    /// Whether the sender receives the event too.
    pub to_sender: bool,
    /// The subscribers that receive the event; `None` for all of them.
    pub only: Option<Box<Selection>>,
}

/// An event that is sent to the application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventCommand {
    /// The channel of the namespace that the event was sent to.
    pub channel: Box<str>,
    pub event: Box<str>,
    /// The event's arguments: a JSON array.
    pub arguments: Tagged,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnterNamespace {
    /// The client's credentials and data, which it sends with each entry.
    pub connect: Connect,
    /// The channel of all clients in the namespace.
    pub channel: Box<str>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subscribe {
    pub channel: Box<str>,
    pub token: Box<str>,
    /// Whether to recover the publications after (`epoch`, `offset`).
    pub recover: bool,
    pub epoch: Box<str>,
    pub offset: u64,
    pub positioned: bool,
    pub recoverable: bool,
    pub join_leave: bool,
    /// Whether to answer error 112 where recovery fails, in place of `recovered: false`.
    pub reject_unrecovered: bool,
    /// The delta format that the client asks for; empty for none.
    pub delta: Box<str>,
    /// Data for the application.
    pub data: Option<Box<Payload>>,
    /// A condition on the tags of publications: those that do not meet it are not delivered.
    pub filter: Option<Box<FilterNode>>,
    pub kind: SubscriptionKind,
    /// The page of state that is asked for, in a channel that keeps state by key.
    pub page: Option<Box<StateRequest>>,
    /// Whether to tell the client which users are in the channel, now and as they come and go. For protocols that
    /// report users in place of clients.
    pub members: bool,
    /// The update after which to recover, in place of (`epoch`, `offset`).
    pub after: Option<ResumeAfter>,
    /// The topics to follow, in a channel with updates of many topics. Empty: all of them.
    pub topics: Box<[Selector]>,
    /// Whether this may be a further reader of a channel that the client already reads. The publications that it missed
    /// are delivered to all readers of the client. For protocols in which one client may have several readers of a channel.
    pub additional_reader: bool,
    /// Data with which to ask the application whether the client may subscribe, and to which channel.
    pub ask: Option<Box<Payload>>,
    /// All publications or the newest of each key, for protocols that carry this outside the data.
    pub delivery: Option<DeliveryWanted>,
}

impl Subscribe {
    /// Returns the delivery that the client wants, from the protocol's own field or else from its data.
    pub fn delivery(&self) -> Result<Option<DeliveryWanted>, InvalidDelivery> {
        match (&self.delivery, &self.data) {
            (Some(wanted), _) => Ok(Some(*wanted)),
            (None, Some(data)) => DeliveryWanted::in_data(data),
            (None, None) => Ok(None),
        }
    }
}

/// Where a client of updates stopped reading, so that it can resume there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResumeAfter {
    /// At the beginning: every retained update follows.
    Everything,
    /// At the update with this id.
    Id(Box<str>),
}

/// The kind of content that a subscription follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SubscriptionKind {
    /// A stream of publications.
    #[default]
    Stream,
    /// Values by key.
    Map,
    /// The clients that subscribe, by their ids.
    MapClients,
    /// The users of the clients that subscribe.
    MapUsers,
    /// Values by key that are polled from the application, once for all clients that follow them.
    SharedPoll,
}

impl SubscriptionKind {
    /// Returns the number that stands for the kind on the wire.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Returns the kind with this number. `None` for an unknown number.
    pub fn of(number: i32) -> Option<Self> {
        let all = [Self::Stream, Self::Map, Self::MapClients, Self::MapUsers, Self::SharedPoll];
        all.into_iter().find(|kind| i32::from(kind.number()) == number)
    }
}

/// The phase of a subscription to a channel that keeps state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    #[default]
    Live,
    /// Changes since the state was read.
    Stream,
    /// The state, page by page.
    State,
}

impl Phase {
    /// Returns the number that stands for the phase on the wire.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Returns the phase with this number. `None` for an unknown number.
    pub fn of(number: i32) -> Option<Self> {
        [Self::Live, Self::Stream, Self::State].into_iter().find(|phase| i32::from(phase.number()) == number)
    }
}

/// A request for a page of a channel's state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateRequest {
    pub phase: Phase,
    /// Where the page begins; empty for the first page.
    pub cursor: Box<str>,
    /// The most keys in the page. 0: the server decides.
    pub limit: u32,
    /// Whether keys come in ascending order of their score.
    pub ascending: bool,
}

/// Keys that a client may follow, with the application's signature.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TrackBatch {
    pub signature: Box<str>,
    /// Each key with the version that the client has; 0 for none.
    pub items: Vec<(Box<str>, u64)>,
}

/// A condition on the tags of publications, as the client wrote it. It must be validated before it is applied.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct FilterNode {
    /// Empty for a comparison, otherwise the operator that combines `nodes`.
    pub op: Box<str>,
    pub key: Box<str>,
    pub cmp: Box<str>,
    pub val: Box<str>,
    pub vals: Vec<Box<str>>,
    pub nodes: Vec<FilterNode>,
}

impl FilterNode {
    /// Returns the approximate size in memory, in bytes.
    pub fn weight(&self) -> usize {
        let texts = [&self.op, &self.key, &self.cmp, &self.val];
        let values = self.vals.iter().map(|val| val.len() + size_of_val(val)).sum::<usize>();
        let nodes = self.nodes.iter().map(Self::weight).sum::<usize>();
        size_of::<Self>() + texts.map(|text| text.len()).iter().sum::<usize>() + values + nodes
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    pub channel: Box<str>,
    /// The most publications to return. 0: the position only. Negative: as many as the server allows.
    pub limit: i32,
    pub since: Option<Since>,
    pub reverse: bool,
}

/// A position as a client sends it. Its epoch may be any text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Since {
    pub offset: u64,
    pub epoch: Box<str>,
}
