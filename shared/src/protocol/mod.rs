//! What a message means: bytes to words and back.
//!
//! A protocol keeps no state about a connection, so one value serves all that speak it, but where a value says that it is of
//! one connection. What it encodes for all hangs on no connection. It encodes in two ways:
//! [`Protocol::encode_reply`] for one client and [`Protocol::encode_push`] for every subscriber. Since the types
//! differ, what is encoded once for all cannot be mixed up with what is encoded for one.

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

/// The same id means the same bytes for the same push, so it names a place in tables of shared bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProtocolId(pub u8);

impl ProtocolId {
    pub const CENTRIFUGE_JSON: Self = Self(0);
    pub const RAW: Self = Self(1);
    pub const CENTRIFUGE_PROTOBUF: Self = Self(2);
    pub const CENTRIFUGE_UNI_JSON: Self = Self(3);
    pub const CENTRIFUGE_UNI_PROTOBUF: Self = Self(4);
    pub const SSE: Self = Self(5);
    /// For those who follow several channels.
    pub const SSE_CHANNELS: Self = Self(6);
    pub const PUSHER: Self = Self(7);
    pub const MERCURE: Self = Self(8);
    pub const SOCKET_IO: Self = Self(9);
    /// For those who are told what events are called.
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

    /// Whether a client says who it is and no more, and is told everything from then on.
    pub fn only_tells(self) -> bool {
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

    /// Whether a client that is closed is told so in a message, also where its transport has a close of its own.
    pub fn tells_of_close(self) -> bool {
        self.only_tells() || self == Self::PUSHER
    }

    /// For metrics and logs.
    pub fn name(self) -> &'static str {
        Self::NAMES[usize::from(self.0)]
    }

    /// What it is written in, in one direction or both: the word that Centrifuge has for it.
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

    /// Commands that a connection makes by being opened, before any message. For protocols in which the address
    /// says it all, and those in which the server speaks first.
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

    /// Appends what one client is told before its connection ends, beside the close: for protocols whose values know
    /// more of their connections than others do.
    fn last_words(&self, _disconnect: &Disconnect, _out: &mut BytesMut) -> Encoded {
        Encoded::Nothing
    }

    /// Bytes that are kept of a message that has come in part.
    fn held_bytes(&self) -> usize {
        0
    }

    /// The close that says to this protocol's clients what `disconnect` means, where they go by codes of their own.
    fn close(&self, disconnect: &Disconnect) -> Disconnect {
        disconnect.clone()
    }

    /// What stands between several encoded messages of one transport message; `None` if each needs its own.
    fn delimiter(&self) -> Option<&'static [u8]>;
}

/// What came of encoding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Encoded {
    /// The bytes appended are a message of this kind.
    Message(MessageKind),
    /// The bytes appended are several messages, one after the other, each of this kind and length in bytes: a protocol
    /// without replies hands out recovered publications so, and one with attachments sends them so.
    Messages(Vec<(MessageKind, usize)>),
    /// The same as a message, which may be empty, and the first of all: with it begins the answer to the request that
    /// the client came with, and this is one of that answer's headers. Only the reply to connect is.
    Begin(Option<Header>),
    /// This protocol has no word for it: nothing is sent.
    Nothing,
    /// This protocol can only say it by closing.
    Close(Disconnect),
}

/// A header of an HTTP answer. Its name is in lower case, its value printable ASCII.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    pub name: &'static str,
    pub value: Box<str>,
}

/// How a protocol keeps a connection alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heartbeat {
    /// The server sends this message, and a client that says more than who it is answers with
    /// [`crate::command::Request::Pong`].
    Message(MessageKind, &'static [u8]),
    /// The transport's own pings and pongs.
    Transport,
    /// The transport shows that it lives, and nobody can answer.
    Unanswered,
}

/// Why a message could not be understood. Whoever sent it is at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the message is empty")]
    Empty,
    #[error("the message is not what this protocol is written in")]
    Malformed,
    #[error("the message holds too many commands")]
    TooManyCommands,
    #[error("the message is too large")]
    TooLarge,
    /// The protocol has a close of its own for it.
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
