//! The fan-out to many sockets in one call of the kernel, where that can be had.

use gateway_core::hub::{Bundles, Subscriber};

use crate::transport::{SendBatch, TOGETHER_MAX};
use crate::worker::sweep::WorkerSweep;
use crate::worker::worker_config::IoUring;
use crate::worker::{ClientFlags, Worker};

/// Fewer are sent to one by one, which is as cheap (decision 30).
const TOGETHER_MIN: usize = 4;

impl Worker {
    /// Tries whether this process may have it, if it is wanted.
    pub(super) fn open_together(&mut self) {
        if self.io_uring == IoUring::Off || self.together.is_some() {
            return;
        }
        let opened = SendBatch::open();
        // One speaks for all: what one may have they all may.
        match &opened {
            Ok(_) if self.local.index == 0 => {
                tracing::info!("workers send to many clients at once: io_uring is allowed")
            }
            Err(error) if self.local.index == 0 => {
                tracing::info!(%error, "workers send to one client at a time: io_uring cannot be had");
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, worker = self.local.index, "io_uring cannot be had"),
        }
        self.together = opened.ok();
    }
}

impl WorkerSweep<'_> {
    /// Hands it to as many as can be sent to together, and to whoever stands among them. Returns who is left. A list has
    /// nobody twice, so that no send here has to wait for what came of another.
    pub(super) fn hand_together<'s>(
        &mut self,
        subscribers: &'s [Subscriber],
        bundles: &mut Bundles,
    ) -> &'s [Subscriber] {
        if subscribers.len() < TOGETHER_MIN {
            return subscribers;
        }
        // It comes back unless it fails, or something panics before the last send is answered.
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
