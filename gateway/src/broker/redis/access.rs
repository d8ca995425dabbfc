//! How to reach a server: its present address, TLS and the login.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::{ProtocolVersion, RedisConnectionInfo};
use tokio_rustls::TlsConnector;

use super::mode::RedisMode;
use super::redis_address::{self, RedisAddress};
use super::redis_config::RedisConfig;
use super::redis_dial::DialError;
use super::sentinel::Sentinels;
use super::{byte_stream, redis_tls};
use crate::broker::measure::BrokerMetrics;
use crate::secret::Secret;

/// Shared by all connections to one server.
pub(crate) struct Access {
    pub(super) place: ServerPlace,
    pub(super) login: RedisConnectionInfo,
    pub(super) tls: Option<TlsConnector>,
    /// Whether the server must be a node of a cluster.
    pub(super) in_cluster: bool,
}

/// The location of a server.
#[derive(Debug)]
pub(super) enum ServerPlace {
    Fixed(Arc<RedisAddress>),
    /// The master that the Sentinels name.
    Named(Sentinels),
}

impl Access {
    /// `name` is the name of connections to Sentinels. If there are any, they are asked from now on: must be called
    /// within a tokio runtime.
    pub(super) fn new(
        config: &RedisConfig,
        name: &str,
        metrics: &Arc<BrokerMetrics>,
    ) -> Result<Self, DialError> {
        match config.mode {
            RedisMode::Single => {
                let (address, from_url) = redis_address::parse(&config.url)?;
                let login = match &config.password_file {
                    None => from_url,
                    Some(file) => login(&config.user, &config.password, Some(file))?.set_db(from_url.db()),
                };
                let tls = match byte_stream::name_in_certificate(&address)? {
                    Some(_) => Some(redis_tls::connector(config)?),
                    None => None,
                };
                Ok(Self { place: ServerPlace::Fixed(Arc::new(address)), login, tls, in_cluster: false })
            }
            RedisMode::Sentinel => {
                let tls = config.tls.then(|| redis_tls::connector(config)).transpose()?;
                let login = login(&config.user, &config.password, config.password_file.as_deref())?;
                let login = login.set_db(config.database.into());
                let sentinels = Sentinels::start(config, (&login, tls.as_ref()), name, metrics)?;
                Ok(Self { place: ServerPlace::Named(sentinels), login, tls, in_cluster: false })
            }
            RedisMode::Shards | RedisMode::Cluster => {
                let [address] = &config.addresses[..] else {
                    return Err(DialError::Url("one server of several must have exactly one address".into()));
                };
                let (host, port) = redis_address::host_and_port(address)
                    .map_err(|problem| DialError::Url(problem.into()))?;
                let address = RedisAddress::Tcp { host, port, tls: config.tls };
                let tls = match byte_stream::name_in_certificate(&address)? {
                    Some(_) => Some(redis_tls::connector(config)?),
                    None => None,
                };
                let login = login(&config.user, &config.password, config.password_file.as_deref())?;
                let login = login.set_db(config.database.into());
                let in_cluster = config.mode == RedisMode::Cluster;
                Ok(Self { place: ServerPlace::Fixed(Arc::new(address)), login, tls, in_cluster })
            }
        }
    }
}

/// Returns the login for a user and a password. Without a password, nodes do not log in.
pub(super) fn login(
    user: &str,
    password: &Secret,
    file: Option<&Path>,
) -> Result<RedisConnectionInfo, DialError> {
    let password = match file {
        Some(file) => Secret::from_file(file)?,
        None => password.clone(),
    };
    let mut login =
        RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    if !user.is_empty() {
        login = login.set_username(user);
    }
    if !password.is_empty() {
        login = login.set_password(password.reveal());
    }
    Ok(login)
}

impl ServerPlace {
    /// Returns the present address. Waits for the first answer of the Sentinels; the caller keeps the deadline.
    pub(super) async fn address(&self) -> Result<Arc<RedisAddress>, DialError> {
        match self {
            Self::Fixed(address) => Ok(address.clone()),
            Self::Named(sentinels) => sentinels.master().await.map_err(DialError::NoMaster),
        }
    }

    /// Returns when the server is known to be at another address, with that address.
    pub(super) async fn another_than(&self, address: &RedisAddress) -> Arc<RedisAddress> {
        match self {
            Self::Fixed(_) => std::future::pending().await,
            Self::Named(sentinels) => sentinels.another_than(address).await,
        }
    }

    /// Returns the error when the address has not become known within this time.
    pub(super) fn unknown_within(&self, time: Duration) -> DialError {
        match self {
            Self::Fixed(_) => DialError::Timeout(time),
            Self::Named(_) => {
                let why = format!("too few Sentinels have answered within {} ms", time.as_millis());
                DialError::NoMaster(why.into())
            }
        }
    }

    /// Explains an error at this address to whoever must act.
    pub(super) fn explain(&self, at: &RedisAddress, error: DialError) -> DialError {
        match self {
            Self::Fixed(_) => error,
            Self::Named(sentinels) => {
                let trouble = sentinels.trouble().map(|trouble| format!("; {trouble}"));
                DialError::Master(at.to_string(), Box::new(error), trouble.unwrap_or_default())
            }
        }
    }
}

impl fmt::Display for ServerPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(address) => address.fmt(f),
            Self::Named(sentinels) => sentinels.fmt(f),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("place", &self.place).finish_non_exhaustive()
    }
}
