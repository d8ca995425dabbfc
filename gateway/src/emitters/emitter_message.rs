//! The messages of emitters, whichever library sent them, and the errors of messages that are not carried out.

use shared::publication::Tagged;

/// One message.
#[derive(Debug)]
pub(super) struct EmitterMessage {
    /// The namespace of Socket.IO.
    pub(super) namespace: String,
    pub(super) what: EmitterCommand,
}

#[derive(Debug)]
pub(super) enum EmitterCommand {
    Emit { event: String, arguments: Tagged, of: EmitterTarget, volatile: bool },
    Join { of: EmitterTarget, rooms: Vec<String> },
    Leave { of: EmitterTarget, rooms: Vec<String> },
    Disconnect { of: EmitterTarget, close: bool },
}

/// The targeted clients: those in these rooms, or with these ids. Empty: all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct EmitterTarget {
    pub(super) rooms: Vec<String>,
    pub(super) except: Vec<String>,
}

/// The kind of a message, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EmitterMessageKind {
    Emit,
    Join,
    Leave,
    Disconnect,
    /// Any other command, or a message that cannot be read.
    Other,
}

impl EmitterMessageKind {
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

impl EmitterCommand {
    pub(super) fn kind(&self) -> EmitterMessageKind {
        match self {
            Self::Emit { .. } => EmitterMessageKind::Emit,
            Self::Join { .. } => EmitterMessageKind::Join,
            Self::Leave { .. } => EmitterMessageKind::Leave,
            Self::Disconnect { .. } => EmitterMessageKind::Disconnect,
        }
    }
}

/// Why a message is not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum EmitterMessageError {
    #[error("it cannot be read: {0}")]
    Malformed(String),
    #[error("it is longer than socketio.emitters.message_bytes_max")]
    TooLong,
    #[error(
        "it is a Python pickle, which can run arbitrary code when it is read: python-socketio 5.14 and newer send JSON"
    )]
    Pickle,
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

impl EmitterMessageError {
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::TooLong => "too_long",
            Self::Pickle => "pickle",
            Self::Unsupported(_) => "unsupported",
        }
    }
}
