//! What a broker counts about itself, shown in the node's metrics.

use std::sync::Arc;

use super::measure::{BrokerMetrics, Operation};
use crate::broker::Refusal;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::catch_up;

/// Counters for a broker and the presence beside it, whose values appear in `metrics`. `has_links` if it keeps links
/// to something that can be lost.
pub fn shown_in(metrics: &Metrics, has_links: bool) -> Arc<BrokerMetrics> {
    let seconds =
        Operation::ALL.map(|operation| metrics.broker_seconds.with_label_values(&[operation.as_str()]));
    let counted = Arc::new(BrokerMetrics::with_round_trip_hook(Box::new(move |operation, took| {
        seconds[operation as usize].observe(took.as_secs_f64());
    })));
    let shown = counted.clone();
    metrics.refresh_with(move |metrics| show(&shown, metrics, has_links));
    counted
}

fn show(broker: &BrokerMetrics, metrics: &Metrics, has_links: bool) {
    let errors = |reason, counter: u64| {
        catch_up(&metrics.broker_errors_total.with_label_values(&[reason]), counter);
    };
    errors("unreachable", broker.unreachable.get());
    errors("timeout", broker.timeouts.get());
    errors("unanswered", broker.unanswered.get());
    errors("unexpected", broker.unexpected.get());
    for kind in Refusal::ALL {
        errors(kind.label(), broker.refused(kind).get());
    }
    let evictions = |what, counter: u64| {
        catch_up(&metrics.broker_evictions_total.with_label_values(&[what]), counter);
    };
    evictions("stream", broker.evicted_streams.get());
    evictions("key", broker.evicted_keys.get());
    catch_up(&metrics.broker_received_bytes_total, broker.received_bytes.get());
    catch_up(&metrics.broker_unreadable_total, broker.undecodable.get());
    catch_up(&metrics.broker_repeated_total, broker.duplicates.get());
    catch_up(&metrics.presence_overflows_total, broker.presence_overflows.get());
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    metrics.broker_channels.set(gauge(broker.subscribed_channels.get()));
    catch_up(&metrics.broker_master_changes_total, broker.master_changes.get());
    metrics.broker_sentinels_up.set(gauge(broker.sentinels_up.get()));
    if has_links {
        for (name, link) in [
            ("command", &broker.command_link),
            ("read", &broker.read_link),
            ("subscriber", &broker.subscriber_link),
        ] {
            metrics.broker_link_up.with_label_values(&[name]).set(gauge(link.up.get()));
            catch_up(&metrics.broker_reconnects_total.with_label_values(&[name]), link.reconnects.get());
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
            "tidegate_broker_seconds_count{operation=\"history\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn a_broker_without_links_shows_none() {
        let metrics = Metrics::new();
        let _broker = shown_in(&metrics, false);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(!text.contains("tidegate_broker_link_up"), "{text}");
    }
}
