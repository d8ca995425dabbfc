//! Whether a large run fits on this machine: memory, descriptors and ports, looked at before anything is started.

use std::fs;
use std::io;

use crate::plan::CONNECTIONS_PER_SOURCE;

/// What one connection takes in all: both ends in the kernel, the node, and the holder. An estimate on the safe side
/// of what was measured.
const BYTES_PER_CONNECTION: u64 = 16 << 10;
/// What one node and its holder take before the first connection, and what everything else may need.
const BYTES_PER_NODE: u64 = 24 << 20;
const BYTES_SPARE: u64 = 512 << 20;
/// Descriptors that a node needs beside those of its clients.
const SPARE_DESCRIPTORS: u64 = 200;
/// Source addresses of one holder.
const SOURCES_MAX: u32 = 200;
/// Nodes that one machine can bear.
const NODES_MAX: u32 = 1_000;

/// What the machine has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub available_bytes: u64,
    /// Files that one process may open, and that all may together beyond those open now.
    pub descriptors: u64,
    pub files_left: u64,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum NoRoom {
    #[error(
        "about {needed_mib} MiB of memory are needed for {connections} connections and {available_mib} MiB are available: at most some {fit} would fit"
    )]
    Memory { connections: u32, needed_mib: u64, available_mib: u64, fit: u64 },
    #[error(
        "{per_node} connections a node need more file descriptors than a process may open ({descriptors}): take a smaller --per-node or raise the hard limit (ulimit -Hn)"
    )]
    Descriptors { per_node: u32, descriptors: u64 },
    #[error("all processes together may open {left} more files (fs.file-max), and {needed} are needed")]
    Files { needed: u64, left: u64 },
    #[error("{per_node} connections a node need more than {SOURCES_MAX} source addresses")]
    Ports { per_node: u32 },
    #[error("{0} nodes are more than {NODES_MAX}: take a larger --per-node")]
    Nodes(u32),
}

impl Room {
    pub(super) fn look(descriptors: u64) -> io::Result<Self> {
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let available_bytes = memory_field(&meminfo, "MemAvailable:")
            .ok_or_else(|| io::Error::other("/proc/meminfo does not say what is available"))?;
        let files = fs::read_to_string("/proc/sys/fs/file-nr")?;
        let mut counts = files.split_whitespace().filter_map(|count| count.parse::<u64>().ok());
        let (open, most) = (counts.next().unwrap_or(0), counts.nth(1).unwrap_or(u64::MAX));
        Ok(Self { available_bytes, descriptors, files_left: most.saturating_sub(open) })
    }

    /// How many nodes it takes, if all of it fits.
    pub(super) fn fits(&self, connections: u32, per_node: u32) -> Result<u32, NoRoom> {
        let nodes = connections.div_ceil(per_node);
        if nodes > NODES_MAX {
            return Err(NoRoom::Nodes(nodes));
        }
        let on_a_node = connections.min(per_node);
        if u64::from(on_a_node) + SPARE_DESCRIPTORS > self.descriptors {
            return Err(NoRoom::Descriptors { per_node: on_a_node, descriptors: self.descriptors });
        }
        if on_a_node.div_ceil(CONNECTIONS_PER_SOURCE) > SOURCES_MAX {
            return Err(NoRoom::Ports { per_node: on_a_node });
        }
        let files = 2 * (u64::from(connections) + u64::from(nodes) * SPARE_DESCRIPTORS);
        if files > self.files_left {
            return Err(NoRoom::Files { needed: files, left: self.files_left });
        }
        let each = BYTES_PER_CONNECTION + BYTES_PER_NODE / u64::from(on_a_node);
        let needed = u64::from(connections) * BYTES_PER_CONNECTION + u64::from(nodes) * BYTES_PER_NODE;
        if needed + BYTES_SPARE > self.available_bytes {
            return Err(NoRoom::Memory {
                connections,
                needed_mib: (needed + BYTES_SPARE) >> 20,
                available_mib: self.available_bytes >> 20,
                fit: self.available_bytes.saturating_sub(BYTES_SPARE) / each,
            });
        }
        Ok(nodes)
    }
}

/// A field of /proc/meminfo, in bytes.
pub(super) fn memory_field(meminfo: &str, field: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const ROOM: Room = Room { available_bytes: 21 * GIB, descriptors: 20_000, files_left: 2_400_000 };

    fn fits(room: Room, connections: u32, per_node: u32) -> Result<u32, NoRoom> {
        room.fits(connections, per_node)
    }

    #[test]
    fn a_million_fits_where_there_is_room_for_it() {
        assert_eq!(fits(ROOM, 1_000_000, 19_000), Ok(53));
        assert_eq!(fits(ROOM, 10, 19_000), Ok(1));
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_would() {
        let small = Room { available_bytes: 4 * GIB, ..ROOM };
        let Err(NoRoom::Memory { fit, .. }) = fits(small, 1_000_000, 19_000) else { panic!("it fits") };
        assert!(
            fits(small, fit as u32 - 19_000, 19_000).is_ok()
                && fits(small, fit as u32 + 19_000, 19_000).is_err()
        );
        assert!(matches!(fits(ROOM, 40_000, 19_900), Err(NoRoom::Descriptors { .. })));
        assert!(matches!(fits(Room { files_left: 9, ..ROOM }, 10, 10), Err(NoRoom::Files { .. })));
        assert!(matches!(fits(ROOM, 100_000, 1), Err(NoRoom::Nodes(100_000))));
    }

    #[test]
    fn memory_is_read_in_kibibytes() {
        assert_eq!(memory_field("MemTotal: 9 kB\nMemAvailable:   2 kB\n", "MemAvailable:"), Some(2048));
        assert_eq!(memory_field("MemTotal: 9 kB", "MemAvailable:"), None);
    }
}
