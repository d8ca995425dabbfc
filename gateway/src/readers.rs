//! All parsers of this crate for bytes from the network, gathered for the targets in `fuzz/` and for the tests that run
//! their checks. The gateway itself does not use this module.
//!
//! Results with private types are returned as text. The parsers of control messages and of nodes' descriptions are
//! public in their own module: [`crate::node::control`].

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncRead, ReadBuf};

use crate::listener::proxy_protocol::{self, Peek};

pub use crate::auth::ReadClaims;
pub use crate::http::ReadHead;

/// Takes Redis' first reply out of the buffer; `None` while it is incomplete.
pub fn redis(buffer: &mut BytesMut) -> Result<Option<String>, String> {
    crate::broker::redis::read_in_words(buffer)
}

/// Describes a message of a stream of NATS, encodes it again, and tells whether its publications can be decoded.
pub fn nats_block(bytes: bytes::Bytes) -> Result<(String, bytes::Bytes, bool), String> {
    crate::broker::nats::read_block_in_words(bytes)
}

/// Describes a message of a ledger's log in NATS, encodes it again, and returns the lines of its table if it is a
/// complete base. `None`: a release that this one does not know has written it.
pub fn nats_ledger(bytes: bytes::Bytes) -> Option<(String, bytes::Bytes, Option<Vec<String>>)> {
    crate::ledger::nats::read_message_in_words(bytes)
}

/// Returns a message of a map's log in NATS in words and encoded again, and, if a channel can begin with it, the state
/// that it holds: as read, and after the state was written down as rows and read back.
pub fn nats_map(bytes: bytes::Bytes) -> Result<(String, bytes::Bytes, [Vec<String>; 2]), String> {
    crate::broker::nats::read_map_in_words(bytes)
}

/// Returns the head of the request that these bytes begin with, if it is one that is parsed without hyper.
pub fn http_head(bytes: &[u8]) -> Option<ReadHead<'_>> {
    crate::http::read_head(bytes)
}

/// Returns the node, the session and the commands in a request to `/emulation`.
pub fn emulation(body: &[u8], in_protobuf: bool) -> Result<(Box<str>, Box<str>, bytes::Bytes), String> {
    crate::http::read_emulation(body, in_protobuf)
}

/// Reads the PROXY header that a connection begins with, and returns how many bytes were consumed. The pieces arrive one
/// by one.
pub fn proxy_header(pieces: &[&[u8]]) -> (Result<Option<SocketAddr>, String>, usize) {
    let sent = pieces.iter().map(|piece| piece.len()).sum::<usize>();
    let mut arriving = ChunkedReader(pieces.iter().copied().filter(|piece| !piece.is_empty()).collect());
    // Nothing is pending: the stream ends behind the last piece.
    let read = proxy_protocol::read_header(&mut arriving).now_or_never();
    let left = arriving.0.iter().map(|piece| piece.len()).sum::<usize>();
    let read = read.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::WouldBlock).into()));
    (read.map_err(|error| error.to_string()), sent - left)
}

/// Parses the opening line of a connection from another node: the session, whether it asks for its stream, the
/// negotiated compression, and how many bytes follow it.
pub fn opening(bytes: &[u8]) -> Result<(Box<str>, bool, Option<String>, usize), String> {
    crate::engine_io::read_opening(bytes)
}

/// Parses the parameters of a method of the server API. `None` if there is no such method.
pub fn api_command(method: &str, body: &[u8]) -> Option<Result<String, String>> {
    crate::api::command_in_words(method, body)
}

/// Parses the commands of a batch, each with its method.
pub fn api_batch(body: &[u8]) -> Result<Vec<(Option<&'static str>, String)>, String> {
    crate::api::batch_in_words(body)
}

/// Returns the content and the grants of a token at this moment, from its claims.
pub fn token_claims(now_unix_s: i64, claims: &[u8]) -> Result<ReadClaims, String> {
    crate::auth::read_claims(now_unix_s, claims)
}

/// Returns the names of the keys in a set that an issuer of tokens publishes.
pub fn key_set(json: &[u8]) -> Result<Vec<String>, String> {
    crate::auth::read_key_set(json)
}

/// Returns how many public keys of issuers a text holds.
pub fn public_keys(pem: &str) -> Result<usize, String> {
    crate::auth::read_public_keys(pem)
}

/// Describes an answer of an application's server, as each hook would read it.
pub fn backend_answer(body: &[u8]) -> Vec<String> {
    crate::backend::answers_in_words(body)
}

/// Describes a message of a Socket.IO emitter: as an event, as a command, and as one of a Python manager.
pub fn emitted(message: &[u8]) -> [Result<String, String>; 3] {
    crate::emitters::describe(message)
}

/// A stream of bytes that arrive in pieces and then end.
struct ChunkedReader<'a>(VecDeque<&'a [u8]>);

impl AsyncRead for ChunkedReader<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(piece) = self.0.front_mut() {
            let (now, later) = piece.split_at(piece.len().min(into.remaining()));
            into.put_slice(now);
            *piece = later;
            if later.is_empty() {
                self.0.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Peek for ChunkedReader<'_> {
    async fn peek(&mut self, mut into: &mut [u8]) -> io::Result<usize> {
        let piece = self.0.front().copied().unwrap_or_default();
        let seen = piece.len().min(into.len());
        into.put_slice(&piece[..seen]);
        Ok(seen)
    }
}
