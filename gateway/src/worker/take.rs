//! What others tell a worker, in the order it came, and no more of it in one turn than leaves sockets and timers theirs.

use gateway_core::hub::Prepared;
use shared::disconnect::Disconnect;
use shared::push::UnsubscribeCode;

use crate::client::read::Heard;
use crate::node::control::Target;
use crate::worker::Worker;
use crate::worker::inbox::Event;

/// The most writes to subscribers in one turn: some four milliseconds.
const WRITES_MAX: usize = 1_024;
/// The most payload bytes that they hold together.
const BYTES_MAX: usize = 4 << 20;

/// What may still be handed to subscribers in this turn.
#[derive(Debug, Default)]
pub(super) struct Share {
    writes: usize,
    bytes: usize,
}

impl Share {
    pub(super) fn renew(&mut self) {
        *self = Self { writes: WRITES_MAX, bytes: BYTES_MAX };
    }

    /// Publications are handed to so many subscribers.
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
    /// Whether something that was taken from the inbox waits for the next turn.
    pub(super) fn is_behind(&self) -> bool {
        !self.gathered.is_empty()
            || !self.telling.is_empty()
            || !self.taken.events.is_empty()
            || !self.taken.lost.is_empty()
    }

    pub(super) fn take_inbox(&mut self, buffer: &mut [u8]) {
        self.share.renew();
        // What is pushed meanwhile wakes nobody: as long as it was not taken, the worker must not sleep.
        self.untaken = self.is_behind();
        if !self.untaken {
            self.local.inbox.take(&mut self.taken);
        }
        loop {
            self.deliver_gathered();
            self.tell_followers();
            if !self.gathered.is_empty() || !self.telling.is_empty() {
                return;
            }
            match self.taken.events.pop_front() {
                Some(Event::Publication(prepared)) => {
                    self.gathered.add(prepared);
                    self.gather_on();
                    self.close_gathered();
                }
                // Everything else keeps its place among the publications.
                Some(other) => self.handle_event(other, buffer),
                None => break,
            }
        }
        for (channel, position) in std::mem::take(&mut self.taken.lost) {
            self.deliver_waiting(&channel);
            // In a channel without a stream nobody was promised anything; the metrics count it.
            if let Some(position) = position {
                self.sweep(|hub, sweep| hub.lost(channel.as_str(), position, sweep));
            }
        }
        // Nothing was gathered, and yet something may have waited for long enough.
        self.close_gathered();
        self.deliver_gathered();
    }

    fn gather_on(&mut self) {
        while matches!(self.taken.events.front(), Some(Event::Publication(_))) {
            if let Some(Event::Publication(prepared)) = self.taken.events.pop_front() {
                self.gathered.add(prepared);
            }
        }
    }

    /// Delivers the publications that were taken and wait for their turn.
    pub(super) fn serve_taken(&mut self) {
        loop {
            self.share.renew();
            self.deliver_gathered();
            self.tell_followers();
            if self.gathered.is_empty() && self.telling.is_empty() {
                match self.taken.events.pop_front() {
                    Some(Event::Publication(prepared)) => {
                        self.gathered.add(prepared);
                        self.gather_on();
                        self.close_gathered();
                    }
                    Some(Event::News(news)) => self.begin_telling(news),
                    // Whoever is meant is about to be closed.
                    Some(_) => {}
                    None => return,
                }
            }
        }
    }

    fn handle_event(&mut self, event: Event, buffer: &mut [u8]) {
        match event {
            Event::Open(new) => {
                let index = self.clients.vacant_key();
                self.serve(index, |worker| worker.open(*new, buffer));
            }
            Event::Publication(prepared) => self.deliver(prepared.channel(), std::slice::from_ref(&prepared)),
            Event::News(news) => self.begin_telling(news),
            Event::Anew(channel) => {
                let everyone = Target::default();
                self.for_each_target(&everyone, Some(&channel), |client| {
                    client.session.handle_unsubscribe(&channel, UnsubscribeCode::InsufficientState);
                });
            }
            Event::Lost(channel, position) => {
                self.deliver_waiting(&channel);
                self.sweep(|hub, sweep| hub.lost(channel.as_str(), position, sweep))
            }
            Event::Outcome(key, outcome) => {
                self.serve(key.index as usize, |worker| worker.handle_outcome(key, outcome));
            }
            Event::Call(new) => self.open_caller(*new),
            Event::Answered(key, answer) => self.answer_caller(key, *answer, buffer),
            Event::Turned(key, turned) => {
                self.serve(key.index as usize, |worker| worker.handle_turned(key, turned, buffer));
            }
            Event::Message(session, message, taken) => {
                let index = self.local.node.session_ids.place(session).1 as usize;
                let mut heard = Heard::Gone;
                self.serve(index, |worker| heard = worker.handle_message(index, session, message));
                // Whoever asked may have given up.
                let _ = taken.send(heard);
            }
            Event::Disconnect(target, disconnect, acted) => {
                let count = self.for_each_target(&target, None, |client| {
                    client.session.handle_disconnect(disconnect.clone());
                });
                acted.add(count);
            }
            Event::Displaced(key) => {
                let index = key.index as usize;
                // Another may be in its place.
                if self.clients.get(index).is_some_and(|client| client.key == key) {
                    self.end(index, None, |client| {
                        client.session.handle_disconnect(Disconnect::CONNECTION_LIMIT);
                    });
                }
            }
            Event::Unsubscribe(target, channel, acted) => {
                let count = self.for_each_target(&target, Some(&channel), |client| {
                    client.session.handle_unsubscribe(&channel, UnsubscribeCode::Server);
                });
                acted.add(count);
            }
            Event::KeepOnly(user, client) => self.keep_only(&user, client),
            Event::Subscribe(target, wanted, acted) => self.subscribe(&target, &wanted, &acted),
            Event::AskClients(target, asking) => {
                self.for_each_of(&target, |client, local| client.ask_client(local, &asking));
            }
            Event::ForgetAsks(target) => {
                self.for_each_of(&target, |client, _| client.forget_asks());
            }
            Event::Refresh(target, renewal, acted) => {
                acted.add(self.for_each_of(&target, |client, local| {
                    client.session.handle_refresh(local.now, renewal.clone());
                }));
            }
            // Whoever asked may have given up.
            Event::Count(channels, counted) => drop(counted.send(self.count_subscribers(&channels))),
            Event::List(wanted, from, limit, listed) => drop(listed.send(self.list(&wanted, from, limit))),
            Event::Renew(contexts) => self.renew(contexts),
            Event::Shed => self.look_at_debtors(),
            Event::Drain { until } => self.begin_drain(until),
            Event::Stop => self.stopping = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gateway_core::hub::Variants;
    use shared::channel::Channel;
    use shared::publication::{Payload, Publication};

    use super::*;

    fn publication(bytes: usize) -> Arc<Prepared> {
        let publication = Publication::new(Payload::text("x".repeat(bytes)));
        Prepared::new(Channel::parse("a", 255).unwrap(), publication, 0, &Arc::new(Variants::default()))
    }

    #[test]
    fn a_turn_is_bounded_in_writes_and_in_bytes() {
        let times = |subscribers: usize, bytes: usize| {
            let (mut share, publication) = (Share::default(), publication(bytes));
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
