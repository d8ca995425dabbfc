//! The settings of a namespace for the delivery of newest values.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::NewestTerms;
use crate::history::Retention;
use crate::map::MapRetention;

/// Who is sent the newest value of each key in place of all, and whether newest values are kept for those who come. For
/// channels of the type `stream`. `[namespaces.NAME.newest]` has the same keys.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewestOptions {
    /// What subscribers are sent who do not say: `all` publications, or the `latest` of each key, where a newer value takes
    /// the place of an older one that has not been sent yet.
    pub delivery: DeliveryMode,
    /// Subscribers may say which they want, and change it while they are subscribed.
    pub allow_choice: bool,
    /// Those who are sent the latest get something at most so many times a second, if they do not say. 0: whenever there is
    /// something new and their connection takes it.
    pub times_per_s: u32,
    /// The most that they may ask for. 0: no bound.
    pub times_per_s_max: u32,
    /// The same in bytes a second, as they are written to the connection.
    pub bytes_per_s: u32,
    /// The most that they may ask for. 0: no bound.
    pub bytes_per_s_max: u32,
    /// Milliseconds after which a value that still waits is dropped: it would come too late to be true. Nor are kept
    /// values older than that given to those who come. 0: values do not age.
    pub value_ttl_ms: u32,
    /// Keys that may wait for one client in one channel, and keys kept for a channel. A client for which more would wait is
    /// told to subscribe anew (2500); a publication of one more key than can be kept is refused with 106.
    pub keys_max: u32,
    /// The newest value of each key is kept, and given to whoever subscribes, before all that comes after it.
    pub snapshot: bool,
    /// Seconds for which a value is kept if no newer one of its key comes. Needs `snapshot`.
    pub snapshot_ttl_s: u32,
}

/// Which publications of a channel a subscriber is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryMode {
    #[default]
    All,
    Latest,
}

impl Default for NewestOptions {
    fn default() -> Self {
        Self {
            delivery: DeliveryMode::All,
            allow_choice: false,
            times_per_s: 0,
            times_per_s_max: 0,
            bytes_per_s: 0,
            bytes_per_s_max: 0,
            value_ttl_ms: 0,
            keys_max: 10_000,
            snapshot: false,
            snapshot_ttl_s: 3_600,
        }
    }
}

impl NewestOptions {
    /// Whether publications may have keys.
    pub fn takes_keys(&self) -> bool {
        self.delivery == DeliveryMode::Latest || self.allow_choice || self.snapshot
    }

    /// Returns the terms of subscribers that do not ask for others.
    pub fn latest(&self) -> NewestTerms {
        NewestTerms {
            times_per_s: self.times_per_s,
            bytes_per_s: self.bytes_per_s,
            value_ttl_ms: self.value_ttl_ms,
            keys_max: self.keys_max,
        }
    }

    /// Returns what is kept by key, beside the stream. `None`: nothing.
    pub fn keeping(&self, stream: Retention) -> Option<MapRetention> {
        let snapshot_ttl = Duration::from_secs(self.snapshot_ttl_s.into());
        let true_for = Duration::from_millis(self.value_ttl_ms.into());
        let key_ttl = if true_for.is_zero() { snapshot_ttl } else { snapshot_ttl.min(true_for) };
        self.snapshot.then_some(MapRetention {
            stream,
            key_ttl: Some(key_ttl),
            ordered: false,
            keys_max: self.keys_max,
            quiet: true,
        })
    }
}
