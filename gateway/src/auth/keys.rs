//! The secrets that tokens are signed with, ready for use.

use std::path::Path;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{DecodingKey, Validation, decode};
use serde::de::DeserializeOwned;

use super::config::Config;
use crate::secret::{Secret, SecretFileError};

/// The secrets of one kind of token, and what else must be right about it.
pub(super) struct KeySet {
    current: DecodingKey,
    previous: Option<Previous>,
    validation: Validation,
}

struct Previous {
    key: DecodingKey,
    /// Seconds since 1970; 0 for ever.
    until: i64,
}

impl KeySet {
    /// For connection tokens. `None` without a secret.
    pub(super) fn for_connections(config: &Config) -> Result<Option<Self>, SecretFileError> {
        let secret = connection_secret(config)?;
        Ok((!secret.is_empty()).then(|| Self {
            current: key(&secret),
            previous: previous(config),
            validation: validation(config),
        }))
    }

    /// For subscription tokens: the same secrets, unless they have one of their own.
    pub(super) fn for_subscriptions(config: &Config) -> Result<Option<Self>, SecretFileError> {
        let secret =
            secret(&config.subscription_hmac_secret, config.subscription_hmac_secret_file.as_deref())?;
        if secret.is_empty() {
            return Self::for_connections(config);
        }
        Ok(Some(Self { current: key(&secret), previous: None, validation: validation(config) }))
    }

    /// The claims of a token that one of the secrets has signed. Its times are not looked at.
    pub(super) fn open<T: DeserializeOwned>(&self, now: i64, token: &str) -> Result<T, Error> {
        let refused = match open(token, &self.current, &self.validation) {
            Ok(claims) => return Ok(claims),
            Err(error) => error,
        };
        match &self.previous {
            Some(previous)
                if matches!(refused.kind(), ErrorKind::InvalidSignature)
                    && (previous.until == 0 || now < previous.until) =>
            {
                open(token, &previous.key, &self.validation)
            }
            _ => Err(refused),
        }
    }
}

fn open<T: DeserializeOwned>(token: &str, key: &DecodingKey, validation: &Validation) -> Result<T, Error> {
    let data = decode(token, key, validation)?;
    // Says that something must be understood which is not (RFC 7515 §4.1.11).
    if data.header.crit.is_some() {
        return Err(ErrorKind::InvalidToken.into());
    }
    Ok(data.claims)
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
        key: key(&config.previous_hmac_secret),
        until: config.previous_hmac_secret_until,
    })
}

fn key(secret: &Secret) -> DecodingKey {
    DecodingKey::from_secret(secret.reveal().as_bytes())
}

fn validation(config: &Config) -> Validation {
    let mut validation = Validation::new(jsonwebtoken::Algorithm::HS256);
    validation.algorithms = config.algorithms.iter().map(|&algorithm| algorithm.into()).collect();
    // Times are compared by the caller, with a time that it was given.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.required_spec_claims.clear();
    validation.validate_aud = !config.audience.is_empty();
    // A token that does not say who it is for, or by whom, is refused where that is asked.
    if !config.audience.is_empty() {
        validation.set_audience(&[&config.audience]);
        validation.required_spec_claims.insert("aud".to_owned());
    }
    if !config.issuer.is_empty() {
        validation.set_issuer(&[&config.issuer]);
        validation.required_spec_claims.insert("iss".to_owned());
    }
    validation
}

/// The secret as configured, or out of its file.
fn secret(given: &Secret, file: Option<&Path>) -> Result<Secret, SecretFileError> {
    file.map_or_else(|| Ok(given.clone()), Secret::from_file)
}
