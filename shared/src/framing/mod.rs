//! Message boundaries: each framing turns bytes into messages, without any input or output of its own.

use bytes::Bytes;

pub mod engine_io;
pub mod websocket;

/// Whether a message is text (UTF-8, checked) or binary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum MessageKind {
    Text,
    Binary,
}

/// One whole message, as a framing read it or as a protocol wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    pub kind: MessageKind,
    pub data: &'a [u8],
}

/// A message that owns its bytes. Cloning shares them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedMessage {
    pub kind: MessageKind,
    pub data: Bytes,
}
