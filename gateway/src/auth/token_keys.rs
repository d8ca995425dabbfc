//! The keys that verify tokens: each for its own algorithms and no others.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use gateway_core::wildcard;
use ring::hmac;

use super::algorithm::{Algorithm, KeyFamily};
use super::auth_config::{AuthConfig, KeysConfig, TextOrFile};
use super::claims::TokenClaims;
use super::envelope::UnverifiedToken;
use super::jwks::{Jwks, JwksSettings, KeyLookup};
use super::public_key::{PublicKey, PublicKeyError};
use super::token_error::TokenError;
use crate::authorities::AuthoritiesError;
use crate::secret::{Secret, SecretFileError};
use crate::telemetry::Metrics;

/// The keys of one kind of token, and the further requirements on its claims.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<KnownKey>,
    jwks: Option<Arc<Jwks>>,
    accepted: Vec<Algorithm>,
    user_claim: Box<str>,
    audience: RequiredClaim,
    issuer: RequiredClaim,
}

struct KnownKey {
    /// The setting that the key comes from.
    setting: &'static str,
    verifier: Verifier,
    /// Seconds since 1970; 0: for ever.
    until: i64,
}

enum Verifier {
    /// The secret, prepared for each of its algorithms.
    Secret(Box<[(Algorithm, hmac::Key); 3]>),
    Public(PublicKey),
}

/// The required value of a claim.
#[derive(Debug)]
enum RequiredClaim {
    Anything,
    Text(Box<str>),
    Pattern(Box<str>),
}

/// A token whose signature is right, and which is for this gateway. Its times have not been checked.
#[derive(Debug)]
pub(super) struct VerifiedToken {
    pub(super) claims: TokenClaims,
    pub(super) algorithm: Algorithm,
    /// The setting that its key comes from.
    pub(super) key: &'static str,
    /// The name of the key, if the key was found by name.
    pub(super) kid: Option<Box<str>>,
}

/// Why a token is not opened, or not yet.
pub(super) enum OpenTokenError {
    Refused(TokenError),
    /// The key is being fetched: try again once this is done.
    Wait(BoxFuture<'static, ()>),
}

/// Why the configured keys are unusable.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(transparent)]
    File(#[from] SecretFileError),
    #[error("auth.{setting} {error}")]
    PublicKey { setting: &'static str, error: PublicKeyError },
    #[error("the certificate authorities for auth.jwks_url cannot be read: {0}")]
    Authorities(String),
}

impl KeySet {
    /// Returns `None` where no key is configured.
    pub(super) fn new(
        keys: &KeysConfig<'_>,
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
        let jwks = match JwksSettings::new(keys.jwks_url.1, config) {
            Some(settings) => Some(Self::jwks(settings, known_jwks, metrics)?),
            None => None,
        };
        Ok(Some(Self {
            keys: known,
            jwks,
            accepted: config.algorithms.clone(),
            user_claim: config.user_id_claim.clone(),
            audience: RequiredClaim::new(&config.audience, &config.audience_pattern),
            issuer: RequiredClaim::new(&config.issuer, &config.issuer_pattern),
        }))
    }

    /// Returns the set with these settings: the known one, which has its keys already, or a new one.
    fn jwks(
        settings: JwksSettings,
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

    /// Whether all keys of this set are fetched from a JWKS.
    pub(super) fn only_fetches(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the claims of a token that one of the keys has signed.
    pub(super) fn open(&self, now: i64, token: &str) -> Result<VerifiedToken, OpenTokenError> {
        let envelope = UnverifiedToken::take_apart(token).map_err(TokenError::from)?;
        let (setting, kid) = self.signer(now, &envelope)?;
        let claims = envelope.claims(&self.user_claim).map_err(TokenError::from)?;
        // A token without an audience or issuer is refused where one is required.
        if !claims.is_for(|audience| self.audience.is(audience)) && self.audience.is_required() {
            return Err(TokenError::Audience.into());
        }
        if !claims.is_by(|issuer| self.issuer.is(issuer)) && self.issuer.is_required() {
            return Err(TokenError::Issuer.into());
        }
        Ok(VerifiedToken { claims, algorithm: envelope.algorithm, key: setting, kid })
    }

    /// Returns the setting and the name of the key that has signed the token.
    fn signer(
        &self,
        now: i64,
        envelope: &UnverifiedToken<'_>,
    ) -> Result<(&'static str, Option<Box<str>>), OpenTokenError> {
        let algorithm = envelope.algorithm;
        if !self.accepted.contains(&algorithm) {
            return Err(TokenError::Algorithm(algorithm).into());
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
            return Err(TokenError::KeyOver(setting).into());
        }
        let refused = if tried { TokenError::Signature } else { TokenError::NoKeyFor(algorithm) };
        // What anybody can fetch is no secret, so keys for HMAC are not looked up there.
        let Some(jwks) = self.jwks.as_ref().filter(|_| algorithm.family() != KeyFamily::Hmac) else {
            return Err(refused.into());
        };
        let Some(kid) = &envelope.kid else {
            return Err(if tried { refused } else { TokenError::NoName }.into());
        };
        match jwks.find(kid, algorithm, Instant::now()) {
            KeyLookup::Found(key) if key.has_signed(algorithm, envelope.signed, &envelope.signature) => {
                Ok(("jwks_url", Some(kid.clone())))
            }
            KeyLookup::Found(_) => Err(TokenError::Signature.into()),
            KeyLookup::Unknown => Err(TokenError::UnknownKey(kid.clone()).into()),
            KeyLookup::Unavailable(why) => Err(TokenError::Unavailable(why).into()),
            KeyLookup::Wait(wait) => Err(OpenTokenError::Wait(wait)),
        }
    }
}

impl From<TokenError> for OpenTokenError {
    fn from(refused: TokenError) -> Self {
        Self::Refused(refused)
    }
}

impl RequiredClaim {
    fn new(text: &str, pattern: &str) -> Self {
        match (text, pattern) {
            ("", "") => Self::Anything,
            ("", pattern) => Self::Pattern(pattern.into()),
            (text, _) => Self::Text(text.into()),
        }
    }

    fn is_required(&self) -> bool {
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
            Self::Secret(_) => algorithm.family() == KeyFamily::Hmac,
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

// No part of a key is shown.
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

/// Parses the keys in a text. If families are given, all keys must be of these families.
pub(super) fn public_keys(
    pem: &str,
    families: Option<&[KeyFamily]>,
) -> Result<Vec<PublicKey>, PublicKeyError> {
    let keys = PublicKey::from_pem(pem)?;
    match families {
        Some(families) if keys.iter().any(|key| !families.contains(&key.family())) => {
            Err(PublicKeyError::OtherKind)
        }
        _ => Ok(keys),
    }
}

fn read_public(text: &TextOrFile<'_>, families: Option<&[KeyFamily]>) -> Result<Vec<PublicKey>, KeyError> {
    if !text.is_given() {
        return Ok(Vec::new());
    }
    let pem = text.read()?;
    public_keys(pem.reveal(), families).map_err(|error| KeyError::PublicKey { setting: text.key, error })
}
