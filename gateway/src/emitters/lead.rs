//! Decides which node carries out the messages of emitters: the holder of a lease, which it keeps renewing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway_core::received_messages::{MessagePlace, WaitingMessage};
use tokio_util::sync::CancellationToken;

use super::{EmitterContext, UnreadMessage};

/// The name of the lease, the same on all nodes.
const WHAT: &str = "socketio-emitters";

/// How long the lease lasts from each renewal on.
const LEASE: Duration = Duration::from_secs(2);
/// The interval at which a node renews the lease, or tries to take it.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a node that may have missed messages leaves a free lease to others.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a message is kept for being carried out. Longer than it takes others to notice that a node has died, and
/// shorter than idempotency keys are remembered.
const WAITS_MAX: Duration = Duration::from_secs(30);
/// The most messages, and bytes of them, in one batch.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 1 << 20;
/// The pause after a message could not be carried out.
const RETRY: Duration = Duration::from_millis(250);

/// This node's view of the lease.
#[derive(Debug, Default)]
struct Leadership {
    /// When this node's lease ends, if it has one.
    until: Option<Instant>,
    requested_at: Option<Instant>,
    /// The progress of the lease's holder, once it was read.
    seen: Option<Option<MessagePlace>>,
}

impl Leadership {
    fn is_held(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    fn is_due(&self) -> bool {
        self.requested_at.is_none_or(|at| at.elapsed() >= INTERVAL)
    }
}

impl EmitterContext {
    /// Leads until `stop` is cancelled, and then until all messages that were heard are carried out.
    pub(super) async fn lead(self: Arc<Self>, stop: CancellationToken) {
        let mut turn = Leadership::default();
        loop {
            let is_stopping = stop.is_cancelled();
            if turn.is_due() {
                self.take(&mut turn).await;
            }
            let mut pause = INTERVAL;
            if turn.is_held() {
                match self.carry_on().await {
                    TakeOverProgress::All => {}
                    TakeOverProgress::Some => continue,
                    TakeOverProgress::Stuck => pause = RETRY,
                }
            }
            let is_done = !turn.is_held() || self.received.lock().is_empty();
            if is_stopping && is_done {
                return self.give_back(&turn).await;
            }
            tokio::select! {
                () = self.news.notified(), if pause == INTERVAL => {}
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled(), if !is_stopping => {}
            }
        }
    }

    /// Takes or renews the lease, or reads the progress of the node that holds it.
    async fn take(&self, turn: &mut Leadership) {
        turn.requested_at = Some(Instant::now());
        let was_held = turn.is_held();
        let (is_placed, is_empty, covers, done) = {
            let mut received = self.received.lock();
            self.forget(&mut received);
            (
                received.is_placed(),
                received.is_empty(),
                turn.seen.is_some_and(|seen| received.covers(seen)),
                received.done(),
            )
        };
        if !is_placed && is_empty {
            // This node hears nothing, so another one should lead.
            if was_held {
                self.give_back(turn).await;
            }
            turn.until = None;
            self.metrics.leads.set(0);
            return;
        }
        // The holder of the lease keeps it while messages are left to be carried out.
        let patience = if covers || was_held { Duration::ZERO } else { PATIENCE };
        let lease = if is_placed || was_held { LEASE } else { Duration::ZERO };
        let done = done.map(|place| place.to_string()).unwrap_or_default();
        let begun = Instant::now();
        match self.node.acquire_cluster_lease(WHAT, lease, patience, &done).await {
            Ok(taken) => {
                let place = MessagePlace::parse(&taken.done);
                let is_held = taken.held && !lease.is_zero();
                if !was_held {
                    turn.seen = Some(place);
                    if let Some(place) = place {
                        let mut received = self.received.lock();
                        if is_held && !received.knows(place) {
                            // The holder before listened to other channels, so its places mean nothing here. It may
                            // have carried out the messages that were heard before its lease was over.
                            received.forget(self.node.clock.now(), taken.over);
                        }
                        received.done_until(place);
                        self.metrics.waiting_bytes.set(i64::try_from(received.bytes()).unwrap_or(i64::MAX));
                    }
                    if is_held {
                        tracing::info!("this node now carries out the messages of Socket.IO emitters");
                    }
                } else if !is_held {
                    tracing::info!("another node now carries out the messages of Socket.IO emitters");
                }
                turn.until = is_held.then(|| begun + LEASE);
            }
            // The lease stays valid until it expires.
            Err(error) => tracing::debug!(%error, "the lease on emitters could not be renewed or taken"),
        }
        self.metrics.leads.set(i64::from(turn.is_held()));
    }

    /// Gives back the lease, so that others need not wait until it expires.
    async fn give_back(&self, turn: &Leadership) {
        self.metrics.leads.set(0);
        if !turn.is_held() {
            return;
        }
        let done = self.received.lock().done().map(|place| place.to_string()).unwrap_or_default();
        if let Err(error) = self.node.acquire_cluster_lease(WHAT, Duration::ZERO, Duration::ZERO, &done).await
        {
            tracing::debug!(%error, "the lease on emitters could not be given back; it expires by itself");
        }
    }

    /// Drops messages that nobody has carried out in time.
    fn forget(&self, received: &mut gateway_core::received_messages::ReceivedMessages<UnreadMessage>) {
        let forgotten = received.forget(self.node.clock.now(), WAITS_MAX);
        if forgotten > 0 {
            self.metrics.message("other", "late", forgotten as u64);
            if let Some(suppressed) = self.logs.dropped.admit() {
                tracing::warn!(
                    forgotten,
                    suppressed,
                    "messages of emitters could not be carried out in time"
                );
            }
        }
    }

    /// Carries out the oldest messages.
    async fn carry_on(&self) -> TakeOverProgress {
        let batch: Vec<WaitingMessage<UnreadMessage>> = {
            let received = self.received.lock();
            let mut bytes = 0;
            let within = |one: &&WaitingMessage<UnreadMessage>| {
                let is_first = bytes == 0;
                bytes += one.message.bytes() + 1;
                is_first || bytes <= BATCH_BYTES
            };
            received.first().take(BATCH).take_while(within).cloned().collect()
        };
        if batch.is_empty() {
            return TakeOverProgress::All;
        }
        let done = self.carry_out(&batch).await;
        let mut received = self.received.lock();
        // Some of the batch may have been dropped meanwhile.
        if let Some(last) = done.checked_sub(1).and_then(|last| batch.get(last)) {
            received.done_until(last.place);
        }
        self.metrics.waiting_bytes.set(i64::try_from(received.bytes()).unwrap_or(i64::MAX));
        if done < batch.len() { TakeOverProgress::Stuck } else { TakeOverProgress::Some }
    }
}

enum TakeOverProgress {
    /// No message is left.
    All,
    /// A part of the messages is carried out.
    Some,
    /// The broker does not accept the next one.
    Stuck,
}
