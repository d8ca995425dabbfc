//! Drains and stops a node.

use std::thread;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::worker::inbox::WorkerEvent;

/// The interval at which a drain looks whether all clients have left.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// The longest a drain waits until the broker has all leaves.
const LEAVES_TIMEOUT: Duration = Duration::from_secs(2);
/// The least time that events have to reach the backend once all clients have left.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest that closing the listeners may take: each only drops its socket.
const SHUT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest a stopping node waits for its broker.
const RETIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest a stopping node waits for its last answers.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(2);

impl App {
    /// Stops in an order that loses nobody: the node becomes unready, closes its listeners, lets its clients go one
    /// after the other over the grace period, and then stops its parts. A second signal is the caller's to watch for.
    pub fn drain(mut self) {
        let drain = self.reload.running.lock().drain.clone();
        self.readiness.set_draining();
        self.node.begin_leaving();
        self.leaving.cancel();
        self.node.engine_io.leave();
        tracing::info!(clients = self.metrics.connections(), "draining: this node is no longer ready");
        thread::sleep(Duration::from_millis(drain.notice_ms));

        self.stop.cancel();
        // A closed client reconnects at once, and must not reconnect here.
        self.runtime.block_on(async {
            let shut = futures_util::future::join_all(self.accepting.drain(..));
            if tokio::time::timeout(SHUT_TIMEOUT, shut).await.is_err() {
                tracing::warn!("the listeners did not close in time");
            }
        });
        let grace = self.runtime.block_on(self.node.time_to_drain(&drain));
        let until = self.clock.now() + grace;
        for inbox in &self.inboxes {
            inbox.push(WorkerEvent::Drain { until });
        }
        self.node.engine_io.drain_relays(Instant::now() + grace);
        let last = until + Duration::from_millis(drain.linger_ms);
        let has_clients = || self.metrics.connections() + self.metrics.engine_io_carried.get() > 0;
        // The clients closed last have a moment to come back elsewhere before their leaves are announced.
        let is_awaited = || has_clients() || !self.http.is_empty() || self.node.held_departures() > 0;
        while is_awaited() && self.clock.now() < last {
            thread::sleep(DRAIN_POLL);
        }
        self.node.end_departures();
        // From now on, new requests are refused. A request that has begun may take as long as its answer takes.
        self.api.close();
        if let Some(api) = &self.pusher_api {
            api.close();
        }
        let answered = self.clock.now() + ANSWERS_TIMEOUT;
        while !self.http.is_empty() && self.clock.now() < answered {
            thread::sleep(DRAIN_POLL);
        }
        if !self.http.is_empty() {
            tracing::warn!(
                connections = self.http.len(),
                "some requests were not answered before this node stopped"
            );
        }

        if let Some(feeds) = self.feeds.take() {
            self.runtime.block_on(feeds.shut_down());
        }
        if let Some(emitters) = self.emitters.take() {
            self.runtime.block_on(emitters.shut_down());
        }
        for inbox in &self.inboxes {
            inbox.push(WorkerEvent::Stop);
        }
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
        // The leaves come last: subscribers and the backend are told that the clients have left.
        let deadline = self.clock.now() + LEAVES_TIMEOUT;
        while self.node.has_departures_in_flight() && self.clock.now() < deadline {
            thread::sleep(DRAIN_POLL);
        }
        if self.node.has_departures_in_flight() {
            tracing::warn!(
                "not all leaves could be announced; the clients' presence expires with this node's lease"
            );
        }
        let until = Instant::now() + Duration::from_millis(drain.linger_ms).max(EVENTS_TIMEOUT);
        self.runtime.block_on(async {
            let (backend, webhooks) = (self.node.backend.as_ref(), self.node.webhooks.as_ref());
            let backend = async {
                if let Some(backend) = backend {
                    backend.shut_down(until).await
                }
            };
            let webhooks = async {
                if let Some(webhooks) = webhooks {
                    webhooks.shut_down(until).await
                }
            };
            tokio::join!(backend, webhooks);
        });
        self.runtime.block_on(async {
            if tokio::time::timeout(RETIRE_TIMEOUT, self.node.retire()).await.is_err() {
                tracing::warn!("this node's announcement could not be removed; it expires by itself");
            }
        });
        tracing::info!("stopped");
    }
}
