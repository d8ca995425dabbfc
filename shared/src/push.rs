//! What clients are told without asking.
//!
//! A push to a channel never carries anything about one connection. That is why its bytes can be shared by all
//! subscribers.

use crate::channel::Channel;
use crate::disconnect::Disconnect;
use crate::id::UserId;
use crate::publication::{ClientInfo, Payload, Publication};
use crate::reply::{Expiry, Subscribed};

#[derive(Clone, Copy, Debug)]
pub struct Push<'a> {
    /// `None` for what is said to a connection as a whole.
    pub channel: Option<&'a Channel>,
    pub event: Event<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    Publication(&'a Publication, Form<'a>),
    /// A client has subscribed to the channel.
    Joined(&'a ClientInfo),
    /// A client is no subscriber of the channel any more.
    Left(&'a ClientInfo),
    /// A user has come to the channel, with the first of its clients.
    MemberAdded(&'a ClientInfo),
    /// A user is gone from the channel, with the last of its clients.
    MemberRemoved(&'a UserId),
    /// The channel has so many subscribers now.
    Counted(u32),
    /// The server has made the client a subscriber.
    Subscribed(&'a Subscribed),
    /// The subscription has ended.
    Unsubscribed(UnsubscribeCode),
    /// A message of the application to this connection.
    Message(&'a Payload),
    /// The connection ends at another time than was said before; `None`: at no particular one.
    Refreshed(Option<Expiry>),
    /// The connection ends now: for transports that have no close of their own.
    Disconnected(&'a Disconnect),
}

/// What subscribers of a channel are told, as nodes tell each other and keep it until it is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OwnedEvent {
    Publication(Publication),
    /// Only those who asked are told of these.
    Joined(ClientInfo),
    Left(ClientInfo),
    /// How many subscribers there are on all nodes.
    Counted {
        subscribers: u32,
    },
    /// What a node makes of joins and leaves for its own subscribers: it stays there. `version` counts the changes that
    /// the node has seen of who is in the channel.
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
    /// The event as subscribers are told it, its publication in a form.
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

/// In what form a subscriber gets a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form<'a> {
    /// As it was published.
    Plain,
    /// Whole, for a subscriber that has agreed to patches.
    Whole,
    /// As the patch that makes it of the payload before, in the Fossil delta format.
    Patch(&'a [u8]),
}

impl<'a> Push<'a> {
    /// What subscribers of a channel are told.
    pub fn to(channel: &'a Channel, event: Event<'a>) -> Self {
        Self { channel: Some(channel), event }
    }

    /// What is about no channel.
    pub fn alone(event: Event<'a>) -> Self {
        Self { channel: None, event }
    }
}

impl<'a> Event<'a> {
    /// Whether it is for subscribers that are told of users and numbers in place of clients. Protocols that tell of clients
    /// have no word for it.
    #[inline]
    pub fn is_of_members(&self) -> bool {
        matches!(self, Self::MemberAdded(_) | Self::MemberRemoved(_) | Self::Counted(_))
    }

    /// A publication as it was made.
    pub fn plain(publication: &'a Publication) -> Self {
        Self::Publication(publication, Form::Plain)
    }
}

/// Why the server ended a subscription. From 2500 on, clients subscribe again by themselves.
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

    /// How a connection ends that is nothing without the subscription.
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
