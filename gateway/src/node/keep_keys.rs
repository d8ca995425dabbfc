//! Publishes subscribers as keys of other channels: sets keys as subscribers come, renews them while they stay, removes them
//! as they go.
//!
//! The keys have a TTL, so those of a node that dies expire. A user's key is never removed: it expires some time after the
//! user's last client has left, and a client that returns within that time is never seen as gone.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::channel_rules::SubscriptionType;
use gateway_core::effect::PublishedSubscriber;
use gateway_core::map::{KeyAction, MapChange, MapRetention, SetKey, SetMode};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use shared::channel::Channel;
use shared::moment::Moment;
use shared::publication::{ClientInfo, Payload, Publication};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use crate::broker::ChangeRequest;
use crate::node::Node;
use crate::telemetry::LogLimiter;
use crate::telemetry::labels::Drop;

/// How often due renewals are looked for.
const ROUND: Duration = Duration::from_secs(1);
/// How often a key is renewed within its TTL: a failed renewal can be repeated in time.
const RENEWALS_PER_TTL: u32 = 3;
/// Changes of one node that wait for a part of the broker. Further ones are dropped and counted.
const WAITING_MAX: usize = 65_536;
/// The most changes handed to the broker at once.
const TOGETHER: usize = 256;

/// The keys that this node keeps alive in one part of the broker: one or two for each subscription whose namespace asks for
/// it.
#[derive(Debug, Default)]
pub(crate) struct KeptKeys {
    leases: Mutex<FxHashMap<(Channel, Box<str>), KeptKey>>,
    waiting: Mutex<VecDeque<ChangeRequest>>,
    /// Whether the broker has yet to answer for a batch. Changes under the lock of `waiting`.
    in_flight: AtomicBool,
    wake: Notify,
    failed_log: LogLimiter,
}

#[derive(Debug)]
struct KeptKey {
    info: Option<ClientInfo>,
    keeping: MapRetention,
    /// The number of clients for which the key is kept.
    holders: u32,
    /// When the key is set or renewed next. `None` if the key is set and does not expire.
    due: Option<Moment>,
}

impl KeptKey {
    /// Returns the change that sets the key if it is absent and renews it otherwise.
    fn request(&self, channel: &Channel, key: &str) -> ChangeRequest {
        let publication =
            Publication { info: self.info.clone(), ..Publication::new(Payload::json(bytes::Bytes::new())) };
        let mode = SetMode::IfNew;
        let set = SetKey { publication, score: 0, mode, refreshes: true, version: None };
        let change = MapChange { key: key.into(), action: KeyAction::Set(Box::new(set)), expected: None };
        ChangeRequest { channel: channel.clone(), change, keeping: self.keeping, idempotency: None }
    }
}

impl Node {
    pub(crate) fn show(&self, shown: PublishedSubscriber) {
        let PublishedSubscriber { info, clients, users, .. } = shown;
        if let Some(channel) = users {
            let user = info.user.as_str().into();
            self.begin_showing(channel, user, None, SubscriptionType::MapUsers);
        }
        if let Some(channel) = clients {
            let client = info.client.to_string().into();
            self.begin_showing(channel, client, Some(info), SubscriptionType::MapClients);
        }
    }

    pub(crate) fn hide(&self, shown: PublishedSubscriber) {
        let PublishedSubscriber { info, clients, users, own } = shown;
        if let Some(channel) = users {
            let mut leases = self.showing(&channel).leases.lock();
            if let Entry::Occupied(mut lease) = leases.entry((channel, info.user.as_str().into())) {
                lease.get_mut().holders -= 1;
                if lease.get().holders == 0 {
                    lease.remove();
                }
            }
        }
        let key: Box<str> = info.client.to_string().into();
        if let Some(channel) = clients {
            let lease = self.showing(&channel).leases.lock().remove(&(channel.clone(), key.clone()));
            if let Some(lease) = lease {
                self.remove_key(channel, key.clone(), lease.keeping);
            }
        }
        if let Some(channel) = own {
            let keeping = self.rules().options(&channel).map(|options| options.map.keeping());
            if let Some(keeping) = keeping {
                self.remove_key(channel, key, keeping);
            }
        }
    }

    fn begin_showing(
        &self,
        channel: Channel,
        key: Box<str>,
        info: Option<ClientInfo>,
        kind: SubscriptionType,
    ) {
        let rules = self.rules();
        let options = rules.options(&channel).filter(|options| options.subscription_type == kind);
        let Some(keeping) = options.map(|options| options.map.keeping()) else { return };
        let due = keeping.key_ttl.map(|ttl| self.clock.now() + ttl / RENEWALS_PER_TTL);
        let mut leases = self.showing(&channel).leases.lock();
        let lease = leases.entry((channel.clone(), key.clone()));
        let lease = lease.or_insert(KeptKey { info: None, keeping, holders: 0, due });
        lease.holders += 1;
        lease.info = info;
        let request = lease.request(&channel, &key);
        // Queued under the lock, so that later changes are queued behind.
        self.change_later(request);
    }

    fn remove_key(&self, channel: Channel, key: Box<str>, keeping: MapRetention) {
        let change = MapChange { key, action: KeyAction::Remove { tags: None }, expected: None };
        self.change_later(ChangeRequest { channel, change, keeping, idempotency: None });
    }

    /// Queues a change behind those that wait.
    fn change_later(&self, request: ChangeRequest) {
        let showing = self.showing(&request.channel);
        let mut waiting = showing.waiting.lock();
        if waiting.len() >= WAITING_MAX {
            // A key that should be set is set again soon, and a key that should be removed expires.
            return self.metrics.dropped(Drop::ShownFull, 1);
        }
        waiting.push_back(request);
        drop(waiting);
        showing.wake.notify_one();
    }

    /// Whether changes are waiting or in flight to the broker.
    pub(super) fn is_changing_keys(&self) -> bool {
        self.showing.all().any(|showing| {
            let waiting = showing.waiting.lock();
            showing.in_flight.load(Ordering::Relaxed) || !waiting.is_empty()
        })
    }

    fn showing(&self, channel: &Channel) -> &KeptKeys {
        self.showing.of(self.broker.part_of(channel))
    }

    /// Marks the keys of this part of the broker for renewal, because it may have lost its data.
    pub(super) fn show_again(&self, part: usize) {
        let now = self.clock.now();
        self.showing.of(part).leases.lock().values_mut().for_each(|lease| lease.due = Some(now));
    }

    /// Returns renewals that are due, as many as the queue has room for, and schedules the next.
    fn due_leases(&self, showing: &KeptKeys) -> Vec<ChangeRequest> {
        let now = self.clock.now();
        let room = WAITING_MAX - showing.waiting.lock().len();
        let mut leases = showing.leases.lock();
        let due = leases.iter_mut().filter(|(_, lease)| lease.due.is_some_and(|due| due <= now));
        due.take(room)
            .map(|((channel, key), lease)| {
                lease.due = lease.keeping.key_ttl.map(|ttl| now + ttl / RENEWALS_PER_TTL);
                lease.request(channel, key)
            })
            .collect()
    }
}

/// Hands changes to a part of the broker in order, and renews its keys, for as long as the node runs.
pub(super) async fn keep_showing(node: Arc<Node>, part: usize) {
    let showing = node.showing.of(part);
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = showing.wake.notified() => {}
            _ = round.tick() => node.due_leases(showing).into_iter().for_each(|request| node.change_later(request)),
        }
        loop {
            let batch: Vec<_> = {
                let mut waiting = showing.waiting.lock();
                let count = waiting.len().min(TOGETHER);
                showing.in_flight.store(count > 0, Ordering::Relaxed);
                waiting.drain(..count).collect()
            };
            if batch.is_empty() {
                break;
            }
            // Each call starts its change, so the changes are sent in order.
            let channels: Vec<_> = batch.iter().map(|request| request.channel.clone()).collect();
            let changed = join_all(batch.into_iter().map(|request| node.broker.change_key(request))).await;
            for (channel, changed) in channels.iter().zip(changed) {
                let Err(error) = changed else { continue };
                node.note_unpublished(channel, &error);
                if let Some(suppressed) = showing.failed_log.admit() {
                    tracing::warn!(%error, suppressed, "a subscriber could not be published as a key of another channel");
                }
            }
        }
    }
}
