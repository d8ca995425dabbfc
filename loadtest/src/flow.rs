//! The closed loop: how many publications are still on their way, and who waits for one to arrive.
//!
//! A publication has arrived when everyone who listens has it. So a server is kept busy, and is never given more than
//! it can do: that is its full rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// Without a delivery for so long, what is missing is taken to be lost.
const STALL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Flow {
    in_flight: u64,
    stall: Duration,
    delivered: AtomicU64,
    /// The publisher waits until so much is delivered.
    wanted: AtomicU64,
    arrived: Notify,
    /// What the publisher waits for: deliveries of everything published so far.
    expected: AtomicU64,
}

impl Flow {
    pub fn new(in_flight: u32) -> Self {
        Self {
            in_flight: in_flight.into(),
            stall: STALL,
            delivered: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            arrived: Notify::new(),
            expected: AtomicU64::new(0),
        }
    }

    /// One subscriber has one publication.
    pub fn deliver(&self) {
        let delivered = self.delivered.fetch_add(1, Ordering::SeqCst) + 1;
        if delivered >= self.wanted.load(Ordering::SeqCst) {
            self.arrived.notify_one();
        }
    }

    /// Waits until `publications` more, each with `audience` listeners, may be on their way. Then they are.
    pub async fn admit(&self, publications: u64, audience: u64) {
        let expected = self.expected.load(Ordering::SeqCst);
        let room = self.in_flight.saturating_sub(publications) * audience;
        let wanted = expected.saturating_sub(room);
        self.wanted.store(wanted, Ordering::SeqCst);
        let mut delivered = self.delivered.load(Ordering::SeqCst);
        while delivered < wanted {
            let stalled = timeout(self.stall, self.arrived.notified()).await.is_err();
            let now = self.delivered.load(Ordering::SeqCst);
            if stalled && now == delivered {
                // Whoever is gone is not waited for again.
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

    #[tokio::test(flavor = "current_thread")]
    async fn what_never_arrives_does_not_hold_up_the_rest_for_ever() {
        let flow = Flow { stall: Duration::ZERO, ..Flow::new(1) };
        for _ in 0..3 {
            flow.admit(1, 2).await;
            flow.deliver();
        }
        assert_eq!(flow.delivered.load(Ordering::SeqCst), 3);
    }
}
