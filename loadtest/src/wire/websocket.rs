//! A WebSocket, with the framing of `shared`, which the gateway uses too.
//!
//! Commands are sent uncompressed, which permessage-deflate allows: what is measured is what comes in.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use hyper::header::{
    CONNECTION, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper_util::rt::TokioIo;
use shared::framing::websocket::{
    Assembler, FrameEvent, FrameHeader, Inflater, Limits, Opcode, Role, accept_key, encode_masked,
};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use super::{Incoming, MESSAGE_BYTES_MAX};
use crate::connect::{Dialer, Entry};
use crate::failure::Failure;
use crate::tls::Stream;

/// The extension that is offered, with a fresh context for every message, so that one inflater serves all connections.
const OFFER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const EXTENSION: &str = "permessage-deflate";
const READ_BYTES: usize = 64 << 10;
const LIMITS: Limits = Limits {
    message_bytes_max: MESSAGE_BYTES_MAX,
    frame_bytes_max: MESSAGE_BYTES_MAX,
    fragments_max: 1 << 16,
};

thread_local! {
    static TOOLS: RefCell<Tools> = RefCell::new(Tools { inflater: Inflater::new(), buffer: vec![0; READ_BYTES] });
}

/// What all connections of a thread share, since it holds nothing between two reads.
struct Tools {
    inflater: Inflater,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct WebSocketWire {
    stream: Stream,
    assembler: Assembler,
    /// Messages of the last read that were not taken yet: at most what 64 KiB inflate to.
    queue: VecDeque<Incoming>,
    is_compressed: bool,
    /// Frames that are not sent yet.
    outgoing: BytesMut,
}

impl WebSocketWire {
    pub async fn open(dialer: &Dialer, entry: Entry<'_>, compression: bool) -> Result<Self, Failure> {
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        let mut request = dialer
            .client_request("GET", entry)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key);
        if compression {
            request = request.header(SEC_WEBSOCKET_EXTENSIONS, OFFER);
        }
        let mut connection = dialer.open().await?;
        let response = connection.send(request, Bytes::new()).await?;
        let is_compressed = check_answer(response.status(), response.headers(), &key)?;
        let upgraded = hyper::upgrade::on(response).await?;
        let parts = upgraded.downcast::<TokioIo<Stream>>().map_err(|_| "the upgrade left no stream")?;
        let mut wire = Self {
            stream: parts.io.into_inner(),
            assembler: Assembler::new(Role::Client, is_compressed),
            queue: VecDeque::new(),
            is_compressed,
            outgoing: BytesMut::new(),
        };
        let mut early = BytesMut::from(parts.read_buf);
        TOOLS.with_borrow_mut(|tools| wire.take_in(&mut early, &mut tools.inflater))?;
        Ok(wire)
    }

    /// Whether the server agreed to compress.
    pub fn is_compressed(&self) -> bool {
        self.is_compressed
    }

    /// Returns the next message. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Incoming, Failure> {
        loop {
            while !self.outgoing.is_empty() {
                // Cancel safe: what was written is taken off the buffer in the same step.
                self.stream.write_buf(&mut self.outgoing).await?;
            }
            self.stream.flush().await?;
            if let Some(incoming) = self.queue.pop_front() {
                return Ok(incoming);
            }
            poll_fn(|context| self.poll_take_in(context)).await?;
        }
    }

    pub(super) async fn send(&mut self, messages: &[String]) -> Result<(), Failure> {
        for message in messages {
            put_frame(Opcode::Text, message.as_bytes(), &mut self.outgoing);
        }
        self.write_out().await
    }

    pub(super) async fn close(&mut self) -> Result<(), Failure> {
        put_frame(Opcode::Close, &[], &mut self.outgoing);
        self.write_out().await
    }

    async fn write_out(&mut self) -> Result<(), Failure> {
        self.stream.write_all_buf(&mut self.outgoing).await?;
        Ok(self.stream.flush().await?)
    }

    /// Reads once, into the buffer that all connections of the thread share, and queues the messages.
    fn poll_take_in(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        TOOLS.with_borrow_mut(|tools| {
            let mut buffer = ReadBuf::new(&mut tools.buffer);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            Poll::Ready(match buffer.filled_mut() {
                [] => Err(Failure::broken()),
                bytes => self.take_in(bytes, &mut tools.inflater),
            })
        })
    }

    /// Queues the messages that these bytes complete.
    fn take_in(&mut self, bytes: &mut [u8], inflater: &mut Inflater) -> Result<(), Failure> {
        let mut unread = bytes;
        loop {
            match self.assembler.next(&mut unread, &LIMITS, inflater) {
                Ok(None) => return Ok(()),
                Ok(Some(FrameEvent::Message(message))) => {
                    self.queue
                        .push_back(Incoming::Message(message.kind, Bytes::copy_from_slice(message.data)));
                }
                Ok(Some(FrameEvent::Ping(data))) => put_frame(Opcode::Pong, data, &mut self.outgoing),
                Ok(Some(FrameEvent::Pong(_))) => {}
                Ok(Some(FrameEvent::Close(close))) => self.queue.push_back(Incoming::Close {
                    code: close.code.unwrap_or(1005),
                    reason: close.reason.to_owned(),
                }),
                Err(error) => return Err(Failure::protocol(error)),
            }
        }
    }
}

fn put_frame(opcode: Opcode, payload: &[u8], out: &mut BytesMut) {
    let header = FrameHeader { fin: true, rsv1: false, opcode, mask: None, length: payload.len() as u64 };
    encode_masked(header, payload, rand::random(), out);
}

/// Whether the server agreed to compress. An error says why there is no WebSocket.
fn check_answer(status: StatusCode, headers: &HeaderMap, key: &str) -> Result<bool, Failure> {
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure(format!("HTTP {} in place of the upgrade", status.as_u16())));
    }
    if headers.get(SEC_WEBSOCKET_ACCEPT).is_none_or(|accept| *accept != accept_key(key)) {
        return Err(Failure::protocol("the accept key is missing or wrong"));
    }
    let Some(used) = headers.get(SEC_WEBSOCKET_EXTENSIONS) else { return Ok(false) };
    let used = used.to_str().unwrap_or("");
    if used.split(';').next().map(str::trim) != Some(EXTENSION) {
        return Err(Failure::protocol("the server uses an extension that was not offered"));
    }
    if !used.contains("server_no_context_takeover") {
        return Err(Failure::protocol("the server wants to keep a compression context"));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    /// With this accept key and these extensions, if any.
    fn answer(accept: &'static str, extensions: &'static str) -> Result<bool, Failure> {
        let headers = [(SEC_WEBSOCKET_ACCEPT, accept), (SEC_WEBSOCKET_EXTENSIONS, extensions)];
        let headers = headers.into_iter().filter(|(_, value)| !value.is_empty());
        let headers = headers.map(|(name, value)| (name, value.parse().unwrap())).collect();
        check_answer(StatusCode::SWITCHING_PROTOCOLS, &headers, KEY)
    }

    #[test]
    fn an_answer_says_whether_compression_was_agreed_on_or_is_refused() {
        assert!(!answer(ACCEPT, "").unwrap());
        assert!(answer(ACCEPT, "permessage-deflate; server_no_context_takeover").unwrap());
        assert!(answer("", "").is_err());
        assert!(answer("AAAA", "").is_err());
        assert!(answer(ACCEPT, "permessage-deflate").is_err());
        assert!(answer(ACCEPT, "x-other").is_err());
    }
}
