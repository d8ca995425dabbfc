//! Clients that have asked to be served otherwise in one of their channels. Those who are still to be served there have
//! their turn first: what is handed out because one changes is handed to all whose it is.

use shared::channel::Channel;

use crate::client::{Client, ClientKey};
use crate::worker::Worker;
use gateway_core::effect::Ticket;
use gateway_core::newest::NewestTerms;

/// What a client has asked for in this turn.
#[derive(Debug)]
pub(crate) struct DeliveryChange {
    pub(crate) of: ClientKey,
    pub(crate) ticket: Ticket,
    pub(crate) channel: Channel,
    pub(crate) latest: Option<NewestTerms>,
}

impl Worker {
    pub(super) fn change_deliveries(&mut self) {
        // An answer can let the next command of its client go on.
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
