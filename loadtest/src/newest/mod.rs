//! Newest values: so many keys that change so often, and readers who take far less than that. How old a value is when it
//! is read, whether the last one of each key arrives, and what others and the server notice.

mod publish;
mod reader;
mod report;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::{Instant, sleep, timeout};

use crate::arguments::TellingArguments;
use crate::latencies::Latencies;
use crate::outcome::host;
use crate::process::Usage;
use crate::report::Latency;
use crate::scenario::Cut;
use crate::threshold::at_most;

use publish::{Published, Stint};
use reader::{Pace, Reader};
pub use report::{NewestReport, NewestSide};

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
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub keys: u32,
    /// Values of each key a second.
    #[arg(long, value_name = "RATE", default_value_t = 100.0)]
    pub rate: f64,
    /// Size of each value (JSON; at least 48).
    #[arg(long, value_name = "BYTES", default_value_t = 48)]
    pub payload: usize,
    /// What a slow reader takes, in bits a second.
    #[arg(long, value_name = "BITS", default_value_t = 64_000)]
    pub bits: u64,
    /// Slow readers, who want the latest.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub slow: u32,
    /// Others, who listen to the channel beside it.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub others: u32,
    /// Publications for the others, a second.
    #[arg(long, value_name = "RATE", default_value_t = 50.0)]
    pub others_rate: f64,
    /// Seconds of publishing without slow readers, and then with them.
    #[arg(short = 'd', long, value_name = "SECONDS", default_value_t = 10.0)]
    pub duration: f64,
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

/// Publishes for both stints.
pub async fn run(
    arguments: &NewestArguments,
    telling: &TellingArguments,
    cut: &Cut,
) -> io::Result<NewestReport> {
    let local = LocalSet::new();
    local.run_until(both(arguments, telling, cut)).await
}

async fn both(
    arguments: &NewestArguments,
    telling: &TellingArguments,
    cut: &Cut,
) -> io::Result<NewestReport> {
    let beside = format!("{}-beside", arguments.channel);
    let latencies = Rc::new(RefCell::new(Latencies::default()));
    let mut others = Vec::new();
    for _ in 0..arguments.others {
        let reader = Reader::open(arguments.address, &beside, false, None).await?;
        others.push(tokio::task::spawn_local(listen(reader, latencies.clone())));
    }
    let mut last = BTreeMap::new();
    let mut published = 0;
    let without = side(arguments, cut, &latencies, &mut last, &mut published).await?;

    let pace = Pace { bytes_per_s: (arguments.bits / 8).max(1) };
    let mut slow: Vec<JoinHandle<io::Result<Reader>>> = Vec::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for _ in 0..arguments.slow {
        let mut reader = Reader::open(arguments.address, &arguments.channel, true, Some(pace)).await?;
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
    let mut report = NewestReport {
        title: telling.title.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cut_short: cut.reason().map(|cut| cut.describe().to_owned()),
        host: host(),
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
        thresholds: Vec::new(),
    };
    let is_measured = !arguments.pids.is_empty();
    let growth = is_measured.then(|| report.with.memory_after.saturating_sub(report.with.memory_before));
    let thresholds = [
        Some(at_most(
            "max-age-p99-ms",
            arguments.max_age_p99_ms,
            (report.age.count > 0).then_some(report.age.p99),
        )),
        Some(at_most("max-not-last", arguments.max_not_last as f64, Some(not_last as f64))),
        arguments.max_others_ratio.map(|limit| at_most("max-others-ratio", limit, report.others_ratio())),
        arguments
            .max_growth_kib
            .map(|limit| at_most("max-growth-kib", limit, growth.map(|bytes| bytes as f64 / 1_024.0))),
    ];
    report.thresholds = thresholds.into_iter().flatten().collect();
    Ok(report)
}

/// One of the two stints.
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
    let stint = Stint::of(arguments);
    let Some(made) = cut.unless(stint.publish(*published)).await else { return Ok(NewestSide::default()) };
    let Published { last: newest, count, late_ms_max } = made?;
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

async fn listen(mut reader: Reader, latencies: Rc<RefCell<Latencies>>) {
    while reader.next().await.is_ok() {
        latencies.borrow_mut().merge(&std::mem::take(&mut reader.ages));
    }
}
