//! An open connection as a client sees it, with whole messages in both directions.

mod streaming;
mod websocket;

use bytes::Bytes;
use shared::framing::MessageKind;

use crate::failure::Failure;

pub use streaming::StreamingWire;
pub use websocket::WebSocketWire;

/// The largest message that a server may send.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;

#[derive(Debug)]
pub enum Wire {
    WebSocket(WebSocketWire),
    Streaming(Box<StreamingWire>),
}

#[derive(Debug)]
pub enum Incoming {
    Message(MessageKind, Bytes),
    /// The server closes the connection.
    Close {
        code: u16,
        reason: String,
    },
}

impl Wire {
    /// Returns the next message, and answers pings of the transport.
    pub async fn next(&mut self) -> Result<Incoming, Failure> {
        match self {
            Self::WebSocket(wire) => wire.next().await,
            Self::Streaming(wire) => wire.next().await,
        }
    }

    /// Sends text messages, with one write.
    pub async fn send(&mut self, messages: &[String]) -> Result<(), Failure> {
        match self {
            Self::WebSocket(wire) => wire.send(messages).await,
            Self::Streaming(wire) => wire.send(messages).await,
        }
    }

    /// Whether what comes in is compressed.
    pub fn is_compressed(&self) -> bool {
        matches!(self, Self::WebSocket(wire) if wire.is_compressed())
    }

    /// Sends a close frame, without waiting for an answer.
    pub async fn close(&mut self) -> Result<(), Failure> {
        match self {
            Self::WebSocket(wire) => wire.close().await,
            Self::Streaming(wire) => {
                wire.close();
                Ok(())
            }
        }
    }
}
