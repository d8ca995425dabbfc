//! Runs one feed for as long as its node runs: reads, publishes and settles records, and retries for ever while something fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::feed_config::FeedConfig;
use super::record;
use super::source::{FeedRecord, FeedSource, SourceCheck, SourceError, SourceItem};
use super::work::{RecordCounts, RecordsInFlight};
use crate::api;
use crate::node::Node;
use crate::telemetry::feeds_metrics::FeedMetrics;
use crate::telemetry::{LogLimiter, Reminder};

/// The interval at which a feed renews its lease and measures its lag. Leases last several times as long.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The interval at which a node that does not read the feed tries to take the lease.
const TURN_INTERVAL: Duration = Duration::from_millis(500);

/// The upper bound of the first pause after a failure.
const PAUSE_FIRST_MAX: Duration = Duration::from_millis(100);

/// A feed and its source.
#[derive(Debug)]
pub(super) struct Running {
    name: Arc<str>,
    api: api::ApiConfig,
    idempotency_ttl: Duration,
    pauses: FeedBackoff,
    node: Arc<Node>,
    metrics: FeedMetrics,
    source: Box<dyn FeedSource>,
    looked: Option<Instant>,
    trouble: Reminder,
    /// Limits the log lines about dead letters, because others can cause them as often as they like.
    dead: LogLimiter,
    unpublished: Reminder,
    is_reader: bool,
}

/// A backoff with random pauses whose bound grows.
#[derive(Debug)]
pub(super) struct FeedBackoff {
    bound: Duration,
    max: Duration,
}

impl FeedBackoff {
    pub(super) fn new(max: Duration) -> Self {
        Self { bound: PAUSE_FIRST_MAX.min(max), max }
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.bound.mul_f64(rand::random_range(0.5..1.0));
        self.bound = (self.bound * 2).min(self.max);
        pause
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.max);
    }
}

impl Running {
    pub(super) fn new(
        name: Arc<str>,
        feed: &FeedConfig,
        api: api::ApiConfig,
        node: Arc<Node>,
        source: Box<dyn FeedSource>,
    ) -> Self {
        let metrics = node.metrics.feed(&name);
        Self {
            name,
            api,
            idempotency_ttl: feed.idempotency_ttl(),
            pauses: FeedBackoff::new(feed.retry_max()),
            node,
            metrics,
            source,
            looked: None,
            trouble: Reminder::new(),
            dead: LogLimiter::default(),
            unpublished: Reminder::new(),
            is_reader: false,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let taken = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                taken = self.source.take() => taken,
            };
            let done = match taken {
                Ok(taken) => {
                    self.connected();
                    self.go_on(taken, &stop).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                self.disconnected(&error);
                self.metrics.retried.inc();
                let pause = self.pauses.next();
                let _stopped = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            }
        }
        self.source.leave().await;
        self.metrics.connected.set(0);
        self.read_by_others();
    }

    async fn go_on(&mut self, taken: SourceItem, stop: &CancellationToken) -> Result<(), SourceError> {
        match taken {
            SourceItem::NotOurs => {
                self.read_by_others();
                let _stopped = stop.run_until_cancelled(tokio::time::sleep(TURN_INTERVAL)).await;
                Ok(())
            }
            SourceItem::Records(records) => {
                if !std::mem::replace(&mut self.is_reader, true) {
                    tracing::info!(feed = %self.name, "this node now reads the feed");
                    self.metrics.reader.set(1);
                }
                if !records.is_empty() {
                    return self.carry(records, stop).await;
                }
                self.pauses.reset();
                if self.look_is_due() && !self.look().await? {
                    return Ok(());
                }
                match stop.run_until_cancelled(self.source.wait(LOOK_INTERVAL)).await {
                    Some(waited) => waited,
                    None => Ok(()),
                }
            }
        }
    }

    /// Publishes these records until each is published or a dead letter, or until another node has the lease.
    async fn carry(&mut self, records: Vec<FeedRecord>, stop: &CancellationToken) -> Result<(), SourceError> {
        self.metrics.read.inc_by(records.len() as u64);
        let read = |record: FeedRecord| {
            let wanted = record::read(&record, &self.api);
            let key = || format!("feed:{}:{}", self.name, record.position).into_boxed_str();
            let known = wanted.map(|mut wanted| {
                wanted.message = wanted.message.known_by(key, self.idempotency_ttl);
                wanted
            });
            (record.position, known)
        };
        let mut work = RecordsInFlight::new(records.into_iter().map(read));
        loop {
            self.metrics.held.set(work.held() as i64);
            let node = self.node.clone();
            let failure = {
                let publishing = work.publish(&node);
                tokio::pin!(publishing);
                loop {
                    let left = LOOK_INTERVAL
                        .saturating_sub(self.looked.map_or(LOOK_INTERVAL, |looked| looked.elapsed()));
                    tokio::select! {
                        biased;
                        failure = &mut publishing => break failure,
                        () = tokio::time::sleep(left) => {
                            // Publications in flight continue: their idempotency keys are known wherever the records
                            // are published next.
                            if !self.look().await? {
                                return self.drop_work();
                            }
                        }
                    }
                }
            };
            let (settled, counts) = work.take_settled();
            for settled in &settled {
                if let Some(reason) = &settled.dead
                    && let Some(suppressed) = self.dead.admit()
                {
                    let (feed, position) = (&self.name, &settled.position);
                    tracing::warn!(%feed, %position, %reason, suppressed, "a record is not published: it is a dead letter");
                }
            }
            if !settled.is_empty() {
                self.source.settle(settled).await.inspect_err(|_| self.metrics.held.set(0))?;
                self.count(counts);
            }
            let Some(error) = failure else {
                if self.unpublished.over(Instant::now()).is_some() {
                    tracing::info!(feed = %self.name, "the feed's records are published again");
                }
                self.pauses.reset();
                self.metrics.held.set(0);
                return Ok(());
            };
            self.metrics.retried.inc();
            if self.unpublished.is_due(error.label(), Instant::now()) {
                tracing::warn!(feed = %self.name, %error, "records wait: they cannot be published yet");
            }
            let until = Instant::now() + self.pauses.next();
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                let pause = tokio::time::sleep(left.min(LOOK_INTERVAL));
                if stop.run_until_cancelled(pause).await.is_none() {
                    return self.drop_work();
                }
                if self.look_is_due() && !self.look().await? {
                    return self.drop_work();
                }
            }
        }
    }

    /// Leaves the unfinished records to the node that reads next.
    fn drop_work(&self) -> Result<(), SourceError> {
        self.metrics.held.set(0);
        Ok(())
    }

    fn count(&self, counts: RecordCounts) {
        self.metrics.published.inc_by(counts.published);
        self.metrics.repeated.inc_by(counts.repeated);
        self.metrics.dead_lettered.inc_by(counts.dead);
    }

    fn look_is_due(&self) -> bool {
        self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL)
    }

    /// Renews the lease and updates the lag. Returns whether this node still has the lease.
    async fn look(&mut self) -> Result<bool, SourceError> {
        self.looked = Some(Instant::now());
        match self.source.look().await? {
            SourceCheck::Ours(lag) => {
                self.metrics.lag(lag.records, lag.oldest);
                Ok(true)
            }
            SourceCheck::NotOurs => {
                self.read_by_others();
                Ok(false)
            }
        }
    }

    fn read_by_others(&mut self) {
        self.metrics.reader.set(0);
        // Only the node that reads the feed knows the lag.
        self.metrics.forget_lag();
        if std::mem::replace(&mut self.is_reader, false) {
            tracing::info!(feed = %self.name, "this node no longer reads the feed");
        }
    }

    fn connected(&mut self) {
        self.metrics.connected.set(1);
        if let Some(down) = self.trouble.over(Instant::now()) {
            let down_ms = down.as_millis() as u64;
            tracing::info!(feed = %self.name, down_ms, "the feed's source is back");
        }
    }

    fn disconnected(&mut self, error: &SourceError) {
        self.metrics.connected.set(0);
        self.metrics.held.set(0);
        self.read_by_others();
        if self.trouble.is_due(&error.0, Instant::now()) {
            tracing::warn!(feed = %self.name, %error, "the feed's source cannot be used");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew_once_something_was_done() {
        let max = Duration::from_secs(2);
        let mut pauses = FeedBackoff::new(max);
        assert!(pauses.next() <= PAUSE_FIRST_MAX);
        let last = (0..10).map(|_| pauses.next()).last().unwrap();
        assert!(last >= max / 2 && last <= max);
        pauses.reset();
        assert!(pauses.next() <= PAUSE_FIRST_MAX);
    }
}
