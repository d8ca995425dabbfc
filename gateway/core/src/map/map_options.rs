//! The settings of a namespace whose channels keep state by key.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::MapRetention;
use crate::history::{KeysBeside, Retention};

/// Maps: channels of a namespace whose `subscription_type` is `map`, `map_clients` or `map_users`.
/// `[namespaces.NAME.map]` has the same keys.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MapOptions {
    /// What a map keeps. `ephemeral`: keys expire, and a returning subscriber reads all keys again. `recoverable`:
    /// keys expire, and a stream of changes lets subscribers recover. `persistent`: as `recoverable`, but keys stay
    /// until they are removed.
    pub mode: MapMode,
    /// Time that a key is kept after it was last written, in seconds. Not used by `persistent`.
    pub key_ttl_s: u64,
    /// The most keys of one channel. A publication of a further key is refused with 106.
    pub keys_max: u32,
    /// The most changes kept in a channel's stream. Not used by `ephemeral`.
    pub stream_size: u32,
    /// Time that a channel's stream is kept after its last change, in seconds. Not used by `ephemeral`.
    pub stream_ttl_s: u64,
    /// Returns keys in descending order of their scores, instead of in the order of keys.
    pub ordered: bool,
    /// The key that a client writes and removes. `any`: the key that the client names. `client_id` or `user_id`: the
    /// client's own id or its user's, whatever key it names.
    pub client_key: ClientKey,
    /// Removes the key with a client's id when that client leaves the channel.
    pub remove_client_on_unsubscribe: bool,
    /// Allows subscribers with a user to publish keys.
    pub allow_publish: bool,
    /// Allows anonymous subscribers to publish keys; with `allow_publish_for_client`, also anonymous clients that are
    /// not subscribed.
    pub allow_publish_anonymous: bool,
    /// Allows clients with a user to publish keys without being subscribed. Does not apply to private channels or
    /// channels that name their users or client.
    pub allow_publish_for_client: bool,
    /// Allows subscribers with a user to remove keys.
    pub allow_remove: bool,
    /// Allows anonymous subscribers to remove keys; with `allow_remove_for_client`, also anonymous clients that are
    /// not subscribed.
    pub allow_remove_anonymous: bool,
    /// Allows clients with a user to remove keys without being subscribed. Does not apply to private channels or
    /// channels that name their users or client.
    pub allow_remove_for_client: bool,
    /// Asks the `map_publish` hook whether a client may set a key. The hook may change the key and the value; its
    /// answer overrides the other options. Needs `backend.map_publish.url`.
    pub publish_hook: bool,
    /// Asks the `map_remove` hook whether a client may remove a key; its answer overrides the other options. Needs
    /// `backend.map_remove.url`.
    pub remove_hook: bool,
    /// Keys of a page, unless the client asks for another number.
    pub page_size: u32,
    /// The most keys of a page.
    pub page_size_max: u32,
    /// Time limit from a client's first page of keys until its subscription is live, in milliseconds.
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
