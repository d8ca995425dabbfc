//! What a client asks for, in the words of no protocol in particular.

use std::collections::BTreeMap;

use crate::delivery::{DeliveryWanted, InvalidDelivery};
use crate::error::ErrorCode;
use crate::publication::{Payload, Selection, Tagged};
use crate::topic_selector::Selector;

/// One request. `id` names the reply; 0 where none is expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    pub id: u32,
    pub request: Request,
}

impl Command {
    /// Returns about how many bytes the command takes while it waits, itself included.
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

/// Channel names are as the client wrote them: the session decides whether they are valid.
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
    /// An event for the other subscribers of a channel. Nobody waits for a reply; a refusal is told.
    Emit {
        channel: Box<str>,
        event: Box<str>,
        data: Payload,
    },
    /// The same where the configuration says what becomes of it.
    Forward(Box<Forward>),
    /// An event for the application, which may acknowledge it and do more.
    Event(Box<EventCommand>),
    /// Comes into one of several parts of the server on one connection: connects, if the client has not yet, and
    /// subscribes.
    Enter(Box<EnterNamespace>),
    /// Sets a key of a channel that keeps state by key, or takes it away.
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
    /// Says who a client is that is connected already.
    SignIn {
        token: Box<str>,
        data: Payload,
    },
    /// A new connection token before the old one expires.
    Refresh {
        token: Box<str>,
    },
    /// A new subscription token before the old one expires.
    SubRefresh {
        channel: Box<str>,
        token: Box<str>,
    },
    /// Begins to follow keys of a channel that is polled for all who follow them.
    Track {
        channel: Box<str>,
        batches: Vec<TrackBatch>,
        /// Keys that the signatures cover and that the client follows no more.
        untrack: Vec<Box<str>>,
    },
    /// Follows these keys no more.
    Untrack {
        channel: Box<str>,
        keys: Vec<Box<str>>,
    },
    /// A message to the application, without a reply.
    Send {
        data: Payload,
    },
    /// A message to the application from a bare endpoint, and the endpoint's channel, if it has one. What is answered
    /// goes back; that it was not taken is told too.
    Ask {
        channel: Box<str>,
        data: Payload,
    },
    /// A question to the application.
    Rpc {
        method: Box<str>,
        data: Payload,
    },
    /// Asks whether the server is there.
    Ping,
    /// The answer to a ping.
    Pong,
    /// A command the protocol has and the gateway does not serve, such as a subscription of a kind it does not
    /// know. Answered with this error: leaving out what it asked for would be worse than a no.
    Refused(ErrorCode),
    /// A command of the protocol that makes no sense here (an empty one with an id, one with two bodies, a ping).
    Unknown,
}

impl Request {
    /// The protocol's word for it.
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
    /// For the application.
    pub data: Option<Payload>,
    /// What a client that cannot set headers says in their place.
    pub headers: BTreeMap<Box<str>, Box<str>>,
    /// Recovery of server-side subscriptions, by channel.
    pub subs: BTreeMap<Box<str>, Subscribe>,
    /// `subs` are what the client follows, each of them and nothing beside: it is refused if it may not have one.
    pub exact: bool,
    /// The client library's name and version, for metrics and logs.
    pub name: Box<str>,
    pub version: Box<str>,
}

/// An event that goes to the subscribers of a channel in which the client is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forward {
    pub channel: Box<str>,
    pub event: Box<str>,
    /// With tags beside that which names the event.
    pub arguments: Tagged,
    /// The client gets it too.
    pub to_sender: bool,
    /// Which of the subscribers get it, if not all of them.
    pub only: Option<Box<Selection>>,
}

/// An event that the application is asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventCommand {
    /// Of the part of the server that it was sent to.
    pub channel: Box<str>,
    pub event: Box<str>,
    /// Its arguments: a JSON array.
    pub arguments: Tagged,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnterNamespace {
    /// With what the client shows and says, each time.
    pub connect: Connect,
    /// The channel of all who are there.
    pub channel: Box<str>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subscribe {
    pub channel: Box<str>,
    pub token: Box<str>,
    /// Ask to be brought from (`epoch`, `offset`) to now.
    pub recover: bool,
    pub epoch: Box<str>,
    pub offset: u64,
    pub positioned: bool,
    pub recoverable: bool,
    pub join_leave: bool,
    /// Answer error 112 where recovery fails, in place of `recovered: false`.
    pub reject_unrecovered: bool,
    /// The delta format asked for; empty for none.
    pub delta: Box<str>,
    /// For the application.
    pub data: Option<Box<Payload>>,
    /// Only publications with tags that this is true of.
    pub filter: Option<Box<FilterNode>>,
    pub kind: SubscriptionKind,
    /// Which part of a channel that keeps state by key is asked for.
    pub page: Option<Box<StateRequest>>,
    /// To be told which users are there, now and as they come and go. For protocols that tell of users and not of clients.
    pub members: bool,
    /// Ask to be given what came after an update, in place of (`epoch`, `offset`).
    pub after: Option<ResumeAfter>,
    /// In a channel of updates of many topics: those that are followed. Empty: all that come.
    pub topics: Box<[Selector]>,
    /// The client may read the channel already, and reads it once more beside that: what it missed is read for all of it.
    /// For protocols in which a channel may have several readers in one client.
    pub beside: bool,
    /// Ask the application with this whether, and in which channel.
    pub ask: Option<Box<Payload>>,
    /// All publications or the newest of each key, for protocols that say so beside the data.
    pub delivery: Option<DeliveryWanted>,
}

impl Subscribe {
    /// How the client wants to be served: as its protocol says it, or its data.
    pub fn delivery(&self) -> Result<Option<DeliveryWanted>, InvalidDelivery> {
        match (&self.delivery, &self.data) {
            (Some(wanted), _) => Ok(Some(*wanted)),
            (None, Some(data)) => DeliveryWanted::in_data(data),
            (None, None) => Ok(None),
        }
    }
}

/// Where a client of updates stopped reading.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResumeAfter {
    /// Nowhere: all that there is.
    Everything,
    /// At the update of this id.
    Id(Box<str>),
}

/// What a subscription follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SubscriptionKind {
    /// A stream of publications.
    #[default]
    Stream,
    /// Values by key.
    Map,
    /// The clients that subscribe, by their ids.
    MapClients,
    /// Their users.
    MapUsers,
    /// Values by key that the application is asked for, once for all who follow them.
    SharedPoll,
}

impl SubscriptionKind {
    /// The wire's number for it.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// `None` for a number that the wire gives to nothing.
    pub fn of(number: i32) -> Option<Self> {
        let all = [Self::Stream, Self::Map, Self::MapClients, Self::MapUsers, Self::SharedPoll];
        all.into_iter().find(|kind| i32::from(kind.number()) == number)
    }
}

/// How far the subscription to a channel with state has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    #[default]
    Live,
    /// What has changed since the state was read.
    Stream,
    /// The state, page by page.
    State,
}

impl Phase {
    /// The wire's number for it.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// `None` for a number that the wire gives to nothing.
    pub fn of(number: i32) -> Option<Self> {
        [Self::Live, Self::Stream, Self::State].into_iter().find(|phase| i32::from(phase.number()) == number)
    }
}

/// A page of a channel's state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateRequest {
    pub phase: Phase,
    /// Where it begins; empty for the first.
    pub cursor: Box<str>,
    /// The most keys of a page. 0: as many as the server likes.
    pub limit: u32,
    /// By score from the lowest on.
    pub ascending: bool,
}

/// Keys that a client may follow, as its application has signed them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TrackBatch {
    pub signature: Box<str>,
    /// Each key with the version that the client has of it; 0 for none.
    pub items: Vec<(Box<str>, u64)>,
}

/// A condition on the tags of publications, as a client wrote it: whoever obeys it checks first that it makes sense.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct FilterNode {
    /// Empty for a comparison, else how `nodes` are combined.
    pub op: Box<str>,
    pub key: Box<str>,
    pub cmp: Box<str>,
    pub val: Box<str>,
    pub vals: Vec<Box<str>>,
    pub nodes: Vec<FilterNode>,
}

impl FilterNode {
    /// About how many bytes it takes.
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
    /// 0: the position only. Negative: as many as the server allows.
    pub limit: i32,
    pub since: Option<Since>,
    pub reverse: bool,
}

/// A position as a client names it: its epoch may be anything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Since {
    pub offset: u64,
    pub epoch: Box<str>,
}
