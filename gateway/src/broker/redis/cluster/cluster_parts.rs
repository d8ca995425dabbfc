//! The masters of a cluster that this node knows: each is a part of the broker, at a place of its own for as long as it has slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use parking_lot::RwLock;
use tokio_util::task::AbortOnDropHandle;

use super::slots;
use super::view::ClusterNode;
use crate::broker::redis::master::Master;
use crate::broker::redis::redis_keys::RedisKeys;

/// The most masters that are used.
pub(super) const MASTERS_MAX: usize = 32;

/// So much of what Redis calls the history of its data set names a life.
const LIFE_BYTES: usize = 16;

/// What scripts at a master are told beside which process it is: where the lease of its life is, and what the lives of the
/// other masters are called at this moment.
#[derive(Debug, Default)]
pub(crate) struct ClusterLives(RwLock<Arc<str>>);

impl ClusterLives {
    pub(in crate::broker::redis) fn written(&self) -> Arc<str> {
        self.0.read().clone()
    }

    pub(super) fn tell(&self, lease: &str, others: &str) {
        let written: Arc<str> = format!("{lease}\n{others}").into();
        if *self.0.read() != written {
            *self.0.write() = written;
        }
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct ClusterPart {
    /// Which part of the broker it is.
    pub(super) place: usize,
    pub(super) member: ClusterNode,
    /// Where it is.
    pub(super) name: Arc<str>,
    pub(super) master: Master,
    pub(super) lives: Arc<ClusterLives>,
    /// A slot that it has: for what is not a channel's and must be at this master.
    pub(super) home: AtomicU16,
    pub(super) _watch: AbortOnDropHandle<()>,
}

impl ClusterPart {
    /// What the life of its data set is called, as far as its own connection tells at this moment.
    pub(super) fn life(&self) -> Option<Arc<str>> {
        self.master.link.now().map(|up| up.server.data_set.clone())
    }

    pub(super) fn is_up(&self) -> bool {
        self.master.link.now().is_some()
    }

    /// Has another slot for what is not a channel's.
    pub(super) fn move_home(&self, slot: u16, keys: &RedisKeys, node: &str) {
        if self.home.swap(slot, Ordering::Relaxed) != slot {
            self.master.canaries.move_to(keys.of_canaries_in(slot), node);
        }
    }

    /// Tells its scripts what is to be known. `others` are the lives of the other masters.
    pub(super) fn tell(&self, keys: &RedisKeys, others: &[Arc<str>]) {
        let others: Vec<&str> = others.iter().filter_map(|life| life.get(..LIFE_BYTES)).collect();
        self.lives.tell(&keys.lease_in(self.home.load(Ordering::Relaxed)), &others.join(","));
    }
}

/// Which part has each slot.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) parts: Vec<Option<Arc<ClusterPart>>>,
    /// By slot.
    pub(super) owners: Vec<Option<u8>>,
    /// Those that have no slots any more, for as long as something may be on its way to them.
    pub(super) retired: Vec<(Instant, Arc<ClusterPart>)>,
}

impl Places {
    pub(super) fn new() -> Self {
        let owners = vec![None; usize::from(slots::SLOTS)];
        Self { parts: vec![None; MASTERS_MAX], owners, retired: Vec::new() }
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<ClusterPart>> {
        let place = (*self.owners.get(usize::from(slot))?)?;
        self.parts.get(usize::from(place))?.as_ref()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<ClusterPart>> {
        self.parts.iter().flatten()
    }

    /// With those that are on their way out.
    pub(super) fn all_there_are(&self) -> impl Iterator<Item = &Arc<ClusterPart>> {
        self.all().chain(self.retired.iter().map(|(_, part)| part))
    }
}
