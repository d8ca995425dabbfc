//! Accounts for memory that a node holds for others, against a budget.
//!
//! Seven sixteenths of the budget are for bytes that wait for clients and come from them: these are counted here, and
//! when they are nearly used up, the largest debtors are closed (`worker/shed`). The rest is assigned beforehand: one
//! sixteenth to bodies of requests, a quarter to the workers' inboxes, an eighth to publications held back for joining
//! subscribers, an eighth to the history that channels retain; each of these has its own rule for when it is full.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::bodies::Bodies;

/// The mount point of control groups.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Larger than any debt: the worker has not reported yet.
pub(crate) const UNKNOWN: usize = usize::MAX;

/// The memory budget of a node, and how much of it is used.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: usize,
    /// Bytes that wait for clients or come from them.
    used: AtomicUsize,
    /// The debt of each worker's largest debtor, as last reported.
    largest: Box<[AtomicUsize]>,
    /// The bodies of requests.
    pub(crate) bodies: Arc<Bodies>,
}

impl Memory {
    /// Creates the budget, in bytes; 0 for half of the memory that this process may use.
    pub(crate) fn new(budget: u64, workers: usize) -> Arc<Self> {
        let budget = if budget > 0 { budget } else { allowed() / 2 };
        let budget = usize::try_from(budget).unwrap_or(usize::MAX);
        Arc::new(Self {
            budget,
            bodies: Bodies::new(budget / 16),
            used: AtomicUsize::new(0),
            largest: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        })
    }

    pub(crate) fn budget(&self) -> usize {
        self.budget
    }

    /// The bound of each worker's inbox, in payload bytes.
    pub(crate) fn inbox_bytes_max(&self) -> usize {
        self.budget / 4 / self.largest.len().max(1)
    }

    /// The bound of the publications that each worker holds back, in bytes.
    pub(crate) fn held_bytes_max(&self) -> usize {
        self.budget / 8 / self.largest.len().max(1)
    }

    /// The bound of the history that all channels retain, in bytes.
    pub(crate) fn catch_up_bytes_max(&self) -> usize {
        self.budget / 8
    }

    /// The bound of bytes that wait for clients or come from them.
    fn for_clients(&self) -> usize {
        self.budget / 16 * 7
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether so much is used for clients that some have to be closed.
    pub(crate) fn is_short(&self) -> bool {
        self.used() > self.for_clients() / 8 * 7
    }

    /// Whether there is no time left to find the largest debtor of other workers.
    pub(crate) fn is_out(&self) -> bool {
        self.used() > self.for_clients()
    }

    /// Whether enough clients have been closed.
    pub(crate) fn is_eased(&self) -> bool {
        self.used() <= self.for_clients() / 4 * 3
    }

    /// Replaces a counted size by its present value.
    pub(crate) fn recount(&self, before: usize, now: usize) {
        match now.checked_sub(before) {
            Some(more) => self.used.fetch_add(more, Ordering::Relaxed),
            None => self.used.fetch_sub(before - now, Ordering::Relaxed),
        };
    }

    /// Forgets the largest debts of all other workers, which are about to be asked for them.
    pub(crate) fn ask_others(&self, worker: usize) {
        for (_, largest) in self.largest.iter().enumerate().filter(|(index, _)| *index != worker) {
            largest.store(UNKNOWN, Ordering::Relaxed);
        }
    }

    /// Sets the debt of a worker's largest debtor. Returns the largest debt on any other worker, or [`UNKNOWN`].
    pub(crate) fn compare(&self, worker: usize, owes: usize) -> usize {
        let mut others = 0;
        for (index, largest) in self.largest.iter().enumerate() {
            match index == worker {
                true => largest.store(owes, Ordering::Relaxed),
                false => others = others.max(largest.load(Ordering::Relaxed)),
            }
        }
        others
    }
}

/// The frames of one worker that wait in outboxes, each counted once however many clients it waits for.
#[derive(Debug)]
pub(crate) struct SharedFrames {
    memory: Arc<Memory>,
    /// Frames by address and length. Each is kept alive here, so that its address is not reused.
    frames: FxHashMap<(usize, usize), Bytes>,
    /// The number of frames at which frames that wait for nobody are looked for.
    prune_at: usize,
}

/// With fewer frames, pruning is not worth it.
const PRUNE_FROM: usize = 64;

impl SharedFrames {
    pub(crate) fn new(memory: Arc<Memory>) -> Self {
        Self { memory, frames: FxHashMap::default(), prune_at: PRUNE_FROM }
    }

    /// Counts a frame that is about to wait for one more client.
    pub(crate) fn note(&mut self, frame: &Bytes) {
        let key = (frame.as_ptr() as usize, frame.len());
        if self.frames.contains_key(&key) {
            return;
        }
        if self.frames.len() >= self.prune_at {
            self.prune();
        }
        self.memory.recount(0, frame.len());
        self.frames.insert(key, frame.clone());
    }

    /// Drops frames that wait for nobody any more. Nothing reports that earlier.
    pub(crate) fn prune(&mut self) {
        let memory = &self.memory;
        self.frames.retain(|_, frame| {
            let waits = !frame.is_unique();
            if !waits {
                memory.recount(frame.len(), 0);
            }
            waits
        });
        self.prune_at = PRUNE_FROM.max(2 * self.frames.len());
        if self.frames.is_empty() {
            self.frames = FxHashMap::default();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// Returns the memory that this process may use: the limit of its control group, or the machine's memory.
fn allowed() -> u64 {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = allowed_by_group(&groups, Path::new(CONTROL_GROUPS));
    let system = rustix::system::sysinfo();
    let machine = system.totalram.saturating_mul(system.mem_unit.into());
    group.map_or(machine, |group| group.min(machine))
}

/// Returns the lowest limit of the control groups that contain this process. `groups` is the text of `/proc/self/cgroup`.
fn allowed_by_group(groups: &str, root: &Path) -> Option<u64> {
    let read = |directory: &Path, file: &str| {
        let text = fs::read_to_string(directory.join(file)).ok()?;
        // `max` stands for no limit.
        text.trim().parse::<u64>().ok()
    };
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        // Inside a container the path may be that of the host, of which only the root is visible.
        let inside = root.join(path.trim_start_matches('/'));
        inside
            .ancestors()
            .take_while(|group| group.starts_with(&root))
            .filter_map(|group| read(group, file))
            .min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_counts_in_both_versions() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let allowed = |groups: &str| allowed_by_group(groups, root.path());
        assert_eq!(allowed("0::/a/b\n"), None);
        write("a/memory.max", "1000000\n");
        write("a/b/memory.max", "max\n");
        assert_eq!(allowed("0::/a/b\n"), Some(1_000_000));
        write("memory.max", "700000\n");
        assert_eq!(allowed("0::/elsewhere\n"), Some(700_000), "only the root is seen");
        write("memory/c/memory.limit_in_bytes", "500000\n");
        assert_eq!(allowed("5:cpu:/c\n4:hugetlb,memory:/c\n0::/a\n"), Some(500_000));
        assert_eq!(allowed(""), None);
    }

    #[test]
    fn a_frame_counts_once_however_many_wait_for_it_and_no_longer_than_any_does() {
        let memory = Memory::new(1_000, 1);
        let mut frames = SharedFrames::new(memory.clone());
        let (one, other) = (Bytes::from(vec![1; 300]), Bytes::from(vec![2; 100]));
        let mut waiting = Vec::new();
        for frame in [&one, &one, &one, &one, &one, &other] {
            frames.note(frame);
            waiting.push(frame.clone());
        }
        // The socket has accepted a part of this frame.
        waiting[5] = waiting[5].slice(50..);
        drop((one, other));
        assert_eq!(memory.used(), 400);
        waiting.drain(..5);
        frames.prune();
        assert_eq!(memory.used(), 100);
        assert!(!frames.is_empty());
        drop(waiting);
        frames.prune();
        assert_eq!(memory.used(), 0);
        assert!(frames.is_empty());
    }

    #[test]
    fn there_is_always_a_budget() {
        assert!(Memory::new(0, 2).budget() > 0);
    }
}
