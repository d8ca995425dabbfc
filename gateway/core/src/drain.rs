//! How fast a node that stops lets its clients go.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a node stops.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainSettings {
    /// How long `/readyz` says no before the node stops accepting, in milliseconds: the time a load balancer
    /// takes to notice.
    pub notice_ms: u64,
    /// The time over which clients are closed with 3001, evenly, in milliseconds.
    pub grace_ms: u64,
    /// The most that time may become where other nodes accept connections more slowly (`limits.accepts_per_s`), in
    /// milliseconds. 0: it stays what `grace_ms` says, whatever others accept.
    pub grace_max_ms: u64,
    /// How long the last clients may take to leave after that, in milliseconds, before the node exits. Not less than
    /// `presence_hold_ms`, or the last clients are seen to have been away. A node that waits for nothing exits at once.
    pub linger_ms: u64,
    /// How long others still see a client in its channels after it was closed so that it comes back to another node, in
    /// milliseconds: a user who is back by then was never away. Not beyond the end of the node itself. 0: not at all.
    pub presence_hold_ms: u64,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self { notice_ms: 1000, grace_ms: 20_000, grace_max_ms: 0, linger_ms: 5000, presence_hold_ms: 5000 }
    }
}

/// Spreads the closing of connections evenly over a grace period, so that the reconnects are spread, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pacing {
    connections: u64,
    grace: Duration,
}

impl Pacing {
    /// Paces the drain of a node that has this many connections when it begins.
    pub fn new(connections: usize, grace: Duration) -> Self {
        Self { connections: connections as u64, grace }
    }

    /// Returns how many connections have to be closed, in total, once `elapsed` of the grace period has passed. The first
    /// goes at once, the last before the end, and none is left when it ends.
    pub fn closed_by(&self, elapsed: Duration) -> u64 {
        if elapsed >= self.grace {
            return self.connections;
        }
        // The k-th of n goes at (k - 1) / n of the period; u128 because both factors can be large.
        let gone = u128::from(self.connections) * elapsed.as_nanos() / self.grace.as_nanos();
        u64::try_from(gone).unwrap_or(u64::MAX).saturating_add(1).min(self.connections)
    }

    /// Returns how many connections to close now. `gone` counts the connections that this drain has closed and those that
    /// have left by themselves since it began.
    pub fn due(&self, elapsed: Duration, gone: usize) -> usize {
        usize::try_from(self.closed_by(elapsed)).unwrap_or(usize::MAX).saturating_sub(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_evenly_over_the_grace_period() {
        let pacing = Pacing::new(1000, Duration::from_secs(20));
        let mut gone = 0;
        for second in 0..20 {
            let due = pacing.due(Duration::from_millis(second * 1000 + 999), gone);
            assert_eq!(due, 50, "second {second}");
            gone += due;
        }
        assert_eq!(gone, 1000);
    }

    #[test]
    fn the_first_leaves_at_once_and_the_last_before_the_end() {
        for (connections, grace_ms) in [(1, 5000), (3, 1000), (7, 20_000), (1001, 333)] {
            let grace = Duration::from_millis(grace_ms);
            let pacing = Pacing::new(connections, grace);
            assert_eq!(pacing.due(Duration::ZERO, 0), 1, "{connections} over {grace:?}");
            assert_eq!(
                pacing.due(grace - Duration::from_nanos(1), 0),
                connections,
                "{connections} over {grace:?}"
            );
        }
    }

    #[test]
    fn those_who_leave_by_themselves_slow_the_closing_down() {
        let pacing = Pacing::new(100, Duration::from_secs(10));
        assert_eq!(pacing.due(Duration::from_secs(5), 51), 0);
        assert_eq!(pacing.due(Duration::from_secs(5), 90), 0);
        assert_eq!(pacing.due(Duration::from_secs(5), 40), 11);
    }

    #[test]
    fn without_a_grace_period_all_leave_at_once() {
        let pacing = Pacing::new(5, Duration::ZERO);
        assert_eq!(pacing.due(Duration::ZERO, 0), 5);
        assert_eq!(Pacing::new(0, Duration::from_secs(1)).closed_by(Duration::ZERO), 0);
    }
}
