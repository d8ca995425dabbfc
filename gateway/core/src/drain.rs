//! How fast a node that stops lets its clients go.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a node shuts down.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainSettings {
    /// Time for which `/readyz` reports not ready while the node still accepts connections, in milliseconds: long
    /// enough for the load balancer to notice.
    pub notice_ms: u64,
    /// Time over which clients are closed evenly with 3001, in milliseconds.
    pub grace_ms: u64,
    /// The longest time to which `grace_ms` is extended if other nodes accept connections more slowly
    /// (`limits.accepts_per_s`), in milliseconds. 0: `grace_ms` is not extended.
    pub grace_max_ms: u64,
    /// Time limit for the last clients to leave after that, in milliseconds, before the node exits. Set it to at
    /// least `presence_hold_ms`: otherwise other clients see the last clients leave and return. A node with nothing
    /// to wait for exits at once.
    pub linger_ms: u64,
    /// Time for which a client that was closed to reconnect elsewhere stays in presence, in milliseconds: if the
    /// client is back by then, others do not see it leave. It ends when the node exits. 0: the client leaves at once.
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
