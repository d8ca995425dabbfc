//! Which workers want which channels, and what stands between this node and the broker for each.
//!
//! Locks here are held for a few instructions and never across a wait. The order of a channel's publications is
//! the order in which its shard's lock is taken, so what is pushed to workers is pushed under it.

use std::hash::BuildHasher;

use gateway_core::feed::Feed;
use gateway_core::history::Retention;
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::{FxBuildHasher, FxHashMap};
use shared::channel::Channel;
use shared::moment::Moment;
use tokio::sync::oneshot;

use crate::broker::BrokerError;

const SHARDS: usize = 64;

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

#[derive(Debug)]
pub(crate) struct Interest {
    shards: Box<[Mutex<FxHashMap<Channel, LocalChannel>>]>,
}

pub(crate) type Shard<'a> = MutexGuard<'a, FxHashMap<Channel, LocalChannel>>;

impl Interest {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    pub(crate) fn shard(&self, channel: &str) -> Shard<'_> {
        // The high bits: the maps inside use the low ones.
        let at = (FxBuildHasher.hash_one(channel) >> 32) as usize % SHARDS;
        self.shards[at].lock()
    }

    /// Looks at every channel, a shard at a time.
    pub(crate) fn for_each(&self, mut look: impl FnMut(&Channel, &mut LocalChannel)) {
        for shard in &self.shards {
            for (channel, local) in shard.lock().iter_mut() {
                look(channel, local);
            }
        }
    }

    pub(crate) fn channels(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}
