//! Retries the copies of updates for the channel of all topics that failed when the update itself succeeded. A client that
//! publishes the update again is told that it exists already, so the node has to make the copy. The copies of one channel
//! are made in order, and wait for none of another channel, whose server may be down.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use shared::channel::Channel;
use tokio::sync::Notify;

use crate::broker::{BrokerError, PublishRequest};
use crate::node::Node;
use crate::telemetry::LogLimiter;

/// The most copies that wait at once.
const COPIES_MAX: usize = 256;

/// How long a copy is retried. Its idempotency key is kept for as long.
pub(super) const RETRY_FOR: Duration = Duration::from_secs(300);

/// The pause before a copy is tried again.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct PendingCopies {
    waiting: Mutex<Waiting>,
    news: Notify,
    given_up_log: LogLimiter,
}

#[derive(Debug, Default)]
struct Waiting {
    copies: VecDeque<PendingCopy>,
    /// The number of copies added so far, from which each takes its number.
    count: u64,
}

/// A copy that waits.
#[derive(Clone, Debug)]
struct PendingCopy {
    number: u64,
    until: Instant,
    copy: PublishRequest,
}

impl PendingCopies {
    fn owe(&self, copy: PublishRequest, now: Instant) {
        let mut waiting = self.waiting.lock();
        if waiting.copies.len() == COPIES_MAX {
            drop(waiting);
            return self.give_up(&copy, "too many wait");
        }
        waiting.count += 1;
        let number = waiting.count;
        waiting.copies.push_back(PendingCopy { number, until: now + RETRY_FOR, copy });
        self.news.notify_one();
    }

    fn give_up(&self, copy: &PublishRequest, reason: &str) {
        if let Some(suppressed) = self.given_up_log.admit() {
            let channel = copy.channel.as_str();
            tracing::warn!(
                channel,
                reason,
                suppressed,
                "an update was published in its topic, but not in the channel of all topics"
            );
        }
    }

    /// Returns, for each channel that is not in `busy`, the copy that has waited longest. Gives up copies that are overdue.
    fn firsts(&self, now: Instant, busy: &HashSet<Channel>) -> Vec<PendingCopy> {
        let mut waiting = self.waiting.lock();
        // All copies may wait equally long, so the overdue ones are in front.
        while waiting.copies.front().is_some_and(|pending| pending.until <= now) {
            if let Some(pending) = waiting.copies.pop_front() {
                self.give_up(&pending.copy, "it could not be made in time");
            }
        }
        let mut seen = HashSet::new();
        let is_first = |pending: &&PendingCopy| {
            !busy.contains(&pending.copy.channel) && seen.insert(pending.copy.channel.clone())
        };
        waiting.copies.iter().filter(is_first).cloned().collect()
    }

    /// Removes a copy that needs no further attempt.
    fn done(&self, number: u64) {
        self.waiting.lock().copies.retain(|pending| pending.number != number);
    }
}

impl Node {
    /// Makes a copy now, or queues it for later if that may succeed.
    pub(super) async fn copy_among_all(&self, copy: PublishRequest) -> Result<(), BrokerError> {
        let made = self.broker.publish(copy.clone()).await;
        if made.as_ref().is_err_and(may_succeed_later) {
            self.pending_copies.owe(copy, Instant::now());
        }
        made.map(drop)
    }
}

fn may_succeed_later(error: &BrokerError) -> bool {
    !matches!(error, BrokerError::NotAvailable | BrokerError::Full)
}

/// Makes the copies that wait, those of one channel one after the other, for as long as the node runs.
pub(super) async fn keep_copying(node: Arc<Node>) {
    let pending = &node.pending_copies;
    let (mut busy, mut making) = (HashSet::new(), FuturesUnordered::new());
    loop {
        for one in pending.firsts(Instant::now(), &busy) {
            busy.insert(one.copy.channel.clone());
            making.push(make(&node, one));
        }
        tokio::select! {
            () = pending.news.notified() => {}
            Some(channel) = making.next() => {
                busy.remove(&channel);
            }
        }
    }
}

/// Tries a copy once. Returns its channel when the channel's next copy may be tried.
async fn make(node: &Node, one: PendingCopy) -> Channel {
    let PendingCopy { number, copy, .. } = one;
    match node.broker.publish(copy.clone()).await {
        Err(error) if may_succeed_later(&error) => tokio::time::sleep(PAUSE).await,
        done => {
            node.pending_copies.done(number);
            if let Err(error) = done {
                node.pending_copies.give_up(&copy, &error.to_string());
            }
        }
    }
    copy.channel
}

#[cfg(test)]
mod tests {
    use gateway_core::history::Retention;
    use shared::publication::{Payload, Publication};

    use super::*;

    fn copy_in(channel: &str, data: &str) -> PublishRequest {
        PublishRequest {
            channel: Channel::parse(channel, 255).unwrap(),
            publication: Publication::new(Payload::text(data.to_owned())),
            retention: Retention::default(),
            idempotency: None,
            version: None,
        }
    }

    fn copy(data: &str) -> PublishRequest {
        copy_in("hub:*", data)
    }

    fn texts(pending: &[PendingCopy]) -> Vec<&[u8]> {
        pending.iter().map(|one| &one.copy.publication.data.bytes[..]).collect()
    }

    #[test]
    fn only_so_many_are_owed_and_none_for_longer_than_it_is_known() {
        let (pending, start) = (PendingCopies::default(), Instant::now());
        for number in 0..=COPIES_MAX {
            pending.owe(copy(&number.to_string()), start);
        }
        assert_eq!(pending.waiting.lock().copies.len(), COPIES_MAX);
        let firsts = |at: Duration| pending.firsts(start + at, &HashSet::new());
        assert_eq!(texts(&firsts(RETRY_FOR / 2)), [b"0"]);
        assert!(firsts(RETRY_FOR).is_empty());
        pending.owe(copy("later"), start + RETRY_FOR);
        assert_eq!(texts(&firsts(RETRY_FOR)), [b"later"]);
    }

    #[test]
    fn what_is_owed_to_one_channel_waits_for_no_other() {
        let (pending, now) = (PendingCopies::default(), Instant::now());
        for (channel, data) in [("a:*", "1"), ("a:*", "2"), ("b:*", "3")] {
            pending.owe(copy_in(channel, data), now);
        }
        let firsts = pending.firsts(now, &HashSet::new());
        assert_eq!(texts(&firsts), [b"1", b"3"]);
        // The first copy is for a server that is away.
        let busy = HashSet::from([firsts[0].copy.channel.clone()]);
        pending.done(firsts[1].number);
        assert!(pending.firsts(now, &busy).is_empty());
        pending.owe(copy_in("b:*", "4"), now);
        assert_eq!(texts(&pending.firsts(now, &busy)), [b"4"]);
        pending.done(firsts[0].number);
        assert_eq!(texts(&pending.firsts(now, &HashSet::new())), [b"2", b"4"]);
    }
}
