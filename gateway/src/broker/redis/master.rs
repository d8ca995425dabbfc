//! All connections to one master: one for commands, one for reads that may be long, and one for subscriptions.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::access::Access;
use super::cluster::ClusterMasterParts;
use super::publications::Publications;
use super::redis_canary::Canaries;
use super::redis_config::RedisConfig;
use super::redis_dial::{DialError, RedisDialer};
use super::redis_keys::RedisKeys;
use super::redis_link::{RedisLink, RedisLinkPurpose};
use super::redis_listen::{MigratingChannels, RedisListener, WantedChannels};
use super::route_pushes::PushRouter;
use crate::broker::BrokerEvents;
use crate::broker::measure::BrokerMetrics;

/// The only server, the one that Sentinel names, or one of a cluster.
#[derive(Debug)]
pub(super) struct Master {
    pub(super) link: Arc<RedisLink>,
    pub(super) reads: Arc<RedisLink>,
    pub(super) publications: Publications,
    pub(super) listener: RedisListener,
    pub(super) canaries: Arc<Canaries>,
    pub(super) router: Arc<PushRouter>,
    pub(super) timeout: Duration,
    pub(super) metrics: Arc<BrokerMetrics>,
}

impl Master {
    /// Begins to connect and returns at once. Must be called within a tokio runtime.
    pub(super) fn start(
        config: &RedisConfig,
        node: &str,
        keys: RedisKeys,
        events: &Arc<dyn BrokerEvents>,
        metrics: Arc<BrokerMetrics>,
        of_cluster: Option<ClusterMasterParts>,
    ) -> Result<Self, DialError> {
        let name = |what: &str| format!("{}:{node}:{what}", config.prefix);
        let access = Arc::new(Access::new(config, &name("sentinel"), &metrics)?);
        let lives = of_cluster.as_ref().map(|of_cluster| of_cluster.lives.clone());
        let link = |purpose: RedisLinkPurpose| {
            let dialer = RedisDialer::new(config, &access, name(purpose.word()));
            Arc::new(RedisLink::start(
                config,
                purpose,
                dialer,
                lives.clone(),
                events.clone(),
                metrics.clone(),
            ))
        };
        let (link, reads) = (link(RedisLinkPurpose::Commands), link(RedisLinkPurpose::Reads));
        let canaries = match &of_cluster {
            None => Canaries::new(keys.of_canaries(), node),
            Some(of_cluster) => Canaries::new(keys.of_canaries_in(of_cluster.home), node),
        };
        let canaries = Arc::new(canaries);
        let wanted = WantedChannels::default();
        let router = Arc::new(PushRouter {
            control: keys.control(),
            own: keys.node(node),
            keys,
            canaries: canaries.clone(),
            leaving: of_cluster
                .map(|of_cluster| MigratingChannels { wanted: wanted.clone(), moves: of_cluster.moves }),
            events: events.clone(),
            metrics: metrics.clone(),
            received: AtomicU64::new(0),
        });
        let dialer = RedisDialer::new(config, &access, name("subscriptions"));
        Ok(Self {
            publications: Publications::start(link.clone(), config.timeout(), metrics.clone()),
            listener: RedisListener::start(config, dialer, router.clone(), wanted),
            link,
            reads,
            canaries,
            router,
            timeout: config.timeout(),
            metrics,
        })
    }
}
