//! Keeps publications in order while slots move. The publications of a slot are in flight to one master at a time: before
//! one is sent to another master, all that are in flight must have been answered.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use parking_lot::Mutex;
use redis::Value;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::cluster_parts::ClusterPart;
use super::slots::SLOTS;
use super::{Redirect, RedisCluster};
use crate::broker::BrokerError;
use crate::broker::redis::publications::{QueuedPublication, places_of, wait};
use crate::broker::redis::publish_script::OutgoingPublication;

/// Kibibytes of publications that wait for others of their slot, or because the slot moves, each counted as one more than
/// it has. Publications in flight are not included. More are refused.
const WAITING_MAX: usize = 65_536;

/// The first and the longest pause before a server that asked to try later is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// How many redirections in a row are followed without a pause. If there are more, the masters do not agree yet.
const AT_ONCE: u32 = 3;

#[derive(Debug)]
pub(super) struct SlotFlows {
    slots: Box<[Mutex<SlotFlow>]>,
    waiting: Arc<Semaphore>,
    cluster: Weak<RedisCluster>,
    runtime: Handle,
    timeout: Duration,
}

/// The publications of a slot.
#[derive(Debug, Default)]
struct SlotFlow {
    /// The master that publications are in flight to.
    at: Option<Arc<ClusterPart>>,
    in_flight: u32,
    /// Publications that wait, in the order of the calls.
    waiting: VecDeque<WaitingPublication>,
    /// The number of publications so far.
    count: u64,
    /// Whether a task is sending the waiting publications.
    is_seen_to: bool,
    /// Whether a publication was redirected, and the slot's master has made none since. A master may refuse one
    /// publication and take the next, so they are sent one at a time.
    is_in_doubt: bool,
    /// Whether a publication with an idempotency key is in flight. Its key is new, so it is refused for as long as the
    /// slot moves, while a publication sent behind it would be made. So none is sent.
    is_keyed: bool,
}

#[derive(Debug)]
struct WaitingPublication {
    /// The publication's number in its slot, in the order of the calls.
    order: u64,
    one: QueuedPublication,
    /// The master that imports the slot, if the publication is to be sent there; otherwise it goes to the master of the slot.
    next: Option<Arc<ClusterPart>>,
    /// Whether the master that was asked said to try later.
    is_later: bool,
}

/// A publication's place in the flow of its slot, until it was answered.
pub(in crate::broker::redis) struct FlowTicket {
    flows: Arc<SlotFlows>,
    slot: u16,
    order: u64,
}

impl SlotFlows {
    /// Must be called within a tokio runtime.
    pub(super) fn new(cluster: Weak<RedisCluster>, timeout: Duration) -> Self {
        let slots = (0..SLOTS).map(|_| Mutex::default()).collect();
        let waiting = Arc::new(Semaphore::new(WAITING_MAX));
        Self { slots, waiting, cluster, runtime: Handle::current(), timeout }
    }

    fn slot(&self, slot: u16) -> &Mutex<SlotFlow> {
        &self.slots[usize::from(slot % SLOTS)]
    }

    /// Publishes. The publication is in its place when this returns, as with [`Publications::push`].
    ///
    /// [`Publications::push`]: crate::broker::redis::publications::Publications::push
    pub(super) fn push(
        self: &Arc<Self>,
        cluster: &RedisCluster,
        outgoing: OutgoingPublication,
    ) -> impl Future<Output = Result<Value, BrokerError>> + Send + use<> {
        let slot = outgoing.slot();
        let mut flow = self.slot(slot).lock();
        flow.count += 1;
        let order = flow.count;
        match cluster.owner(slot) {
            Ok(owner) if flow.is_free_for(&owner) => {
                flow.in_flight += 1;
                flow.is_keyed = outgoing.has_key();
                let ticket = Some(FlowTicket { flows: self.clone(), slot, order });
                let answer = owner.master.publications.push(outgoing, ticket);
                flow.at = Some(owner);
                return answer.left_future();
            }
            Err(error) if cluster.is_settled() => {
                return std::future::ready(Err(error)).right_future().right_future();
            }
            // It is not known yet which master has the slot.
            Err(_) if flow.in_flight == 0 => self.see_to(&mut flow, slot),
            Ok(_) | Err(_) => {}
        }
        let Ok(place) = self.waiting.clone().try_acquire_many_owned(places_of(&outgoing)) else {
            let error = BrokerError::Unreachable("too many publications wait in the cluster".into());
            return std::future::ready(Err(error)).right_future().right_future();
        };
        let (one, answer) = QueuedPublication::new(outgoing, Instant::now(), place);
        flow.waiting.push_back(WaitingPublication { order, one, next: None, is_later: false });
        wait(answer).left_future().right_future()
    }

    /// Counts one publication less in flight.
    fn answered(self: &Arc<Self>, slot: u16) {
        let mut flow = self.slot(slot).lock();
        flow.in_flight = flow.in_flight.saturating_sub(1);
        if flow.in_flight == 0 {
            // A slot in which nobody publishes any more must not keep a master that is gone.
            flow.at = None;
        }
        if flow.in_flight == 0 && !flow.waiting.is_empty() {
            self.see_to(&mut flow, slot);
        }
    }

    fn see_to(self: &Arc<Self>, flow: &mut SlotFlow, slot: u16) {
        if !std::mem::replace(&mut flow.is_seen_to, true) {
            let flows = self.clone();
            self.runtime.spawn(async move { flows.go_on(slot).await });
        }
    }

    /// Sends waiting publications until one is in flight again.
    async fn go_on(self: Arc<Self>, slot: u16) {
        loop {
            let pause =
                self.slot(slot).lock().waiting.front().map(WaitingPublication::pause).unwrap_or_default();
            tokio::time::sleep(pause).await;
            let cluster = self.cluster.upgrade();
            let (over, is_done) = {
                let mut flow = self.slot(slot).lock();
                let over = if flow.in_flight == 0 { flow.take_over(self.timeout) } else { Vec::new() };
                if flow.in_flight == 0
                    && let Some(next) = flow.waiting.front().map(|first| first.next.clone())
                {
                    let asks = next.is_some();
                    let owner = || cluster.as_ref().and_then(|cluster| cluster.owner(slot).ok());
                    if let Some(to) = next.or_else(owner) {
                        self.send(&mut flow, slot, &to, asks);
                    }
                }
                let is_done = flow.in_flight > 0 || flow.waiting.is_empty();
                flow.is_seen_to = !is_done;
                (over, is_done)
            };
            for one in over {
                let refused =
                    BrokerError::refused(format!("TRYAGAIN slot {slot} is being moved, or no master has it"));
                let error = if one.redirected > 0 { refused } else { BrokerError::Timeout(self.timeout) };
                one.answer(Err(error));
            }
            if is_done {
                return;
            }
            tokio::time::sleep(PAUSES.0).await;
        }
    }

    /// Sends the publications that go the same way as the first, as many as may be in flight together.
    fn send(self: &Arc<Self>, flow: &mut SlotFlow, slot: u16, to: &Arc<ClusterPart>, asks: bool) {
        let goes_there = |waiting: &WaitingPublication| match &waiting.next {
            Some(next) => asks && Arc::ptr_eq(next, to),
            None => !asks,
        };
        while flow.waiting.front().is_some_and(goes_there)
            && let Some(WaitingPublication { order, mut one, .. }) = flow.waiting.pop_front()
        {
            flow.in_flight += 1;
            one.ticket = Some(FlowTicket { flows: self.clone(), slot, order });
            one.asks = asks;
            flow.is_keyed = one.outgoing.has_key();
            to.master.publications.push_again(one);
            if flow.is_in_doubt || flow.is_keyed {
                break;
            }
        }
        flow.at = Some(to.clone());
    }
}

impl SlotFlow {
    /// Whether a new publication may be sent to this master at once.
    fn is_free_for(&self, owner: &Arc<ClusterPart>) -> bool {
        let is_there = || {
            !self.is_in_doubt && !self.is_keyed && self.at.as_ref().is_some_and(|at| Arc::ptr_eq(at, owner))
        };
        self.waiting.is_empty() && (self.in_flight == 0 || is_there())
    }

    /// Drops publications that nobody waits for any more, and takes out those past their deadline.
    fn take_over(&mut self, timeout: Duration) -> Vec<QueuedPublication> {
        self.waiting.retain(|waiting| !waiting.one.is_abandoned());
        let (over, left): (VecDeque<WaitingPublication>, VecDeque<WaitingPublication>) =
            std::mem::take(&mut self.waiting)
                .into_iter()
                .partition(|waiting| waiting.one.begun.elapsed() >= timeout);
        self.waiting = left;
        over.into_iter().map(|waiting| waiting.one).collect()
    }
}

impl WaitingPublication {
    /// Returns how long to wait before the publication is sent again.
    fn pause(&self) -> Duration {
        match self.one.redirected {
            0 => Duration::ZERO,
            times if times <= AT_ONCE && !self.is_later => Duration::ZERO,
            times => (PAUSES.0 * 2_u32.pow(times.min(8) - 1)).min(PAUSES.1),
        }
    }
}

impl FlowTicket {
    /// Puts back a publication that was redirected instead of made, before all later ones.
    pub(in crate::broker::redis) fn put_back(self, mut one: QueuedPublication, redirect: Redirect) {
        let cluster = self.flows.cluster.upgrade();
        let next = cluster.and_then(|cluster| cluster.redirected(self.slot, &redirect));
        // The server that was named is not known yet.
        let is_later =
            redirect == Redirect::Later || (matches!(redirect, Redirect::Ask { .. }) && next.is_none());
        {
            let mut flow = self.flows.slot(self.slot).lock();
            one.redirected += 1;
            flow.is_in_doubt = true;
            let at = flow.waiting.partition_point(|waiting| waiting.order < self.order);
            flow.waiting.insert(at, WaitingPublication { order: self.order, one, next, is_later });
        }
        // If no more publications are in flight, dropping the ticket makes the flow go on.
        drop(self);
    }

    /// Notes that the slot's master made a publication. It takes the following ones too, until the slot moves.
    pub(in crate::broker::redis) fn made(&self) {
        self.flows.slot(self.slot).lock().is_in_doubt = false;
    }

    /// Sends a publication to subscribers that was made at the master that imports its slot. They stay at the old master
    /// until the whole slot has moved.
    pub(in crate::broker::redis) fn tell_the_others(&self, outgoing: &OutgoingPublication, answer: &Value) {
        let (Some(cluster), Some(message)) = (self.flows.cluster.upgrade(), outgoing.message(answer)) else {
            return;
        };
        if let Ok(owner) = cluster.owner(self.slot) {
            let sent = owner.master.publications.push(message, None);
            // If this fails, subscribers compare positions when the slot has moved.
            self.flows.runtime.spawn(async move { drop(sent.await) });
        }
    }
}

impl Drop for FlowTicket {
    fn drop(&mut self) {
        self.flows.answered(self.slot);
    }
}

impl std::fmt::Debug for FlowTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowTicket").field("slot", &self.slot).finish_non_exhaustive()
    }
}
