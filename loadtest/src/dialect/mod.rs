//! What a connection sends and receives, in terms that do not depend on the protocol.
//!
//! Another protocol is another dialect. Everything that counts and measures is the same for all.

mod centrifuge;
mod template;

use std::sync::Arc;

use shared::framing::MessageKind;
use shared::position::StreamPosition;

use crate::arguments::Transport;

pub use template::{Template, TemplateError};

/// What a connection has received.
#[derive(Debug, PartialEq)]
pub enum Event<'a> {
    /// The server has accepted the connection. `pong` is whether it wants its pings answered.
    Welcome {
        pong: bool,
    },
    /// A subscription is confirmed. `slot` is its place among those of the connection.
    Confirmed {
        slot: u32,
        start: Start,
    },
    Publication(Heard<'a>),
    /// The publication with this id is confirmed.
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
    /// The channel's name, in protocols that send it.
    pub channel: Option<&'a str>,
    pub payload: &'a [u8],
    /// 0 where the channel has no stream.
    pub offset: u64,
    /// Whether the publication was missed, and comes with the confirmation of its subscription.
    pub recovered: bool,
}

/// A subscription to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub slot: u32,
    pub channel: &'a str,
    /// Whether to ask for a stream position, so that the subscription can be recovered.
    pub positioned: bool,
    /// The position to recover from.
    pub since: Option<StreamPosition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    Centrifuge,
    /// The protocol of a server that a file describes, or of the raw endpoint.
    Template(Arc<Template>),
}

impl Dialect {
    /// Returns the path of the endpoint for `transport`. `given` is the path that the user gave, or empty.
    pub fn path(&self, transport: Transport, given: &str, first_channel: &str) -> String {
        let path = match (given, self, transport) {
            ("", Self::Template(template), _) => return template.path(first_channel),
            ("", Self::Centrifuge, Transport::Sse) => "/connection/sse",
            ("", Self::Centrifuge, Transport::HttpStream) => "/connection/http_stream",
            ("", Self::Centrifuge, _) => "/connection/websocket",
            (given, _, _) => given,
        };
        path.replace("{channel}", first_channel)
    }

    /// Returns the transport, where the user has asked for `asked_for`.
    pub fn transport(&self, asked_for: Transport) -> Transport {
        match self {
            Self::Template(template) if template.subscribe.event_stream => Transport::Events,
            _ => asked_for,
        }
    }

    /// Whether publications can enter through client connections.
    pub fn publishes_by_client(&self) -> bool {
        !matches!(self, Self::Template(template) if !template.is_bare())
    }

    /// Whether publications over HTTP go through the gateway's own API.
    pub fn publishes_by_api(&self) -> bool {
        !matches!(self, Self::Template(template) if template.publish.is_some())
    }

    /// Whether the token is sent in a header of the request, and not in a message.
    pub fn shows_token_in_header(&self) -> bool {
        *self != Self::Centrifuge
    }

    /// Whether a connection has one channel only.
    pub fn has_one_channel(&self) -> bool {
        *self != Self::Centrifuge
    }

    /// Appends the messages that open a connection and subscribe.
    pub fn greet<'a>(
        &self,
        token: Option<&str>,
        wanted: impl Iterator<Item = Wanted<'a>>,
        messages: &mut Vec<String>,
    ) {
        match self {
            Self::Centrifuge => centrifuge::greet(token, wanted, messages),
            Self::Template(template) => template.greet(wanted, messages),
        }
    }

    /// Appends the messages that subscribe on an open connection.
    pub fn subscribe<'a>(&self, wanted: impl Iterator<Item = Wanted<'a>>, messages: &mut Vec<String>) {
        match self {
            Self::Centrifuge => centrifuge::subscribe(wanted, messages),
            Self::Template(template) => template.subscribe(wanted, messages),
        }
    }

    /// Whether to subscribe only after the server has accepted the connection.
    pub fn subscribes_when_welcome(&self) -> bool {
        matches!(self, Self::Template(template) if template.subscribe.welcome.is_some())
    }

    /// Returns the message that publishes. The answer has the same `id`, in protocols that answer.
    pub fn publish(&self, id: u32, channel: &str, payload: String) -> String {
        match self {
            Self::Centrifuge => centrifuge::publish(id, channel, payload.into()),
            Self::Template(_) => payload,
        }
    }

    pub fn answers_publications(&self) -> bool {
        *self == Self::Centrifuge
    }

    /// Calls `hear` with the events that follow from the open connection alone.
    pub fn opened(&self, hear: impl FnMut(Event<'_>)) {
        match self {
            Self::Centrifuge => {}
            Self::Template(template) => template.opened(hear),
        }
    }

    /// Calls `hear` with the events of one message, in order. Returns how many parts of it could not be decoded.
    pub fn hear(&self, kind: MessageKind, message: &[u8], hear: impl FnMut(Event<'_>)) -> u64 {
        match self {
            Self::Centrifuge => centrifuge::hear(kind, message, hear),
            Self::Template(template) => template.hear(message, hear),
        }
    }

    /// Returns the answer to a ping of the protocol.
    pub fn pong(&self) -> Option<&str> {
        match self {
            Self::Centrifuge => Some(centrifuge::PONG),
            Self::Template(template) => template.subscribe.pong.as_deref(),
        }
    }
}
