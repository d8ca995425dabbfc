//! Applies clients' requests to change how a subscription is delivered. Sweeps of the channel in progress are finished
//! first, so that publications handed out because of the change reach all subscribers they are meant for.

use shared::channel::Channel;

use crate::client::{Client, ClientKey};
use crate::worker::Worker;
use gateway_core::effect::Ticket;
use gateway_core::newest::NewestTerms;

/// A client's request of this turn.
#[derive(Debug)]
pub(crate) struct DeliveryChange {
    pub(crate) of: ClientKey,
    pub(crate) ticket: Ticket,
    pub(crate) channel: Channel,
    pub(crate) latest: Option<NewestTerms>,
}

impl Worker {
    pub(super) fn change_deliveries(&mut self) {
        // The answer to one request may let the client's next command proceed.
        while !self.local.delivery_changes.is_empty() {
            for DeliveryChange { of, ticket, channel, latest } in
                std::mem::take(&mut self.local.delivery_changes)
            {
                self.sweep(|hub, sweep| hub.finish_sweeps_of(channel.as_str(), sweep));
                self.serve(of.index as usize, |worker| worker.change_delivery(of, ticket, &channel, latest));
            }
        }
    }

    fn change_delivery(
        &mut self,
        of: ClientKey,
        ticket: Ticket,
        channel: &Channel,
        latest: Option<NewestTerms>,
    ) {
        let index = of.index as usize;
        let is_there = |client: &Client| client.key == of && !client.is_closing();
        let Some(client) = self.clients.get_mut(index).filter(|client| is_there(client)) else { return };
        client.answer_delivery_change(&mut self.local, ticket, channel, latest);
        self.settle_client(index);
    }
}
