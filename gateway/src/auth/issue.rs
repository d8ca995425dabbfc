//! Makes tokens, for trying things out and for tests: `tidegate token`. Applications make their own.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::algorithm::Algorithm;
use super::auth_config::AuthConfig;
use super::envelope::seal;
use super::sign_token::{SignError, SigningKey};
use crate::secret::{Secret, SecretFileError};

/// The requested content of a token.
#[derive(Clone, Debug, Default)]
pub struct TokenRequest {
    /// Empty: anonymous.
    pub user: String,
    /// Makes a subscription token for this channel. `None`: a connection token.
    pub channel: Option<String>,
    /// How long the token is valid. `None`: for ever.
    pub ttl: Option<Duration>,
    /// When the token's grant ends, in seconds since 1970, whatever `ttl` says; 0: never.
    pub expire_at: Option<i64>,
    /// JSON shown to others.
    pub info: Option<String>,
    /// JSON for the client, sent with the subscription. For subscription tokens.
    pub data: Option<String>,
    /// Channels that the server subscribes the client to. For connection tokens, as are the next three.
    pub channels: Vec<String>,
    /// The same with options for each channel, as a JSON object.
    pub subs: Option<String>,
    /// A JSON object for the application's own servers.
    pub meta: Option<String>,
    /// Capabilities, as a JSON list.
    pub caps: Option<String>,
    /// What the subscriber may do beside receiving: pub, prs, hst. For subscription tokens.
    pub allow: Vec<String>,
    /// In place of the audience that the configuration requires.
    pub audience: Option<String>,
    pub issuer: Option<String>,
    /// A file with the private key to sign with, in place of the configuration's secret.
    pub private_key_file: Option<PathBuf>,
    /// In place of the first accepted algorithm that fits the key.
    pub algorithm: Option<Algorithm>,
    /// The name of the key, for gateways that look keys up by name.
    pub kid: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error(
        "no secret to sign with: set auth.hmac_secret or TIDEGATE_AUTH__HMAC_SECRET, or use --private-key"
    )]
    NoSecret,
    #[error("the {0} is not JSON: {1}")]
    Json(&'static str, serde_json::Error),
    #[error("--{0} is only for {1} tokens")]
    Misplaced(&'static str, &'static str),
    #[error(transparent)]
    SecretFile(#[from] SecretFileError),
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// The claims, in the order in which they were added.
#[derive(Default)]
struct IssuedClaims<'a>(Vec<(&'a str, Box<RawValue>)>);

impl<'a> IssuedClaims<'a> {
    fn add_claim(&mut self, name: &'a str, value: &(impl Serialize + ?Sized)) -> Result<(), IssueError> {
        let value = to_raw_value(value).map_err(|error| IssueError::Json("claim", error))?;
        self.0.push((name, value));
        Ok(())
    }

    fn add_json_claim(&mut self, name: &'static str, json: Option<&String>) -> Result<(), IssueError> {
        if let Some(json) = json {
            let value: Box<RawValue> =
                serde_json::from_str(json).map_err(|error| IssueError::Json(name, error))?;
            self.0.push((name, value));
        }
        Ok(())
    }
}

impl Serialize for IssuedClaims<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Makes a token that a gateway of this configuration accepts, if the key is available.
pub fn issue(config: &AuthConfig, now_unix_s: i64, request: &TokenRequest) -> Result<String, IssueError> {
    refuse_misplaced(request)?;
    let key = match &request.private_key_file {
        Some(file) => SigningKey::from_pem(&Secret::from_file(file)?)?,
        None => SigningKey::Hmac(secret(config, request.channel.is_some())?),
    };
    let mut claims = IssuedClaims::default();
    claims.add_claim(&config.user_id_claim, &request.user)?;
    if let Some(channel) = &request.channel {
        claims.add_claim("channel", channel)?;
    }
    if let Some(ttl) = request.ttl {
        claims.add_claim("exp", &now_unix_s.saturating_add_unsigned(ttl.as_secs()))?;
    }
    if let Some(end) = request.expire_at {
        claims.add_claim("expire_at", &end)?;
    }
    claims.add_claim("iat", &now_unix_s)?;
    for (name, given, configured) in
        [("aud", &request.audience, &config.audience), ("iss", &request.issuer, &config.issuer)]
    {
        let text = given.as_deref().unwrap_or(configured);
        if !text.is_empty() {
            claims.add_claim(name, text)?;
        }
    }
    claims.add_json_claim("info", request.info.as_ref())?;
    claims.add_json_claim("data", request.data.as_ref())?;
    claims.add_json_claim("subs", request.subs.as_ref())?;
    claims.add_json_claim("meta", request.meta.as_ref())?;
    claims.add_json_claim("caps", request.caps.as_ref())?;
    for (name, list) in [("channels", &request.channels), ("allow", &request.allow)] {
        if !list.is_empty() {
            claims.add_claim(name, list)?;
        }
    }
    let algorithm = request.algorithm.unwrap_or_else(|| key.algorithm(&config.algorithms));
    Ok(seal(&key, algorithm, request.kid.as_deref(), &claims)?)
}

fn secret(config: &AuthConfig, is_for_subscription: bool) -> Result<Secret, IssueError> {
    let keys = match config.subscription_keys() {
        own if is_for_subscription && own.are_given() => own,
        _ => config.connection_keys(),
    };
    let secret = keys.secret.read()?;
    if secret.is_empty() { Err(IssueError::NoSecret) } else { Ok(secret) }
}

fn refuse_misplaced(request: &TokenRequest) -> Result<(), IssueError> {
    let is_subscription = request.channel.is_some();
    let of_subscriptions = [("data", request.data.is_some()), ("allow", !request.allow.is_empty())];
    let of_connections = [
        ("channels", !request.channels.is_empty()),
        ("subs", request.subs.is_some()),
        ("meta", request.meta.is_some()),
        ("caps", request.caps.is_some()),
    ];
    let (misplaced, kind): (&[_], _) =
        if is_subscription { (&of_connections, "connection") } else { (&of_subscriptions, "subscription") };
    match misplaced.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => Err(IssueError::Misplaced(name, kind)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::effect::Denial;
    use shared::channel::Channel;
    use shared::error::ErrorCode;
    use shared::id::ClientId;

    use super::super::{Authenticator, TokenVerdict};
    use super::*;
    use crate::clock::Clock;
    use crate::secret::Secret;

    #[test]
    fn a_token_made_here_is_accepted_by_a_gateway_of_the_same_configuration() {
        let config = AuthConfig {
            hmac_secret: Secret::new("one"),
            subscription_hmac_secret: Secret::new("two"),
            algorithms: vec![Algorithm::HS512],
            audience: "tidegate".into(),
            issuer: "me".into(),
            ..AuthConfig::default()
        };
        let auth = Authenticator::new(&config, Clock::start()).unwrap();
        let mut request = TokenRequest {
            user: "alice".into(),
            ttl: Some(Duration::from_secs(60)),
            info: Some("{\"a\": 1}".into()),
            ..TokenRequest::default()
        };
        let token = issue(&config, 1_000, &request).unwrap();
        let now = |verdict| match verdict {
            TokenVerdict::Now(result) => result,
            TokenVerdict::Later(_) => panic!("the key is there"),
        };
        let identity = now(auth.authenticate(1_059, &token)).unwrap();
        assert_eq!((identity.user.as_str(), identity.info.as_deref()), ("alice", Some(&b"{\"a\": 1}"[..])));
        assert_eq!(now(auth.authenticate(1_060, &token)), Err(Denial::of(ErrorCode::TokenExpired)));

        request.channel = Some("$news".into());
        let token = issue(&config, 1_000, &request).unwrap();
        let channel = Channel::parse("$news", 255).unwrap();
        let granted = auth.authorize(1_000, ClientId::from_random(1), &channel, &token);
        assert!(matches!(granted, TokenVerdict::Now(Ok(_))));
    }

    #[test]
    fn what_cannot_be_signed_is_said() {
        let none = issue(&AuthConfig::default(), 0, &TokenRequest::default());
        assert!(matches!(none, Err(IssueError::NoSecret)));
        let config = AuthConfig { hmac_secret: Secret::new("one"), ..AuthConfig::default() };
        let request = TokenRequest { info: Some("{".into()), ..TokenRequest::default() };
        assert!(matches!(issue(&config, 0, &request), Err(IssueError::Json("info", _))));
        let request = TokenRequest { allow: vec!["pub".to_owned()], ..TokenRequest::default() };
        assert!(matches!(issue(&config, 0, &request), Err(IssueError::Misplaced("allow", "subscription"))));
        let algorithm = Some(Algorithm::RS256);
        let request = TokenRequest { algorithm, ..TokenRequest::default() };
        assert!(matches!(issue(&config, 0, &request), Err(IssueError::Sign(SignError::Algorithm { .. }))));
    }
}
