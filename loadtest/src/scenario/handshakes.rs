//! Handshakes and nothing else: open, connect, close, over and over, with so many under way at the same time.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use super::Cut;
use crate::arguments::HandshakeArguments;
use crate::clock::{NANOS_PER_SECOND, now_ns, seconds};
use crate::connect::{Entry, connect};
use crate::dialect::{Dialect, Event};
use crate::latencies::Latencies;
use crate::outcome::host;
use crate::plan::Plan;
use crate::process::Usage;
use crate::record::own_usage;
use crate::report::{HandshakesReport, Latency};
use crate::tally::Reasons;
use crate::threshold::{at_least, at_most};
use crate::wire::Incoming;

const MICROS_PER_SECOND: f64 = 1e6;
/// How long one may take before it has failed.
const EACH_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Books {
    times: Latencies,
    failures: Reasons,
}

/// Makes them until the time is up.
pub async fn run(arguments: &HandshakeArguments, plan: Plan, cut: &Cut) -> io::Result<HandshakesReport> {
    let plan = Rc::new(plan);
    let books = Rc::new(RefCell::new(Books::default()));
    let pids = &plan.arguments.measuring.pids;
    let (before, own_before, start_ns) = (Usage::sum(pids), own_usage(), now_ns());
    let end_ns = start_ns + (arguments.duration * NANOS_PER_SECOND as f64) as u64;
    let all = async {
        let mut loops = JoinSet::new();
        for number in 0..arguments.in_flight {
            loops.spawn_local(shake(plan.clone(), books.clone(), number, arguments.in_flight, end_ns));
        }
        while loops.join_next().await.is_some() {}
    };
    let local = LocalSet::new();
    // What is under way when it is cut short ends with the runtime's local tasks.
    let _ = cut.unless(local.run_until(all)).await;
    let took = seconds(now_ns() - start_ns);
    let (after, own_after) = (Usage::sum(pids), own_usage());
    let used = |from: Usage, to: Usage| {
        to.user_seconds + to.system_seconds - from.user_seconds - from.system_seconds
    };
    let books = books.take();
    let times = Latency::of(&books.times);
    let mut report = HandshakesReport {
        title: arguments.telling.title.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cut_short: cut.reason().map(|cut| cut.describe().to_owned()),
        host: host(),
        in_flight: arguments.in_flight,
        seconds: took,
        done: times.count,
        per_second: times.count as f64 / took.max(1e-3),
        failed: books.failures.total(),
        failures: books.failures.into_map(),
        cpu_micros_each: (!pids.is_empty() && times.count > 0)
            .then(|| used(before, after) * MICROS_PER_SECOND / times.count as f64),
        server_cores: (!pids.is_empty()).then(|| used(before, after) / took.max(1e-3)),
        own_cores: used(own_before, own_after) / took.max(1e-3),
        times,
        thresholds: Vec::new(),
    };
    let failed = Some(report.failed as f64);
    let thresholds = [
        Some(at_most("max-failures", arguments.max_failures as f64, failed)),
        arguments.min_per_second.map(|limit| at_least("min-per-second", limit, Some(report.per_second))),
        arguments.max_micros.map(|limit| at_most("max-micros", limit, report.cpu_micros_each)),
    ];
    report.thresholds = thresholds.into_iter().flatten().collect();
    Ok(report)
}

async fn shake(plan: Rc<Plan>, books: Rc<RefCell<Books>>, number: u32, step: u32, end_ns: u64) {
    let mut number = number;
    while now_ns() < end_ns {
        let start_ns = now_ns();
        let outcome = timeout(EACH_MAX, one(&plan, number)).await;
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
async fn one(plan: &Plan, number: u32) -> Result<(), String> {
    let target = plan.target_of(number, 0);
    let path = plan.dialect.path(plan.arguments.connections.transport, &target.path, "");
    let mut wire = connect(plan, target, number, Entry { path: &path, bearer: None })
        .await
        .map_err(|error| error.to_string())?;
    let mut messages = Vec::new();
    let token = plan.arguments.connections.token.as_deref();
    plan.dialect.greet(token, std::iter::empty(), &mut messages);
    wire.send(&messages).await.map_err(|error| error.to_string())?;
    let (mut welcome, mut refused) = (plan.dialect == Dialect::Raw, None);
    while !welcome {
        match wire.next().await {
            Ok(Incoming::Message(kind, message)) => {
                plan.dialect.hear(kind, &message, |event| match event {
                    Event::Welcome { .. } => welcome = true,
                    Event::Refused { reason, .. } => refused = Some(reason),
                    _ => {}
                });
            }
            Ok(Incoming::Close { code, reason }) => return Err(format!("closed with {code} {reason}")),
            Err(error) => return Err(error.to_string()),
        }
        if let Some(reason) = refused.take() {
            return Err(reason);
        }
    }
    wire.close().await.map_err(|error| error.to_string())
}
