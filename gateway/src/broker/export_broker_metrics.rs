//! Exports the counters of a broker to the node's metrics.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::HistogramVec;

use super::measure::{BrokerMetrics, Operation};
use crate::broker::BrokerRefusal;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::catch_up;

/// Returns counters for a broker and the presence beside it, and exports them to `metrics`. `has_links` says whether the
/// broker keeps links that can be lost.
pub fn shown_in(metrics: &Metrics, has_links: bool) -> Arc<BrokerMetrics> {
    let counted = counters(&metrics.broker.seconds);
    let shown = counted.clone();
    metrics.refresh_with(move |metrics| show(&shown, metrics, has_links));
    counted
}

/// Returns a function that gives each of several servers its counters, by the server's name; an empty name is for
/// counters of no server. `metrics` shows their sum, and some counters of each server.
pub fn shown_by_shard(metrics: &Metrics) -> impl Fn(&str) -> Arc<BrokerMetrics> + Send + Sync + use<> {
    let all = Arc::new(Mutex::new(Vec::<(Box<str>, Arc<BrokerMetrics>)>::new()));
    let shown = all.clone();
    metrics.refresh_with(move |metrics| {
        let all = shown.lock();
        mark_removed_links_up(&all);
        show(&BrokerMetrics::together(all.iter().map(|(_, counted)| &**counted)), metrics, true);
        let named = all.iter().filter(|(name, _)| !name.is_empty());
        named.for_each(|(name, counted)| show_shard(name, counted, metrics));
    });
    let seconds = metrics.broker.seconds.clone();
    move |name| {
        let mut all = all.lock();
        if let Some((_, counted)) = all.iter().find(|(known, _)| **known == *name) {
            return counted.clone();
        }
        let counted = counters(&seconds);
        all.push((name.into(), counted.clone()));
        counted
    }
}

/// Prevents counters of no server, and those of servers that are gone, from showing a link as down.
fn mark_removed_links_up(all: &[(Box<str>, Arc<BrokerMetrics>)]) {
    let is_there = |(name, counted): &&(Box<str>, Arc<BrokerMetrics>)| {
        !name.is_empty() && Arc::strong_count(counted) > 1
    };
    let some_are = u64::from(all.iter().any(|one| is_there(&one)));
    for (_, counted) in all.iter().filter(|one| !is_there(one)) {
        for link in [&counted.command_link, &counted.read_link, &counted.subscriber_link] {
            link.up.set(some_are);
        }
        counted.subscribed_channels.set(0);
    }
}

fn show_shard(name: &str, broker: &BrokerMetrics, metrics: &Metrics) {
    let (failed, reconnects) = broker.failures();
    for (metric, counter) in [
        (&metrics.shards.published_total, broker.published.get()),
        (&metrics.shards.errors_total, failed),
        (&metrics.shards.reconnects_total, reconnects),
    ] {
        catch_up(&metric.with_label_values(&[name]), counter);
    }
    let channels = i64::try_from(broker.subscribed_channels.get()).unwrap_or(i64::MAX);
    metrics.shards.channels.with_label_values(&[name]).set(channels);
}

/// Returns counters whose round trips are observed in `seconds`.
fn counters(seconds: &HistogramVec) -> Arc<BrokerMetrics> {
    let seconds = Operation::ALL.map(|operation| seconds.with_label_values(&[operation.as_str()]));
    Arc::new(BrokerMetrics::with_round_trip_hook(Box::new(move |operation, took| {
        seconds[operation as usize].observe(took.as_secs_f64());
    })))
}

fn show(broker: &BrokerMetrics, metrics: &Metrics, has_links: bool) {
    let errors = |reason, counter: u64| {
        catch_up(&metrics.broker.errors_total.with_label_values(&[reason]), counter);
    };
    errors("unreachable", broker.unreachable.get());
    errors("timeout", broker.timeouts.get());
    errors("unanswered", broker.unanswered.get());
    errors("unexpected", broker.unexpected.get());
    for kind in BrokerRefusal::ALL {
        errors(kind.label(), broker.refused(kind).get());
    }
    let evictions = |what, counter: u64| {
        catch_up(&metrics.broker.evictions_total.with_label_values(&[what]), counter);
    };
    evictions("stream", broker.evicted_streams.get());
    evictions("key", broker.evicted_keys.get());
    catch_up(&metrics.broker.received_bytes_total, broker.received_bytes.get());
    catch_up(&metrics.broker.unreadable_total, broker.undecodable.get());
    catch_up(&metrics.broker.repeated_total, broker.duplicates.get());
    catch_up(&metrics.broker.presence_overflows_total, broker.presence_overflows.get());
    catch_up(&metrics.broker.ledger_unshortened_total, broker.unshortened_ledgers.get());
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    metrics.broker.channels.set(gauge(broker.subscribed_channels.get()));
    catch_up(&metrics.broker.master_changes_total, broker.master_changes.get());
    metrics.broker.sentinels_up.set(gauge(broker.sentinels_up.get()));
    if has_links {
        for (name, link) in [
            ("command", &broker.command_link),
            ("read", &broker.read_link),
            ("subscriber", &broker.subscriber_link),
        ] {
            metrics.broker.link_up.with_label_values(&[name]).set(gauge(link.up.get()));
            catch_up(&metrics.broker.reconnects_total.with_label_values(&[name]), link.reconnects.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_a_broker_counts_is_shown_and_counted_once() {
        let metrics = Metrics::new();
        let broker = shown_in(&metrics, true);
        broker.timeouts.add(2);
        broker.subscriber_link.reconnects.increment();
        broker.command_link.up.set(1);
        broker.subscribed_channels.set(7);
        broker.master_changes.increment();
        broker.sentinels_up.set(3);
        broker.unshortened_ledgers.increment();
        broker.observe_round_trip(Operation::History, Duration::from_millis(3));
        metrics.render().unwrap();
        broker.timeouts.increment();
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for line in [
            "tidegate_broker_errors_total{reason=\"timeout\"} 3",
            "tidegate_broker_reconnects_total{link=\"subscriber\"} 1",
            "tidegate_broker_link_up{link=\"command\"} 1",
            "tidegate_broker_link_up{link=\"subscriber\"} 0",
            "tidegate_broker_channels 7",
            "tidegate_broker_master_changes_total 1",
            "tidegate_broker_sentinels_up 3",
            "tidegate_ledger_unshortened_total 1",
            "tidegate_broker_seconds_count{operation=\"history\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn several_servers_are_shown_together_and_each_alone() {
        let metrics = Metrics::new();
        let make = shown_by_shard(&metrics);
        let (one, other) = (make("r1:6379"), make("r2:6379"));
        one.timeouts.add(2);
        one.command_link.up.set(1);
        one.subscribed_channels.set(7);
        other.refused(BrokerRefusal::OutOfMemory).increment();
        other.subscribed_channels.set(3);
        other.read_link.reconnects.increment();
        other.published.add(5);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for line in [
            "tidegate_broker_errors_total{reason=\"timeout\"} 2",
            "tidegate_broker_errors_total{reason=\"oom\"} 1",
            "tidegate_broker_link_up{link=\"command\"} 0",
            "tidegate_broker_channels 10",
            "tidegate_broker_shard_channels{shard=\"r1:6379\"} 7",
            "tidegate_broker_shard_errors_total{shard=\"r2:6379\"} 1",
            "tidegate_broker_shard_reconnects_total{shard=\"r2:6379\"} 1",
            "tidegate_broker_shard_published_total{shard=\"r2:6379\"} 5",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn a_server_that_is_gone_has_no_links_and_what_it_counted_stays() {
        let metrics = Metrics::new();
        let make = shown_by_shard(&metrics);
        let (common, one, gone) = (make(""), make("r1:6379"), make("r2:6379"));
        one.command_link.up.set(1);
        gone.published.add(3);
        gone.subscribed_channels.set(3);
        common.timeouts.increment();
        drop(gone);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for line in [
            "tidegate_broker_link_up{link=\"command\"} 1",
            "tidegate_broker_channels 0",
            "tidegate_broker_errors_total{reason=\"timeout\"} 1",
            "tidegate_broker_shard_published_total{shard=\"r2:6379\"} 3",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains("shard=\"\""), "{text}");
        assert_eq!(make("r2:6379").published.get(), 3, "it is counted on when it comes back");
    }

    #[test]
    fn a_broker_without_links_shows_none() {
        let metrics = Metrics::new();
        let _broker = shown_in(&metrics, false);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(!text.contains("tidegate_broker_link_up"), "{text}");
    }
}
