//! Reads from signed tokens (JWT, RFC 7519) who a client is and what it may subscribe to.

mod algorithm;
mod auth_config;
mod claims;
mod der;
mod envelope;
mod examine;
mod granted;
mod issue;
mod jwks;
mod public_key;
mod rules;
mod sign_token;
#[cfg(test)]
mod signed_elsewhere;
mod token_cli;
mod token_error;
mod token_keys;
mod utc;
mod verify;

pub use algorithm::Algorithm;
pub use auth_config::AuthConfig;
pub use issue::{IssueError, TokenRequest, issue};
pub use token_cli::{TokenArgs, command};
pub use token_keys::KeyError;
pub use verify::{Authenticator, TokenVerdict};

/// The content and the grants of claims at a given moment, for [`crate::readers`].
#[derive(PartialEq, Debug)]
pub struct ReadClaims {
    pub words: String,
    /// When the grant ends, in seconds since 1970, if it has not ended and ever does.
    pub expires_at: Option<i64>,
    /// The JSON shown to others.
    pub info: Option<bytes::Bytes>,
}

pub(crate) fn read_claims(now_unix_s: i64, claims: &[u8]) -> Result<ReadClaims, String> {
    let claims: claims::TokenClaims = serde_json::from_slice(claims).map_err(|error| error.to_string())?;
    let (end, info) = (claims.expires_at(now_unix_s, 0), claims.info());
    let granted = (claims.server_subscriptions(), claims.meta(), claims.capabilities());
    let subscribed = (claims.data(), claims.overrides(), claims.allow());
    let words = format!("{claims:?} {end:?} {info:?} {granted:?} {subscribed:?}");
    Ok(ReadClaims { words, expires_at: end.unwrap_or_default(), info: info.unwrap_or_default() })
}

/// Returns the names of the keys in a set that an issuer publishes.
pub(crate) fn read_key_set(json: &[u8]) -> Result<Vec<String>, String> {
    jwks::names_in(json)
}

/// Returns how many public keys a text holds.
pub(crate) fn read_public_keys(pem: &str) -> Result<usize, String> {
    token_keys::public_keys(pem, None).map(|keys| keys.len()).map_err(|error| error.to_string())
}
