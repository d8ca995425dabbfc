//! Tracks keys of polled channels for a client, as its session has decided.

use gateway_core::effect::{DeliveryTerms, OutcomeResult, Ticket};
use shared::channel::Channel;
use shared::command::TrackBatch;

use crate::client::Client;
use crate::worker::WorkerLocal;

impl Client {
    /// Checks that the keys are signed for the client's user and that there is room for them.
    pub(super) fn verify(
        &mut self,
        local: &WorkerLocal,
        ticket: Ticket,
        channel: &Channel,
        batches: Vec<TrackBatch>,
    ) {
        let keys: usize = batches.iter().map(|batch| batch.items.len()).sum();
        let verified = local.node.verify_tracked(self.session.user(), channel, batches);
        let verified = verified.and_then(|verified| local.node.room_for(channel, keys).map(|()| verified));
        self.answer(local, ticket, OutcomeResult::Verified(verified));
    }

    pub(super) fn follow(&mut self, local: &mut WorkerLocal, channel: &Channel, keys: &[(Box<str>, u64)]) {
        // A client that has left, or is about to, tracks nothing.
        if self.is_finishing() || self.is_closing() {
            return;
        }
        let subscriber = self.subscriber(&DeliveryTerms::default());
        for (key, version) in keys {
            local.trackers.track(channel, key, subscriber, *version);
        }
        // Only now that the client is listed here, so that updates reach it.
        local.node.follow(local.index, channel, keys);
    }

    pub(super) fn unfollow(&mut self, local: &mut WorkerLocal, channel: &Channel, keys: &[Box<str>]) {
        let of_nobody =
            keys.iter().filter(|key| local.trackers.untrack(channel.as_str(), key, self.key.index));
        let of_nobody: Vec<&Box<str>> = of_nobody.collect();
        local.node.unfollow(local.index, channel, &of_nobody);
    }
}
