//! What a client asks for, in the words of no protocol in particular.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::error::ErrorCode;
use crate::publication::Payload;

/// One request. `id` names the reply; 0 where none is expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    pub id: u32,
    pub request: Request,
}

/// Channel names are as the client wrote them: the session decides whether they are valid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    Connect(Connect),
    Subscribe(Subscribe),
    Unsubscribe {
        channel: Box<str>,
    },
    Publish {
        channel: Box<str>,
        data: Payload,
    },
    History(History),
    Presence {
        channel: Box<str>,
    },
    PresenceStats {
        channel: Box<str>,
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
    /// A message to the application, without a reply.
    Send {
        data: Bytes,
    },
    /// A question to the application.
    Rpc {
        method: Box<str>,
        data: Bytes,
    },
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
            Self::Publish { .. } => "publish",
            Self::History(_) => "history",
            Self::Presence { .. } => "presence",
            Self::PresenceStats { .. } => "presence_stats",
            Self::Refresh { .. } => "refresh",
            Self::SubRefresh { .. } => "sub_refresh",
            Self::Send { .. } => "send",
            Self::Rpc { .. } => "rpc",
            Self::Pong => "pong",
            Self::Refused(_) | Self::Unknown => "other",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Connect {
    pub token: Box<str>,
    /// JSON for the application, kept for its connect hook.
    pub data: Option<Bytes>,
    /// Recovery of server-side subscriptions, by channel.
    pub subs: BTreeMap<Box<str>, Subscribe>,
    /// The client library's name and version, for metrics and logs.
    pub name: Box<str>,
    pub version: Box<str>,
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
