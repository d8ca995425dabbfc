//! What a process costs: its CPU time and memory, as the kernel counts them.

use std::fs;
use std::io;

use rustix::param::{clock_ticks_per_second, page_size};
use serde::Serialize;

/// One reading of a process, or the sum of several.
#[derive(Serialize, Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub user_seconds: f64,
    pub system_seconds: f64,
    pub resident_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("process {pid} cannot be measured: {error}")]
pub struct ProcessError {
    pid: u32,
    error: io::Error,
}

impl Usage {
    pub fn of(pid: u32) -> Result<Self, ProcessError> {
        let stat = read(pid, "stat")?;
        let statm = read(pid, "statm")?;
        let error = || io::Error::other("its status is not in the form that was expected");
        parse(&stat, &statm).ok_or_else(|| ProcessError { pid, error: error() })
    }

    pub fn cpu_seconds(self) -> f64 {
        self.user_seconds + self.system_seconds
    }

    /// Returns the CPU time that was used since an earlier reading, and the present memory. The time of a process that has
    /// ended is missing in the later sum, which must not show as a negative time.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            user_seconds: (self.user_seconds - earlier.user_seconds).max(0.0),
            system_seconds: (self.system_seconds - earlier.system_seconds).max(0.0),
            resident_bytes: self.resident_bytes,
        }
    }

    /// Reads this process.
    pub fn own() -> Self {
        Self::sum(&[std::process::id()])
    }

    /// Returns the sum over all processes that still run.
    pub fn sum(pids: &[u32]) -> Self {
        let readings = pids.iter().filter_map(|&pid| Self::of(pid).ok());
        readings.fold(Self::default(), |sum, one| Self {
            user_seconds: sum.user_seconds + one.user_seconds,
            system_seconds: sum.system_seconds + one.system_seconds,
            resident_bytes: sum.resident_bytes + one.resident_bytes,
        })
    }
}

/// Returns the proportional set size: pages that several processes share are divided among them. It is slow to read, so it
/// is read at the ends of stages only. `None` where the kernel does not permit it.
pub fn proportional_bytes(pids: &[u32]) -> Option<u64> {
    pids.iter()
        .map(|&pid| {
            let rollup = read(pid, "smaps_rollup").ok()?;
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
        })
        .sum()
}

/// Returns the name of a process's program.
pub fn name(pid: u32) -> String {
    read(pid, "comm").map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

fn read(pid: u32, what: &str) -> Result<String, ProcessError> {
    fs::read_to_string(format!("/proc/{pid}/{what}")).map_err(|error| ProcessError { pid, error })
}

fn parse(stat: &str, statm: &str) -> Option<Usage> {
    // The name in brackets may itself hold brackets and spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = clock_ticks_per_second() as f64;
    let mut seconds = || fields.next()?.parse::<u64>().ok().map(|count| count as f64 / ticks);
    let (user_seconds, system_seconds) = (seconds()?, seconds()?);
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(Usage { user_seconds, system_seconds, resident_bytes: pages * page_size() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_survives_a_strange_process_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 1 0 1 2 3 4";
        let usage = parse(stat, "100 10 5 1 0 9 0").unwrap();
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!(usage.user_seconds, 250.0 / ticks);
        assert_eq!(usage.system_seconds, 50.0 / ticks);
        assert_eq!(usage.resident_bytes, 10 * page_size() as u64);
        assert_eq!(parse("7 (a", ""), None);
    }
}
