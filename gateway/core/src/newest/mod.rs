//! The newest value in place of all: what is sent to subscribers who want to know how things stand, and not how they came
//! to stand so.
//!
//! A value is a publication; those with the same key, or without one, are values of the same thing. While a value waits, a
//! newer one of its key takes its place ([`NewestQueue`]): so no key waits twice, each keeps its turn, and the last one arrives.
//! Values wait in two places. Those of subscribers who want so many a second wait in the hub, once for all who want
//! as many ([`NewestWindow`]); those of a client whose socket takes no more wait for that client ([`Lanes`]).

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

/// The tag that tells how many values a publication has superseded that its subscriber was not sent.
pub const SUPERSEDED_TAG: &str = "tidegate.superseded";

/// How a subscriber is sent the newest values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NewestTerms {
    /// At most so many times a second. 0: whenever there is something new and room for it.
    pub times_per_s: u32,
    /// At most so many bytes a second, as they are written to its connection. 0: as many as it takes.
    pub bytes_per_s: u32,
    /// A value that has waited for so many milliseconds is dropped. 0: it waits for as long as it takes.
    pub value_ttl_ms: u32,
    /// Keys that may wait for one client.
    pub keys_max: u32,
}

impl NewestTerms {
    /// From one time to the next; zero if it need not wait.
    pub fn interval(&self) -> Duration {
        interval(self.times_per_s)
    }
}

/// From one time to the next, of so many a second; zero where there is no bound.
pub(crate) fn interval(times_per_s: u32) -> Duration {
    match times_per_s {
        0 => Duration::ZERO,
        times => Duration::from_millis((1_000 / u64::from(times)).max(1)),
    }
}
