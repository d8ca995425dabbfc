//! What a connection says and hears, in words that do not depend on the protocol.
//!
//! Another server is added as another dialect; everything that counts and measures stays as it is.

mod centrifuge;
mod template;

use std::sync::Arc;

use bytes::Bytes;
use shared::framing::MessageKind;
use shared::position::StreamPosition;

use crate::arguments::Transport;

pub use template::{Template, TemplateError};

/// What a connection has heard.
#[derive(Debug, PartialEq)]
pub enum Event<'a> {
    /// The server accepted the connection; `pong` says whether it wants its pings answered.
    Welcome {
        pong: bool,
    },
    /// A subscription is confirmed; `slot` is its place among those of this connection.
    Confirmed {
        slot: u32,
        start: Start,
    },
    Publication(Heard<'a>),
    /// The command with this id was done: the answer to a publication.
    Done {
        id: u32,
    },
    Refused {
        id: u32,
        reason: String,
    },
    /// The server ended a subscription while the connection stays.
    Unsubscribed {
        channel: &'a str,
    },
    Ping,
}

/// Where a confirmed subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Start {
    /// `None` where the channel has no stream.
    pub position: Option<StreamPosition>,
    pub was_recovering: bool,
    pub recovered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heard<'a> {
    /// The channel's name, in protocols that give it.
    pub channel: Option<&'a str>,
    pub payload: &'a [u8],
    /// 0 where the channel has no stream.
    pub offset: u64,
    /// It was missed before, and comes with the confirmation of its subscription.
    pub recovered: bool,
}

/// A subscription to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub slot: u32,
    pub channel: &'a str,
    /// Ask for a stream position, so that it can be recovered later.
    pub positioned: bool,
    /// Go on from here.
    pub since: Option<StreamPosition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    Centrifuge,
    /// The bare endpoint: the address is the subscription.
    Raw,
    /// Of a server that a file describes.
    Template(Arc<Template>),
}

impl Dialect {
    /// Path of the endpoint by `transport`; `given` is what the user wrote, if anything.
    pub fn path(&self, transport: Transport, given: &str, first_channel: &str) -> String {
        let path = match (given, self, transport) {
            ("", Self::Template(template), _) => return template.path(first_channel),
            ("", Self::Raw, _) => "/raw/{channel}",
            ("", Self::Centrifuge, Transport::Sse) => "/connection/sse",
            ("", Self::Centrifuge, Transport::HttpStream) => "/connection/http_stream",
            ("", Self::Centrifuge, _) => "/connection/websocket",
            (given, _, _) => given,
        };
        path.replace("{channel}", first_channel)
    }

    /// How it travels where the user has asked for this.
    pub fn transport(&self, asked_for: Transport) -> Transport {
        match self {
            Self::Template(template) if template.subscribe.event_stream => Transport::Events,
            _ => asked_for,
        }
    }

    /// Whether what it publishes goes through the gateway's own API.
    pub fn publishes_by_api(&self) -> bool {
        !matches!(self, Self::Template(template) if template.publish.is_some())
    }

    /// Whether the token stands in the request for the upgrade, and not in a message.
    pub fn shows_token_in_header(&self) -> bool {
        *self != Self::Centrifuge
    }

    /// Whether an address or a message subscribes to one channel only.
    pub fn has_one_channel(&self) -> bool {
        *self != Self::Centrifuge
    }

    /// Messages that open a connection and subscribe.
    pub fn greet<'a>(
        &self,
        token: Option<&str>,
        wanted: impl Iterator<Item = Wanted<'a>>,
        messages: &mut Vec<String>,
    ) {
        match self {
            Self::Centrifuge => centrifuge::greet(token, wanted, messages),
            Self::Raw => {}
            Self::Template(template) => template.greet(wanted, messages),
        }
    }

    /// Messages that subscribe on an open connection.
    pub fn subscribe<'a>(&self, wanted: impl Iterator<Item = Wanted<'a>>, messages: &mut Vec<String>) {
        match self {
            Self::Centrifuge => centrifuge::subscribe(wanted, messages),
            Self::Raw => {}
            Self::Template(template) => template.subscribe(wanted, messages),
        }
    }

    /// Whether subscriptions are asked for only when the server has welcomed the connection.
    pub fn subscribes_when_welcome(&self) -> bool {
        matches!(self, Self::Template(template) if template.subscribe.welcome.is_some())
    }

    /// The message that publishes. The answer carries the `id`, in protocols that answer.
    pub fn publish(&self, id: u32, channel: &str, payload: String) -> String {
        match self {
            Self::Centrifuge => centrifuge::publish(id, channel, payload.into()),
            Self::Raw | Self::Template(_) => payload,
        }
    }

    pub fn answers_publications(&self) -> bool {
        *self == Self::Centrifuge
    }

    /// Events that follow from the open connection alone.
    pub fn opened(&self, mut hear: impl FnMut(Event<'_>)) {
        match self {
            Self::Centrifuge => {}
            Self::Raw => {
                hear(Event::Welcome { pong: false });
                hear(Event::Confirmed { slot: 0, start: Start::default() });
            }
            Self::Template(template) => template.opened(hear),
        }
    }

    /// The events of one message, in order. Returns how many parts of it could not be understood.
    pub fn hear(&self, kind: MessageKind, message: &Bytes, mut hear: impl FnMut(Event<'_>)) -> u64 {
        match self {
            Self::Centrifuge => centrifuge::hear(kind, message, hear),
            // Every message is a publication.
            Self::Raw => {
                hear(Event::Publication(Heard {
                    channel: None,
                    payload: message,
                    offset: 0,
                    recovered: false,
                }));
                0
            }
            Self::Template(template) => template.hear(message, hear),
        }
    }

    /// The answer to a ping of the protocol's own.
    pub fn pong(&self) -> Option<&str> {
        match self {
            Self::Centrifuge => Some(centrifuge::PONG),
            Self::Raw => None,
            Self::Template(template) => template.subscribe.pong.as_deref(),
        }
    }
}
