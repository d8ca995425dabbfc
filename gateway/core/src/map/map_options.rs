//! The settings of a namespace whose channels keep state by key.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::MapRetention;
use crate::history::{KeysBeside, Retention};

/// For namespaces whose `subscription_type` is `map`, `map_clients` or `map_users`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MapOptions {
    /// `ephemeral`: keys expire, and who comes back reads all of them anew. `recoverable`: keys expire, and a stream of
    /// changes beside them lets subscribers recover. `persistent`: the same, and keys stay until they are removed.
    pub mode: MapMode,
    /// Seconds a key is kept after it was last written. Not for `persistent`, needed otherwise.
    pub key_ttl_s: u64,
    /// Keys of one channel. A publication of one more is refused with 106.
    pub keys_max: u32,
    /// Changes kept in the stream of each channel. Not for `ephemeral`.
    pub stream_size: u32,
    /// Seconds the stream is kept after its last change. Not for `ephemeral`.
    pub stream_ttl_s: u64,
    /// State is read in the order of scores, the highest first, and not of keys.
    pub ordered: bool,
    /// Which key a client writes and removes: the one it names (`any`), or the one of its own `client_id` or `user_id`,
    /// whatever it names.
    pub client_key: ClientKey,
    /// A client that leaves the channel takes the key of its client id with it.
    pub remove_client_on_unsubscribe: bool,
    /// Subscribers with a user may publish keys.
    pub allow_publish: bool,
    /// The same for anonymous clients, as far as the two others say.
    pub allow_publish_anonymous: bool,
    /// Clients with a user may publish keys without being subscribed.
    pub allow_publish_for_client: bool,
    /// Subscribers with a user may remove keys.
    pub allow_remove: bool,
    /// The same for anonymous clients, as far as the two others say.
    pub allow_remove_anonymous: bool,
    /// Clients with a user may remove keys without being subscribed.
    pub allow_remove_for_client: bool,
    /// The `map_publish` hook says whether clients may set keys, which, and to what: whoever is not refused by it may,
    /// whatever the other options say. Needs `backend.map_publish.url`.
    pub publish_hook: bool,
    /// The same of removing them, and `backend.map_remove.url`.
    pub remove_hook: bool,
    /// Keys of a page where a client does not say how many it wants.
    pub page_size: u32,
    /// Keys of a page at most.
    pub page_size_max: u32,
    /// Milliseconds a client has from its first page of state until it is live.
    pub catch_up_timeout_ms: u64,
}

impl Default for MapOptions {
    fn default() -> Self {
        Self {
            mode: MapMode::Ephemeral,
            key_ttl_s: 60,
            keys_max: 10_000,
            stream_size: 100,
            stream_ttl_s: 60,
            ordered: false,
            client_key: ClientKey::Any,
            remove_client_on_unsubscribe: false,
            allow_publish: false,
            allow_publish_anonymous: false,
            allow_publish_for_client: false,
            allow_remove: false,
            allow_remove_anonymous: false,
            allow_remove_for_client: false,
            publish_hook: false,
            remove_hook: false,
            page_size: 100,
            page_size_max: 1_000,
            catch_up_timeout_ms: 5_000,
        }
    }
}

impl MapOptions {
    /// Returns what the channels keep.
    pub fn keeping(&self) -> MapRetention {
        let retained = match self.mode {
            MapMode::Ephemeral => Retention::default(),
            MapMode::Recoverable | MapMode::Persistent => {
                Retention::new(self.stream_size, Duration::from_secs(self.stream_ttl_s))
            }
        };
        let (key_ttl, beside) = match self.mode {
            MapMode::Persistent => (None, KeysBeside::Staying),
            MapMode::Ephemeral | MapMode::Recoverable => {
                (Some(Duration::from_secs(self.key_ttl_s)), KeysBeside::Expiring)
            }
        };
        let stream = Retention { beside, ..retained };
        MapRetention { stream, key_ttl, ordered: self.ordered, keys_max: self.keys_max, quiet: false }
    }

    pub fn catch_up_timeout(&self) -> Duration {
        Duration::from_millis(self.catch_up_timeout_ms)
    }

    /// Returns the number of keys of a page for a client that asks for `wanted`; 0: the default.
    pub fn page_limit(&self, wanted: u32) -> u32 {
        let limit = if wanted == 0 { self.page_size } else { wanted };
        limit.clamp(1, self.page_size_max.max(1))
    }
}

/// How long keys live, and whether their changes can be recovered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MapMode {
    #[default]
    Ephemeral,
    Recoverable,
    Persistent,
}

/// Which key a client writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientKey {
    #[default]
    Any,
    ClientId,
    UserId,
}
