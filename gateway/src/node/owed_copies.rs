//! Copies of updates for the channel of all topics that could not be made when the update itself could be. Whoever publishes it
//! again is told that it is there already: so it is the node that makes the copy, as soon as it can. Those of one channel are made
//! in their order, and wait for nothing that is owed to another: that may be at a server that is away.

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
use crate::telemetry::Sparingly;

/// The most copies that wait at once.
const OWED_MAX: usize = 256;

/// How long one is owed. What it is known by is known for as long.
pub(super) const OWED_FOR: Duration = Duration::from_secs(300);

/// The pause before one is tried again.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct OwedCopies {
    waiting: Mutex<Waiting>,
    news: Notify,
    given_up_told: Sparingly,
}

#[derive(Debug, Default)]
struct Waiting {
    copies: VecDeque<OwedCopy>,
    /// How many there were.
    count: u64,
}

/// One that waits.
#[derive(Clone, Debug)]
struct OwedCopy {
    number: u64,
    until: Instant,
    copy: PublishRequest,
}

impl OwedCopies {
    fn owe(&self, copy: PublishRequest, now: Instant) {
        let mut waiting = self.waiting.lock();
        if waiting.copies.len() == OWED_MAX {
            drop(waiting);
            return self.give_up(&copy, "too many wait");
        }
        waiting.count += 1;
        let number = waiting.count;
        waiting.copies.push_back(OwedCopy { number, until: now + OWED_FOR, copy });
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

    /// Of each channel that is not among these the one that has waited longest and may be made still.
    fn firsts(&self, now: Instant, busy: &HashSet<Channel>) -> Vec<OwedCopy> {
        let mut waiting = self.waiting.lock();
        // All are owed for the same time.
        while waiting.copies.front().is_some_and(|owed| owed.until <= now) {
            if let Some(owed) = waiting.copies.pop_front() {
                self.give_up(&owed.copy, "it could not be made in time");
            }
        }
        let mut seen = HashSet::new();
        let is_first =
            |owed: &&OwedCopy| !busy.contains(&owed.copy.channel) && seen.insert(owed.copy.channel.clone());
        waiting.copies.iter().filter(is_first).cloned().collect()
    }

    /// It is owed no more.
    fn done(&self, number: u64) {
        self.waiting.lock().copies.retain(|owed| owed.number != number);
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

/// Makes what is owed, those of one channel one after the other, for as long as the node lives.
pub(super) async fn keep_copying(node: Arc<Node>) {
    let owed = &node.owed_copies;
    let (mut busy, mut making) = (HashSet::new(), FuturesUnordered::new());
    loop {
        for one in owed.firsts(Instant::now(), &busy) {
            busy.insert(one.copy.channel.clone());
            making.push(make(&node, one));
        }
        tokio::select! {
            () = owed.news.notified() => {}
            Some(channel) = making.next() => {
                busy.remove(&channel);
            }
        }
    }
}

/// Tries once. Returns the channel, when the next one of it may be tried.
async fn make(node: &Node, one: OwedCopy) -> Channel {
    let OwedCopy { number, copy, .. } = one;
    match node.broker.publish(copy.clone()).await {
        Err(error) if may_succeed_later(&error) => tokio::time::sleep(PAUSE).await,
        done => {
            node.owed_copies.done(number);
            if let Err(error) = done {
                node.owed_copies.give_up(&copy, &error.to_string());
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

    fn texts(owed: &[OwedCopy]) -> Vec<&[u8]> {
        owed.iter().map(|one| &one.copy.publication.data.bytes[..]).collect()
    }

    #[test]
    fn only_so_many_are_owed_and_none_for_longer_than_it_is_known() {
        let (owed, start) = (OwedCopies::default(), Instant::now());
        for number in 0..=OWED_MAX {
            owed.owe(copy(&number.to_string()), start);
        }
        assert_eq!(owed.waiting.lock().copies.len(), OWED_MAX);
        let firsts = |at: Duration| owed.firsts(start + at, &HashSet::new());
        assert_eq!(texts(&firsts(OWED_FOR / 2)), [b"0"]);
        assert!(firsts(OWED_FOR).is_empty());
        owed.owe(copy("later"), start + OWED_FOR);
        assert_eq!(texts(&firsts(OWED_FOR)), [b"later"]);
    }

    #[test]
    fn what_is_owed_to_one_channel_waits_for_no_other() {
        let (owed, now) = (OwedCopies::default(), Instant::now());
        for (channel, data) in [("a:*", "1"), ("a:*", "2"), ("b:*", "3")] {
            owed.owe(copy_in(channel, data), now);
        }
        let firsts = owed.firsts(now, &HashSet::new());
        assert_eq!(texts(&firsts), [b"1", b"3"]);
        // The first of them is at a server that is away.
        let busy = HashSet::from([firsts[0].copy.channel.clone()]);
        owed.done(firsts[1].number);
        assert!(owed.firsts(now, &busy).is_empty());
        owed.owe(copy_in("b:*", "4"), now);
        assert_eq!(texts(&owed.firsts(now, &busy)), [b"4"]);
        owed.done(firsts[0].number);
        assert_eq!(texts(&owed.firsts(now, &HashSet::new())), [b"2", b"4"]);
    }
}
