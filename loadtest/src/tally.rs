//! What is counted while a run goes on. Each thread has its own and hands it over in pieces, which are added up.

use std::collections::BTreeMap;

/// Different reasons that are told apart; further ones are counted together.
const REASONS_MAX: usize = 64;
const OTHER_REASONS: &str = "other reasons";

/// Counts by reason, for a bounded number of reasons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons(BTreeMap<String, u64>);

impl Reasons {
    pub fn count(&mut self, reason: impl AsRef<str>) {
        self.add(reason.as_ref(), 1);
    }

    pub fn absorb(&mut self, other: Self) {
        for (reason, count) in other.0 {
            self.add(&reason, count);
        }
    }

    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub fn into_map(self) -> BTreeMap<String, u64> {
        self.0
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

/// What receivers count.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Handshakes that ended in a WebSocket, and those whose connection became ready to receive.
    pub opened: u64,
    pub ready: u64,
    /// Handshakes that agreed on compression.
    pub compressed: u64,
    /// Ready connections that ended, for whatever reason.
    pub ended: u64,
    /// Attempts that never became ready.
    pub failures: Reasons,
    /// Ready connections that the server closed or that broke.
    pub disconnects: Reasons,
    pub reconnects: u64,
    /// Subscriptions that came back with everything missed, and those that could not.
    pub recovered: u64,
    pub unrecovered: u64,
    /// Publications that came as part of a recovery; they have no latency.
    pub recovered_publications: u64,
    /// Subscriptions that the server ended while the connection stayed.
    pub unsubscribed: u64,
    pub deliveries: u64,
    pub delivered_bytes: u64,
    pub duplicated: u64,
    pub reordered: u64,
    /// Publications without a mark of this run, or for a channel that the connection did not ask for.
    pub foreign: u64,
    /// Messages that could not be understood.
    pub malformed: u64,
    /// When the last delivery came, on [`crate::clock`].
    pub last_delivery_ns: u64,
    /// What slow readers found when they read on.
    pub slow_ends: Reasons,
}

impl Tally {
    pub fn absorb(&mut self, other: Self) {
        let Self {
            opened,
            ready,
            compressed,
            ended,
            failures,
            disconnects,
            reconnects,
            recovered,
            unrecovered,
            recovered_publications,
            unsubscribed,
            deliveries,
            delivered_bytes,
            duplicated,
            reordered,
            foreign,
            malformed,
            last_delivery_ns,
            slow_ends,
        } = other;
        self.slow_ends.absorb(slow_ends);
        self.opened += opened;
        self.ready += ready;
        self.compressed += compressed;
        self.ended += ended;
        self.failures.absorb(failures);
        self.disconnects.absorb(disconnects);
        self.reconnects += reconnects;
        self.recovered += recovered;
        self.unrecovered += unrecovered;
        self.recovered_publications += recovered_publications;
        self.unsubscribed += unsubscribed;
        self.deliveries += deliveries;
        self.delivered_bytes += delivered_bytes;
        self.duplicated += duplicated;
        self.reordered += reordered;
        self.foreign += foreign;
        self.malformed += malformed;
        self.last_delivery_ns = self.last_delivery_ns.max(last_delivery_ns);
    }
}

/// What publishers count.
#[derive(Clone, Debug, Default)]
pub struct PublishTally {
    pub sent: u64,
    pub confirmed: u64,
    pub failures: Reasons,
    /// The longest that a publication left after it was due, in nanoseconds.
    pub late_ns_max: u64,
}

impl PublishTally {
    pub fn absorb(&mut self, other: Self) {
        let Self { sent, confirmed, failures, late_ns_max } = other;
        self.sent += sent;
        self.confirmed += confirmed;
        self.failures.absorb(failures);
        self.late_ns_max = self.late_ns_max.max(late_ns_max);
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
        let map = reasons.into_map();
        assert_eq!((map["reason 0"], map[OTHER_REASONS]), (2, 6));
    }
}
