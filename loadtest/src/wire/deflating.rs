//! A WebSocket with permessage-deflate, held by the framing that the gateway uses too.
//!
//! Commands go out uncompressed, which the extension allows; what is measured is what comes in.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use httparse::Status;
use hyper::Request;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_EXTENSIONS};
use shared::framing::websocket::{
    Assembler, FrameEvent, FrameHeader, Inflater, Limits, Opcode, Role, accept_key, encode_masked,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::client::generate_request;

use super::{Incoming, MESSAGE_BYTES_MAX, Wire, WireError};
use crate::connect::ConnectError;
use crate::tls::Stream;

/// What is offered: a fresh context for every message, so that one inflater serves all connections of a thread.
const OFFER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const EXTENSION: &str = "permessage-deflate";
const RESPONSE_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
const READ_BYTES: usize = 64 << 10;
const LIMITS: Limits = Limits {
    message_bytes_max: MESSAGE_BYTES_MAX,
    frame_bytes_max: MESSAGE_BYTES_MAX,
    fragments_max: 1 << 16,
};

thread_local! {
    static TOOLS: RefCell<Tools> = RefCell::new(Tools { inflater: Inflater::new(), buffer: vec![0; READ_BYTES] });
}

/// What all connections of a thread share, since none of it means anything between two reads.
struct Tools {
    inflater: Inflater,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct DeflatingWire {
    stream: Stream,
    assembler: Assembler,
    /// What one read held beyond the message that was asked for: at most what 64 KiB inflate to.
    queue: VecDeque<Incoming>,
    negotiated: bool,
    /// Pongs on their way out.
    outgoing: BytesMut,
}

impl DeflatingWire {
    pub async fn open(mut request: Request<()>, mut stream: Stream) -> Result<Wire, ConnectError> {
        request.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(OFFER));
        let (bytes, key) =
            generate_request(request).map_err(|error| ConnectError::Handshake(error.to_string()))?;
        stream.write_all(&bytes).await.map_err(ConnectError::Io)?;
        stream.flush().await.map_err(ConnectError::Io)?;
        let mut head = BytesMut::with_capacity(1_024);
        let (length, negotiated) = loop {
            if let Some(read) = read_response(&head, &key)? {
                break read;
            }
            if stream.read_buf(&mut head).await.map_err(ConnectError::Io)? == 0 {
                return Err(ConnectError::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
        };
        let mut early = head.split_off(length);
        let assembler = Assembler::new(Role::Client, negotiated);
        let mut wire =
            Self { stream, assembler, queue: VecDeque::new(), negotiated, outgoing: BytesMut::new() };
        TOOLS
            .with_borrow_mut(|tools| wire.take_in(&mut early, &mut tools.inflater))
            .map_err(|error| ConnectError::Handshake(error.to_string()))?;
        Ok(Wire::Deflating(Box::new(wire)))
    }

    /// Whether the server agreed to compress.
    pub fn is_negotiated(&self) -> bool {
        self.negotiated
    }

    /// Loses nothing when it is dropped before it is done.
    pub(super) async fn next(&mut self) -> Result<Incoming, WireError> {
        loop {
            while !self.outgoing.is_empty() {
                // Takes off what was written in the same step, so that being dropped repeats and loses nothing.
                self.stream.write_buf(&mut self.outgoing).await?;
            }
            self.stream.flush().await?;
            if let Some(incoming) = self.queue.pop_front() {
                return Ok(incoming);
            }
            poll_fn(|context| self.poll_take_in(context)).await?;
        }
    }

    /// Reads once, into the buffer that all connections of the thread share, and queues what came.
    fn poll_take_in(&mut self, context: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        TOOLS.with_borrow_mut(|tools| {
            let mut buffer = ReadBuf::new(&mut tools.buffer);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            Poll::Ready(match buffer.filled_mut() {
                [] => Err(WireError::Broken),
                bytes => self.take_in(bytes, &mut tools.inflater),
            })
        })
    }

    pub(super) async fn send(&mut self, messages: &[String]) -> Result<(), WireError> {
        // What is half sent comes first.
        let mut out = std::mem::take(&mut self.outgoing);
        for message in messages {
            put_frame(Opcode::Text, message.as_bytes(), &mut out);
        }
        self.stream.write_all(&out).await?;
        Ok(self.stream.flush().await?)
    }

    pub(super) async fn close(&mut self) -> Result<(), WireError> {
        let mut out = std::mem::take(&mut self.outgoing);
        put_frame(Opcode::Close, &[], &mut out);
        self.stream.write_all(&out).await?;
        Ok(self.stream.flush().await?)
    }

    /// Queues what these bytes complete.
    fn take_in(&mut self, bytes: &mut [u8], inflater: &mut Inflater) -> Result<(), WireError> {
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
                Err(error) => return Err(WireError::Protocol(error.to_string())),
            }
        }
    }
}

fn put_frame(opcode: Opcode, payload: &[u8], out: &mut BytesMut) {
    let header = FrameHeader { fin: true, rsv1: false, opcode, mask: None, length: payload.len() as u64 };
    encode_masked(header, payload, rand::random(), out);
}

/// How long the head of the response is, and whether the server agreed to compress. `None` while it is not whole.
fn read_response(bytes: &[u8], key: &str) -> Result<Option<(usize, bool)>, ConnectError> {
    let wrong = |what: &str| ConnectError::Handshake(what.to_owned());
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let Status::Complete(length) = response.parse(bytes).map_err(|error| wrong(&error.to_string()))? else {
        return if bytes.len() > RESPONSE_BYTES_MAX {
            Err(wrong("the response has no end"))
        } else {
            Ok(None)
        };
    };
    match response.code {
        Some(101) => {}
        status => return Err(ConnectError::Refused(status.unwrap_or(0))),
    }
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    if header("sec-websocket-accept") != Some(accept_key(key).as_str()) {
        return Err(wrong("the accept key is missing or wrong"));
    }
    match header("sec-websocket-extensions") {
        None => Ok(Some((length, false))),
        Some(used) if used.split(';').next().map(str::trim) != Some(EXTENSION) => {
            Err(wrong("the server uses an extension that was not offered"))
        }
        Some(used) if !used.contains("server_no_context_takeover") => {
            Err(wrong("the server wants to keep a compression context"))
        }
        Some(_) => Ok(Some((length, true))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn read(text: &str) -> Result<Option<(usize, bool)>, ConnectError> {
        read_response(text.as_bytes(), "dGhlIHNhbXBsZSBub25jZQ==")
    }

    fn negotiated(headers: &[&str]) -> Result<bool, ConnectError> {
        let head = format!("HTTP/1.1 101 Switching Protocols\r\n{}\r\n\r\n", headers.join("\r\n"));
        assert_eq!(read(&head[..head.len() - 1]).unwrap(), None, "before its end nothing is known");
        read(&format!("{head}early")).map(|read| {
            let (length, negotiated) = read.unwrap();
            assert_eq!(length, head.len());
            negotiated
        })
    }

    #[test]
    fn the_answer_says_whether_compression_was_agreed_on() {
        assert!(!negotiated(&[ACCEPT]).unwrap());
        let agreed = "sec-websocket-extensions: permessage-deflate; server_no_context_takeover";
        assert!(negotiated(&[agreed, ACCEPT]).unwrap());
    }

    #[test]
    fn an_answer_that_cannot_be_held_to_is_refused() {
        assert!(negotiated(&["X: y"]).is_err());
        assert!(negotiated(&["Sec-WebSocket-Accept: AAAA"]).is_err());
        assert!(negotiated(&[ACCEPT, "Sec-WebSocket-Extensions: permessage-deflate"]).is_err());
        assert!(negotiated(&[ACCEPT, "Sec-WebSocket-Extensions: x-other"]).is_err());
        assert!(read(&"x".repeat(RESPONSE_BYTES_MAX + 1)).is_err());
        let refusal = read("HTTP/1.1 503 Busy\r\n\r\n").unwrap_err();
        assert!(matches!(refusal, ConnectError::Refused(503)));
    }
}
