//! The public keys of an issuer, by name, as the issuer publishes them: a JWKS (RFC 7517), fetched when it is due and
//! when a token names a key that is not there, but never more often than the interval allows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use super::algorithm::Algorithm;
use super::auth_config::AuthConfig;
use super::public_key::{Members, PublicKey};
use crate::authorities::AuthoritiesError;
use crate::fetch::{DocumentSource, FetchError, Fetcher};
use crate::telemetry::{Metrics, Reminder};

/// The longest set that is read, in bytes.
const SET_BYTES_MAX: usize = 256 * 1024;
/// The most keys that are kept from a set.
const KEYS_MAX: usize = 128;
/// The most tokens that wait for one fetch. Each keeps up to 32 KiB.
const WAITING_MAX: usize = 4_096;

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Jwks {
    settings: JwksSettings,
    fetcher: Fetcher,
    metrics: Option<Arc<Metrics>>,
    state: Mutex<JwksState>,
}

/// The settings of a fetched set. Equal settings share one set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct JwksSettings {
    source: DocumentSource,
    ca_file: Option<std::path::PathBuf>,
    refresh: Duration,
    interval: Duration,
    timeout: Duration,
}

#[derive(Debug, Default)]
struct JwksState {
    keys: Arc<KeysByName>,
    /// When the keys were fetched, and when they were last asked for.
    fetched: Option<Instant>,
    requested_at: Option<Instant>,
    /// Why the last fetch failed, if it did.
    trouble: Option<Arc<str>>,
    in_flight: Option<FetchInFlight>,
    waiting: usize,
    reminder: Reminder,
}

type KeysByName = HashMap<Box<str>, Vec<JwkEntry>>;

struct FetchInFlight(Shared<BoxFuture<'static, ()>>);

#[derive(Clone, Debug)]
struct JwkEntry {
    key: Arc<PublicKey>,
    /// The only algorithm that the key is for, if its issuer names one.
    only: Option<Algorithm>,
}

/// The result of looking up a key.
pub(super) enum KeyLookup {
    Found(Arc<PublicKey>),
    /// The issuer has no key of this name for this algorithm, or had none at the last fetch.
    Unknown,
    /// The issuer cannot be reached.
    Unavailable(Arc<str>),
    /// The issuer is being asked: look the key up again once this is done.
    Wait(BoxFuture<'static, ()>),
}

#[derive(Debug, thiserror::Error)]
enum SetError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("its answer is not a JSON Web Key Set: {0}")]
    Json(#[from] serde_json::Error),
}

impl JwksSettings {
    /// Returns `None` where the URL is invalid, which the check of the configuration reports.
    pub(super) fn new(url: &str, config: &AuthConfig) -> Option<Self> {
        Some(Self {
            source: DocumentSource::parse(url, config.jwks_allow_http).ok()?,
            ca_file: config.jwks_ca_file.clone(),
            refresh: Duration::from_millis(config.jwks_refresh_ms),
            interval: Duration::from_millis(config.jwks_interval_ms),
            timeout: Duration::from_millis(config.jwks_timeout_ms),
        })
    }
}

impl Jwks {
    pub(super) fn new(
        settings: JwksSettings,
        metrics: Option<Arc<Metrics>>,
    ) -> Result<Self, AuthoritiesError> {
        let fetcher = Fetcher::new(settings.ca_file.as_deref())?;
        Ok(Self { settings, fetcher, metrics, state: Mutex::default() })
    }

    pub(super) fn settings(&self) -> &JwksSettings {
        &self.settings
    }

    /// Looks up the key of this name for this algorithm. A key in the present set is found without waiting.
    pub(super) fn find(self: &Arc<Self>, kid: &str, algorithm: Algorithm, now: Instant) -> KeyLookup {
        let mut state = self.state.lock();
        let fitting = |key: &&JwkEntry| {
            key.key.family() == algorithm.family() && key.only.is_none_or(|only| only == algorithm)
        };
        if let Some(key) = state.keys.get(kid).and_then(|keys| keys.iter().find(fitting)) {
            return KeyLookup::Found(key.key.clone());
        }
        if state.in_flight.is_none() && state.requested_at.is_some_and(|at| now < at + self.settings.interval)
        {
            return state.trouble.clone().map_or(KeyLookup::Unknown, KeyLookup::Unavailable);
        }
        if state.waiting >= WAITING_MAX {
            return KeyLookup::Unavailable("too many tokens wait for their issuer's keys".into());
        }
        let asking = self.ask(&mut state, now);
        state.waiting += 1;
        let waiting = WaitingToken(self.clone());
        KeyLookup::Wait(
            async move {
                asking.await;
                drop(waiting);
            }
            .boxed(),
        )
    }

    /// Whether the keys should be fetched: they are old, or the last fetch failed some time ago.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let state = self.state.lock();
        let pause = if state.trouble.is_some() { self.settings.interval } else { self.settings.refresh };
        state.requested_at.is_none_or(|at| now >= at + pause)
    }

    /// Fetches the keys, or waits for the fetch in flight.
    pub(super) async fn refresh(self: &Arc<Self>, now: Instant) {
        let asking = self.ask(&mut self.state.lock(), now);
        asking.await;
    }

    /// Returns the age of the keys. `None` if there never were any.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.state.lock().fetched.map(|fetched| now.saturating_duration_since(fetched))
    }

    /// Returns why there are no keys, if there never were any.
    pub(super) fn missing(&self) -> Option<String> {
        let state = self.state.lock();
        if state.fetched.is_some() {
            return None;
        }
        let why = state.trouble.as_deref().unwrap_or("they were not fetched yet");
        Some(format!("token keys are missing: {why}"))
    }

    fn ask(self: &Arc<Self>, state: &mut JwksState, now: Instant) -> Shared<BoxFuture<'static, ()>> {
        if let Some(FetchInFlight(asking)) = &state.in_flight {
            return asking.clone();
        }
        state.requested_at = Some(now);
        let asking = self.clone().fetch().boxed().shared();
        state.in_flight = Some(FetchInFlight(asking.clone()));
        asking
    }

    async fn fetch(self: Arc<Self>) {
        let JwksSettings { source, timeout, .. } = &self.settings;
        let set = self.fetcher.get(source, *timeout, SET_BYTES_MAX).await.map_err(SetError::from);
        let keys = set.and_then(|set| Ok(read_set(&set)?));
        if let Some(metrics) = &self.metrics {
            metrics.jwks_fetch(keys.is_ok());
        }
        let now = Instant::now();
        let mut state = self.state.lock();
        // Cleared first: a request after this starts a new fetch.
        state.in_flight = None;
        state.requested_at = Some(now);
        match keys {
            Ok(keys) => {
                if let Some(lasted) = state.reminder.over(now) {
                    tracing::info!(after_ms = lasted.as_millis() as u64, "token keys can be fetched again");
                }
                if state.fetched.is_none() || !same_names(&state.keys, &keys) {
                    let mut names: Vec<&str> = keys.keys().map(|name| &**name).collect();
                    names.sort_unstable();
                    tracing::info!(kids = %names.join(" "), "token keys were fetched");
                }
                state.keys = Arc::new(keys);
                state.fetched = Some(now);
                state.trouble = None;
            }
            Err(error) => {
                let reason = format!("auth.jwks_url: {error}");
                if state.reminder.is_due(&reason, now) {
                    let keeps = !state.keys.is_empty();
                    tracing::warn!(%reason, keeps, "token keys cannot be fetched; the keys fetched before stay in use");
                }
                state.trouble = Some(reason.into());
            }
        }
    }
}

/// A token that waits for the keys, counted while it does.
struct WaitingToken(Arc<Jwks>);

impl Drop for WaitingToken {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

impl std::fmt::Debug for FetchInFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FetchInFlight")
    }
}

fn same_names(one: &KeysByName, other: &KeysByName) -> bool {
    one.len() == other.len() && one.keys().all(|name| other.contains_key(name))
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Value>,
}

/// The members of a key that are read (RFC 7517 §4).
#[derive(Deserialize)]
struct Jwk<'a> {
    kty: &'a str,
    kid: &'a str,
    #[serde(rename = "use")]
    purpose: Option<&'a str>,
    key_ops: Option<Vec<&'a str>>,
    alg: Option<&'a str>,
    crv: Option<&'a str>,
    n: Option<&'a str>,
    e: Option<&'a str>,
    x: Option<&'a str>,
    y: Option<&'a str>,
}

/// Parses a set and returns the usable keys. Keys of other kinds, for other purposes or without a name are skipped, and
/// so are secrets: one that anybody can fetch is none.
fn read_set(json: &[u8]) -> Result<KeysByName, serde_json::Error> {
    let JwkSet { keys } = serde_json::from_slice(json)?;
    let mut by_name = KeysByName::new();
    let (all, mut used) = (keys.len(), 0);
    for (kid, key) in keys.iter().filter_map(usable) {
        if used == KEYS_MAX {
            tracing::warn!(all, used, "the set of token keys is too large; only the first keys are used");
            break;
        }
        used += 1;
        by_name.entry(kid).or_default().push(key);
    }
    if used < all {
        tracing::debug!(all, used, "not all keys of the set are for tokens");
    }
    Ok(by_name)
}

fn usable(json: &Value) -> Option<(Box<str>, JwkEntry)> {
    let jwk = Jwk::deserialize(json).ok()?;
    let is_for_signatures = jwk.purpose.is_none_or(|purpose| purpose == "sig")
        && jwk.key_ops.as_ref().is_none_or(|operations| operations.contains(&"verify"));
    if !is_for_signatures {
        return None;
    }
    let Jwk { kty, crv, n, e, x, y, .. } = jwk;
    let key = PublicKey::from_jwk(Members { kty, crv, n, e, x, y }).ok()?;
    let only = match jwk.alg {
        None => None,
        Some("Ed25519") => Some(Algorithm::EdDSA),
        Some(name) => Some(Algorithm::by_name(name).filter(|only| only.family() == key.family())?),
    };
    Some((jwk.kid.into(), JwkEntry { key: Arc::new(key), only }))
}

/// Returns the names of the usable keys in a set, for [`crate::readers`].
pub(super) fn names_in(json: &[u8]) -> Result<Vec<String>, String> {
    let keys = read_set(json).map_err(|error| error.to_string())?;
    let mut names: Vec<String> = keys.into_keys().map(String::from).collect();
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests;
