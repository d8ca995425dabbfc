//! A million connections on one machine: nodes over one Redis, and holders, each a process with its share.
//!
//! A process may open only so many files, so both ends are spread over many. Everything that is started is ended
//! here: nodes and Redis are stopped or killed, and a holder ends when its standard input does.

pub mod holder;
pub mod report;
pub mod room;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use parking_lot::Mutex;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::arguments::{HolderArguments, MillionArguments};
use crate::call::call;
use crate::clock::now_ns;
use crate::fleet::{Node, RedisServer, gateway_program, lines_of, stop_all};
use crate::mark::PayloadMaker;
use crate::outcome::host;
use crate::plan::duration;
use crate::process::{Usage, proportional_bytes};
use crate::progress::Progress;
use crate::report::milliseconds;
use crate::scenario::Cut;
use crate::threshold::at_most;
use holder::Status;
use report::{Memory, MillionReport, NodeReport, PublicationReport};
use room::{Room, memory_field};

/// With history, so that a node that lost its link to Redis for want of a processor makes up for what it missed.
const CHANNEL: &str = "all:everyone";
const POLL: Duration = Duration::from_millis(5);
const MICROS_PER_SECOND: f64 = 1e6;
/// How long a publication's answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// Rest before memory is looked at, for what was allocated only for opening.
const REST: Duration = Duration::from_secs(2);

/// A process with its share of the connections, all of them to one node.
struct Holder {
    process: Child,
    /// It ends when this does.
    _keeps: ChildStdin,
    status: Arc<Mutex<Status>>,
    connections: u32,
}

/// Everything that was started. It ends with this value at the latest.
#[derive(Default)]
struct Fleet {
    redis: Option<RedisServer>,
    nodes: Vec<Node>,
    holders: Vec<Holder>,
}

pub async fn run(
    arguments: &MillionArguments,
    title: &str,
    room: Room,
    cut: &Cut,
    progress: &Progress,
) -> io::Result<MillionReport> {
    let nodes = room.fits(arguments).map_err(io::Error::other)?;
    let mut fleet = Fleet::default();
    let mut report = MillionReport {
        title: title.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host(),
        connections_requested: arguments.connections,
        ..MillionReport::default()
    };
    let worked = cut.unless(fleet.work(arguments, nodes, &mut report, progress)).await;
    fleet.tell(&mut report);
    report.cut_short = cut.reason().map(|cut| cut.describe().to_owned());
    progress.finish();
    fleet.end().await;
    worked.transpose()?;
    let missing = report.publications.iter().map(|one| one.of.saturating_sub(one.reached)).sum::<u64>();
    let unready = u64::from(arguments.connections).saturating_sub(report.connections_ready);
    let published = (!report.publications.is_empty()).then_some(missing as f64);
    report.thresholds.push(at_most("max-missing", arguments.max_missing as f64, published));
    report.thresholds.push(at_most("max-unready", arguments.max_unready as f64, Some(unready as f64)));
    if let Some(limit) = arguments.max_kib_each {
        let each = report.bytes_per_connection().map(|bytes| bytes / 1024.0);
        report.thresholds.push(at_most("max-kib-each", limit, each));
    }
    if let Some(limit) = arguments.max_last_ms {
        let last = report.publications.iter().map(|one| one.last_ms).reduce(f64::max);
        report.thresholds.push(at_most("max-last-ms", limit, last));
    }
    Ok(report)
}

impl Fleet {
    async fn work(
        &mut self,
        arguments: &MillionArguments,
        nodes: u32,
        report: &mut MillionReport,
        progress: &Progress,
    ) -> io::Result<()> {
        progress.enter("start");
        let run = rand::random();
        self.start_nodes(arguments, nodes, run).await?;
        // The holders are not there yet, so that all of what they take counts as theirs.
        let before = self.usage();
        let started_ns = now_ns();
        report.before = self.memory()?;
        progress.enter("connect");
        self.start_holders(arguments, run)?;
        let connected = timeout(duration(arguments.connect_timeout), self.all_connected(progress)).await;
        let all_ready_ns = now_ns();
        let after = self.usage();
        let sum = self.sum();
        report.connections_ready = sum.ready;
        report.connect_seconds = crate::clock::seconds(all_ready_ns - started_ns);
        report.connect_per_second = sum.ready as f64 / report.connect_seconds.max(1e-3);
        report.connect_micros = cpu(before, after) * MICROS_PER_SECOND / (sum.ready as f64).max(1.0);
        // Whoever is not ready in time shows in the figures.
        let _ = connected;
        sleep(REST).await;
        report.ready = self.memory()?;

        progress.enter("publish");
        let payloads = PayloadMaker::new(run, arguments.payload);
        for sequence in 1..=u64::from(arguments.publications) {
            self.all_ready(duration(arguments.reach_timeout)).await;
            let publication = self.publish(arguments, &payloads, sequence).await?;
            report.publications.push(publication);
        }
        report.after = self.memory()?;
        Ok(())
    }

    /// What can be told whenever it ends.
    fn tell(&self, report: &mut MillionReport) {
        let sum = self.sum();
        report.connections_ready = report.connections_ready.max(sum.ready);
        (report.failed, report.gone) = (sum.failed, sum.gone);
        report.nodes =
            self.nodes.iter().zip(&self.holders).map(|(node, holder)| node_report(node, holder)).collect();
    }

    async fn start_nodes(&mut self, arguments: &MillionArguments, nodes: u32, run: u32) -> io::Result<()> {
        let program = gateway_program(arguments.tidegate.as_deref())?;
        let url = match &arguments.redis {
            Some(url) => url.clone(),
            None => format!("redis://{}", self.redis.insert(RedisServer::start(&[]).await?).address),
        };
        let ping_ms = (arguments.ping_interval * 1e3) as u64;
        let settings = [
            ("TIDEGATE_BROKER__KIND", "redis".to_owned()),
            ("TIDEGATE_REDIS__URL", url),
            ("TIDEGATE_REDIS__PREFIX", format!("million-{run:08x}")),
            ("TIDEGATE_WORKERS__COUNT", "1".to_owned()),
            ("TIDEGATE_NAMESPACES__ALL__HISTORY_SIZE", "16".to_owned()),
            ("TIDEGATE_NAMESPACES__ALL__HISTORY_TTL_S", "3600".to_owned()),
            ("TIDEGATE_SESSION__PING_INTERVAL_MS", ping_ms.to_string()),
            ("TIDEGATE_SESSION__PONG_TIMEOUT_MS", (ping_ms * 9 / 10).to_string()),
            ("TIDEGATE_LIMITS__HANDSHAKES_PER_ADDRESS_MAX", "0".to_owned()),
        ];
        for _ in 0..nodes {
            self.nodes.push(Node::start(&program, &settings).await?);
        }
        Ok(())
    }

    fn start_holders(&mut self, arguments: &MillionArguments, run: u32) -> io::Result<()> {
        let count = self.nodes.len() as u32;
        for (number, node) in (0..count).zip(&self.nodes) {
            let share = arguments.connections / count + u32::from(number < arguments.connections % count);
            let [high, low] = (number as u16 + 256).to_be_bytes();
            let arguments = HolderArguments {
                address: node.client,
                connections: share,
                ramp: arguments.ramp * f64::from(share) / f64::from(arguments.connections),
                channel: CHANNEL.to_owned(),
                run,
                source: Ipv4Addr::new(127, high, low, 1),
            };
            self.holders.push(Holder::start(&arguments)?);
        }
        Ok(())
    }

    /// Waits until every connection is ready or given up.
    async fn all_connected(&self, progress: &Progress) {
        loop {
            let sum = self.sum();
            progress.show_connections(sum.ready, sum.failed);
            let wanted: u64 = self.holders.iter().map(|holder| u64::from(holder.connections)).sum();
            if sum.ready + sum.gone >= wanted {
                return;
            }
            sleep(POLL * 4).await;
        }
    }

    /// Waits until every node says that it is ready, or so long: what is not ready by then shows in the figures.
    async fn all_ready(&self, longest: Duration) {
        let asked = timeout(longest, async {
            for node in &self.nodes {
                while call(node.internal, Method::GET, "/readyz", Bytes::new()).await.is_err() {
                    sleep(POLL * 20).await;
                }
            }
        });
        let _ = asked.await;
    }

    async fn publish(
        &self,
        arguments: &MillionArguments,
        payloads: &PayloadMaker,
        sequence: u64,
    ) -> io::Result<PublicationReport> {
        let of = self.sum().ready;
        // Nodes take turns, since any of them will do.
        let node = &self.nodes[sequence as usize % self.nodes.len()];
        let before = self.usage();
        let start_ns = now_ns();
        let body = format!("{{\"channel\":\"{CHANNEL}\",\"data\":{}}}", payloads.make(0, sequence, start_ns));
        let answer =
            timeout(ANSWER, call(node.client, Method::POST, "/api/publish", Bytes::from(body))).await;
        let answer =
            answer.unwrap_or_else(|_| Err("no answer in time".to_owned())).map_err(io::Error::other)?;
        if memchr::memmem::find(&answer, b"\"error\"").is_some() {
            return Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()));
        }
        let confirmed_ms = milliseconds(now_ns() - start_ns);
        let deadline = Instant::now() + duration(arguments.reach_timeout);
        loop {
            let (mut reached, mut last_ns) = (0, start_ns);
            for holder in &self.holders {
                let status = *holder.status.lock();
                if status.sequence == sequence {
                    reached += u64::from(status.received);
                    last_ns = last_ns.max(status.last_ns);
                }
            }
            if reached >= of || Instant::now() >= deadline {
                return Ok(PublicationReport {
                    reached,
                    of,
                    confirmed_ms,
                    last_ms: milliseconds(last_ns - start_ns),
                    nodes_cpu_seconds: cpu(before, self.usage()),
                });
            }
            sleep(POLL).await;
        }
    }

    fn sum(&self) -> Sum {
        self.holders.iter().fold(Sum::default(), |sum, holder| {
            let status = *holder.status.lock();
            Sum {
                ready: sum.ready + u64::from(status.ready),
                failed: sum.failed + status.failed,
                gone: sum.gone + u64::from(status.gone),
            }
        })
    }

    fn usage(&self) -> Usage {
        Usage::sum(&self.node_pids())
    }

    fn node_pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.process.id()).collect()
    }

    fn memory(&self) -> io::Result<Memory> {
        let nodes = self.node_pids();
        let holders: Vec<u32> = self.holders.iter().filter_map(|holder| holder.process.id()).collect();
        let redis: Vec<u32> = self.redis.iter().filter_map(|redis| redis.process.id()).collect();
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        Ok(Memory {
            available: memory_field(&meminfo, "MemAvailable:").unwrap_or(0),
            nodes_resident: Usage::sum(&nodes).resident_bytes,
            nodes_proportional: proportional_bytes(&nodes),
            holders_resident: Usage::sum(&holders).resident_bytes,
            holders_proportional: proportional_bytes(&holders),
            redis_resident: Usage::sum(&redis).resident_bytes,
        })
    }

    /// Holders first: nodes that lose all their clients have nobody to say goodbye to.
    async fn end(&mut self) {
        stop_all(self.holders.iter_mut().map(|holder| &mut holder.process)).await;
        stop_all(self.nodes.iter_mut().map(|node| &mut node.process)).await;
        stop_all(self.redis.iter_mut().map(|redis| &mut redis.process)).await;
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    ready: u64,
    failed: u64,
    gone: u64,
}

impl Holder {
    fn start(arguments: &HolderArguments) -> io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("hold")
            .args(arguments.words())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let keeps = process.stdin.take().ok_or_else(|| io::Error::other("a holder has no standard input"))?;
        let mut lines = lines_of(process.stdout.take())?;
        let status = Arc::new(Mutex::new(Status::default()));
        let shown = status.clone();
        let connections = arguments.connections;
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // Half a line is what a holder leaves that was killed.
                if let Ok(status) = serde_json::from_str(&line) {
                    *shown.lock() = status;
                }
            }
            // A holder that ends before it is asked to takes all of its connections with it.
            let mut status = shown.lock();
            (status.ready, status.gone) = (0, connections);
        });
        Ok(Self { process, _keeps: keeps, status, connections: arguments.connections })
    }
}

fn node_report(node: &Node, holder: &Holder) -> NodeReport {
    let status = *holder.status.lock();
    let pid = node.process.id().unwrap_or(0);
    NodeReport {
        pid,
        connections: status.ready,
        resident_bytes: Usage::sum(&[pid]).resident_bytes,
        received: status.received,
    }
}

fn cpu(from: Usage, to: Usage) -> f64 {
    (to.user_seconds + to.system_seconds - from.user_seconds - from.system_seconds).max(0.0)
}
