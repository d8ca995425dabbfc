//! Closes clients that other nodes have room for: on request, on its own initiative, and all of them when the node stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::balance::{
    BalanceConfig, ImbalanceWatch, NodeFreshness, NodeLoad, SeenNode, ShedPlan, ShedRun, WorkerShares,
    drain_time, homeless,
};
use gateway_core::drain;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use shared::moment::Moment;
use tokio::sync::{Notify, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::node::Node;
use crate::node::control::NodeInfo;
use crate::worker::inbox::WorkerEvent;
use crate::worker::rebalance::{RebalanceReport, RebalanceRequest};

/// How often a step of a plan is due.
const STEP: Duration = Duration::from_millis(50);
/// How often the load of other nodes is checked: as often as they announce themselves.
const LOOK: Duration = Duration::from_secs(3);
/// How much longer than planned it may take to close clients that have commands in flight.
const OVERTIME: Duration = Duration::from_secs(10);
/// How long a worker may take to close its part of a step.
const WORKER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a stopping node waits to learn the load of the others.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(2);

/// A request to close the clients that the node has above the mean of all nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ShedWanted {
    /// `None`: as configured. The same holds for `tolerance_percent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance_percent: Option<u32>,
    /// Stop closing clients.
    pub stop: bool,
}

/// The outcome of a request to shed clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShedState {
    /// The node begins to close `to_close` clients.
    Started,
    /// Nothing to do: the node has not too many clients, or the others have no room for them.
    #[default]
    Balanced,
    /// The node was shedding already and continues with its earlier plan.
    Running,
    /// The node was shedding and has stopped.
    Stopped,
    /// Nothing to do: the node was told to stop and was not shedding.
    Idle,
    /// Refused: the node is being stopped and closes all its clients.
    Draining,
    /// Refused: the load of the other nodes is not known.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ShedReport {
    pub state: ShedState,
    /// The node's clients when it began to shed.
    pub before: u32,
    /// The mean number of clients over all nodes, rounded up.
    pub mean: u32,
    pub to_close: u32,
    /// How many clients have been closed so far.
    pub closed: u32,
    /// How long the whole plan takes.
    pub over_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Balancing {
    settings: RwLock<BalanceConfig>,
    hold_ms: AtomicU64,
    accepts_per_s: AtomicU32,
    is_leaving: AtomicBool,
    freshness: Mutex<NodeFreshness>,
    leave_requested: Notify,
    running: Mutex<Option<RunningShed>>,
    begun: Notify,
}

#[derive(Clone, Copy, Debug)]
struct RunningShed {
    shedding: ShedRun,
    until: Moment,
}

impl RunningShed {
    fn report(&self, state: ShedState) -> ShedReport {
        let ShedPlan { before, mean, to_close, over, .. } = self.shedding.plan();
        let over_ms = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
        ShedReport { state, before, mean, to_close, closed: self.shedding.closed(), over_ms }
    }
}

/// What each worker has been asked to close while one plan is carried out.
#[derive(Debug)]
struct AskedWorkers {
    /// How many clients of each worker may still be closed. 0 for a worker that has not answered yet.
    left: Vec<u32>,
    /// Answers that are overdue, by worker.
    late: Vec<Option<LateAnswer>>,
}

#[derive(Debug)]
struct LateAnswer {
    count: u32,
    answer: oneshot::Receiver<RebalanceReport>,
}

impl AskedWorkers {
    fn new(workers: usize) -> Self {
        Self { left: vec![0; workers], late: (0..workers).map(|_| None).collect() }
    }

    /// Takes overdue answers that have arrived. Returns how many clients these closed.
    fn take_late(&mut self) -> u32 {
        let mut closed = 0;
        for (left, late) in self.left.iter_mut().zip(&mut self.late) {
            let Some(answer) = late else { continue };
            match answer.answer.try_recv() {
                Ok(gone) => {
                    closed += gone.closed;
                    *left = gone.left;
                }
                Err(oneshot::error::TryRecvError::Empty) => continue,
                // The worker has stopped.
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
            *late = None;
        }
        closed
    }

    /// Returns how many clients the outstanding answers may account for.
    fn pending(&self) -> u32 {
        self.late.iter().flatten().map(|late| late.count).sum()
    }
}

/// Why a node does not begin to shed, or stops.
#[derive(Clone, Copy, Debug)]
enum ShedEnd {
    Done,
    Late,
    Leaving,
    OthersUnknown,
    Stopped,
}

impl Balancing {
    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    pub(super) fn accepts_per_s(&self) -> u32 {
        self.accepts_per_s.load(Ordering::Relaxed)
    }

    /// Waits until the node is to be stopped.
    pub(super) async fn leave_requested(&self) {
        self.leave_requested.notified().await;
    }
}

impl NodeInfo {
    fn load(&self) -> NodeLoad {
        NodeLoad {
            clients: self.num_clients,
            draining: self.draining,
            // A node that cannot use a part of its broker is not ready, so load balancers send it no clients.
            room: if self.lacks.is_empty() { self.room } else { Some(0) },
            accepts_per_s: self.accepts_per_s,
        }
    }
}

impl NodeInfo {
    fn seen(&self) -> SeenNode {
        SeenNode { load: self.load(), uptime_s: self.uptime, node: self.uid.clone() }
    }
}

impl Node {
    /// Sets what applies from the next shedding or drain on.
    pub(crate) fn set_balance(
        &self,
        settings: &BalanceConfig,
        drain: &drain::DrainSettings,
        accepts_per_s: u32,
    ) {
        *self.balancing.settings.write() = settings.clone();
        self.balancing.hold_ms.store(drain.presence_hold_ms, Ordering::Relaxed);
        self.balancing.accepts_per_s.store(accepts_per_s, Ordering::Relaxed);
    }

    /// Returns how many more clients this node accepts. `None` if it has not begun to accept clients.
    pub(super) fn room(&self) -> Option<u32> {
        let max = Some(self.metrics.connection.max.get()).filter(|max| *max > 0)?;
        Some(u32::try_from((max - self.metrics.connections()).max(0)).unwrap_or(u32::MAX))
    }

    fn own_clients(&self) -> u32 {
        u32::try_from(self.metrics.connections()).unwrap_or(0)
    }

    /// Records when the other nodes announced themselves.
    pub(super) fn receive_loads(&self, others: &[NodeInfo]) {
        let others: Vec<SeenNode> = others.iter().map(NodeInfo::seen).collect();
        self.balancing.freshness.lock().update(self.clock.now(), &others);
    }

    /// Returns the load of every other node, provided that this node can use all of the broker and that each of them has
    /// announced itself lately.
    async fn loads(&self) -> Option<Vec<NodeLoad>> {
        let nodes = self.nodes().await.ok().filter(|_| self.uses_all_parts())?;
        let others: Vec<SeenNode> =
            nodes.iter().filter(|node| *node.uid != *self.id.0).map(NodeInfo::seen).collect();
        let is_fresh = self.balancing.freshness.lock().update(self.clock.now(), &others);
        is_fresh.then(|| others.into_iter().map(|other| other.load).collect())
    }

    /// Begins to close the clients that this node has above the mean, or stops doing so. Returns a report.
    pub(super) async fn shed(&self, wanted: ShedWanted) -> ShedReport {
        let nothing = |state| ShedReport { state, before: self.own_clients(), ..ShedReport::default() };
        if wanted.stop {
            return self.end_shedding(ShedEnd::Stopped).unwrap_or_else(|| nothing(ShedState::Idle));
        }
        if self.balancing.is_leaving() {
            return nothing(ShedState::Draining);
        }
        let Some(others) = self.loads().await else { return nothing(ShedState::Unknown) };
        let settings = self.balancing.settings.read().clone();
        let over = Duration::from_secs(wanted.over_s.unwrap_or(settings.over_s));
        let tolerance = wanted.tolerance_percent.unwrap_or(settings.tolerance_percent);
        self.begin_shedding(ShedPlan::new(self.own_clients(), &others, tolerance, over))
    }

    fn begin_shedding(&self, plan: ShedPlan) -> ShedReport {
        let mut running = self.balancing.running.lock();
        if let Some(running) = &*running {
            return running.report(ShedState::Running);
        }
        let now = self.clock.now();
        let begun = RunningShed { shedding: ShedRun::new(now, plan), until: now + plan.over + OVERTIME };
        if plan.to_close == 0 {
            return begun.report(ShedState::Balanced);
        }
        let ShedPlan { before, mean, to_close, over, .. } = plan;
        tracing::info!(before, mean, to_close, ?over, "closing clients that other nodes have room for");
        self.hold_departures(Duration::from_millis(self.balancing.hold_ms.load(Ordering::Relaxed)));
        self.metrics.moves.balance_closes_pending.set(to_close.into());
        *running = Some(begun);
        self.balancing.begun.notify_one();
        begun.report(ShedState::Started)
    }

    /// Stops the plan that is running, if any, and reports what it did.
    fn end_shedding(&self, end: ShedEnd) -> Option<ShedReport> {
        let running = self.balancing.running.lock().take()?;
        self.metrics.moves.balance_closes_pending.set(0);
        let closed = running.shedding.closed();
        tracing::info!(closed, ?end, "this node has stopped closing clients for other nodes");
        Some(running.report(ShedState::Stopped))
    }

    /// Checks whether this node has had too many clients for long enough, and begins to shed if so.
    async fn look_around(&self, watch: &mut ImbalanceWatch) {
        let settings = self.balancing.settings.read().clone();
        let is_idle = settings.auto && !self.balancing.is_leaving();
        let others = if is_idle { self.loads().await } else { None };
        let plan = watch.look(self.clock.now(), self.own_clients(), others.as_deref(), &settings);
        if let Some(plan) = plan {
            if watch.is_in_vain() {
                tracing::warn!(
                    "closing clients has not balanced the nodes so far: check that the load balancer sends \
                     new connections to the node with the fewest"
                );
            }
            self.begin_shedding(plan);
        }
    }

    async fn carry_out_plan(&self, number: u64) {
        self.close_by_plan(number).await;
        // Queued behind every request to close clients.
        self.inboxes.iter().for_each(|inbox| inbox.push(WorkerEvent::StopRebalancing));
    }

    /// Closes clients step by step until the plan is done or has to end early.
    async fn close_by_plan(&self, number: u64) {
        let mut step = interval(STEP);
        step.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut workers = AskedWorkers::new(self.inboxes.len());
        let mut looked = self.clock.now();
        // This has each worker sort its clients, which takes about 20 ms for 100,000 of them. One worker at a time, so
        // that they never all pause at once.
        for worker in 0..self.inboxes.len() {
            if self.balancing.running.lock().is_none() || self.balancing.is_leaving() {
                break;
            }
            let mut counts = vec![None; self.inboxes.len()];
            counts[worker] = Some(0);
            self.rebalance(number, counts, &mut workers, WORKER_TIMEOUT).await;
        }
        let mut shares = WorkerShares::new(workers.left.clone());
        loop {
            step.tick().await;
            let (now, own) = (self.clock.now(), self.own_clients());
            if now.since(looked) >= LOOK {
                looked = now;
                let Some(others) = self.loads().await else {
                    self.end_shedding(ShedEnd::OthersUnknown);
                    return;
                };
                if let Some(running) = &mut *self.balancing.running.lock() {
                    running.shedding.update(own, &others);
                }
            }
            let Some(RunningShed { shedding, until }) = *self.balancing.running.lock() else { return };
            let end = match () {
                () if self.balancing.is_leaving() => Some(ShedEnd::Leaving),
                () if shedding.is_over(own) => Some(ShedEnd::Done),
                () if now > until => Some(ShedEnd::Late),
                () => None,
            };
            if let Some(end) = end {
                self.end_shedding(end);
                return;
            }
            let mut closed = workers.take_late();
            shares.fill_in(&workers.left);
            let due = shedding.due(now, own).saturating_sub(closed + workers.pending());
            let due = due.min(step_max(shedding.plan()));
            if due > 0 {
                let counts = shares.next(due, &workers.left).into_iter().map(Some).collect();
                closed += self.rebalance(number, counts, &mut workers, WORKER_TIMEOUT).await;
            }
            if closed == 0 {
                continue;
            }
            if let Some(running) = &mut *self.balancing.running.lock() {
                running.shedding.note_closed(closed);
                let pending = running.shedding.plan().to_close.saturating_sub(running.shedding.closed());
                self.metrics.moves.balance_closes_pending.set(pending.into());
            }
        }
    }

    /// Has each worker close its share, except workers with an overdue answer. Returns how many clients were closed; the
    /// metrics include them already.
    async fn rebalance(
        &self,
        plan: u64,
        counts: Vec<Option<u32>>,
        workers: &mut AskedWorkers,
        patience: Duration,
    ) -> u32 {
        let requests = self.inboxes.iter().zip(counts).enumerate().filter_map(|(worker, (inbox, count))| {
            let count = count.filter(|_| workers.late[worker].is_none())?;
            let (done, mut pending) = oneshot::channel();
            inbox.push(WorkerEvent::Rebalance(RebalanceRequest { plan, count, done }));
            Some(async move {
                let answer = tokio::time::timeout(patience, &mut pending).await;
                (worker, count, answer.map_err(|_| pending))
            })
        });
        let requests: Vec<_> = requests.collect();
        let mut closed = 0;
        for (worker, count, answer) in join_all(requests).await {
            workers.left[worker] = 0;
            match answer {
                Ok(Ok(gone)) => {
                    closed += gone.closed;
                    workers.left[worker] = gone.left;
                }
                // A worker that has stopped has no clients.
                Ok(Err(_)) => {}
                Err(answer) => workers.late[worker] = Some(LateAnswer { count, answer }),
            }
        }
        closed
    }

    /// Announces that this node is to be stopped, so that no more clients are sent to it.
    pub(crate) fn begin_leaving(&self) {
        self.balancing.is_leaving.store(true, Ordering::Relaxed);
        self.balancing.leave_requested.notify_one();
    }

    /// Returns over how long this stopping node closes its clients. If there are other nodes, they show these clients in
    /// presence for a while longer.
    pub(crate) async fn time_to_drain(&self, drain: &drain::DrainSettings) -> Duration {
        let millis = Duration::from_millis;
        let grace = millis(drain.grace_ms);
        let others = match tokio::time::timeout(OTHERS_TIMEOUT, self.loads()).await {
            Ok(Some(others)) => others,
            _ => {
                tracing::warn!(
                    "the load of other nodes is not known; clients are closed at the configured rate"
                );
                return grace;
            }
        };
        // If this is the only node, no client can come back before it is gone.
        let is_alone = others.iter().all(|other| other.draining);
        self.hold_departures(if is_alone { Duration::ZERO } else { millis(drain.presence_hold_ms) });
        let clients = self.own_clients();
        let (time, needed) = drain_time(clients, &others, grace, millis(drain.grace_max_ms));
        if let Some(needed) = needed {
            tracing::warn!(clients, ?time, ?needed, "clients are closed faster than other nodes accept them");
        }
        let homeless = homeless(clients, &others);
        if homeless > 0 && others.iter().any(|other| !other.draining) {
            tracing::warn!(clients, homeless, "other nodes have no room for all clients of this one");
        }
        time
    }
}

/// Returns the most clients that one step closes. Clients that were not closed while workers were asked are caught up
/// over several steps as well.
fn step_max(plan: ShedPlan) -> u32 {
    let steps = (plan.over.as_millis() / STEP.as_millis()).max(1);
    let each = u128::from(plan.to_close).div_ceil(steps);
    u32::try_from(2 * each).unwrap_or(u32::MAX)
}

/// Carries out plans and checks for imbalance, for as long as the node runs.
pub(super) async fn keep_balanced(node: Arc<Node>) {
    let mut watch = ImbalanceWatch::default();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    loop {
        tokio::select! {
            () = node.balancing.begun.notified() => {}
            _ = look.tick() => node.look_around(&mut watch).await,
        }
        let is_running = node.balancing.running.lock().is_some();
        if is_running {
            number += 1;
            node.carry_out_plan(number).await;
            // Whatever started this plan, the automatic one waits its full interval after it.
            watch.begin_anew();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::publish::tests::node;
    use crate::worker::inbox::{Inbox, InboxQueue};

    fn order_in(inbox: &Inbox) -> Option<RebalanceRequest> {
        let mut queue = InboxQueue::default();
        inbox.take(&mut queue);
        queue.events.into_iter().find_map(|event| match event {
            WorkerEvent::Rebalance(rebalance) => Some(rebalance),
            _ => None,
        })
    }

    #[tokio::test]
    async fn what_a_slow_worker_has_closed_counts_when_it_says_so_and_it_is_not_asked_again_before() {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let inbox = Arc::new(Inbox::new(waker, 64, 1 << 20));
        let node = node(vec![inbox.clone()]);
        let mut workers = AskedWorkers::new(1);
        let patience = Duration::from_millis(10);
        assert_eq!(node.rebalance(1, vec![Some(3)], &mut workers, patience).await, 0);
        assert_eq!((workers.pending(), workers.take_late()), (3, 0), "it may still close them");
        let rebalance = order_in(&inbox).expect("it was asked");
        assert_eq!(rebalance.count, 3);
        assert_eq!(node.rebalance(1, vec![Some(2)], &mut workers, patience).await, 0);
        assert!(order_in(&inbox).is_none(), "it has not answered");
        rebalance.done.send(RebalanceReport { closed: 2, left: 5 }).unwrap();
        assert_eq!(workers.take_late(), 2);
        assert_eq!((workers.pending(), workers.left[0]), (0, 5));
        assert_eq!(workers.take_late(), 0, "once");
    }
}
