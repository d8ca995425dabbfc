//! How much of a Redis one node can use: what it takes from one link, what it publishes, and how late that makes a
//! publication.
//!
//! Everything is asked of bare connections to the same Redis too, in turns, so that what is told are ratios of the
//! same machine in the same minutes. Redis and the node are started here and ended here; a process that is killed leaves
//! them behind.

pub mod link_reader;
mod parts;
pub mod pump;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use crate::arguments::{between, payload, positive, seconds};
use crate::clock::{self, now_ns};
use crate::fleet::{Node, RedisServer, gateway_program, stop_all};
use crate::metrics::Metrics;
use crate::plan::Target;
use crate::process::Usage;
use crate::progress::Progress;
use crate::report::{Latency, check};
use crate::scenario::{Controls, Outcome};
use link_reader::LinkReader;
pub use parts::{Part, PartFigures, RedisFindings};
use pump::{Flood, PreparedRequests, flood, publish_on_time};

const MICROS_PER_SECOND: f64 = 1e6;
/// Without history: read by a client of the node, or by a bare connection. They differ, because a node goes on listening
/// for a while after its last client has left.
const HEARD: &str = "ticks";
const HEARD_BARE: &str = "bare-ticks";
/// Read by nobody, without and with history.
const UNHEARD: &str = "unheard";
const KEPT: &str = "kept:unheard";
/// How long those who read may take to have everything after the last publication.
const TO_THE_END: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(1);

/// What is measured, in the order of a turn.
const PARTS: [Part; 10] = [
    Part::LinkBare,
    Part::LinkNode,
    Part::PublishBare,
    Part::ApiSingle,
    Part::ApiBatch,
    Part::ApiSingleKept,
    Part::ApiBatchKept,
    Part::LatencyBare,
    Part::LatencyNode,
    Part::LatencyApi,
];

/// Redis and one node with one worker.
struct Servers {
    redis: RedisServer,
    node: Node,
}

#[derive(Args, Clone, Debug)]
pub struct RedisArguments {
    /// How long each part takes.
    #[arg(short = 'd', long, value_name = "SECONDS", default_value = "4", value_parser = seconds)]
    pub duration: Duration,
    /// How often all parts are measured.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub turns: u16,
    /// Size of each payload (JSON; at least 58).
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = payload())]
    pub payload: usize,
    /// Publications in a batch of the API.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = between::<u16>(1..=10_000))]
    pub batch: u16,
    /// Publications a second where latency is measured.
    #[arg(short, long, value_name = "RATE", default_value = "5000", value_parser = positive)]
    pub rate: f64,
    /// The gateway's program; without it, the one beside this.
    #[arg(long, value_name = "FILE")]
    pub tidegate: Option<PathBuf>,
    /// Threshold: publications that came to the node, over those it needed.
    #[arg(long, value_name = "RATIO", default_value_t = 1.0)]
    pub max_received_ratio: f64,
    /// Threshold: publications that were refused or did not arrive.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_failed: u64,
    /// Threshold: what a node takes from a link, over what a bare connection takes.
    #[arg(long, value_name = "RATIO")]
    pub min_link_ratio: Option<f64>,
    /// Threshold: publications a second in batches of the API.
    #[arg(long, value_name = "RATE")]
    pub min_api_per_second: Option<f64>,
    /// Threshold: how much later the node has a publication at p99 than a bare connection.
    #[arg(long, value_name = "MS")]
    pub max_late_ms: Option<f64>,
}

pub async fn run(
    arguments: &RedisArguments,
    Controls { cut, progress }: &Controls,
) -> io::Result<Outcome<RedisFindings>> {
    progress.enter("start");
    let mut servers = Servers::start(arguments).await?;
    let mut found = RedisFindings {
        payload_bytes: arguments.payload,
        rate_per_second: arguments.rate,
        ..RedisFindings::default()
    };
    let worked = cut.unless(servers.work(arguments, &mut found, progress)).await;
    progress.finish();
    servers.end().await;
    worked.transpose()?;
    let thresholds = check([
        ("max-received-ratio", Some(arguments.max_received_ratio), found.received_over_needed),
        ("max-failed", Some(arguments.max_failed as f64), Some(found.failed() as f64)),
        ("min-link-ratio", arguments.min_link_ratio, found.link_ratio()),
        ("min-api-per-second", arguments.min_api_per_second, found.api_per_second()),
        ("max-late-ms", arguments.max_late_ms, found.later_p99_ms()),
    ]);
    Ok((found, thresholds))
}

impl Servers {
    async fn start(arguments: &RedisArguments) -> io::Result<Self> {
        let program = gateway_program(arguments.tidegate.as_deref())?;
        // What is asked is how fast the readers are, not when Redis gives up on one.
        let redis = RedisServer::start(&["--client-output-buffer-limit", "pubsub 0 0 0"]).await?;
        let settings = [
            ("TIDEGATE_BROKER__KIND", "redis".to_owned()),
            ("TIDEGATE_REDIS__URL", format!("redis://{}", redis.address)),
            ("TIDEGATE_WORKERS__COUNT", "1".to_owned()),
            ("TIDEGATE_WORKERS__INBOX_MAX", "1000000".to_owned()),
            ("TIDEGATE_WEBSOCKET__OUTBOX_BYTES_MAX", (1 << 30).to_string()),
            ("TIDEGATE_NAMESPACES__KEPT__HISTORY_SIZE", "100".to_owned()),
            ("TIDEGATE_NAMESPACES__KEPT__HISTORY_TTL_S", "300".to_owned()),
        ];
        let node = Node::start(&program, &settings).await?;
        Ok(Self { redis, node })
    }

    async fn end(&mut self) {
        stop_all([&mut self.node.process, &mut self.redis.process].into_iter()).await;
    }

    async fn work(
        &self,
        arguments: &RedisArguments,
        found: &mut RedisFindings,
        progress: &Progress,
    ) -> io::Result<()> {
        let before = self.received().await?;
        let mut needed = 0;
        for _ in 0..arguments.turns {
            for part in PARTS {
                progress.enter(part.describe());
                let row = self.measure(part, arguments).await?;
                // What only other connections read, or nobody, must not come to the node.
                if matches!(part, Part::LinkNode | Part::LatencyNode | Part::LatencyApi) {
                    needed += row.published;
                }
                found.rows.push(row);
            }
        }
        found.received_over_needed = Some((self.received().await? - before) / (needed as f64).max(1.0));
        Ok(())
    }

    /// How many publications have come to the node through Redis.
    async fn received(&self) -> io::Result<f64> {
        let target = Target::plain(self.node.internal);
        let metrics = Metrics::of(&[target]).await.map_err(io::Error::other)?;
        Ok(metrics.sum("tidegate_publications_in_total", &[("source", "node")]).unwrap_or(0.0))
    }

    fn usage(&self) -> [f64; 2] {
        [&self.node.process, &self.redis.process]
            .map(|process| Usage::sum(process.id().as_slice()).cpu_seconds())
    }

    async fn measure(&self, part: Part, arguments: &RedisArguments) -> io::Result<PartFigures> {
        let (before, start_ns) = (self.usage(), now_ns());
        let mut row = match part {
            Part::LinkBare | Part::LinkNode => self.link(part, arguments).await?,
            Part::LatencyBare | Part::LatencyNode | Part::LatencyApi => self.latency(part, arguments).await?,
            _ => self.publishing(part, arguments).await?,
        };
        let (after, took) = (self.usage(), clock::seconds(now_ns() - start_ns));
        let published = row.published.max(1) as f64;
        let [node, redis] = [0, 1].map(|at| (after[at] - before[at]) * MICROS_PER_SECOND / published);
        (row.part, row.node_micros, row.redis_micros) = (part, node, redis);
        if row.per_second == 0.0 {
            row.per_second = published / took;
        }
        Ok(row)
    }

    /// Someone who reads, and what.
    fn reader(&self, part: Part) -> io::Result<(LinkReader, &'static str)> {
        match part {
            Part::LinkBare | Part::LatencyBare => {
                Ok((LinkReader::bare(self.redis.address, HEARD_BARE)?, HEARD_BARE))
            }
            _ => Ok((LinkReader::client(self.node.client, HEARD)?, HEARD)),
        }
    }

    /// Publishes as fast as Redis takes it and the one who reads keeps up with.
    async fn link(&self, part: Part, arguments: &RedisArguments) -> io::Result<PartFigures> {
        let (reader, channel) = self.reader(part)?;
        let start = Instant::now();
        let publishing = PreparedRequests::redis(channel, arguments.payload);
        let sent = flood(Flood {
            address: self.redis.address,
            publishing: &publishing,
            connections: 1,
            outstanding: 10,
            lasts: arguments.duration,
            reader: Some(&reader),
        })
        .await?;
        let deadline = Instant::now() + TO_THE_END;
        while reader.count() < sent.published && Instant::now() < deadline {
            sleep(POLL).await;
        }
        let arrived = reader.count();
        Ok(PartFigures {
            published: sent.published,
            failed: sent.failed + sent.published.saturating_sub(arrived),
            per_second: arrived as f64 / start.elapsed().as_secs_f64(),
            ..PartFigures::default()
        })
    }

    /// Publishes what nobody reads, as fast as it is taken.
    async fn publishing(&self, part: Part, arguments: &RedisArguments) -> io::Result<PartFigures> {
        let channel = if matches!(part, Part::ApiSingleKept | Part::ApiBatchKept) { KEPT } else { UNHEARD };
        let payload = arguments.payload;
        let (publishing, address, connections, outstanding) = match part {
            Part::PublishBare => (PreparedRequests::redis(channel, payload), self.redis.address, 1, 10),
            Part::ApiBatch | Part::ApiBatchKept => {
                (PreparedRequests::api_batch(channel, payload, arguments.batch), self.node.client, 4, 2)
            }
            _ => (PreparedRequests::api_single(channel, payload), self.node.client, 64, 2),
        };
        let lasts = arguments.duration;
        let start = Instant::now();
        let sent =
            flood(Flood { address, publishing: &publishing, connections, outstanding, lasts, reader: None })
                .await?;
        Ok(PartFigures {
            published: sent.published,
            failed: sent.failed,
            per_second: sent.published as f64 / start.elapsed().as_secs_f64(),
            ..PartFigures::default()
        })
    }

    /// Publishes on a fixed schedule, and times each from the moment it was due until it was read.
    async fn latency(&self, part: Part, arguments: &RedisArguments) -> io::Result<PartFigures> {
        let (reader, channel) = self.reader(part)?;
        let address: SocketAddr =
            if part == Part::LatencyApi { self.node.client } else { self.redis.address };
        let count = (arguments.rate * arguments.duration.as_secs_f64()) as u64;
        let via_api = part == Part::LatencyApi;
        let _sending =
            publish_on_time(address, via_api, channel, arguments.payload, arguments.rate, count).await?;
        let deadline = Instant::now() + TO_THE_END;
        while reader.count() < count && Instant::now() < deadline {
            sleep(POLL).await;
        }
        let arrived = reader.count();
        Ok(PartFigures {
            published: count,
            failed: count.saturating_sub(arrived),
            latency: Some(Latency::of(&reader.finish())),
            ..PartFigures::default()
        })
    }
}
