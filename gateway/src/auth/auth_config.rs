//! The section `auth`: which tokens are accepted, and who may come without one.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::algorithm::{Algorithm, KeyFamily};
use super::token_keys::public_keys;
use crate::authorities::authorities;
use crate::fetch::DocumentSource;
use crate::secret::{Secret, SecretFileError};
use crate::setting::Faults;

/// The length of the shortest HMAC output (RFC 7518 §3.2).
const SECRET_BYTES_MIN: usize = 32;

/// Past an hour of leeway, the lifetime that a token states means little.
const LEEWAY_S_MAX: u64 = 3_600;

/// Bounds for how long a key is still accepted after its issuer has withdrawn it.
const JWKS_REFRESH_MS_MAX: u64 = 86_400_000;
/// A shorter interval burdens the server of the keys; a longer one keeps out clients whose token has a new key.
const JWKS_INTERVAL_MS: RangeInclusive<u64> = 100..=600_000;
const JWKS_TIMEOUT_MS: RangeInclusive<u64> = 100..=30_000;
const KEY_FILES_INTERVAL_MS: RangeInclusive<u64> = 1_000..=86_400_000;

/// Verification of the tokens that clients connect and subscribe with.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// The secret that signs connection tokens, shared with the application that issues them. At least 32 random
    /// bytes: a shorter secret can be guessed from a single token. Without a secret, a public key or a JWKS, no token
    /// is accepted.
    pub hmac_secret: Secret,
    /// A file that holds the secret. Replaces `hmac_secret`. White space around the secret is ignored.
    pub hmac_secret_file: Option<PathBuf>,
    /// The previous secret: tokens signed with it stay valid while the secret is rotated.
    pub previous_hmac_secret: Secret,
    /// A file that holds the previous secret. Replaces `previous_hmac_secret`.
    pub previous_hmac_secret_file: Option<PathBuf>,
    /// The time at which the previous secret stops being accepted, in seconds since 1970. 0: never.
    pub previous_hmac_secret_until: i64,
    /// The issuer's public RSA key in PEM (`BEGIN PUBLIC KEY`), 2048 bits or more, for RS256 to PS512. Several keys
    /// may follow each other.
    pub rsa_public_key: Box<str>,
    /// A file that holds the key. Replaces `rsa_public_key`.
    pub rsa_public_key_file: Option<PathBuf>,
    /// The issuer's public elliptic-curve key in PEM: P-256 for ES256, or P-384 for ES384. Several keys may follow
    /// each other.
    pub ecdsa_public_key: Box<str>,
    /// A file that holds the key. Replaces `ecdsa_public_key`.
    pub ecdsa_public_key_file: Option<PathBuf>,
    /// The issuer's public Ed25519 key in PEM, for EdDSA. Several keys may follow each other.
    pub ed25519_public_key: Box<str>,
    /// A file that holds the key. Replaces `ed25519_public_key`.
    pub ed25519_public_key_file: Option<PathBuf>,
    /// Previous public keys of any kind, in PEM: tokens signed with them stay valid while keys are rotated.
    pub previous_public_keys: Box<str>,
    /// A file that holds the previous keys. Replaces `previous_public_keys`.
    pub previous_public_keys_file: Option<PathBuf>,
    /// The time at which the previous public keys stop being accepted, in seconds since 1970. 0: never.
    pub previous_public_keys_until: i64,
    /// URL of the issuer's public keys (JWKS, RFC 7517), such as `https://login.example.org/.well-known/jwks.json`. A
    /// token names its key in `kid`.
    pub jwks_url: Box<str>,
    /// A separate secret for subscription tokens. If any `subscription_…` key is set, the keys of connection tokens
    /// do not verify subscription tokens.
    pub subscription_hmac_secret: Secret,
    /// A file that holds the secret. Replaces `subscription_hmac_secret`.
    pub subscription_hmac_secret_file: Option<PathBuf>,
    /// As `previous_hmac_secret`, for subscription tokens.
    pub subscription_previous_hmac_secret: Secret,
    /// A file that holds the previous secret. Replaces `subscription_previous_hmac_secret`.
    pub subscription_previous_hmac_secret_file: Option<PathBuf>,
    /// As `previous_hmac_secret_until`, for subscription tokens.
    pub subscription_previous_hmac_secret_until: i64,
    /// As `rsa_public_key`, for subscription tokens.
    pub subscription_rsa_public_key: Box<str>,
    /// A file that holds the key. Replaces `subscription_rsa_public_key`.
    pub subscription_rsa_public_key_file: Option<PathBuf>,
    /// As `ecdsa_public_key`, for subscription tokens.
    pub subscription_ecdsa_public_key: Box<str>,
    /// A file that holds the key. Replaces `subscription_ecdsa_public_key`.
    pub subscription_ecdsa_public_key_file: Option<PathBuf>,
    /// As `ed25519_public_key`, for subscription tokens.
    pub subscription_ed25519_public_key: Box<str>,
    /// A file that holds the key. Replaces `subscription_ed25519_public_key`.
    pub subscription_ed25519_public_key_file: Option<PathBuf>,
    /// As `previous_public_keys`, for subscription tokens.
    pub subscription_previous_public_keys: Box<str>,
    /// A file that holds the previous keys. Replaces `subscription_previous_public_keys`.
    pub subscription_previous_public_keys_file: Option<PathBuf>,
    /// As `previous_public_keys_until`, for subscription tokens.
    pub subscription_previous_public_keys_until: i64,
    /// As `jwks_url`, for subscription tokens.
    pub subscription_jwks_url: Box<str>,
    /// The age at which fetched keys are fetched again, in milliseconds. If that fails, the old keys stay in use.
    pub jwks_refresh_ms: u64,
    /// The least time between two fetches, in milliseconds. A token with an unknown `kid` triggers a fetch, but not
    /// before this time has passed; until then such tokens are refused.
    pub jwks_interval_ms: u64,
    /// Time limit for a fetch, in milliseconds. Tokens that need the fetched keys wait for it.
    pub jwks_timeout_ms: u64,
    /// Allows `http://` in `jwks_url` if its host is on a loopback or private address.
    pub jwks_allow_http: bool,
    /// PEM file of the certificate authorities that verify the server of `jwks_url`. Not set: those of the operating
    /// system.
    pub jwks_ca_file: Option<PathBuf>,
    /// Interval at which key files are checked for changes, in milliseconds.
    pub key_files_interval_ms: u64,
    /// Accepts secrets shorter than 32 bytes.
    pub allow_short_secrets: bool,
    /// The signature algorithms that are accepted.
    pub algorithms: Vec<Algorithm>,
    /// The claim that holds the user's id.
    pub user_id_claim: Box<str>,
    /// The audience that tokens must be made for (claim `aud`). Empty: any.
    pub audience: Box<str>,
    /// The audience as a pattern, in which `*` stands for any text.
    pub audience_pattern: Box<str>,
    /// The issuer that tokens must come from (claim `iss`). Empty: any.
    pub issuer: Box<str>,
    /// The issuer as a pattern, in which `*` stands for any text.
    pub issuer_pattern: Box<str>,
    /// Tolerated clock difference to issuers, in seconds. A token is accepted this long before and after its period
    /// of validity.
    pub leeway_s: u64,
    /// Accepts clients without a token. They have no user, and channels' options for anonymous clients apply to them.
    pub allow_anonymous: bool,
    /// For development only: puts the reason why a token or a command closed the connection into the close reason.
    pub explain_refusals: bool,
    /// For development only: accepts clients without a token, and allows every client everything in every channel.
    pub insecure: bool,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            hmac_secret: Secret::default(),
            hmac_secret_file: None,
            previous_hmac_secret: Secret::default(),
            previous_hmac_secret_file: None,
            previous_hmac_secret_until: 0,
            rsa_public_key: Box::default(),
            rsa_public_key_file: None,
            ecdsa_public_key: Box::default(),
            ecdsa_public_key_file: None,
            ed25519_public_key: Box::default(),
            ed25519_public_key_file: None,
            previous_public_keys: Box::default(),
            previous_public_keys_file: None,
            previous_public_keys_until: 0,
            jwks_url: Box::default(),
            subscription_hmac_secret: Secret::default(),
            subscription_hmac_secret_file: None,
            subscription_previous_hmac_secret: Secret::default(),
            subscription_previous_hmac_secret_file: None,
            subscription_previous_hmac_secret_until: 0,
            subscription_rsa_public_key: Box::default(),
            subscription_rsa_public_key_file: None,
            subscription_ecdsa_public_key: Box::default(),
            subscription_ecdsa_public_key_file: None,
            subscription_ed25519_public_key: Box::default(),
            subscription_ed25519_public_key_file: None,
            subscription_previous_public_keys: Box::default(),
            subscription_previous_public_keys_file: None,
            subscription_previous_public_keys_until: 0,
            subscription_jwks_url: Box::default(),
            jwks_refresh_ms: 600_000,
            jwks_interval_ms: 10_000,
            jwks_timeout_ms: 5_000,
            jwks_allow_http: false,
            jwks_ca_file: None,
            key_files_interval_ms: 10_000,
            allow_short_secrets: false,
            algorithms: Algorithm::ALL.to_vec(),
            user_id_claim: "sub".into(),
            audience: Box::default(),
            audience_pattern: Box::default(),
            issuer: Box::default(),
            issuer_pattern: Box::default(),
            leeway_s: 0,
            allow_anonymous: false,
            explain_refusals: false,
            insecure: false,
        }
    }
}

/// The configured keys for one kind of token.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeysConfig<'a> {
    pub(super) secret: TextOrFile<'a>,
    pub(super) previous_secret: TextOrFile<'a>,
    pub(super) previous_secret_until: (&'static str, i64),
    pub(super) rsa: TextOrFile<'a>,
    pub(super) ecdsa: TextOrFile<'a>,
    pub(super) ed25519: TextOrFile<'a>,
    pub(super) previous: TextOrFile<'a>,
    pub(super) previous_until: (&'static str, i64),
    pub(super) jwks_url: (&'static str, &'a str),
}

/// A text from the configuration, or from a file that the configuration names.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextOrFile<'a> {
    pub(super) key: &'static str,
    pub(super) given: GivenKey<'a>,
    pub(super) file: Option<&'a Path>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum GivenKey<'a> {
    Secret(&'a Secret),
    Public(&'a str),
}

impl TextOrFile<'_> {
    pub(super) fn is_given(&self) -> bool {
        let is_empty = match self.given {
            GivenKey::Secret(secret) => secret.is_empty(),
            GivenKey::Public(text) => text.is_empty(),
        };
        !is_empty || self.file.is_some()
    }

    pub(super) fn read(&self) -> Result<Secret, SecretFileError> {
        match (self.file, self.given) {
            (Some(file), _) => Secret::from_file(file),
            (None, GivenKey::Secret(secret)) => Ok(secret.clone()),
            (None, GivenKey::Public(text)) => Ok(Secret::new(text)),
        }
    }
}

impl<'a> KeysConfig<'a> {
    pub(super) fn secrets(&self) -> [TextOrFile<'a>; 2] {
        [self.secret, self.previous_secret]
    }

    pub(super) fn public_keys(&self) -> [(TextOrFile<'a>, Option<&'static [KeyFamily]>); 4] {
        [
            (self.rsa, Some(&[KeyFamily::Rsa])),
            (self.ecdsa, Some(&[KeyFamily::P256, KeyFamily::P384])),
            (self.ed25519, Some(&[KeyFamily::Ed25519])),
            (self.previous, None),
        ]
    }

    /// Whether any present key is configured.
    pub(super) fn are_given(&self) -> bool {
        [self.secret, self.rsa, self.ecdsa, self.ed25519].iter().any(TextOrFile::is_given)
            || !self.jwks_url.1.is_empty()
    }
}

macro_rules! keys {
    ($config:ident, $secret:ident $secret_file:ident, $old_secret:ident $old_secret_file:ident $old_secret_until:ident,
     $rsa:ident $rsa_file:ident, $ecdsa:ident $ecdsa_file:ident, $ed25519:ident $ed25519_file:ident,
     $old:ident $old_file:ident $old_until:ident, $jwks:ident) => {
        KeysConfig {
            secret: keys!(Secret $config, $secret, $secret_file),
            previous_secret: keys!(Secret $config, $old_secret, $old_secret_file),
            previous_secret_until: (stringify!($old_secret_until), $config.$old_secret_until),
            rsa: keys!(Public $config, $rsa, $rsa_file),
            ecdsa: keys!(Public $config, $ecdsa, $ecdsa_file),
            ed25519: keys!(Public $config, $ed25519, $ed25519_file),
            previous: keys!(Public $config, $old, $old_file),
            previous_until: (stringify!($old_until), $config.$old_until),
            jwks_url: (stringify!($jwks), &$config.$jwks),
        }
    };
    ($kind:ident $config:ident, $key:ident, $file:ident) => {
        TextOrFile { key: stringify!($key), given: GivenKey::$kind(&$config.$key), file: $config.$file.as_deref() }
    };
}

impl AuthConfig {
    pub(super) fn connection_keys(&self) -> KeysConfig<'_> {
        keys!(
            self, hmac_secret hmac_secret_file,
            previous_hmac_secret previous_hmac_secret_file previous_hmac_secret_until,
            rsa_public_key rsa_public_key_file, ecdsa_public_key ecdsa_public_key_file,
            ed25519_public_key ed25519_public_key_file,
            previous_public_keys previous_public_keys_file previous_public_keys_until, jwks_url
        )
    }

    /// Returns the keys that are for subscription tokens alone.
    pub(super) fn subscription_keys(&self) -> KeysConfig<'_> {
        keys!(
            self, subscription_hmac_secret subscription_hmac_secret_file,
            subscription_previous_hmac_secret subscription_previous_hmac_secret_file
            subscription_previous_hmac_secret_until,
            subscription_rsa_public_key subscription_rsa_public_key_file,
            subscription_ecdsa_public_key subscription_ecdsa_public_key_file,
            subscription_ed25519_public_key subscription_ed25519_public_key_file,
            subscription_previous_public_keys subscription_previous_public_keys_file
            subscription_previous_public_keys_until, subscription_jwks_url
        )
    }

    pub fn check(&self, faults: &mut Faults) {
        for keys in [self.connection_keys(), self.subscription_keys()] {
            self.check_keys(&keys, faults);
        }
        if self.algorithms.is_empty() {
            faults
                .add("algorithms", "must name at least one algorithm, such as HS256, RS256, ES256 or EdDSA");
        }
        if self.user_id_claim.is_empty() {
            faults.add("user_id_claim", "must not be empty: by default it is sub");
        }
        for (key, pattern, exact) in [
            ("audience_pattern", &self.audience_pattern, &self.audience),
            ("issuer_pattern", &self.issuer_pattern, &self.issuer),
        ] {
            if !pattern.is_empty() && !exact.is_empty() {
                faults
                    .add(key, format!("must not be set together with {}", key.trim_end_matches("_pattern")));
            }
        }
        faults.outside("leeway_s", self.leeway_s, 0..=LEEWAY_S_MAX);
        faults.outside("jwks_refresh_ms", self.jwks_refresh_ms, self.jwks_interval_ms..=JWKS_REFRESH_MS_MAX);
        faults.outside("jwks_interval_ms", self.jwks_interval_ms, JWKS_INTERVAL_MS);
        faults.outside("jwks_timeout_ms", self.jwks_timeout_ms, JWKS_TIMEOUT_MS);
        faults.outside("key_files_interval_ms", self.key_files_interval_ms, KEY_FILES_INTERVAL_MS);
    }

    fn check_keys(&self, keys: &KeysConfig<'_>, faults: &mut Faults) {
        let texts = keys.secrets().into_iter().chain(keys.public_keys().map(|(text, _)| text));
        for text in texts {
            let is_given_twice = TextOrFile { file: None, ..text }.is_given() && text.file.is_some();
            if is_given_twice {
                faults
                    .add(format!("{}_file", text.key), format!("must not be set together with {}", text.key));
            }
        }
        for text in keys.secrets() {
            if let GivenKey::Secret(secret) = text.given
                && let Some(problem) = self.too_short(secret)
            {
                faults.add(text.key, problem);
            }
        }
        for (text, families) in keys.public_keys() {
            if let GivenKey::Public(pem) = text.given
                && !pem.is_empty()
                && let Err(problem) = public_keys(pem, families)
            {
                faults.add(text.key, problem.to_string());
            }
        }
        if keys.previous_secret.is_given() && !keys.secret.is_given() {
            let problem = format!("needs a current secret: set {}", keys.secret.key);
            faults.add(keys.previous_secret.key, problem);
        }
        if keys.previous.is_given() && !keys.are_given() {
            faults.add(keys.previous.key, "needs a current key");
        }
        for ((key, until), of) in
            [(keys.previous_secret_until, keys.previous_secret), (keys.previous_until, keys.previous)]
        {
            if until != 0 && !of.is_given() {
                faults.add(key, format!("needs {}", of.key));
            }
            if until < 0 {
                faults.add(key, "must be 0, or seconds since 1970");
            }
        }
        let (key, url) = keys.jwks_url;
        if !url.is_empty()
            && let Err(problem) = DocumentSource::parse(url, self.jwks_allow_http)
        {
            faults.add(key, problem);
        }
    }

    /// Returns every file with keys that is named and unusable, as (key of the setting, problem).
    pub fn file_faults(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for keys in [self.connection_keys(), self.subscription_keys()] {
            let secrets = keys.secrets().map(|text| (text, None));
            let public = keys.public_keys().map(|(text, families)| (text, Some(families)));
            for (text, families) in secrets.into_iter().chain(public).filter(|(text, _)| text.file.is_some())
            {
                let problem = match (text.read(), families) {
                    (Err(error), _) => Some(error.to_string()),
                    (Ok(secret), None) => self.too_short(&secret),
                    (Ok(pem), Some(families)) => {
                        public_keys(pem.reveal(), families).err().map(|problem| problem.to_string())
                    }
                };
                found.extend(problem.map(|problem| (format!("{}_file", text.key), problem)));
            }
        }
        if let Some(file) = &self.jwks_ca_file
            && let Err(error) = authorities(Some(file))
        {
            found.push(("jwks_ca_file".to_owned(), error.to_string()));
        }
        found
    }

    /// Returns what is wrong with a secret that was given, if it is too short.
    pub fn too_short(&self, secret: &Secret) -> Option<String> {
        let length = secret.reveal().len();
        (1..SECRET_BYTES_MIN).contains(&length).then_some(()).filter(|()| !self.allow_short_secrets)?;
        Some(format!(
            "is {length} bytes long: a secret shorter than {SECRET_BYTES_MIN} bytes can be guessed from a token; use the output of \
             `openssl rand -hex 32`, or set auth.allow_short_secrets"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::signed_elsewhere;
    use super::*;

    fn faulty_keys(config: &AuthConfig) -> Vec<String> {
        let mut faults = Faults::default();
        config.check(&mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(faulty_keys(&AuthConfig::default()), Vec::<String>::new());
    }

    #[test]
    fn every_contradiction_is_told() {
        let config = AuthConfig {
            subscription_hmac_secret: Secret::new("a"),
            subscription_hmac_secret_file: Some("b".into()),
            previous_hmac_secret: Secret::new("old"),
            allow_short_secrets: true,
            algorithms: vec![],
            leeway_s: 4_000,
            ..AuthConfig::default()
        };
        let expected = ["previous_hmac_secret", "subscription_hmac_secret_file", "algorithms", "leeway_s"];
        assert_eq!(faulty_keys(&config), expected);

        let config = AuthConfig {
            hmac_secret: Secret::new("a"),
            hmac_secret_file: Some("b".into()),
            previous_hmac_secret_until: -1,
            allow_short_secrets: true,
            ..AuthConfig::default()
        };
        let expected = ["hmac_secret_file", "previous_hmac_secret_until", "previous_hmac_secret_until"];
        assert_eq!(faulty_keys(&config), expected);
    }

    #[test]
    fn keys_patterns_and_addresses_that_cannot_work_are_told() {
        let config = AuthConfig {
            rsa_public_key: signed_elsewhere::P256.into(),
            ecdsa_public_key: signed_elsewhere::P521.into(),
            previous_public_keys_until: 7,
            jwks_url: "http://127.0.0.1/keys".into(),
            subscription_previous_public_keys: signed_elsewhere::RSA.into(),
            user_id_claim: "".into(),
            audience: "a".into(),
            audience_pattern: "a*".into(),
            jwks_refresh_ms: 1_000,
            ..AuthConfig::default()
        };
        let expected = [
            "rsa_public_key",
            "ecdsa_public_key",
            "previous_public_keys_until",
            "jwks_url",
            "subscription_previous_public_keys",
            "user_id_claim",
            "audience_pattern",
            "jwks_refresh_ms",
        ];
        assert_eq!(faulty_keys(&config), expected);
        let config = AuthConfig {
            jwks_allow_http: true,
            rsa_public_key: signed_elsewhere::RSA.into(),
            ecdsa_public_key: [signed_elsewhere::P256, signed_elsewhere::P384].concat().into(),
            ed25519_public_key: signed_elsewhere::ED25519.into(),
            jwks_url: "http://127.0.0.1/keys".into(),
            ..AuthConfig::default()
        };
        assert_eq!(faulty_keys(&config), Vec::<String>::new());
    }

    #[test]
    fn files_with_keys_are_looked_into() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let config = AuthConfig {
            hmac_secret_file: file("short", "short"),
            rsa_public_key_file: file("rsa", signed_elsewhere::ED25519),
            ecdsa_public_key_file: file("ecdsa", signed_elsewhere::P256),
            subscription_ed25519_public_key_file: Some(directory.path().join("missing")),
            jwks_ca_file: file("ca", ""),
            ..AuthConfig::default()
        };
        let found: Vec<String> = config.file_faults().into_iter().map(|(key, _)| key).collect();
        let expected = [
            "hmac_secret_file",
            "rsa_public_key_file",
            "subscription_ed25519_public_key_file",
            "jwks_ca_file",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_refused_unless_said_otherwise() {
        let secret = |length| Secret::new(&"x".repeat(length));
        let mut config = AuthConfig {
            hmac_secret: secret(31),
            previous_hmac_secret: secret(1),
            subscription_hmac_secret: secret(31),
            ..AuthConfig::default()
        };
        assert_eq!(faulty_keys(&config), ["hmac_secret", "previous_hmac_secret", "subscription_hmac_secret"]);
        config.allow_short_secrets = true;
        assert_eq!(faulty_keys(&config), Vec::<String>::new());
        let long = AuthConfig { hmac_secret: secret(32), ..AuthConfig::default() };
        assert_eq!(faulty_keys(&long), Vec::<String>::new());
    }
}
