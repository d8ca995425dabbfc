//! Makes the options of connections from the settings.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};

use super::nats_config::{NatsConfig, NatsConnectError, NatsLogin};
use crate::broker::redis::client_config;
use crate::secret::Secret;

/// The first pause before a connection is tried again is at most this long.
const PAUSE_FIRST: Duration = Duration::from_millis(20);

/// Makes the options of connections. Files are read once.
#[derive(Clone, Debug)]
pub(crate) struct NatsDialer {
    servers: Vec<ServerAddr>,
    login: NatsLogin,
    credentials: Option<Secret>,
    tls: Arc<rustls::ClientConfig>,
    config: NatsConfig,
}

impl NatsDialer {
    pub(crate) fn new(config: &NatsConfig) -> Result<Self, NatsConnectError> {
        let unusable = |problem: String| NatsConnectError(problem);
        let servers = config.url.read().map_err(|problem| unusable(format!("url {problem}")))?;
        let secret = |text: &Secret, file: &Option<std::path::PathBuf>| match file {
            Some(file) => Secret::from_file(file).map_err(|error| unusable(error.to_string())),
            None => Ok(text.clone()),
        };
        let password = secret(&config.password, &config.password_file)?;
        let token = secret(&config.token, &config.token_file)?;
        let login = if !config.user.is_empty() {
            NatsLogin::User(config.user.clone(), password.reveal().to_owned())
        } else if !token.is_empty() {
            NatsLogin::Token(token.reveal().to_owned())
        } else {
            servers.login
        };
        let credentials = config.credentials_file.as_deref().map(Secret::from_file).transpose();
        let credentials = credentials.map_err(|error| unusable(error.to_string()))?;
        let identity = config.client_cert_file.as_deref().zip(config.client_key_file.as_deref());
        let tls = client_config(config.ca_file.as_deref(), identity)
            .map_err(|error| unusable(error.to_string()))?;
        let dialer = Self {
            servers: servers.addresses,
            login,
            credentials,
            tls: Arc::new(tls),
            config: config.clone(),
        };
        // Reports a file without credentials now.
        dialer.options("tidegate")?;
        Ok(dialer)
    }

    pub(crate) fn servers(&self) -> Vec<ServerAddr> {
        self.servers.clone()
    }

    /// `name` is the name of the connection at the server.
    pub(crate) fn options(&self, name: &str) -> Result<ConnectOptions, NatsConnectError> {
        let options = match &self.login {
            NatsLogin::None => ConnectOptions::new(),
            NatsLogin::User(user, password) => {
                ConnectOptions::with_user_and_password(user.clone(), password.clone())
            }
            NatsLogin::Token(token) => ConnectOptions::with_token(token.clone()),
        };
        let options = match &self.credentials {
            // The error is dropped, because it may hold the secret. The library needs the line break at the end, which is
            // stripped when a secret is read.
            Some(credentials) => {
                options.credentials(&format!("{}\n", credentials.reveal())).map_err(|_| {
                    NatsConnectError(
                        "credentials_file must contain a JWT followed by the seed of an NKey".to_owned(),
                    )
                })?
            }
            None => options,
        };
        let longest = Duration::from_millis(self.config.reconnect_max_ms);
        Ok(options
            .name(name)
            .tls_client_config((*self.tls).clone())
            .connection_timeout(self.config.timeout())
            .request_timeout(Some(self.config.timeout()))
            .ping_interval(Duration::from_millis(self.config.ping_ms))
            .reconnect_delay_callback(move |attempts| pause(attempts, longest)))
    }
}

/// Returns a random pause, which grows with the number of attempts.
fn pause(attempts: usize, longest: Duration) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let doubled = u32::try_from(attempts - 2).unwrap_or(u32::MAX).min(16);
    (PAUSE_FIRST * 2_u32.pow(doubled)).min(longest).mul_f64(rand::random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let longest = Duration::from_millis(500);
        assert_eq!(pause(1, longest), Duration::ZERO);
        for attempts in [2, 3, 10, 100, usize::MAX] {
            assert!(pause(attempts, longest) <= longest, "{attempts}");
        }
        assert!(pause(100, longest) >= longest / 2);
    }
}
