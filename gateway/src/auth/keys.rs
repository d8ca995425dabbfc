//! The secrets that tokens are signed with, ready for use.

use std::path::Path;

use super::claims::Claims;
use super::config::Config;
use super::envelope::{EnvelopeError, Key};
use crate::secret::{Secret, SecretFileError};

/// The secrets of one kind of token, and what else must be right about it.
pub(super) struct KeySet {
    current: Key,
    previous: Option<Previous>,
    /// Empty: any will do.
    audience: Box<str>,
    /// Empty: any will do.
    issuer: Box<str>,
}

struct Previous {
    key: Key,
    /// Seconds since 1970; 0 for ever.
    until: i64,
}

/// Why a token is not accepted, worded for who runs the gateway.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error("it is not for the audience in auth.audience")]
    Audience,
    #[error("it is not by the issuer in auth.issuer")]
    Issuer,
}

impl KeySet {
    /// For connection tokens. `None` without a secret.
    pub(super) fn for_connections(config: &Config) -> Result<Option<Self>, SecretFileError> {
        let secret = connection_secret(config)?;
        Ok((!secret.is_empty()).then(|| Self::new(&secret, previous(config), config)))
    }

    /// For subscription tokens: the same secrets, unless they have one of their own.
    pub(super) fn for_subscriptions(config: &Config) -> Result<Option<Self>, SecretFileError> {
        let secret =
            secret(&config.subscription_hmac_secret, config.subscription_hmac_secret_file.as_deref())?;
        if secret.is_empty() {
            return Self::for_connections(config);
        }
        Ok(Some(Self::new(&secret, None, config)))
    }

    fn new(secret: &Secret, previous: Option<Previous>, config: &Config) -> Self {
        Self {
            current: Key::new(secret, &config.algorithms),
            previous,
            audience: config.audience.clone(),
            issuer: config.issuer.clone(),
        }
    }

    /// The claims of a token that one of the secrets has signed. Its times are not looked at.
    pub(super) fn open(&self, now: i64, token: &str) -> Result<Claims, TokenError> {
        let claims = self.verified(now, token)?;
        // A token that does not say who it is for, or by whom, is refused where that is asked.
        if !self.audience.is_empty() && !claims.is_for(&self.audience) {
            return Err(TokenError::Audience);
        }
        if !self.issuer.is_empty() && !claims.is_by(&self.issuer) {
            return Err(TokenError::Issuer);
        }
        Ok(claims)
    }

    fn verified(&self, now: i64, token: &str) -> Result<Claims, EnvelopeError> {
        match (self.current.open(token), &self.previous) {
            (Err(EnvelopeError::Signature), Some(previous))
                if previous.until == 0 || now < previous.until =>
            {
                previous.key.open(token)
            }
            (opened, _) => opened,
        }
    }
}

pub(super) fn connection_secret(config: &Config) -> Result<Secret, SecretFileError> {
    secret(&config.hmac_secret, config.hmac_secret_file.as_deref())
}

pub(super) fn subscription_secret(config: &Config) -> Result<Secret, SecretFileError> {
    let own = secret(&config.subscription_hmac_secret, config.subscription_hmac_secret_file.as_deref())?;
    if own.is_empty() { connection_secret(config) } else { Ok(own) }
}

fn previous(config: &Config) -> Option<Previous> {
    (!config.previous_hmac_secret.is_empty()).then(|| Previous {
        key: Key::new(&config.previous_hmac_secret, &config.algorithms),
        until: config.previous_hmac_secret_until,
    })
}

/// The secret as configured, or out of its file.
fn secret(given: &Secret, file: Option<&Path>) -> Result<Secret, SecretFileError> {
    file.map_or_else(|| Ok(given.clone()), Secret::from_file)
}
