//! How many workers there are and how much may wait for each.

use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// Most workers of a node: interest in a channel is a mask of this many bits.
pub const WORKERS_MAX: usize = 64;

/// The threads that hold connections and deliver publications to them.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// Number of worker threads. 0: one per processor.
    pub count: usize,
    /// The most publications that wait for one worker. Publishers on this node are slowed down long before that. When
    /// an inbox is full, publications from other nodes are dropped and subscribers are informed of the gap.
    pub inbox_max: usize,
    /// How a publication is sent to many clients. `auto`: with one system call per 128 clients where the kernel and
    /// the process's sandbox allow io_uring, and otherwise with one per client. `off`: always with one per client.
    pub io_uring: IoUring,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IoUring {
    #[default]
    Auto,
    Off,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self { count: 0, inbox_max: 65_536, io_uring: IoUring::Auto }
    }
}

impl WorkerConfig {
    /// The number of threads, for a machine with this many processors.
    pub fn count_for(&self, processors: usize) -> usize {
        if self.count == 0 { processors.clamp(1, WORKERS_MAX) } else { self.count.min(WORKERS_MAX) }
    }

    pub fn check(&self, faults: &mut Faults) {
        faults.outside("count", self.count, 0..=WORKERS_MAX);
        faults.outside("inbox_max", self.inbox_max, 64..=16_777_216);
    }
}
