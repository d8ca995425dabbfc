//! The section `auth`: which tokens are accepted, and who may come without one.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::secret::Secret;
use crate::setting::Faults;

/// Past an hour of leeway, the lifetime that a token states means little.
const LEEWAY_S_MAX: u64 = 3_600;

#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The secret that signs connection tokens, shared with the application that issues them. At least 32 random
    /// bytes. Empty: no token is accepted.
    pub hmac_secret: Secret,
    /// A file that holds the secret, in place of `hmac_secret`. White space around it is not part of it.
    pub hmac_secret_file: Option<PathBuf>,
    /// The secret before the present one: tokens signed with it stay valid while secrets are being changed.
    pub previous_hmac_secret: Secret,
    /// When the previous secret stops being accepted, in seconds since 1970. 0: never.
    pub previous_hmac_secret_until: i64,
    /// A secret for subscription tokens. Empty: that of connection tokens.
    pub subscription_hmac_secret: Secret,
    /// A file that holds it, in place of `subscription_hmac_secret`.
    pub subscription_hmac_secret_file: Option<PathBuf>,
    /// The signatures that are accepted.
    pub algorithms: Vec<Algorithm>,
    /// Tokens must be made for this audience (claim `aud`). Empty: for any.
    pub audience: Box<str>,
    /// Tokens must be made by this issuer (claim `iss`). Empty: by any.
    pub issuer: Box<str>,
    /// How far the clocks of issuers may be off, in seconds: a token is accepted so long before and after its time.
    pub leeway_s: u64,
    /// Let clients in without a token. They have no user, and may do what channels allow to anonymous clients.
    pub allow_anonymous: bool,
    /// For development only: let clients in without a token, and let every client do everything in every channel.
    pub insecure: bool,
}

/// How a token is signed (RFC 7518 §3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hmac_secret: Secret::default(),
            hmac_secret_file: None,
            previous_hmac_secret: Secret::default(),
            previous_hmac_secret_until: 0,
            subscription_hmac_secret: Secret::default(),
            subscription_hmac_secret_file: None,
            algorithms: vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512],
            audience: Box::default(),
            issuer: Box::default(),
            leeway_s: 0,
            allow_anonymous: false,
            insecure: false,
        }
    }
}

impl Config {
    pub fn check(&self, faults: &mut Faults) {
        if !self.hmac_secret.is_empty() && self.hmac_secret_file.is_some() {
            faults.add("hmac_secret_file", "must not be set together with hmac_secret");
        }
        if !self.subscription_hmac_secret.is_empty() && self.subscription_hmac_secret_file.is_some() {
            faults.add(
                "subscription_hmac_secret_file",
                "must not be set together with subscription_hmac_secret",
            );
        }
        let has_secret = !self.hmac_secret.is_empty() || self.hmac_secret_file.is_some();
        if !self.previous_hmac_secret.is_empty() && !has_secret {
            faults.add("previous_hmac_secret", "needs a present one: set hmac_secret");
        }
        if self.previous_hmac_secret_until != 0 && self.previous_hmac_secret.is_empty() {
            faults.add("previous_hmac_secret_until", "needs previous_hmac_secret");
        }
        if self.previous_hmac_secret_until < 0 {
            faults.add("previous_hmac_secret_until", "must be seconds since 1970");
        }
        if self.algorithms.is_empty() {
            faults.add("algorithms", "must name at least one of HS256, HS384, HS512");
        }
        faults.outside("leeway_s", self.leeway_s, 0..=LEEWAY_S_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty_keys(config: &Config) -> Vec<String> {
        let mut faults = Faults::default();
        config.check(&mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(faulty_keys(&Config::default()), Vec::<String>::new());
    }

    #[test]
    fn every_contradiction_is_told() {
        let config = Config {
            subscription_hmac_secret: Secret::new("a"),
            subscription_hmac_secret_file: Some("b".into()),
            previous_hmac_secret: Secret::new("old"),
            algorithms: vec![],
            leeway_s: 4_000,
            ..Config::default()
        };
        let expected = ["subscription_hmac_secret_file", "previous_hmac_secret", "algorithms", "leeway_s"];
        assert_eq!(faulty_keys(&config), expected);

        let config = Config {
            hmac_secret: Secret::new("a"),
            hmac_secret_file: Some("b".into()),
            previous_hmac_secret_until: -1,
            ..Config::default()
        };
        let expected = ["hmac_secret_file", "previous_hmac_secret_until", "previous_hmac_secret_until"];
        assert_eq!(faulty_keys(&config), expected);
    }
}
