//! Engine.IO, version 4: packets in WebSocket messages, or several of them in the body of a request.
//!
//! Packets are to the protocol above what frames are in WebSocket: they delimit messages, show whether the peer is
//! alive, and announce a close.

use super::{Message, MessageKind};

mod handshake;
mod payload;

pub use handshake::{EngineHandshake, PROTOCOL};
pub use payload::{PollingPayload, SEPARATOR, put_message};

/// The first packet of a session. Only servers send it.
pub const OPEN: u8 = b'0';
pub const CLOSE: u8 = b'1';
/// Only servers send pings.
pub const PING: u8 = b'2';
/// The client's answer to a ping.
pub const PONG: u8 = b'3';
/// A message of text. Binary data has a prefix of its own, or none where the transport distinguishes it from text.
pub const MESSAGE: u8 = b'4';
/// Completes the client's upgrade to this transport.
pub const UPGRADE: u8 = b'5';
/// Carries nothing: it only ends a pending request.
pub const NOOP: u8 = b'6';

/// The content of the ping and pong with which a client tests a transport before it upgrades.
pub const PROBE: &[u8] = b"probe";

/// One packet from the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EnginePacket<'a> {
    Open(&'a [u8]),
    Close,
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    Message(Message<'a>),
    Upgrade,
    Noop,
}

/// Why bytes are not a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PacketError {
    #[error("a packet is empty")]
    Empty,
    #[error("a packet has an unknown type")]
    UnknownType,
    #[error("a packet of binary data is not in base64")]
    NotBase64,
    #[error("a packet is not UTF-8")]
    NotUtf8,
}

impl<'a> EnginePacket<'a> {
    /// Reads the packet in one WebSocket message.
    pub fn read(message: Message<'a>) -> Result<Self, PacketError> {
        match message.kind {
            MessageKind::Binary => Ok(Self::Message(message)),
            MessageKind::Text => Self::read_text(message.data),
        }
    }

    /// Reads a text packet: its type as a digit, followed by its content.
    fn read_text(packet: &'a [u8]) -> Result<Self, PacketError> {
        let (kind, data) = packet.split_first().ok_or(PacketError::Empty)?;
        Ok(match *kind {
            OPEN => Self::Open(data),
            CLOSE => Self::Close,
            PING => Self::Ping(data),
            PONG => Self::Pong(data),
            MESSAGE => Self::Message(Message { kind: MessageKind::Text, data }),
            UPGRADE => Self::Upgrade,
            NOOP => Self::Noop,
            _ => return Err(PacketError::UnknownType),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(data: &[u8]) -> Result<EnginePacket<'_>, PacketError> {
        EnginePacket::read(Message { kind: MessageKind::Text, data })
    }

    #[test]
    fn a_text_says_by_its_first_digit_what_it_is() {
        assert_eq!(text(b"0{}"), Ok(EnginePacket::Open(b"{}")));
        assert_eq!(text(b"1"), Ok(EnginePacket::Close));
        assert_eq!(text(b"2probe"), Ok(EnginePacket::Ping(PROBE)));
        assert_eq!(text(b"3"), Ok(EnginePacket::Pong(b"")));
        assert_eq!(
            text(b"4hello"),
            Ok(EnginePacket::Message(Message { kind: MessageKind::Text, data: b"hello" }))
        );
        assert_eq!(text(b"4"), Ok(EnginePacket::Message(Message { kind: MessageKind::Text, data: b"" })));
        assert_eq!((text(b"5"), text(b"6")), (Ok(EnginePacket::Upgrade), Ok(EnginePacket::Noop)));
    }

    #[test]
    fn what_is_binary_is_a_message_as_it_is() {
        let message = Message { kind: MessageKind::Binary, data: b"4\x00\xff" };
        assert_eq!(EnginePacket::read(message), Ok(EnginePacket::Message(message)));
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(text(b""), Err(PacketError::Empty));
        for unknown in ["abc", "7", " 4", "-1", "\u{1e}4"] {
            assert_eq!(text(unknown.as_bytes()), Err(PacketError::UnknownType), "{unknown}");
        }
        assert_eq!(text(b"bAQ=="), Err(PacketError::UnknownType), "that is for bodies of requests");
    }
}
