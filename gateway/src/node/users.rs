//! Counts the connections of each user on this node against the limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use shared::id::UserId;

use crate::node::Node;

#[derive(Debug)]
pub(crate) struct Users {
    /// 0 means no limit.
    connections_max: AtomicU32,
    connections: Mutex<FxHashMap<UserId, LocalUser>>,
}

/// A user's connections on this node.
#[derive(Debug, Default)]
struct LocalUser {
    connections: u32,
    /// Bit N: worker N has had a connection of the user since the user last had none.
    workers: u64,
}

/// Counts one connection of a user for as long as it is held.
#[derive(Debug)]
pub(crate) struct UserPermit {
    node: Arc<Node>,
    user: UserId,
}

impl Users {
    pub(crate) fn new(connections_max: u32) -> Self {
        Self { connections_max: AtomicU32::new(connections_max), connections: Mutex::default() }
    }

    pub(crate) fn count(&self) -> usize {
        self.connections.lock().len()
    }

    /// Returns a bit mask of the workers that can have connections of the user.
    pub(crate) fn workers(&self, user: &str) -> u64 {
        self.connections.lock().get(&UserId::new(user)).map_or(0, |here| here.workers)
    }
}

impl Node {
    /// Sets the limit for connections made from now on.
    pub(crate) fn set_user_connections_max(&self, max: u32) {
        self.users.connections_max.store(max, Ordering::Relaxed);
    }

    /// Counts a connection. `None` if the user is at the limit. Anonymous clients are not counted.
    pub(crate) fn admit_user(self: &Arc<Self>, user: &UserId, worker: usize) -> Option<UserPermit> {
        if !user.is_anonymous() {
            let mut connections = self.users.connections.lock();
            let here = connections.entry(user.clone()).or_default();
            let max = self.users.connections_max.load(Ordering::Relaxed);
            if max != 0 && here.connections >= max {
                return None;
            }
            here.connections += 1;
            here.workers |= 1 << worker;
        }
        Some(UserPermit { node: self.clone(), user: user.clone() })
    }
}

impl UserPermit {
    pub(crate) fn user(&self) -> &UserId {
        &self.user
    }
}

impl Drop for UserPermit {
    fn drop(&mut self) {
        if self.user.is_anonymous() {
            return;
        }
        let mut connections = self.node.users.connections.lock();
        if let Some(here) = connections.get_mut(&self.user) {
            here.connections -= 1;
            if here.connections == 0 {
                connections.remove(&self.user);
            }
        }
    }
}
