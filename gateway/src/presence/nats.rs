//! Presence over several nodes in a JetStream stream: a message for each client in a channel, under the lease of its node.
//!
//! The entries of a node count as long as its lease is valid. A name whose lease has expired is never used again: the
//! node takes another name and writes all entries again. It also does so after every reconnect.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use gateway_core::effect::PresenceStats;
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::id::ClientId;
use shared::publication::ClientInfo;
use shared::push::OwnedEvent;
use shared::record::{decode_event, encode_event};
use tokio::sync::{Notify, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::Presence;
use crate::broker::measure::Operation;
use crate::broker::nats::NatsBroker;
use crate::broker::{BrokerError, Effective};

/// The most writes in flight.
const TOGETHER: usize = 256;

/// The most changes in one round.
const ROUND_MAX: usize = 4_096;

/// The pause before failed writes are repeated.
const RETRY: Duration = Duration::from_millis(250);

/// How long the list of live nodes is cached, unless an unknown node appears.
const NODES_KNOWN: Duration = Duration::from_secs(1);

type NatsPresenceWaiter = oneshot::Sender<Result<(), BrokerError>>;
type NatsMemberKey = (Channel, ClientId);

#[derive(Debug)]
pub struct NatsPresence {
    broker: Arc<NatsBroker>,
    shared: Arc<NatsPresenceShared>,
    live: Mutex<Option<(Instant, Arc<BTreeSet<String>>)>>,
    timeout: Duration,
    lease: Duration,
    _writer: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct NatsPresenceShared {
    local: Mutex<NatsPresenceTable>,
    changed: Notify,
}

/// The entries of this node, and their written state.
#[derive(Debug, Default)]
struct NatsPresenceTable {
    entries: HashMap<NatsMemberKey, NatsMemberEntry>,
    /// Entries whose wanted state has not been written yet.
    unwritten: HashSet<NatsMemberKey>,
    waiting: HashMap<NatsMemberKey, Vec<NatsPresenceWaiter>>,
    retiring: Option<NatsPresenceWaiter>,
}

#[derive(Clone, Debug, Default)]
struct NatsMemberEntry {
    /// `None`: the entry is to be removed.
    info: Option<ClientInfo>,
    /// The subject under which the entry was written.
    written: Option<String>,
    /// Counts changes of the wanted state.
    version: u64,
}

impl NatsPresence {
    /// Starts the writing task. Must be called within a tokio runtime.
    pub fn start(broker: Arc<NatsBroker>, lease: Duration) -> Arc<Self> {
        let shared = Arc::<NatsPresenceShared>::default();
        let writing = write(broker.clone(), shared.clone());
        Arc::new(Self {
            timeout: broker.link().timeout(),
            broker,
            shared,
            live: Mutex::new(None),
            lease,
            _writer: AbortOnDropHandle::new(tokio::spawn(writing)),
        })
    }

    fn change(&self, key: NatsMemberKey, info: Option<ClientInfo>, waiter: Option<NatsPresenceWaiter>) {
        let mut local = self.shared.local.lock();
        if info.is_none() && !local.entries.contains_key(&key) {
            return;
        }
        let entry = local.entries.entry(key.clone()).or_default();
        entry.info = info;
        entry.version += 1;
        if let Some(waiter) = waiter {
            let waiting = local.waiting.entry(key.clone()).or_default();
            waiting.retain(|waiter| !waiter.is_closed());
            waiting.push(waiter);
        }
        local.unwritten.insert(key);
        drop(local);
        self.shared.changed.notify_one();
    }

    fn deadline(
        &self,
        done: oneshot::Receiver<Result<(), BrokerError>>,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send + use<> {
        let timeout = self.timeout;
        async move {
            match tokio::time::timeout(timeout, done).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => {
                    Err(BrokerError::Unreachable("presence has ended, or the client has left".into()))
                }
                Err(_) => Err(BrokerError::Timeout(timeout)),
            }
        }
    }

    /// Returns the nodes whose lease is valid. The cached list is refreshed if it lacks one of the nodes in `seen`.
    async fn live(&self, seen: &BTreeSet<String>) -> Result<Arc<BTreeSet<String>>, BrokerError> {
        let known = self.live.lock().clone();
        if let Some((_, live)) = known.filter(|(at, _)| at.elapsed() < NODES_KNOWN)
            && seen.is_subset(&live)
        {
            return Ok(live);
        }
        let live = Arc::new(self.broker.live_nodes().await?);
        *self.live.lock() = Some((Instant::now(), live.clone()));
        Ok(live)
    }

    async fn read_clients(&self, channel: Channel) -> Result<BTreeMap<ClientId, ClientInfo>, BrokerError> {
        let began = Instant::now();
        let entries = self.broker.gather_present(&channel).await?;
        let node = |subject: &str| subject.split('.').nth(3).unwrap_or_default().to_owned();
        let seen = entries.iter().map(|entry| node(&entry.subject)).collect();
        let live = self.live(&seen).await?;
        let mut clients = BTreeMap::new();
        for entry in entries {
            if !live.contains(&node(&entry.subject)) {
                continue;
            }
            match decode_event(entry.payload) {
                Ok(OwnedEvent::Joined(info)) => drop(clients.insert(info.client, info)),
                _ => self.broker.metrics().undecodable.increment(),
            }
        }
        self.broker.metrics().observe_round_trip(Operation::PresenceRead, began.elapsed());
        Ok(clients)
    }

    async fn read_stats(&self, channel: Channel) -> Result<PresenceStats, BrokerError> {
        let began = Instant::now();
        let subjects = self.broker.subjects_present(&channel).await?;
        let parts: Vec<Vec<&str>> = subjects.iter().map(|subject| subject.split('.').collect()).collect();
        let part = |parts: &[&str], at: usize| parts.get(at).copied().unwrap_or_default().to_owned();
        let seen = parts.iter().map(|parts| part(parts, 3)).collect();
        let live = self.live(&seen).await?;
        let there = || parts.iter().filter(|parts| live.contains(&part(parts, 3)));
        let count = |at: usize| {
            let all: HashSet<String> = there().map(|parts| part(parts, at)).collect();
            u32::try_from(all.len()).unwrap_or(u32::MAX)
        };
        self.broker.metrics().observe_round_trip(Operation::PresenceRead, began.elapsed());
        Ok(PresenceStats { clients: count(4), users: count(5) })
    }

    async fn try_out(&self) -> Result<(), BrokerError> {
        let broker = &self.broker;
        let subject = broker.subject_of_trial(&broker.lease_name());
        broker.put_present(subject.clone(), Bytes::from_static(b"trial")).await?;
        broker.take_present(&subject).await
    }
}

impl Presence for NatsPresence {
    fn add(&self, channel: Channel, info: ClientInfo) -> Effective {
        let (waiter, written) = oneshot::channel();
        self.change((channel, info.client), Some(info), Some(waiter));
        Effective::Later(self.deadline(written).boxed())
    }

    fn remove(&self, channel: Channel, client: ClientId) {
        self.change((channel, client), None, None);
    }

    fn clients(
        &self,
        channel: Channel,
    ) -> BoxFuture<'_, Result<BTreeMap<ClientId, ClientInfo>, BrokerError>> {
        self.read_clients(channel).boxed()
    }

    fn stats(&self, channel: Channel) -> BoxFuture<'_, Result<PresenceStats, BrokerError>> {
        self.read_stats(channel).boxed()
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.try_out().boxed()
    }

    fn retire(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        let (done, retired) = oneshot::channel();
        self.shared.local.lock().retiring = Some(done);
        self.shared.changed.notify_one();
        self.deadline(retired).boxed()
    }
}

/// Writes changes, and repeats failed writes, until the node retires.
async fn write(broker: Arc<NatsBroker>, shared: Arc<NatsPresenceShared>) {
    let mut anew = broker.put_anew();
    loop {
        let pause = {
            let mut local = shared.local.lock();
            if anew.has_changed().unwrap_or(false) {
                anew.borrow_and_update();
                // The server may have lost the entries, and readers ignore entries under the node's old name.
                let all: Vec<NatsMemberKey> = local.entries.keys().cloned().collect();
                local.unwritten.extend(all);
            }
            local.retiring.is_none() && local.unwritten.is_empty()
        };
        if pause {
            tokio::select! {
                () = shared.changed.notified() => {}
                changed = anew.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    anew.mark_changed();
                }
            }
            continue;
        }
        let retiring = shared.local.lock().retiring.take();
        if let Some(done) = retiring {
            let retired = broker.purge_present(&broker.lease_name()).await;
            let _ = done.send(retired);
            return;
        }
        if !write_round(&broker, &shared).await {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Writes one round of changes. Returns whether all writes have succeeded.
async fn write_round(broker: &NatsBroker, shared: &NatsPresenceShared) -> bool {
    let round: Vec<(NatsMemberKey, NatsMemberEntry)> = {
        let mut local = shared.local.lock();
        let keys: Vec<NatsMemberKey> = local.unwritten.iter().take(ROUND_MAX).cloned().collect();
        let taken = keys.into_iter().filter_map(|key| {
            local.unwritten.remove(&key);
            let entry = local.entries.get(&key)?.clone();
            Some((key, entry))
        });
        taken.collect()
    };
    let began = Instant::now();
    let node = broker.lease_name();
    let writing = round.into_iter().map(|(key, entry)| {
        let node = node.clone();
        async move {
            let done = write_one(broker, &node, &key, &entry).await;
            (key, entry, done)
        }
    });
    let written: Vec<_> = stream::iter(writing).buffer_unordered(TOGETHER).collect().await;
    broker.metrics().observe_round_trip(Operation::PresenceWrite, began.elapsed());
    let mut all = true;
    let mut local = shared.local.lock();
    for (key, before, done) in written {
        let Some(entry) = local.entries.get_mut(&key) else { continue };
        let is_current = entry.version == before.version;
        match done {
            Ok(written) => {
                entry.written = written;
                if !is_current {
                    local.unwritten.insert(key);
                } else if before.info.is_some() {
                    for waiter in local.waiting.remove(&key).into_iter().flatten() {
                        // The caller may have given up.
                        let _ = waiter.send(Ok(()));
                    }
                } else {
                    local.entries.remove(&key);
                    local.waiting.remove(&key);
                }
            }
            Err(error) => {
                all = false;
                local.unwritten.insert(key.clone());
                if is_current {
                    for waiter in local.waiting.remove(&key).into_iter().flatten() {
                        let _ = waiter.send(Err(error.clone()));
                    }
                }
            }
        }
    }
    all
}

/// Writes one entry. Returns the subject under which it now stands.
async fn write_one(
    broker: &NatsBroker,
    node: &str,
    (channel, client): &NatsMemberKey,
    entry: &NatsMemberEntry,
) -> Result<Option<String>, BrokerError> {
    let client = format!("{:032x}", client.bits());
    let Some(info) = &entry.info else {
        match &entry.written {
            Some(subject) => broker.take_present(subject).await?,
            // It is not known whether the entry was written.
            None => broker.purge_client(channel, node, &client).await?,
        }
        return Ok(None);
    };
    let subject = broker.subject_present(channel, node, &client, info.user.as_str());
    let mut payload = BytesMut::new();
    encode_event(&OwnedEvent::Joined(info.clone()), &mut payload);
    broker.put_present(subject.clone(), payload.freeze()).await?;
    if let Some(before) = entry.written.as_ref().filter(|before| **before != subject) {
        // The old entry was another user's, or under another name of this node.
        broker.take_present(before).await?;
    }
    Ok(Some(subject))
}
