//! The metrics of feeds: the records read, their results, and the lag.

use std::time::Duration;

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::metrics::Metrics;
use super::names;
use super::register::{counters, gauges, options, register};

/// The metrics of all feeds. The values of the label are bounded by the configuration.
#[derive(Clone, Debug)]
pub struct FeedsMetrics {
    read: IntCounterVec,
    records: IntCounterVec,
    retries: IntCounterVec,
    connected: IntGaugeVec,
    reader: IntGaugeVec,
    held: IntGaugeVec,
    behind: IntGaugeVec,
    oldest: GaugeVec,
}

/// The metrics of one feed.
#[derive(Debug)]
pub struct FeedMetrics {
    name: String,
    pub read: IntCounter,
    pub published: IntCounter,
    pub repeated: IntCounter,
    pub dead_lettered: IntCounter,
    pub retried: IntCounter,
    /// Whether the source is reachable.
    pub connected: IntGauge,
    /// Whether this node reads the feed.
    pub reader: IntGauge,
    /// Records that were read and are unfinished.
    pub held: IntGauge,
    behind: IntGaugeVec,
    oldest: GaugeVec,
}

impl FeedsMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let oldest = names::FEED_OLDEST_SECONDS;
        Self {
            read: counters(registry, names::FEED_READ_TOTAL),
            records: counters(registry, names::FEED_RECORDS_TOTAL),
            retries: counters(registry, names::FEED_RETRIES_TOTAL),
            connected: gauges(registry, names::FEED_CONNECTED),
            reader: gauges(registry, names::FEED_READER),
            held: gauges(registry, names::FEED_HELD_RECORDS),
            behind: gauges(registry, names::FEED_BEHIND_RECORDS),
            oldest: register(registry, GaugeVec::new(options(oldest), &oldest.label_names())),
        }
    }

    fn feed(&self, name: &str) -> FeedMetrics {
        let result = |result| self.records.with_label_values(&[name, result]);
        FeedMetrics {
            name: name.to_owned(),
            read: self.read.with_label_values(&[name]),
            published: result("published"),
            repeated: result("repeated"),
            dead_lettered: result("dead_lettered"),
            retried: self.retries.with_label_values(&[name]),
            connected: self.connected.with_label_values(&[name]),
            reader: self.reader.with_label_values(&[name]),
            held: self.held.with_label_values(&[name]),
            behind: self.behind.clone(),
            oldest: self.oldest.clone(),
        }
    }
}

impl Metrics {
    /// Returns the metrics of the feed with this name, which the configuration must have.
    pub fn feed(&self, name: &str) -> FeedMetrics {
        self.feeds.feed(name)
    }
}

impl FeedMetrics {
    /// Sets the lag of the feed. Figures that the source does not know are not shown.
    pub fn lag(&self, records: Option<u64>, oldest: Option<Duration>) {
        match records {
            Some(records) => {
                let behind = self.behind.with_label_values(&[&self.name]);
                behind.set(i64::try_from(records).unwrap_or(i64::MAX));
            }
            None => drop(self.behind.remove_label_values(&[&self.name])),
        }
        match oldest {
            Some(age) => self.oldest.with_label_values(&[&self.name]).set(age.as_secs_f64()),
            None if records == Some(0) => self.oldest.with_label_values(&[&self.name]).set(0.0),
            None => drop(self.oldest.remove_label_values(&[&self.name])),
        }
    }

    /// Resets the gauges while this node neither reads nor holds records.
    pub fn stands_still(&self) {
        for gauge in [&self.connected, &self.reader, &self.held] {
            gauge.set(0);
        }
        self.forget_lag();
    }

    /// Removes the lag, which only the node that reads the feed can tell.
    pub fn forget_lag(&self) {
        self.lag(None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_of_a_feed_is_not_shown() {
        let registry = Registry::new();
        let feed = FeedsMetrics::new(&registry).feed("orders");
        let shown = |name: &str| {
            let families = registry.gather();
            let family = families.iter().find(|family| family.name() == format!("tidegate_{name}"));
            family.map(|family| family.get_metric()[0].get_gauge().get_value())
        };
        assert_eq!(shown("feed_behind_records"), None);
        feed.lag(Some(3), Some(Duration::from_millis(1500)));
        assert_eq!((shown("feed_behind_records"), shown("feed_oldest_seconds")), (Some(3.0), Some(1.5)));
        feed.lag(Some(0), None);
        assert_eq!((shown("feed_behind_records"), shown("feed_oldest_seconds")), (Some(0.0), Some(0.0)));
        feed.lag(None, Some(Duration::from_secs(2)));
        assert_eq!((shown("feed_behind_records"), shown("feed_oldest_seconds")), (None, Some(2.0)));
        feed.forget_lag();
        assert_eq!((shown("feed_behind_records"), shown("feed_oldest_seconds")), (None, None));
    }
}
