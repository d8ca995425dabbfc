//! Messages that the server sends to clients without a request.
//!
//! A push to a channel never carries anything about one connection. That is why its bytes can be shared by all subscribers.

use crate::channel::Channel;
use crate::disconnect::Disconnect;
use crate::id::UserId;
use crate::publication::{ClientInfo, Payload, Publication};
use crate::reply::{Expiry, Subscribed};

#[derive(Clone, Copy, Debug)]
pub struct Push<'a> {
    /// The channel; `None` for a push that concerns the connection as a whole.
    pub channel: Option<&'a Channel>,
    pub event: Event<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    Publication(&'a Publication, Form<'a>),
    /// A client has subscribed to the channel.
    Joined(&'a ClientInfo),
    /// A client is no longer subscribed to the channel.
    Left(&'a ClientInfo),
    /// A user has joined the channel, with the first of its clients.
    MemberAdded(&'a ClientInfo),
    /// A user has left the channel, with the last of its clients.
    MemberRemoved(&'a UserId),
    /// The channel's new number of subscribers.
    Counted(u32),
    /// The server has subscribed the client to the channel.
    Subscribed(&'a Subscribed),
    /// The subscription has ended.
    Unsubscribed(UnsubscribeCode),
    /// A message from the application to this connection.
    Message(&'a Payload),
    /// The connection's expiry has changed; `None`: it no longer expires.
    Refreshed(Option<Expiry>),
    /// The connection ends now: for transports that have no close of their own.
    Disconnected(&'a Disconnect),
}

/// An event of a channel, in the owned form that nodes exchange and queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OwnedEvent {
    Publication(Publication),
    /// Sent only to the subscribers that asked for joins and leaves.
    Joined(ClientInfo),
    Left(ClientInfo),
    /// The number of subscribers on all nodes.
    Counted {
        subscribers: u32,
    },
    /// Derived by a node from joins and leaves for its own subscribers, and never sent to other nodes. `version` counts
    /// the membership changes that the node has seen in the channel.
    MemberAdded {
        info: ClientInfo,
        version: u64,
    },
    MemberRemoved {
        user: UserId,
        version: u64,
    },
}

impl OwnedEvent {
    /// Borrows the event, with a publication in the given form.
    pub fn as_event<'a>(&'a self, form: Form<'a>) -> Event<'a> {
        match self {
            Self::Publication(publication) => Event::Publication(publication, form),
            Self::Joined(info) => Event::Joined(info),
            Self::Left(info) => Event::Left(info),
            Self::Counted { subscribers } => Event::Counted(*subscribers),
            Self::MemberAdded { info, .. } => Event::MemberAdded(info),
            Self::MemberRemoved { user, .. } => Event::MemberRemoved(user),
        }
    }
}

/// The form in which a subscriber receives a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form<'a> {
    /// As it was published.
    Plain,
    /// Whole, for a subscriber that has negotiated deltas.
    Whole,
    /// As a patch against the previous payload, in the Fossil delta format.
    Patch(&'a [u8]),
}

impl<'a> Push<'a> {
    /// Makes a push to a channel's subscribers.
    pub fn to(channel: &'a Channel, event: Event<'a>) -> Self {
        Self { channel: Some(channel), event }
    }

    /// Makes a push that concerns no channel.
    pub fn alone(event: Event<'a>) -> Self {
        Self { channel: None, event }
    }
}

impl<'a> Event<'a> {
    /// Whether the event is for subscribers that are told of users and counts in place of clients. Protocols that
    /// report clients cannot express it.
    #[inline]
    pub fn is_of_members(&self) -> bool {
        matches!(self, Self::MemberAdded(_) | Self::MemberRemoved(_) | Self::Counted(_))
    }

    /// Makes a publication event in the plain form.
    pub fn plain(publication: &'a Publication) -> Self {
        Self::Publication(publication, Form::Plain)
    }
}

/// Why the server ended a subscription. From 2500 on, clients resubscribe by themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum UnsubscribeCode {
    Server = 2000,
    InsufficientState = 2500,
    Expired = 2501,
    StateInvalidated = 2502,
}

impl UnsubscribeCode {
    pub fn code(self) -> u32 {
        self as u32
    }

    /// Returns the close for a connection that is useless without the subscription.
    pub fn disconnect(self) -> Disconnect {
        match self {
            Self::Server => Disconnect::FORCE_DISCONNECT,
            Self::InsufficientState => Disconnect::INSUFFICIENT_STATE,
            Self::Expired => Disconnect::SUBSCRIPTION_EXPIRED,
            Self::StateInvalidated => Disconnect::STATE_INVALIDATED,
        }
    }

    pub fn reason(self) -> &'static str {
        match self {
            Self::Server => "server unsubscribe",
            Self::InsufficientState => "insufficient state",
            Self::Expired => "subscription expired",
            Self::StateInvalidated => "state invalidated",
        }
    }
}
