//! A node that keeps nearly all it may for its clients closes those for whom it keeps the most.
//!
//! Each worker looks at its own, largest first, once all have been asked what their largest owes: none is closed while
//! another worker has a larger one. That worker is told to look instead. Only where no time is left for asking, each
//! worker closes what it has, down to half of what is known of others.

use std::io;
use std::time::Duration;

use shared::disconnect::SlowCause;
use shared::moment::Moment;

use crate::client::Gone;
use crate::memory_budget::UNKNOWN;
use crate::telemetry::LogLimiter;
use crate::worker::Worker;

/// How long a worker waits before it looks at all its clients again, if closing some of them was not enough.
const SHED_INTERVAL: Duration = Duration::from_millis(20);

/// The most that is kept for a client that is told why it is closed.
const GOODBYE_BYTES_MAX: usize = 16 << 10;

/// What a worker remembers of its last look.
#[derive(Debug, Default)]
pub(super) struct SheddingState {
    tried_at: Option<Moment>,
    /// Since memory is short, the others have been asked.
    has_asked_others: bool,
    log: LogLimiter,
}

impl Worker {
    /// When to look again, while memory is short.
    pub(super) fn next_shedding(&self) -> Option<Duration> {
        self.local.memory.is_short().then_some(SHED_INTERVAL)
    }

    /// Closes debtors until the node has room, if it has none.
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
        let debts = debts.map(|(index, client)| (client.owes(), index));
        let mut debtors: Vec<(usize, usize)> = debts.filter(|(owes, _)| *owes > 0).collect();
        // The largest last.
        debtors.sort_unstable();
        if !std::mem::replace(&mut self.shedding.has_asked_others, true) {
            self.local.memory.compare(self.local.index, debtors.last().map_or(0, |(owes, _)| *owes));
            self.local.memory.ask_others(self.local.index);
            self.local.node.have_others_shed(self.local.index);
            if !self.local.memory.is_out() {
                return;
            }
        }
        let mut closed = 0;
        while let Some((owes, index)) = debtors.pop() {
            let others = self.local.memory.compare(self.local.index, owes);
            let is_anothers_turn = match self.local.memory.is_out() {
                true => others != UNKNOWN && others / 2 > owes,
                false => others > owes,
            };
            if self.local.memory.is_eased() || is_anothers_turn {
                break;
            }
            closed += 1;
            self.close_debtor(index);
        }
        if debtors.is_empty() {
            self.local.memory.compare(self.local.index, 0);
        }
        if self.local.memory.is_eased() {
            self.shedding.tried_at = None;
        } else {
            self.shedding.tried_at = Some(now);
            // Another may have larger ones.
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
                    "memory is short: the largest debtors are closed"
                );
            }
        }
    }

    fn close_debtor(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.is_finishing() {
            // It has left, and what it asked for is still done. Only its answers are given up.
            if let Err(gone) = client.handle_unwritable(&mut self.local, io::ErrorKind::OutOfMemory) {
                self.remove(index, &gone);
            }
            return;
        }
        client.handle_overflow(&mut self.local, SlowCause::MemoryShort);
        // It would be held until the socket goes, and others would be closed in its place.
        client.drop_incoming();
        if client.outbox.bytes() > GOODBYE_BYTES_MAX {
            // The goodbye would stand behind the rest of a message that has begun, which is what takes the room.
            self.remove(index, &Gone::Closed);
        } else {
            client.account(&mut self.local);
            self.local.schedule(&self.clients[index]);
        }
        // What only it had waited for goes with it.
        self.local.shared_frames.prune();
    }

    /// What the largest debtor here owes, for others to know.
    pub(super) fn tell_of_debtors(&self) {
        let debts = self.clients.iter().map(|(_, client)| client.owes());
        self.local.memory.compare(self.local.index, debts.max().unwrap_or(0));
    }

    pub(super) fn look_at_debtors(&mut self) {
        self.tell_of_debtors();
        // Whoever asks has told.
        self.shedding.has_asked_others = true;
        self.shed();
    }
}
