//! The event command: the application is asked about an event, and its actions are performed in order.

use std::collections::VecDeque;

use shared::channel::Channel;
use shared::command::EventCommand;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::publication::{Selection, Tagged};
use shared::push::{self, Push, UnsubscribeCode};
use shared::refusal::Refusal;
use shared::reply::Answer;

use super::Session;
use super::session_state::{PendingCommand, PendingEffect};
use crate::effect::{Denial, Effect, Emitted, Ended, EventActions, EventQuestion, Ticket};

/// The actions of the application that are still to be performed.
#[derive(Debug)]
pub(super) struct EventInFlight {
    /// The channel of the Socket.IO namespace to which the event was sent.
    channel: Channel,
    emit: VecDeque<Emitted>,
    acknowledge: Option<Box<Tagged>>,
    end: bool,
    /// The first action that failed.
    failed: Option<Refusal>,
    /// Whether the client is still joining channels. Events come after that, so that they reach it there.
    joins: bool,
}

impl Session {
    pub(super) fn on_event(&mut self, now: Moment, id: u32, event: EventCommand) {
        let EventCommand { channel, event, arguments } = event;
        if !self.context.application.events {
            return self.refuse(now, id, ErrorCode::NotAvailable);
        }
        let Some(channel) = self.find_live(&channel).map(|one| one.channel.clone()) else {
            return self.refuse(now, id, ErrorCode::PermissionDenied);
        };
        let rooms = self.rooms_of(&channel);
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::Event { channel: channel.clone() });
        let question = Box::new(EventQuestion { channel, event, arguments, rooms });
        self.effects.push_back(Effect::Event { ticket, question });
    }

    /// Performs the actions that the application answered with.
    pub(super) fn on_handled(
        &mut self,
        now: Moment,
        id: u32,
        channel: Channel,
        result: Result<Box<EventActions>, Denial>,
    ) {
        let EventActions { leave, join, emit, acknowledge, end } = match result {
            Ok(handled) => *handled,
            Err(denial) => return self.deny(now, id, denial),
        };
        for room in leave {
            if let Ok(at) = self.find(room.as_str()) {
                let subscription = self.remove(at);
                self.part(subscription, Ended::ByServer(UnsubscribeCode::Server));
            }
        }
        let mut failed = None;
        for subscription in join {
            match self.handle_subscribe(now, subscription, None) {
                // The client is in the channel already.
                Ok(()) | Err(ErrorCode::AlreadySubscribed) => {}
                Err(error) => failed = failed.or(Some(error.into())),
            }
        }
        let joins = self.joining > 0;
        let handling = EventInFlight { channel, emit: emit.into(), acknowledge, end, failed, joins };
        match joins {
            true => {
                let ticket = self.ticket();
                self.wait(ticket, id, PendingEffect::Handling(Box::new(handling)));
            }
            false => self.go_on(now, id, Box::new(handling)),
        }
    }

    /// Continues with the application's actions once the client has joined the channels they name.
    pub(super) fn go_on_handling(&mut self, now: Moment) {
        if self.joining > 0 {
            return;
        }
        let waits = |pending: &mut Box<PendingCommand>| matches!(&pending.awaited, PendingEffect::Handling(handling) if handling.joins);
        if let Some(PendingCommand { id, awaited: PendingEffect::Handling(mut handling), .. }) =
            self.pending.take_if(waits).map(|pending| *pending)
        {
            handling.joins = false;
            if let Some(rare) = &mut self.rare {
                rare.returning = Vec::new();
            }
            self.go_on(now, id, handling);
        }
    }

    /// Handles the outcome of publishing one of the application's events.
    pub(super) fn on_emitted(
        &mut self,
        now: Moment,
        id: u32,
        mut handling: Box<EventInFlight>,
        result: Result<(), Denial>,
    ) {
        match result {
            Ok(()) => {}
            Err(Denial::Error(refusal)) => handling.failed = handling.failed.or(Some(refusal)),
            Err(Denial::Disconnect(disconnect)) => return self.close(disconnect),
        }
        self.go_on(now, id, handling);
    }

    fn keeps_sessions(&self, channel: &Channel) -> bool {
        self.context.rules.options(channel).is_some_and(|options| options.keeps_sessions)
    }

    fn go_on(&mut self, now: Moment, id: u32, mut handling: Box<EventInFlight>) {
        while let Some(emitted) = handling.emit.pop_front() {
            match emitted {
                Emitted::Own { channel, publication } if !self.keeps_sessions(&channel) => {
                    self.push(Push::to(&channel, push::Event::plain(&publication)));
                }
                Emitted::Own { channel, mut publication } => {
                    // Published, so that history keeps it for a client that comes back.
                    publication.only =
                        Some(Box::new(Selection { clients: vec![self.client], ..Selection::default() }));
                    handling.emit.push_front(Emitted::Published { channel, publication });
                }
                Emitted::Published { channel, publication } => {
                    let ticket: Ticket = self.ticket();
                    self.wait(ticket, id, PendingEffect::Handling(handling));
                    let options = self.context.rules.options(&channel);
                    let retention =
                        options.map(|options| options.retention_of(&publication)).unwrap_or_default();
                    return self.effects.push_back(Effect::Publish {
                        ticket,
                        channel,
                        publication,
                        retention,
                    });
                }
            }
        }
        let EventInFlight { channel, acknowledge, end, failed, .. } = *handling;
        match failed {
            Some(refusal) => self.refuse(now, id, refusal),
            None => self.answer(id, Answer::Acknowledged(acknowledge)),
        }
        if end {
            self.handle_unsubscribe(&channel, UnsubscribeCode::Server);
        }
    }
}
