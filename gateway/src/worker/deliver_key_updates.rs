//! Delivers updates of keys to the clients that track them: a piece of a long list at a time, so that other events get their
//! turns in between.

use std::sync::Arc;

use gateway_core::hub::{Bundles, Prepared, SWEEP_PIECE, Sink};
use gateway_core::poll::Trackers;

use crate::worker::Worker;
use crate::worker::inbox::KeyUpdate;

/// An update being delivered.
#[derive(Debug)]
pub(super) struct KeyUpdateInFlight {
    news: Arc<KeyUpdate>,
    /// The followers before this place in the key's list have yet to be sent it.
    rest: usize,
}

impl Worker {
    pub(super) fn begin_key_update(&mut self, news: Arc<KeyUpdate>) {
        let channel = news.prepared.channel().as_str();
        let rest = self.local.trackers.followers(channel, &news.key);
        self.key_updates.push_back(KeyUpdateInFlight { news, rest });
    }

    /// Delivers updates in order, as far as this turn's share allows.
    pub(super) fn deliver_key_updates(&mut self) {
        while !self.share.is_used_up()
            && let Some(KeyUpdateInFlight { news, rest }) = self.key_updates.pop_front()
        {
            let left = match news.removed {
                true => self.deliver_removal(&news),
                false => self.deliver_piece(&news, rest),
            };
            match left {
                0 => {
                    self.sweep(|_, sweep| sweep.delivered(std::slice::from_ref(&news.prepared)));
                    self.local.inbox.served(1, news.prepared.bytes());
                }
                rest => self.key_updates.push_front(KeyUpdateInFlight { news, rest }),
            }
        }
    }

    /// Delivers to one piece of the list. Returns how many followers are left.
    fn deliver_piece(&mut self, news: &KeyUpdate, rest: usize) -> usize {
        let channel = news.prepared.channel().as_str();
        let (outdated, rest) =
            self.local.trackers.outdated(channel, &news.key, news.version, rest, SWEEP_PIECE);
        self.hand(&outdated, &news.prepared);
        rest
    }

    /// Tells followers that the key was removed, which ends their tracking. Returns 0 if none are left, 1 otherwise.
    fn deliver_removal(&mut self, news: &KeyUpdate) -> usize {
        let channel = news.prepared.channel();
        let (dismissed, any_left) = self.local.trackers.dismiss(channel.as_str(), &news.key, SWEEP_PIECE);
        for subscriber in &dismissed {
            if let Some(client) = self.clients.get_mut(subscriber.key as usize) {
                client.session.handle_key_removed(channel, &news.key);
            }
        }
        self.hand(&dismissed, &news.prepared);
        if !any_left {
            self.local.node.unfollow(self.local.index, channel, std::slice::from_ref(&news.key));
        }
        usize::from(any_left)
    }

    fn hand(&mut self, subscribers: &[gateway_core::hub::Subscriber], prepared: &Arc<Prepared>) {
        if !subscribers.is_empty() {
            let mut bundles = Bundles::new(std::slice::from_ref(prepared));
            self.sweep(|_, sweep| sweep.deliver(subscribers, &mut bundles));
        }
    }

    /// Forgets all tracked keys of this worker.
    pub(super) fn forget_followers(&mut self) {
        let trackers = std::mem::take(&mut self.local.trackers);
        for (channel, keys) in Trackers::keys(&trackers) {
            let keys: Vec<Arc<str>> = keys.cloned().collect();
            self.local.node.unfollow(self.local.index, channel, &keys);
        }
        for KeyUpdateInFlight { news, .. } in self.key_updates.drain(..) {
            self.local.inbox.served(1, news.prepared.bytes());
        }
    }
}
