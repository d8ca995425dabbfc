//! What is counted and timed while a run goes on. Each thread has its own and hands it over in pieces, which are added
//! up; the sums stand in the report under the names that they have here.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::latencies::{Latencies, milliseconds};

/// Different reasons that are told apart; further ones are counted together.
const REASONS_MAX: usize = 64;
const OTHER_REASONS: &str = "other reasons";

/// What adds up over threads, and over pieces of one thread.
pub trait Absorb {
    fn absorb(&mut self, other: Self);
}

/// Structures of figures that add up field by field.
macro_rules! figures {
    ($($(#[$about:meta])* pub struct $name:ident { $($(#[$what:meta])* pub $field:ident: $kind:ty,)* })*) => {$(
        $(#[$about])*
        #[derive(Serialize, Clone, Debug, Default, PartialEq)]
        pub struct $name { $($(#[$what])* pub $field: $kind,)* }

        impl Absorb for $name {
            fn absorb(&mut self, other: Self) {
                $(self.$field.absorb(other.$field);)*
            }
        }
    )*};
}

figures! {
    /// What receivers count and time.
    pub struct Received {
        pub connections: ConnectionCounts,
        pub deliveries: DeliveryCounts,
    }

    /// What becomes of connections.
    pub struct ConnectionCounts {
        /// Attempts that became ready to receive; with reconnects there may be more than requested.
        pub ready: u64,
        /// Attempts that never became ready.
        pub failures: Reasons,
        /// From the moment a connection was due until its transport was open.
        pub open: Latencies,
        /// From the moment a connection was due until its last subscription was confirmed.
        pub to_ready: Latencies,
        /// Handshakes that agreed on compression.
        pub compressed: u64,
        /// Ready connections that ended, for whatever reason.
        #[serde(skip)]
        pub ended: u64,
        /// Ready connections that the server closed or that broke.
        pub disconnect_reasons: Reasons,
        pub reconnects: u64,
        /// Subscriptions that came back with everything missed, and those that could not.
        pub recovered: u64,
        pub unrecovered: u64,
        /// Publications that came as part of a recovery; they have no latency.
        pub recovered_publications: u64,
        /// Subscriptions that the server ended while the connection stayed.
        pub unsubscribed: u64,
        /// What slow readers found when they read on.
        pub slow_ends: Reasons,
    }

    /// What arrives.
    pub struct DeliveryCounts {
        pub received: u64,
        pub payload_bytes: u64,
        pub duplicated: u64,
        pub reordered: u64,
        /// Publications without a mark of this run, or for a channel that the connection did not ask for.
        pub foreign: u64,
        /// Messages that could not be understood.
        pub malformed: u64,
        /// From the moment a publication was due to its delivery.
        pub latency: Latencies,
        /// When the last one came, on [`crate::clock`].
        #[serde(skip)]
        pub last_ns: Largest,
    }

    /// What publishers count and time.
    pub struct Published {
        pub sent: u64,
        pub confirmed: u64,
        pub failures: Reasons,
        /// From the moment a publication was due until the server confirmed it.
        pub answered: Latencies,
        /// The longest that one left after it was due.
        pub late_ms_max: Largest,
    }

    /// What is missing when a subscription ends.
    pub struct Verdict {
        /// Should have come to a live subscription, and did not.
        pub lost: u64,
        /// Of the lost, those after everything that came. They may have been on their way still when waiting ended.
        pub lost_at_end: u64,
        /// Missing, but nobody knows whether it was ever published: its publisher got an error.
        pub uncertain: u64,
        /// Missed between two lives of a subscription that could not be recovered.
        pub missed_away: u64,
    }
}

impl Absorb for u64 {
    fn absorb(&mut self, other: Self) {
        *self += other;
    }
}

impl Absorb for Latencies {
    fn absorb(&mut self, other: Self) {
        self.merge(&other);
    }
}

/// The largest of some nanoseconds; milliseconds in the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Largest(pub u64);

impl Absorb for Largest {
    fn absorb(&mut self, other: Self) {
        self.0 = self.0.max(other.0);
    }
}

impl Serialize for Largest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        milliseconds(self.0).serialize(serializer)
    }
}

/// Counts by reason, for a bounded number of reasons.
#[derive(Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons(BTreeMap<String, u64>);

impl Reasons {
    pub fn count(&mut self, reason: impl AsRef<str>) {
        self.add(reason.as_ref(), 1);
    }

    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    fn add(&mut self, reason: &str, count: u64) {
        if let Some(known) = self.0.get_mut(reason) {
            *known += count;
        } else if self.0.len() < REASONS_MAX {
            self.0.insert(reason.to_owned(), count);
        } else {
            *self.0.entry(OTHER_REASONS.to_owned()).or_default() += count;
        }
    }
}

impl Absorb for Reasons {
    fn absorb(&mut self, other: Self) {
        for (reason, count) in other.0 {
            self.add(&reason, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_beyond_the_bound_are_counted_together() {
        let mut reasons = Reasons::default();
        for index in 0..REASONS_MAX + 6 {
            reasons.count(format!("reason {index}"));
        }
        reasons.count("reason 0");
        assert_eq!(reasons.total(), REASONS_MAX as u64 + 7);
        assert_eq!((reasons.0["reason 0"], reasons.0[OTHER_REASONS]), (2, 6));
    }

    #[test]
    fn counts_add_up_and_of_the_latest_the_latest_stays() {
        let of = |received, last_ns| DeliveryCounts {
            received,
            last_ns: Largest(last_ns),
            ..DeliveryCounts::default()
        };
        let mut sum = of(2, 9);
        sum.absorb(of(3, 7));
        assert_eq!(sum, of(5, 9));
    }
}
