//! The state of the process, as the system reports it.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Counter, Gauge, IntGauge, Registry};

use super::names;
use super::register::{gauge, options, register};

/// Metrics that are read from the system at every scrape.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    start_time_seconds: Gauge,
    cpu_seconds_total: Counter,
    resident_bytes: IntGauge,
    descriptors: IntGauge,
    descriptors_max: IntGauge,
    threads: IntGauge,
}

impl ProcessMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            start_time_seconds: register(r, Gauge::with_opts(options(names::START_TIME_SECONDS))),
            cpu_seconds_total: register(r, Counter::with_opts(options(names::CPU_SECONDS_TOTAL))),
            resident_bytes: gauge(r, names::RESIDENT_BYTES),
            descriptors: gauge(r, names::DESCRIPTORS),
            descriptors_max: gauge(r, names::DESCRIPTORS_MAX),
            threads: gauge(r, names::THREADS),
        }
    }

    pub(super) fn start(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.start_time_seconds.set(now.as_secs_f64());
    }

    /// Reads everything again. A value that the system does not report stays as it was.
    pub(super) fn refresh(&self) {
        if let Some(seconds) = cpu_seconds() {
            // A counter can only be increased, so the difference is added.
            let grown = seconds - self.cpu_seconds_total.get();
            if grown > 0.0 {
                self.cpu_seconds_total.inc_by(grown);
            }
        }
        if let Some(status) = read("/proc/self/status") {
            if let Some(kibibytes) = field(&status, "VmRSS:") {
                self.resident_bytes.set(kibibytes.saturating_mul(1024));
            }
            if let Some(threads) = field(&status, "Threads:") {
                self.threads.set(threads);
            }
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            // One of the entries is the directory itself.
            self.descriptors.set(i64::try_from(entries.count()).unwrap_or(i64::MAX).saturating_sub(1));
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.descriptors_max.set(limit.and_then(|limit| i64::try_from(limit).ok()).unwrap_or(i64::MAX));
    }
}

/// Returns user and system time, in seconds.
fn cpu_seconds() -> Option<f64> {
    let stat = read("/proc/self/stat")?;
    // The second field is the program's name in parentheses and may hold anything, even spaces.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    Some((user + system) as f64 / ticks_per_second as f64)
}

/// Returns the number in the line that begins with `name`.
fn field(text: &str, name: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn the_system_tells_of_this_process() {
        let process = Metrics::new().process;
        process.refresh();
        assert!(process.resident_bytes.get() > 1 << 20);
        assert!(process.threads.get() >= 1);
        assert!(process.descriptors.get() >= 3);
        assert!(process.descriptors_max.get() >= process.descriptors.get());
        assert!(cpu_seconds().is_some());
    }
}
