//! The task of one polled channel: asks the backend for keys that are due, and publishes what has changed.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use gateway_core::poll::{PolledKey, PollerStep};
use shared::moment::Moment;

use super::poll::PolledChannel;
use super::{Node, RESTART_DELAY};
use crate::telemetry::labels::{PanicSite, PollSource};

/// The most requests of one channel in flight at once.
const IN_FLIGHT_MAX: usize = 4;
/// The longest time the task sleeps.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// Polls the channel until nobody has followed any of its keys for a while.
pub(super) async fn keep_polling(node: Arc<Node>, polled: Arc<PolledChannel>) {
    while AssertUnwindSafe(poll(&node, &polled)).catch_unwind().await.is_err() {
        node.metrics.panicked(PanicSite::Delivery);
        tracing::error!(channel = %polled.channel, "polling a channel panicked; it is restarted");
        polled.poller.lock().forget_requests();
        tokio::time::sleep(RESTART_DELAY).await;
    }
}

async fn poll(node: &Arc<Node>, polled: &Arc<PolledChannel>) {
    let mut in_flight = FuturesUnordered::new();
    loop {
        let now = node.clock.now();
        let step = match in_flight.len() < IN_FLIGHT_MAX {
            true => polled.poller.lock().next(now),
            false => PollerStep::Wait(now + IDLE_MAX),
        };
        let until: Moment = match step {
            PollerStep::Ask(requested) => {
                in_flight.push(ask(node, polled, requested));
                continue;
            }
            PollerStep::End if in_flight.is_empty() => match node.polls.forget(polled) {
                true => return,
                false => continue,
            },
            // Nobody waits for requests still in flight, and each ends at its deadline.
            PollerStep::End => now + IDLE_MAX,
            PollerStep::Wait(until) => until,
        };
        // The clock's precision is a millisecond.
        let idle = until.since(now).clamp(Duration::from_millis(1), IDLE_MAX);
        tokio::select! {
            () = polled.changed.notified() => {}
            Some(()) = in_flight.next() => {}
            () = tokio::time::sleep(idle) => {}
        }
    }
}

async fn ask(node: &Arc<Node>, polled: &Arc<PolledChannel>, requested: Vec<PolledKey>) {
    // The semaphore is never closed.
    let Ok(permit) = node.polls.permits.acquire().await else { return };
    let answer = match &node.backend {
        Some(backend) => backend.poll(&polled.backend, polled.channel.as_str(), &requested).await,
        None => None,
    };
    drop(permit);
    let Some(answer) = answer else { return polled.poller.lock().failed(node.clock.now(), &requested) };
    // A worker that is behind slows the polling down too. A publication that finds no room is repeated later.
    let _ = node.wait_for_room(&[&polled.channel]).await;
    let mut poller = polled.poller.lock();
    let (now, next_version) = (node.clock.now(), || node.polls.next_version());
    let taken = poller.answered(now, &requested, answer.epoch, answer.items, next_version);
    node.spread(polled, &mut poller, PollSource::Round, taken);
}
