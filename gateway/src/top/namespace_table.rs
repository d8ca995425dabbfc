//! The table of namespaces, over all nodes that are read.

use std::collections::BTreeMap;

use super::figures::by_label;
use super::page::{NONE, bytes, number, padded};
use super::read_nodes::WatchedNode;

/// The most namespaces that are shown, the busiest first.
const NAMESPACES_MAX: usize = 8;
const LABEL: &str = "namespace";
const NAME_WIDTH: usize = 20;

#[derive(Clone, Copy, Debug, Default)]
struct NamespaceFigures {
    subscriptions: f64,
    channels: f64,
    in_per_s: f64,
    out_per_s: f64,
    bytes_per_s: f64,
    refused_per_s: f64,
}

impl NamespaceFigures {
    fn is_quiet(&self) -> bool {
        self.subscriptions + self.channels + self.in_per_s + self.out_per_s + self.refused_per_s == 0.0
    }
}

/// Writes the table, unless only the default namespace is in use.
pub(super) fn write(nodes: &[WatchedNode], lines: &mut Vec<String>) {
    let mut all: Vec<(String, NamespaceFigures)> =
        read(nodes).into_iter().filter(|(_, figures)| !figures.is_quiet()).collect();
    if all.is_empty() || all.len() == 1 && all[0].0.starts_with('(') {
        return;
    }
    let by = |figures: &NamespaceFigures| (figures.out_per_s, figures.in_per_s, figures.subscriptions);
    all.sort_by(|(_, one), (_, other)| by(other).partial_cmp(&by(one)).unwrap_or(std::cmp::Ordering::Equal));
    lines.push(String::new());
    let row = |name: &str, cells: [String; 6]| {
        let cells = cells.map(|cell| format!(" {cell:>8}")).concat();
        format!("{}{cells}", padded(name, NAME_WIDTH))
    };
    let titles = ["subs", "channels", "in/s", "out/s", "bytes/s", "refused/s"];
    lines.push(row("namespace", titles.map(str::to_owned)));
    let has_rates = nodes.iter().any(|node| node.gone.is_none() && node.readings.len() > 1);
    let rate = |text: String| if has_rates { text } else { NONE.to_owned() };
    for (name, figures) in all.iter().take(NAMESPACES_MAX) {
        let cells = [
            number(figures.subscriptions),
            number(figures.channels),
            rate(number(figures.in_per_s)),
            rate(number(figures.out_per_s)),
            rate(bytes(figures.bytes_per_s)),
            rate(number(figures.refused_per_s)),
        ];
        lines.push(row(name, cells));
    }
    if let Some(more) = all.len().checked_sub(NAMESPACES_MAX).filter(|more| *more > 0) {
        lines.push(format!("and {more} more namespaces"));
    }
}

fn read(nodes: &[WatchedNode]) -> BTreeMap<String, NamespaceFigures> {
    let mut all: BTreeMap<String, NamespaceFigures> = BTreeMap::new();
    for node in nodes {
        let Some(last) = node.last() else { continue };
        for (name, value) in by_label(last, "tidegate_namespace_subscriptions", LABEL) {
            all.entry(name.to_owned()).or_default().subscriptions += value;
        }
        for (name, value) in by_label(last, "tidegate_namespace_channels", LABEL) {
            all.entry(name.to_owned()).or_default().channels += value;
        }
        let mut add = |metric: &str, part: fn(&mut NamespaceFigures) -> &mut f64| {
            for (name, rate) in node.rates(metric, LABEL) {
                *part(all.entry(name).or_default()) += rate;
            }
        };
        add("tidegate_namespace_publications_in_total", |figures| &mut figures.in_per_s);
        add("tidegate_namespace_deliveries_out_total", |figures| &mut figures.out_per_s);
        add("tidegate_namespace_bytes_out_total", |figures| &mut figures.bytes_per_s);
        add("tidegate_namespace_refusals_total", |figures| &mut figures.refused_per_s);
        add("tidegate_namespace_publications_refused_total", |figures| &mut figures.refused_per_s);
    }
    all
}

#[cfg(test)]
mod tests {
    use gateway_core::channel_names::ChannelNames;
    use gateway_core::channel_rules::{ChannelOptions, ChannelRules};

    use super::super::figures::tests::node;
    use super::*;
    use crate::telemetry::labels::PublicationSource;

    #[test]
    fn namespaces_are_shown_by_what_goes_on_in_them_over_all_nodes_and_not_without_any() {
        let watched = |name: &str, deliveries: u64| {
            node(name, move |metrics| {
                let namespaces = ["chat", "quiet"].map(|name| (name.into(), ChannelOptions::default()));
                let rules =
                    ChannelRules::new(ChannelOptions::default(), namespaces, ChannelNames::default(), false);
                let rules = metrics.namespaces.number(rules);
                let chat = metrics.namespaces.of(rules.namespace_id("chat:1"));
                chat.subscriptions.set(3);
                chat.deliveries_out_total.inc_by(deliveries);
                chat.bytes_out_total.inc_by(4_096);
                metrics.publication_in(rules.namespace_id("chat:1"), PublicationSource::Api);
                // The broker delivers the same publication to each node.
                metrics.publication_in(rules.namespace_id("chat:1"), PublicationSource::Node);
                metrics.namespaces.of(rules.namespace_id("plain")).subscriptions.set(1);
            })
        };
        let mut lines = Vec::new();
        write(&[watched("a", 20), watched("b", 10)], &mut lines);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&lines[1])[..3], ["namespace", "subs", "channels"]);
        assert_eq!(words(&lines[2]), ["chat", "6", "0", "1", "15", "4K", "0"], "{lines:?}");
        assert_eq!(words(&lines[3])[..2], ["(default)", "2"], "{lines:?}");
        assert_eq!(lines.len(), 4, "who is quiet is not shown: {lines:?}");
        lines.clear();
        write(&[node("a", |_| {})], &mut lines);
        assert!(lines.is_empty(), "{lines:?}");
    }
}
