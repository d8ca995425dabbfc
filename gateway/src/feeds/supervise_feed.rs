//! Restarts a feed that has panicked, with a new source: the work in progress is given up, and its records are read again.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::feed_config::FeedConfig;
use super::run_feed::{FeedBackoff, Running};
use super::source::FeedSource;
use crate::api;
use crate::broker::nats::NatsConfig;
use crate::broker::redis::RedisConfig;
use crate::node::Node;
use crate::telemetry::labels::PanicSite;

/// A feed that has run for this long counts as sound: a later panic does not add to the series of panics before.
const SOUND_AFTER: Duration = Duration::from_secs(60);

/// The parameters of a feed, kept for restarts.
#[derive(Debug)]
pub(super) struct FeedParts {
    pub(super) name: Arc<str>,
    pub(super) feed: FeedConfig,
    /// The sections `redis` and `nats`.
    pub(super) servers: (RedisConfig, NatsConfig),
    /// The section `api`.
    pub(super) api: api::ApiConfig,
    pub(super) node: Arc<Node>,
}

impl FeedParts {
    /// Creates the feed, which has read nothing yet. Must be called within a tokio runtime.
    pub(super) fn running(&self) -> Result<Running, String> {
        let Self { name, feed, servers: (redis, nats), api, node } = self;
        let source: Box<dyn FeedSource> = super::source(name, feed, (redis, nats), node)?;
        Ok(Running::new(name.clone(), feed, api.clone(), node.clone(), source))
    }

    /// Runs the feed until the node stops.
    pub(super) async fn keep(self, running: Running, stop: CancellationToken) {
        let mut pauses = FeedBackoff::new(self.feed.retry_max());
        let mut next = Some(running);
        loop {
            if let Some(running) = next.take() {
                let began = Instant::now();
                if AssertUnwindSafe(running.run(stop.clone())).catch_unwind().await.is_ok() {
                    return;
                }
                self.node.metrics.panicked(PanicSite::Feed);
                self.node.metrics.feed(&self.name).stands_still();
                tracing::error!(feed = %self.name, "the feed panicked; it is restarted");
                if began.elapsed() >= SOUND_AFTER {
                    pauses.reset();
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(pauses.next())).await.is_none() {
                return;
            }
            match self.running() {
                Ok(running) => next = Some(running),
                Err(problem) => {
                    tracing::error!(feed = %self.name, problem, "the feed cannot be restarted yet")
                }
            }
        }
    }
}
