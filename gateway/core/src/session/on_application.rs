//! The commands that go to the application: rpc and send.

use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::publication::Payload;
use shared::push::{Event, Push};

use super::Session;
use super::on_change_delivery::CHANGE_DELIVERY;
use super::session_state::PendingEffect;
use crate::effect::{Denial, Effect};

impl Session {
    pub(super) fn on_rpc(&mut self, now: Moment, id: u32, method: Box<str>, data: Payload) {
        if *method == *CHANGE_DELIVERY {
            return self.on_change_delivery(now, id, &data);
        }
        if !self.context.application.rpc {
            return self.refuse(now, id, ErrorCode::NotAvailable);
        }
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::Rpc);
        self.effects.push_back(Effect::Rpc { ticket, method, data });
    }

    /// With an id, a refusal is answered. Without one there is no reply, but later commands still wait, so that
    /// messages reach the application in order.
    pub(super) fn on_send(&mut self, id: u32, channel: Box<str>, data: Payload) {
        if !self.context.application.messages {
            return self.close(Disconnect::NOT_AVAILABLE);
        }
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::Message);
        self.effects.push_back(Effect::Message { ticket, channel, data });
    }

    pub(super) fn on_messaged(&mut self, now: Moment, id: u32, result: Result<Option<Payload>, Denial>) {
        match result {
            Ok(Some(data)) => self.push(Push::alone(Event::Message(&data))),
            Ok(None) => {}
            Err(Denial::Error(refusal)) if id == 0 => self.note_refusal(now, None, &refusal),
            Err(Denial::Error(refusal)) => self.refuse(now, id, refusal),
            Err(Denial::Disconnect(disconnect)) => self.close(disconnect),
        }
    }
}
