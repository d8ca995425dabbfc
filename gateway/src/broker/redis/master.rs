//! Everything that leads to one master: a connection for commands, one for reads that may be long, and one for what arrives.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::access::Access;
use super::canary::Canaries;
use super::cluster::OfCluster;
use super::dial::{DialError, Dialer};
use super::keys::Keys;
use super::link::{Link, Purpose};
use super::listen::{Leaving, Listener, Wanted};
use super::publications::Publications;
use super::redis_config::RedisConfig;
use super::route::Router;
use crate::broker::BrokerEvents;
use crate::broker::measure::BrokerMetrics;

/// The server there is, the one that Sentinel names at each time, or one of a cluster's.
#[derive(Debug)]
pub(super) struct Master {
    pub(super) link: Arc<Link>,
    pub(super) reads: Arc<Link>,
    pub(super) publications: Publications,
    pub(super) listener: Listener,
    pub(super) canaries: Arc<Canaries>,
    pub(super) router: Arc<Router>,
    pub(super) timeout: Duration,
    pub(super) metrics: Arc<BrokerMetrics>,
}

impl Master {
    /// Begins to connect and returns at once. Must be called within a tokio runtime.
    pub(super) fn start(
        config: &RedisConfig,
        node: &str,
        keys: Keys,
        events: &Arc<dyn BrokerEvents>,
        metrics: Arc<BrokerMetrics>,
        of_cluster: Option<OfCluster>,
    ) -> Result<Self, DialError> {
        let name = |what: &str| format!("{}:{node}:{what}", config.prefix);
        let access = Arc::new(Access::new(config, &name("sentinel"), &metrics)?);
        let told = of_cluster.as_ref().map(|of_cluster| of_cluster.told.clone());
        let link = |purpose: Purpose| {
            let dialer = Dialer::new(config, &access, name(purpose.word()));
            Arc::new(Link::start(config, purpose, dialer, told.clone(), events.clone(), metrics.clone()))
        };
        let (link, reads) = (link(Purpose::Commands), link(Purpose::Reads));
        let canaries = match &of_cluster {
            None => Canaries::new(keys.of_canaries(), node),
            Some(of_cluster) => Canaries::new(keys.of_canaries_in(of_cluster.home), node),
        };
        let canaries = Arc::new(canaries);
        let wanted = Wanted::default();
        let router = Arc::new(Router {
            control: keys.control(),
            own: keys.node(node),
            keys,
            canaries: canaries.clone(),
            leaving: of_cluster.map(|of_cluster| Leaving { wanted: wanted.clone(), moves: of_cluster.moves }),
            events: events.clone(),
            metrics: metrics.clone(),
            heard: AtomicU64::new(0),
        });
        let dialer = Dialer::new(config, &access, name("subscriptions"));
        Ok(Self {
            publications: Publications::start(link.clone(), config.timeout(), metrics.clone()),
            listener: Listener::start(config, dialer, router.clone(), wanted),
            link,
            reads,
            canaries,
            router,
            timeout: config.timeout(),
            metrics,
        })
    }
}
