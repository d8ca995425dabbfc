//! Remembers the answers to publications with an idempotency key.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shared::channel::Channel;
use shared::moment::Moment;

use super::expiry_queue::Deadlines;
use crate::broker::Published;

/// Answers by channel and idempotency key, each until it expires. The number of keys is bounded.
#[derive(Debug)]
pub(super) struct IdempotencyCache {
    by_key: HashMap<Arc<str>, (Published, Moment)>,
    expiring: Deadlines<Arc<str>>,
    keys_max: usize,
}

impl IdempotencyCache {
    pub(super) fn new(keys_max: usize) -> Self {
        Self { by_key: HashMap::new(), expiring: Deadlines::default(), keys_max }
    }

    pub(super) fn find(&self, now: Moment, channel: &Channel, key: &str) -> Option<Published> {
        let (answer, expires) = self.by_key.get(&*compose(channel, key))?;
        (*expires > now).then_some(*answer)
    }

    /// Stores an answer. Returns whether another key was evicted before it expired.
    pub(super) fn remember(
        &mut self,
        now: Moment,
        channel: &Channel,
        key: &str,
        ttl: Duration,
        answer: Published,
    ) -> bool {
        let key = compose(channel, key);
        let expires = now + ttl;
        if let Some((_, earlier)) = self.by_key.insert(key.clone(), (answer, expires)) {
            self.expiring.remove(earlier, key.clone());
        }
        self.expiring.insert(expires, key);
        if self.by_key.len() <= self.keys_max {
            return false;
        }
        let Some((at, first)) = self.expiring.pop_first() else { return false };
        self.by_key.remove(&first);
        at > now
    }

    /// Removes at most `count` expired keys. Returns how many it removed.
    pub(super) fn sweep(&mut self, now: Moment, count: usize) -> usize {
        for swept in 0..count {
            let Some(key) = self.expiring.pop_due(now) else { return swept };
            self.by_key.remove(&key);
        }
        count
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }
}

/// Joins both with a line end. A channel's name holds none, so no two pairs make the same text.
fn compose(channel: &Channel, key: &str) -> Arc<str> {
    let mut composed = String::with_capacity(channel.as_str().len() + 1 + key.len());
    composed.push_str(channel.as_str());
    composed.push('\n');
    composed.push_str(key);
    composed.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_keys_is_bounded_and_the_first_to_expire_goes() {
        let channel = Channel::parse("a", 255).unwrap();
        let mut answers = IdempotencyCache::new(2);
        let seconds = Duration::from_secs;
        assert!(!answers.remember(Moment(0), &channel, "long", seconds(60), Published::default()));
        assert!(!answers.remember(Moment(0), &channel, "short", seconds(1), Published::default()));
        assert!(answers.remember(Moment(0), &channel, "new", seconds(60), Published::default()));
        assert_eq!(answers.len(), 2);
        assert!(answers.find(Moment(0), &channel, "short").is_none());
        assert!(answers.find(Moment(0), &channel, "long").is_some());

        assert_eq!(answers.sweep(Moment(60_000), 100), 2);
        assert_eq!(answers.len(), 0);
    }

    #[test]
    fn a_key_counts_no_longer_than_its_time_even_before_a_sweep() {
        let channel = Channel::parse("a", 255).unwrap();
        let mut answers = IdempotencyCache::new(2);
        answers.remember(Moment(0), &channel, "key", Duration::from_secs(1), Published::default());
        assert!(answers.find(Moment(999), &channel, "key").is_some());
        assert!(answers.find(Moment(1000), &channel, "key").is_none());
    }

    #[test]
    fn a_key_that_is_used_anew_has_its_new_time() {
        let channel = Channel::parse("a", 255).unwrap();
        let mut answers = IdempotencyCache::new(2);
        for (now, seconds) in [(0, 1), (1_000, 60)] {
            let ttl = Duration::from_secs(seconds);
            answers.remember(Moment(now), &channel, "key", ttl, Published::default());
        }
        answers.sweep(Moment(2_000), 100);
        assert!(answers.find(Moment(2_000), &channel, "key").is_some());
    }
}
