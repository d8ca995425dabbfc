//! Makes tokens, for trying things out and for tests: `tidegate token`. Applications make their own.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::config::{Algorithm, Config};
use super::envelope::seal;
use super::keys::{connection_secret, subscription_secret};
use crate::secret::SecretFileError;

/// What a token should say.
#[derive(Clone, Debug, Default)]
pub struct TokenRequest {
    /// Empty: an anonymous one.
    pub user: String,
    /// Makes a subscription token for this channel; else it is a connection token.
    pub channel: Option<String>,
    /// How long it is valid. `None`: for ever.
    pub ttl: Option<Duration>,
    /// JSON shown to others.
    pub info: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("there is no secret to sign with: set auth.hmac_secret, or TIDEGATE_AUTH__HMAC_SECRET")]
    NoSecret,
    #[error("the info is no JSON: {0}")]
    Info(serde_json::Error),
    #[error(transparent)]
    SecretFile(#[from] SecretFileError),
    #[error("the token cannot be signed: {0}")]
    Sign(serde_json::Error),
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    iat: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    aud: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    iss: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a RawValue>,
}

/// Makes a token that a gateway of this configuration accepts.
pub fn issue(config: &Config, now_unix_s: i64, request: &TokenRequest) -> Result<String, IssueError> {
    let secret = match request.channel {
        Some(_) => subscription_secret(config)?,
        None => connection_secret(config)?,
    };
    if secret.is_empty() {
        return Err(IssueError::NoSecret);
    }
    let claims = Claims {
        sub: &request.user,
        channel: request.channel.as_deref(),
        exp: request.ttl.map(|ttl| now_unix_s.saturating_add_unsigned(ttl.as_secs())),
        iat: now_unix_s,
        aud: &config.audience,
        iss: &config.issuer,
        info: request.info.as_deref().map(serde_json::from_str).transpose().map_err(IssueError::Info)?,
    };
    let algorithm = config.algorithms.first().copied().unwrap_or(Algorithm::HS256);
    seal(&secret, algorithm, &claims).map_err(IssueError::Sign)
}

#[cfg(test)]
mod tests {
    use gateway_core::effect::Denial;
    use shared::channel::Channel;
    use shared::error::ErrorCode;
    use shared::id::ClientId;

    use super::super::Authenticator;
    use super::*;
    use crate::clock::Clock;
    use crate::secret::Secret;

    #[test]
    fn a_token_made_here_is_accepted_by_a_gateway_of_the_same_configuration() {
        let config = Config {
            hmac_secret: Secret::new("one"),
            subscription_hmac_secret: Secret::new("two"),
            algorithms: vec![Algorithm::HS512],
            audience: "tidegate".into(),
            issuer: "me".into(),
            ..Config::default()
        };
        let auth = Authenticator::new(&config, Clock::start()).unwrap();
        let mut request = TokenRequest {
            user: "alice".into(),
            ttl: Some(Duration::from_secs(60)),
            info: Some("{\"a\": 1}".into()),
            ..TokenRequest::default()
        };
        let token = issue(&config, 1_000, &request).unwrap();
        let identity = auth.authenticate(1_059, &token).unwrap();
        assert_eq!((identity.user.as_str(), identity.info.as_deref()), ("alice", Some(&b"{\"a\": 1}"[..])));
        assert_eq!(auth.authenticate(1_060, &token), Err(Denial::of(ErrorCode::TokenExpired)));

        request.channel = Some("$news".into());
        let token = issue(&config, 1_000, &request).unwrap();
        let channel = Channel::parse("$news", 255).unwrap();
        assert!(auth.authorize(1_000, ClientId::from_random(1), &channel, &token).is_ok());
    }

    #[test]
    fn what_cannot_be_signed_is_said() {
        let none = issue(&Config::default(), 0, &TokenRequest::default());
        assert!(matches!(none, Err(IssueError::NoSecret)));
        let config = Config { hmac_secret: Secret::new("one"), ..Config::default() };
        let request = TokenRequest { info: Some("{".into()), ..TokenRequest::default() };
        assert!(matches!(issue(&config, 0, &request), Err(IssueError::Info(_))));
    }
}
