//! The end of a connection: every way leads through [`Client::leave_all`] once.

use gateway_core::effect::Ended;
use shared::channel::Channel;
use shared::disconnect::{Disconnect, SlowCause};
use shared::publication::ClientInfo;

use crate::backend::{BackendEvent, EventType};
use crate::client::finish::{Departure, Finishing};
use crate::client::framing::CloseMessage;
use crate::client::{Client, Closing, Gone, Incoming};
use crate::node::{ClientTraces, CloseRecord};
use crate::telemetry::connection_metrics::CLOSE_BY_PEER;
use crate::worker::WorkerLocal;

impl Client {
    /// Says goodbye: the client leaves all its channels now, and its socket goes when it has answered, or soon.
    pub(crate) fn begin_close(&mut self, local: &mut WorkerLocal, disconnect: &Disconnect) {
        if self.is_closing() {
            return;
        }
        self.note_cause(local, disconnect);
        self.leave_all(local, disconnect);
        let plain = disconnect.plain();
        let shown = if local.authenticator.explains() { disconnect } else { &plain };
        let goodbye = self.goodbye(local, CloseMessage::Closed(shown));
        if self.link.framing.reads_goodbye(disconnect) {
            // After what was sent before: replies are read before the goodbye. On overflow that has been given up.
            self.outbox.push_last(goodbye);
        } else {
            local.tally.frames_discarded += self.outbox.discard_waiting() as u64;
            self.incoming = Incoming::Nothing;
        }
        self.start_closing(local, disconnect.label());
    }

    /// A client that breaks the protocol is someone's to mend, who sees it here, and so does who gives slow clients time or
    /// room; not all of it, for any client can.
    fn note_cause(&self, local: &WorkerLocal, disconnect: &Disconnect) {
        let (client, code, reason) = (self.session.client(), disconnect.code, &disconnect.reason);
        if let Some(cause) = SlowCause::of(disconnect) {
            local.node.metrics.slow_consumer(cause);
            if let Some(suppressed) = local.slow_logs[cause as usize].admit() {
                let words = cause.words();
                tracing::info!(%client, cause = cause.label(), suppressed, "closing a slow client: {words}");
            }
        }
        let breaks_protocol = code == Disconnect::BAD_REQUEST.code && disconnect.why().is_some();
        match if breaks_protocol { local.refusals_log.admit() } else { None } {
            Some(suppressed) => tracing::info!(%client, code, %reason, suppressed, "a client was refused"),
            None => tracing::debug!(%client, code, %reason, "closing"),
        }
    }

    /// The peer says goodbye, first or in answer.
    pub(super) fn handle_peer_close(&mut self, local: &mut WorkerLocal, code: Option<u16>) {
        self.incoming = Incoming::Nothing;
        if self.is_closing() {
            // The handshake is complete once our own frame is out.
            local.mark_unwritten(self.key.index);
            return;
        }
        if self.session.is_busy() || self.finishing.is_some() {
            return self.begin_finishing(local, Departure::Goodbye(code));
        }
        self.leave_all(local, &Disconnect::CONNECTION_CLOSED);
        let goodbye = self.goodbye(local, CloseMessage::Answered(code));
        self.outbox.push_last(goodbye);
        self.start_closing(local, CLOSE_BY_PEER);
    }

    /// Nothing of this connection is trusted any more but its socket: the client is told so, and not heard again.
    pub(crate) fn condemn(&mut self, local: &mut WorkerLocal) {
        self.incoming = Incoming::Rubbish;
        self.finishing = None;
        self.leave_all(local, &Disconnect::INTERNAL);
        local.tally.frames_discarded += self.outbox.discard_waiting() as u64;
        let goodbye = self.goodbye(local, CloseMessage::Closed(&Disconnect::INTERNAL));
        self.outbox.push_last(goodbye);
        self.start_closing(local, Disconnect::INTERNAL.label());
    }

    /// Says a last word, if the socket takes it at once.
    pub(crate) fn say_last(&mut self, local: &mut WorkerLocal, disconnect: &Disconnect) {
        self.outbox.discard_waiting();
        let goodbye = self.goodbye(local, CloseMessage::Closed(disconnect));
        self.outbox.push_last(goodbye);
        let stream = &mut self.link.stream;
        let _ = self.outbox.flush(|slices| stream.write_vectored(slices));
        self.link.stream.end();
    }

    /// From here on nothing is done but writing what waits.
    pub(super) fn start_closing(&mut self, local: &mut WorkerLocal, reason: &'static str) {
        self.note_closing(local, reason);
        if self.incoming == Incoming::Open && !self.link.framing.answers_goodbye() {
            self.incoming = Incoming::Rubbish;
        }
        local.mark_unwritten(self.key.index);
        local.schedule(self);
        // Answers are not waited for any more, and the peer's own close frame may lie unread.
        if std::mem::take(&mut self.paused) {
            local.unread.push(self.key.index);
        }
    }

    pub(super) fn note_closing(&mut self, local: &WorkerLocal, reason: &'static str) {
        let until = local.now + local.websocket.close_timeout();
        self.closing = Some(Box::new(Closing { until, reason }));
    }

    /// Stops being a subscriber of anything. Safe to call again.
    pub(crate) fn leave_all(&mut self, local: &mut WorkerLocal, why: &Disconnect) {
        self.tell_gone();
        let client = self.session.client();
        if let Some(permit) = self.user_permit.take() {
            let (user, plain) = (permit.user(), why.plain());
            // Of a channel before it is vacated, and all before the client is gone.
            if local.node.tells(EventType::Unsubscribe) {
                for (channel, ended) in self.session.take_ended() {
                    let channel = channel.as_str();
                    local.node.tell(&BackendEvent::Unsubscribe { client, user, channel, ended });
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
            local.node.tell(&BackendEvent::Disconnect { client, user, code, reason });
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
        // One that may come back as the client it was would be told to have left after it has come.
        let may_be_held = *why == Disconnect::SHUTDOWN && self.keeper().is_none();
        local.node.depart(ClientTraces { client, present, announced, shown }, may_be_held);
        self.leave_sessions(local, why);
        self.give_up_answers(local);
    }

    /// A subscription has ended under a connection. After its end there is nothing more to tell of a client.
    pub(super) fn tell_ended(&self, local: &WorkerLocal, channel: &Channel, ended: Option<Ended>) {
        if let (Some(ended), Some(permit)) = (ended, &self.user_permit) {
            let (client, user, channel) = (self.session.client(), permit.user(), channel.as_str());
            local.node.tell(&BackendEvent::Unsubscribe { client, user, channel, ended });
        }
    }

    fn is_stalled_for_too_long(&self, local: &WorkerLocal) -> bool {
        let is_over = |since| since + local.websocket.write_timeout() <= local.now;
        !self.is_mute() && self.stalled_since.is_some_and(is_over)
    }

    /// Time has passed: what does that change?
    pub(crate) fn handle_timeout(&mut self, local: &mut WorkerLocal) -> Result<(), Gone> {
        if self.closing.as_ref().is_some_and(|closing| closing.until <= local.now) {
            return Err(Gone::Closed);
        }
        let gives_up = |finishing: &Finishing| finishing.until() <= local.now;
        if self.is_finishing() && self.finishing.as_deref().is_some_and(gives_up) {
            return self.give_up(local);
        }
        if self.is_stalled_for_too_long(local) {
            // A poll tells of room only when a third of the socket's buffer is free, which can take a slow reader
            // long. So the socket is asked itself before the client is blamed.
            self.flush(local)?;
        }
        if self.is_stalled_for_too_long(local) {
            if self.is_closing() {
                return Err(Gone::Closed);
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
