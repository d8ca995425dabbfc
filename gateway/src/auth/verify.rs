//! Turns tokens into identities and grants, and says no with the right code.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use gateway_core::effect::{Denial, Grant, Identity};
use gateway_core::session::{Observe, Unobserved};
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::id::{ClientId, UserId};
use shared::moment::Moment;

use super::claims::{Claims, Untimely};
use super::config::Config;
use super::keys::KeySet;
use crate::clock::Clock;
use crate::secret::SecretFileError;
use crate::telemetry::Sparingly;

/// Longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 32 * 1024;

/// Checks the tokens of clients.
pub struct Authenticator {
    clock: Clock,
    connections: Option<KeySet>,
    subscriptions: Option<KeySet>,
    leeway_s: i64,
    allow_anonymous: bool,
    explain_refusals: bool,
    insecure: bool,
    refusals_told: Sparingly,
    observer: Arc<dyn Observe>,
}

impl Authenticator {
    pub fn new(config: &Config, clock: Clock) -> Result<Self, SecretFileError> {
        Ok(Self {
            clock,
            connections: KeySet::for_connections(config)?,
            subscriptions: KeySet::for_subscriptions(config)?,
            leeway_s: i64::try_from(config.leeway_s).unwrap_or(i64::MAX),
            allow_anonymous: config.allow_anonymous || config.insecure,
            explain_refusals: config.explain_refusals,
            insecure: config.insecure,
            refusals_told: Sparingly::default(),
            observer: Arc::new(Unobserved),
        })
    }

    /// Tells this what tokens ask for in vain.
    pub fn watched_by(self, observer: Arc<dyn Observe>) -> Self {
        Self { observer, ..self }
    }

    /// Whether every client may do everything: for development only.
    pub fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// Whether clients are told why they are refused: where things are tried out.
    pub fn explains(&self) -> bool {
        self.explain_refusals
    }

    /// Finds out who a client is. An empty token asks to be let in anonymously.
    pub fn authenticate(&self, now_unix_s: i64, token: &str) -> Result<Identity, Denial> {
        if token.is_empty() {
            return match self.allow_anonymous {
                true => Ok(Identity::default()),
                false => {
                    let reason = "it brings none, and auth.allow_anonymous is off";
                    Err(self.refuse("connection", &reason, Denial::Disconnect(Disconnect::BAD_REQUEST)))
                }
            };
        }
        let claims = open(&self.connections, now_unix_s, token).map_err(|reason| {
            self.refuse("connection", &reason, Denial::Disconnect(Disconnect::INVALID_TOKEN))
        })?;
        if claims.channel.is_some() {
            let reason = "it is a subscription token";
            return Err(self.refuse("connection", &reason, Denial::Disconnect(Disconnect::INVALID_TOKEN)));
        }
        let expires = self.expiry(&claims, now_unix_s)?;
        let info = claims.info().map_err(|()| {
            self.refuse(
                "connection",
                &"its info is no JSON, or nested too deep",
                Denial::Disconnect(Disconnect::INVALID_TOKEN),
            )
        })?;
        claims.unserved_in_connection().for_each(|what| self.observer.unserved(what));
        Ok(Identity { user: UserId::new(&claims.sub), info, expires, ..Identity::default() })
    }

    /// Finds out what a subscription token grants in a channel to a client.
    pub fn authorize(
        &self,
        now_unix_s: i64,
        client: ClientId,
        channel: &Channel,
        token: &str,
    ) -> Result<Grant, Denial> {
        let denied = Denial::of(ErrorCode::PermissionDenied);
        let claims = open(&self.subscriptions, now_unix_s, token)
            .map_err(|reason| self.refuse("subscription", &reason, denied.clone()))?;
        let Some(granted) = &claims.channel else {
            return Err(self.refuse("subscription", &"it names no channel", denied));
        };
        if **granted != *channel.as_str() {
            let reason = format_args!("it is for channel {granted:?}, not {channel}");
            return Err(self.refuse("subscription", &reason, Denial::Disconnect(Disconnect::INVALID_TOKEN)));
        }
        if claims.only_for().is_some_and(|only| ClientId::parse(only) != Some(client)) {
            let reason = "it is for another client";
            return Err(self.refuse("subscription", &reason, Denial::Disconnect(Disconnect::INVALID_TOKEN)));
        }
        let expires = self.expiry(&claims, now_unix_s)?;
        let info = claims
            .info()
            .map_err(|()| self.refuse("subscription", &"its info is no JSON, or nested too deep", denied))?;
        claims.unserved_in_subscription().for_each(|what| self.observer.unserved(what));
        Ok(Grant { user: UserId::new(&claims.sub), info, expires, ..Grant::default() })
    }

    /// The client learns only the code, unless this is a place to try things out. Who runs the gateway is told why, now
    /// and then, for anyone can bring tokens; the token itself is never shown.
    fn refuse(&self, kind: &str, reason: &dyn fmt::Display, mut refusal: Denial) -> Denial {
        match self.refusals_told.now() {
            Some(untold) => tracing::info!(kind, %reason, untold, "a token was refused"),
            None => tracing::debug!(kind, %reason, "a token was refused"),
        }
        if let Denial::Disconnect(disconnect) = &mut refusal
            && self.explain_refusals
        {
            *disconnect = disconnect.because(&reason.to_string());
        }
        refusal
    }

    fn expiry(&self, claims: &Claims, now_unix_s: i64) -> Result<Option<Moment>, Denial> {
        let end = claims.expires_at(now_unix_s, self.leeway_s).map_err(|untimely| {
            Denial::of(match untimely {
                Untimely::TokenExpired => ErrorCode::TokenExpired,
                Untimely::GrantExpired => ErrorCode::Expired,
            })
        })?;
        Ok(end.map(|end| {
            let left = u64::try_from(end.saturating_sub(now_unix_s)).unwrap_or(0);
            self.clock.now() + Duration::from_secs(left)
        }))
    }
}

// Keys redact themselves, but there is no need to rely on it.
impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("takes_tokens", &self.connections.is_some())
            .field("leeway_s", &self.leeway_s)
            .field("allow_anonymous", &self.allow_anonymous)
            .field("insecure", &self.insecure)
            .finish_non_exhaustive()
    }
}

fn open(keys: &Option<KeySet>, now_unix_s: i64, token: &str) -> Result<Claims, String> {
    let Some(keys) = keys else { return Err("no secret is configured (auth.hmac_secret)".to_owned()) };
    if token.len() > TOKEN_BYTES_MAX {
        return Err(format!("it is longer than {TOKEN_BYTES_MAX} bytes"));
    }
    keys.open(now_unix_s, token).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
