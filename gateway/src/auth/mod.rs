//! Who a client is and what it may subscribe to, as signed tokens (JWT, RFC 7519) say.

mod claims;
mod command;
mod config;
mod envelope;
mod issue;
mod keys;
mod verify;

pub use command::{TokenArgs, command};
pub use config::{Algorithm, Config};
pub use issue::{IssueError, TokenRequest, issue};
pub use verify::Authenticator;

/// What claims say and grant at some moment, for [`crate::readers`].
#[derive(PartialEq, Debug)]
pub struct ReadClaims {
    pub words: String,
    /// When it ends, in seconds since 1970, if it has not ended and ever does.
    pub expires_at: Option<i64>,
    /// The JSON shown to others.
    pub info: Option<bytes::Bytes>,
}

pub(crate) fn read_claims(now_unix_s: i64, claims: &[u8]) -> Result<ReadClaims, String> {
    let claims: claims::Claims = serde_json::from_slice(claims).map_err(|error| error.to_string())?;
    let (end, info) = (claims.expires_at(now_unix_s, 0), claims.info());
    let words = format!("{claims:?} {end:?} {info:?}");
    Ok(ReadClaims { words, expires_at: end.unwrap_or_default(), info: info.unwrap_or_default() })
}
