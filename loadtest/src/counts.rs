//! Counts and latencies of a run. Each thread has counts of its own, which the recorder collects and adds up. The sums
//! stand in the report under the names of their fields.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::latencies::{Latencies, milliseconds};

/// The number of reasons that are counted apart. Further reasons are counted together.
const REASONS_MAX: usize = 64;
const OTHER_REASONS: &str = "other reasons";

/// Figures that add up over threads, and over the collections of one thread.
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

    /// How connections begin and end.
    pub struct ConnectionCounts {
        /// Attempts that became ready. With reconnects there may be more of them than connections.
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
        /// Subscriptions that recovered everything, and subscriptions that could not.
        pub recovered: u64,
        pub unrecovered: u64,
        /// Publications that came with a recovery. They are not timed.
        pub recovered_publications: u64,
        /// Subscriptions that the server ended while the connection stayed.
        pub unsubscribed: u64,
        /// How the connections of slow readers ended.
        pub slow_ends: Reasons,
    }

    /// What subscribers received.
    pub struct DeliveryCounts {
        pub received: u64,
        pub payload_bytes: u64,
        pub duplicated: u64,
        pub reordered: u64,
        /// Publications without a mark of this run, or for a channel that the connection did not ask for.
        pub foreign: u64,
        /// Messages that could not be decoded.
        pub malformed: u64,
        /// From the moment a publication was due to its delivery.
        pub latency: Latencies,
        /// When the last publication came, on [`crate::clock`].
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
        /// The longest time between when a publication was due and when it left.
        pub late_ms_max: Largest,
    }

    /// What is missing when a subscription ends.
    pub struct Verdict {
        /// Publications that should have come to a live subscription, and did not.
        pub lost: u64,
        /// Lost publications behind the last one that came. They may still have been on their way when waiting ended.
        pub lost_at_end: u64,
        /// Missing publications whose publisher got an error, so that they may never have been published.
        pub uncertain: u64,
        /// Publications that were missed while a connection was gone, and not recovered.
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

/// The largest of some times in nanoseconds. The report has it in milliseconds.
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
}
