//! The masters of a cluster that this node knows. Each is a part of the broker, with an index of its own for as long as
//! it has slots.

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

/// The length of the prefix of Redis' replication id that names a life.
const LIFE_BYTES: usize = 16;

/// What scripts at a master are told beside its process: the key of the lease of its life, and the present names of the
/// other masters' lives.
#[derive(Debug, Default)]
pub(crate) struct ClusterLives(RwLock<Arc<str>>);

impl ClusterLives {
    pub(in crate::broker::redis) fn written(&self) -> Arc<str> {
        self.0.read().clone()
    }

    pub(super) fn update_lives(&self, lease: &str, others: &str) {
        let written: Arc<str> = format!("{lease}\n{others}").into();
        if *self.0.read() != written {
            *self.0.write() = written;
        }
    }
}

/// One of the masters.
#[derive(Debug)]
pub(super) struct ClusterPart {
    /// The index of this part of the broker.
    pub(super) place: usize,
    pub(super) member: ClusterNode,
    /// The address of the master.
    pub(super) name: Arc<str>,
    pub(super) master: Master,
    pub(super) lives: Arc<ClusterLives>,
    /// A slot of this master, for keys that belong to no channel and must be at this master.
    pub(super) home: AtomicU16,
    pub(super) _watch: AbortOnDropHandle<()>,
}

impl ClusterPart {
    /// Returns the name of the life of the master's data set, if its connection is up.
    pub(super) fn life(&self) -> Option<Arc<str>> {
        self.master.link.now().map(|up| up.server.data_set.clone())
    }

    pub(super) fn is_up(&self) -> bool {
        self.master.link.now().is_some()
    }

    /// Moves to another slot for the keys that belong to no channel.
    pub(super) fn move_home(&self, slot: u16, keys: &RedisKeys, node: &str) {
        if self.home.swap(slot, Ordering::Relaxed) != slot {
            self.master.canaries.move_to(keys.of_canaries_in(slot), node);
        }
    }

    /// Updates what the scripts at this master are told. `others` are the lives of the other masters.
    pub(super) fn update_lives(&self, keys: &RedisKeys, others: &[Arc<str>]) {
        let others: Vec<&str> = others.iter().filter_map(|life| life.get(..LIFE_BYTES)).collect();
        self.lives.update_lives(&keys.lease_in(self.home.load(Ordering::Relaxed)), &others.join(","));
    }
}

/// The parts, and the part that has each slot.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) parts: Vec<Option<Arc<ClusterPart>>>,
    /// The index of the part, by slot.
    pub(super) owners: Vec<Option<u8>>,
    /// Parts that have no slots any more, kept for as long as something may be on its way to them.
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

    /// Returns all parts, including the retired ones.
    pub(super) fn all_there_are(&self) -> impl Iterator<Item = &Arc<ClusterPart>> {
        self.all().chain(self.retired.iter().map(|(_, part)| part))
    }
}
