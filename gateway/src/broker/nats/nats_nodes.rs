//! The register of nodes: each node keeps a lease for as long as it listens, and stores its description. Any node that
//! finds an expired lease removes it, with everything that was stored under it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use prost::encoding::{decode_varint, encode_varint};
use tokio::sync::watch;

use super::NatsBroker;
use super::fetch_messages::FetchedMessage;
use super::moment::now;
use super::nats_link::NatsLinkState;
use super::nats_names::{StreamKind, token};
use super::stored::JetStreamError;
use crate::broker::BrokerError;
use crate::broker::measure::Operation;
use crate::telemetry::Reminder;

/// How many times a lease is renewed before it would run out.
const RENEWALS: u32 = 4;

/// How long ago a lease must have run out to be removed: clocks may differ by less.
const OVER_FOR: Duration = Duration::from_secs(2);

/// The pause before a lease that could not be renewed is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// The registration of this node.
#[derive(Debug)]
pub(crate) struct NodeRegistration {
    /// The name of this node's lease. It changes whenever a lease has run out, because others may be removing everything
    /// stored under the old name.
    name: Mutex<Arc<str>>,
    /// The connection on which the lease was last renewed, or why the renewal failed.
    renewed: Mutex<Result<u64, BrokerError>>,
    /// When, and on which connection, the lease was last renewed with success.
    last: Mutex<Option<(Instant, u64)>>,
    /// Counts the times that everything has to be stored anew.
    anew: watch::Sender<u64>,
    retired: AtomicBool,
}

impl NodeRegistration {
    pub(super) fn new(node: &str) -> Self {
        let not_yet = BrokerError::Unreachable("this node has not registered itself yet".into());
        Self {
            name: Mutex::new(node.into()),
            renewed: Mutex::new(Err(not_yet)),
            last: Mutex::new(None),
            anew: watch::channel(0).0,
            retired: AtomicBool::new(false),
        }
    }
}

/// A lease as it was read.
pub(crate) struct NatsNodeLease {
    /// The node's token.
    pub(crate) node: String,
    sequence: u64,
    /// How long ago the lease ran out, if it has.
    over: Option<Duration>,
}

impl NatsBroker {
    pub(super) async fn announce_node(
        &self,
        node: &str,
        description: Bytes,
        lease: Duration,
    ) -> Result<Vec<Bytes>, BrokerError> {
        let mut payload = lease_of(lease);
        payload.put_slice(&description);
        self.put_state(self.names.node(Some(node)), payload.freeze()).await?;
        self.read_nodes().await
    }

    pub(super) async fn read_nodes(&self) -> Result<Vec<Bytes>, BrokerError> {
        let began = tokio::time::Instant::now();
        let mut nodes = Vec::new();
        for entry in self.gather_state(&self.names.node(None)).await? {
            let sequence = entry.sequence;
            match left_of(entry) {
                Some((description, None)) => nodes.push(description),
                Some((_, Some(over))) if over < OVER_FOR => {}
                _ => self.delete_state(sequence).await?,
            }
        }
        self.metrics.observe_round_trip(Operation::Nodes, began.elapsed());
        Ok(nodes)
    }

    pub(super) async fn retire_node(&self, node: &str) -> Result<(), BrokerError> {
        self.streams.ready(StreamKind::State).await?;
        let stream = self.names.stream(StreamKind::State);
        self.jetstream.purge(&self.link, &stream, &self.names.node(Some(node))).await?;
        if *node == *self.node {
            self.registered.retired.store(true, Ordering::SeqCst);
            self.jetstream.purge(&self.link, &stream, &self.names.lease(Some(&self.lease_name()))).await?;
        }
        Ok(())
    }

    /// Returns the tokens of all nodes whose lease holds.
    pub(crate) async fn live_nodes(&self) -> Result<BTreeSet<String>, BrokerError> {
        let leases = self.read_leases().await?;
        Ok(leases.into_iter().filter(|lease| lease.over.is_none()).map(|lease| lease.node).collect())
    }

    async fn read_leases(&self) -> Result<Vec<NatsNodeLease>, BrokerError> {
        let entries = self.gather_state(&self.names.lease(None)).await?;
        let leases = entries.into_iter().filter_map(|entry| {
            let node = entry.subject.rsplit_once('.')?.1.to_owned();
            let sequence = entry.sequence;
            let over = left_of(entry).map_or(Some(Duration::MAX), |(_, over)| over);
            Some(NatsNodeLease { node, sequence, over })
        });
        Ok(leases.collect())
    }

    /// Returns the name under which this node stores things.
    pub(crate) fn lease_name(&self) -> Arc<str> {
        self.registered.name.lock().clone()
    }

    /// Returns a receiver that changes whenever this node has to store everything anew.
    pub(crate) fn put_anew(&self) -> watch::Receiver<u64> {
        self.registered.anew.subscribe()
    }

    /// Makes this node store everything anew, because it may be gone.
    pub(super) fn put_all_anew(&self) {
        self.registered.anew.send_modify(|count| *count += 1);
    }

    /// Renews the lease, which says that this node listens and keeps what it stored.
    async fn renew_lease(&self, connection: u64) -> Result<(), BrokerError> {
        let began = Instant::now();
        let last = *self.registered.last.lock();
        let was_over = last.is_some_and(|(at, _)| at.elapsed() >= self.lease);
        let is_another = last.is_none_or(|(_, on)| on != connection);
        if was_over {
            let name = format!("{}~{}", self.node, *self.registered.anew.borrow() + 1);
            *self.registered.name.lock() = name.into();
        }
        self.put_state(self.names.lease(Some(&self.lease_name())), lease_of(self.lease).freeze()).await?;
        *self.registered.last.lock() = Some((began, connection));
        if was_over || is_another {
            self.put_all_anew();
        }
        Ok(())
    }

    /// Removes what nodes without a lease left behind.
    async fn clear_up(&self) -> Result<(), BrokerError> {
        for lease in self.read_leases().await? {
            if lease.over.is_some_and(|over| over >= OVER_FOR) && lease.node != token(&self.lease_name()) {
                self.streams.ready(StreamKind::Presence).await?;
                let stream = self.names.stream(StreamKind::Presence);
                self.jetstream.purge(&self.link, &stream, &self.names.present_at(&lease.node)).await?;
                self.delete_state(lease.sequence).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn put_state(&self, subject: String, payload: Bytes) -> Result<u64, BrokerError> {
        self.streams.ready(StreamKind::State).await?;
        let put = self.jetstream.put(&self.link, subject, payload).await;
        put.map_err(|failed| self.state_failed(failed))
    }

    async fn gather_state(&self, subjects: &str) -> Result<Vec<FetchedMessage>, BrokerError> {
        self.streams.ready(StreamKind::State).await?;
        let gathered =
            self.jetstream.gather(&self.link, &self.names.stream(StreamKind::State), subjects).await;
        gathered.map_err(|failed| self.state_failed(failed))
    }

    async fn delete_state(&self, sequence: u64) -> Result<(), BrokerError> {
        let deleted =
            self.jetstream.delete(&self.link, &self.names.stream(StreamKind::State), sequence).await;
        deleted.map_err(|failed| self.state_failed(failed))
    }

    pub(super) fn state_failed(&self, failed: JetStreamError) -> BrokerError {
        self.streams.doubt(StreamKind::State);
        failed.into()
    }

    /// Checks that this node's lease was renewed on the present connection.
    pub(super) fn has_lease(&self) -> Result<(), BrokerError> {
        let connection = self.link.connection()?;
        match &*self.registered.renewed.lock() {
            Ok(renewed) if *renewed == connection => Ok(()),
            Ok(_) => Err(BrokerError::Unreachable("this node has not registered itself yet".into())),
            Err(error) => Err(error.clone()),
        }
    }
}

/// Keeps this node's lease, until the broker ends.
pub(super) async fn keep_lease(broker: Weak<NatsBroker>) {
    let (mut reminder, mut of_clearing) = (Reminder::new(), Reminder::new());
    loop {
        let (mut state, pause, registered) = {
            let Some(broker) = broker.upgrade() else { return };
            if broker.registered.retired.load(Ordering::SeqCst) {
                return;
            }
            let connection = broker.link.connected().await;
            let renewed = match connection {
                Ok(connection) => broker.renew_lease(connection).await.map(|()| connection),
                Err(error) => Err(error),
            };
            let pause = if renewed.is_ok() { broker.lease / RENEWALS } else { RETRY };
            let now = Instant::now();
            match &renewed {
                Ok(_) => drop(reminder.over(now)),
                Err(error) => {
                    if reminder.is_due(error.label(), now) {
                        tracing::warn!(%error, "this node's lease could not be renewed");
                    }
                }
            }
            let registered = renewed.as_ref().ok().copied();
            *broker.registered.renewed.lock() = renewed;
            if registered.is_some() {
                // A failure does no harm: other nodes do this too, this one does it again with its next renewal, and
                // entries without a lease do not count.
                match broker.clear_up().await {
                    Ok(()) => drop(of_clearing.over(now)),
                    Err(error) => {
                        if of_clearing.is_due(error.label(), now) {
                            tracing::warn!(%error, "entries of nodes that are gone could not be removed");
                        }
                    }
                }
            }
            (broker.link.watch(), pause, registered)
        };
        // A new connection is a reason to register at once.
        let another = async {
            while let Ok(()) = state.changed().await {
                if matches!(*state.borrow(), NatsLinkState::Up(number) if Some(number) != registered) {
                    return;
                }
            }
        };
        // It makes no difference whether a new connection or the timeout ended the pause.
        let _another = tokio::time::timeout(pause, another).await;
    }
}

fn lease_of(lease: Duration) -> BytesMut {
    let mut payload = BytesMut::new();
    encode_varint(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX), &mut payload);
    payload
}

/// Returns the payload behind the lease, and how long ago the lease ran out, if it has. Returns `None` if the entry has
/// no lease.
fn left_of(entry: FetchedMessage) -> Option<(Bytes, Option<Duration>)> {
    let mut payload = entry.payload;
    if !payload.has_remaining() {
        return None;
    }
    let lease = decode_varint(&mut payload).ok()?;
    let until = entry.written.saturating_add(lease);
    let over = now().checked_sub(until).map(Duration::from_millis);
    Some((payload, over))
}
