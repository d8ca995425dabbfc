//! The metrics by namespace. The label values are the namespaces of the configuration, never text from a client.

use std::sync::OnceLock;

use gateway_core::channel_rules::ChannelRules;
use gateway_core::namespace_id::NamespaceId;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::labels::PublicationSource;
use super::names;
use super::register::{counters, gauges};

/// The most namespaces that are counted separately in the life of a node. Further ones are counted as one.
pub(crate) const NAMESPACES_MAX: usize = 1 << u8::BITS;

/// The number of all namespaces beyond [`NAMESPACES_MAX`].
const OTHERS: NamespaceId = NamespaceId(2);

/// The labels for everything outside the counted namespaces. No client can put such a name before a channel's boundary
/// unless the configuration has a namespace of that name.
const DEFAULT_LABEL: &str = "(default)";
const UNKNOWN_LABEL: &str = "(unknown)";
const OTHERS_LABEL: &str = "(others)";

/// The metrics of one namespace, looked up once and counted without a lookup.
#[derive(Debug)]
pub(crate) struct NamespaceCounters {
    label: Box<str>,
    publications_in_total: [IntCounter; PublicationSource::ALL.len()],
    pub(crate) bytes_in_total: IntCounter,
    pub(crate) deliveries_out_total: IntCounter,
    pub(crate) bytes_out_total: IntCounter,
    pub(crate) subscriptions: IntGauge,
    pub(crate) channels: IntGauge,
    recoveries_total: [IntCounter; 2],
    pub(crate) history_reads_total: IntCounter,
}

/// The metrics of all namespaces.
#[derive(Debug)]
pub struct NamespaceMetrics {
    publications_in_total: IntCounterVec,
    publications_refused_total: IntCounterVec,
    bytes_in_total: IntCounterVec,
    deliveries_out_total: IntCounterVec,
    bytes_out_total: IntCounterVec,
    subscriptions: IntGaugeVec,
    channels: IntGaugeVec,
    recoveries_total: IntCounterVec,
    refusals_total: IntCounterVec,
    history_reads_total: IntCounterVec,
    /// The label of each number that has been assigned.
    labels: Mutex<Vec<Box<str>>>,
    /// The metrics by number, read without a lock.
    of: Box<[OnceLock<NamespaceCounters>]>,
}

impl NamespaceCounters {
    pub(crate) fn publication_in(&self, source: PublicationSource) {
        self.publications_in_total[source as usize].inc();
    }

    pub(crate) fn recovery(&self, recovered: bool) {
        self.recoveries_total[usize::from(recovered)].inc();
    }
}

impl NamespaceMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        let metrics = Self {
            publications_in_total: counters(r, names::NAMESPACE_PUBLICATIONS_IN_TOTAL),
            publications_refused_total: counters(r, names::NAMESPACE_PUBLICATIONS_REFUSED_TOTAL),
            bytes_in_total: counters(r, names::NAMESPACE_BYTES_IN_TOTAL),
            deliveries_out_total: counters(r, names::NAMESPACE_DELIVERIES_OUT_TOTAL),
            bytes_out_total: counters(r, names::NAMESPACE_BYTES_OUT_TOTAL),
            subscriptions: gauges(r, names::NAMESPACE_SUBSCRIPTIONS),
            channels: gauges(r, names::NAMESPACE_CHANNELS),
            recoveries_total: counters(r, names::NAMESPACE_RECOVERIES_TOTAL),
            refusals_total: counters(r, names::NAMESPACE_REFUSALS_TOTAL),
            history_reads_total: counters(r, names::NAMESPACE_HISTORY_READS_TOTAL),
            labels: Mutex::new([DEFAULT_LABEL, UNKNOWN_LABEL, OTHERS_LABEL].map(Box::from).into()),
            of: (0..NAMESPACES_MAX).map(|_| OnceLock::new()).collect(),
        };
        metrics.of(NamespaceId::DEFAULT);
        metrics
    }

    /// Assigns numbers for counting to the namespaces of these rules. A namespace keeps its number from one
    /// configuration to the next. All of them are shown from now on.
    pub(crate) fn number(&self, rules: ChannelRules) -> ChannelRules {
        rules.with_namespace_ids(|name| {
            let id = self.id_of(name);
            self.of(id);
            id
        })
    }

    fn id_of(&self, name: &str) -> NamespaceId {
        let mut labels = self.labels.lock();
        let known = labels.iter().skip(usize::from(OTHERS.0) + 1).position(|label| **label == *name);
        let at = match known {
            Some(at) => at + usize::from(OTHERS.0) + 1,
            None if labels.len() < NAMESPACES_MAX => {
                labels.push(name.into());
                labels.len() - 1
            }
            None => return OTHERS,
        };
        u8::try_from(at).map_or(OTHERS, NamespaceId)
    }

    /// Returns the metrics of a namespace by its number.
    pub(crate) fn of(&self, id: NamespaceId) -> &NamespaceCounters {
        self.of[usize::from(id.0)].get_or_init(|| self.make(id))
    }

    #[cold]
    fn make(&self, id: NamespaceId) -> NamespaceCounters {
        let label = self.labels.lock().get(usize::from(id.0)).cloned();
        let label = label.unwrap_or_else(|| OTHERS_LABEL.into());
        let of = [&*label];
        NamespaceCounters {
            publications_in_total: PublicationSource::ALL
                .map(|source| self.publications_in_total.with_label_values(&[&label, source.label()])),
            bytes_in_total: self.bytes_in_total.with_label_values(&of),
            deliveries_out_total: self.deliveries_out_total.with_label_values(&of),
            bytes_out_total: self.bytes_out_total.with_label_values(&of),
            subscriptions: self.subscriptions.with_label_values(&of),
            channels: self.channels.with_label_values(&of),
            recoveries_total: ["unrecovered", "recovered"]
                .map(|result| self.recoveries_total.with_label_values(&[&label, result])),
            history_reads_total: self.history_reads_total.with_label_values(&of),
            label,
        }
    }

    /// Counts a command about a channel that was answered with an error.
    pub(super) fn refused(&self, id: NamespaceId, error: &str) {
        self.refusals_total.with_label_values(&[&self.of(id).label, error]).inc();
    }

    /// Counts a publication that the broker refused.
    pub(super) fn publication_refused(&self, id: NamespaceId, reason: &str) {
        self.publications_refused_total.with_label_values(&[&self.of(id).label, reason]).inc();
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::channel_names::ChannelNames;
    use gateway_core::channel_rules::ChannelOptions;

    use super::*;
    use crate::telemetry::Metrics;

    fn rules(names: &[&str]) -> ChannelRules {
        let namespaces = names.iter().map(|name| ((*name).into(), ChannelOptions::default()));
        ChannelRules::new(ChannelOptions::default(), namespaces, ChannelNames::default(), false)
    }

    #[test]
    fn a_namespace_keeps_its_number_over_reloads_and_those_beyond_the_bound_share_one() {
        let metrics = Metrics::new();
        let first = metrics.namespaces.number(rules(&["b", "c"]));
        let id = |rules: &ChannelRules, name: &str| rules.namespace_id(name);
        let again = metrics.namespaces.number(rules(&["a", "b"]));
        assert_eq!(id(&first, "b:1"), id(&again, "b:1"));
        assert_ne!(
            id(&first, "c:1"),
            id(&again, "a:1"),
            "a number is not another's after its namespace is gone"
        );
        assert_eq!(id(&again, "1"), NamespaceId::DEFAULT);
        assert_eq!(id(&again, "c:1"), NamespaceId::UNKNOWN);

        let names: Vec<String> = (0..NAMESPACES_MAX).map(|at| format!("n{at:03}")).collect();
        let many = metrics.namespaces.number(rules(&names.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!(id(&many, "n255:1"), OTHERS);
        metrics.namespaces.of(id(&many, "n255:1")).deliveries_out_total.inc_by(2);
        metrics.namespaces.of(id(&many, "n000:1")).deliveries_out_total.inc_by(3);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for line in [
            "tidegate_namespace_deliveries_out_total{namespace=\"(others)\"} 2",
            "tidegate_namespace_deliveries_out_total{namespace=\"n000\"} 3",
            "tidegate_namespace_deliveries_out_total{namespace=\"(default)\"} 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in:\n{text}");
        }
        let shown = text.lines().filter(|line| line.starts_with("tidegate_namespace_subscriptions{")).count();
        assert_eq!(shown, NAMESPACES_MAX - 1, "all but the unknown one, which nobody has asked for");
    }
}
