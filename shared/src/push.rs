//! What clients are told without asking.
//!
//! A push to a channel never carries anything about one connection. That is why its bytes can be shared by all
//! subscribers.

use crate::channel::Channel;
use crate::disconnect::Disconnect;
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

    pub fn reason(self) -> &'static str {
        match self {
            Self::Server => "server unsubscribe",
            Self::InsufficientState => "insufficient state",
            Self::Expired => "subscription expired",
            Self::StateInvalidated => "state invalidated",
        }
    }
}
