//! The rules that tokens are checked by: the keys of both kinds, and the further settings. Replaced as a whole.

use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context, Digest, SHA256};
use shared::id::ClientId;

use super::auth_config::AuthConfig;
use super::jwks::Jwks;
use super::token_error::TokenError;
use super::token_keys::{KeyError, KeySet, OpenTokenError, VerifiedToken};
use super::verify::{TokenPurpose, is_too_long};
use crate::telemetry::Metrics;

/// The rules of one configuration, with its keys read.
pub(crate) struct Rules {
    connections: Option<KeySet>,
    /// `None`: the keys of connection tokens serve for both.
    subscriptions: Option<KeySet>,
    pub(super) leeway_s: i64,
    pub(super) allow_anonymous: bool,
    pub(super) explain_refusals: bool,
    pub(super) insecure: bool,
    pub(super) files_interval: Duration,
    /// The configuration of these rules, from which they are built again when files change.
    pub(super) config: AuthConfig,
    /// The digest of all key files.
    digest: Digest,
}

impl Rules {
    /// Reads the keys. A set that `before` has fetched is taken over, not fetched again.
    pub(super) fn new(
        config: &AuthConfig,
        before: Option<&Self>,
        metrics: Option<&Arc<Metrics>>,
    ) -> Result<Self, KeyError> {
        // Computed before the keys are read: a file that changes in between is read again the next time.
        let digest = digest_of_files(config)?;
        let mut known = before.map(Self::fetched).unwrap_or_default();
        let connections = KeySet::new(&config.connection_keys(), config, &known, metrics)?;
        known.extend(connections.as_ref().and_then(KeySet::fetched).cloned());
        let subscriptions = KeySet::new(&config.subscription_keys(), config, &known, metrics)?;
        Ok(Self {
            connections,
            subscriptions,
            leeway_s: i64::try_from(config.leeway_s).unwrap_or(i64::MAX),
            allow_anonymous: config.allow_anonymous || config.insecure,
            explain_refusals: config.explain_refusals,
            insecure: config.insecure,
            files_interval: Duration::from_millis(config.key_files_interval_ms),
            config: config.clone(),
            digest,
        })
    }

    /// Returns the content of a token, and when its grant ends in seconds since 1970.
    pub(super) fn examine(
        &self,
        now: i64,
        token: &str,
        purpose: &TokenPurpose,
    ) -> Result<(VerifiedToken, Option<i64>), OpenTokenError> {
        let keys = match purpose {
            TokenPurpose::Connection => self.connections.as_ref(),
            TokenPurpose::Subscription { .. } => self.subscriptions.as_ref().or(self.connections.as_ref()),
        };
        let keys = keys.ok_or(TokenError::NoKeys)?;
        if is_too_long(token) {
            return Err(TokenError::TooLong.into());
        }
        let opened = keys.open(now, token)?;
        match (purpose, &opened.claims.channel) {
            (TokenPurpose::Connection, Some(_)) => return Err(TokenError::IsForSubscription.into()),
            (TokenPurpose::Connection, None) => {}
            (TokenPurpose::Subscription { .. }, None) => return Err(TokenError::NoChannel.into()),
            (TokenPurpose::Subscription { channel, client }, Some(granted)) => {
                if **granted != *channel.as_str() {
                    let (granted, requested) = (granted.clone(), channel.as_str().into());
                    return Err(TokenError::Channel { granted, requested }.into());
                }
                if let (Some(only), Some(client)) = (opened.claims.only_for(), client)
                    && ClientId::parse(only) != Some(*client)
                {
                    return Err(TokenError::Client.into());
                }
            }
        }
        let end = opened.claims.expires_at(now, self.leeway_s).map_err(TokenError::Untimely)?;
        Ok((opened, end))
    }

    /// Examines a token whose key has been waited for.
    pub(super) fn examine_at_last(
        &self,
        now: i64,
        token: &str,
        purpose: &TokenPurpose,
    ) -> Result<(VerifiedToken, Option<i64>), TokenError> {
        self.examine(now, token, purpose).map_err(|unopened| match unopened {
            OpenTokenError::Refused(refused) => refused,
            OpenTokenError::Wait(_) => TokenError::Unavailable("its issuer did not send it in time".into()),
        })
    }

    /// Returns the sets of keys that are fetched, each once.
    pub(super) fn fetched(&self) -> Vec<Arc<Jwks>> {
        let mut all: Vec<Arc<Jwks>> = Vec::new();
        for keys in [&self.connections, &self.subscriptions].into_iter().flatten() {
            if let Some(jwks) = keys.fetched()
                && !all.iter().any(|known| Arc::ptr_eq(known, jwks))
            {
                all.push(jwks.clone());
            }
        }
        all
    }

    /// Returns why nobody can be let in: no key is there yet, and anonymous clients are refused.
    pub(super) fn missing(&self) -> Option<String> {
        let keys = self.connections.as_ref().filter(|keys| keys.only_fetches() && !self.allow_anonymous)?;
        keys.fetched()?.missing()
    }

    pub(super) fn takes_tokens(&self) -> bool {
        self.connections.is_some()
    }

    pub(super) fn reads_files(&self) -> bool {
        texts(&self.config).any(|text| text.file.is_some())
    }

    /// Whether the key files held the same in both rules.
    pub(super) fn has_keys_of(&self, other: &Self) -> bool {
        self.digest.as_ref() == other.digest.as_ref()
    }
}

fn texts(config: &AuthConfig) -> impl Iterator<Item = super::auth_config::TextOrFile<'_>> {
    [config.connection_keys(), config.subscription_keys()]
        .into_iter()
        .flat_map(|keys| keys.secrets().into_iter().chain(keys.public_keys().map(|(text, _)| text)))
}

fn digest_of_files(config: &AuthConfig) -> Result<Digest, KeyError> {
    let mut digest = Context::new(&SHA256);
    for text in texts(config).filter(|text| text.file.is_some()) {
        let held = text.read()?;
        digest.update(&(held.reveal().len() as u64).to_le_bytes());
        digest.update(held.reveal().as_bytes());
    }
    Ok(digest.finish())
}
