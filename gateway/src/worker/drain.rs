//! Drains a worker: closes its clients one after the other over a grace period, and the rest at the end.

use std::time::Duration;

use gateway_core::drain::Pacing;
use shared::disconnect::Disconnect;
use shared::moment::Moment;

use crate::client::{ClientKey, DropReason};
use crate::worker::Worker;

/// How often a draining worker checks whether the next client is due to be closed.
pub(super) const DRAIN_STEP: Duration = Duration::from_millis(20);

/// The drain of a worker, which closes every client by a given time.
#[derive(Debug)]
pub(super) struct WorkerDrain {
    began: Moment,
    pacing: Pacing,
    /// Clients yet to close, in reverse order.
    left: Vec<ClientKey>,
    closed: usize,
    /// Clients that were due while one of their commands was in flight. The command is answered first.
    busy: Vec<ClientKey>,
    until: Moment,
}

impl Worker {
    pub(super) fn begin_drain(&mut self, until: Moment) {
        self.hand_back_callers();
        self.rebalancing = None;
        let mut left = self.closing_order();
        left.reverse();
        let pacing = Pacing::new(left.len(), until.since(self.local.now));
        self.drain =
            Some(WorkerDrain { began: self.local.now, pacing, left, closed: 0, busy: Vec::new(), until });
    }

    /// Closes the clients that are due by now.
    pub(super) fn step_drain(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let mut ended = Vec::new();
        let due = drain.pacing.due(self.local.now.since(drain.began), drain.closed);
        drain.closed += due;
        let first = drain.left.len().saturating_sub(due);
        let mut turns = std::mem::take(&mut drain.busy);
        turns.extend(drain.left.split_off(first).into_iter().rev());
        let is_last = self.local.now >= drain.until;
        for key in turns {
            let index = key.index as usize;
            let client = self.clients.get(index).filter(|client| client.key == key);
            // A client that has left ends by itself, after its commands are carried out.
            let Some(client) = client.filter(|client| !client.is_finishing()) else {
                continue;
            };
            if client.session.is_busy() && !is_last {
                drain.busy.push(key);
                continue;
            }
            ended.push(index);
        }
        for index in ended {
            self.end(index, None, |client| client.session.handle_disconnect(Disconnect::SHUTDOWN));
        }
    }

    /// Closes everything when the worker stops. Clients still here are told so, if a single write can do it.
    pub(super) fn close_everything(&mut self) {
        self.local.inbox.close();
        self.serve_everyone();
        let indexes: Vec<usize> = self.clients.iter().map(|(index, _)| index).collect();
        for index in indexes {
            let client = &mut self.clients[index];
            if client.is_finishing() {
                self.local.tally.commands_given_up += client.session.unfinished() as u64;
            }
            client.session.handle_disconnect(Disconnect::SHUTDOWN);
            client.perform(&mut self.local);
            // The socket is dropped whether or not this succeeds.
            let _ = client.flush(&mut self.local);
            self.remove(index, &DropReason::Closed);
        }
        self.report(Duration::ZERO);
    }
}
