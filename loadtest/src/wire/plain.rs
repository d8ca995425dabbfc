//! A WebSocket without extensions, held by tungstenite.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::Request;
use shared::framing::MessageKind;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{Incoming, MESSAGE_BYTES_MAX, WireError};
use crate::connect::ConnectError;
use crate::tls::Stream;

/// Messages are sent at once, so what waits is one batch of commands.
const WRITE_BUFFER_BYTES_MAX: usize = 16 << 20;

#[derive(Debug)]
pub struct PlainWire {
    socket: WebSocketStream<Stream>,
}

impl PlainWire {
    pub async fn open(
        request: Request<()>,
        stream: Stream,
        read_buffer: usize,
    ) -> Result<Self, ConnectError> {
        let config = WebSocketConfig::default()
            .read_buffer_size(read_buffer)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _response)) => Ok(Self { socket }),
            Err(Error::Http(response)) => Err(ConnectError::Refused(response.status().as_u16())),
            Err(Error::Io(error)) => Err(ConnectError::Io(error)),
            Err(error) => Err(ConnectError::Handshake(error.to_string())),
        }
    }

    pub(super) async fn next(&mut self) -> Result<Incoming, WireError> {
        loop {
            return match self.socket.next().await {
                Some(Ok(Message::Text(text))) => Ok(Incoming::Message(MessageKind::Text, Bytes::from(text))),
                Some(Ok(Message::Binary(data))) => Ok(Incoming::Message(MessageKind::Binary, data)),
                Some(Ok(Message::Close(close))) => Ok(match close {
                    Some(close) => {
                        Incoming::Close { code: close.code.into(), reason: close.reason.as_str().to_owned() }
                    }
                    None => Incoming::Close { code: 1005, reason: String::new() },
                }),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(error)) => Err(error.into()),
                None => Err(WireError::Broken),
            };
        }
    }

    pub(super) async fn send(&mut self, messages: &[String]) -> Result<(), WireError> {
        for message in messages {
            self.socket.feed(Message::text(message.as_str())).await?;
        }
        Ok(self.socket.flush().await?)
    }

    pub(super) async fn close(&mut self) -> Result<(), WireError> {
        Ok(self.socket.send(Message::Close(None)).await?)
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => error.into(),
            Error::ConnectionClosed | Error::AlreadyClosed => Self::Broken,
            // tungstenite's word for an end of file in the middle.
            Error::Protocol(
                tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            ) => Self::Broken,
            error => Self::Protocol(error.to_string()),
        }
    }
}
