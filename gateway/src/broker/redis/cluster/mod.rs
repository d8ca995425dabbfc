//! Redis Cluster and Valkey Cluster: finds the master of each slot, and sends everything to that master.
//!
//! Each master is a part of the broker, with connections, queues and pauses of its own ([`cluster_parts`]). All keys of a
//! channel are in one slot ([`slots`]). The masters are asked for the layout in intervals ([`slot_discovery`]), and at once
//! when one of them redirects a command ([`redirect`]). Publications keep their order while slots move ([`flows`]),
//! subscriptions follow their slots ([`moves`]), and other commands are sent again to the right master ([`commands`]).

mod cluster_parts;
mod commands;
mod flows;
mod moves;
mod reach_slot;
mod redirect;
mod slot_discovery;
pub(in crate::broker::redis) mod slots;
mod view;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::{Mutex, RwLock};
use redis::Value;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::cluster_parts::ClusterLives;
use self::cluster_parts::{ClusterPart, MASTERS_MAX, Places};
pub(in crate::broker::redis) use self::commands::with_asking;
pub(crate) use self::commands::{Commands, ReplySize};
pub(in crate::broker::redis) use self::flows::FlowTicket;
use self::flows::SlotFlows;
pub(in crate::broker::redis) use self::moves::Moves;
pub(in crate::broker::redis) use self::redirect::Redirect;
use self::slot_discovery::SlotDiscovery;
use self::view::{ClusterNode, Layout};
use super::access::Access;
use super::master::Master;
use super::publish_script::OutgoingPublication;
use super::redis_config::RedisConfig;
use super::redis_dial::DialError;
use super::redis_keys::RedisKeys;
use super::supervise::ConnectionState;
use crate::broker::measure::BrokerMetrics;
use crate::broker::shards::events::{ShardEvents, ShardMessages};
use crate::broker::shards::shard_message::Numbers;
use crate::broker::{BrokerError, BrokerEvents};

/// How long connections to a master without slots are kept, for what is in flight, and to know that the master lives.
const RETIRED_FOR: Duration = Duration::from_secs(30);

/// The most data sets that are remembered.
const SEEN_MAX: usize = 4_096;

/// Makes the counters of a master from its name.
pub(crate) type MakeMetrics = Box<dyn Fn(&str) -> Arc<BrokerMetrics> + Send + Sync>;

/// What a master of a cluster needs beside its configuration.
pub(super) struct ClusterMasterParts {
    pub(super) lives: Arc<ClusterLives>,
    pub(super) moves: Arc<Moves>,
    /// A slot of this master.
    pub(super) home: u16,
}

pub(crate) struct RedisCluster {
    config: RedisConfig,
    node: Box<str>,
    keys: RedisKeys,
    layout: Box<str>,
    events: Arc<dyn BrokerEvents>,
    received: Arc<ShardMessages>,
    numbers: Numbers,
    make_metrics: MakeMetrics,
    places: RwLock<Places>,
    flows: Arc<SlotFlows>,
    moves: Arc<Moves>,
    looking: Arc<SlotDiscovery>,
    /// Whether the cluster was asked for its layout, with or without an answer.
    settled: watch::Sender<bool>,
    /// Grows with every data set that was not seen before: keys may have been lost then.
    generation: watch::Sender<u64>,
    seen: Mutex<HashSet<(Arc<str>, Arc<str>)>>,
    has_logged_too_many: AtomicBool,
    this: Weak<Self>,
    tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
}

impl RedisCluster {
    /// Begins to ask and to connect, and returns at once. Must be called within a tokio runtime.
    pub(super) fn start(
        config: &RedisConfig,
        node: &str,
        keys: RedisKeys,
        events: Arc<dyn BrokerEvents>,
        make_metrics: MakeMetrics,
    ) -> Result<Arc<Self>, DialError> {
        // Reports unreadable settings and files now. This does not connect.
        Access::new(&config.of_member("127.0.0.1", 1), "", &Arc::default())?;
        let cluster = Arc::new_cyclic(|this: &Weak<Self>| Self {
            config: config.clone(),
            node: node.into(),
            keys,
            layout: format!("cluster-1:{}", config.cluster_partitions).into(),
            events,
            received: Arc::default(),
            numbers: Numbers::default(),
            make_metrics,
            places: RwLock::new(Places::new()),
            flows: Arc::new(SlotFlows::new(this.clone(), config.timeout())),
            moves: Arc::default(),
            looking: Arc::default(),
            settled: watch::channel(false).0,
            generation: watch::channel(0).0,
            seen: Mutex::default(),
            has_logged_too_many: AtomicBool::new(false),
            this: this.clone(),
            tasks: Mutex::default(),
        });
        let (looks, moves) = (Arc::downgrade(&cluster), Arc::downgrade(&cluster));
        let looking = cluster.looking.clone();
        *cluster.tasks.lock() = vec![
            AbortOnDropHandle::new(tokio::spawn(slot_discovery::keep_looking(looks, looking))),
            AbortOnDropHandle::new(tokio::spawn(moves::keep_moving(moves, cluster.moves.clone()))),
        ];
        Ok(cluster)
    }

    /// Returns the master of a slot.
    fn owner(&self, slot: u16) -> Result<Arc<ClusterPart>, BrokerError> {
        let places = self.places.read();
        if let Some(owner) = places.owner(slot) {
            return Ok(owner.clone());
        }
        let none = places.all().next().is_none();
        drop(places);
        if none {
            return Err(BrokerError::Unreachable(self.looking.trouble()));
        }
        Err(BrokerError::Unreachable(format!("no master of the cluster has slot {slot}").into()))
    }

    /// Returns the counters of the master of a slot.
    pub(super) fn metrics_of(&self, slot: u16) -> Option<Arc<BrokerMetrics>> {
        self.places.read().owner(slot).map(|owner| owner.master.metrics.clone())
    }

    /// Whether the cluster was asked for its layout, with or without an answer.
    fn is_settled(&self) -> bool {
        *self.settled.borrow()
    }

    /// Waits until the cluster was asked for its layout.
    async fn settle(&self) {
        // Cannot fail: `self` holds the sender.
        let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
    }

    pub(super) fn part_of(&self, slot: u16) -> usize {
        self.places.read().owner(slot).map_or(0, |owner| owner.place)
    }

    pub(super) fn parts(&self) -> usize {
        MASTERS_MAX
    }

    pub(super) fn part_name(&self, place: usize) -> Arc<str> {
        self.part(place).map_or_else(|| "".into(), |part| part.name.clone())
    }

    /// Whether there is a master at this index. While none is known, the first index counts as one, to report why.
    pub(super) fn has_part(&self, place: usize) -> bool {
        let places = self.places.read();
        places.parts.get(place).is_some_and(Option::is_some) || (place == 0 && places.all().next().is_none())
    }

    pub(super) fn layout(&self) -> &str {
        &self.layout
    }

    fn part(&self, place: usize) -> Option<Arc<ClusterPart>> {
        self.places.read().parts.get(place).cloned().flatten()
    }

    fn parts_there(&self) -> Vec<Arc<ClusterPart>> {
        self.places.read().all().cloned().collect()
    }

    pub(super) fn push(
        &self,
        outgoing: OutgoingPublication,
    ) -> impl Future<Output = Result<Value, BrokerError>> + Send + use<> {
        self.flows.push(self, outgoing)
    }

    /// Sends a canary to a part: see [`Master::send_canary`].
    pub(super) async fn send_canary(&self, place: usize) -> Result<Duration, BrokerError> {
        let settled = tokio::time::timeout(self.config.timeout(), self.settle()).await;
        settled.map_err(|_| BrokerError::Timeout(self.config.timeout()))?;
        match self.part(place) {
            Some(part) => {
                let round_trip = part.master.send_canary().await;
                if round_trip.is_err() {
                    self.looking.look();
                }
                round_trip
            }
            None if self.has_part(place) => Err(BrokerError::Unreachable(self.looking.trouble())),
            None => Ok(Duration::ZERO),
        }
    }

    /// Sends canaries to all parts. Returns the longest round trip.
    pub(super) async fn send_all_canaries(&self) -> Result<Duration, BrokerError> {
        let settled = tokio::time::timeout(self.config.timeout(), self.settle()).await;
        settled.map_err(|_| BrokerError::Timeout(self.config.timeout()))?;
        let places = (0..MASTERS_MAX).filter(|place| self.has_part(*place));
        let took = join_all(places.map(|place| self.send_canary(place))).await;
        Ok(took.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().max().unwrap_or_default())
    }

    /// Returns the channel with which this node tests whether it can do its work at a part.
    pub(super) fn trial(&self, place: usize) -> Option<Arc<super::redis_canary::CanaryChannel>> {
        Some(self.part(place)?.master.canaries.canary_channel())
    }

    pub(super) async fn look_at_rights(&self, place: usize) -> Result<(), BrokerError> {
        match self.part(place) {
            Some(part) => part.master.look_at_rights().await,
            None => Ok(()),
        }
    }

    /// Returns a number for the data sets of all masters. It never returns to an earlier value.
    pub(super) fn generation(&self) -> Result<u64, BrokerError> {
        if self.parts_there().iter().any(|part| part.is_up()) {
            return Ok(*self.generation.borrow());
        }
        Err(BrokerError::Unreachable(self.looking.trouble()))
    }

    /// Returns the present connection to the master of a slot.
    pub(super) fn up_of(&self, slot: u16) -> Result<super::redis_link::OpenLink, BrokerError> {
        let owner = self.owner(slot)?;
        let down = || BrokerError::Unreachable(format!("no connection to {}", owner.name).into());
        owner.master.link.now().ok_or_else(down)
    }

    /// Takes notice of a redirection. Returns the master to ask if it is to be asked this time only.
    fn redirected(&self, slot: u16, redirect: &Redirect) -> Option<Arc<ClusterPart>> {
        self.looking.look();
        let (host, port) = match redirect {
            Redirect::Moved { host, port, .. } | Redirect::Ask { host, port } => (host, *port),
            Redirect::Later => return None,
        };
        let mut places = self.places.write();
        // Without a host, the redirection means the host that was asked.
        let redirecting = places.owner(slot).map(|owner| owner.member.host.clone());
        let host = if host.is_empty() { redirecting.as_deref().unwrap_or_default() } else { &**host };
        let to = places.all().find(|part| part.member.is_at(host, port)).cloned()?;
        match redirect {
            Redirect::Moved { slot, .. } => {
                if let Some(owner) = places.owners.get_mut(usize::from(*slot)) {
                    *owner = Some(to.place as u8);
                }
                None
            }
            _ => Some(to),
        }
    }

    /// Updates the parts and the owners of slots to a new layout.
    fn apply(&self, layout: &Layout) {
        let mut places = self.places.write();
        let before = places.owners.clone();
        let mut is_another = false;
        let now = Instant::now();
        // Dropped after the lock is released: their queues have locks of their own.
        let is_over = |(since, _): &mut (Instant, _)| now.duration_since(*since) >= RETIRED_FOR;
        let over: Vec<_> = places.retired.extract_if(.., is_over).collect();
        // Masters that are gone, or have another address by now, make room.
        for place in 0..places.parts.len() {
            let stays =
                |part: &ClusterPart| layout.masters.iter().any(|master| is_the_same(master, &part.member));
            if let Some(part) = places.parts[place].take_if(|part| !stays(part)) {
                tracing::info!(redis = &*part.name, "a master of the cluster has no slots any more");
                part.master.metrics.subscribed_channels.set(0);
                places.retired.push((now, part));
                is_another = true;
            }
        }
        let mut at: Vec<Option<u8>> = Vec::with_capacity(layout.masters.len());
        for (index, master) in layout.masters.iter().enumerate() {
            let known = places.all().find(|part| is_the_same(master, &part.member)).map(|part| part.place);
            let place = known.or_else(|| {
                let home = layout.owners.iter().rposition(|owner| *owner == Some(index))?;
                self.add(&mut places, master, home as u16)
            });
            at.push(place.and_then(|place| u8::try_from(place).ok()));
        }
        places.owners = layout.owners.iter().map(|owner| at.get((*owner)?).copied().flatten()).collect();
        for part in places.all() {
            let place = u8::try_from(part.place).ok();
            let home = usize::from(part.home.load(Ordering::Relaxed));
            if places.owners.get(home).copied().flatten() != place
                && let Some(slot) = places.owners.iter().rposition(|owner| *owner == place)
            {
                part.move_home(slot as u16, &self.keys, &self.node);
            }
        }
        // A master may take the index, and the slots, of the one that it replaces.
        let have_moved = is_another || before != places.owners;
        drop(places);
        drop(over);
        self.update_lives();
        if have_moved {
            self.follow_slots();
        }
    }

    /// Adds a master that was not known. Returns `None` if there are too many, or if it cannot be used.
    fn add(&self, places: &mut Places, member: &ClusterNode, home: u16) -> Option<usize> {
        let Some(place) = places.parts.iter().position(Option::is_none) else {
            if !self.has_logged_too_many.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    "the cluster has more than {MASTERS_MAX} masters: channels of the others cannot be used"
                );
            }
            return None;
        };
        let host = if self.config.tls && !member.name.is_empty() { &member.name } else { &member.host };
        let config = self.config.of_member(host, member.port);
        let name: Arc<str> = config.addresses.first().map_or_else(|| "".into(), |name| name.as_str().into());
        let lives = Arc::new(ClusterLives::default());
        let of_cluster = ClusterMasterParts { lives: lives.clone(), moves: self.moves.clone(), home };
        let events: Arc<dyn BrokerEvents> =
            Arc::new(ShardEvents::new(place, self.events.clone(), self.received.clone()));
        let metrics = (self.make_metrics)(&name);
        let made = Master::start(&config, &self.node, self.keys.clone(), &events, metrics, Some(of_cluster));
        let master = made
            .inspect_err(
                |error| tracing::error!(redis = &*name, %error, "a master of the cluster cannot be used"),
            )
            .ok()?;
        tracing::info!(redis = &*name, place, "a master of the cluster was found");
        let _watch = self.watch(&master);
        let home = AtomicU16::new(home);
        let part = ClusterPart { place, member: member.clone(), name, master, lives, home, _watch };
        places.parts[place] = Some(Arc::new(part));
        Some(place)
    }

    /// Watches the connection to a master, and acts whenever it is made or lost.
    fn watch(&self, master: &Master) -> AbortOnDropHandle<()> {
        let (mut link, this) = (master.link.watch(), self.this.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            while link.changed().await.is_ok() {
                let up = match &*link.borrow_and_update() {
                    ConnectionState::Up(up) => Some((up.server.run.clone(), up.server.data_set.clone())),
                    ConnectionState::Opening | ConnectionState::Down(_) => None,
                };
                let Some(cluster) = this.upgrade() else { return };
                match up {
                    Some(data_set) => cluster.saw(data_set),
                    None => cluster.looking.look(),
                }
                cluster.update_lives();
            }
        }))
    }

    fn saw(&self, data_set: (Arc<str>, Arc<str>)) {
        let mut seen = self.seen.lock();
        if seen.len() >= SEEN_MAX {
            seen.clear();
        }
        if seen.insert(data_set) {
            self.generation.send_modify(|generation| *generation += 1);
        }
    }

    /// Tells the scripts at each master the lives of the other masters.
    fn update_lives(&self) {
        let places = self.places.read();
        let lives: Vec<(usize, Arc<str>)> = places
            .all_there_are()
            .enumerate()
            .filter_map(|(index, part)| Some((index, part.life()?)))
            .collect();
        for (index, part) in places.all_there_are().enumerate() {
            let others = lives.iter().filter(|(of, _)| *of != index).map(|(_, life)| life.clone());
            let others: Vec<Arc<str>> = others.collect();
            part.update_lives(&self.keys, &others);
        }
    }

    /// Moves subscriptions of channels whose slots are at another master by now.
    fn follow_slots(&self) {
        let places = self.places.read();
        let owners: Vec<Option<usize>> = places.owners.iter().map(|owner| owner.map(usize::from)).collect();
        let parts: Vec<(bool, Arc<ClusterPart>)> = places
            .all()
            .map(|part| (false, part.clone()))
            .chain(places.retired.iter().map(|(_, part)| (true, part.clone())))
            .collect();
        drop(places);
        for (is_retired, part) in parts {
            let gone = part.master.listener.unsubscribe_moved(|channel| {
                let owner = owners.get(usize::from(self.keys.slot(channel))).copied().flatten();
                owner.is_some_and(|owner| is_retired || owner != part.place)
            });
            self.moves.add(gone);
        }
    }
}

/// Whether two descriptions are of the same master at the same address.
fn is_the_same(one: &ClusterNode, other: &ClusterNode) -> bool {
    one.id == other.id && one.host == other.host && one.port == other.port && one.name == other.name
}

impl std::fmt::Debug for RedisCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisCluster").field("layout", &self.layout).finish_non_exhaustive()
    }
}
