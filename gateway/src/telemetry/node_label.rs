//! Adds the name of the node to every metric, if that is configured.

use std::sync::OnceLock;

use prometheus::proto::{LabelPair, MetricFamily};

/// A label for all metrics, or none.
#[derive(Debug, Default)]
pub(super) struct NodeLabel(OnceLock<LabelPair>);

impl NodeLabel {
    /// Sets the label. Later calls have no effect.
    pub(super) fn set(&self, name: &str) {
        let mut label = LabelPair::default();
        label.set_name("node".to_owned());
        label.set_value(name.to_owned());
        let _ = self.0.set(label);
    }

    pub(super) fn add_to(&self, families: &mut [MetricFamily]) {
        let Some(node) = self.0.get() else { return };
        for metric in families.iter_mut().flat_map(MetricFamily::mut_metric) {
            let mut labels = metric.take_label();
            labels.push(node.clone());
            metric.set_label(labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::namespace_id::NamespaceId;

    use crate::telemetry::labels::PublicationSource;
    use crate::telemetry::{Metrics, TelemetryConfig};

    #[test]
    fn every_metric_says_which_node_it_is_of_if_that_is_wanted() {
        let metrics = Metrics::new();
        let config = TelemetryConfig { node_label: true, ..TelemetryConfig::default() };
        metrics.place_node("edge \"1\"", &config, 3);
        metrics.publication_in(NamespaceId::DEFAULT, PublicationSource::Api);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        let of_node = r#"node="edge \"1\"""#;
        let shown: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(shown.len() > 100 && shown.iter().all(|line| line.contains(of_node)), "{text}");
        let one = format!("tidegate_publications_in_total{{source=\"api\",{of_node}}} 1");
        assert!(shown.contains(&&*one), "{text}");
    }
}
