//! The settings of a namespace for the delivery of newest values.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::NewestTerms;
use crate::history::Retention;
use crate::map::MapRetention;

/// Delivery of only the newest value of each key, and snapshots of these values for new subscribers. For channels of
/// the type `stream`. `[namespaces.NAME.newest]` has the same keys.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewestOptions {
    /// What subscribers receive unless they choose: `all` publications, or the `latest` of each key, where a newer
    /// value replaces an older one that is not sent yet.
    pub delivery: DeliveryMode,
    /// Allows subscribers to choose what they receive, and to change it while they are subscribed.
    pub allow_choice: bool,
    /// The most deliveries per second to a subscriber that receives the latest values, unless it asks for another
    /// rate. 0: whenever there is a new value and the connection takes it.
    pub times_per_s: u32,
    /// The highest `times_per_s` that a subscriber may ask for. 0: no bound.
    pub times_per_s_max: u32,
    /// The most bytes per second to a subscriber that receives the latest values, as written to the connection,
    /// unless it asks for another rate. 0: no limit.
    pub bytes_per_s: u32,
    /// The highest `bytes_per_s` that a subscriber may ask for. 0: no bound.
    pub bytes_per_s_max: u32,
    /// Time after which a value is out of date, in milliseconds: it is dropped if it still waits to be sent, and left
    /// out of snapshots. 0: values do not expire.
    pub value_ttl_ms: u32,
    /// The most keys that wait for one client in one channel, and the most keys kept for a channel. A client that
    /// would exceed it is told to subscribe again (2500). A publication of a further key in a channel with a snapshot
    /// is refused with 106.
    pub keys_max: u32,
    /// Keeps the newest value of each key, and sends these values to new subscribers before later publications.
    pub snapshot: bool,
    /// Time that a value is kept if no newer one of its key follows, in seconds. Needs `snapshot`.
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
