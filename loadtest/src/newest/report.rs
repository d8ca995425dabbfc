//! What came of it.

use serde::{Deserialize, Serialize};

use crate::report::text::{Group, bytes, latency, number};
use crate::report::{Findings, Host, Latency, Threshold};

/// Values of which only the newest counts, and readers who take less than there are.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct NewestReport {
    pub title: String,
    pub version: String,
    pub cut_short: Option<String>,
    pub host: Host,
    pub keys: u32,
    pub rate_per_key: f64,
    pub bits_per_second: u64,
    pub slow: u32,
    pub others: u32,
    pub published: u64,
    /// Of a value as a slow reader reads it, while values are published.
    pub age: Latency,
    /// By slow readers, and what they were told that they were not sent.
    pub received: u64,
    pub superseded: u64,
    /// Keys of which a slow reader does not have the last value in the end.
    pub not_last: u64,
    pub without: NewestSide,
    pub with: NewestSide,
    pub thresholds: Vec<Threshold>,
}

/// While there are slow readers, or none.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct NewestSide {
    /// From publishing to reading, of those who listen to the channel beside it.
    pub others: Latency,
    pub late_ms_max: f64,
    /// Resident, only with `--pid`.
    pub memory_before: u64,
    pub memory_after: u64,
}

impl NewestReport {
    pub fn others_ratio(&self) -> Option<f64> {
        let (without, with) = (self.without.others, self.with.others);
        (without.count > 0 && with.count > 0 && without.p99 > 0.0).then(|| with.p99 / without.p99)
    }
}

impl Findings for NewestReport {
    fn title(&self) -> &str {
        &self.title
    }

    fn cut_short(&self) -> Option<&str> {
        self.cut_short.as_deref()
    }

    fn groups(&self) -> Vec<Group> {
        let Self { without, with, .. } = self;
        let rates = format!("{} keys, {} times a second each", self.keys, number(self.rate_per_key));
        let slow = vec![
            row("published", format!("{}: {rates}", number(self.published as f64))),
            row("slow readers", format!("{} of {} bit/s", self.slow, number(self.bits_per_second as f64))),
            row("age of a value as it is read", latency(&self.age)),
            row("values read", number(self.received as f64)),
            row("superseded, as they were told", number(self.superseded as f64)),
            row("keys without their last value", number(self.not_last as f64)),
        ];
        let mut others = vec![
            row("others", number(self.others.into())),
            row("latency without slow readers", latency(&without.others)),
            row("latency with them", latency(&with.others)),
            row("publishing behind its schedule", format!("{} ms at most", number(with.late_ms_max))),
        ];
        if with.memory_after > 0 {
            others.push(row("server's memory as slow readers came", bytes(with.memory_before as f64)));
            others.push(row("server's memory in the end", bytes(with.memory_after as f64)));
        }
        vec![Group { heading: "Slow readers", rows: slow }, Group { heading: "Others", rows: others }]
    }

    fn thresholds(&self) -> &[Threshold] {
        &self.thresholds
    }
}

fn row(what: &str, value: String) -> (String, String) {
    (what.to_owned(), value)
}
