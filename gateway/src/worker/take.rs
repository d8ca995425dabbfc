//! Handles the events in a worker's inbox in order, and no more in one turn than leaves time for sockets and timers.

use gateway_core::hub::Prepared;
use shared::disconnect::Disconnect;
use shared::push::UnsubscribeCode;

use crate::client::read::CommandOutcome;
use crate::node::control::ControlTarget;
use crate::worker::Worker;
use crate::worker::inbox::WorkerEvent;

/// The most writes to subscribers in one turn: about four milliseconds.
const WRITES_MAX: usize = 1_024;
/// The most payload bytes in these writes.
const BYTES_MAX: usize = 4 << 20;

/// The writes and bytes left for this turn.
#[derive(Debug, Default)]
pub(super) struct TurnBudget {
    writes: usize,
    bytes: usize,
}

impl TurnBudget {
    pub(super) fn renew(&mut self) {
        *self = Self { writes: WRITES_MAX, bytes: BYTES_MAX };
    }

    /// Deducts the delivery of publications to this many subscribers.
    pub(super) fn take(&mut self, subscribers: usize, publications: &[std::sync::Arc<Prepared>]) {
        let bytes: usize = publications.iter().map(|prepared| prepared.bytes()).sum();
        self.writes = self.writes.saturating_sub(subscribers);
        self.bytes = self.bytes.saturating_sub(subscribers.saturating_mul(bytes));
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.writes == 0 || self.bytes == 0
    }
}

impl Worker {
    /// Whether events taken from the inbox wait for the next turn.
    pub(super) fn is_behind(&self) -> bool {
        !self.gathered.is_empty()
            || !self.key_updates.is_empty()
            || !self.taken.events.is_empty()
            || !self.taken.lost.is_empty()
    }

    pub(super) fn take_inbox(&mut self, buffer: &mut [u8]) {
        self.share.renew();
        // Events pushed meanwhile do not wake the worker, so it must not sleep before they are taken.
        self.untaken = self.is_behind();
        if !self.untaken {
            self.local.inbox.take(&mut self.taken);
        }
        loop {
            self.deliver_gathered();
            self.deliver_key_updates();
            if !self.gathered.is_empty() || !self.key_updates.is_empty() {
                return;
            }
            match self.taken.events.pop_front() {
                Some(WorkerEvent::Publication(prepared)) => {
                    self.gathered.add(prepared);
                    self.gather_on();
                    self.close_gathered();
                }
                // All other events keep their order with publications.
                Some(other) => self.handle_event(other, buffer),
                None => break,
            }
        }
        for (channel, position) in std::mem::take(&mut self.taken.lost) {
            self.deliver_waiting(&channel);
            // Subscribers of a channel without history were promised nothing. The metrics count the loss.
            if let Some(position) = position {
                self.sweep(|hub, sweep| hub.lost(channel.as_str(), position, sweep));
            }
        }
        // Nothing was gathered, but a flush interval may have passed.
        self.close_gathered();
        self.deliver_gathered();
    }

    fn gather_on(&mut self) {
        while matches!(self.taken.events.front(), Some(WorkerEvent::Publication(_))) {
            if let Some(WorkerEvent::Publication(prepared)) = self.taken.events.pop_front() {
                self.gathered.add(prepared);
            }
        }
    }

    /// Delivers the publications that were taken and not yet delivered.
    pub(super) fn serve_taken(&mut self) {
        loop {
            self.share.renew();
            self.deliver_gathered();
            self.deliver_key_updates();
            if self.gathered.is_empty() && self.key_updates.is_empty() {
                match self.taken.events.pop_front() {
                    Some(WorkerEvent::Publication(prepared)) => {
                        self.gathered.add(prepared);
                        self.gather_on();
                        self.close_gathered();
                    }
                    Some(WorkerEvent::News(news)) => self.begin_key_update(news),
                    // Other events concern clients that are about to be closed.
                    Some(_) => {}
                    None => return,
                }
            }
        }
    }

    fn handle_event(&mut self, event: WorkerEvent, buffer: &mut [u8]) {
        match event {
            WorkerEvent::Open(new) => {
                let index = self.clients.vacant_key();
                self.serve(index, |worker| worker.open(*new, buffer));
            }
            WorkerEvent::Publication(prepared) => {
                self.deliver(prepared.channel(), std::slice::from_ref(&prepared))
            }
            WorkerEvent::News(news) => self.begin_key_update(news),
            WorkerEvent::Anew(channel) => {
                let everyone = ControlTarget::default();
                self.for_each_target(&everyone, Some(&channel), |client| {
                    client.session.handle_unsubscribe(&channel, UnsubscribeCode::InsufficientState);
                });
            }
            WorkerEvent::Lost(channel, position) => {
                self.deliver_waiting(&channel);
                self.sweep(|hub, sweep| hub.lost(channel.as_str(), position, sweep))
            }
            WorkerEvent::Outcome(key, outcome) => {
                self.serve(key.index as usize, |worker| worker.handle_outcome(key, outcome));
            }
            WorkerEvent::Call(new) => self.open_caller(*new),
            WorkerEvent::Answered(key, answer) => self.answer_caller(key, *answer, buffer),
            WorkerEvent::Turned(key, turned) => {
                self.serve(key.index as usize, |worker| worker.handle_turned(key, turned, buffer));
            }
            WorkerEvent::Message(session, message, taken) => {
                let index = self.local.node.session_ids.place(session).1 as usize;
                let mut received = CommandOutcome::Gone;
                self.serve(index, |worker| received = worker.handle_message(index, session, message));
                // The requester may have given up.
                let _ = taken.send(received);
            }
            WorkerEvent::Disconnect(target, disconnect, acted) => {
                let count = self.for_each_target(&target, None, |client| {
                    client.session.handle_disconnect(disconnect.clone());
                });
                acted.add(count);
            }
            WorkerEvent::Displaced(key) => {
                let index = key.index as usize;
                // Another client may have the place by now.
                if self.clients.get(index).is_some_and(|client| client.key == key) {
                    self.end(index, None, |client| {
                        client.session.handle_disconnect(Disconnect::CONNECTION_LIMIT);
                    });
                }
            }
            WorkerEvent::Unsubscribe(target, channel, acted) => {
                let count = self.for_each_target(&target, Some(&channel), |client| {
                    client.session.handle_unsubscribe(&channel, UnsubscribeCode::Server);
                });
                acted.add(count);
            }
            WorkerEvent::CloseOthers(user, client) => self.close_other_connections(&user, client),
            WorkerEvent::Subscribe(target, wanted, acted) => self.subscribe(&target, &wanted, &acted),
            WorkerEvent::AskClients(target, asking) => {
                self.for_each_of(&target, |client, local| client.ask_client(local, &asking));
            }
            WorkerEvent::ForgetAsks(target) => {
                self.for_each_of(&target, |client, _| client.forget_asks());
            }
            WorkerEvent::Refresh(target, renewal, acted) => {
                acted.add(self.for_each_of(&target, |client, local| {
                    client.session.handle_refresh(local.now, renewal.clone());
                }));
            }
            // The requester may have given up.
            WorkerEvent::Count(channels, counted) => drop(counted.send(self.count_subscribers(&channels))),
            WorkerEvent::List(wanted, from, limit, listed) => {
                drop(listed.send(self.list(&wanted, from, limit)))
            }
            WorkerEvent::Renew(contexts) => self.renew(contexts),
            WorkerEvent::Rebalance(wanted) => self.rebalance(wanted),
            WorkerEvent::StopRebalancing => self.rebalancing = None,
            WorkerEvent::Shed => self.shed_for_others(),
            WorkerEvent::Drain { until } => self.begin_drain(until),
            WorkerEvent::Stop => self.stopping = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gateway_core::hub::Variants;
    use gateway_core::namespace_id::NamespaceId;
    use shared::channel::Channel;
    use shared::publication::{Payload, Publication};

    use super::*;

    fn publication(bytes: usize) -> Arc<Prepared> {
        let publication = Publication::new(Payload::text("x".repeat(bytes)));
        Prepared::new(
            Channel::parse("a", 255).unwrap(),
            NamespaceId::DEFAULT,
            publication,
            0,
            &Arc::new(Variants::default()),
        )
    }

    #[test]
    fn a_turn_is_bounded_in_writes_and_in_bytes() {
        let times = |subscribers: usize, bytes: usize| {
            let (mut share, publication) = (TurnBudget::default(), publication(bytes));
            assert!(share.is_used_up(), "there is none before a turn begins");
            share.renew();
            let mut times = 0;
            while !share.is_used_up() {
                share.take(subscribers, std::slice::from_ref(&publication));
                times += 1;
            }
            times
        };
        assert_eq!(times(10, 100), WRITES_MAX.div_ceil(10), "small channels with small publications");
        assert_eq!(times(4, 256 << 10), BYTES_MAX / (4 * (256 << 10)), "large publications");
        assert_eq!(times(1, 1), WRITES_MAX);
    }
}
