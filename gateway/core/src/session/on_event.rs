//! The event command: the application is asked about an event, and what it wants done is done in its order.

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

/// What is still to be done of what the application wants.
#[derive(Debug)]
pub(super) struct EventInFlight {
    /// Of the part of the server that the event was sent to.
    channel: Channel,
    emit: VecDeque<Emitted>,
    acknowledge: Option<Box<Tagged>>,
    end: bool,
    /// The first that went wrong.
    failed: Option<Refusal>,
    /// The client is on its way into channels, and what follows is to reach it there.
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

    /// The application has answered.
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
                // It is there already.
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

    /// What the application wants goes on once the client has come into the channels that it is to come into.
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

    /// One of its events was published, or was not.
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
                    // Published, so that it is kept for one that comes back.
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
