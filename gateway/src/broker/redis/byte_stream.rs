//! The byte stream to a server: the connection, TLS on it, and a count of the bytes that arrive.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::redis_address::RedisAddress;
use super::redis_dial::DialError;

/// The kernel probes a silent peer after this time, and again in these steps.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_STEP: Duration = Duration::from_secs(5);

/// Bytes to and from Redis, whatever carries them.
pub(super) trait RedisByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> RedisByteStream for S {}

/// Returns the name expected in the server's certificate, if the address uses TLS.
pub(super) fn name_in_certificate(address: &RedisAddress) -> Result<Option<ServerName<'static>>, DialError> {
    match address {
        RedisAddress::Tcp { host, tls: true, .. } => Ok(Some(ServerName::try_from(host.clone())?)),
        _ => Ok(None),
    }
}

/// Connects. The caller keeps the deadline.
pub(super) async fn connect(
    address: &RedisAddress,
    tls: Option<&TlsConnector>,
) -> Result<Box<dyn RedisByteStream>, DialError> {
    Ok(match address {
        RedisAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
        RedisAddress::Tcp { host, port, .. } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_STEP);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            match (name_in_certificate(address)?, tls) {
                (Some(name), Some(connector)) => Box::new(connector.connect(name, stream).await?),
                _ => Box::new(stream),
            }
        }
    })
}

/// Counts the bytes read from a stream.
#[derive(Debug)]
pub(super) struct CountingStream<S> {
    pub(super) stream: S,
    pub(super) bytes: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for CountingStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.bytes.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountingStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_is_read_is_counted() {
        let bytes = Arc::new(AtomicU64::new(0));
        let mut received = CountingStream { stream: &b"+PONG\r\n"[..], bytes: bytes.clone() };
        received.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(bytes.load(Ordering::Relaxed), 7);
    }
}
