//! How much of a Redis one node can use: what it takes from one link, what it publishes, and how late that makes a
//! publication.
//!
//! Everything is asked of bare connections to the same Redis too, in turns, so that what is told are ratios of the
//! same machine in the same minutes. Redis and the node are started here and ended here; a process that is killed leaves
//! them behind.

pub mod pump;
pub mod reader;
pub mod report;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::arguments::RedisArguments;
use crate::clock::now_ns;
use crate::fleet::{Node, RedisServer, gateway_program, stop_all};
use crate::metrics::Metrics;
use crate::outcome::host;
use crate::plan::{Target, duration};
use crate::process::Usage;
use crate::progress::Progress;
use crate::report::Latency;
use crate::scenario::Cut;
use crate::threshold::{at_least, at_most};
use pump::{Flood, Publishing, flood, publish_on_time};
use reader::Reader;
use report::{Part, RedisReport, Row};

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

pub async fn run(
    arguments: &RedisArguments,
    title: &str,
    cut: &Cut,
    progress: &Progress,
) -> io::Result<RedisReport> {
    progress.enter("start");
    let mut servers = Servers::start(arguments).await?;
    let mut report = RedisReport {
        title: title.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host(),
        payload_bytes: arguments.payload,
        rate_per_second: arguments.rate,
        ..RedisReport::default()
    };
    let worked = cut.unless(servers.work(arguments, &mut report, progress)).await;
    progress.finish();
    servers.end().await;
    worked.transpose()?;
    report.cut_short = cut.reason().map(|cut| cut.describe().to_owned());
    let thresholds = [
        Some(at_most("max-received-ratio", arguments.max_received_ratio, report.received_over_needed)),
        Some(at_most("max-failed", arguments.max_failed as f64, Some(report.failed() as f64))),
        arguments.min_link_ratio.map(|limit| at_least("min-link-ratio", limit, report.link_ratio())),
        arguments
            .min_api_per_second
            .map(|limit| at_least("min-api-per-second", limit, report.api_per_second())),
        arguments.max_late_ms.map(|limit| at_most("max-late-ms", limit, report.later_p99_ms())),
    ];
    report.thresholds = thresholds.into_iter().flatten().collect();
    Ok(report)
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
        report: &mut RedisReport,
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
                report.rows.push(row);
            }
        }
        report.received_over_needed = Some((self.received().await? - before) / (needed as f64).max(1.0));
        Ok(())
    }

    /// How many publications have come to the node through Redis.
    async fn received(&self) -> io::Result<f64> {
        let target = Target::plain(self.node.internal);
        let metrics = Metrics::of(&[target]).await.map_err(io::Error::other)?;
        Ok(metrics.sum("tidegate_publications_in_total", &[("source", "node")]).unwrap_or(0.0))
    }

    fn usage(&self) -> [f64; 2] {
        [&self.node.process, &self.redis.process].map(|process| {
            let usage = Usage::sum(process.id().as_slice());
            usage.user_seconds + usage.system_seconds
        })
    }

    async fn measure(&self, part: Part, arguments: &RedisArguments) -> io::Result<Row> {
        let (before, start_ns) = (self.usage(), now_ns());
        let mut row = match part {
            Part::LinkBare | Part::LinkNode => self.link(part, arguments).await?,
            Part::LatencyBare | Part::LatencyNode | Part::LatencyApi => self.latency(part, arguments).await?,
            _ => self.publishing(part, arguments).await?,
        };
        let (after, took) = (self.usage(), crate::clock::seconds(now_ns() - start_ns));
        let published = row.published.max(1) as f64;
        let [node, redis] = [0, 1].map(|at| (after[at] - before[at]) * MICROS_PER_SECOND / published);
        (row.part, row.node_micros, row.redis_micros) = (part, node, redis);
        if row.per_second == 0.0 {
            row.per_second = published / took;
        }
        Ok(row)
    }

    /// Someone who reads, and what.
    fn reader(&self, part: Part) -> io::Result<(Reader, &'static str)> {
        match part {
            Part::LinkBare | Part::LatencyBare => {
                Ok((Reader::bare(self.redis.address, HEARD_BARE)?, HEARD_BARE))
            }
            _ => Ok((Reader::client(self.node.client, HEARD)?, HEARD)),
        }
    }

    /// Publishes as fast as Redis takes it and the one who reads keeps up with.
    async fn link(&self, part: Part, arguments: &RedisArguments) -> io::Result<Row> {
        let (reader, channel) = self.reader(part)?;
        let start = Instant::now();
        let publishing = Publishing::redis(channel, arguments.payload);
        let sent = flood(Flood {
            address: self.redis.address,
            publishing: &publishing,
            connections: 1,
            outstanding: 10,
            lasts: duration(arguments.duration),
            reader: Some(&reader),
        })
        .await?;
        let deadline = Instant::now() + TO_THE_END;
        while reader.count() < sent.published && Instant::now() < deadline {
            sleep(POLL).await;
        }
        let arrived = reader.count();
        Ok(Row {
            published: sent.published,
            failed: sent.failed + sent.published.saturating_sub(arrived),
            per_second: arrived as f64 / start.elapsed().as_secs_f64(),
            ..Row::default()
        })
    }

    /// Publishes what nobody reads, as fast as it is taken.
    async fn publishing(&self, part: Part, arguments: &RedisArguments) -> io::Result<Row> {
        let channel = if matches!(part, Part::ApiSingleKept | Part::ApiBatchKept) { KEPT } else { UNHEARD };
        let payload = arguments.payload;
        let (publishing, address, connections, outstanding) = match part {
            Part::PublishBare => (Publishing::redis(channel, payload), self.redis.address, 1, 10),
            Part::ApiBatch | Part::ApiBatchKept => {
                (Publishing::api_batch(channel, payload, arguments.batch), self.node.client, 4, 2)
            }
            _ => (Publishing::api_single(channel, payload), self.node.client, 64, 2),
        };
        let lasts = duration(arguments.duration);
        let start = Instant::now();
        let sent =
            flood(Flood { address, publishing: &publishing, connections, outstanding, lasts, reader: None })
                .await?;
        Ok(Row {
            published: sent.published,
            failed: sent.failed,
            per_second: sent.published as f64 / start.elapsed().as_secs_f64(),
            ..Row::default()
        })
    }

    /// Publishes on a fixed schedule, and times each from the moment it was due until it was read.
    async fn latency(&self, part: Part, arguments: &RedisArguments) -> io::Result<Row> {
        let (reader, channel) = self.reader(part)?;
        let address: SocketAddr =
            if part == Part::LatencyApi { self.node.client } else { self.redis.address };
        let count = (arguments.rate * arguments.duration) as u64;
        let via_api = part == Part::LatencyApi;
        let _sending =
            publish_on_time(address, via_api, channel, arguments.payload, arguments.rate, count).await?;
        let deadline = Instant::now() + TO_THE_END;
        while reader.count() < count && Instant::now() < deadline {
            sleep(POLL).await;
        }
        let arrived = reader.count();
        Ok(Row {
            published: count,
            failed: count.saturating_sub(arrived),
            latency: Some(Latency::of(&reader.finish())),
            ..Row::default()
        })
    }
}
