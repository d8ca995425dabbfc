//! A client's connection while it speaks HTTP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::http::take_over::TakeOver;
use crate::transport::ALPN_HTTP2;
use crate::transport::IncomingSocket;

#[derive(Debug)]
pub(crate) struct HttpStream {
    io: Io,
    take_over: TakeOver,
}

#[derive(Debug)]
enum Io {
    /// Bytes read before come first.
    Plain(TcpStream, Bytes),
    Tls(Box<TlsStream<TcpStream>>),
}

impl HttpStream {
    /// Wraps a plain socket, from which these bytes have been read already.
    pub(crate) fn plain(stream: TcpStream, read: Bytes) -> Self {
        Self { io: Io::Plain(stream, read), take_over: TakeOver::default() }
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self { io: Io::Tls(Box::new(stream)), take_over: TakeOver::default() }
    }

    /// Whether both sides have negotiated HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(&self.io, Io::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2))
    }

    /// Returns the handle by which the connection can be taken over while it speaks HTTP.
    pub(crate) fn take_over(&self) -> TakeOver {
        self.take_over.clone()
    }

    /// Detaches the socket from tokio, for a worker's own poll.
    pub(crate) fn into_socket(self) -> io::Result<IncomingSocket> {
        match self.io {
            // The bytes read before have been consumed as HTTP.
            Io::Plain(stream, _) => Ok(IncomingSocket::Plain(stream.into_std()?)),
            Io::Tls(stream) => {
                let (stream, tls) = stream.into_inner();
                Ok(IncomingSocket::Tls(stream.into_std()?, Box::new(tls)))
            }
        }
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(_, read) if !read.is_empty() => {
                let some = read.split_to(read.len().min(buffer.remaining()));
                buffer.put_slice(&some);
                Poll::Ready(Ok(()))
            }
            Io::Plain(stream, _) => Pin::new(stream).poll_read(context, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let as_usual = as_usually_written(bytes);
        let bytes = as_usual.as_deref().unwrap_or(bytes);
        let stream = self.get_mut();
        let written = match &mut stream.io {
            Io::Plain(socket, _) => Pin::new(socket).poll_write(context, bytes),
            Io::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        };
        stream.take_over.note_written(written.is_ready());
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream, _) => Pin::new(stream).poll_flush(context),
            Io::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream, _) => Pin::new(stream).poll_shutdown(context),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// How hyper writes these names with title case, and how they are usually written. Both have the same length.
const TITLED: &[u8] = b"\r\nSec-Websocket-";
const USUAL: &[u8] = b"\r\nSec-WebSocket-";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Returns the response with header names in their usual case, if any differ. Case does not matter in names, but some
/// clients compare it. The head of a response is written in one piece.
fn as_usually_written(answer: &[u8]) -> Option<Vec<u8>> {
    if !answer.starts_with(b"HTTP/1.") {
        return None;
    }
    let head = &answer[..memmem::find(answer, END_OF_HEAD).unwrap_or(answer.len())];
    let mut places = memmem::find_iter(head, TITLED).peekable();
    places.peek()?;
    let mut repaired = answer.to_vec();
    for place in places {
        repaired[place..place + USUAL.len()].copy_from_slice(USUAL);
    }
    Some(repaired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_mended_in_the_head_of_an_answer_alone() {
        let answer = "HTTP/1.1 101 X\r\nSec-Websocket-Accept: a\r\nSec-Websocket-Extensions: b\r\n\r\n\r\nSec-Websocket-: c";
        let repaired =
            as_usually_written(answer.as_bytes()).map(|repaired| String::from_utf8(repaired).unwrap());
        let expected = "HTTP/1.1 101 X\r\nSec-WebSocket-Accept: a\r\nSec-WebSocket-Extensions: b\r\n\r\n\r\nSec-Websocket-: c";
        assert_eq!(repaired.as_deref(), Some(expected));
        assert_eq!(as_usually_written(b"HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(as_usually_written(b"\r\nSec-Websocket-Accept: a"), None);
    }
}
