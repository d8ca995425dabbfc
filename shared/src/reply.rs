//! What one client is answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::channel::Channel;
use crate::command::{Phase, SubscriptionKind};
use crate::id::ClientId;
use crate::position::StreamPosition;
use crate::publication::{ClientInfo, Payload, Publication, Tagged};
use crate::refusal::Refusal;

/// The answer to the command with the same `id`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub id: u32,
    /// Which channel's subscription it is about, for protocols whose answers are known by that.
    pub channel: Option<Channel>,
    pub outcome: Result<Answer, Refusal>,
}

impl Reply {
    /// About no channel in particular.
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
    /// What the client has said of itself is right.
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
    /// `items`: what was newer than the client knew, of the keys it has begun to track.
    SubRefresh {
        expires: Option<Expiry>,
        items: Vec<Publication>,
    },
    Rpc {
        data: Payload,
    },
    /// What the application answers to an event, if it says anything.
    Acknowledged(Option<Box<Tagged>>),
}

/// In how many seconds something expires.
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
    /// The node that answers: its configured name, for people and for demos. In transports in which the client sends its
    /// commands apart, the id that it is to send beside them.
    pub node: Arc<str>,
    /// What names this connection where commands come apart from it: a secret of its client.
    pub session: Option<Box<str>>,
    /// Of the application, for this client.
    pub data: Option<Payload>,
    /// What the server has subscribed the client to.
    pub subs: BTreeMap<Channel, Subscribed>,
    /// The server's clock in milliseconds since 1970, where it is configured to be told.
    pub time_ms: Option<u64>,
}

impl Connected {
    /// Without pings, an end or anything else to tell.
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
    /// Where the client counts on from: what follows are `publications` and then the live ones. So with publications
    /// it lies before the first of them, and an application that stops midway gets the rest later. `None` in a
    /// channel without a stream.
    pub position: Option<StreamPosition>,
    /// What was missed, oldest first.
    pub publications: Vec<Publication>,
    pub recovered: bool,
    pub was_recovering: bool,
    /// The id of the update before the first of `publications`, where they were asked for by that.
    pub after: Option<Box<str>>,
    /// Of the application, for this subscriber.
    pub data: Option<Box<Payload>>,
    /// Payloads come in the forms of [`crate::push::Form`] that are not plain.
    pub delta: bool,
    /// With `delta`, one for each of `publications`: the patch in its place, or nothing if it comes whole.
    pub patches: Vec<Bytes>,
    /// For subscriptions to keys and not to a stream.
    pub keyed: Option<Box<KeyedAnswer>>,
    /// Who is there, for a subscriber that is told of that: one client of each user.
    pub members: Option<Vec<ClientInfo>>,
}

/// What a subscription to keys is answered beside the rest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyedAnswer {
    pub kind: SubscriptionKind,
    pub phase: Phase,
    /// Asks for the next page of the state; empty at its end.
    pub cursor: Box<str>,
    /// A page of the state: one publication for each key.
    pub state: Vec<Publication>,
    /// The least time in milliseconds between two publications of one key by a client. 0: none.
    pub publish_debounce_ms: u32,
}
