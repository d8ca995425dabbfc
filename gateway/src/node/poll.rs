//! Polled channels: the keys that subscribers on this node track, and who may track them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gateway_core::effect::Verified;
use gateway_core::hub::Prepared;
use gateway_core::poll::{KeyUpdate, PollMode, PollOptions, Poller, PollerUpdate};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use shared::channel::Channel;
use shared::command::TrackBatch;
use shared::error::ErrorCode;
use shared::id::UserId;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::publication::{Keyed, Payload, Publication};
use tokio::sync::{Notify, Semaphore};

use super::Node;
use super::keep_polling::keep_polling;
use crate::broker::{BrokerError, PublishRequest};
use crate::poll::{PollConfig, Problem, Signatures};
use crate::telemetry::labels::{Drop, PollSource};
use crate::worker::inbox::{self, WorkerEvent};

/// The tag that carries the epoch of a published key between nodes. Clients do not see it.
const EPOCH_TAG: &str = "epoch";

#[derive(Debug)]
pub(super) struct Polls {
    /// The epoch of the versions that this node assigns where the backend has none.
    epoch: Epoch,
    /// The last version assigned.
    versions: AtomicU64,
    channels: RwLock<FxHashMap<Channel, Arc<PolledChannel>>>,
    /// Permits for requests in flight.
    pub(super) permits: Semaphore,
    signatures: RwLock<Signatures>,
}

/// A channel with keys that are tracked here, or were until a moment ago.
#[derive(Debug)]
pub(super) struct PolledChannel {
    pub(super) channel: Channel,
    /// The section of the configuration that names the backend.
    pub(super) backend: Box<str>,
    pub(super) poller: Mutex<Poller>,
    /// Wakes the channel's task because something may be due sooner.
    pub(super) changed: Notify,
}

impl Polls {
    pub(super) fn new(config: &PollConfig) -> Self {
        Self {
            epoch: Epoch::from_random(rand::random()),
            versions: AtomicU64::new(0),
            channels: RwLock::default(),
            permits: Semaphore::new(config.concurrency_max),
            signatures: RwLock::new(Signatures::new(config)),
        }
    }

    /// Returns the number of polled channels and of their keys.
    pub(super) fn count(&self) -> (usize, usize) {
        let channels = self.channels.read();
        (channels.len(), channels.values().map(|polled| polled.poller.lock().keys()).sum())
    }

    fn find(&self, channel: &str) -> Option<Arc<PolledChannel>> {
        self.channels.read().get(channel).cloned()
    }

    /// Removes a channel without tracked keys. Returns false if a key has been tracked meanwhile.
    pub(super) fn forget(&self, polled: &PolledChannel) -> bool {
        let mut channels = self.channels.write();
        let is_over = polled.poller.lock().keys() == 0;
        if is_over {
            channels.remove(polled.channel.as_str());
        }
        is_over
    }

    pub(super) fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Node {
    pub(crate) fn set_poll_secrets(&self, config: &PollConfig) {
        *self.polls.signatures.write() = Signatures::new(config);
    }

    /// Returns the epoch of a channel's versions, as a position for its subscribers. `None` if there is none.
    pub(crate) fn poll_position(&self, channel: &Channel, options: &PollOptions) -> Option<StreamPosition> {
        let epoch = match options.mode {
            PollMode::Versionless => self.polls.epoch,
            PollMode::Versioned => self.polls.find(channel.as_str())?.poller.lock().epoch(),
        };
        (!epoch.is_empty()).then_some(StreamPosition { offset: 0, epoch })
    }

    /// Checks that every batch is signed for this user.
    pub(crate) fn verify_tracked(
        &self,
        user: &UserId,
        channel: &Channel,
        batches: Vec<TrackBatch>,
    ) -> Result<Vec<Verified>, ErrorCode> {
        let (now, unix_now) = (self.clock.now(), self.clock.unix_seconds());
        let signatures = self.polls.signatures.read();
        let verified = batches.into_iter().map(|TrackBatch { signature, items }| {
            let keys = items.iter().map(|(key, _)| &**key);
            let verified = signatures.verify(unix_now, &signature, user.as_str(), channel.as_str(), keys);
            let expires = verified.map_err(|problem| match problem {
                Problem::Wrong => ErrorCode::PermissionDenied,
                Problem::Expired => ErrorCode::TokenExpired,
            })?;
            Ok(Verified { items, expires: expires.map(|at| moment_of(now, at.saturating_sub(unix_now))) })
        });
        verified.collect()
    }

    /// Checks that this many more keys may be tracked in the channel. Commands in flight at the same time may together
    /// exceed the limit.
    pub(crate) fn room_for(&self, channel: &Channel, keys: usize) -> Result<(), ErrorCode> {
        let has_room = match self.polls.find(channel.as_str()) {
            Some(polled) => polled.poller.lock().has_room(keys),
            None => {
                let options = self.rules().options(channel).cloned();
                options.is_some_and(|options| keys <= options.shared_poll.keys_per_channel_max as usize)
            }
        };
        if has_room { Ok(()) } else { Err(ErrorCode::LimitExceeded) }
    }

    /// Records that a client of this worker tracks these keys, and which versions it has.
    pub(crate) fn follow(self: &Arc<Self>, worker: usize, channel: &Channel, keys: &[(Box<str>, u64)]) {
        let now = self.clock.now();
        let track = |polled: &PolledChannel| {
            let mut poller = polled.poller.lock();
            for (key, version) in keys {
                poller.track(now, worker, key, *version);
            }
            drop(poller);
            polled.changed.notify_one();
        };
        // The read lock is held meanwhile: a channel is removed only under the write lock.
        if let Some(polled) = self.polls.channels.read().get(channel.as_str()) {
            return track(polled);
        }
        let Some(options) = self.rules().options(channel).cloned() else { return };
        let mut channels = self.polls.channels.write();
        let polled = channels.entry(channel.clone()).or_insert_with(|| {
            let polled = Arc::new(PolledChannel {
                channel: channel.clone(),
                backend: options.shared_poll.backend.clone(),
                poller: Mutex::new(Poller::new(now, options.shared_poll.settings(), rand::random())),
                changed: Notify::new(),
            });
            self.runtime.spawn(keep_polling(self.clone(), polled.clone()));
            polled
        });
        track(polled);
    }

    /// Records that no client of this worker tracks these keys any more.
    pub(crate) fn unfollow(&self, worker: usize, channel: &Channel, keys: &[impl AsRef<str>]) {
        if keys.is_empty() {
            return;
        }
        let Some(polled) = self.polls.find(channel.as_str()) else { return };
        let now = self.clock.now();
        let mut poller = polled.poller.lock();
        for key in keys {
            poller.untrack(now, worker, key.as_ref());
        }
        if poller.keys() == 0 {
            polled.changed.notify_one();
        }
    }

    /// Publishes newer content of a key to all nodes.
    pub(crate) async fn publish_polled(
        &self,
        channel: Channel,
        key: &str,
        version: u64,
        epoch: Epoch,
        data: Payload,
    ) -> Result<(), BrokerError> {
        let mut publication = Publication::new(data);
        publication.keyed = Some(Box::new(Keyed { key: key.into(), version, ..Keyed::default() }));
        if !epoch.is_empty() {
            publication.tags.insert(EPOCH_TAG.into(), epoch.as_str().into());
        }
        let retention = gateway_core::history::Retention::default();
        let request = PublishRequest { channel, publication, retention, idempotency: None, version: None };
        self.publish(request).await.map(drop)
    }

    /// Applies a key's content published by any node. Returns whether the channel is polled on this node.
    pub(super) fn take_published(&self, channel: &str, keyed: &Keyed, publication: &Publication) -> bool {
        let Some(polled) = self.polls.find(channel) else { return false };
        let epoch = publication.tags.get(EPOCH_TAG).and_then(|epoch| Epoch::parse(epoch)).unwrap_or_default();
        let mut poller = polled.poller.lock();
        let taken = poller.published(&keyed.key, keyed.version, epoch, publication.data.clone());
        self.spread(&polled, &mut poller, PollSource::Published, taken);
        true
    }

    /// Hands updates to the workers. The caller holds the channel's lock, which keeps them in order.
    pub(super) fn spread(
        &self,
        polled: &PolledChannel,
        poller: &mut Poller,
        source: PollSource,
        taken: PollerUpdate,
    ) {
        let PollerUpdate { reset, news, changed, unchanged, removed } = taken;
        self.metrics.polled(source, changed, unchanged, removed);
        if reset {
            self.metrics.poll_resets_total.inc();
            self.inboxes.iter().for_each(|inbox| inbox.push(WorkerEvent::Anew(polled.channel.clone())));
        }
        let (received, namespace) = (self.clock.micros(), self.namespace_of(&polled.channel));
        for KeyUpdate { key, version, data, workers } in news {
            let removed = data.is_none();
            // Valid JSON is never empty, so an empty payload stands for a removed key.
            let mut publication = Publication::new(data.unwrap_or_else(|| Payload::json("")));
            publication.keyed =
                Some(Box::new(Keyed { key: (&*key).into(), removed, version, ..Keyed::default() }));
            let prepared =
                Prepared::new(polled.channel.clone(), namespace, publication, received, &self.variants);
            let news = Arc::new(inbox::KeyUpdate { prepared, key: key.clone(), version, removed });
            let full = self
                .inboxes
                .iter()
                .enumerate()
                .filter(|(worker, inbox)| workers & (1 << worker) != 0 && !inbox.push_news(news.clone()));
            let full = full.count();
            if full > 0 {
                self.metrics.dropped(Drop::InboxFull, full as u64);
                poller.undelivered(&key);
            }
        }
    }
}

/// Returns the moment this many seconds from now, or now if the number is negative.
fn moment_of(now: Moment, seconds: i64) -> Moment {
    now + std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
