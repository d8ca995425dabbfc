//! Feeds: each reads records from one external source and publishes them, in order and once.
//!
//! Each feed is read by one node at a time, which its source ensures ([`source`]). A record is parsed like a request of
//! the server API ([`record`]), the publications of a batch go out channel by channel ([`work`]), and a record is
//! settled only when it is published, or was put among the source's dead letters ([`run_feed`]).

pub mod feed_config;
pub mod kafka;
pub mod nats;
pub mod postgres;
mod record;
pub mod redis_stream;
mod run_feed;
mod source;
mod supervise_feed;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::feed_config::{FeedConfig, FeedKind};
use self::run_feed::Running;
use self::source::FeedSource;
use self::supervise_feed::FeedParts;
use crate::api;
use crate::broker::nats::NatsConfig;
use crate::broker::redis::RedisConfig;
use crate::node::Node;

/// How long a stopping node may take to publish the records that it has read.
const HAND_OVER: Duration = Duration::from_secs(3);

/// The running feeds of a node.
#[derive(Debug)]
pub(crate) struct Feeds {
    stop: CancellationToken,
    running: Vec<(Arc<str>, JoinHandle<()>)>,
}

/// The parameters of [`Feeds::start`].
#[derive(Debug)]
pub(crate) struct FeedsParts<'a> {
    pub(crate) feeds: &'a BTreeMap<String, FeedConfig>,
    /// The sections `redis` and `nats`.
    pub(crate) servers: (&'a RedisConfig, &'a NatsConfig),
    /// The section `api`, whose limits apply to records too.
    pub(crate) api: &'a api::ApiConfig,
    pub(crate) node: &'a Arc<Node>,
    pub(crate) runtime: &'a Handle,
}

/// Why a feed cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("feeds.{feed}: {problem}")]
pub(crate) struct FeedSetupError {
    feed: Box<str>,
    problem: String,
}

impl Feeds {
    /// Starts to connect, and returns at once.
    pub(crate) fn start(parts: FeedsParts<'_>) -> Result<Self, FeedSetupError> {
        let FeedsParts { feeds, servers, api, node, runtime } = parts;
        // Sentinels, if there are any, are asked for the master from now on.
        let _entered = runtime.enter();
        let stop = CancellationToken::new();
        let mut all = Vec::new();
        for (name, feed) in feeds {
            let unusable = |problem: String| FeedSetupError { feed: (&**name).into(), problem };
            let servers = (servers.0.clone(), servers.1.clone());
            let (api, node) = (api.clone(), node.clone());
            let parts = FeedParts { name: (&**name).into(), feed: feed.clone(), servers, api, node };
            let running = parts.running().map_err(unusable)?;
            all.push((parts, running));
        }
        // No feed runs unless all can be set up.
        let run = |(parts, running): (FeedParts, Running)| {
            (parts.name.clone(), runtime.spawn(parts.keep(running, stop.clone())))
        };
        let running = all.into_iter().map(run).collect();
        Ok(Self { stop, running })
    }

    /// Publishes the records that were read, and leaves the others to other nodes.
    pub(crate) async fn shut_down(self) {
        self.stop.cancel();
        let until = tokio::time::Instant::now() + HAND_OVER;
        for (feed, running) in self.running {
            let abort = running.abort_handle();
            if tokio::time::timeout_at(until, running).await.is_err() {
                abort.abort();
                tracing::warn!(
                    %feed,
                    "the last records were not published before this node stopped: other nodes publish them, \
                     or this node at its next start"
                );
            }
        }
    }
}

/// Returns the source that a feed is configured for.
fn source(
    name: &str,
    feed: &FeedConfig,
    (redis, nats): (&RedisConfig, &NatsConfig),
    node: &Node,
) -> Result<Box<dyn FeedSource>, String> {
    match feed.kind {
        Some(FeedKind::RedisStream) => {
            let stream = redis_stream::RedisStream::new(name, feed, redis, &node.id.0);
            Ok(Box::new(stream.map_err(|error| error.to_string())?))
        }
        Some(FeedKind::Nats) => {
            let stream = nats::NatsStream::new(name, feed, nats, &node.id.0);
            Ok(Box::new(stream.map_err(|error| error.to_string())?))
        }
        Some(FeedKind::Postgres) => Ok(Box::new(postgres::Postgres::new(name, feed, &redis.prefix)?)),
        Some(FeedKind::Kafka) => Ok(Box::new(kafka::Kafka::new(name, feed, &redis.prefix)?)),
        // Unreachable: the settings have been checked.
        None => Err("has no kind".to_owned()),
    }
}
