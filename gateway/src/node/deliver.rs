//! Delivers publications from the broker to the workers: in each channel's order, and without gaps that history can
//! repair.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use gateway_core::feed::{Admission, FeedDelivery};
use gateway_core::hub::{Prepared, PreviousPublication};
use shared::channel::Channel;
use shared::publication::Publication;
use shared::push::OwnedEvent;

use crate::broker::BrokerEvents;
use crate::node::interest::LocalChannel;
use crate::node::{Node, repair};
use crate::telemetry::labels::{Drop, PanicSite, PublicationSource};
use crate::worker::inbox::WorkerEvent;

/// The receiver of a broker's events. A broker is built with it before the node exists.
#[derive(Debug, Default)]
pub(crate) struct FromBroker(OnceLock<Weak<Node>>);

impl FromBroker {
    pub(super) fn connect(&self, node: &Arc<Node>) {
        // One broker, one node: a second call would be a programming error and changes nothing.
        let _ = self.0.set(Arc::downgrade(node));
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.0.get()?.upgrade()
    }
}

impl BrokerEvents for FromBroker {
    fn publication(&self, channel: &str, publication: Publication) {
        let Some(node) = self.node() else { return };
        let position = publication.position;
        if catch_unwind(AssertUnwindSafe(|| node.receive(channel, publication))).is_err() {
            node.metrics.panicked(PanicSite::Delivery);
            tracing::error!(channel, "handling a publication panicked; it is reported as lost");
            let lose = || {
                let mut shard = node.interest.shard(channel);
                if let (Some(local), Some(position)) = (shard.get_mut(channel), position) {
                    node.hand_out(local, FeedDelivery::Lost(position));
                }
            };
            // Whatever the outcome, the link that delivered the publication lives on.
            let _ = catch_unwind(AssertUnwindSafe(lose));
        }
    }

    fn event(&self, channel: &str, event: OwnedEvent) {
        let Some(node) = self.node() else { return };
        if catch_unwind(AssertUnwindSafe(|| node.receive_event(channel, event))).is_err() {
            node.metrics.panicked(PanicSite::Delivery);
            tracing::error!(channel, "handling a join or leave panicked; it is dropped");
        }
    }

    fn control(&self, message: Bytes) {
        if let Some(node) = self.node() {
            node.receive_control(&message);
        }
    }

    fn node_message(&self, message: Bytes) {
        if let Some(node) = self.node() {
            node.receive_node_message(message);
        }
    }

    fn resumed(&self, part: usize) {
        if let Some(node) = self.node() {
            node.forget_catch_ups(part);
            node.repairs.of(part).compare_all.notify_one();
            node.members_missed.note(part);
            node.show_again(part);
        }
    }

    fn moved(&self, part: usize, channels: Vec<Channel>) {
        if let Some(node) = self.node() {
            node.forget_catch_ups(part);
            node.compare_these(&channels);
            node.members_missed.note(part);
        }
    }
}

impl Node {
    fn receive(self: &Arc<Self>, channel: &str, mut publication: Publication) {
        if let Some(keyed) = &publication.keyed
            && self.take_published(channel, keyed, &publication)
        {
            return self.note_unwanted(channel);
        }
        let _span = self.note_arrival(channel, &mut publication).entered();
        let mut shard = self.interest.shard(channel);
        // The channel has no subscribers left on this node, and the broker has not been told yet.
        let Some(local) = shard.get_mut(channel) else {
            drop(shard);
            return self.note_unwanted(channel);
        };
        self.metrics.publication_in(local.namespace(), PublicationSource::Node);
        local.checked = self.clock.now();
        match local.feed.admit(publication) {
            Admission::Deliver(publication) => self.hand_out(local, FeedDelivery::Publication(publication)),
            Admission::Duplicate => self.metrics.duplicates_total.inc(),
            Admission::Held => {}
            Admission::Gap { since } => {
                self.metrics.gaps_total.inc();
                self.repair(local, since);
            }
            // Only history can tell whether this is the same publication.
            Admission::Doubtful { since } => {
                self.metrics.duplicates_total.inc();
                self.repair(local, since);
            }
        }
    }

    /// Hands a join or leave to the subscribers that asked for these, in order with publications, followed by what it
    /// changes in the presence of users.
    fn receive_event(&self, channel: &str, event: OwnedEvent) {
        let mut shard = self.interest.shard(channel);
        let Some(local) = shard.get_mut(channel) else { return };
        let change = self.note_members(local, &event);
        self.hand_event(local, event);
        if let Some(change) = change {
            self.hand_event(local, change);
        }
    }

    /// Hands an event to the workers. The caller holds the channel's shard, so that later events cannot overtake this one.
    pub(super) fn hand_event(&self, local: &LocalChannel, event: OwnedEvent) {
        let prepared = Prepared::of(
            local.channel.clone(),
            local.namespace(),
            event,
            None,
            self.clock.micros(),
            &self.variants,
        );
        self.hand_to_workers(local, &prepared);
    }

    /// Has the publications after an offset read from history, because one is missing or in doubt.
    pub(super) fn repair(self: &Arc<Self>, local: &LocalChannel, since: u64) {
        let (channel, retention) = (local.channel.clone(), local.retention());
        self.runtime.spawn(repair::repair(self.clone(), channel, retention, since));
    }

    /// Hands a delivery to every worker with subscribers of the channel. The caller holds the channel's shard, so that later
    /// deliveries cannot overtake this one.
    pub(super) fn hand_out(&self, local: &mut LocalChannel, delivery: FeedDelivery) {
        match delivery {
            FeedDelivery::Publication(mut publication) => {
                // Only the patch may hold the previous payload.
                let before = publication.keyed.as_mut().and_then(|keyed| keyed.before.take());
                let checked = local.checked;
                if let Some(aside) = local.aside() {
                    aside.catch_up.handed_out(checked, &publication);
                }
                let previous = match publication.keyed {
                    Some(_) => publication
                        .position
                        .zip(before)
                        .map(|(position, data)| PreviousPublication { position, data }),
                    None => local.go_on_to(&publication, &self.interest),
                };
                self.interest.weigh(local);
                let (channel, micros) = (local.channel.clone(), self.clock.micros());
                self.note_handed_out(&publication, micros);
                let prepared = if local.retention().keeps_history() {
                    let event = OwnedEvent::Publication(publication);
                    Prepared::of(channel, local.namespace(), event, previous, micros, &self.variants)
                } else {
                    Prepared::unnumbered(
                        channel,
                        local.namespace(),
                        publication,
                        previous,
                        micros,
                        &self.variants,
                    )
                };
                self.hand_to_workers(local, &prepared);
            }
            FeedDelivery::Lost(position) => {
                if let Some(aside) = local.aside() {
                    aside.forget();
                    self.interest.weigh(local);
                }
                self.for_each_worker(local, |worker| {
                    self.inboxes[worker].push(WorkerEvent::Lost(local.channel.clone(), position));
                });
            }
        }
    }

    fn hand_to_workers(&self, local: &LocalChannel, prepared: &Arc<Prepared>) {
        self.for_each_worker(local, |worker| {
            if !self.inboxes[worker].push_publication(prepared.clone()) {
                self.metrics.dropped(Drop::InboxFull, 1);
            }
        });
    }

    fn for_each_worker(&self, local: &LocalChannel, mut act: impl FnMut(usize)) {
        let mut workers = local.workers;
        while workers != 0 {
            act(workers.trailing_zeros() as usize);
            workers &= workers - 1;
        }
    }
}
