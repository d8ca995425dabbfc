//! Handshakes and nothing else: open, connect, close, over and over, with so many under way at the same time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use clap::{Args, Parser};
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use super::{Controls, Outcome};
use crate::arguments::{AccessArguments, Arguments, at_least_one, seconds};
use crate::clock::{self, now_ns};
use crate::greet::connect_and_greet;
use crate::latencies::Latencies;
use crate::plan::Plan;
use crate::process::Usage;
use crate::report::{Findings, Latency, check};
use crate::subscriber::Shared;
use crate::tally::Reasons;

const MICROS_PER_SECOND: f64 = 1e6;
/// How long one may take before it has failed.
const EACH_MAX: Duration = Duration::from_secs(10);

#[derive(Args, Clone, Debug)]
pub struct HandshakeArguments {
    #[command(flatten)]
    pub access: AccessArguments,
    /// Handshakes under way at the same time.
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least_one())]
    pub in_flight: u32,
    /// How long to go on.
    #[arg(short = 'd', long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub duration: Duration,
    /// A process of the server, whose CPU is measured. Repeat it for several.
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// Threshold: handshakes that failed.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_failures: u64,
    /// Threshold: handshakes a second.
    #[arg(long, value_name = "RATE")]
    pub min_per_second: Option<f64>,
    /// Threshold: CPU microseconds of the server for each.
    #[arg(long, value_name = "MICROS")]
    pub max_micros: Option<f64>,
}

impl HandshakeArguments {
    /// The plain run that opens connections in the same way.
    pub fn as_run(&self) -> Arguments {
        let mut run = Arguments::parse_from(["plain"]);
        run.access = self.access.clone();
        run.connections.connections = self.in_flight;
        run.measuring.pids.clone_from(&self.pids);
        run
    }
}

/// Handshakes and nothing else.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct HandshakeFindings {
    pub in_flight: u32,
    pub seconds: f64,
    pub done: u64,
    pub per_second: f64,
    pub failed: u64,
    pub failures: BTreeMap<String, u64>,
    /// From the first byte on the way until the goodbye was sent.
    pub times: Latency,
    /// CPU of the server for each, and its cores in use; only with `--pid`.
    pub cpu_micros_each: Option<f64>,
    pub server_cores: Option<f64>,
    pub own_cores: f64,
}

#[derive(Debug, Default)]
struct HandshakeBooks {
    times: Latencies,
    failures: Reasons,
}

/// Makes them until the time is up.
pub async fn run(
    arguments: &HandshakeArguments,
    plan: Plan,
    controls: &Controls,
) -> io::Result<Outcome<HandshakeFindings>> {
    let shared = Rc::new(Shared::new(plan));
    let books = Rc::new(RefCell::new(HandshakeBooks::default()));
    let HandshakeArguments { in_flight, ref pids, .. } = *arguments;
    let (before, own_before, start_ns) = (Usage::sum(pids), Usage::own(), now_ns());
    let end_ns = start_ns + arguments.duration.as_nanos() as u64;
    let all = async {
        let mut loops = JoinSet::new();
        for number in 0..in_flight {
            loops.spawn_local(shake(shared.clone(), books.clone(), number, in_flight, end_ns));
        }
        while loops.join_next().await.is_some() {}
    };
    let local = LocalSet::new();
    // What is under way when it is cut short ends with the runtime's local tasks.
    let _ = controls.cut.unless(local.run_until(all)).await;
    let took = clock::seconds(now_ns() - start_ns);
    let used = Usage::sum(pids).since(before).cpu_seconds();
    let books = books.take();
    let times = Latency::of(&books.times);
    let found = HandshakeFindings {
        in_flight,
        seconds: took,
        done: times.count,
        per_second: times.count as f64 / took.max(1e-3),
        failed: books.failures.total(),
        failures: books.failures.into_map(),
        cpu_micros_each: (!pids.is_empty() && times.count > 0)
            .then(|| used * MICROS_PER_SECOND / times.count as f64),
        server_cores: (!pids.is_empty()).then(|| used / took.max(1e-3)),
        own_cores: Usage::own().since(own_before).cpu_seconds() / took.max(1e-3),
        times,
    };
    let thresholds = check([
        ("max-failures", Some(arguments.max_failures as f64), Some(found.failed as f64)),
        ("min-per-second", arguments.min_per_second, Some(found.per_second)),
        ("max-micros", arguments.max_micros, found.cpu_micros_each),
    ]);
    Ok((found, thresholds))
}

async fn shake(shared: Rc<Shared>, books: Rc<RefCell<HandshakeBooks>>, number: u32, step: u32, end_ns: u64) {
    let mut number = number;
    while now_ns() < end_ns {
        let start_ns = now_ns();
        let outcome = timeout(EACH_MAX, one(&shared, number)).await;
        let mut books = books.borrow_mut();
        match outcome.unwrap_or_else(|_| Err(format!("not done within {} s", EACH_MAX.as_secs()))) {
            Ok(()) => books.times.record(now_ns() - start_ns),
            Err(reason) => books.failures.count(reason),
        }
        // Each comes from another address and port, as those of different clients do.
        number = number.wrapping_add(step);
    }
}

/// Opens a connection, waits until the server has welcomed it, and says goodbye.
async fn one(shared: &Shared, number: u32) -> Result<(), String> {
    let (mut wire, _) = connect_and_greet(shared, number, &format!("load-{number}")).await?;
    wire.close().await.map_err(|error| error.to_string())
}

impl Findings for HandshakeFindings {
    fn faults(&self) -> Vec<(&'static str, u64)> {
        vec![("handshakes failed", self.failed)]
    }
}
