//! What emitters say, whichever library they use, and why something was not understood.

use shared::publication::Tagged;

/// One message.
#[derive(Debug)]
pub(super) struct Said {
    /// The namespace of Socket.IO.
    pub(super) namespace: String,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Emit { event: String, said: Tagged, of: Of, volatile: bool },
    Join { of: Of, rooms: Vec<String> },
    Leave { of: Of, rooms: Vec<String> },
    Disconnect { of: Of, close: bool },
}

/// Whom it is about: those in these rooms, or with these ids. None: all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Of {
    pub(super) rooms: Vec<String>,
    pub(super) except: Vec<String>,
}

/// Of what kind a message is, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Emit,
    Join,
    Leave,
    Disconnect,
    /// A command of none of these kinds, or that could not be read.
    Other,
}

impl Kind {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Emit => "emit",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Disconnect => "disconnect",
            Self::Other => "other",
        }
    }
}

impl What {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Emit { .. } => Kind::Emit,
            Self::Join { .. } => Kind::Join,
            Self::Leave { .. } => Kind::Leave,
            Self::Disconnect { .. } => Kind::Disconnect,
        }
    }
}

/// Why a message is not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    #[error("it cannot be read: {0}")]
    Malformed(String),
    #[error("it is longer than socketio.emitters.message_bytes_max")]
    TooLong,
    #[error(
        "it is a pickle of Python, which can run anything where it is read: python-socketio 5.14 and newer send JSON"
    )]
    Pickle,
    #[error("{0} is not served")]
    Unsupported(&'static str),
}

impl Unread {
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::TooLong => "too_long",
            Self::Pickle => "pickle",
            Self::Unsupported(_) => "unsupported",
        }
    }
}
