//! Which workers want which channels, and what stands between this node and the broker for each.
//!
//! Locks here are held for a few instructions and never across a wait. The order of a channel's publications is
//! the order in which its shard's lock is taken, so what is pushed to workers is pushed under it.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;
use gateway_core::catch_up::CatchUp;
use gateway_core::feed::Feed;
use gateway_core::history::Retention;
use gateway_core::hub::Previous;
use gateway_core::roster::Roster;
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::{FxBuildHasher, FxHashMap};
use shared::channel::Channel;
use shared::moment::Moment;
use shared::publication::{Payload, Publication};
use tokio::sync::oneshot;

use crate::broker::BrokerError;
use crate::node::catch_up::Told;

/// Locks the channels are spread over.
pub(super) const SHARDS: usize = 64;

/// One channel that some worker of this node wants, or wanted until a moment ago.
#[derive(Debug)]
pub(crate) struct LocalChannel {
    pub(crate) channel: Channel,
    /// Bit N: worker N has subscribers.
    pub(crate) workers: u64,
    pub(crate) link: Link,
    /// Joins that wait for the broker to deliver the channel.
    pub(crate) waiting: Vec<oneshot::Sender<Result<(), BrokerError>>>,
    pub(crate) feed: Feed,
    /// What those who join are told of the channel's past.
    pub(crate) catch_up: CatchUp,
    /// Joins that wait for somebody's read of it.
    pub(crate) past_waiting: Vec<oneshot::Sender<Told>>,
    /// In a channel with patches: the last publication that was handed out.
    pub(crate) previous: Option<Previous>,
    /// Who is there, where subscribers are told of users.
    pub(crate) roster: Option<Box<Roster>>,
    /// What `catch_up` and `previous` keep, as it was last counted.
    weight: Weight,
    pub(crate) retention: Retention,
    /// When a publication last arrived or the position was last checked.
    pub(crate) checked: Moment,
}

/// Whether the broker delivers a channel to this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    /// Not subscribed; in the queue of what should be.
    Queued,
    Subscribing,
    Up,
    /// Subscribed without need: let go unless someone comes back before this moment.
    Lingering(Moment),
    Unsubscribing,
}

impl LocalChannel {
    /// Whether somebody here would miss what does not come. Where no stream is kept, the feed knows of numbers if there
    /// are any.
    pub(super) fn is_followed(&self) -> bool {
        let is_numbered = self.retention.keeps_history() || self.feed.position().is_some();
        self.workers != 0 && self.link == Link::Up && is_numbered
    }

    /// Answers what a patch of this publication can be made from, and keeps this one for the next. A channel begins to
    /// keep with the first publication that may be sent as a patch, or a whole one would always be missing before it.
    pub(super) fn go_on_to(&mut self, publication: &Publication) -> Option<Previous> {
        let previous = self.previous.take();
        let keeps = publication.delta || previous.is_some();
        self.previous = publication.position.filter(|_| keeps).map(|position| {
            let Payload { kind, bytes } = &publication.data;
            // A copy, since the payload may be a small part of something large that was read.
            let data = Payload { kind: *kind, bytes: Bytes::copy_from_slice(bytes) };
            Previous { position, data }
        });
        previous
    }
}

#[derive(Debug)]
pub(crate) struct Interest {
    shards: Box<[Mutex<FxHashMap<Channel, LocalChannel>>]>,
    /// What all channels keep to tell those who join.
    kept_bytes: Arc<AtomicUsize>,
    lives: AtomicU32,
}

/// A channel's part in what all of them keep, in bytes; taken back with the channel.
#[derive(Debug)]
struct Weight {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

pub(crate) type Shard<'a> = MutexGuard<'a, FxHashMap<Channel, LocalChannel>>;

impl Interest {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            kept_bytes: Arc::default(),
            lives: AtomicU32::new(0),
        }
    }

    /// A channel that nobody here wanted until now. It waits to be subscribed.
    pub(crate) fn channel(&self, channel: Channel, retention: Retention, now: Moment) -> LocalChannel {
        LocalChannel {
            channel,
            workers: 0,
            link: Link::Queued,
            waiting: Vec::new(),
            feed: Feed::default(),
            catch_up: self.new_catch_up(retention),
            past_waiting: Vec::new(),
            previous: None,
            roster: None,
            weight: Weight { bytes: 0, total: self.kept_bytes.clone() },
            retention,
            checked: now,
        }
    }

    /// Nothing is known of a channel's past.
    pub(crate) fn new_catch_up(&self, retention: Retention) -> CatchUp {
        CatchUp::new(self.lives.fetch_add(1, Ordering::Relaxed), retention)
    }

    /// Counts anew what a channel keeps.
    pub(crate) fn weigh(&self, local: &mut LocalChannel) {
        let previous = local.previous.as_ref().map_or(0, |previous| previous.data.bytes.len());
        let bytes = local.catch_up.bytes() + previous;
        if bytes != local.weight.bytes {
            self.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.kept_bytes.fetch_sub(local.weight.bytes, Ordering::Relaxed);
            local.weight.bytes = bytes;
        }
    }

    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn shard(&self, channel: &str) -> Shard<'_> {
        // The high bits: the maps inside use the low ones.
        let at = (FxBuildHasher.hash_one(channel) >> 32) as usize % SHARDS;
        self.shards[at].lock()
    }

    /// Bit N: worker N has subscribers of the channel.
    pub(crate) fn workers(&self, channel: &Channel) -> u64 {
        self.shard(channel.as_str()).get(channel.as_str()).map_or(0, |local| local.workers)
    }

    /// Looks at every channel, a shard at a time.
    pub(crate) fn for_each(&self, mut look: impl FnMut(&Channel, &mut LocalChannel)) {
        (0..SHARDS).for_each(|shard| self.for_each_of(shard, &mut look));
    }

    /// Looks at the channels of one shard.
    pub(crate) fn for_each_of(&self, shard: usize, mut look: impl FnMut(&Channel, &mut LocalChannel)) {
        for (channel, local) in self.shards[shard % SHARDS].lock().iter_mut() {
            look(channel, local);
        }
    }

    pub(crate) fn channels(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}
