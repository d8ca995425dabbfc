//! Delivery of the newest values in place of all, for subscribers that want the current state and not its history.
//!
//! A value is a publication. Publications with the same key, or without one, are values of the same thing. While a value
//! waits, a newer value of its key replaces it ([`NewestQueue`]): so no key waits twice, each keeps its turn, and the last
//! value arrives. Values wait in two places. For subscribers that want at most a number of deliveries a second, they wait
//! in the hub, once for all that want the same number ([`NewestWindow`]). For a client whose socket takes no more, they
//! wait for that client alone ([`Lanes`]).

mod lanes;
mod newcomers;
mod newest_options;
mod waiting;
mod window;

use std::time::Duration;

pub use lanes::{LaneFull, LanePut, Lanes, NextWrite};
pub use newcomers::NEWCOMER_GROUPS_MAX;
pub use newest_options::{DeliveryMode, NewestOptions};
pub use waiting::{DueValue, NewestQueue, NewestValue};
pub use window::{Closed, NewestWindow, WindowShare, WindowTimers};

/// The tag with the number of values that a publication has superseded and that its subscriber was not sent.
pub const SUPERSEDED_TAG: &str = "tidegate.superseded";

/// How a subscriber receives the newest values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NewestTerms {
    /// The most deliveries a second. 0: whenever there is something new and room for it.
    pub times_per_s: u32,
    /// The most bytes a second, as they are written to its connection. 0: as many as it takes.
    pub bytes_per_s: u32,
    /// How long a value may wait before it is dropped, in milliseconds. 0: as long as it takes.
    pub value_ttl_ms: u32,
    /// The most keys that may wait for one client.
    pub keys_max: u32,
}

impl NewestTerms {
    /// Returns the time from one delivery to the next; zero if there is no bound.
    pub fn interval(&self) -> Duration {
        interval(self.times_per_s)
    }
}

/// Returns the time from one delivery to the next, at this many a second; zero if there is no bound.
pub(crate) fn interval(times_per_s: u32) -> Duration {
    match times_per_s {
        0 => Duration::ZERO,
        times => Duration::from_millis((1_000 / u64::from(times)).max(1)),
    }
}
