//! The end of a connection. Every way leads through [`Client::leave_all`] once.

use gateway_core::effect::Ended;
use shared::channel::Channel;
use shared::disconnect::{Disconnect, SlowCause};
use shared::publication::ClientInfo;

use crate::backend::{BackendEvent, EventType};
use crate::client::finish::{Departure, Finishing};
use crate::client::framing::CloseMessage;
use crate::client::{Client, Closing, DropReason, Incoming};
use crate::node::{ClientTraces, CloseRecord};
use crate::telemetry::connection_metrics::CLOSE_BY_PEER;
use crate::worker::WorkerLocal;

impl Client {
    /// Begins to close: the client leaves all its channels now, and its socket is dropped when the client has answered, or
    /// after a deadline.
    pub(crate) fn begin_close(&mut self, local: &mut WorkerLocal, disconnect: &Disconnect) {
        if self.is_closing() {
            return;
        }
        self.note_cause(local, disconnect);
        self.leave_all(local, disconnect);
        let plain = disconnect.plain();
        let shown = if local.authenticator.explains() { disconnect } else { &plain };
        let close_message = self.close_message(local, CloseMessage::Closed(shown));
        if self.link.framing.reads_close_message(disconnect) {
            // Queued behind earlier frames, so that replies are read before the close frame. After an overflow these were
            // dropped.
            self.outbox.push_last(close_message);
        } else {
            local.tally.frames_discarded += self.outbox.discard_waiting() as u64;
            self.incoming = Incoming::Nothing;
        }
        self.start_closing(local, disconnect.label());
    }

    /// Logs the cause. Clients that break the protocol are logged for their developer, and slow clients for the operator who
    /// sets their limits; rate-limited, because any client can cause both.
    fn note_cause(&self, local: &WorkerLocal, disconnect: &Disconnect) {
        let (client, code, reason) = (self.session.client(), disconnect.code, &disconnect.reason);
        if let Some(cause) = SlowCause::of(disconnect) {
            local.node.metrics.slow_consumer(cause);
            if let Some(suppressed) = local.slow_logs[cause as usize].admit() {
                let words = cause.description();
                tracing::info!(%client, cause = cause.label(), suppressed, "closing a slow client: {words}");
            }
        }
        let breaks_protocol = code == Disconnect::BAD_REQUEST.code && disconnect.why().is_some();
        match if breaks_protocol { local.refusals_log.admit() } else { None } {
            Some(suppressed) => tracing::info!(%client, code, %reason, suppressed, "a client was refused"),
            None => tracing::debug!(%client, code, %reason, "closing"),
        }
    }

    /// Handles the peer's close frame, sent first or in answer to ours.
    pub(super) fn handle_peer_close(&mut self, local: &mut WorkerLocal, code: Option<u16>) {
        self.incoming = Incoming::Nothing;
        if self.is_closing() {
            // The closing handshake is complete once our own frame is out.
            local.mark_unwritten(self.key.index);
            return;
        }
        if self.session.is_busy() || self.finishing.is_some() {
            return self.begin_finishing(local, Departure::CloseFrame(code));
        }
        self.leave_all(local, &Disconnect::CONNECTION_CLOSED);
        let close_message = self.close_message(local, CloseMessage::Answered(code));
        self.outbox.push_last(close_message);
        self.start_closing(local, CLOSE_BY_PEER);
    }

    /// Closes a connection of whose state nothing is trusted any more except the socket. The client is told, and not read
    /// again.
    pub(crate) fn close_after_fault(&mut self, local: &mut WorkerLocal) {
        self.incoming = Incoming::Discarded;
        self.finishing = None;
        self.leave_all(local, &Disconnect::INTERNAL);
        local.tally.frames_discarded += self.outbox.discard_waiting() as u64;
        let close_message = self.close_message(local, CloseMessage::Closed(&Disconnect::INTERNAL));
        self.outbox.push_last(close_message);
        self.start_closing(local, Disconnect::INTERNAL.label());
    }

    /// Sends a close frame, if the socket takes it at once.
    pub(crate) fn try_send_close(&mut self, local: &mut WorkerLocal, disconnect: &Disconnect) {
        self.outbox.discard_waiting();
        let close_message = self.close_message(local, CloseMessage::Closed(disconnect));
        self.outbox.push_last(close_message);
        let stream = &mut self.link.stream;
        let _ = self.outbox.flush(|slices| stream.write_vectored(slices));
        self.link.stream.end();
    }

    /// Marks the client as closing: from here on only the bytes that wait are written.
    pub(super) fn start_closing(&mut self, local: &mut WorkerLocal, reason: &'static str) {
        self.note_closing(local, reason);
        if self.incoming == Incoming::Open && !self.link.framing.answers_close_frame() {
            self.incoming = Incoming::Discarded;
        }
        local.mark_unwritten(self.key.index);
        local.schedule(self);
        // Commands in flight are not waited for any more, and the peer's own close frame may be unread.
        if std::mem::take(&mut self.paused) {
            local.unread.push(self.key.index);
        }
    }

    pub(super) fn note_closing(&mut self, local: &WorkerLocal, reason: &'static str) {
        let until = local.now + local.websocket.close_timeout();
        self.closing = Some(Box::new(Closing { until, reason }));
    }

    /// Ends all subscriptions of the client. Idempotent.
    pub(crate) fn leave_all(&mut self, local: &mut WorkerLocal, why: &Disconnect) {
        self.report_gone();
        let client = self.session.client();
        if let Some(permit) = self.user_permit.take() {
            let (user, plain) = (permit.user(), why.plain());
            // The channels' events before a channel is vacated, and all of them before the client is gone.
            if local.node.sends_events_of(EventType::Unsubscribe) {
                for (channel, ended) in self.session.take_ended() {
                    let channel = channel.as_str();
                    local.node.send_event(&BackendEvent::Unsubscribe { client, user, channel, ended });
                }
            }
            let (code, reason) = (plain.code, &*plain.reason);
            local.node.closes.note(CloseRecord {
                client: client.to_string().into(),
                user: user.as_str().into(),
                protocol: self.protocol.format().into(),
                code: why.code,
                reason: why.reason.as_ref().into(),
                time_ms: local.clock.unix_millis(),
                lived: local.now.since(self.opened).as_secs(),
            });
            local.node.send_event(&BackendEvent::Disconnect { client, user, code, reason });
            local.directory.leave(permit.user(), self.key.index);
        }
        if self.app().is_some() {
            self.session.subscriptions().for_each(|channel| self.note_count(local, channel));
        }
        let announced = self.session.take_announced();
        let shown = self.session.take_shown();
        self.close_lanes(local);
        let present = local.leave_all(self.key.index, client);
        let with_subscribers = |(channel, info): (Channel, ClientInfo)| {
            let subscribers = local.hub.subscribers(channel.as_str());
            (channel, info, subscribers)
        };
        let announced = announced.into_iter().map(with_subscribers).collect();
        // A resumable client may return under the same id: its leave would then be announced after it has joined again.
        let may_be_held = *why == Disconnect::SHUTDOWN && self.keeper().is_none();
        local.node.depart(ClientTraces { client, present, announced, shown }, may_be_held);
        self.leave_sessions(local, why);
        self.give_up_answers(local);
    }

    /// Tells the application that a subscription has ended while the connection stays. Does nothing after the client's end.
    pub(super) fn report_ended(&self, local: &WorkerLocal, channel: &Channel, ended: Option<Ended>) {
        if let (Some(ended), Some(permit)) = (ended, &self.user_permit) {
            let (client, user, channel) = (self.session.client(), permit.user(), channel.as_str());
            local.node.send_event(&BackendEvent::Unsubscribe { client, user, channel, ended });
        }
    }

    fn is_stalled_for_too_long(&self, local: &WorkerLocal) -> bool {
        let is_over = |since| since + local.websocket.write_timeout() <= local.now;
        !self.has_stopped_writing() && self.stalled_since.is_some_and(is_over)
    }

    /// Handles timers that are due.
    pub(crate) fn handle_timeout(&mut self, local: &mut WorkerLocal) -> Result<(), DropReason> {
        if self.closing.as_ref().is_some_and(|closing| closing.until <= local.now) {
            return Err(DropReason::Closed);
        }
        let gives_up = |finishing: &Finishing| finishing.until() <= local.now;
        if self.is_finishing() && self.finishing.as_deref().is_some_and(gives_up) {
            return self.give_up(local);
        }
        if self.is_stalled_for_too_long(local) {
            // The poll reports room only when a third of the socket's buffer is free, which can take a slow reader long. So
            // a write is tried before the client is blamed.
            self.flush(local)?;
        }
        if self.is_stalled_for_too_long(local) {
            if self.is_closing() {
                return Err(DropReason::Closed);
            }
            self.handle_overflow(local, SlowCause::WriteTimeout);
        } else if !self.is_closing() && !self.is_finishing() {
            self.session.handle_timeout(local.now);
            self.perform(local);
            if self.next_newest().is_some_and(|at| at <= local.now) {
                local.mark_unwritten(self.key.index);
            }
        }
        Ok(())
    }
}
