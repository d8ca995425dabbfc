//! Decides how many clients a node closes so that other nodes get their share, how fast, and in which order.
//!
//! Clients stay where they are when nodes are added, and the last node of a rolling restart has none. A load balancer
//! distributes clients only when they connect. So a node with more clients than the mean closes the excess, and these
//! clients come back to nodes that have fewer.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::moment::Moment;

use crate::drain::Pacing;

mod order;
mod watch;

pub use order::{WorkerShares, closing_order};
pub use watch::{ImbalanceWatch, NodeFreshness, SeenNode};

/// Rebalancing: when and how fast a node closes clients so that they reconnect to nodes with fewer.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct BalanceConfig {
    /// Rebalances automatically when a node has exceeded the tolerance for `auto_after_s`. Only for load balancers
    /// that send clients to the node with the fewest connections.
    pub auto: bool,
    /// Time for which a node must have exceeded the tolerance before it rebalances automatically, in seconds.
    pub auto_after_s: u64,
    /// The tolerated excess of a node's clients over the mean of all nodes, in percent. A node within it closes no
    /// clients.
    pub tolerance_percent: u32,
    /// Time over which the clients above the mean are closed evenly, in seconds. It is extended if other nodes accept
    /// connections more slowly (`limits.accepts_per_s`).
    pub over_s: u64,
}

impl Default for BalanceConfig {
    fn default() -> Self {
        Self { auto: false, auto_after_s: 60, tolerance_percent: 10, over_s: 60 }
    }
}

/// The load of another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeLoad {
    pub clients: u32,
    /// Whether it is being stopped. It takes no clients, and its own are about to move to other nodes.
    pub draining: bool,
    /// How many more clients it takes. `None`: unknown.
    pub room: Option<u32>,
    /// How many connections it accepts per second. 0: any number.
    pub accepts_per_s: u32,
}

/// How a node closes the clients that exceed its share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShedPlan {
    /// The clients it has now.
    pub before: u32,
    /// The mean over all nodes that stay, rounded up. No node that follows its plan ends below it.
    pub mean: u32,
    /// 0: the node does not have too many, or no other node has room for them.
    pub to_close: u32,
    pub over: Duration,
    /// The number of nodes that stay, including this one.
    pub nodes: u32,
}

impl ShedPlan {
    /// Makes a plan for a node with `own` clients beside `others`. `over`: the least time to take.
    ///
    /// Each node closes its own clients above the mean, at most its part of what the others have room for. So several nodes
    /// that do this at the same time close, together, no more than the nodes below the mean lack.
    pub fn new(own: u32, others: &[NodeLoad], tolerance_percent: u32, over: Duration) -> Self {
        let staying = || others.iter().filter(|node| !node.draining);
        let count = staying().count() as u64 + 1;
        // Clients of nodes that stop are included: they are about to come.
        let total = u64::from(own) + others.iter().map(|node| u64::from(node.clients)).sum::<u64>();
        let mean = total.div_ceil(count);
        let own_excess = u64::from(own).saturating_sub(mean);
        let is_tolerable =
            u64::from(own) * count * 100 <= total.saturating_mul(100 + u64::from(tolerance_percent));
        let lacking = |node: &NodeLoad| {
            let lacks = mean.saturating_sub(node.clients.into());
            node.room.map_or(lacks, |room| lacks.min(room.into()))
        };
        let wanted: u64 = staying().map(lacking).sum();
        let excess: u64 =
            own_excess + staying().map(|node| u64::from(node.clients).saturating_sub(mean)).sum::<u64>();
        let part = if wanted >= excess { own_excess } else { wanted * own_excess / excess };
        let to_close = if is_tolerable { 0 } else { part };
        // Only nodes that lack clients get any, and they get them from all nodes that close clients at the same time.
        let takers = others.iter().filter(|node| !node.draining && lacking(node) > 0);
        let rate = rate_of(takers, 0);
        let needed = rate.map_or(Duration::ZERO, |rate| time_for(wanted.min(excess), rate));
        let over = if to_close == 0 { over } else { over.max(needed) };
        Self { before: own, mean: narrow(mean), to_close: narrow(to_close), over, nodes: narrow(count) }
    }
}

/// Returns how many clients a second the `takers` accept from one node, while `beside` other nodes close clients, too.
/// `None`: any number.
fn rate_of<'a>(takers: impl Iterator<Item = &'a NodeLoad>, beside: u32) -> Option<u64> {
    let mut sum = 0_u64;
    for node in takers {
        if node.accepts_per_s == 0 {
            return None;
        }
        sum += u64::from(node.accepts_per_s);
    }
    (sum > 0).then(|| (sum / (u64::from(beside) + 1)).max(1))
}

fn time_for(clients: u64, per_s: u64) -> Duration {
    Duration::from_millis(clients.saturating_mul(1000).div_ceil(per_s))
}

/// Returns how long a stopping node takes to close its clients, so that the other nodes can accept them.
///
/// `grace` is the configured time and `grace_max` the most it may become. Other nodes that stop at the same time use their
/// part of what is accepted. The second part of the result is the time that would be needed, if it is longer.
pub fn drain_time(
    clients: u32,
    others: &[NodeLoad],
    grace: Duration,
    grace_max: Duration,
) -> (Duration, Option<Duration>) {
    let beside = others.iter().filter(|node| node.draining && node.clients > 0).count();
    let staying = others.iter().filter(|node| !node.draining);
    let needed = rate_of(staying, u32::try_from(beside).unwrap_or(u32::MAX))
        .map_or(Duration::ZERO, |rate| time_for(clients.into(), rate));
    let time = needed.clamp(grace, grace_max.max(grace));
    (time, (needed > time).then_some(needed))
}

/// Returns for how many of `clients` the other nodes have no room.
pub fn homeless(clients: u32, others: &[NodeLoad]) -> u32 {
    let mut room = 0_u64;
    for node in others.iter().filter(|node| !node.draining) {
        let Some(more) = node.room else { return 0 };
        room += u64::from(more);
    }
    narrow(u64::from(clients).saturating_sub(room))
}

fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// By how much the mean may seem to have risen while clients are on their way, in percent.
const SLACK_PERCENT: u64 = 5;

/// A plan that is being carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShedRun {
    plan: ShedPlan,
    pacing: Pacing,
    began: Moment,
    closed: u32,
    goal: u32,
}

impl ShedRun {
    pub fn new(now: Moment, plan: ShedPlan) -> Self {
        let pacing = Pacing::new(plan.to_close as usize, plan.over);
        Self { plan, pacing, began: now, closed: 0, goal: plan.mean }
    }

    pub fn plan(&self) -> ShedPlan {
        self.plan
    }

    pub fn closed(&self) -> u32 {
        self.closed
    }

    /// Returns how many clients to close now, on a node that has `own` clients. Never so many that fewer than the mean are
    /// left.
    pub fn due(&self, now: Moment, own: u32) -> u32 {
        let due = self.pacing.due(now.since(self.began), self.closed as usize);
        narrow(due as u64).min(own.saturating_sub(self.goal))
    }

    pub fn note_closed(&mut self, closed: u32) {
        self.closed = self.closed.saturating_add(closed);
    }

    /// Takes in new numbers of the other nodes. Only a higher mean counts: clients that are on their way lower it for a
    /// moment. It counts if it is higher by more than [`SLACK_PERCENT`], or if fewer nodes stay: the numbers of different
    /// nodes differ in age, and a client that moves in between is counted twice.
    pub fn update(&mut self, own: u32, others: &[NodeLoad]) {
        let now = ShedPlan::new(own, others, 0, Duration::ZERO);
        let slack = (u64::from(self.goal) * SLACK_PERCENT).div_ceil(100);
        if now.nodes < self.plan.nodes || u64::from(now.mean) > u64::from(self.goal) + slack {
            self.goal = self.goal.max(now.mean);
        }
    }

    /// Whether the plan is complete, on a node that has `own` clients.
    pub fn is_over(&self, own: u32) -> bool {
        self.closed >= self.plan.to_close || own <= self.goal
    }
}

#[cfg(test)]
mod tests;
