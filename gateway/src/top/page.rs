//! One page: a line for each node, then stages, closes and channels, each no wider than the terminal.

use std::collections::BTreeMap;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::busiest_channels::Channels;
use super::figures::{Buckets, add, least, quantile, sum};
use super::namespace_table;
use super::read_nodes::WatchedNode;
use crate::telemetry::labels::Stage;

/// The most reasons of closes and drops that are shown.
const REASONS_MAX: usize = 6;
/// Shown where there is no value yet.
pub(super) const NONE: &str = "-";

pub(super) struct Page<'a> {
    pub(super) nodes: &'a [WatchedNode],
    pub(super) channels: Option<&'a Channels>,
}

/// A column of the table of nodes, and its content.
struct NodeColumn {
    title: &'static str,
    width: usize,
    of: fn(&WatchedNode) -> String,
}

/// The columns by importance: a narrow terminal shows only the first ones.
const COLUMNS: [NodeColumn; 13] = [
    NodeColumn { title: "conns", width: 7, of: |node| gauge(node, "tidegate_connections") },
    NodeColumn { title: "subs", width: 7, of: |node| gauge(node, "tidegate_subscriptions") },
    NodeColumn { title: "in/s", width: 7, of: |node| rate(node, "tidegate_publications_in_total") },
    NodeColumn { title: "out/s", width: 7, of: |node| rate(node, "tidegate_deliveries_out_total") },
    NodeColumn { title: "p50", width: 7, of: |node| latency(node, 0.5) },
    NodeColumn { title: "p99", width: 7, of: |node| latency(node, 0.99) },
    NodeColumn { title: "drops/s", width: 8, of: |node| rate(node, "tidegate_drops_total") },
    NodeColumn { title: "broker", width: 7, of: broker },
    NodeColumn { title: "bytes/s", width: 8, of: |node| byte_rate(node, "tidegate_bytes_out_total") },
    NodeColumn { title: "read/s", width: 7, of: |node| byte_rate(node, "tidegate_bytes_in_total") },
    NodeColumn { title: "outbox", width: 7, of: |node| bytes_of(node, "tidegate_outbox_bytes") },
    NodeColumn { title: "cpu", width: 5, of: |node| share(node, "tidegate_process_cpu_seconds_total") },
    NodeColumn {
        title: "memory",
        width: 7,
        of: |node| bytes_of(node, "tidegate_process_resident_memory_bytes"),
    },
];

const STATE_WIDTH: usize = 9;

impl Page<'_> {
    pub(super) fn lines(&self, width: usize) -> Vec<String> {
        let mut lines = Vec::new();
        self.nodes_table(width, &mut lines);
        self.not_read(&mut lines);
        lines.push(String::new());
        self.stages(&mut lines);
        lines.push(String::new());
        lines.push(self.reasons("closes/s", "tidegate_closes_total", "reason"));
        lines.push(self.reasons("drops/s", "tidegate_drops_total", "reason"));
        namespace_table::write(self.nodes, &mut lines);
        if let Some(channels) = self.channels {
            lines.push(String::new());
            busiest(channels, &mut lines);
        }
        lines.into_iter().map(|line| fitted(&line, width)).collect()
    }

    fn nodes_table(&self, width: usize, lines: &mut Vec<String>) {
        let longest = self.nodes.iter().map(|node| plain(&node.name).width()).max().unwrap_or(0);
        let name_width = longest.clamp(4, (width / 4).max(4));
        let mut left = width.saturating_sub(name_width + 1 + STATE_WIDTH);
        let columns: Vec<&NodeColumn> = COLUMNS
            .iter()
            .take_while(|column| {
                let fits = column.width < left;
                left = left.saturating_sub(column.width + 1);
                fits
            })
            .collect();
        let row = |name: &str, state: &str, cells: &mut dyn Iterator<Item = (usize, String)>| {
            let mut row = format!("{} {state:<STATE_WIDTH$}", padded(name, name_width));
            cells.for_each(|(width, cell)| row.push_str(&format!(" {cell:>width$}")));
            row
        };
        let mut titles = columns.iter().map(|column| (column.width, column.title.to_owned()));
        lines.push(row("node", "state", &mut titles));
        for node in self.nodes {
            if let Some((since, problem)) = &node.gone {
                let seconds = since.elapsed().as_secs();
                lines.push(row(
                    &node.name,
                    "gone",
                    &mut [(0, format!("for {seconds} s: {problem}"))].into_iter(),
                ));
                continue;
            }
            let mut cells = columns.iter().map(|column| (column.width, (column.of)(node)));
            lines.push(row(&node.name, state(node), &mut cells));
        }
    }

    /// Mentions nodes of the cluster that are not watched.
    fn not_read(&self, lines: &mut Vec<String>) {
        let Some(channels) = self.channels else { return };
        let more = channels.cluster.len().saturating_sub(self.nodes.len());
        if more > 0 {
            let clients: u64 = channels.cluster.iter().map(|(_, clients)| clients).sum();
            let names: Vec<&str> = channels.cluster.iter().map(|(name, _)| &**name).collect();
            lines.push(format!(
                "the cluster has {} nodes with {clients} clients; name the other nodes with --node: {}",
                channels.cluster.len(),
                names.join(", ")
            ));
        }
    }

    fn stages(&self, lines: &mut Vec<String>) {
        lines.push(format!("{:<16} {:>8} {:>8} {:>8} {:>9}", "stage", "p50", "p90", "p99", "measured"));
        let stages = Stage::ALL.map(|stage| (stage.label(), "tidegate_stage_seconds", Some(stage.label())));
        for (title, name, stage) in
            stages.into_iter().chain([("all, to socket", "tidegate_delivery_seconds", None)])
        {
            let latencies = self.latencies(name, stage);
            let at = |share| quantile(&latencies, share).map_or(NONE.to_owned(), seconds);
            let count: u64 = latencies.values().sum();
            lines.push(format!("{title:<16} {:>8} {:>8} {:>8} {count:>9}", at(0.5), at(0.9), at(0.99)));
        }
    }

    /// Returns the latencies of all nodes.
    fn latencies(&self, name: &str, stage: Option<&str>) -> Buckets {
        let mut all = Buckets::new();
        self.nodes.iter().for_each(|node| add(&mut all, &node.latencies(name, stage)));
        all
    }

    /// Returns the most frequent reasons of all nodes.
    fn reasons(&self, title: &str, name: &str, by: &str) -> String {
        let mut rates: BTreeMap<String, f64> = BTreeMap::new();
        for (reason, rate) in self.nodes.iter().flat_map(|node| node.rates(name, by)) {
            *rates.entry(reason).or_default() += rate;
        }
        let mut rates: Vec<(String, f64)> = rates.into_iter().collect();
        rates.sort_by(|a, b| b.1.total_cmp(&a.1));
        rates.truncate(REASONS_MAX);
        let each = rates.iter().map(|(reason, rate)| format!("{reason} {}", number(*rate)));
        let each: Vec<String> = each.collect();
        format!("{title:<9} {}", if each.is_empty() { NONE.to_owned() } else { each.join(" · ") })
    }
}

fn busiest(channels: &Channels, lines: &mut Vec<String>) {
    if let Some(problem) = &channels.problem {
        return lines.push(format!("channels: {problem}"));
    }
    lines.push(format!("{:>8} {:>8} {:>8}  channel", "clients", "in/s", "out/s"));
    for channel in &channels.busiest {
        let rate = |times: f64| channel.rate.map_or(NONE.to_owned(), |rate| number(rate * times));
        let (clients, name) = (number(channel.clients as f64), plain(&channel.name));
        lines.push(format!("{clients:>8} {:>8} {:>8}  {name}", rate(1.0), rate(channel.clients as f64)));
    }
}

fn state(node: &WatchedNode) -> &'static str {
    match node.last() {
        None => "waiting",
        Some(last) if sum(last, "tidegate_ready") > 0.0 => "ready",
        Some(_) => "not ready",
    }
}

fn gauge(node: &WatchedNode, name: &str) -> String {
    node.last().map_or(NONE.to_owned(), |last| number(sum(last, name)))
}

fn bytes_of(node: &WatchedNode, name: &str) -> String {
    node.last().map_or(NONE.to_owned(), |last| bytes(sum(last, name)))
}

fn rate(node: &WatchedNode, name: &str) -> String {
    node.rate(name).map_or(NONE.to_owned(), number)
}

fn byte_rate(node: &WatchedNode, name: &str) -> String {
    node.rate(name).map_or(NONE.to_owned(), bytes)
}

fn share(node: &WatchedNode, name: &str) -> String {
    node.rate(name).map_or(NONE.to_owned(), |rate| format!("{:.0}%", rate * 100.0))
}

fn latency(node: &WatchedNode, share: f64) -> String {
    quantile(&node.latencies("tidegate_delivery_seconds", None), share).map_or(NONE.to_owned(), seconds)
}

/// Whether the broker is connected, and whether calls to it fail. A memory broker has no connection.
fn broker(node: &WatchedNode) -> String {
    let Some(last) = node.last() else { return NONE.to_owned() };
    let failing = node.rate("tidegate_broker_errors_total").is_some_and(|rate| rate > 0.0);
    match least(last, "tidegate_broker_link_up") {
        None => "memory",
        Some(up) if up < 1.0 => "down",
        Some(_) if failing => "failing",
        Some(_) => "up",
    }
    .to_owned()
}

/// Formats a number in at most five characters.
pub(super) fn number(value: f64) -> String {
    scaled(value, 1_000.0, &["", "k", "M", "G", "T"])
}

pub(super) fn bytes(value: f64) -> String {
    scaled(value, 1_024.0, &["B", "K", "M", "G", "T"])
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        (value, unit) = (value / step, unit + 1);
    }
    let digits = if value >= 10.0 || value.fract() == 0.0 { 0 } else { 1 };
    format!("{value:.digits$}{}", units[unit])
}

fn seconds(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if value < 0.001 => format!("{:.0}us", value * 1e6),
        value if value < 0.01 => format!("{:.1}ms", value * 1e3),
        value if value < 1.0 => format!("{:.0}ms", value * 1e3),
        value => format!("{value:.1}s"),
    }
}

/// Replaces control characters and changes of direction. Names come from outside, and must not move the cursor or turn
/// a line around.
fn plain(text: &str) -> String {
    let turns = |character| matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|one| if one.is_control() || turns(one) { '?' } else { one }).collect()
}

/// Cuts a line to this many columns: some characters take two of them, and some none.
fn fitted(line: &str, width: usize) -> String {
    let mut left = width;
    let fits = |character: &char| {
        let columns = character.width().unwrap_or(0);
        let fits = columns <= left;
        left = left.saturating_sub(columns);
        fits
    };
    plain(line).chars().take_while(fits).collect()
}

/// Cuts a text to this many columns, or fills it up with spaces.
pub(super) fn padded(text: &str, width: usize) -> String {
    let mut text = fitted(text, width);
    text.extend(std::iter::repeat_n(' ', width.saturating_sub(text.width())));
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::busiest_channels::Channel;
    use super::super::figures::tests::node;
    use super::*;
    use crate::telemetry::labels::Drop;

    fn lines(nodes: &[WatchedNode], width: usize) -> Vec<String> {
        Page { nodes, channels: None }.lines(width)
    }

    #[test]
    fn a_page_says_what_came_between_two_readings() {
        let nodes = [node("edge-1", |metrics| {
            metrics.stages.observe(Stage::Socket, 2_000, None);
            metrics.dropped(Drop::OutboxFull, 8);
            metrics.subscriptions.set(12_345);
            metrics.disconnected(shared::protocol::ProtocolId::RAW, "slow", Duration::from_secs(1));
        })];
        let lines = lines(&nodes, 200);
        let text = lines.join("\n");
        assert!(lines[0].starts_with("node   state       conns    subs"), "{text}");
        let of_node: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(of_node[..5], ["edge-1", "not", "ready", "-1", "12k"], "{text}");
        let socket = lines.iter().find(|line| line.starts_with("socket ")).unwrap();
        assert!(socket.contains(" 2.1ms "), "{socket}");
        assert!(text.contains("closes/s  slow 0.5"), "{text}");
        assert!(text.contains("drops/s   outbox_full 4"), "{text}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_the_first_columns_stay() {
        let nodes = [node("a-node-with-a-very-long-name-indeed", |_| {}), node("b", |_| {})];
        for width in [10, 40, 60, 80, 120, 200] {
            let lines = lines(&nodes, width);
            assert!(lines.iter().all(|line| line.width() <= width), "{width}: {lines:?}");
        }
        assert!(lines(&nodes, 60)[0].contains("conns") && !lines(&nodes, 60)[0].contains("memory"));
        assert!(lines(&nodes, 200)[0].contains("memory"));
    }

    #[test]
    fn characters_that_take_two_columns_keep_the_columns_behind_them_in_line() {
        let nodes = [node("東京-edge", |_| {}), node("a", |_| {})];
        let lines = lines(&nodes, 80);
        let columns = |line: &str| line.find("not ready").map(|at| line[..at].width());
        assert_eq!(columns(&lines[1]), columns(&lines[2]), "{lines:?}");
        assert_eq!(fitted("東京", 3), "東", "half a character is none");
        assert_eq!(fitted("e\u{301}a", 1), "e\u{301}", "an accent takes no column of its own");
        assert_eq!(padded("東", 4), "東  ");
        assert_eq!(plain("a\u{202e}b\u{1b}"), "a?b?");
    }

    #[test]
    fn a_node_that_is_gone_says_for_how_long_and_why_and_counts_for_nothing() {
        let mut gone = node("a", |metrics| metrics.dropped(Drop::OutboxFull, 8));
        gone.gone = Some((Instant::now(), "connection refused".to_owned()));
        let lines = lines(&[gone], 80);
        assert!(lines[1].starts_with("a    gone      for 0 s: connection refused"), "{}", lines[1]);
        assert!(lines.contains(&"drops/s   -".to_owned()), "{lines:?}");
    }

    #[test]
    fn channels_are_shown_with_what_is_known_of_them_and_names_do_nothing_to_the_terminal() {
        let mut channels = Channels::new("http://127.0.0.1:8000", Ok(None), 2);
        channels.busiest = vec![
            Channel { name: "news".into(), clients: 1_500, rate: Some(2.0) },
            Channel { name: "x\u{1b}[2J".into(), clients: 3, rate: None },
        ];
        channels.cluster = vec![("a".into(), 1), ("b".into(), 2)];
        let nodes = [node("a", |_| {})];
        let lines = Page { nodes: &nodes, channels: Some(&channels) }.lines(100);
        let end: Vec<&str> = lines[lines.len() - 2..].iter().map(|line| line.trim()).collect();
        assert_eq!(end, ["1.5k        2       3k  news", "3        -        -  x?[2J"]);
        assert!(
            lines.iter().any(|line| line.starts_with("the cluster has 2 nodes with 3 clients")),
            "{lines:?}"
        );
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.5, "0.5"),
            (12.0, "12"),
            (999.0, "999"),
            (1_500.0, "1.5k"),
            (25_000_000.0, "25M"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!([bytes(0.0), bytes(1_536.0)], ["0B", "1.5K"]);
        assert_eq!(
            [seconds(0.0), seconds(0.000_25), seconds(0.002_5), seconds(0.25)],
            ["0", "250us", "2.5ms", "250ms"]
        );
    }
}
