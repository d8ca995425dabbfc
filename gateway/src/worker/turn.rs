//! One turn of a worker: handles its wake-ups, in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway_core::effect::Outcome;
use gateway_core::hub::Prepared;
use shared::channel::Channel;
use shared::disconnect::{Disconnect, SlowCause};
use shared::push::UnsubscribeCode;

use crate::client::open::NewClient;
use crate::client::read::{CommandOutcome, ReadProgress};
use crate::client::{Client, ClientKey, DropReason};
use crate::node::SessionId;
use crate::node::control::ControlTarget;
use crate::telemetry::labels::Stage;
use crate::transport::Wake;
use crate::transport::task_pipe::{Attached, PipeReadiness};
use crate::worker::callers::CALLERS;
use crate::worker::drain::DRAIN_STEP;
use crate::worker::inbox::WorkerEvent;
use crate::worker::sweep::{AfterSweep, WorkerSweep};
use crate::worker::{ClientFlags, INBOX, READ_BYTES, Worker, WorkerLocal};

/// The most sockets handled in one turn.
const EVENTS: usize = 1_024;

impl Worker {
    pub(super) fn run(&mut self) {
        let mut events = mio::Events::with_capacity(EVENTS);
        let mut buffer = vec![0; READ_BYTES];
        self.open_together();
        // A turn that was to look into the inbox may have ended early.
        self.local.inbox.look_again();
        while !self.stopping {
            let timeout = self.poll_timeout();
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "a worker cannot poll its sockets");
                return;
            }
            let began = Instant::now();
            self.local.now = self.clock.now();
            self.local.inbox.stay_awake();
            for event in &events {
                match event.token() {
                    INBOX => {}
                    mio::Token(token) if token >= CALLERS => {
                        let hung_up = event.is_read_closed() || event.is_error();
                        self.handle_caller(token - CALLERS, hung_up, &mut buffer);
                    }
                    mio::Token(index) => {
                        let buffer = &mut buffer[..];
                        self.serve(index, |worker| worker.handle_readiness(index, event, buffer));
                    }
                }
            }
            self.read_on(&mut buffer);
            self.serve_callers(&mut buffer);
            self.local.hub.set_now(self.local.now);
            self.take_inbox(&mut buffer);
            self.close_windows();
            self.sweep_on();
            self.note_delivered();
            self.handle_timers();
            self.look_at_callers();
            self.step_drain();
            self.change_deliveries();
            self.write_out();
            self.shed();
            self.report(began.elapsed());
        }
        self.close_everything();
    }

    fn poll_timeout(&self) -> Option<Duration> {
        let is_behind = self.untaken || self.is_behind() || !self.local.delivery_changes.is_empty();
        if !self.local.unread.is_empty() || self.local.hub.is_sweeping() || is_behind {
            return Some(Duration::ZERO);
        }
        let now = self.clock.now();
        let timer = self.local.wheel.next_due().map(|at| at.since(now));
        let drain = self.drain.as_ref().map(|_| DRAIN_STEP);
        let window = self.windows.next_close().map(|at| at.since(now));
        let callers = self.callers.next_due(now);
        let newest = self.local.hub.next_window().map(|at| at.since(now));
        [timer, drain, window, newest, callers, self.next_shedding()].into_iter().flatten().min()
    }

    fn handle_readiness(&mut self, index: usize, event: &mio::event::Event, buffer: &mut [u8]) {
        if event.is_writable() && !self.write(index) {
            return;
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(index, buffer, event.is_read_closed() || event.is_error());
        }
    }

    /// Handles readiness of a client that is reached through a pipe to a task.
    pub(super) fn handle_turned(&mut self, key: ClientKey, turned: PipeReadiness, buffer: &mut [u8]) {
        let index = key.index as usize;
        if self.clients.get(index).is_none_or(|client| client.key != key) {
            return;
        }
        match turned {
            PipeReadiness::Readable => self.read(index, buffer, false),
            PipeReadiness::Writable => drop(self.write(index)),
        }
    }

    /// Continues writing where the socket had no room before. Returns whether the client is still there.
    fn write(&mut self, index: usize) -> bool {
        let Some(client) = self.clients.get_mut(index).filter(|client| client.is_stalled()) else {
            return true;
        };
        match client.flush(&mut self.local) {
            Ok(()) => client.account(&mut self.local),
            Err(gone) => {
                self.remove(index, &gone);
                return false;
            }
        }
        true
    }

    /// Handles a message that was not sent through the client's stream.
    pub(super) fn handle_message(
        &mut self,
        index: usize,
        session: SessionId,
        message: Bytes,
    ) -> CommandOutcome {
        let Some(client) = self.clients.get_mut(index).filter(|client| client.is_session(session)) else {
            return CommandOutcome::Gone;
        };
        let taken = client.handle_message(&mut self.local, message);
        match client.finish(&mut self.local) {
            Ok(()) => {
                client.account(&mut self.local);
                self.local.schedule(&self.clients[index]);
            }
            Err(gone) => self.remove(index, &gone),
        }
        taken
    }

    fn read(&mut self, index: usize, buffer: &mut [u8], ended: bool) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let read = client.handle_readable(&mut self.local, buffer, ended);
        match read.and_then(|readiness| client.finish(&mut self.local).map(|()| readiness)) {
            Ok(readiness) => {
                client.account(&mut self.local);
                if readiness == ReadProgress::More {
                    self.local.unread.push(index as u32);
                }
                self.local.schedule(&self.clients[index]);
                if readiness == ReadProgress::Drained
                    && let Some(attached) = self.clients[index].link.stream.take_attached()
                {
                    self.attach(index, *attached, buffer);
                }
            }
            Err(gone) => self.remove(index, &gone),
        }
    }

    /// Continues with sockets that had more to read than one turn's share.
    fn read_on(&mut self, buffer: &mut [u8]) {
        for index in std::mem::take(&mut self.local.unread) {
            self.serve(index as usize, |worker| worker.read(index as usize, buffer, true));
        }
    }

    pub(super) fn open(&mut self, new: NewClient, buffer: &mut [u8]) {
        self.shrink_policy.opened(self.clients.len() + 1);
        let entry = self.clients.vacant_entry();
        let index = entry.key();
        if self.generations.len() <= index {
            self.generations.push(0);
            self.local.flags.push(ClientFlags::default());
        }
        self.generations[index] = self.generations[index].wrapping_add(1);
        self.local.flags[index] = ClientFlags::default();
        let key = ClientKey {
            worker: self.local.index as u16,
            index: index as u32,
            generation: self.generations[index],
        };
        let (unread, first) = (new.unread.clone(), new.first.clone());
        let client = entry.insert(Box::new(Client::open(new, key, &self.local)));
        self.metrics.connected(client.protocol);
        if !self.watch(index) {
            return;
        }
        let client = &mut self.clients[index];
        if !client.outbox.is_empty() {
            self.local.mark_unwritten(key.index);
        }
        client.perform(&mut self.local);
        if let Some(first) = first {
            client.handle_message(&mut self.local, first);
        }
        self.read_first(index, &unread, buffer);
        if self.drain.is_some() && self.clients.get(index).is_some_and(|client| client.key == key) {
            self.end(index, None, |client| client.session.handle_disconnect(Disconnect::SHUTDOWN));
        }
    }

    /// Moves a client from its pipe to a socket.
    fn attach(&mut self, index: usize, attached: Attached, buffer: &mut [u8]) {
        let (unread, client) = (attached.unread.clone(), &mut self.clients[index]);
        client.attach(&mut self.local, attached);
        if self.watch(index) {
            self.read_first(index, &unread, buffer);
        }
    }

    /// Registers the client's stream with the poll. Returns whether the client is still there.
    fn watch(&mut self, index: usize) -> bool {
        let client = &mut self.clients[index];
        self.local.flags[index].direct = client.direct();
        let (key, inbox) = (client.key, &self.local.inbox);
        let wake = || {
            let inbox = inbox.clone();
            Arc::new(move |turned| inbox.push(WorkerEvent::Turned(key, turned))) as Wake
        };
        let watched = client.link.stream.register(self.poll.registry(), mio::Token(index), wake);
        if let Err(error) = &watched {
            self.remove(index, &DropReason::Lost(error.kind()));
        }
        watched.is_ok()
    }

    /// Handles the bytes that were read before the worker had the client's stream.
    fn read_first(&mut self, index: usize, unread: &[u8], buffer: &mut [u8]) {
        let client = &mut self.clients[index];
        for chunk in unread.chunks(READ_BYTES) {
            let bytes = &mut buffer[..chunk.len()];
            bytes.copy_from_slice(chunk);
            client.handle_bytes(&mut self.local, bytes);
        }
        if let Err(gone) = client.finish(&mut self.local) {
            self.remove(index, &gone);
            return;
        }
        self.local.schedule(&self.clients[index]);
        // Bytes that came with the TLS handshake are inside the TLS session, and no edge reports them.
        if self.clients[index].link.stream.may_hold_bytes() {
            self.read(index, buffer, true);
        }
    }

    pub(super) fn handle_outcome(&mut self, key: ClientKey, outcome: Outcome) {
        let Some(client) = self.clients.get_mut(key.index as usize) else { return };
        // The client that the outcome is for may be gone, and another in its place.
        if client.key != key || client.is_closing() {
            return;
        }
        let unfinished = if client.is_finishing() { client.session.unfinished() as u64 } else { 0 };
        let outcome = client.taken_in(&mut self.local, outcome);
        client.session.handle_outcome(self.local.now, outcome);
        client.perform(&mut self.local);
        self.local.awaited.look_at(client);
        if client.is_closing() {
            // The remaining commands of a client that has left are given up after one that failed.
            self.local.tally.commands_given_up += unfinished.saturating_sub(1);
        }
        if client.paused && !client.session.is_congested() {
            client.paused = false;
            self.local.unread.push(key.index);
        }
        match client.finish(&mut self.local) {
            Ok(()) => {
                client.account(&mut self.local);
                self.local.schedule(&self.clients[key.index as usize]);
            }
            Err(gone) => self.remove(key.index as usize, &gone),
        }
    }

    pub(super) fn deliver(&mut self, channel: &Channel, publications: &[Arc<Prepared>]) {
        if !publications.is_empty() {
            self.note_begun(publications);
            self.sweep(|hub, sweep| hub.deliver(channel.as_str(), publications, sweep));
        }
    }

    /// Records how long the first measured publication has waited.
    fn note_begun(&mut self, publications: &[Arc<Prepared>]) {
        let measured = publications.iter().find_map(|prepared| Some((prepared, prepared.stamp()?)));
        if let Some((prepared, stamp)) = measured {
            let micros = self.clock.micros();
            let waited = micros.saturating_sub(prepared.received_micros());
            self.metrics.stages.observe(Stage::Queue, waited, stamp.trace);
            if let Some(delivered) = self.measured.begin(prepared, micros) {
                delivered.observe(&self.metrics.stages);
            }
        }
    }

    /// Records the measured publications that have been delivered to all of their subscribers.
    fn note_delivered(&mut self) {
        if !self.local.hub.is_sweeping() {
            self.measured.take_delivered(|delivered| delivered.observe(&self.metrics.stages));
        }
    }

    /// Delivers newest values whose window has ended.
    fn close_windows(&mut self) {
        let now = self.local.now;
        if self.local.hub.next_window().is_some_and(|at| at <= now) {
            self.sweep(|hub, sweep| hub.close_windows(now, sweep));
        }
    }

    /// Continues to sweep channels with too many subscribers for one turn.
    fn sweep_on(&mut self) {
        if self.local.hub.is_sweeping() {
            self.sweep(|hub, sweep| hub.sweep_on(sweep));
        }
    }

    /// Delivers earlier publications to a client that is about to be closed, or removed from one channel.
    pub(super) fn serve_last(&mut self, index: usize, channel: Option<&Channel>) {
        let key = index as u32;
        if self.paced {
            // Publications that the flush interval has let through come first.
            while !self.gathered.is_empty() {
                self.share.renew();
                self.deliver_gathered();
            }
            let is_meant = |of: &&Channel| channel.is_none_or(|channel| channel == *of);
            let channels: Vec<Channel> = self.local.hub.channels_of(key).filter(is_meant).cloned().collect();
            for channel in channels {
                self.deliver_waiting(&channel);
            }
        }
        if self.local.hub.is_sweeping() {
            self.sweep(|hub, sweep| hub.serve_last(key, channel, sweep));
        }
    }

    /// Delivers everything that waits.
    pub(super) fn serve_everyone(&mut self) {
        self.serve_taken();
        for (channel, publications) in self.windows.take_all() {
            self.deliver(&channel, &publications);
        }
        self.sweep(|hub, sweep| hub.finish_sweeps(sweep));
    }

    /// Runs a fan-out of the hub, then handles its findings about single clients.
    pub(super) fn sweep(&mut self, work: impl FnOnce(&mut gateway_core::hub::Hub, &mut WorkerSweep<'_>)) {
        let local = &mut self.local;
        let mut after_sweep = std::mem::take(&mut self.after_sweep);
        let mut sweep = WorkerSweep {
            clients: &mut self.clients,
            flags: &mut local.flags,
            unwritten: &mut local.unwritten,
            tally: &mut local.tally,
            metrics: &self.metrics,
            clock: self.clock,
            client_ids: &local.node.client_ids,
            worker: local.index,
            outbox_bytes_max: local.websocket.outbox_bytes_max,
            share: &mut self.share,
            shared_frames: &mut local.shared_frames,
            selected: &mut local.selected,
            missing: Vec::new(),
            together: &mut self.together,
            after_sweep: &mut after_sweep,
            measured: &mut self.measured,
        };
        work(&mut local.hub, &mut sweep);
        for after in after_sweep.drain(..) {
            let index = after.index();
            self.serve(index as usize, |worker| worker.settle(after));
        }
        self.after_sweep = after_sweep;
        self.local.selected.clear();
    }

    fn settle(&mut self, after: AfterSweep) {
        let index = after.index();
        // One client can be named twice in one sweep, and be gone after the first.
        let Some(client) = self.clients.get_mut(index as usize) else { return };
        match after {
            AfterSweep::Overflown(_) => client.handle_overflow(&mut self.local, SlowCause::OutboxFull),
            AfterSweep::Failed(_, error) => {
                if let Err(gone) = client.handle_unwritable(&mut self.local, error.kind()) {
                    self.remove(index as usize, &gone);
                    return;
                }
            }
            AfterSweep::Insufficient(_, channel) => {
                self.local.tally.insufficient += 1;
                client.session.handle_unsubscribe(&channel, UnsubscribeCode::InsufficientState);
                client.perform(&mut self.local);
            }
            AfterSweep::Full(_, channel) => {
                client.end_for_fullness(&mut self.local, &channel);
                client.perform(&mut self.local);
            }
            AfterSweep::Close(_, disconnect) => {
                client.session.handle_disconnect(disconnect);
                client.perform(&mut self.local);
            }
        }
        self.local.schedule(&self.clients[index as usize]);
    }

    /// Ends the selected clients, or their subscription to one channel. Returns their number.
    pub(super) fn for_each_target(
        &mut self,
        target: &ControlTarget,
        channel: Option<&Channel>,
        act: impl Fn(&mut Client),
    ) -> u32 {
        let mut clients = 0;
        for index in self.candidates(target) {
            if self.is_meant(target, index) {
                self.end(index, channel, &act);
                clients += 1;
            }
        }
        clients
    }

    /// Runs `act` on each of the selected clients. Returns their number.
    pub(super) fn for_each_of(
        &mut self,
        target: &ControlTarget,
        act: impl Fn(&mut Client, &mut WorkerLocal),
    ) -> u32 {
        let mut clients = 0;
        for index in self.candidates(target) {
            if self.is_meant(target, index) {
                act(&mut self.clients[index], &mut self.local);
                self.settle_client(index);
                clients += 1;
            }
        }
        clients
    }

    /// Returns the places where selected clients can be.
    fn candidates(&self, target: &ControlTarget) -> Vec<usize> {
        if let Some(session) = target.session {
            return vec![self.local.node.session_ids.place(session).1 as usize];
        }
        if let Some(connection) = target.holder.and_then(|holder| self.local.node.sessions.connection(holder))
        {
            return vec![connection.index as usize];
        }
        match (target.client, target.user.as_deref()) {
            (Some(client), _) => vec![self.local.node.client_ids.place(client).1 as usize],
            (None, Some(user)) if !user.is_empty() => {
                self.local.directory.of(user).map(|index| index as usize).collect()
            }
            _ => {
                let named = target.among.as_deref().and_then(|among| self.places_of(among));
                named.unwrap_or_else(|| self.clients.iter().map(|(index, _)| index).collect())
            }
        }
    }

    fn is_meant(&self, target: &ControlTarget, index: usize) -> bool {
        let Some(client) = self.clients.get(index) else { return false };
        let session = &client.session;
        if let Some(holder) = target.holder {
            // This includes a client that has yet to take over its earlier id.
            return client.is_holder(holder) && !client.is_closing();
        }
        session.is_connected()
            && !client.is_closing()
            && target.user.as_deref().is_none_or(|user| user == session.user().as_str())
            && target.client.is_none_or(|client| client == session.client())
            && target.session.is_none_or(|name| client.is_session(name))
            && !target.except.contains(&session.client())
            && target.among.as_deref().is_none_or(|among| among.means(session))
    }

    /// Ends a client, or its subscription to one channel, after earlier publications are delivered to it.
    pub(super) fn end(&mut self, index: usize, channel: Option<&Channel>, act: impl FnOnce(&mut Client)) {
        self.serve_last(index, channel);
        // The delivery may have shown that the client is gone.
        let Some(client) = self.clients.get_mut(index).filter(|client| !client.is_closing()) else {
            return;
        };
        act(client);
        self.settle_client(index);
    }

    /// Carries out what a client's session has decided.
    pub(super) fn settle_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.perform(&mut self.local);
        self.local.awaited.look_at(client);
        self.local.schedule(client);
    }

    fn handle_timers(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.local.wheel.take_due(self.local.now, &mut due);
        for index in due.drain(..) {
            self.serve(index as usize, |worker| worker.handle_timer(index as usize));
        }
        self.due = due;
    }

    fn handle_timer(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        match client.poll_timeout(self.local.websocket.write_timeout()) {
            Some(at) if at <= self.local.now => match client.handle_timeout(&mut self.local) {
                Ok(()) => self.local.schedule(&self.clients[index]),
                Err(gone) => self.remove(index, &gone),
            },
            // The client's deadline has moved since the timer was scheduled.
            _ => self.local.schedule(&self.clients[index]),
        }
    }

    /// Flushes the outboxes that this turn has filled.
    fn write_out(&mut self) {
        let mut unwritten = std::mem::take(&mut self.local.unwritten);
        for index in unwritten.drain(..) {
            self.local.flags[index as usize].listed = false;
            let Some(client) = self.clients.get_mut(index as usize) else { continue };
            match client.flush(&mut self.local) {
                Ok(()) => client.account(&mut self.local),
                Err(gone) => self.remove(index as usize, &gone),
            }
        }
        debug_assert!(self.local.unwritten.is_empty(), "writing never queues");
        self.local.unwritten = unwritten;
    }

    /// Removes a client. The only place where a client ends.
    pub(super) fn remove(&mut self, index: usize, gone: &DropReason) {
        let client = &mut self.clients[index];
        client.leave_all(&mut self.local, &Disconnect::CONNECTION_CLOSED);
        client.forget_account(&self.local);
        if client.is_closing() {
            // A peer that closes and ends its stream at once may still wait for the reply.
            let _ = client.flush(&mut self.local);
        }
        tracing::debug!(client = %client.session.client(), %gone, "gone");
        client.link.stream.end();
        let lived = self.local.now.since(client.opened);
        self.metrics.disconnected(client.protocol, client.close_reason(), lived);
        self.local.wheel.remove(index as u32);
        // Before the socket closes: the flags hold the permission to send to it.
        self.local.flags[index] = ClientFlags::default();
        self.clients.remove(index);
        if self.shrink_policy.closed(self.clients.len()) {
            self.shrink();
        }
    }
}
