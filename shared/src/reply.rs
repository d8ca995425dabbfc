//! Replies: the answers to one client's commands.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::channel::Channel;
use crate::command::{Phase, SubscriptionKind};
use crate::id::ClientId;
use crate::position::StreamPosition;
use crate::publication::{ClientInfo, Payload, Publication, Tagged};
use crate::refusal::Refusal;

/// The reply to the command with the same `id`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub id: u32,
    /// The channel whose subscription the reply concerns, for protocols that identify replies by channel.
    pub channel: Option<Channel>,
    pub outcome: Result<Answer, Refusal>,
}

impl Reply {
    /// Makes a reply that concerns no channel in particular.
    pub fn new(id: u32, outcome: Result<Answer, Refusal>) -> Self {
        Self { id, channel: None, outcome }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Connect(Box<Connected>),
    Subscribe(Subscribed),
    Unsubscribe,
    Publish,
    Pong,
    /// The client has authenticated.
    SignedIn {
        data: Payload,
    },
    History {
        publications: Vec<Publication>,
        top: StreamPosition,
    },
    Presence {
        clients: Vec<ClientInfo>,
    },
    PresenceStats {
        clients: u32,
        users: u32,
    },
    Refresh {
        client: ClientId,
        version: &'static str,
        expires: Option<Expiry>,
    },
    /// `items` holds the values newer than the client's versions, of the keys that it has begun to track.
    SubRefresh {
        expires: Option<Expiry>,
        items: Vec<Publication>,
    },
    Rpc {
        data: Payload,
    },
    /// The application's answer to an event, if it gave one.
    Acknowledged(Option<Box<Tagged>>),
}

/// The time until something expires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expiry {
    pub seconds: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connected {
    pub client: ClientId,
    pub version: &'static str,
    pub expires: Option<Expiry>,
    /// Seconds between the server's pings; 0 if it sends none in this protocol.
    pub ping_seconds: u32,
    /// Whether each ping must be answered.
    pub pong: bool,
    /// The configured name of the node that answers, for people and for demos. In transports in which the client sends
    /// its commands in separate requests, the id of the node, which the client sends with them.
    pub node: Arc<str>,
    /// The secret with which the client names this connection when it sends commands in separate requests.
    pub session: Option<Box<str>>,
    /// Data from the application for this client.
    pub data: Option<Payload>,
    /// The channels that the server has subscribed the client to.
    pub subs: BTreeMap<Channel, Subscribed>,
    /// The server's clock in milliseconds since 1970, where the configuration says to send it.
    pub time_ms: Option<u64>,
}

impl Connected {
    /// Makes an answer without pings, expiry or other optional parts.
    pub fn new(client: ClientId, version: &'static str, node: Arc<str>) -> Self {
        Self {
            client,
            version,
            expires: None,
            ping_seconds: 0,
            pong: false,
            node,
            session: None,
            data: None,
            subs: BTreeMap::new(),
            time_ms: None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subscribed {
    pub expires: Option<Expiry>,
    pub recoverable: bool,
    pub positioned: bool,
    /// The position from which the client counts: `publications` and then the live ones follow it. So it precedes the
    /// first of `publications`, and an application that stops midway gets the rest later. `None` in a channel without a
    /// stream.
    pub position: Option<StreamPosition>,
    /// The publications that the client missed, oldest first.
    pub publications: Vec<Publication>,
    pub recovered: bool,
    pub was_recovering: bool,
    /// The id of the update before the first of `publications`, where the client asked to recover after an update's id.
    pub after: Option<Box<str>>,
    /// Data from the application for this subscriber.
    pub data: Option<Box<Payload>>,
    /// Whether payloads come in the forms of [`crate::push::Form`] other than plain.
    pub delta: bool,
    /// With `delta`, one entry for each of `publications`: the patch that replaces its payload, or empty if it comes whole.
    pub patches: Vec<Bytes>,
    /// The part for subscriptions to keys in place of a stream.
    pub keyed: Option<Box<KeyedAnswer>>,
    /// The members of the channel, for a subscriber that asked for them: one client of each user.
    pub members: Option<Vec<ClientInfo>>,
}

/// The part of a subscription's answer that concerns keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyedAnswer {
    pub kind: SubscriptionKind,
    pub phase: Phase,
    /// The cursor with which to ask for the next page of the state; empty at its end.
    pub cursor: Box<str>,
    /// A page of the state: one publication for each key.
    pub state: Vec<Publication>,
    /// The least time in milliseconds between two publications of one key by a client. 0: no limit.
    pub publish_debounce_ms: u32,
}
