//! The section `auth`: which tokens are accepted, and who may come without one.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::secret::Secret;
use crate::setting::Faults;

/// As long as what the shortest signature is made of (RFC 7518 §3.2).
const SECRET_BYTES_MIN: usize = 32;

/// Past an hour of leeway, the lifetime that a token states means little.
const LEEWAY_S_MAX: u64 = 3_600;

#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The secret that signs connection tokens, shared with the application that issues them. At least 32 random
    /// bytes: a shorter one can be guessed from a single token. Empty: no token is accepted.
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
    /// Take secrets shorter than 32 bytes, too.
    pub allow_short_secrets: bool,
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
    /// For development only: tell clients why a token or a command closes their connection, as the reason of the close.
    pub explain_refusals: bool,
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
            allow_short_secrets: false,
            algorithms: vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512],
            audience: Box::default(),
            issuer: Box::default(),
            leeway_s: 0,
            allow_anonymous: false,
            explain_refusals: false,
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
        for (key, secret) in [
            ("hmac_secret", &self.hmac_secret),
            ("previous_hmac_secret", &self.previous_hmac_secret),
            ("subscription_hmac_secret", &self.subscription_hmac_secret),
        ] {
            if let Some(problem) = self.too_short(secret) {
                faults.add(key, problem);
            }
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

    /// What is wrong with a secret that was given, if it is too short to be one.
    pub fn too_short(&self, secret: &Secret) -> Option<String> {
        let length = secret.reveal().len();
        (1..SECRET_BYTES_MIN).contains(&length).then_some(()).filter(|()| !self.allow_short_secrets)?;
        Some(format!(
            "is {length} bytes long, and one shorter than {SECRET_BYTES_MIN} can be guessed from a token: take the output of \
             `openssl rand -hex 32`, or set auth.allow_short_secrets"
        ))
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
            allow_short_secrets: true,
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
            allow_short_secrets: true,
            ..Config::default()
        };
        let expected = ["hmac_secret_file", "previous_hmac_secret_until", "previous_hmac_secret_until"];
        assert_eq!(faulty_keys(&config), expected);
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_refused_unless_said_otherwise() {
        let secret = |length| Secret::new(&"x".repeat(length));
        let mut config = Config {
            hmac_secret: secret(31),
            previous_hmac_secret: secret(1),
            subscription_hmac_secret: secret(31),
            ..Config::default()
        };
        assert_eq!(faulty_keys(&config), ["hmac_secret", "previous_hmac_secret", "subscription_hmac_secret"]);
        config.allow_short_secrets = true;
        assert_eq!(faulty_keys(&config), Vec::<String>::new());
        let long = Config { hmac_secret: secret(32), ..Config::default() };
        assert_eq!(faulty_keys(&long), Vec::<String>::new());
    }
}
