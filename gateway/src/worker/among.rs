//! Selects a channel's subscribers on one worker.

use gateway_core::session::Session;

use crate::node::control::Among;
use crate::worker::Worker;

impl Worker {
    /// Returns the places of the clients that are named, if no others can be selected.
    pub(super) fn places_of(&self, among: &Among) -> Option<Vec<usize>> {
        if !among.only.channels.is_empty() || among.only.clients.is_empty() {
            return None;
        }
        let places = among.only.clients.iter().map(|client| self.local.node.client_ids.place(*client));
        let here = places.filter(|(worker, _)| *worker == self.local.index);
        let mut places: Vec<usize> = here.map(|(_, place)| place as usize).collect();
        places.sort_unstable();
        places.dedup();
        Some(places)
    }
}

impl Among {
    /// Whether this client is selected. It has to be subscribed to the channel.
    pub(super) fn means(&self, session: &Session) -> bool {
        let Self { channel, only } = self;
        session.is_in(channel) && only.includes(session.client(), |channel| session.is_in(channel))
    }
}
