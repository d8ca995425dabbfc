//! Messages from the client, whose commands are performed in order, at once or when their turn comes.

use shared::channel::{Channel, InvalidChannel};
use shared::command::{Command, Request, Subscribe};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::framing::Message;
use shared::moment::Moment;
use shared::reply::Answer;

use super::session_state::Phase;
use super::{JOINS_MAX, Session};

impl Session {
    pub fn handle_message(&mut self, now: Moment, message: Message<'_>) {
        if self.phase == Phase::Closed {
            return;
        }
        self.handle_sign_of_life();
        if !self.limits.allow_message(now, &self.context.settings, message.data.len()) {
            return self.close(Disconnect::TOO_MANY_REQUESTS);
        }
        if self.is_unidirectional && self.phase != Phase::Opening {
            // The message counts against the limits and is otherwise ignored.
            return;
        }
        let mut commands = Vec::new();
        let decoded = self.protocol.decode(message, &mut commands);
        let further = commands.len().saturating_sub(1);
        if !self.limits.allow_commands(now, &self.context.settings, further) {
            return self.close(Disconnect::TOO_MANY_REQUESTS);
        }
        self.accept(now, commands);
        if let Err(error) = decoded {
            self.close(error.disconnect());
        }
    }

    /// Handles commands that follow from earlier commands and their answers, so that the client does not send them
    /// itself.
    pub fn handle_commands(&mut self, now: Moment, commands: Vec<Command>) {
        self.accept(now, commands);
    }

    /// Handles a ping or pong of the transport. These cost as much as messages do, and count as such.
    pub fn handle_control_frame(&mut self, now: Moment, bytes: usize) {
        self.handle_sign_of_life();
        if self.phase != Phase::Closed && !self.limits.allow_message(now, &self.context.settings, bytes) {
            self.close(Disconnect::TOO_MANY_REQUESTS);
        }
    }

    pub(super) fn accept(&mut self, now: Moment, commands: Vec<Command>) {
        for command in commands {
            if self.phase == Phase::Closed {
                return;
            }
            if command.request == Request::Pong {
                // A pong answers the server, so it does not wait for commands: a slow command must not cost the
                // connection.
                self.on_pong(now);
            } else if self.backlog.is_none() && self.is_next(&command) {
                self.start(now, command);
            } else {
                self.defer(command);
            }
        }
    }

    /// Performs waiting commands as far as possible.
    pub(super) fn resume(&mut self, now: Moment) {
        while let Some(backlog) = &self.backlog {
            match backlog.first() {
                Some(first) if !self.is_next(first) => return,
                Some(_) => {
                    if let Some(command) = self.backlog.as_mut().and_then(|backlog| backlog.pop()) {
                        self.start(now, command);
                    }
                }
                None => self.backlog = None,
            }
        }
    }

    /// Returns whether a command can begin given the commands in flight.
    fn is_next(&self, command: &Command) -> bool {
        if self.phase == Phase::Connecting || self.pending.is_some() {
            return false;
        }
        if self.joining == 0 {
            let has_long_answer = match &command.request {
                Request::History(_) | Request::Presence { .. } => true,
                // Joining again would skip what another reader of the channel is still reading from history.
                Request::Subscribe(subscribe) => subscribe.additional_reader && subscribe.recover,
                _ => false,
            };
            return !has_long_answer || self.is_ready_for_more();
        }
        match &command.request {
            // The channel is not known before the application has answered.
            Request::Subscribe(Subscribe { ask: Some(_), .. }) => false,
            Request::Subscribe(subscribe) => {
                let is_joining = |at: usize| self.subscriptions.get(at).is_some_and(|one| !one.is_live());
                usize::from(self.joining) < JOINS_MAX && !self.find(&subscribe.channel).is_ok_and(is_joining)
            }
            _ => false,
        }
    }

    fn start(&mut self, now: Moment, command: Command) {
        let Command { id, request } = command;
        let needs_no_id = matches!(request, Request::Send { .. });
        if id == 0 && !needs_no_id {
            return self.close(Disconnect::BAD_REQUEST.because("the command has no id"));
        }
        self.context.observer.command(request.name());
        match (self.phase, request) {
            (Phase::Closed, _) => {}
            (Phase::Opening, Request::Connect(connect)) => self.on_connect(id, connect),
            (Phase::Opening, Request::Enter(enter)) => self.on_first_enter(id, *enter),
            // A client that asks for an unknown Socket.IO namespace may go on to ask for another.
            (Phase::Opening, Request::Refused(error)) if self.has_rooms => self.refuse(now, id, error),
            // Anybody may check whether the server is alive.
            (Phase::Opening, Request::Ping) => self.answer(id, Answer::Pong),
            (Phase::Connected, request) => self.perform(now, id, request),
            (Phase::Opening | Phase::Connecting | Phase::Refused, _) => {
                self.close(
                    Disconnect::BAD_REQUEST.because("the client sent a command before the reply to connect"),
                );
            }
        }
    }

    fn perform(&mut self, now: Moment, id: u32, request: Request) {
        match request {
            Request::Subscribe(subscribe) => self.on_subscribe(now, id, subscribe),
            Request::Unsubscribe { channel } => self.on_unsubscribe(id, &channel),
            Request::Publish { channel, data } => self.on_publish(now, id, &channel, None, data),
            Request::History(history) => self.on_history(now, id, history),
            Request::Presence { channel } => self.on_presence(now, id, &channel),
            Request::PresenceStats { channel } => self.on_presence_stats(now, id, &channel),
            Request::Refresh { token } => self.on_refresh(id, token),
            Request::SubRefresh { channel, token } => self.on_sub_refresh(now, id, &channel, token),
            Request::Rpc { method, data } => self.on_rpc(now, id, method, data),
            Request::Send { data } => self.on_send(0, "".into(), data),
            Request::Ask { channel, data } => self.on_send(id, channel, data),
            Request::PublishKey { channel, key, data, removed } => {
                self.on_publish_key(now, id, &channel, &key, (!removed).then_some(data));
            }
            Request::Track { channel, batches, untrack } => {
                self.on_track(now, id, &channel, batches, untrack)
            }
            Request::Untrack { channel, keys } => self.on_untrack(now, id, &channel, keys),
            Request::Emit { channel, event, data } => self.on_emit(now, id, &channel, event, data),
            Request::Forward(forward) => self.on_forward(now, id, *forward),
            Request::Event(event) => self.on_event(now, id, *event),
            Request::Enter(enter) => self.on_enter(now, id, *enter),
            Request::SignIn { token, data } => self.on_sign_in(id, token, data),
            Request::Ping => self.answer(id, Answer::Pong),
            Request::Refused(error) => self.refuse(now, id, error),
            Request::Connect(_) => {
                self.close(Disconnect::BAD_REQUEST.because("the client is already connected"))
            }
            Request::Pong | Request::Unknown => {
                self.close(Disconnect::BAD_REQUEST.because("the command is unknown"));
            }
        }
    }

    /// Returns the channel of this name. `None` means that the command has been dealt with: a missing name breaks the
    /// protocol and closes the connection, an invalid one is refused.
    pub(super) fn channel(&mut self, now: Moment, id: u32, name: &str) -> Option<Channel> {
        match self.context.rules.channel(name, self.context.settings.channel_bytes_max as usize) {
            Ok(channel) if self.context.rules.admits_name(&channel) => Some(channel),
            Err(InvalidChannel::Empty) => {
                self.close(Disconnect::BAD_REQUEST.because("the command names no channel"));
                None
            }
            Ok(_)
            | Err(
                InvalidChannel::TooLong { .. } | InvalidChannel::NotPrintableAscii | InvalidChannel::Control,
            ) => {
                self.refuse(now, id, ErrorCode::BadRequest);
                None
            }
        }
    }
}
