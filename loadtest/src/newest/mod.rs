//! Newest values: so many keys that change so often, and readers who take far less than that. How old a value is when it
//! is read, whether the last one of each key arrives, and what others and the server notice.

mod newest_reader;
mod publish_values;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::{Instant, sleep, timeout};

use crate::arguments::{at_least_one, between, not_negative, positive, seconds};
use crate::latencies::Latencies;
use crate::process::Usage;
use crate::report::text::{bytes, count, latency, number, row};
use crate::report::{Findings, Group, Latency, check};
use crate::scenario::{Controls, Cut, Outcome};

use newest_reader::NewestReader;
use publish_values::{PublishedValues, ValuePublisher};

/// How long a slow reader may take to have the last value of each key, once nothing more is published.
const SETTLE: Duration = Duration::from_secs(60);

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Newest values")]
pub struct NewestArguments {
    /// A gateway on this machine.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    pub address: SocketAddr,
    /// For the server API.
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// A channel in a namespace with `newest.allow_choice`. One beside it, with `-beside` behind the name, is for the others.
    #[arg(long, value_name = "CHANNEL", default_value = "prices:load-newest")]
    pub channel: String,
    /// Keys of the channel.
    #[arg(long, value_name = "N", default_value = "500", value_parser = at_least_one())]
    pub keys: u32,
    /// Values of each key a second.
    #[arg(long, value_name = "RATE", default_value = "100", value_parser = positive)]
    pub rate: f64,
    /// Size of each value (JSON; at least 48).
    #[arg(long, value_name = "BYTES", default_value_t = 48)]
    pub payload: usize,
    /// What a slow reader takes, in bits a second.
    #[arg(long, value_name = "BITS", default_value = "64000", value_parser = between::<u64>(8..=u64::MAX))]
    pub bits: u64,
    /// Slow readers, who want the latest.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub slow: u32,
    /// Others, who listen to the channel beside it.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub others: u32,
    /// Publications for the others, a second.
    #[arg(long, value_name = "RATE", default_value = "50", value_parser = not_negative)]
    pub others_rate: f64,
    /// How long to publish without slow readers, and then with them.
    #[arg(short = 'd', long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub duration: Duration,
    /// A process of the server, whose memory is measured. Repeat it for several.
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// Threshold: p99 of the age of a value as a slow reader reads it, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1_000.0)]
    pub max_age_p99_ms: f64,
    /// Threshold: keys of which a slow reader does not have the last value in the end.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_not_last: u64,
    /// Threshold: p99 of the others, with slow readers against without.
    #[arg(long, value_name = "RATIO")]
    pub max_others_ratio: Option<f64>,
    /// Threshold: by how many KiB the server's memory grows while there are slow readers. Only with `--pid`.
    #[arg(long, value_name = "KIB")]
    pub max_growth_kib: Option<f64>,
}

/// Values of which only the newest counts, and readers who take less than there are.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct NewestFindings {
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

impl NewestFindings {
    pub fn others_ratio(&self) -> Option<f64> {
        let (without, with) = (self.without.others, self.with.others);
        (without.count > 0 && with.count > 0 && without.p99 > 0.0).then(|| with.p99 / without.p99)
    }
}

/// Publishes for both runs.
pub async fn run(arguments: &NewestArguments, controls: &Controls) -> io::Result<Outcome<NewestFindings>> {
    for &pid in &arguments.pids {
        Usage::of(pid).map_err(io::Error::other)?;
    }
    LocalSet::new().run_until(both(arguments, &controls.cut)).await
}

async fn both(arguments: &NewestArguments, cut: &Cut) -> io::Result<Outcome<NewestFindings>> {
    let beside = format!("{}-beside", arguments.channel);
    let latencies = Rc::new(RefCell::new(Latencies::default()));
    let mut others = Vec::new();
    for _ in 0..arguments.others {
        let reader = NewestReader::open(arguments.address, &beside, false, None).await?;
        others.push(tokio::task::spawn_local(listen(reader, latencies.clone())));
    }
    let mut last = BTreeMap::new();
    let mut published = 0;
    let without = side(arguments, cut, &latencies, &mut last, &mut published).await?;

    let mut slow: Vec<JoinHandle<io::Result<NewestReader>>> = Vec::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for _ in 0..arguments.slow {
        let mut reader =
            NewestReader::open(arguments.address, &arguments.channel, true, Some(arguments.bits / 8)).await?;
        let mut stopped = stopped.clone();
        slow.push(tokio::task::spawn_local(async move {
            // Both ends of it hold: a message is not left half read.
            while !*stopped.borrow_and_update() {
                if timeout(Duration::from_millis(200), reader.next()).await.is_ok_and(|read| read.is_err()) {
                    break;
                }
            }
            Ok(reader)
        }));
    }
    let with = side(arguments, cut, &latencies, &mut last, &mut published).await?;
    // Nobody is told any more, so that what is read from now on has aged for no fault of anybody's.
    let _ = stop.send(true);
    let mut ages = Latencies::default();
    let (mut received, mut superseded, mut not_last) = (0, 0, 0);
    for reader in slow {
        let mut reader = reader.await.map_err(io::Error::other)??;
        ages.merge(&reader.ages);
        let until = Instant::now() + SETTLE;
        while reader.has != last && Instant::now() < until && cut.reason().is_none() {
            if timeout(SETTLE, reader.next()).await.is_err() {
                break;
            }
        }
        received += reader.received;
        superseded += reader.superseded;
        not_last += last.iter().filter(|(key, number)| reader.has.get(*key) != Some(number)).count() as u64;
    }
    for other in others {
        other.abort();
    }
    let found = NewestFindings {
        keys: arguments.keys,
        rate_per_key: arguments.rate,
        bits_per_second: arguments.bits,
        slow: arguments.slow,
        others: arguments.others,
        published,
        age: Latency::of(&ages),
        received,
        superseded,
        not_last,
        without,
        with,
    };
    let age = (found.age.count > 0).then_some(found.age.p99);
    let grown_by = found.with.memory_after.saturating_sub(found.with.memory_before) as f64 / 1_024.0;
    let thresholds = check([
        ("max-age-p99-ms", Some(arguments.max_age_p99_ms), age),
        ("max-not-last", Some(arguments.max_not_last as f64), Some(not_last as f64)),
        ("max-others-ratio", arguments.max_others_ratio, found.others_ratio()),
        ("max-growth-kib", arguments.max_growth_kib, (!arguments.pids.is_empty()).then_some(grown_by)),
    ]);
    Ok((found, thresholds))
}

/// One of the two runs.
async fn side(
    arguments: &NewestArguments,
    cut: &Cut,
    latencies: &Rc<RefCell<Latencies>>,
    last: &mut BTreeMap<u32, u64>,
    published: &mut u64,
) -> io::Result<NewestSide> {
    let memory = || Usage::sum(&arguments.pids).resident_bytes;
    let memory_before = memory();
    latencies.take();
    let publisher = ValuePublisher::of(arguments);
    let Some(made) = cut.unless(publisher.publish(*published)).await else {
        return Ok(NewestSide::default());
    };
    let PublishedValues { last: newest, count, late_ms_max } = made?;
    last.extend(newest);
    *published += count;
    // What is on its way to the others.
    sleep(Duration::from_millis(200)).await;
    Ok(NewestSide {
        others: Latency::of(&latencies.take()),
        late_ms_max,
        memory_before,
        memory_after: memory(),
    })
}

async fn listen(mut reader: NewestReader, latencies: Rc<RefCell<Latencies>>) {
    while reader.next().await.is_ok() {
        latencies.borrow_mut().merge(&std::mem::take(&mut reader.ages));
    }
}

impl Findings for NewestFindings {
    fn groups(&self) -> Vec<Group> {
        let Self { without, with, .. } = self;
        let rates = format!("{} keys, {} times a second each", self.keys, number(self.rate_per_key));
        let slow = vec![
            row("published", format!("{}: {rates}", count(self.published))),
            row("slow readers", format!("{} of {} bit/s", self.slow, count(self.bits_per_second))),
            row("age of a value as it is read", latency(&self.age)),
            row("values read", count(self.received)),
            row("superseded, as they were told", count(self.superseded)),
            row("keys without their last value", count(self.not_last)),
        ];
        let mut others = vec![
            row("others", self.others.to_string()),
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

    fn faults(&self) -> Vec<(&'static str, u64)> {
        vec![("keys without their last value", self.not_last)]
    }
}
