//! Message contents: each protocol decodes bytes into commands and encodes replies and pushes into bytes.
//!
//! A protocol keeps no state about a connection, so that one value serves all connections, unless its type is
//! documented as belonging to one connection. Even then, pushes do not depend on the connection.
//! [`Protocol::encode_reply`] encodes for one client and [`Protocol::encode_push`] for every subscriber. As the types
//! differ, an encoding that is shared cannot be confused with one that belongs to a single client.

use bytes::BytesMut;

use crate::command::Command;
use crate::disconnect::Disconnect;
use crate::framing::{Message, MessageKind};
use crate::push::Push;
use crate::reply::Reply;

pub mod centrifuge;
pub mod event_source;
pub mod graphql;
pub mod mercure;
pub mod pusher;
pub mod raw;
pub mod socketio;

mod json;
mod name_part;

/// Identifies a protocol in tables of shared encodings: the same id means the same bytes for the same push.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProtocolId(pub u8);

impl ProtocolId {
    pub const CENTRIFUGE_JSON: Self = Self(0);
    pub const RAW: Self = Self(1);
    pub const CENTRIFUGE_PROTOBUF: Self = Self(2);
    pub const CENTRIFUGE_UNI_JSON: Self = Self(3);
    pub const CENTRIFUGE_UNI_PROTOBUF: Self = Self(4);
    pub const SSE: Self = Self(5);
    /// For clients that follow several channels.
    pub const SSE_CHANNELS: Self = Self(6);
    pub const PUSHER: Self = Self(7);
    pub const MERCURE: Self = Self(8);
    pub const SOCKET_IO: Self = Self(9);
    /// For clients that receive the names of events.
    pub const SSE_NAMES: Self = Self(10);
    pub const GRAPHQL: Self = Self(11);
    /// How many protocols there are: the length of tables indexed by id.
    pub const COUNT: usize = 12;

    const NAMES: [&str; Self::COUNT] = [
        "centrifuge_json",
        "raw",
        "centrifuge_protobuf",
        "centrifuge_uni_json",
        "centrifuge_uni_protobuf",
        "sse",
        "sse_channels",
        "pusher",
        "mercure",
        "socketio",
        "sse_names",
        "graphql",
    ];

    /// Whether clients send nothing after their first message, and only receive from then on.
    pub fn is_unidirectional(self) -> bool {
        matches!(
            self,
            Self::CENTRIFUGE_UNI_JSON
                | Self::CENTRIFUGE_UNI_PROTOBUF
                | Self::SSE
                | Self::SSE_CHANNELS
                | Self::SSE_NAMES
                | Self::MERCURE
        )
    }

    /// Whether a client is told of a close in a message, even where the transport has a close of its own.
    pub fn sends_close_message(self) -> bool {
        self.is_unidirectional() || self == Self::PUSHER
    }

    /// Returns the protocol's name, for metrics and logs.
    pub fn name(self) -> &'static str {
        Self::NAMES[usize::from(self.0)]
    }

    /// Returns the format of its messages, in one direction or both, by Centrifuge's name for it.
    pub fn format(self) -> &'static str {
        match self {
            Self::CENTRIFUGE_JSON | Self::CENTRIFUGE_UNI_JSON => "json",
            Self::CENTRIFUGE_PROTOBUF | Self::CENTRIFUGE_UNI_PROTOBUF => "protobuf",
            other => other.name(),
        }
    }
}

pub trait Protocol: Send + Sync + std::fmt::Debug {
    fn id(&self) -> ProtocolId;

    /// Appends the commands that opening a connection implies, before any message. For protocols in which the address
    /// holds the whole request, and those in which the server speaks first.
    fn open(&self, _commands: &mut Vec<Command>) {}

    /// Appends the commands of one message, in their order. On an error the connection is closed with
    /// [`DecodeError::disconnect`], after the commands that came before it in the same message have been handled.
    fn decode(&self, message: Message<'_>, commands: &mut Vec<Command>) -> Result<(), DecodeError>;

    /// Appends the encoding of a reply to one client.
    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded;

    /// Appends the encoding of a push, the same for every subscriber of this protocol.
    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded;

    /// How this protocol keeps a connection alive.
    fn heartbeat(&self) -> Heartbeat;

    /// Appends a last message to one client before its connection is closed. For protocols whose values hold state of
    /// their connection.
    fn encode_close_message(&self, _disconnect: &Disconnect, _out: &mut BytesMut) -> Encoded {
        Encoded::Nothing
    }

    /// Returns the bytes kept of a message that has only partly arrived.
    fn held_bytes(&self) -> usize {
        0
    }

    /// Returns the close that stands for `disconnect` in this protocol, where it has codes of its own.
    fn close(&self, disconnect: &Disconnect) -> Disconnect {
        disconnect.clone()
    }

    /// Returns the delimiter between several encoded messages in one transport message; `None` if each needs its own.
    fn delimiter(&self) -> Option<&'static [u8]>;
}

/// The result of an encoding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Encoded {
    /// The bytes appended are a message of this kind.
    Message(MessageKind),
    /// The bytes appended are several messages in sequence, each of this kind and length in bytes. A protocol without
    /// replies returns recovered publications this way, and one with attachments sends them this way.
    Messages(Vec<(MessageKind, usize)>),
    /// As `Message`, but possibly empty, and always the first: it begins the response to the client's request, with
    /// this header. Only the reply to connect is encoded so.
    Begin(Option<Header>),
    /// The protocol cannot express it: nothing is sent.
    Nothing,
    /// The protocol can only express it by closing the connection.
    Close(Disconnect),
}

/// A header of an HTTP response. Its name is in lower case, its value printable ASCII.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    pub name: &'static str,
    pub value: Box<str>,
}

/// How a protocol keeps a connection alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heartbeat {
    /// The server sends this message. Clients of a bidirectional protocol answer with
    /// [`crate::command::Request::Pong`].
    Message(MessageKind, &'static [u8]),
    /// The transport sends pings and pongs of its own.
    Transport,
    /// The transport sends keep-alives that clients cannot answer.
    Unanswered,
}

/// Why a message could not be decoded. The sender is at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the message is empty")]
    Empty,
    #[error("the message is not in this protocol's format")]
    Malformed,
    #[error("the message holds too many commands")]
    TooManyCommands,
    #[error("the message is too large")]
    TooLarge,
    /// An error for which the protocol has a close of its own.
    #[error("{reason}")]
    Closes { code: u16, reason: &'static str },
}

impl DecodeError {
    pub fn disconnect(self) -> Disconnect {
        match self {
            Self::Empty | Self::Malformed => Disconnect::BAD_REQUEST.because(&self.to_string()),
            Self::TooManyCommands => Disconnect::TOO_MANY_REQUESTS,
            Self::TooLarge => Disconnect::TOO_BIG,
            Self::Closes { code, reason } => Disconnect { code, reason: reason.into() },
        }
    }
}
