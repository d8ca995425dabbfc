//! Closes some of a worker's clients, so that they return to other nodes: as many as the node asks for, in a fair order.

use std::collections::VecDeque;

use gateway_core::balance::closing_order;
use shared::disconnect::Disconnect;
use tokio::sync::oneshot;

use crate::client::ClientKey;
use crate::worker::Worker;

/// A request to close some of a worker's clients.
#[derive(Debug)]
pub(crate) struct RebalanceRequest {
    /// The number of the node's plan. The closing order is made once for each plan.
    pub(crate) plan: u64,
    pub(crate) count: u32,
    pub(crate) done: oneshot::Sender<RebalanceReport>,
}

/// The result of the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct RebalanceReport {
    pub(crate) closed: u32,
    /// Clients that may still be closed.
    pub(crate) left: u32,
}

/// The order in which clients are closed.
#[derive(Debug)]
pub(super) struct Rebalancing {
    plan: u64,
    order: VecDeque<ClientKey>,
}

impl Worker {
    /// Returns all clients that can be closed, in closing order. Computed in one go: either the node is stopping and its
    /// clients are leaving anyway, or one worker does this at a time.
    pub(super) fn closing_order(&self) -> Vec<ClientKey> {
        let clients = self.clients.iter().map(|(_, client)| client);
        let open = clients.filter(|client| !client.is_closing() && !client.is_finishing());
        closing_order(open.map(|client| (client.protocol.format(), client.opened, client.key)))
    }

    pub(super) fn rebalance(&mut self, wanted: RebalanceRequest) {
        let RebalanceRequest { plan, count, done } = wanted;
        // A draining worker is closing all clients already.
        let gone =
            if self.drain.is_some() { RebalanceReport::default() } else { self.close_some(plan, count) };
        // The requester may have given up.
        let _ = done.send(gone);
    }

    fn close_some(&mut self, plan: u64, count: u32) -> RebalanceReport {
        let going_on = self.rebalancing.take().filter(|rebalancing| rebalancing.plan == plan);
        let mut order = going_on.map_or_else(|| self.closing_order().into(), |going_on| going_on.order);
        let mut busy = Vec::new();
        let mut closed = 0;
        while closed < count
            && let Some(key) = order.pop_front()
        {
            let index = key.index as usize;
            let client = self.clients.get(index).filter(|client| client.key == key);
            let Some(client) = client.filter(|client| !client.is_closing() && !client.is_finishing()) else {
                continue;
            };
            // The client's command is answered first. It is due again after all others.
            if client.session.is_busy() {
                busy.push(key);
                continue;
            }
            self.end(index, None, |client| client.session.handle_disconnect(Disconnect::SHUTDOWN));
            closed += 1;
        }
        // Counted here rather than by the requester, so that clients are counted however late the answer is.
        self.metrics.moves.balance_closes_total.inc_by(closed.into());
        order.extend(busy);
        let left = u32::try_from(order.len()).unwrap_or(u32::MAX);
        self.rebalancing = Some(Rebalancing { plan, order });
        RebalanceReport { closed, left }
    }
}
