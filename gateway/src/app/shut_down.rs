//! How a node stops.

use std::thread;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::worker::inbox::WorkerEvent;

/// How often a drain looks whether everybody has left.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long it may take until the broker has all leaves.
const LEAVES_TIMEOUT: Duration = Duration::from_secs(2);
/// How long events may take to reach the backend when all clients have left, at least.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest the listener may take to end: it only drops its socket.
const SHUT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest a stopping node waits for its broker.
const RETIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest that the last answers of a stopping node may take.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(2);

impl App {
    /// Stops in an order that loses nobody: unready, then closed doors, then one client after the other over the
    /// grace period, then the parts. A second signal is the caller's to watch for.
    pub fn drain(mut self) {
        let drain = self.reload.running.lock().drain.clone();
        self.readiness.set_draining();
        self.node.begin_leaving();
        self.leaving.cancel();
        self.node.engine_io.leave();
        tracing::info!(clients = self.metrics.connections(), "draining: this node is no longer ready");
        thread::sleep(Duration::from_millis(drain.notice_ms));

        self.stop.cancel();
        // Whoever is closed comes back at once, and must not come back here.
        self.runtime.block_on(async {
            let shut = futures_util::future::join_all(self.accepting.drain(..));
            if tokio::time::timeout(SHUT_TIMEOUT, shut).await.is_err() {
                tracing::warn!("the door is still open");
            }
        });
        let grace = self.runtime.block_on(self.node.time_to_drain(&drain));
        let until = self.clock.now() + grace;
        for inbox in &self.inboxes {
            inbox.push(WorkerEvent::Drain { until });
        }
        self.node.engine_io.let_go(Instant::now() + grace);
        let last = until + Duration::from_millis(drain.linger_ms);
        let has_clients = || self.metrics.connections() + self.metrics.engine_io_carried.get() > 0;
        // Whoever was closed last has a moment to come back elsewhere before it is said to have left.
        let is_awaited = || has_clients() || !self.http.is_empty() || self.node.held_departures() > 0;
        while is_awaited() && self.clock.now() < last {
            thread::sleep(DRAIN_POLL);
        }
        self.node.end_departures();
        // A request that has not begun by now is told so. What has begun may take as long as its answer takes.
        self.api.close();
        if let Some(api) = &self.pusher_api {
            api.close();
        }
        let answered = self.clock.now() + ANSWERS_TIMEOUT;
        while !self.http.is_empty() && self.clock.now() < answered {
            thread::sleep(DRAIN_POLL);
        }
        if !self.http.is_empty() {
            tracing::warn!(connections = self.http.len(), "requests are left without an answer");
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
                tracing::error!("a worker had failed");
            }
        }
        // That everybody has left is told last: to those who listen, and to the backend.
        let deadline = self.clock.now() + LEAVES_TIMEOUT;
        while self.node.tells_departures() && self.clock.now() < deadline {
            thread::sleep(DRAIN_POLL);
        }
        if self.node.tells_departures() {
            tracing::warn!("not all could be told who has left; presence ends with this node's lease");
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
                tracing::warn!("this node's announcement could not be taken back; it expires by itself");
            }
        });
        tracing::info!("stopped");
    }
}
