//! Opening one connection to Redis: where it is, TLS, who we are.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisConnectionInfo, RedisError, Value};
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::address::{Address, parse};
use super::config::Config;
use super::keys::Keys;
use super::link::explain;
use super::server::Server;
use super::subscriptions::{Driver, Receive, Subscriptions};
use super::tls;
use crate::broker::{BrokerError, Refusal};

/// Commands that wait to be written at once; whoever has one more waits for a place, under its deadline.
const COMMANDS_WAITING_MAX: usize = 1024;

/// The kernel asks a silent peer after this time, and again in these steps, whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_STEP: Duration = Duration::from_secs(5);

/// Knows how to open connections, and opens them alike.
pub(crate) struct Dialer {
    address: Address,
    login: RedisConnectionInfo,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    client_name: String,
    timeout: Duration,
    /// The keys that name the life of the data set.
    life: [Arc<str>; 2],
}

/// Bytes to and from Redis, whatever carries them.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// An open connection for commands. It is lost when `driver` ends.
pub(super) struct Dialed {
    pub(super) connection: MultiplexedConnection,
    pub(super) driver: AbortOnDropHandle<()>,
    /// What is at its other end.
    pub(super) server: Server,
    /// Grows with whatever arrives.
    pub(super) heard: Arc<AtomicU64>,
}

/// Why no connection could be opened. Never holds the password.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("the URL cannot be used: {0}")]
    Url(String),
    #[error("the certificate authorities cannot be read: {0}")]
    Authorities(String),
    #[error("the client's certificate cannot be used: {0}")]
    Identity(String),
    #[error("the host is no name that a certificate can have: {0}")]
    Name(#[from] InvalidDnsNameError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("{0}")]
    Refused(BrokerError),
    /// The address leads to something that this project cannot use.
    #[error("{0}")]
    Unusable(&'static str),
    #[error("no connection within {} ms", .0.as_millis())]
    Timeout(Duration),
}

impl Dialer {
    pub(crate) fn new(config: &Config, client_name: String) -> Result<Self, DialError> {
        let (address, login) = parse(&config.url)?;
        let tls = match &address {
            Address::Tcp { host, tls: true, .. } => {
                Some((tls::connector(config)?, ServerName::try_from(host.clone())?))
            }
            _ => None,
        };
        let life = Keys::new(&config.prefix, login.db()).life().clone();
        Ok(Self { address, login, tls, client_name, timeout: config.timeout(), life })
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Where Redis is looked for, for logs.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Opens a connection for commands, or fails within the timeout.
    pub(super) async fn dial(&self) -> Result<Dialed, DialError> {
        let dialing = async { self.greet(self.connect().await?).await };
        tokio::time::timeout(self.timeout, dialing).await.unwrap_or(Err(DialError::Timeout(self.timeout)))
    }

    /// Opens a connection for subscriptions, or fails within the timeout.
    pub(super) async fn dial_subscriptions<R: Receive>(
        &self,
        receiver: Arc<R>,
    ) -> Result<(Subscriptions, Driver, Server), DialError> {
        let dialing = async {
            let (subscriptions, driver) = Subscriptions::open(self.connect().await?, receiver);
            let mut hello = vec!["HELLO", "3"];
            if let Some(password) = self.login.password() {
                hello.extend(["AUTH", self.login.username().unwrap_or("default"), password]);
            }
            subscriptions.ask(&hello).await.map_err(DialError::Refused)?;
            if self.login.db() != 0 {
                subscriptions
                    .ask(&["SELECT", &self.login.db().to_string()])
                    .await
                    .map_err(DialError::Refused)?;
            }
            // A managed Redis may forbid it; it is not needed to go on.
            if let Err(error) = subscriptions.ask(&["CLIENT", "SETNAME", &self.client_name]).await {
                tracing::debug!(%error, "Redis does not take a client name");
            }
            let server = usable(subscriptions.identify().await.map_err(DialError::Refused)?)?;
            Ok((subscriptions, driver, server))
        };
        tokio::time::timeout(self.timeout, dialing).await.unwrap_or(Err(DialError::Timeout(self.timeout)))
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, DialError> {
        Ok(match &self.address {
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Address::Tcp { host, port, .. } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_STEP);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                match &self.tls {
                    Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
                    None => Box::new(stream),
                }
            }
        })
    }

    async fn greet(&self, stream: Box<dyn Stream>) -> Result<Dialed, DialError> {
        // Deadlines are set by those who wait, for each call as a whole.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(COMMANDS_WAITING_MAX);
        let heard = Arc::new(AtomicU64::new(0));
        let stream = Heard { stream, bytes: heard.clone() };
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(&self.login, stream, config).await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        let mut set_name = redis::cmd("CLIENT");
        set_name.arg("SETNAME").arg(&self.client_name);
        // A managed Redis may forbid it; it is not needed to go on.
        if let Err(error) = set_name.query_async::<Value>(&mut connection).await {
            tracing::debug!(%error, "Redis does not take a client name");
        }
        let server = usable(identify(&mut connection).await?)?;
        // INFO is answered by one that does nothing else yet.
        let [_, life] = &self.life;
        let read =
            redis::cmd("GET").arg(&**life).query_async::<Value>(&mut connection).await.map_err(explain);
        // Other refusals are told by whoever needs what is refused.
        if let Err(error @ BrokerError::Refused { kind: Refusal::Loading, .. }) = read {
            return Err(DialError::Refused(error));
        }
        if !server.names_lives() {
            tracing::warn!(
                "this user may not call INFO, so every connection begins new epochs: clients are told that they may \
                 have missed something where they have not. `ACL SETUSER … +info` helps"
            );
            // What is written after this is in another life of the data set than whatever was before.
            let mut end_life = redis::cmd("DEL");
            end_life.arg(&*self.life[0]).arg(&*self.life[1]);
            end_life.query_async::<Value>(&mut connection).await?;
        }
        Ok(Dialed { connection, driver, server, heard })
    }
}

fn usable(server: Server) -> Result<Server, DialError> {
    match server.unusable() {
        Some(why) => Err(DialError::Unusable(why)),
        None => Ok(server),
    }
}

/// Asks what the server is: by INFO, and where that is forbidden by what everyone may ask.
pub(super) async fn identify(connection: &mut MultiplexedConnection) -> Result<Server, RedisError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("INFO").arg("server").cmd("INFO").arg("replication");
    let answers = connection.send_packed_commands(&pipeline, 0, 2).await?;
    match <[Value; 2]>::try_from(answers) {
        Ok([Value::ServerError(error), _] | [_, Value::ServerError(error)]) => {
            let error = RedisError::from(error);
            if !is_for_want_of_a_right(&explain(error.clone())) {
                return Err(error);
            }
            let hello = connection.send_packed_command(&redis::cmd("HELLO")).await?;
            Ok(Server::from_hello_value(&hello))
        }
        Ok([server, replication]) => {
            let (server, replication) =
                (String::from_redis_value(server)?, String::from_redis_value(replication)?);
            Ok(Server::from_info(&server, &replication))
        }
        Err(_) => Ok(Server::default()),
    }
}

/// Whether a command is kept from this user, in one way or the other.
pub(crate) fn is_for_want_of_a_right(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Refused { kind: Refusal::Rights | Refusal::UnknownCommand, .. })
}

/// Counts what is read from a stream.
struct Heard<S> {
    stream: S,
    bytes: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
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

impl Dialed {
    /// Returns when the connection is closed and nothing more comes out of it.
    pub(super) async fn close(self) {
        self.driver.abort();
        // One that has ended by itself may have been seen to, and must not be asked again.
        if !self.driver.is_finished() {
            let _ = self.driver.await;
        }
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_is_read_is_counted() {
        let bytes = Arc::new(AtomicU64::new(0));
        let mut heard = Heard { stream: &b"+PONG\r\n"[..], bytes: bytes.clone() };
        heard.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(bytes.load(Ordering::Relaxed), 7);
    }
}
