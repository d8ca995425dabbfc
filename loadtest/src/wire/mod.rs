//! An open connection as a client sees it: whole messages in both directions.

mod deflating;
mod plain;
mod streaming;

use bytes::Bytes;
use shared::framing::MessageKind;

pub use deflating::DeflatingWire;
pub use plain::PlainWire;
pub use streaming::StreamingWire;

/// Largest message that a server may send.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Two ways to hold a WebSocket, and one to hold a response. tungstenite, which shares nothing with the gateway, is the rule;
/// it knows no compression, so connections that negotiated it are held by our own framing.
#[expect(
    clippy::large_enum_variant,
    reason = "the rule is the large one, and a box would cost it a cache miss"
)]
#[derive(Debug)]
pub enum Wire {
    Plain(PlainWire),
    Deflating(Box<DeflatingWire>),
    Streaming(Box<StreamingWire>),
}

#[derive(Debug)]
pub enum Incoming {
    Message(MessageKind, Bytes),
    /// The server says that it closes.
    Close {
        code: u16,
        reason: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the connection broke without a close frame")]
    Broken,
    #[error("{0}")]
    Io(std::io::Error),
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
}

impl Wire {
    /// The next message. Pings of the transport are answered on the way.
    pub async fn next(&mut self) -> Result<Incoming, WireError> {
        match self {
            Self::Plain(wire) => wire.next().await,
            Self::Deflating(wire) => wire.next().await,
            Self::Streaming(wire) => wire.next().await,
        }
    }

    /// Sends text messages, all in one go.
    pub async fn send(&mut self, messages: &[String]) -> Result<(), WireError> {
        match self {
            Self::Plain(wire) => wire.send(messages).await,
            Self::Deflating(wire) => wire.send(messages).await,
            Self::Streaming(wire) => wire.send(messages).await,
        }
    }

    /// Whether what comes in is compressed.
    pub fn is_compressed(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Streaming(_) => false,
            Self::Deflating(wire) => wire.is_negotiated(),
        }
    }

    /// Says goodbye. What the server answers is not awaited.
    pub async fn close(&mut self) -> Result<(), WireError> {
        match self {
            Self::Plain(wire) => wire.close().await,
            Self::Deflating(wire) => wire.close().await,
            Self::Streaming(wire) => {
                wire.close();
                Ok(())
            }
        }
    }
}

impl From<std::io::Error> for WireError {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match error.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => Self::Broken,
            _ => Self::Io(error),
        }
    }
}
