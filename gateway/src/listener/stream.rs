//! A client's connection while HTTP is spoken on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::connection::open::Socket;

#[derive(Debug)]
pub(crate) enum Stream {
    /// What was read already comes first.
    Plain(TcpStream, Bytes),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// A plain socket, of which so much has been read already.
    pub(crate) fn plain(stream: TcpStream, read: Bytes) -> Self {
        Self::Plain(stream, read)
    }

    /// Takes the socket away from tokio, for a worker's own poll.
    pub(crate) fn into_socket(self) -> io::Result<Socket> {
        match self {
            // Whoever speaks HTTP has taken what was read before.
            Self::Plain(stream, _) => Ok(Socket::Plain(stream.into_std()?)),
            Self::Tls(stream) => {
                let (stream, tls) = stream.into_inner();
                Ok(Socket::Tls(stream.into_std()?, Box::new(tls)))
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_, read) if !read.is_empty() => {
                let some = read.split_to(read.len().min(buffer.remaining()));
                buffer.put_slice(&some);
                Poll::Ready(Ok(()))
            }
            Self::Plain(stream, _) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream, _) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream, _) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream, _) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
