//! Closes the clients that hold the most memory when the node has nearly used up its budget.
//!
//! Each worker closes its own clients, largest first, after all workers have been asked for their largest: no client is
//! closed while another worker has a larger one; that worker is told to look instead. Only when memory is out, and there is
//! no time to ask, each worker closes its own, down to half of what is known of the others.

use std::io;
use std::time::Duration;

use shared::disconnect::SlowCause;
use shared::moment::Moment;

use crate::client::DropReason;
use crate::memory_budget::UNKNOWN;
use crate::telemetry::LogLimiter;
use crate::worker::Worker;

/// How long a worker waits before it looks at all its clients again, if closing some of them was not enough.
const SHED_INTERVAL: Duration = Duration::from_millis(20);

/// The most bytes held for a client that is still sent the reason for its close.
const CLOSE_MESSAGE_BYTES_MAX: usize = 16 << 10;

/// A worker's state since it last looked for debtors.
#[derive(Debug, Default)]
pub(super) struct SheddingState {
    tried_at: Option<Moment>,
    /// Whether the other workers have been asked since memory ran short.
    has_asked_others: bool,
    log: LogLimiter,
}

impl Worker {
    /// Returns when to look again, while memory is short.
    pub(super) fn next_shedding(&self) -> Option<Duration> {
        self.local.memory.is_short().then_some(SHED_INTERVAL)
    }

    /// Closes the clients that owe the most, until the node has room.
    pub(super) fn shed(&mut self) {
        if !self.local.memory.is_short() {
            self.shedding.has_asked_others = false;
            return;
        }
        let now = self.local.now;
        let is_patient = !self.local.memory.is_out();
        if is_patient && self.shedding.tried_at.is_some_and(|last| now.since(last) < SHED_INTERVAL) {
            return;
        }
        self.local.shared_frames.prune();
        if self.local.memory.is_eased() {
            return;
        }
        let debts = self.clients.iter().filter(|(_, client)| !client.is_closing());
        let debts = debts.map(|(index, client)| (client.memory_bytes(), index));
        let mut debtors: Vec<(usize, usize)> = debts.filter(|(memory_bytes, _)| *memory_bytes > 0).collect();
        // Sorted by debt, the largest last.
        debtors.sort_unstable();
        if !std::mem::replace(&mut self.shedding.has_asked_others, true) {
            self.local
                .memory
                .compare(self.local.index, debtors.last().map_or(0, |(memory_bytes, _)| *memory_bytes));
            self.local.memory.ask_others(self.local.index);
            self.local.node.have_others_shed(self.local.index);
            if !self.local.memory.is_out() {
                return;
            }
        }
        let mut closed = 0;
        while let Some((memory_bytes, index)) = debtors.pop() {
            let others = self.local.memory.compare(self.local.index, memory_bytes);
            let is_anothers_turn = match self.local.memory.is_out() {
                true => others != UNKNOWN && others / 2 > memory_bytes,
                false => others > memory_bytes,
            };
            if self.local.memory.is_eased() || is_anothers_turn {
                break;
            }
            closed += 1;
            self.shed_client(index);
        }
        if debtors.is_empty() {
            self.local.memory.compare(self.local.index, 0);
        }
        if self.local.memory.is_eased() {
            self.shedding.tried_at = None;
        } else {
            self.shedding.tried_at = Some(now);
            // Another worker may have larger debtors.
            self.local.node.have_others_shed(self.local.index);
        }
        if closed > 0 {
            self.metrics.moves.memory_closes_total.inc_by(closed);
            if let Some(suppressed) = self.shedding.log.admit() {
                let (used, budget) = (self.local.memory.used(), self.local.memory.budget());
                tracing::warn!(
                    closed,
                    used,
                    budget,
                    suppressed,
                    "memory is short: the clients with the most pending data are closed"
                );
            }
        }
    }

    fn shed_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.is_finishing() {
            // The client has left, and its commands are still carried out. Only its answers are dropped.
            if let Err(gone) = client.handle_unwritable(&mut self.local, io::ErrorKind::OutOfMemory) {
                self.remove(index, &gone);
            }
            return;
        }
        client.handle_overflow(&mut self.local, SlowCause::MemoryShort);
        // Otherwise these bytes would be held until the socket is dropped, and other clients would be closed instead.
        client.drop_incoming();
        if client.outbox.bytes() > CLOSE_MESSAGE_BYTES_MAX {
            // The close frame would wait behind the rest of a message in progress, which holds the memory.
            self.remove(index, &DropReason::Closed);
        } else {
            client.account(&mut self.local);
            self.local.schedule(&self.clients[index]);
        }
        // Frees frames that only this client had waited for.
        self.local.shared_frames.prune();
    }

    /// Reports what the largest debtor on this worker owes.
    pub(super) fn report_largest(&self) {
        let debts = self.clients.iter().map(|(_, client)| client.memory_bytes());
        self.local.memory.compare(self.local.index, debts.max().unwrap_or(0));
    }

    pub(super) fn shed_for_others(&mut self) {
        self.report_largest();
        // The worker that asks has reported its own.
        self.shedding.has_asked_others = true;
        self.shed();
    }
}
