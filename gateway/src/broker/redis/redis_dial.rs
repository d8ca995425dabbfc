//! Opens a connection to Redis: finds its present address, uses TLS and logs in.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisError, Value};
use rustls_pki_types::InvalidDnsNameError;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::access::Access;
use super::byte_stream::{CountingStream, RedisByteStream, connect};
use super::redis_address::RedisAddress;
use super::redis_config::RedisConfig;
use super::redis_keys::RedisKeys;
use super::redis_link::explain;
use super::server::Server;
use super::subscriptions::{Driver, ReceiveMessage, Subscriptions};
use super::supervise::ReconnectBackoff;
use crate::broker::{BrokerError, BrokerRefusal};
use crate::secret::SecretFileError;

/// The most commands that wait to be written. Further callers wait for a place, under their deadline.
const COMMANDS_WAITING_MAX: usize = 1024;

/// Opens all connections to a server in the same way.
pub(crate) struct RedisDialer {
    access: Arc<Access>,
    client_name: String,
    timeout: Duration,
    /// The keys that name the life of the data set. A cluster has none, and these may be in any slot.
    life: [String; 2],
    /// The address that was tried last.
    tried: Mutex<Option<Arc<RedisAddress>>>,
}

/// An open connection for commands. It is lost when `driver` ends.
pub(super) struct CommandConnection {
    pub(super) connection: MultiplexedConnection,
    pub(super) driver: AbortOnDropHandle<()>,
    /// The server at the other end.
    pub(super) server: Server,
    /// Grows with everything that arrives.
    pub(super) received: Arc<AtomicU64>,
    /// The address of the server.
    pub(super) at: Arc<RedisAddress>,
}

/// An open connection for subscriptions. It is lost when `driver` ends.
pub(super) struct PushConnection {
    pub(super) connection: Subscriptions,
    pub(super) driver: Driver,
    /// The server at the other end.
    pub(super) server: Server,
    /// The address of the server.
    pub(super) at: Arc<RedisAddress>,
}

/// An open connection for a part that reads what others keep in a Redis, and keeps nothing of the broker there.
pub(crate) struct PlainConnection {
    pub(crate) connection: MultiplexedConnection,
    at: Arc<RedisAddress>,
    _driver: AbortOnDropHandle<()>,
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
    #[error("the host is not a name that a certificate can have: {0}")]
    Name(#[from] InvalidDnsNameError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("{0}")]
    Refused(BrokerError),
    /// The address leads to a server that this project cannot use.
    #[error("{0}")]
    Unusable(&'static str),
    #[error("no connection within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the password cannot be read: {0}")]
    Password(#[from] SecretFileError),
    /// No Sentinel says which server is the master.
    #[error("{0}")]
    NoMaster(Arc<str>),
    /// The master that Sentinel names cannot be used. The last part says what else is wrong, or is empty.
    #[error("{0}, which Sentinel names as the master: {1}{2}")]
    Master(String, Box<Self>, String),
    /// Another server became the master while one was being tried.
    #[error("Sentinel names another master: {0}")]
    Moved(String),
}

impl RedisDialer {
    pub(super) fn new(config: &RedisConfig, access: &Arc<Access>, client_name: String) -> Self {
        let life = RedisKeys::names_of_life(&config.prefix);
        Self { access: access.clone(), client_name, timeout: config.timeout(), life, tried: Mutex::new(None) }
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns the address, or the Sentinels, for logs.
    pub(crate) fn place(&self) -> String {
        self.access.place.to_string()
    }

    /// Opens a connection for commands, or fails within the timeout.
    pub(super) async fn dial(&self) -> Result<CommandConnection, DialError> {
        self.reach(|at| async move { self.greet(self.connect(&at).await?, at).await }).await
    }

    /// Makes a dialer for a part other than the broker. If Sentinel names the master, it is asked from now on: must be
    /// called within a tokio runtime.
    pub(crate) fn of_another(config: &RedisConfig, client_name: String) -> Result<Self, DialError> {
        let access = Arc::new(Access::new(config, &client_name, &Arc::default())?);
        Ok(Self::new(config, &access, client_name))
    }

    /// Opens a connection for commands to a Redis that need not be the broker's, or fails within the timeout.
    pub(crate) async fn dial_plain(&self) -> Result<PlainConnection, DialError> {
        self.reach(|at| async move {
            // The callers keep the deadlines.
            let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
            let (connection, driver) = self.log_in(self.connect(&at).await?, config).await?;
            Ok(PlainConnection { connection, at, _driver: driver })
        })
        .await
    }

    /// Returns when the server of this connection is no longer the one to use, and says which one is. The old server may
    /// well go on answering.
    pub(crate) async fn moved_from(&self, plain: &PlainConnection) -> Arc<str> {
        self.moved(&plain.at).await
    }

    /// Opens a connection for subscriptions, or fails within the timeout.
    pub(super) async fn dial_subscriptions<R: ReceiveMessage>(
        &self,
        receiver: Arc<R>,
    ) -> Result<PushConnection, DialError> {
        self.reach(|at| async move {
            let (connection, driver) = Subscriptions::open(self.connect(&at).await?, receiver);
            let login = &self.access.login;
            connection.greet(login).await.map_err(DialError::Refused)?;
            if login.db() != 0 {
                let select = ["SELECT", &login.db().to_string()];
                connection.ask(&select).await.map_err(DialError::Refused)?;
            }
            // A managed Redis may forbid this. It is not essential.
            if let Err(error) = connection.ask(&["CLIENT", "SETNAME", &self.client_name]).await {
                tracing::debug!(%error, "Redis does not take a client name");
            }
            let server = connection.identify().await.map_err(DialError::Refused)?;
            let server = usable(server, self.access.in_cluster)?;
            Ok(PushConnection { connection, driver, server, at })
        })
        .await
    }

    /// Returns when the server at this address is no longer the one to use, and says which one is.
    pub(super) async fn moved(&self, from: &RedisAddress) -> Arc<str> {
        DialError::Moved(self.access.place.another_than(from).await.to_string()).to_string().into()
    }

    /// Pauses before the next attempt. If the server to use is another than the one tried last, the pause is short.
    pub(super) async fn rest(&self, pauses: &mut ReconnectBackoff) {
        let tried = self.tried.lock().clone();
        let another = async {
            match &tried {
                Some(tried) => drop(self.access.place.another_than(tried).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Polled first: a change that is known already must not be left to chance.
            biased;
            () = another => {
                pauses.begin_anew();
                tokio::time::sleep(pauses.next()).await;
            }
            () = tokio::time::sleep(pauses.next()) => {}
        }
    }

    /// Finds the address of the server and opens a connection there. Gives up as soon as the server is known to be elsewhere.
    async fn reach<T, F: Future<Output = Result<T, DialError>>>(
        &self,
        open: impl FnOnce(Arc<RedisAddress>) -> F,
    ) -> Result<T, DialError> {
        let deadline = Instant::now() + self.timeout;
        let place = &self.access.place;
        let found = tokio::time::timeout_at(deadline, place.address()).await;
        let at = found.unwrap_or_else(|_| Err(place.unknown_within(self.timeout)))?;
        *self.tried.lock() = Some(at.clone());
        let opening = tokio::time::timeout_at(deadline, open(at.clone()));
        tokio::select! {
            opened = opening => {
                let opened = opened.unwrap_or(Err(DialError::Timeout(self.timeout)));
                opened.map_err(|error| place.explain(&at, error))
            }
            another = place.another_than(&at) => Err(DialError::Moved(another.to_string())),
        }
    }

    async fn connect(&self, at: &RedisAddress) -> Result<Box<dyn RedisByteStream>, DialError> {
        connect(at, self.access.tls.as_ref()).await
    }

    /// Logs in over a new connection, and names it.
    async fn log_in(
        &self,
        stream: impl RedisByteStream + 'static,
        config: AsyncConnectionConfig,
    ) -> Result<(MultiplexedConnection, AbortOnDropHandle<()>), DialError> {
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(&self.access.login, stream, config).await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        let mut set_name = redis::cmd("CLIENT");
        set_name.arg("SETNAME").arg(&self.client_name);
        // A managed Redis may forbid this. It is not essential.
        if let Err(error) = set_name.query_async::<Value>(&mut connection).await {
            tracing::debug!(%error, "Redis does not take a client name");
        }
        Ok((connection, driver))
    }

    async fn greet(
        &self,
        stream: Box<dyn RedisByteStream>,
        at: Arc<RedisAddress>,
    ) -> Result<CommandConnection, DialError> {
        // The callers keep the deadlines, for each call as a whole.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(COMMANDS_WAITING_MAX);
        let received = Arc::new(AtomicU64::new(0));
        let stream = CountingStream { stream, bytes: received.clone() };
        let (mut connection, driver) = self.log_in(stream, config).await?;
        let server = usable(identify(&mut connection).await?, self.access.in_cluster)?;
        // A Redis that is still loading its data answers INFO, but not GET.
        let [_, life] = &self.life;
        let read = redis::cmd("GET").arg(life).query_async::<Value>(&mut connection).await.map_err(explain);
        // Other refusals are reported by the calls that meet them.
        if let Err(error @ BrokerError::Refused { kind: BrokerRefusal::Loading, .. }) = read {
            return Err(DialError::Refused(error));
        }
        if !server.names_lives() {
            tracing::warn!(
                "the Redis user may not call INFO, so every connection begins new epochs, and clients are \
                 told that they may have missed publications although they have not: grant it with `ACL \
                 SETUSER … +info`"
            );
            // Everything written after this belongs to another life of the data set than what was before.
            let mut end_life = redis::cmd("DEL");
            end_life.arg(&self.life);
            end_life.query_async::<Value>(&mut connection).await?;
        }
        Ok(CommandConnection { connection, driver, server, received, at })
    }
}

fn usable(server: Server, in_cluster: bool) -> Result<Server, DialError> {
    match server.unusable(in_cluster) {
        Some(why) => Err(DialError::Unusable(why)),
        None => Ok(server),
    }
}

/// Identifies the server by INFO, or by HELLO if the user lacks the right to INFO.
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

/// Whether this user may not call a command, because a right is missing or the command is disabled.
pub(crate) fn is_for_want_of_a_right(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Refused { kind: BrokerRefusal::Rights | BrokerRefusal::UnknownCommand, .. })
}

impl CommandConnection {
    /// Returns when the connection is closed and nothing more can arrive on it.
    pub(super) async fn close(self) {
        self.driver.abort();
        // A driver that has ended may have been awaited already, and must not be polled again.
        if !self.driver.is_finished() {
            let _ = self.driver.await;
        }
    }
}

impl std::fmt::Debug for RedisDialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisDialer").field("place", &self.place()).finish_non_exhaustive()
    }
}
