//! The fan-out to many sockets in one system call, where the kernel allows it.

use gateway_core::hub::{Bundles, Subscriber};

use crate::transport::{SendBatch, TOGETHER_MAX};
use crate::worker::sweep::WorkerSweep;
use crate::worker::worker_config::IoUring;
use crate::worker::{ClientFlags, Worker};

/// Fewer sockets are sent to one by one, which is as cheap (decision 30).
const TOGETHER_MIN: usize = 4;

impl Worker {
    /// Opens io_uring if it is wanted and this process may use it.
    pub(super) fn open_together(&mut self) {
        if self.io_uring == IoUring::Off || self.together.is_some() {
            return;
        }
        let opened = SendBatch::open();
        // The first worker logs for all, because all may do the same.
        match &opened {
            Ok(_) if self.local.index == 0 => {
                tracing::info!("workers send to many clients at once: io_uring is allowed")
            }
            Err(error) if self.local.index == 0 => {
                tracing::info!(%error, "workers send to one client at a time: io_uring is not available");
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, worker = self.local.index, "io_uring is not available"),
        }
        self.together = opened.ok();
    }
}

impl WorkerSweep<'_> {
    /// Hands bundles to the subscribers that can be sent to together, and one by one to the others among them. Returns the
    /// subscribers that are left. A subscriber is in a list once, so no send here depends on the result of another.
    pub(super) fn hand_together<'s>(
        &mut self,
        subscribers: &'s [Subscriber],
        bundles: &mut Bundles,
    ) -> &'s [Subscriber] {
        if subscribers.len() < TOGETHER_MIN {
            return subscribers;
        }
        // Put back unless it fails, or something panics before the last send is answered.
        let Some(mut together) = self.together.take() else { return subscribers };
        let mut left = subscribers;
        while let Some((piece, rest)) =
            left.split_at_checked(left.len().min(TOGETHER_MAX)).filter(|_| !left.is_empty())
        {
            for (at, subscriber) in piece.iter().enumerate() {
                let bundle = bundles.get(subscriber.variant);
                let flags = &self.flags[subscriber.key as usize];
                match (flags, &bundle.writes[..], &bundle.end) {
                    (ClientFlags { direct: Some(direct), waiting: false, .. }, [frames], None) => {
                        together.add(direct, frames, at as u32);
                    }
                    _ => self.hand(subscriber, bundle),
                }
            }
            let sent = together.send(|at, answer| {
                let subscriber = &piece[at as usize];
                let bundle = bundles.get(subscriber.variant);
                if bundle.writes.first().is_some_and(|frames| self.sent(subscriber.key, frames, answer)) {
                    self.tally.deliveries += u64::from(bundle.publications);
                }
            });
            left = rest;
            if let Err(error) = sent {
                tracing::warn!(%error, "io_uring failed: a worker sends to one client at a time from now on");
                return left;
            }
        }
        *self.together = Some(together);
        left
    }
}
