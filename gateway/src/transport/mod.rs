//! Transports move bytes without waiting: over a plain socket, over one with TLS, or through a pipe to a task.

use std::io::{self, IoSlice, Read, Write};

use bytes::BytesMut;
use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

pub(crate) mod direct;
pub(crate) mod encodings;
mod send_batch;
pub(crate) mod task_pipe;
mod tls_stream;

pub(crate) use direct::Direct;
pub(crate) use send_batch::{SendBatch, TOGETHER_MAX};
pub(crate) use task_pipe::{PipeStream, Wake};
pub(crate) use tls_stream::TlsStream;

use task_pipe::Attached;

/// The name of HTTP/2 in TLS protocol negotiation (RFC 9113 §3.2).
pub(crate) const ALPN_HTTP2: &[u8] = b"h2";

/// A client's socket on its way to a worker, not registered with any poll.
#[derive(Debug)]
pub(crate) enum IncomingSocket {
    Plain(std::net::TcpStream),
    Tls(std::net::TcpStream, Box<rustls::ServerConnection>),
    /// A pipe to a task that has the socket.
    Handed(PipeStream),
}

/// The byte stream of one client.
#[derive(Debug)]
pub(crate) enum ClientStream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
    Handed(PipeStream),
}

impl From<IncomingSocket> for ClientStream {
    fn from(socket: IncomingSocket) -> Self {
        match socket {
            IncomingSocket::Handed(handed) => Self::Handed(handed),
            IncomingSocket::Plain(socket) => Self::Plain(TcpStream::from_std(socket)),
            IncomingSocket::Tls(socket, tls) => {
                Self::Tls(Box::new(TlsStream::new(TcpStream::from_std(socket), *tls)))
            }
        }
    }
}

impl ClientStream {
    /// Returns the permission for a fan-out to send past this object, to be dropped before it. `None` if bytes must pass
    /// through it.
    pub(crate) fn direct(&self) -> Option<Direct> {
        match self {
            Self::Plain(socket) => Some(Direct::of(socket)),
            Self::Tls(_) | Self::Handed(_) => None,
        }
    }

    /// Reads bytes. `Ok(0)` is the end of the stream.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::Handed(stream) => stream.read(buffer),
        }
    }

    /// Whether a read of `count` bytes into `room` has left nothing to read. A socket that returns less than was asked for
    /// is empty, and its next edge is still to come (epoll(7)). TLS returns a record at a time.
    pub(crate) fn is_drained_by(&self, count: usize, room: usize) -> bool {
        matches!(self, Self::Plain(_)) && count < room
    }

    /// Writes bytes. Returns the bytes taken: by the kernel for a plain socket, by the pipe for a task, and by rustls under
    /// TLS, where [`ClientStream::flush`] is to be called after the last write.
    pub(crate) fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match (self, slices) {
            // Cheaper for the kernel than a list of one.
            (Self::Plain(socket), [one]) => socket.write(one),
            (Self::Plain(socket), _) => socket.write_vectored(slices),
            (Self::Tls(stream), _) => stream.write_vectored(slices),
            (Self::Handed(stream), _) => stream.write_vectored(slices),
        }
    }

    /// Writes the bytes that the transport itself holds. Returns whether none are left.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Plain(_) | Self::Handed(_) => Ok(true),
            Self::Tls(stream) => stream.flush(),
        }
    }

    /// Returns how many bytes the kernel has taken since the last call. `written` of them were written to this stream.
    pub(crate) fn take_sent(&mut self, written: usize) -> usize {
        match self {
            Self::Plain(_) | Self::Handed(_) => written,
            Self::Tls(stream) => stream.take_sent(),
        }
    }

    /// Has the kernel take no more while this many of its bytes are unsent, because values there cannot be superseded by
    /// newer ones. If that fails, the connection works as before.
    pub(crate) fn keep_little_unsent(&self, bytes: u32) {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.socket_ref(),
            Self::Handed(_) => return,
        };
        let _ = socket2::SockRef::from(socket).set_tcp_notsent_lowat(bytes);
    }

    /// Ends the writing side.
    pub(crate) fn shut_down_writing(&mut self) {
        // The peer may be gone already, and then there is nobody to tell.
        let _ = match self {
            Self::Plain(socket) => socket.shutdown(std::net::Shutdown::Write),
            Self::Tls(stream) => stream.shut_down_writing(),
            Self::Handed(stream) => {
                stream.end();
                Ok(())
            }
        };
    }

    /// Ends the stream. Called last before the socket is closed, which removes it from its poll and ends a plain stream.
    pub(crate) fn end(&mut self) {
        if matches!(self, Self::Tls(_)) {
            self.shut_down_writing();
        }
    }

    /// Returns the connection that replaces a pipe, once everything from the pipe is read.
    pub(crate) fn take_attached(&self) -> Option<Box<Attached>> {
        match self {
            Self::Handed(stream) => stream.take_attached(),
            Self::Plain(_) | Self::Tls(_) => None,
        }
    }

    /// Returns the bytes that were written to a pipe and not taken.
    pub(crate) fn take_back(&self) -> BytesMut {
        match self {
            Self::Handed(stream) => stream.take_back(),
            Self::Plain(_) | Self::Tls(_) => BytesMut::new(),
        }
    }

    /// Whether bytes may be buffered that the socket does not report.
    pub(crate) fn may_hold_bytes(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Handed(_))
    }

    /// Registers the stream, so that its worker is told of events: by the poll, or by `wake`.
    pub(crate) fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        wake: impl FnOnce() -> Wake,
    ) -> io::Result<()> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.socket(),
            Self::Handed(stream) => {
                stream.connect(wake());
                return Ok(());
            }
        };
        // Both interests from the start: edges are only reported on a change, and a socket that never blocks never becomes
        // writable again.
        socket.register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }
}
