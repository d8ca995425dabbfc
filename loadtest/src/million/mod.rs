//! A million connections on one machine: nodes over one Redis, and holders, each a process with its share.
//!
//! A process may open only so many files, so both ends are spread over many. Everything that is started is ended
//! here: nodes and Redis are stopped or killed, and a holder ends when its standard input does.

mod findings;
mod hold;
mod room;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use parking_lot::Mutex;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::arguments::{at_least_one, payload, positive, seconds};
use crate::clock::{self, now_ns};
use crate::fleet::{Node, RedisServer, gateway_program, lines_of, stop_all};
use crate::http::call;
use crate::mark::PayloadMaker;
use crate::process::{Usage, proportional_bytes};
use crate::progress::Progress;
use crate::report::{check, milliseconds};
use crate::scenario::{Controls, Outcome};
pub use findings::{MachineMemory, MillionFindings, NodeShare, PublicationReach};
pub use hold::{HolderArguments, HolderStatus, hold};
use room::{Room, memory_field};

/// With history, so that a node that lost its link to Redis for want of a processor makes up for what it missed.
const CHANNEL_PREFIX: &str = "all:everyone-";
const CHANNEL: &str = "all:everyone-0";
const POLL: Duration = Duration::from_millis(5);
const MICROS_PER_SECOND: f64 = 1e6;
/// How long a publication's answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// Rest before memory is looked at, for what was allocated only for opening.
const REST: Duration = Duration::from_secs(2);

#[derive(Args, Clone, Debug)]
pub struct MillionArguments {
    /// How many connections to hold, each with one subscription to the one channel.
    #[arg(short = 'n', long, default_value = "1000000", value_parser = at_least_one())]
    pub connections: u32,
    /// Most connections of one node, and of the process that holds them.
    #[arg(long, value_name = "N", default_value = "19000", value_parser = at_least_one())]
    pub per_node: u32,
    /// Connections opened a second, over all nodes.
    #[arg(long, value_name = "RATE", default_value = "5000", value_parser = positive)]
    pub ramp: f64,
    /// Publications to everyone, one after the other.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub publications: u16,
    /// Size of each payload (JSON; at least 58).
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = payload())]
    pub payload: usize,
    /// Between the pings of the nodes to each connection.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub ping_interval: Duration,
    /// Longest time for all connections to be ready.
    #[arg(long, value_name = "SECONDS", default_value = "900", value_parser = seconds)]
    pub connect_timeout: Duration,
    /// Longest time for a publication to reach everyone.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub reach_timeout: Duration,
    /// The gateway's program; without it, the one beside this.
    #[arg(long, value_name = "FILE")]
    pub tidegate: Option<PathBuf>,
    /// The Redis between the nodes; without it, one is started (redis-server).
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Threshold: connections that a publication did not reach, over all publications.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_missing: u64,
    /// Threshold: connections that did not become ready.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_unready: u64,
    /// Threshold: memory of the whole machine for each connection.
    #[arg(long, value_name = "KIB")]
    pub max_kib_each: Option<f64>,
    /// Threshold: time until the last one had a publication.
    #[arg(long, value_name = "MS")]
    pub max_last_ms: Option<f64>,
}

/// A process with its share of the connections, all of them to one node.
struct Holder {
    process: Child,
    /// It ends when this does.
    _keeps: ChildStdin,
    status: Arc<Mutex<HolderStatus>>,
}

/// Everything that was started. It ends with this value at the latest.
#[derive(Default)]
struct Fleet {
    redis: Option<RedisServer>,
    nodes: Vec<Node>,
    holders: Vec<Holder>,
}

/// `descriptors` is how many files each process may open.
pub async fn run(
    arguments: &MillionArguments,
    descriptors: u64,
    Controls { cut, progress }: &Controls,
) -> io::Result<Outcome<MillionFindings>> {
    let nodes =
        Room::look(descriptors)?.fits(arguments.connections, arguments.per_node).map_err(io::Error::other)?;
    progress.aim_at(arguments.connections.into(), 0);
    let mut fleet = Fleet::default();
    let mut found =
        MillionFindings { connections_requested: arguments.connections, ..MillionFindings::default() };
    let worked = cut.unless(fleet.work(arguments, nodes, &mut found, progress)).await;
    fleet.tell(&mut found);
    progress.finish();
    fleet.end().await;
    worked.transpose()?;
    let published = (!found.publications.is_empty()).then_some(found.missing() as f64);
    let thresholds = check([
        ("max-missing", Some(arguments.max_missing as f64), published),
        ("max-unready", Some(arguments.max_unready as f64), Some(found.unready() as f64)),
        ("max-kib-each", arguments.max_kib_each, found.bytes_per_connection().map(|bytes| bytes / 1024.0)),
        (
            "max-last-ms",
            arguments.max_last_ms,
            found.publications.iter().map(|one| one.last_ms).reduce(f64::max),
        ),
    ]);
    Ok((found, thresholds))
}

impl Fleet {
    async fn work(
        &mut self,
        arguments: &MillionArguments,
        nodes: u32,
        found: &mut MillionFindings,
        progress: &Progress,
    ) -> io::Result<()> {
        progress.enter("start");
        let run = rand::random();
        self.start_nodes(arguments, nodes, run).await?;
        // The holders are not there yet, so that all of what they take counts as theirs.
        let before = self.usage();
        let started_ns = now_ns();
        found.before = self.memory()?;
        progress.enter("connect");
        self.start_holders(arguments, run)?;
        let connected =
            timeout(arguments.connect_timeout, self.all_connected(arguments.connections.into(), progress))
                .await;
        let all_ready_ns = now_ns();
        let after = self.usage();
        let sum = self.sum();
        found.connections_ready = sum.ready;
        found.connect_seconds = clock::seconds(all_ready_ns - started_ns);
        found.connect_per_second = sum.ready as f64 / found.connect_seconds.max(1e-3);
        found.connect_micros =
            after.since(before).cpu_seconds() * MICROS_PER_SECOND / (sum.ready as f64).max(1.0);
        // Whoever is not ready in time shows in the figures.
        let _ = connected;
        sleep(REST).await;
        found.ready = self.memory()?;

        progress.enter("publish");
        let payloads = PayloadMaker::new(run, arguments.payload);
        for sequence in 1..=u64::from(arguments.publications) {
            self.all_ready(arguments.reach_timeout).await;
            let publication = self.publish(arguments, &payloads, sequence).await?;
            found.publications.push(publication);
        }
        found.after = self.memory()?;
        Ok(())
    }

    /// What can be told whenever it ends.
    fn tell(&self, found: &mut MillionFindings) {
        let sum = self.sum();
        found.connections_ready = found.connections_ready.max(sum.ready);
        (found.failed, found.gone) = (sum.failed, sum.gone);
        found.nodes =
            self.nodes.iter().zip(&self.holders).map(|(node, holder)| share_of(node, holder)).collect();
    }

    async fn start_nodes(&mut self, arguments: &MillionArguments, nodes: u32, run: u32) -> io::Result<()> {
        let program = gateway_program(arguments.tidegate.as_deref())?;
        let url = match &arguments.redis {
            Some(url) => url.clone(),
            None => format!("redis://{}", self.redis.insert(RedisServer::start(&[]).await?).address),
        };
        let ping_ms = arguments.ping_interval.as_millis();
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
            let ramp = arguments.ramp * f64::from(share) / f64::from(arguments.connections);
            self.holders.push(Holder::start(node.client, share, ramp, run)?);
        }
        Ok(())
    }

    /// Waits until every connection is ready, or was and is lost.
    async fn all_connected(&self, wanted: u64, progress: &Progress) {
        loop {
            let sum = self.sum();
            progress.show_connections(sum.ready, sum.failed);
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
    ) -> io::Result<PublicationReach> {
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
        let deadline = Instant::now() + arguments.reach_timeout;
        loop {
            let (mut reached, mut last_ns) = (0, start_ns);
            for holder in &self.holders {
                let reach = holder.status.lock().reach;
                if reach.sequence == sequence {
                    reached += reach.received;
                    last_ns = last_ns.max(reach.last_ns);
                }
            }
            if reached >= of || Instant::now() >= deadline {
                return Ok(PublicationReach {
                    reached,
                    of,
                    confirmed_ms,
                    last_ms: milliseconds(last_ns - start_ns),
                    nodes_cpu_seconds: self.usage().since(before).cpu_seconds(),
                });
            }
            sleep(POLL).await;
        }
    }

    /// Over all holders; the reach is told holder by holder.
    fn sum(&self) -> HolderStatus {
        self.holders.iter().fold(HolderStatus::default(), |sum, holder| {
            let status = *holder.status.lock();
            HolderStatus {
                ready: sum.ready + status.ready,
                failed: sum.failed + status.failed,
                gone: sum.gone + status.gone,
                ..sum
            }
        })
    }

    fn usage(&self) -> Usage {
        Usage::sum(&self.node_pids())
    }

    fn node_pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.process.id()).collect()
    }

    fn memory(&self) -> io::Result<MachineMemory> {
        let nodes = self.node_pids();
        let holders: Vec<u32> = self.holders.iter().filter_map(|holder| holder.process.id()).collect();
        let redis: Vec<u32> = self.redis.iter().filter_map(|redis| redis.process.id()).collect();
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        Ok(MachineMemory {
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

impl Holder {
    /// Little is read at a time, and little is kept for it.
    fn start(node: SocketAddr, connections: u32, ramp: f64, run: u32) -> io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["hold", "--threads", "1", "--read-buffer", "256", "--opening-max", "64"])
            .args(["--connect-timeout", "20", "--channel-prefix", CHANNEL_PREFIX])
            .arg(format!("--url=ws://{node}"))
            .arg(format!("--connections={connections}"))
            .arg(format!("--ramp={ramp}"))
            .arg(format!("--run={run}"))
            // The nodes ask for no token.
            .env_remove("TIDEGATE_LOADTEST_TOKEN_SECRET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let keeps = process.stdin.take().ok_or_else(|| io::Error::other("a holder has no standard input"))?;
        let mut lines = lines_of(process.stdout.take())?;
        let status = Arc::new(Mutex::new(HolderStatus::default()));
        let shown = status.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // Half a line is what a holder leaves that was killed.
                if let Ok(status) = serde_json::from_str(&line) {
                    *shown.lock() = status;
                }
            }
            // A holder that ends before it is asked to takes all of its connections with it.
            let mut status = shown.lock();
            (status.ready, status.gone) = (0, connections.into());
        });
        Ok(Self { process, _keeps: keeps, status })
    }
}

fn share_of(node: &Node, holder: &Holder) -> NodeShare {
    let status = *holder.status.lock();
    let pid = node.process.id().unwrap_or(0);
    NodeShare {
        pid,
        connections: status.ready,
        resident_bytes: Usage::sum(&[pid]).resident_bytes,
        received: status.reach.received,
    }
}
