//! The keys that tokens are signed with, ready for use: each for its own algorithms and no others.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use gateway_core::wildcard;
use ring::hmac;

use super::algorithm::{Algorithm, Family};
use super::auth_config::{AuthConfig, Keys, Text};
use super::claims::Claims;
use super::envelope::Envelope;
use super::jwks::{Jwks, Lookup, Settings};
use super::public_key::{PublicKey, PublicKeyError};
use super::refused::Refused;
use crate::authorities::AuthoritiesError;
use crate::secret::{Secret, SecretFileError};
use crate::telemetry::Metrics;

/// The keys of one kind of token, and what else must be right about it.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<KnownKey>,
    jwks: Option<Arc<Jwks>>,
    accepted: Vec<Algorithm>,
    user_claim: Box<str>,
    audience: Wanted,
    issuer: Wanted,
}

struct KnownKey {
    /// The setting it comes from.
    setting: &'static str,
    verifier: Verifier,
    /// Seconds since 1970; 0 for ever.
    until: i64,
}

enum Verifier {
    /// For each algorithm of its own, the secret made ready.
    Secret(Box<[(Algorithm, hmac::Key); 3]>),
    Public(PublicKey),
}

/// What a claim must be.
#[derive(Debug)]
enum Wanted {
    Anything,
    Text(Box<str>),
    Pattern(Box<str>),
}

/// A token whose signature is right, and which is for this gateway. Its times are not looked at.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) claims: Claims,
    pub(super) algorithm: Algorithm,
    /// The setting its key comes from.
    pub(super) key: &'static str,
    /// The name of that key, if it was found by one.
    pub(super) kid: Option<Box<str>>,
}

/// Why a token is not opened, or not yet.
pub(super) enum Unopened {
    Refused(Refused),
    /// Its key is being asked for: try again after this.
    Wait(BoxFuture<'static, ()>),
}

/// Why the keys of the configuration are of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(transparent)]
    File(#[from] SecretFileError),
    #[error("auth.{setting} {error}")]
    PublicKey { setting: &'static str, error: PublicKeyError },
    #[error("the authorities for auth.jwks_url cannot be read: {0}")]
    Authorities(String),
}

impl KeySet {
    /// `None` where no key is configured.
    pub(super) fn new(
        keys: &Keys<'_>,
        config: &AuthConfig,
        known_jwks: &[Arc<Jwks>],
        metrics: Option<&Arc<Metrics>>,
    ) -> Result<Option<Self>, KeyError> {
        if !keys.are_given() {
            return Ok(None);
        }
        let mut known = Vec::new();
        for (text, until) in [(keys.secret, 0), (keys.previous_secret, keys.previous_secret_until.1)] {
            if text.is_given() {
                let verifier = Verifier::of_secret(&text.read()?);
                known.push(KnownKey { setting: text.key, verifier, until });
            }
        }
        for (text, families) in keys.public_keys() {
            let until = if text.key == keys.previous.key { keys.previous_until.1 } else { 0 };
            for key in read_public(&text, families)? {
                known.push(KnownKey { setting: text.key, verifier: Verifier::Public(key), until });
            }
        }
        let jwks = match Settings::new(keys.jwks_url.1, config) {
            Some(settings) => Some(Self::jwks(settings, known_jwks, metrics)?),
            None => None,
        };
        Ok(Some(Self {
            keys: known,
            jwks,
            accepted: config.algorithms.clone(),
            user_claim: config.user_id_claim.clone(),
            audience: Wanted::new(&config.audience, &config.audience_pattern),
            issuer: Wanted::new(&config.issuer, &config.issuer_pattern),
        }))
    }

    /// One that is there already knows its keys.
    fn jwks(
        settings: Settings,
        known: &[Arc<Jwks>],
        metrics: Option<&Arc<Metrics>>,
    ) -> Result<Arc<Jwks>, KeyError> {
        if let Some(same) = known.iter().find(|known| *known.settings() == settings) {
            return Ok(same.clone());
        }
        let jwks = Jwks::new(settings, metrics.cloned());
        Ok(Arc::new(jwks.map_err(|error: AuthoritiesError| KeyError::Authorities(error.to_string()))?))
    }

    pub(super) fn fetched(&self) -> Option<&Arc<Jwks>> {
        self.jwks.as_ref()
    }

    /// Whether all its keys are fetched ones.
    pub(super) fn only_fetches(&self) -> bool {
        self.keys.is_empty()
    }

    /// The claims of a token that one of the keys has signed.
    pub(super) fn open(&self, now: i64, token: &str) -> Result<Opened, Unopened> {
        let envelope = Envelope::take_apart(token).map_err(Refused::from)?;
        let (setting, kid) = self.signer(now, &envelope)?;
        let claims = envelope.claims(&self.user_claim).map_err(Refused::from)?;
        // A token that does not say who it is for, or by whom, is refused where that is asked.
        if !claims.is_for(|audience| self.audience.is(audience)) && self.audience.is_asked() {
            return Err(Refused::Audience.into());
        }
        if !claims.is_by(|issuer| self.issuer.is(issuer)) && self.issuer.is_asked() {
            return Err(Refused::Issuer.into());
        }
        Ok(Opened { claims, algorithm: envelope.algorithm, key: setting, kid })
    }

    /// Which key has signed it.
    fn signer(
        &self,
        now: i64,
        envelope: &Envelope<'_>,
    ) -> Result<(&'static str, Option<Box<str>>), Unopened> {
        let algorithm = envelope.algorithm;
        if !self.accepted.contains(&algorithm) {
            return Err(Refused::Algorithm(algorithm).into());
        }
        let fitting = self.keys.iter().filter(|key| key.verifier.fits(algorithm));
        let mut tried = false;
        let mut outlived = None;
        for key in fitting {
            let is_over = key.until != 0 && now >= key.until;
            tried |= !is_over;
            if !key.verifier.has_signed(algorithm, envelope.signed, &envelope.signature) {
                continue;
            }
            if !is_over {
                return Ok((key.setting, None));
            }
            outlived = Some(key.setting);
        }
        if let Some(setting) = outlived {
            return Err(Refused::KeyOver(setting).into());
        }
        let refused = if tried { Refused::Signature } else { Refused::NoKeyFor(algorithm) };
        // What anybody can fetch is no secret, so none is looked for there.
        let Some(jwks) = self.jwks.as_ref().filter(|_| algorithm.family() != Family::Hmac) else {
            return Err(refused.into());
        };
        let Some(kid) = &envelope.kid else {
            return Err(if tried { refused } else { Refused::NoName }.into());
        };
        match jwks.find(kid, algorithm, Instant::now()) {
            Lookup::Found(key) if key.has_signed(algorithm, envelope.signed, &envelope.signature) => {
                Ok(("jwks_url", Some(kid.clone())))
            }
            Lookup::Found(_) => Err(Refused::Signature.into()),
            Lookup::Unknown => Err(Refused::UnknownKey(kid.clone()).into()),
            Lookup::Unavailable(why) => Err(Refused::Unavailable(why).into()),
            Lookup::Wait(wait) => Err(Unopened::Wait(wait)),
        }
    }
}

impl From<Refused> for Unopened {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl Wanted {
    fn new(text: &str, pattern: &str) -> Self {
        match (text, pattern) {
            ("", "") => Self::Anything,
            ("", pattern) => Self::Pattern(pattern.into()),
            (text, _) => Self::Text(text.into()),
        }
    }

    fn is_asked(&self) -> bool {
        !matches!(self, Self::Anything)
    }

    fn is(&self, text: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Text(wanted) => **wanted == *text,
            Self::Pattern(pattern) => wildcard::matches(pattern, text),
        }
    }
}

impl Verifier {
    fn of_secret(secret: &Secret) -> Self {
        let ready =
            |algorithm| (algorithm, hmac::Key::new(hmac_algorithm(algorithm), secret.reveal().as_bytes()));
        Self::Secret(Box::new([Algorithm::HS256, Algorithm::HS384, Algorithm::HS512].map(ready)))
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Secret(_) => algorithm.family() == Family::Hmac,
            Self::Public(key) => algorithm.family() == key.family(),
        }
    }

    fn has_signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Secret(ready) => {
                let key = ready.iter().find(|(own, _)| *own == algorithm);
                key.is_some_and(|(_, key)| hmac::verify(key, message, signature).is_ok())
            }
            Self::Public(key) => key.has_signed(algorithm, message, signature),
        }
    }
}

// Nothing of a key is shown.
impl std::fmt::Debug for KnownKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KnownKey")
            .field("setting", &self.setting)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

pub(super) fn hmac_algorithm(algorithm: Algorithm) -> hmac::Algorithm {
    match algorithm {
        Algorithm::HS384 => hmac::HMAC_SHA384,
        Algorithm::HS512 => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    }
}

/// The keys in a text, all of these families if any are named.
pub(super) fn public_keys(pem: &str, families: Option<&[Family]>) -> Result<Vec<PublicKey>, PublicKeyError> {
    let keys = PublicKey::from_pem(pem)?;
    match families {
        Some(families) if keys.iter().any(|key| !families.contains(&key.family())) => {
            Err(PublicKeyError::OtherKind)
        }
        _ => Ok(keys),
    }
}

fn read_public(text: &Text<'_>, families: Option<&[Family]>) -> Result<Vec<PublicKey>, KeyError> {
    if !text.is_given() {
        return Ok(Vec::new());
    }
    let pem = text.read()?;
    public_keys(pem.reveal(), families).map_err(|error| KeyError::PublicKey { setting: text.key, error })
}
