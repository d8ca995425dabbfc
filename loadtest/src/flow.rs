//! The closed loop, which bounds how many publications are in flight.
//!
//! A publication is in flight until every subscriber has it. The server always has something to do and never more than a
//! bounded backlog, so the loop runs at the server's full rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// If there is no delivery for this long, missing publications are considered lost.
const STALL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Flow {
    in_flight: u64,
    delivered: AtomicU64,
    /// The number of deliveries that the publisher waits for.
    wanted: AtomicU64,
    arrived: Notify,
    /// Deliveries of everything that was published so far.
    expected: AtomicU64,
}

impl Flow {
    pub fn new(in_flight: u32) -> Self {
        Self {
            in_flight: in_flight.into(),
            delivered: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            arrived: Notify::new(),
            expected: AtomicU64::new(0),
        }
    }

    /// Counts one delivery.
    pub fn deliver(&self) {
        let delivered = self.delivered.fetch_add(1, Ordering::SeqCst) + 1;
        if delivered >= self.wanted.load(Ordering::SeqCst) {
            self.arrived.notify_one();
        }
    }

    /// Waits until `publications` more, each with `audience` subscribers, may be in flight, and counts them as in flight.
    pub async fn admit(&self, publications: u64, audience: u64) {
        let expected = self.expected.load(Ordering::SeqCst);
        let room = self.in_flight.saturating_sub(publications) * audience;
        let wanted = expected.saturating_sub(room);
        self.wanted.store(wanted, Ordering::SeqCst);
        let mut delivered = self.delivered.load(Ordering::SeqCst);
        while delivered < wanted {
            let stalled = timeout(STALL, self.arrived.notified()).await.is_err();
            let now = self.delivered.load(Ordering::SeqCst);
            if stalled && now == delivered {
                // Deliveries to subscribers that are gone are not awaited again.
                self.expected.store(now, Ordering::SeqCst);
                break;
            }
            delivered = now;
        }
        self.wanted.store(u64::MAX, Ordering::SeqCst);
        self.expected.fetch_add(publications * audience, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn the_next_one_leaves_when_everyone_has_one_of_those_before() {
        let flow = Flow::new(2);
        flow.admit(1, 3).await;
        flow.admit(1, 3).await;
        let mut third = pin!(flow.admit(1, 3));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(third.as_mut().poll(&mut context).is_pending());
            flow.deliver();
        }
        third.await;
        let fourth = pin!(flow.admit(1, 3));
        assert!(fourth.poll(&mut context).is_pending());
    }
}
