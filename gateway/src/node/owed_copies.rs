//! Copies of updates for the channel of all topics that could not be made when the update itself could be. Whoever publishes it
//! again is told that it is there already: so it is the node that makes the copy, as soon as it can.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::broker::{BrokerError, PublishRequest};
use crate::node::Node;
use crate::telemetry::Sparingly;

/// The most copies that wait at once.
const OWED_MAX: usize = 256;

/// How long one is owed. What it is known by is known for as long.
pub(super) const OWED_FOR: Duration = Duration::from_secs(300);

/// The pause before the first of them is tried again.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct OwedCopies {
    waiting: Mutex<VecDeque<(Instant, PublishRequest)>>,
    news: Notify,
    given_up_told: Sparingly,
}

impl OwedCopies {
    fn owe(&self, copy: PublishRequest, now: Instant) {
        let mut waiting = self.waiting.lock();
        if waiting.len() == OWED_MAX {
            drop(waiting);
            return self.give_up(&copy, "too many wait");
        }
        waiting.push_back((now + OWED_FOR, copy));
        self.news.notify_one();
    }

    fn give_up(&self, copy: &PublishRequest, reason: &str) {
        if let Some(untold) = self.given_up_told.now() {
            let channel = copy.channel.as_str();
            tracing::warn!(
                channel,
                reason,
                untold,
                "an update is in its topic, and will not be among all topics"
            );
        }
    }

    /// The one that has waited longest and may be made still.
    fn first(&self, now: Instant) -> Option<PublishRequest> {
        let mut waiting = self.waiting.lock();
        while let Some((until, copy)) = waiting.front() {
            if now < *until {
                return Some(copy.clone());
            }
            if let Some((_, copy)) = waiting.pop_front() {
                self.give_up(&copy, "it could not be made in time");
            }
        }
        None
    }
}

impl Node {
    /// Makes a copy now, or owes it.
    pub(super) async fn copy_among_all(&self, copy: PublishRequest) -> Result<(), BrokerError> {
        let made = self.broker.publish(copy.clone()).await;
        if made.as_ref().is_err_and(may_succeed_later) {
            self.owed_copies.owe(copy, Instant::now());
        }
        made.map(drop)
    }
}

fn may_succeed_later(error: &BrokerError) -> bool {
    !matches!(error, BrokerError::NotAvailable | BrokerError::Full)
}

/// Makes what is owed, one after the other, for as long as the node lives.
pub(super) async fn keep_copying(node: Arc<Node>) {
    let owed = &node.owed_copies;
    loop {
        let Some(copy) = owed.first(Instant::now()) else {
            owed.news.notified().await;
            continue;
        };
        match node.broker.publish(copy.clone()).await {
            Err(error) if may_succeed_later(&error) => tokio::time::sleep(PAUSE).await,
            done => {
                // Only this task takes any away.
                owed.waiting.lock().pop_front();
                if let Err(error) = done {
                    owed.give_up(&copy, &error.to_string());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::history::Retention;
    use shared::channel::Channel;
    use shared::publication::{Payload, Publication};

    use super::*;

    fn copy(data: &str) -> PublishRequest {
        PublishRequest {
            channel: Channel::parse("hub:*", 255).unwrap(),
            publication: Publication::new(Payload::text(data.to_owned())),
            retention: Retention::default(),
            idempotency: None,
            version: None,
        }
    }

    #[test]
    fn only_so_many_are_owed_and_none_for_longer_than_it_is_known() {
        let (owed, start) = (OwedCopies::default(), Instant::now());
        for number in 0..=OWED_MAX {
            owed.owe(copy(&number.to_string()), start);
        }
        assert_eq!(owed.waiting.lock().len(), OWED_MAX);
        let first = |at: Duration| owed.first(start + at).map(|copy| copy.publication.data.bytes);
        assert_eq!(first(OWED_FOR / 2).as_deref(), Some(&b"0"[..]));
        assert_eq!(first(OWED_FOR), None);
        owed.owe(copy("later"), start + OWED_FOR);
        assert_eq!(first(OWED_FOR).as_deref(), Some(&b"later"[..]));
    }
}
